"""A plan on one screen: what an owner needs to know before saying yes.

Guarantees: plain words first; every figure is computed here from the plan's integers and the owner's own ledger; mode
``none`` says "no differential privacy" where an epsilon would stand; the same page as lines and as HTML.
Leaves to others: the rules (``rules``), what it costs (``cost``), sentences that state a guarantee or its absence
(``privacy.claims``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import methods
from host.rendering import broken, moment
from participant.owner.approval import Judged
from participant.owner.cost import best_order, divergence_of, left_of, lifetime_budget
from participant.owner.plan_store import Decision, Ended, Rehearsal
from participant.owner.policy import Population
from participant.owner.rules import SHOWN_ID, Cost, Outcome, Rule, mismatched_pins, unpinned_members
from privacy.claims import (
    BUDGET_REACH,
    CHARGING,
    INVENTED,
    NO_NOISE,
    NO_PRIVACY,
    departing_sentence,
    epsilon_sentence,
    epsilons_sentence,
    exchanged_sentence,
    figure_sentences,
    graph_words,
    lifetime_sentence,
    limits,
    run_in_lifetime_sentence,
    suite_words,
    trust_sentences,
    two_units_sentence,
)
from privacy.dp.events import format_epsilon_up
from privacy.measurement import measurement_words
from privacy.notice import HEADING, notice_sentences
from privacy.plan import Plan, VerifiedPlan
from privacy.plan_parts import Privacy
from privacy.task_parts import task_words

if TYPE_CHECKING:
    from privacy.dp.accountants import TrustEpsilons

WORTH_ANOTHER_ORDER = 0.05  # share of the lifetime figure that another order must save to be mentioned
_SIGNS = {
    Outcome.MET: "met",
    Outcome.NEEDS_APPROVAL: "person",
    Outcome.BROKEN: "BROKEN",
    Outcome.OVERRULED: "OVERRULED",
}


@dataclass(frozen=True, slots=True)
class Page:
    """A title with what names the plan exactly, headed paragraphs, and in HTML a figure that stands out."""

    title: str
    origin: str
    sections: tuple[tuple[str, tuple[str, ...]], ...]
    key_figure: str = ""
    summary: str = ""  # under the figure
    warns: bool = False

    def lines(self) -> list[str]:
        """Return the page for a terminal, a line per sentence; printing breaks them.

        A purpose may have line breaks and words of any length, and no line of it may pass for one of the page.
        """
        lines = [broken(self.title), self.origin, ""]
        for heading, sentences in self.sections:
            lines += [heading.upper(), *(f"  {broken(sentence)}" for sentence in sentences)]
        return lines

    def html(self) -> str:
        """Return one self-contained page in the layout of reports: no script, no request to anywhere."""
        from audit import html, page

        blocks = [
            block
            for heading, sentences in self.sections
            for block in (
                page.Heading(heading, 2),
                page.Bullets(tuple((page.Span(sentence),) for sentence in sentences)),
            )
        ]
        sheet = page.Page(
            title=self.title,
            origin=self.origin,
            made_at=0,
            purpose="",
            key_figure=self.key_figure,
            summary=((page.Span(self.summary),),) if self.summary else (),
            warns=self.warns,
            blocks=tuple(blocks),
        )
        return html.render_page(sheet)


def plan_page(
    judged: Judged,
    me: str,
    decision: Decision | None,
    ended: Ended | None = None,
    rehearsal: Rehearsal | None = None,
) -> Page:
    """Return what an owner is shown about a plan, what a round takes here, and how its run ended if it has."""
    plan, cost = judged.verified.plan, judged.cost
    return Page(
        plan.recipe.title,
        f"run {plan.run_id}, plan hash {judged.verified.hash.hex()}",
        (
            ("What happens here", (*_here(judged), _takes(judged, rehearsal))),
            ("What leaves this machine", (departing_sentence(plan),)),
            ("With whom", tuple(_whom(judged, me))),
            (HEADING, notice_sentences(plan)),
            ("What it costs", tuple(_cost(judged))),
            ("Whom you trust", trust_sentences(plan)),
            ("What is not protected", limits(plan)),
            ("Your policy", tuple(f"[{_SIGNS[rule.outcome]}] {rule.name}: {rule.says}" for rule in _sorted(judged))),
            ("Decision", (*_decided(judged, decision), *_ended(ended))),
        ),
        key_figure=f"epsilon {format_epsilon_up(cost.charged)}" if cost else "" if plan.privacy.noised else NO_PRIVACY,
        summary=f"at delta {plan.privacy.delta}, per {plan.privacy.unit}, for all {plan.recipe.rounds} rounds."
        if cost
        else "",
        warns=cost is None or bool(judged.assessment.broken),
    )


def draft_lines(plan: Plan) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the part of the page that needs no owner: what a plan is, for whoever reads the file."""
    return (
        ("What leaves each machine", (departing_sentence(plan),)),
        (HEADING, notice_sentences(plan)),
        ("What it costs", tuple(_run_alone(plan))),
        ("Whom participants trust", trust_sentences(plan)),
        ("What is not protected", limits(plan)),
    )


