"""The empirical audit: does training with planted canaries contradict the epsilon that the accounting claims?

Guarantees: the claim is tested on the training that daemons run, with a bound that holds at 95% confidence and
thresholds that are fixed before anything is looked at; every verdict names its ceiling, because a pass cannot prove a
claim.
Leaves to others: the synthetic federation (``laboratory``), its rounds (``observation``), planted faults (``faults``),
noise and sampler (``checks``), the statistics of canaries (``privacy.dp.one_run``).
Source: docs/privacy-accounting.md section 10; Steinke, Nasr, Jagielski 2023.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from participant.training.trainer import Progress
from privacy.dp import accountants
from privacy.dp.events import format_epsilon_up
from privacy.dp.one_run import CONFIDENCE, ceiling, guess, lower_bound
from privacy.errors import LocalError
from privacy.interfaces import RandomSource
from simulation.empirical.checks import checks
from simulation.empirical.faults import while_preparing
from simulation.empirical.laboratory import Laboratory, Workbench
from simulation.empirical.observation import Observation, observe
from simulation.empirical.result import AuditedMode, Check, Fault, Setting, Verdict

_CODES_OF: Final = {"E-PLAN-STREAM": "plan", "E-SELF-CHECK": "self-check"}


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
    made: list[Check] = []
    bench = Workbench(directory, setting, random, with_metrics=fault is Fault.EXACT_METRICS)
    try:
        plan = bench.write_plan()
        made.append(Check("plan", passed=True, outcome="every stream that is summed is clipped and noised"))
        with while_preparing(fault):
            laboratory = bench.prepare(plan)
    except LocalError as refusal:
        if refusal.code not in _CODES_OF:
            raise
        return Verdict(setting=setting, checks=(*made, Check(_CODES_OF[refusal.code], False, refusal.detail)))
    made.append(Check("self-check", passed=True, outcome=f"passed by all {setting.participants} trainers"))
    return judge(laboratory, observe(laboratory, fault, progress=progress), tuple(made))


def judge(laboratory: Laboratory, seen: Observation, earlier: tuple[Check, ...] = ()) -> Verdict:
    """Compare what was seen with what the plan claims."""
    setting, plan = laboratory.setting, laboratory.plan
    claim, delta = accountants.run_epsilon(plan), float(plan.privacy.delta)
    if claim is None:
        raise LocalError("E-BUG", "an audit of a plan without a claim")
    included = [bool(coin) for coin in laboratory.included]
    guesses = guess(scores(laboratory, seen), included, guessed=setting.guessed)
    bound = lower_bound(guesses, delta=delta)
    most = ceiling(canaries=setting.canaries, guessed=guesses.guessed, delta=delta)
    right = f"{guesses.correct} of {guesses.guessed} guesses about {guesses.canaries} canaries were right"
    canaries = Check(
        "canaries",
        bound <= claim,
        f"{right}: epsilon is at least {math.floor(100 * bound) / 100:.2f} ({CONFIDENCE:.0%} confidence), claimed is"
        f" {format_epsilon_up(claim)}; this test can show {format_epsilon_up(most)} at most",
    )
    again = f"passed again by all {setting.participants} trainers before round {setting.halfway}, and after a restart"
    midway = Check("midway", not seen.refusal, seen.refusal or again)
    found = (*earlier, midway, canaries, *checks(laboratory, seen))
    return Verdict(setting=setting, checks=found, claim=claim, bound=bound, ceiling=most)


def scores(laboratory: Laboratory, seen: Observation) -> list[float]:
    """Return how much each canary looks included, from what the claim says that everybody may see.

    With shared noise that is the sum; with local noise each participant's own release, masks or not.
    """
    setting = laboratory.setting
    if setting.mode is AuditedMode.DISTRIBUTED:
        return list(_estimate(laboratory, laboratory.directions, seen.released.sum(axis=0), setting.participants))
    found = np.empty(setting.canaries)
    for place, released in enumerate(seen.released):
        own = np.arange(place, setting.canaries, setting.participants)
        found[own] = _estimate(laboratory, laboratory.directions[own], released, 1)
    return list(found)


def _estimate(
    laboratory: Laboratory, canaries: NDArray[np.int64], total: NDArray[np.int64], noises: int
) -> NDArray[np.float64]:
    """Return the best linear estimate of canaries' coins from a total over all rounds.

    It is q*T times the included canaries' directions, and noise of the clipped batch and of the mechanism.
    """
    privacy, rounds = laboratory.plan.privacy, laboratory.setting.rounds
    rate = float(privacy.sampling_rate)
    directions = canaries.astype(np.float64)
    overlaps = directions @ directions.T
    expected = rate * rounds
    seen = directions @ total.astype(np.float64) - expected * overlaps.sum(axis=1) / 2
    noise = rounds * noises * 2.0**privacy.variance_exponent
    spread = expected**2 / 4 + rounds * rate * (1 - rate) / 2
    estimate: NDArray[np.float64] = np.linalg.solve(spread * overlaps + noise * np.eye(len(directions)), seen)
    return estimate
