"""What a report means in plain words, for a data-protection officer.

Guarantees: short sentences without formulas; never a promise that the report's figures do not carry, and mode ``none``
always reads "no differential privacy".
Leaves to others: layout (``html``), the terminal (``cli``).
Source: docs/privacy-accounting.md section 9.
"""

from __future__ import annotations

import math

from privacy.claims import graph_words, suite_words
from privacy.dp import rdp
from privacy.dp.events import format_epsilon_up
from privacy.plan import Plan
from privacy.report_model import Claim, LedgerPart, Report
from privacy.secagg.suites import HYBRID

LARGE_EPSILON = 9.0  # beyond it an even guess can become practically certain

UNIT_WORDS = {
    "example": "one example (one row of a dataset)",
    "user": "one person, with all of that person's rows at one participant",
    "participant": "one participant, with its whole dataset",
}


def what_this_does(report: Report) -> str:
    """Return what the run did, in a few sentences."""
    plan, recipe = report.plan, report.plan.recipe
    return (
        f"{plan.n} organisations fine-tuned {recipe.base.name} together, without handing their data to anybody. Each"
        f" one trained on its own machine and sent one masked list of {recipe.entries:,} numbers a round; masks cancel"
        f" only in the sum of at least {plan.min_survivors} participants, so the coordinator learned that sum and no"
        " single contribution."
    )


def what_limits_the_sum(report: Report) -> str:
    """Return what keeps the sum from revealing single units, in a few sentences."""
    stated = report.privacy
    if not isinstance(stated, Claim):
        return (
            "Nothing: this run has no differential privacy. The masks hide each contribution, but no noise limits what"
            " the sum itself tells about a single record."
        )
    if stated.charged_rounds == 0:
        return "No round has started, so nothing was released and nothing was charged."
    figure = (
        f"Noise. It limits what anything released can tell about {UNIT_WORDS[stated.unit]}: epsilon"
        f" {short(stated.charged.epsilon)} at delta {stated.delta}. "
    )
    if float(stated.charged.epsilon) > LARGE_EPSILON:
        return figure + "A figure this large promises little by itself: smaller epsilon means less can be learned."
    return figure + (
        "In other words, whoever is unsure (50%) whether a given unit was used, and then sees everything that the"
        f" coordinator saw, cannot become more than {certainty(stated.charged.epsilon)} sure, except with a probability"
        f" of about 1 in {round(1 / float(stated.delta)):,}. Smaller epsilon means less can be learned."
    )


def what_we_rely_on(report: Report) -> tuple[str, ...]:
    """Return what must hold for the figures, one sentence each."""
    plan, stated = report.plan, report.privacy
    colluders = max(plan.f, 1)
    agreement = "X25519 or ML-KEM-768" if plan.suite == HYBRID else "X25519"
    relied = [
        f"At most {plan.f} of the {plan.n} participants work together with the coordinator."
        if plan.f
        else "No participant works together with the coordinator.",
        "Each participant's machine runs the published program and is not taken over.",
        f"The cryptography ({agreement}, Ed25519, AES-256, SHA-256) holds.",
    ]
    if isinstance(stated, Claim) and plan.privacy.mode == "local":
        relied.insert(0, "For the noise, nobody else: each participant adds all of its own.")
    elif isinstance(stated, Claim):
        relied.insert(
            0,
            f"In each sum, {stated.charged.noise} honest participants add their part of the noise and keep it secret;"
            f" that leaves room for the coordinator together with {_participants(colluders)}.",
        )
    if report.roster == "unverified":
        relied.append(
            "The participants are who the roster says: the maker of this report has not compared their fingerprints"
            " (roster: unverified). A coordinator that invents participants counts them among the colluding ones."
        )
    return tuple(relied)


def mask_rows(report: Report) -> tuple[tuple[str, str], ...]:
    """Return what the masks are made with and between whom, as (name, value)."""
    return (("suite", suite_words(report.plan)), ("graph", graph_words(report.plan)), ("roster", report.roster))


def trust_rows(report: Report) -> tuple[tuple[str, str, str], ...]:
    """Return (against whom, epsilon, noises relied on) for the three epsilons; none in mode ``none``."""
    stated, plan = report.privacy, report.plan
    if not isinstance(stated, Claim):
        return ()
    charged = f"the coordinator together with {_participants(max(plan.f, 1))} (this is charged)"
    rows = (
        ("outsiders, who see only what is released", stated.outsiders),
        (charged, stated.charged),
        ("everybody else together", stated.all_others),
    )
    return tuple((who, short(one.epsilon), str(one.noise)) for who, one in rows)


def _participants(count: int) -> str:
    return "1 participant" if count == 1 else f"{count} participants"


def short(epsilon: str) -> str:
    """Return an epsilon with two decimals, rounded up, for reading."""
    return format_epsilon_up(float(epsilon))


def certainty(epsilon: str) -> str:
    """Return to what an even guess can rise at most, in percent, rounded up."""
    share = 100 / (1 + math.exp(-min(float(epsilon), 700.0)))
    digits = 100 if share > 99 else 10
    return f"{math.ceil(share * digits) / digits:g}%"


def rounds_summary(report: Report) -> str:
    """Return how the rounds went, in one sentence."""
    completed = sum(one.certificate is not None for one in report.rounds)
    retried = sum(one.attempts > 1 for one in report.rounds)
    short_of = sum(bool(one.dropouts) for one in report.rounds)
    return (
        f"{completed} of {report.plan.recipe.rounds} planned rounds completed, {len(report.rounds)} started;"
        f" {retried or 'none'} needed more than one attempt, and in {short_of or 'none'} somebody dropped out."
    )


def why_lifetime_is_more(part: LedgerPart) -> str:
    """Return why the lifetime figure is larger than those of the runs; nothing without a budget or a charge."""
    kept = part.budget
    if kept is None or not float(part.lifetime_epsilon):
        return ""
    fixed = rdp.to_epsilon(0.0, kept.order, float(kept.delta))
    return (
        f"It is counted by a Renyi filter of order {kept.order}, which holds even where runs were chosen after seeing"
        f" earlier results and is therefore larger than the figure of a run alone: "
        f"{format_epsilon_up(fixed)} of it is for"
        " delta and is paid once, with the first charge."
    )


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
        return (("noise", "none: no differential privacy"), *common)
    return (
        ("mode", privacy.mode),
        ("sampling", _sampling(plan)),
        ("clip norm (C)", f"{privacy.clip_norm}, per {privacy.unit}; on integers: at most D = {privacy.sensitivity:,}"),
        ("noise of each participant", f"discrete Gaussian, sigma 2^{privacy.noise_exponent}"),
        ("noises relied on (h)", str(privacy.honest_noise)),
        ("noise multiplier (z')", f"{privacy.noise_multiplier:.6g} = sqrt(h*4^k - 9)/D"),
        *common,
    )


def _sampling(plan: Plan) -> str:
    if plan.privacy.mode == "distributed-participant":
        return "none that counts: every participant takes part"
    return f"Poisson, each {plan.privacy.unit} with q = {plan.privacy.sampling_rate} in every step, independently"