def _sorted(judged: Judged) -> list[Rule]:
    order = {Outcome.BROKEN: 0, Outcome.OVERRULED: 1, Outcome.NEEDS_APPROVAL: 2, Outcome.MET: 3}
    return sorted(judged.assessment.rules, key=lambda rule: order[rule.outcome])


def _here(judged: Judged) -> Iterator[str]:
    recipe, privacy = judged.verified.plan.recipe, judged.verified.plan.privacy
    yield f"Purpose: {recipe.purpose}"
    data, model = judged.dataset, judged.model
    by_user = privacy.unit == "user"
    users = f" of {data.users} users" if data and by_user else ""
    rows = f"dataset {data.name} ({data.rows} rows{users})" if data else f"a dataset {recipe.task.data}, not here"
    each = f"user (at most {privacy.max_rows_per_user} of a user's rows)" if by_user else "row"
    where = f"registered as {model.name}" if model else "not registered here"
    if recipe.measured is not None:
        yield from measurement_words(recipe)
        with_adapter = f"with an adapter of method {recipe.adapter.method}" if recipe.measured.reads_answers else ""
        yield (
            f"Your daemon reads {rows} once, each {each} with probability {privacy.sampling_rate}, "
            f"for {recipe.base.name} ({where}) {with_adapter}".rstrip()
            + "."
        )
        yield f"The model answers {task_words(recipe.task)}."
        yield "No code comes with a plan. A self-check on synthetic rows runs before the approval is sent."
        return
    yield f"Method {recipe.adapter.method} trains {recipe.entries:,} numbers on top of {recipe.base.name} ({where})."
    if kept := methods.get(recipe.adapter.method).kept(recipe):
        yield (
            f"Beside them {kept:,} numbers stay on this machine from round to round and are sent to nobody; they are "
            "as private as the data, and a backup has them."
        )
    yield (
        f"In each of {recipe.rounds} rounds your daemon reads {rows} and takes {privacy.local_steps} "
        f"step{'s' if privacy.local_steps > 1 else ''}, sampling each {each} with probability {privacy.sampling_rate}"
        f"{_turns(privacy)}."
    )
    yield f"The model learns {task_words(recipe.task)}."
    yield "No code comes with a plan. A self-check on synthetic rows runs before the approval is sent."


def _turns(privacy: Privacy) -> str:
    """Say when a row has its turn, where noise is correlated over rounds."""
    bins = len(privacy.bands)
    return f" on average: in one round out of {bins}, when its turn comes, with {privacy.bin_rate}" if bins > 1 else ""


def _takes(judged: Judged, rehearsal: Rehearsal | None) -> str:
    """Say what a round takes on this machine."""
    if rehearsal is None:
        command = f"onlysum participant plan dry-run {judged.verified.plan.run_id[:8]}"
        return f"How long a round takes here, and how much memory, is not known yet: `{command}` rehearses one."
    return (
        f"On this machine ({rehearsal.device}) a round's training takes up to {rehearsal.seconds:,} s, and the daemon "
        f"{rehearsal.mib:,} MiB of memory meanwhile, as a rehearsal on synthetic rows showed on "
        f"{moment(rehearsal.at)} UTC."
    )


def _whom(judged: Judged, me: str) -> Iterator[str]:
    plan = judged.verified.plan
    changed = mismatched_pins(plan, judged.policy)
    notes = dict.fromkeys(unpinned_members(plan, judged.policy, me), " (not pinned)") | dict.fromkeys(
        changed, " (ANOTHER KEY)"
    )
    peers = [member.id + notes.get(member.id, "") for member in plan.roster if member.id != me]
    yield f"Operator: {plan.operator}, federation {plan.federation}. Participants: you, {', '.join(peers)}."
    yield f"Masks: graph {graph_words(plan)}; suite {suite_words(plan)}."
    if changed:
        yield (
            f"roster: unverified. The identity key of {', '.join(changed)} is not the one that you pinned. Ask its "
            "owner by telephone what happened: somebody may be standing in for it."
        )
    elif notes:
        yield (
            "roster: unverified. Compare the fingerprints of who is not pinned by telephone "
            f"(`onlysum participant member list`) and write them into policy.toml. {INVENTED}"
        )
    else:
        yield "roster: verified."
    yield f"The plan can be approved and run until {moment(plan.expires_at)} UTC."


def _cost(judged: Judged) -> Iterator[str]:
    plan, cost = judged.verified.plan, judged.cost
    if not plan.privacy.noised:
        yield f"{NO_NOISE} Nothing is charged."
        return
    if cost is None or judged.population is None:
        yield "It cannot be computed: the policy has no section for this dataset."
        return
    privacy, population = plan.privacy, judged.policy.population[judged.population]
    yield (
        f"{epsilon_sentence(cost.charged, delta=privacy.delta, unit=privacy.unit)} It is charged to "
        f"{judged.population}. {CHARGING}"
    )
    yield _trusted(cost, plan)
    yield from _groups(plan)
    yield from figure_sentences(plan)
    yield from _lifetime(judged.verified, cost, population)


