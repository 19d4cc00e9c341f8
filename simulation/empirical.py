"""The empirical audit: does training with planted canaries contradict the epsilon that the accounting claims?

Guarantees: the claim is tested on the training that daemons run, with a bound that holds at 95% confidence and
thresholds that are fixed before anything is looked at; every verdict names its ceiling, because a pass cannot prove a
claim.
Leaves to others: the synthetic federation (``laboratory``), planted faults (``faults``), the statistics
(``privacy.dp.one_run``).
Source: docs/privacy-accounting.md section 10; Steinke, Nasr, Jagielski 2023.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Unpack

import numpy as np
from numpy.typing import NDArray

from participant.adapters.sums import Clip, GradientSums
from participant.trainer import Progress
from privacy.dp import accountants
from privacy.dp.one_run import CONFIDENCE, ceiling, count_deviation, guess, lower_bound, noise_deviation
from privacy.errors import LocalError
from privacy.seams import RandomSource
from simulation.faults import while_preparing, while_training
from simulation.laboratory import Laboratory, Workbench
from simulation.verdict import Check, Fault, Setting, Verdict

DEVIATIONS: Final = 6.0  # beyond which noise or counts fail: chance does that once in 5e8 audits
_CODES_OF: Final = {"E-PLAN-STREAM": "plan", "E-SELF-CHECK": "self-check"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the coordinator's side and the laboratory saw in all rounds.

    Attributes:
        total: the sums of all rounds added up, shape (entries,).
        probe_squares: the squares of all probes of all rounds, added up.
        drawn: how many examples went into clipped sums.
    """

    total: NDArray[np.int64]
    probe_squares: float
    drawn: int


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
        checks.append(Check("plan", passed=True, found="every stream that is summed is clipped and noised"))
        with while_preparing(fault):
            laboratory = bench.prepare(plan)
    except LocalError as refusal:
        if refusal.code not in _CODES_OF:
            raise
        return Verdict(setting=setting, checks=(*checks, Check(_CODES_OF[refusal.code], False, refusal.detail)))
    checks.append(Check("self-check", passed=True, found=f"passed by all {setting.participants} trainers"))
    return judge(laboratory, observe(laboratory, fault, progress=progress), tuple(checks))


def observe(laboratory: Laboratory, fault: Fault | None = None, *, progress: Progress | None = None) -> Observation:
    """Run all rounds from the same adapter and add up what the coordinator would see."""
    total = np.zeros(laboratory.plan.recipe.entries, dtype=np.int64)
    squares, rounds = 0.0, laboratory.setting.rounds
    with _counted() as drawn:
        for number in range(1, rounds + 1):
            update = _round(laboratory, number, fault)
            total += update
            squares += float(np.sum(update[laboratory.probes].astype(np.float64) ** 2))
            if progress is not None:
                progress(number, rounds)
    return Observation(total=total, probe_squares=squares, drawn=sum(drawn))


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
    included = [bool(one) for one in laboratory.included]
    guesses = guess(scores(laboratory, seen.total), included, guessed=setting.guessed)
    bound = lower_bound(guesses, delta=delta)
    most = ceiling(canaries=setting.canaries, guessed=guesses.guessed, delta=delta)
    right = f"{guesses.correct} of {guesses.guessed} guesses about {guesses.canaries} canaries were right"
    canaries = Check(
        "canaries",
        bound <= claim,
        f"{right}: epsilon is at least {bound:.2f} ({CONFIDENCE:.0%} confidence), claimed is {claim:.2f};"
        f" this test can show {most:.2f} at most",
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
    return [float(one) for one in estimate]


def _noise(laboratory: Laboratory, seen: Observation) -> Check:
    """Compare the probes, which carry noise alone, with the noise that all participants should add."""
    n, draws = laboratory.setting.participants, int(laboratory.probes.sum()) * laboratory.setting.rounds
    variance = n * 4.0**laboratory.plan.privacy.noise_exponent
    deviation = noise_deviation(seen.probe_squares, draws=draws, variance=variance)
    carried = n * seen.probe_squares / (draws * variance)
    return Check(
        "noise",
        abs(deviation) <= DEVIATIONS,
        f"{draws} draws at probes carry {carried:.2f} of {n} noises ({deviation:+.1f} deviations;"
        f" fails beyond {DEVIATIONS:g})",
    )


def _sampler(laboratory: Laboratory, seen: Observation) -> Check:
    """Compare how many examples were drawn with the plan's sampling rate."""
    rate = float(laboratory.plan.privacy.sampling_rate)
    trials = int(laboratory.included.sum()) * laboratory.setting.rounds
    deviation = count_deviation(seen.drawn, trials=trials, rate=rate)
    return Check(
        "sampler",
        abs(deviation) <= DEVIATIONS,
        f"{seen.drawn} of {trials} examples were drawn, q {rate:g} means {trials * rate:.0f} ({deviation:+.1f}"
        f" deviations; fails beyond {DEVIATIONS:g})",
    )


@contextmanager
def _counted() -> Iterator[list[int]]:
    """Count the examples of each clipped sum. Batch sizes are secret in a run; these rows are made up."""
    counts: list[int] = []
    original = GradientSums.clipped

    def counting(self: GradientSums, rows: Any, **clip: Unpack[Clip]) -> NDArray[np.int64]:
        counts.append(len(rows))
        return original(self, rows, **clip)

    GradientSums.clipped = counting  # type: ignore[method-assign]  # put back below
    try:
        yield counts
    finally:
        GradientSums.clipped = original  # type: ignore[method-assign]


def _silent(_done: int, _total: int) -> None:
    """A round's own progress is too fine to show."""
