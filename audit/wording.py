"""What a report means in plain words, for a data-protection officer.

Guarantees: short sentences without formulas; mode ``none`` always reads "no differential privacy".
Leaves to others: sentences that state a guarantee or its absence (``privacy.claims``), layout (``html``), the terminal
(``cli``).
Source: docs/privacy-accounting.md section 9.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

from privacy.claims import (
    NO_NOISE,
    NO_PRIVACY,
    UNVERIFIED,
    adversaries,
    departing_sentence,
    difference_sentence,
    figure_sentences,
    graph_words,
    lifetime_sentence,
    limit_sentences,
    reliance_sentences,
    suite_words,
    sum_sentence,
)
from privacy.dp import rdp
from privacy.dp.events import format_epsilon_up
from privacy.measurement import measurement_words
from privacy.plan import Plan
from privacy.report_model import Claim, LedgerPart, Report

MEASURED: Final = "What was measured"
MEASURED_NOTE: Final = (
    "Computed here from the sum that the survivors signed for. The interval takes in the noise and, of a mean, that so "
    "many units stand for others like them; noise may take its ends beyond what is possible."
)
MAKERS_STATEMENT: Final = "The maker's statement, confirmed by no check"


NIST_TOPICS: Final = (
    ("privacy parameters, unit of privacy", ("What limits what the sum reveals", "The figures")),
    ("mechanism, sampling, clipping", ("How sampling, clipping and noise were executed",)),
    ("privacy accounting, composition", ("Spend by round", "The owner's ledger")),
    ("trust model", ("What we rely on", "The figures")),
    ("utility", ("What was measured", "Measurements on public data")),
    ("security, side channels, limits", ("What is not protected",)),
)
UNANSWERED: Final = "not answered by this report"


def nist_rows(sections: Collection[str]) -> list[tuple[str, str]]:
    """Return where the topics of the guideline are among the sections that this report has, by its mode and maker."""
    return [
        (topic, "; ".join(name for name in names if name in sections) or UNANSWERED) for topic, names in NIST_TOPICS
    ]


def what_this_does(report: Report) -> str:
    """Return what the run did, in a few sentences."""
    plan = report.plan
    if plan.recipe.measured is not None:
        return (
            f"{plan.n} organisations measured {plan.recipe.base.name} with an adapter on their own data, each on its "
            f"own machine. {' '.join(measurement_words(plan.recipe))} {departing_sentence(plan)} {sum_sentence(plan)}"
        )
    return (
        f"{plan.n} organisations fine-tuned {plan.recipe.base.name} together, each on its own machine. "
        f"{departing_sentence(plan)} {sum_sentence(plan)}"
    )


def what_limits_the_sum(report: Report) -> tuple[str, ...]:
    """Return what keeps the sums from revealing single units, in paragraphs."""
    stated, plan = report.privacy, report.plan
    if not isinstance(stated, Claim):
        return (f"Nothing. {NO_NOISE}",)
    if stated.charged_rounds == 0:
        return (_nothing_charged(report),)
    epsilon = float(stated.charged.epsilon)
    meaning = " ".join(limit_sentences(epsilon, delta=stated.delta, unit=stated.unit))
    return *_whose_rows(report, stated), meaning, difference_sentence(plan), *figure_sentences(plan)


def _nothing_charged(report: Report) -> str:
    completed = sum(entry.certificate is not None for entry in report.rounds)
    if not completed:
        return "No round has started, so nothing was released and nothing was charged."
    return (
        f"No row of {report.made_by.name} was used, and nothing was charged: it was in none of the {completed} "
        "completed rounds. Their sums are of other participants' rows, of which this report has no figure."
    )


def _whose_rows(report: Report, stated: Claim) -> tuple[str, ...]:
    """Return whose rows a participant's figures are about: its own, in the rounds that it was charged for."""
    if report.made_by.role != "participant":
        return ()
    charged = charges(report.plan, stated.charged_rounds)
    return (f"What follows is about the rows of {report.made_by.name}, which was charged for {charged}.",)


def charges(plan: Plan, count: int) -> str:
    """Return what so many charges of a plan are for: rounds, or with bands blocks of as many rounds."""
    each = f"block of {len(plan.privacy.bands)} rounds" if plan.privacy.banded else "round"
    return (
        f"1 {each}" if count == 1 else f"{count} {each.replace('block', 'blocks') if plan.privacy.banded else 'rounds'}"
    )


def charged(plan: Plan, count: int) -> str:
    """Return so many charges of a plan in words, as what a figure is for."""
    return f"{count} {charge_words(plan)}"


def charge_words(plan: Plan) -> str:
    """Return what charges of a plan are called where they are counted."""
    return f"charged blocks of {len(plan.privacy.bands)} rounds" if plan.privacy.banded else "charged rounds"