def _lifetime(verified: VerifiedPlan, cost: Cost, population: Population) -> Iterator[str]:
    """Say what the population will have spent, why that is more than the run alone, and if another order is better."""
    yield (
        f"Lifetime, at delta {population.lifetime_delta:g}: {format_epsilon_up(cost.lifetime_before)} of "
        f"{population.lifetime_epsilon:g} spent before, {format_epsilon_up(cost.lifetime_after)} afterwards, "
        f"{left_of(population.lifetime_epsilon, cost.lifetime_after)} left."
    )
    if cost.reserving:
        left = left_of(population.lifetime_epsilon, cost.lifetime_promised)
        yield (
            f"Reserved by approved runs ({', '.join(run_id[:SHOWN_ID] for run_id in cost.reserving)}): once they and "
            f"this run are charged, {format_epsilon_up(cost.lifetime_promised)} spent, {left} left."
        )
    budget = replace(lifetime_budget(population), order=cost.order)
    yield BUDGET_REACH
    yield lifetime_sentence(order=budget.order, fixed=budget.fixed)
    yield _why_this_order(cost, population)
    alone = divergence_of(verified, cost.order)
    yield run_in_lifetime_sentence(cost.charged, delta=verified.plan.privacy.delta, order=cost.order, divergence=alone)
    order, after = best_order(verified, population)
    if (
        cost.lifetime_before == 0
        and not cost.order_is_fixed
        and after < (1 - WORTH_ANOTHER_ORDER) * cost.lifetime_after
    ):
        yield (
            f"With order = {order} in the policy this run would count {format_epsilon_up(after)}. "
            "Choose an order before the "
            "first charge and by the runs that you expect, not by results that you have seen."
        )


def _why_this_order(cost: Cost, population: Population) -> str:
    if cost.order_is_fixed:
        return f"Order {cost.order} was fixed in the ledger by the first charge; a larger budget does not change it."
    chosen = "the policy names it" if population.order else "at it this budget allows most Gaussian releases"
    return f"Order {cost.order}, because {chosen}. The first charge fixes it in the ledger for good."


def _run_alone(plan: Plan) -> Iterator[str]:
    """Say what every owner is charged, computed from the plan's integers."""
    from privacy.dp.accountants import trust_epsilons  # SciPy is slow to import

    trusted, privacy = trust_epsilons(plan), plan.privacy
    if trusted is None:
        yield NO_NOISE
        return
    yield epsilon_sentence(trusted.charged, delta=privacy.delta, unit=privacy.unit)
    yield _trusted(trusted, plan)
    yield from _groups(plan)


def _trusted(cost: Cost | TrustEpsilons, plan: Plan) -> str:
    return epsilons_sentence(plan, outsiders=cost.outsiders, charged=cost.charged, all_others=cost.all_others)


def _groups(plan: Plan) -> Iterator[str]:
    from privacy.dp.accountants import epsilon, pair_epsilon, plan_delta  # SciPy is slow to import
    from privacy.dp.events import Composed, round_event

    event, unit = round_event(plan), plan.privacy.unit
    assert event is not None  # the caller asks about a plan with noise
    run, delta = Composed(event, plan.charges), plan_delta(plan)
    yield two_units_sentence(unit, pair_epsilon(plan, plan.charges))
    yield exchanged_sentence(unit, epsilon(run, delta, relation="replace-one"))


def _ended(ended: Ended | None) -> Iterator[str]:
    if ended is not None:
        yield f"The run ended on {moment(ended.at)} UTC, {ended.words}."


def _decided(judged: Judged, decision: Decision | None) -> Iterator[str]:
    short = judged.verified.plan.run_id[:8]
    if decision is not None:
        when = f"{moment(decision.at)} UTC"
        yield f"{decision.verdict} by {decision.who} ({decision.by}) on {when}. {decision.because}".rstrip()
        for rule in decision.overruled:
            yield f"{decision.who} overruled {rule.rule}: {rule.says}."
        return
    if judged.assessment.broken:
        yield from _who_may_overrule(judged, short)
        yield f"The policy refuses it. To tell the operator: onlysum participant plan refuse {short} --because TEXT"
        return
    approve, refuse = (f"`onlysum participant plan {verb} {short}" for verb in ("approve", "refuse"))
    yield f"It waits. To decide: {approve}`, or {refuse} --because TEXT`"


def _who_may_overrule(judged: Judged, short: str) -> Iterator[str]:
    """Say who can approve the plan nevertheless, if for every broken rule somebody can."""
    broken, may = judged.assessment.broken, judged.policy.approval.may_overrule
    if not all(rule.name in may for rule in broken):
        return
    who = "; ".join(f"{rule.name}: {', '.join(may[rule.name])}" for rule in broken)
    options = " ".join(f"--overrule {rule.name}" for rule in broken)
    command = f"`onlysum participant plan approve {short} {options} --as NAME --because TEXT`"
    yield f"May be overruled by ({who}): {command}"
