"""What the noise means: what an epsilon is against, per whom, over how long; and what no noise means.

Guarantees: mode ``none`` reads "no differential privacy" wherever an epsilon would stand; every epsilon is rounded up;
no promise that the figures do not carry.
Leaves to others: computing them (``privacy.dp.accountants``). Source: docs/privacy-accounting.md.
"""

from __future__ import annotations

import math
from typing import Final

from privacy.claims.masks import participants
from privacy.dp.events import format_epsilon_up
from privacy.plan import Plan

LARGE_EPSILON: Final = 9.0  # beyond it an even guess can become practically certain
AS_GOOD_AS_CERTAIN: Final = 4.0  # beyond it an even guess can become more than 98% sure
STRONG_SUSPICION: Final = 1.5  # beyond it, more than 80%

# If (epsilon, delta) holds, the loss exceeds epsilon + t with a probability of at most delta/(1 - e^-t), for
# delta >= E[(1 - e^(epsilon - loss))_+]. It is not delta at t = 0: that would promise too much.
EXCEPTION: Final = 10  # 1/(1 - e^-t): how many times delta the probability of the exception is
SURER: Final = -math.log1p(-1 / EXCEPTION)  # t

UNIT_WORDS: Final = {
    "example": "one example (one row of a dataset)",
    "user": "one person, with all of that person's rows at one participant",
    "participant": "one participant, with its whole dataset",
}

NO_PRIVACY: Final = "No differential privacy"
NO_NOISE: Final = (
    f"{NO_PRIVACY}: no noise limits what the sums, and so the adapter, tell about a single record or participant."
)
CHARGING: Final = "A round is charged when it starts, completed or not; nothing is refunded."
EARLIER_RUNS: Final = "Trying several settings is spending too: every run on the same data adds to what is spent."
BUDGET_REACH: Final = (
    "A budget counts what all federations charge to this ledger of this machine. Another user of the machine, another "
    "machine, and a second participant of one federation have ledgers of their own: what the same people spend there, "
    "nothing adds up."
)
ARITHMETIC: Final = (
    "Arithmetic: clipped gradients, noise and sums are exact integers, so that rounding adds nothing to the loss. "
    "Before the clip gradients are floating-point numbers; a self-check compares their bits on synthetic rows in other "
    "company. Epsilons are computed in double precision, and rounded up."
)
TIMING: Final = (
    "Timing: a round's training takes whole periods, as many as the largest batch needs at the speed that synthetic "
    "rows show, and no upload leaves before the plan allows it. A machine that becomes slower in the middle of a round "
    "can show that its batch was no small one; its power and its load are not hidden from who can watch them."
)
SIMULATION: Final = "Simulation, not private: seeds that reproduce its noise or sampling exist."


def epsilon_sentence(epsilon: float, *, delta: str, unit: str) -> str:
    """Return the claim of a run in one sentence."""
    shown = format_epsilon_up(epsilon)
    return f"Differential privacy: epsilon at most {shown} at delta {delta} per {unit}, for this run alone."


def unfinished_sentences(plan: Plan, completed: int) -> tuple[str, ...]:
    """Return what is said wherever an adapter goes that its run released before it ended early.

    Args:
        plan: of the run.
        completed: the rounds whose sum is in the adapter.
    """
    ended = f"The run did not complete: this is what {completed} of its {plan.recipe.rounds} rounds released."
    spent = "Epsilon is that of the whole plan, of which no more was spent than the signed report says."
    return (ended, spent) if plan.privacy.noised else (ended,)


def limit_sentences(epsilon: float, *, delta: str, unit: str) -> tuple[str, ...]:
    """Return what an epsilon means for who reads no formulas.

    Args:
        epsilon: of what was charged.
        delta: of the claim.
        unit: of privacy, a key of :data:`UNIT_WORDS`.
    """
    shown = format_epsilon_up(epsilon)
    figure = f"Noise limits what anything released can tell about {UNIT_WORDS[unit]}: epsilon {shown} at delta {delta}."
    if epsilon > LARGE_EPSILON:
        return figure, "A figure this large promises little by itself: smaller epsilon means less can be learned."
    meaning = (
        "In other words, whoever is unsure (50%) whether a given unit was used, and then sees everything that the "
        f"coordinator saw, cannot become more than {certainty(epsilon + SURER)} sure, except with a probability of at "
        f"most 1 in {round(1 / (EXCEPTION * float(delta))):,}. Smaller epsilon means less can be learned."
    )
    return figure, meaning, plain_sentence(epsilon, unit=unit)


def plain_sentence(epsilon: float, *, unit: str) -> str:
    """Return what the certainty that an epsilon allows is worth to a person, without comfort that it does not give.

    Args:
        epsilon: at most :data:`LARGE_EPSILON`.
        unit: of privacy, a key of :data:`UNIT_WORDS`.
    """
    surest = certainty(epsilon + SURER)
    whom = "an organisation" if unit == "participant" else "a person"
    if epsilon > AS_GOOD_AS_CERTAIN:
        return (
            f"Said plainly: {surest} is as good as certain. Against somebody who knows all but this one {unit}, the "
            f"figure alone leaves {whom} next to nothing to hide behind; how much less a weaker attacker learns, it "
            "does not say."
        )
    if epsilon > STRONG_SUSPICION:
        return (
            f"Said plainly: {surest} is a strong suspicion, on which somebody may act. What the figure leaves {whom} "
            "against somebody who knows everything else is doubt, not safety."
        )
    return f"Said plainly: at {surest} a real doubt remains, even for who knows all but this one {unit}."


