"""The empirical audit: does training with planted canaries contradict the epsilon that the accounting claims?

Guarantees: the claim is tested on the training that daemons run, with a bound that holds at 95% confidence and
thresholds that are fixed before anything is looked at; every verdict names its ceiling, because a pass cannot prove a
claim.
Leaves to others: the synthetic federation (``laboratory``), planted faults (``faults``), the statistics
(``privacy.dp.one_run``).
Source: docs/privacy-accounting.md section 10; Steinke, Nasr, Jagielski 2023.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Unpack

import numpy as np
from numpy.typing import NDArray

from participant.training.adapters.sums import Clip, GradientSums
from participant.training.trainer import Progress
from privacy.dp import accountants
from privacy.dp.events import format_epsilon_up
from privacy.dp.one_run import (
    CONFIDENCE,
    ceiling,
    count_deviation,
    guess,
    lower_bound,
    noise_deviation,
    spread_deviation,
)
from privacy.errors import LocalError
from privacy.interfaces import RandomSource
from simulation.audit_result import Check, Fault, Setting, Verdict
from simulation.faults import while_preparing, while_training
from simulation.laboratory import Laboratory, Workbench

DEVIATIONS: Final = 6.0  # beyond which noise or counts fail: chance does that once in millions of audits
_CODES_OF: Final = {"E-PLAN-STREAM": "plan", "E-SELF-CHECK": "self-check"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the coordinator's side and the laboratory saw in all rounds.

    Attributes:
        total: the sums of all rounds added up, shape (entries,).
        probe_squares: the squares of all probes of all rounds, added up.
        batches: the rows of every clipped sum, participant by participant.
    """

    total: NDArray[np.int64]
    probe_squares: float
    batches: tuple[tuple[NDArray[np.int64], ...], ...]