def what_we_rely_on(report: Report) -> tuple[str, ...]:
    """Return what must hold for the figures, one sentence each."""
    relied = reliance_sentences(report.plan)
    return (*relied, UNVERIFIED) if report.roster == "unverified" else relied


def mask_rows(report: Report) -> tuple[tuple[str, str], ...]:
    """Return what the masks are made with and between whom, as (name, value)."""
    return (("suite", suite_words(report.plan)), ("graph", graph_words(report.plan)), ("roster", report.roster))


def trust_rows(report: Report) -> tuple[tuple[str, str, str], ...]:
    """Return (against whom, epsilon, noises relied on) for the three epsilons; none in mode ``none``."""
    stated, plan = report.privacy, report.plan
    if not isinstance(stated, Claim):
        return ()
    rows = zip(adversaries(plan), (stated.outsiders, stated.charged, stated.all_others), strict=True)
    return tuple((whom, short(trust.epsilon), str(trust.noise)) for whom, trust in rows)


def short(epsilon: str) -> str:
    """Return an epsilon with two decimals, rounded up, for reading."""
    return format_epsilon_up(float(epsilon))


def rounds_summary(report: Report) -> str:
    """Return how the rounds went, in one sentence."""
    completed = sum(entry.certificate is not None for entry in report.rounds)
    retried = sum(entry.attempts > 1 for entry in report.rounds)
    short_of = sum(bool(entry.dropouts) for entry in report.rounds)
    return (
        f"{completed} of {report.plan.recipe.rounds} planned rounds completed, {len(report.rounds)} started;"
        f" {retried or 'none'} needed more than one attempt, and in {short_of or 'none'} somebody dropped out."
    )


def total_spend(report: Report) -> str:
    """Return what all runs of the population have spent together, where the report's maker has a ledger of it."""
    part = report.ledger
    if part is None or part.budget is None:
        return ""
    runs = "1 run" if len(part.runs) == 1 else f"{len(part.runs)} runs"
    return (
        f"Over all runs of {part.population}: epsilon {short(part.lifetime_epsilon)} spent of {part.budget.epsilon} at "
        f"delta {part.budget.delta}, in {runs} known to this ledger."
    )


def why_lifetime_is_more(part: LedgerPart) -> str:
    """Return why the lifetime figure is larger than those of the runs; nothing without a budget or a charge."""
    kept = part.budget
    if kept is None or not float(part.lifetime_epsilon):
        return ""
    return lifetime_sentence(order=kept.order, fixed=rdp.to_epsilon(0.0, kept.order, float(kept.delta)))


def method_rows(plan: Plan) -> tuple[tuple[str, str], ...]:
    """Return how sampling, clipping and noise were executed, as (name, value)."""
    privacy, encoding = plan.privacy, plan.encoding
    ring = f"{encoding.bits} bits per entry, clamp {encoding.clamp:,}, scale 2^{encoding.scale_exponent}"
    common = (
        ("entries of the summed vector (d)", f"{plan.recipe.entries:,}"),
        ("ring", ring),
        ("local steps a round (E)", str(privacy.local_steps)),
    )
    if not privacy.noised:
        return (("noise", f"none: {NO_PRIVACY.lower()}"), *common)
    return (
        ("mode", privacy.mode),
        ("sampling", _sampling(plan)),
        ("clip norm (C)", f"{privacy.clip_norm}, per {privacy.unit}; on integers: at most D = {privacy.sensitivity:,}"),
        ("noise of each participant", f"discrete Gaussian, variance 2^{privacy.variance_exponent}"),
        ("noises relied on (h)", str(privacy.honest_noise)),
        (
            "noise multiplier (z')",
            f"{privacy.noise_multiplier:.6g} = sqrt(h*2^j - 9)/{'(|c| D)' if privacy.banded else 'D'}",
        ),
        *band_rows(plan),
        *common,
    )


def band_rows(plan: Plan) -> tuple[tuple[str, str], ...]:
    """Return the bands of noise that is correlated over rounds, as (name, value); nothing where it is not."""
    bands = plan.privacy.bands
    if not plan.privacy.banded:
        return ()
    norm = math.hypot(*bands)
    return (("bands (c)", f"{', '.join(map(str, bands))}; |c| = {norm:.4g}: correlated over {len(bands)} rounds"),)


def _sampling(plan: Plan) -> str:
    if plan.privacy.mode == "distributed-participant":
        return "none that counts: every participant takes part"
    if plan.privacy.banded:
        bins = len(plan.privacy.bands)
        return (
            f"Poisson, each {plan.privacy.unit} with bq = {plan.privacy.bin_rate} in one round out of {bins}, when its"
            f" bin has its turn, independently (q = {plan.privacy.sampling_rate})"
        )
    return f"Poisson, each {plan.privacy.unit} with q = {plan.privacy.sampling_rate} in every step, independently"