def certainty(epsilon: float) -> str:
    """Return to what an even guess can rise at most, in percent, rounded up."""
    share = 100 / (1 + math.exp(-min(epsilon, 700.0)))
    digits = 100 if share > 99 else 10
    return f"{math.ceil(share * digits) / digits:g}%"


def adversaries(plan: Plan) -> tuple[str, str, str]:
    """Return against whom the three epsilons hold: outsiders, those that are charged for, everybody else."""
    return (
        "outsiders, who see only what is released",
        f"the coordinator together with {participants(max(plan.f, 1))} (this is charged)",
        "everybody else together",
    )


def epsilons_sentence(plan: Plan, *, outsiders: float, charged: float, all_others: float) -> str:
    """Return the three epsilons in one sentence."""
    pairs = zip(adversaries(plan), (outsiders, charged, all_others), strict=True)
    return "Epsilon " + "; ".join(f"against {whom}: {format_epsilon_up(epsilon)}" for whom, epsilon in pairs) + "."


def noise_sentences(plan: Plan) -> tuple[str, ...]:
    """Return whose noise an epsilon relies on; nothing without noise."""
    if not plan.privacy.noised:
        return ()
    if plan.privacy.mode == "local":
        return ("For the noise, nobody else: each participant adds all of its own.",)
    sentence = (
        f"In each sum, {plan.privacy.honest_noise} honest participants add their part of the noise and keep it secret; "
        f"that leaves room for the coordinator together with {participants(max(plan.f, 1))}."
    )
    return (sentence,)


def relation_sentence(unit: str) -> str:
    """Return which datasets count as neighbours, and what is public about them."""
    return (
        f"Zero-out: neighbouring datasets differ in one {unit}, which is replaced by an empty one that contributes the "
        "zero vector; sizes of datasets and participation are public."
    )


def two_units_sentence(unit: str, epsilon: float) -> str:
    """Return what holds for who is two units of privacy."""
    example = "" if unit == "participant" else ", for example one at each of two participants,"
    return f"A person who is two {unit}s{example} has less protection: epsilon {format_epsilon_up(epsilon)}."


def exchanged_sentence(unit: str, epsilon: float) -> str:
    """Return what holds where a unit is exchanged and not left out."""
    return f"If one {unit} is exchanged for another instead of left out: epsilon {format_epsilon_up(epsilon)}."


def lifetime_sentence(*, order: int, fixed: float) -> str:
    """Return why the figure of a lifetime is larger than those of its runs.

    Args:
        order: of the Renyi filter.
        fixed: the part of the figure that delta alone costs.
    """
    return (
        f"The lifetime is counted by a Renyi filter of order {order}, which holds even where later runs are chosen "
        "after seeing earlier results, and is therefore larger than the figure of a run alone: "
        f"{format_epsilon_up(fixed)} of it is for delta, paid once with the first charge."
    )


def run_in_lifetime_sentence(epsilon: float, *, delta: str, order: int, divergence: float) -> str:
    """Return why a run counts otherwise in a lifetime than alone.

    Args:
        epsilon: of the run alone.
        delta: of the run.
        order: of the Renyi filter.
        divergence: of the run at that order.
    """
    return (
        f"Alone, at delta {delta}, this run is epsilon {format_epsilon_up(epsilon)}, by an accountant that follows its "
        f"whole privacy loss. In the lifetime it counts {format_epsilon_up(divergence)}, its Renyi divergence at order "
        f"{order}, beside the part for delta: one order must serve every run, so it suits some runs less than others."
    )


def figure_sentences(plan: Plan) -> tuple[str, ...]:
    """Return what an epsilon does not say of itself: why this delta, several rows, arithmetic, time."""
    privacy = plan.privacy
    if not privacy.noised:
        return ()
    people = math.floor(1 / (10 * float(privacy.delta)) * (1 + 1e-9))
    why = (
        f"Why delta {privacy.delta}: a mechanism that publishes one of N people whole has a delta of 1/N. An owner's "
        f"program therefore takes at most a tenth of that; this delta suits populations of up to {people:,}."
    )
    return (
        why,
        *band_sentences(plan),
        *several_rows_sentences(privacy.unit),
        ARITHMETIC,
        TIMING,
    )


def band_sentences(plan: Plan) -> tuple[str, ...]:
    """Return what holds where noise is correlated over rounds; nothing where it is not."""
    bands = len(plan.privacy.bands)
    if not plan.privacy.banded:
        return ()
    before = "round" if bands == 2 else f"{bands - 1} rounds"
    counted = (
        f"The noise of {bands} rounds is correlated, so that part of it cancels in the model (a banded matrix mechanism"
        f" over masked sums). In return each sum also has the sums of the last {before} in it: a"
        f" {plan.privacy.unit} that is drawn counts in up to {bands} rounds, and the figures count all of them. Each"
        f" {plan.privacy.unit} can be drawn in one round out of {bands}, and those are charged together when the first"
        " of them begins."
    )
    kept = (
        f"For that, each participant's own sums of the last {before} stay on its machine without noise, as"
        " secret as its data; they are erased when no later round counts them, and when the run ends."
    )
    return counted, kept


def several_rows_sentences(unit: str) -> tuple[str, ...]:
    """Return what holds for a person with three rows or more, where rows are the units of privacy."""
    if unit != "example":
        return ()
    sentence = (
        "The figure is per row: a person with two rows has less protection, one with three or more less still, and for "
        "those no figure is given. Where people have several rows, the unit should be the user."
    )
    return (sentence,)


def unnoised_runs_sentence(count: int) -> str:
    """Return what a ledger's figures leave out."""
    return f"{count} of these runs had no differential privacy: no figure here covers what they released."