def audit(
    setting: Setting,
    directory: Path,
    random: RandomSource,
    *,
    fault: Fault | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Build a laboratory, train, and judge.

    Args:
        setting: size and claim.
        directory: an empty one for base, plan and datasets.
        random: coins, batches and noise.
        fault: planted, if any.
        progress: called after each round.
    """
    checks: list[Check] = []
    bench = Workbench(directory, setting, random, with_metrics=fault is Fault.EXACT_METRICS)
    try:
        plan = bench.write_plan()
        checks.append(Check("plan", passed=True, outcome="every stream that is summed is clipped and noised"))
        with while_preparing(fault):
            laboratory = bench.prepare(plan)
    except LocalError as refusal:
        if refusal.code not in _CODES_OF:
            raise
        return Verdict(setting=setting, checks=(*checks, Check(_CODES_OF[refusal.code], False, refusal.detail)))
    checks.append(Check("self-check", passed=True, outcome=f"passed by all {setting.participants} trainers"))
    return judge(laboratory, observe(laboratory, fault, progress=progress), tuple(checks))


def observe(laboratory: Laboratory, fault: Fault | None = None, *, progress: Progress | None = None) -> Observation:
    """Run all rounds from the same adapter and add up what the coordinator would see."""
    total = np.zeros(laboratory.plan.recipe.entries, dtype=np.int64)
    squares, rounds = 0.0, laboratory.setting.rounds
    with _watched() as batches:
        for number in range(1, rounds + 1):
            update = _round(laboratory, number, fault)
            total += update
            squares += float(np.sum(update[laboratory.probes].astype(np.float64) ** 2))
            if progress is not None:
                progress(number, rounds)
    return Observation(total=total, probe_squares=squares, batches=tuple(map(tuple, batches.values())))


def _round(laboratory: Laboratory, number: int, fault: Fault | None) -> NDArray[np.int64]:
    """Return a round's sum; masks are left out, because they cancel in it exactly."""
    total = np.zeros(laboratory.plan.recipe.entries, dtype=np.int64)
    for trainer in laboratory.trainers:
        with while_training(fault, last=trainer is laboratory.trainers[-1]):
            total += trainer.train(number, laboratory.start, _silent)
    return total


def judge(laboratory: Laboratory, seen: Observation, earlier: tuple[Check, ...] = ()) -> Verdict:
    """Compare what was seen with what the plan claims."""
    setting, plan = laboratory.setting, laboratory.plan
    claim, delta = accountants.run_epsilon(plan), float(plan.privacy.delta)
    if claim is None:
        raise LocalError("E-BUG", "an audit of a plan without a claim")
    included = [bool(coin) for coin in laboratory.included]
    guesses = guess(scores(laboratory, seen.total), included, guessed=setting.guessed)
    bound = lower_bound(guesses, delta=delta)
    most = ceiling(canaries=setting.canaries, guessed=guesses.guessed, delta=delta)
    right = f"{guesses.correct} of {guesses.guessed} guesses about {guesses.canaries} canaries were right"
    canaries = Check(
        "canaries",
        bound <= claim,
        f"{right}: epsilon is at least {math.floor(100 * bound) / 100:.2f} ({CONFIDENCE:.0%} confidence), claimed is"
        f" {format_epsilon_up(claim)}; this test can show {format_epsilon_up(most)} at most",
    )
    checks = (*earlier, canaries, _noise(laboratory, seen), _sampler(laboratory, seen))
    return Verdict(setting=setting, checks=checks, claim=claim, bound=bound, ceiling=most)


def scores(laboratory: Laboratory, total: NDArray[np.int64]) -> list[float]:
    """Return how much each canary looks included: the best linear estimate of the coins from the sums.

    The sums are q*T times the included canaries' directions, and noise of the clipped batch and of the mechanism.
    """
    privacy, setting = laboratory.plan.privacy, laboratory.setting
    rate, rounds = float(privacy.sampling_rate), setting.rounds
    directions = laboratory.directions.astype(np.float64)
    overlaps = directions @ directions.T
    expected = rate * rounds
    seen = directions @ total.astype(np.float64) - expected * overlaps.sum(axis=1) / 2
    noise = rounds * setting.participants * 4.0**privacy.noise_exponent
    spread = expected**2 / 4 + rounds * rate * (1 - rate) / 2
    estimate: NDArray[np.float64] = np.linalg.solve(spread * overlaps + noise * np.eye(setting.canaries), seen)
    return [float(value) for value in estimate]


def _noise(laboratory: Laboratory, seen: Observation) -> Check:
    """Compare the probes, which carry noise alone, with the noise that all participants should add.

    Round by round they say how much there is; added up over the rounds, whether it was drawn anew each time.
    """
    n, rounds, probes = laboratory.setting.participants, laboratory.setting.rounds, int(laboratory.probes.sum())
    variance, draws = n * 4.0**laboratory.plan.privacy.noise_exponent, probes * rounds
    added = float(np.sum(seen.total[laboratory.probes].astype(np.float64) ** 2))
    amount = noise_deviation(seen.probe_squares, draws=draws, variance=variance)
    freshness = noise_deviation(added, draws=probes, variance=variance * rounds)
    carried = n * seen.probe_squares / (draws * variance)
    return Check(
        "noise",
        _within(amount, freshness),
        f"{draws} draws at probes carry {carried:.2f} of {n} noises ({amount:+.1f} deviations), added up over"
        f" {rounds} rounds {added / (probes * variance):.0f} times one round's ({freshness:+.1f} deviations;"
        f" fails beyond {DEVIATIONS:g})",
    )


def _sampler(laboratory: Laboratory, seen: Observation) -> Check:
    """Compare what was drawn with independent coins at the plan's rate: in all, batch by batch, row by row."""
    rate = float(laboratory.plan.privacy.sampling_rate)
    sizes, turns = _draws(laboratory, seen)
    drawn, trials = (sum(column) for column in zip(*sizes, strict=True))
    count = count_deviation(drawn, trials=trials, rate=rate)
    by_batch, by_row = (spread_deviation(counts, rate=rate) if rate < 1 else 0.0 for counts in (sizes, turns))
    return Check(
        "sampler",
        _within(count, by_batch, by_row),
        f"{drawn} of {trials} examples were drawn, q {rate:g} means {trials * rate:.0f} ({count:+.1f} deviations);"
        f" sizes of batches spread by {by_batch:+.1f} deviations more than independent coins, turns of each example by"
        f" {by_row:+.1f} (fails beyond {DEVIATIONS:g})",
    )


Counted = list[tuple[int, int]]  # found, of how many trials


def _draws(laboratory: Laboratory, seen: Observation) -> tuple[Counted, Counted]:
    """Return the size of each batch, of how many rows; and how often each row was drawn, of how many rounds."""
    sizes: Counted = []
    turns: Counted = []
    for rows, batches in zip(laboratory.rows, seen.batches, strict=True):
        sizes += [(len(batch), rows) for batch in batches]
        often = np.bincount(np.concatenate(batches), minlength=rows)
        turns += [(int(times), len(batches)) for times in often]
    return sizes, turns


def _within(*deviations: float) -> bool:
    return all(abs(deviation) <= DEVIATIONS for deviation in deviations)


@contextmanager
def _watched() -> Iterator[dict[int, list[NDArray[np.int64]]]]:
    """Note the rows of each clipped sum, trainer by trainer. Batches are secret in a run; these rows are made up."""
    batches: dict[int, list[NDArray[np.int64]]] = {}
    original = GradientSums.clipped

    def watching(self: GradientSums, rows: Any, **clip: Unpack[Clip]) -> NDArray[np.int64]:
        batches.setdefault(id(self.examples), []).append(np.array(rows))
        return original(self, rows, **clip)

    GradientSums.clipped = watching  # type: ignore[method-assign]  # put back below
    try:
        yield batches
    finally:
        GradientSums.clipped = original  # type: ignore[method-assign]


def _silent(_done: int, _total: int) -> None:
    """A round's own progress is too fine to show."""
