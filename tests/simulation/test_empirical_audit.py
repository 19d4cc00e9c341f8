"""The empirical audit: the real training path passes, and each planted fault is caught by the check meant for it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import onlysum
from simulation.empirical import audit as empirical
from simulation.empirical import command as empirical_command
from simulation.empirical.audit import audit, judge, scores
from simulation.empirical.checks import FALSE_ALARMS
from simulation.empirical.laboratory import Laboratory, Workbench
from simulation.empirical.observation import Observation, observe
from simulation.empirical.result import CAUGHT_BY, AuditedMode, Fault, Setting, Verdict
from tests.worlds.seeded import SeededRandom

pytestmark = [pytest.mark.torch, pytest.mark.early]

SMALL = Setting(canaries=120, participants=4, rounds=12, halfway=7, sampling_rate="0.5")
LONGER = replace(SMALL, rounds=24, halfway=13, sampling_rate="0.2")  # enough rounds to see what is alike in all of them
LOCAL = replace(LONGER, mode=AuditedMode.LOCAL)
STATISTICS = ["noise", "shape", "freshness", "sampler"]
CHECKS = ["plan", "self-check", "midway", "canaries", *STATISTICS]
HALFWAY = {Fault.TENSOR_CLIP, Fault.RESTARTED_SEED}  # what others do does not depend on a restart, which takes long
OF_ROUNDS = [fault for fault, check in CAUGHT_BY.items() if check not in {"plan", "self-check"}]
SEEDS = range(8)


class Source:
    """Begins anew for each fault, so that what is seen of it does not depend on which tests ran before."""

    def __init__(self) -> None:
        self.begin("laboratory")

    def begin(self, seed: str) -> None:
        self._seeded = SeededRandom(f"audit {seed}")

    def token_bytes(self, count: int) -> bytes:
        return self._seeded.token_bytes(count)


def make_laboratory(directory: Path, setting: Setting) -> Laboratory:
    bench = Workbench(directory, setting, Source())
    return bench.prepare(bench.write_plan())


def observed_anew(laboratory: Laboratory, fault: Fault | None = None) -> Observation:
    assert isinstance(laboratory.random, Source)
    laboratory.random.begin(fault or "healthy")
    return observe(laboratory, fault)


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    return make_laboratory(tmp_path_factory.mktemp("laboratory"), LONGER)


@pytest.fixture(scope="module")
def local_laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    return make_laboratory(tmp_path_factory.mktemp("local"), LOCAL)


Observed = Callable[[Fault], Observation]


def planted(laboratory: Laboratory) -> Observed:
    """What is seen of each fault of the rounds, planted once."""
    without = replace(laboratory, setting=replace(laboratory.setting, halfway=0))
    return cache(lambda fault: observed_anew(laboratory if fault in HALFWAY else without, fault))


@pytest.fixture(scope="module")
def observed(laboratory: Laboratory) -> Observed:
    return planted(laboratory)


@pytest.fixture(scope="module")
def observed_locally(local_laboratory: Laboratory) -> Observed:
    return planted(local_laboratory)


@pytest.fixture(scope="module")
def healthy(laboratory: Laboratory) -> Observation:
    return observed_anew(laboratory)


def sigma(laboratory: Laboratory) -> float:
    return laboratory.plan.privacy.sigma


def names(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.failed]


def outcome(verdict: Verdict, name: str) -> str:
    return next(check.outcome for check in verdict.checks if check.name == name)


@pytest.mark.parametrize("mode", AuditedMode)
def test_a_healthy_run_passes_every_check_and_names_claim_and_ceiling(mode: AuditedMode, tmp_path: Path) -> None:
    seen: list[int] = []
    setting = replace(SMALL, mode=mode)
    verdict = audit(setting, tmp_path, SeededRandom(2), progress=lambda done, total: seen.append(done))
    assert [check.name for check in verdict.checks] == CHECKS
    assert verdict.failed == ()
    assert verdict.claim is not None
    assert verdict.bound is not None
    assert verdict.ceiling is not None
    assert verdict.bound <= verdict.claim <= 2 < verdict.ceiling
    assert seen == list(range(1, SMALL.rounds + 1))


def test_each_canary_is_unlike_all_others(laboratory: Laboratory) -> None:
    directions = laboratory.directions.astype(float)
    overlaps = directions @ directions.T / laboratory.plan.privacy.sensitivity**2
    assert np.all(np.diag(overlaps) > 0.98)
    assert np.all(np.abs(overlaps - np.diag(np.diag(overlaps))) < 0.05)


def test_without_noise_nothing_is_left_of_a_release_but_its_batch(laboratory: Laboratory, observed: Observed) -> None:
    seen = observed(Fault.NO_NOISE)
    assert np.abs(seen.noise).max() <= 1  # a gradient's last bits may depend on its slot
    order = np.argsort(scores(laboratory, seen))
    assert laboratory.included[order[-30:]].all()
    assert not laboratory.included[order[:30]].any()
    verdict = judge(laboratory, seen)
    assert verdict.bound == verdict.ceiling


def test_local_releases_are_taken_apart_to_the_integer(observed_locally: Observed) -> None:
    seen = observed_locally(Fault.NO_NOISE)
    assert np.abs(seen.noise).max() <= 1
    assert seen.sums.any()


@pytest.mark.parametrize("fault", OF_ROUNDS)
def test_what_is_planted_in_rounds_is_caught_by_the_check_that_is_meant_for_it(
    laboratory: Laboratory, observed: Observed, fault: Fault
) -> None:
    assert CAUGHT_BY[fault] in names(judge(laboratory, observed(fault)))


@pytest.mark.parametrize("fault", [Fault.NO_NOISE, Fault.QUIET_DATA, Fault.BARE_MOMENTUM])
def test_local_noise_is_audited_as_well(local_laboratory: Laboratory, observed_locally: Observed, fault: Fault) -> None:
    assert CAUGHT_BY[fault] in names(judge(local_laboratory, observed_locally(fault)))


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (Fault.DOUBLE_Q, "sampler"),
        (Fault.FIXED_BATCHES, "sampler"),
        (Fault.SHARED_COINS, "sampler"),
        (Fault.SITTING_OUT, "sampler"),
        (Fault.REPEATED_ONCE, "freshness"),
        (Fault.RESTARTED_SEED, "freshness"),
        (Fault.COARSE_NOISE, "shape"),
        (Fault.LAPLACE_NOISE, "shape"),
    ],
)
def test_no_other_statistic_would_have_caught_it(
    laboratory: Laboratory, observed: Observed, fault: Fault, check: str
) -> None:
    assert set(names(judge(laboratory, observed(fault)))) & set(STATISTICS) == {check}


def test_a_fault_is_gone_after_its_round(laboratory: Laboratory, observed: Observed) -> None:
    assert names(judge(laboratory, observed(Fault.NO_NOISE)))
    assert names(judge(laboratory, observed_anew(replace(laboratory, setting=replace(LONGER, halfway=0))))) == []


def test_a_batch_clipped_as_one_is_refused_by_the_self_check(tmp_path: Path) -> None:
    verdict = audit(SMALL, tmp_path, SeededRandom(6), fault=Fault.BATCH_AS_ONE)
    assert names(verdict) == ["self-check"]
    assert "differs from its own gradient" in verdict.failed[0].outcome
    assert verdict.bound is None


def test_a_plan_that_sums_metrics_without_noise_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    verdict = audit(SMALL, tmp_path, SeededRandom(7), fault=Fault.EXACT_METRICS)
    assert [check.name for check in verdict.checks] == names(verdict) == ["plan"]
    assert "metrics" in verdict.failed[0].outcome


def test_every_fault_has_a_check() -> None:
    assert set(CAUGHT_BY) == set(Fault)
    assert set(CAUGHT_BY.values()) == set(CHECKS)


# --- the checks, on noise and coins that a test makes up ---


def made_up(laboratory: Laboratory, healthy: Observation, seed: int) -> Observation:
    """Noise and coins as they should be; what was drawn adds up to the sums."""
    random = np.random.default_rng(seed)
    coins = np.zeros_like(healthy.coins)
    sums = np.zeros_like(healthy.sums)
    for place, rows in enumerate(laboratory.rows):
        coins[place, :, : len(rows)] = random.random((len(coins[place]), len(rows))) < float(LONGER.sampling_rate)
        sums[place] = coins[place, :, : len(rows)].astype(np.int64) @ laboratory.directions[rows]
    noise = np.rint(random.normal(scale=sigma(laboratory), size=sums.shape)).astype(np.int64)
    return Observation(sums=sums, noise=noise, coins=coins)


def failed(laboratory: Laboratory, seen: Observation) -> set[str]:
    return set(names(judge(laboratory, seen))) & set(STATISTICS)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_as_claimed_passes_whatever_the_seed(laboratory: Laboratory, healthy: Observation, seed: int) -> None:
    assert failed(laboratory, made_up(laboratory, healthy, seed)) == set()


def test_the_chance_of_a_false_alarm_is_stated_and_shared_among_the_checks(
    laboratory: Laboratory, healthy: Observation
) -> None:
    assert FALSE_ALARMS <= 1e-6
    verdict = judge(laboratory, healthy)
    for name in STATISTICS:
        assert f"fails beyond 1 of {len(STATISTICS) / FALSE_ALARMS:,.0f}" in outcome(verdict, name)


def test_noise_of_the_right_second_and_fourth_moment_is_still_held_against_its_histogram(
    laboratory: Laboratory, healthy: Observation
) -> None:
    choice = np.random.default_rng(1).choice([-1, 0, 1], p=[1 / 6, 2 / 3, 1 / 6], size=healthy.noise.shape)
    three_values = np.rint(choice * math.sqrt(3) * sigma(laboratory)).astype(np.int64)
    assert np.mean(three_values.astype(float) ** 4) == pytest.approx(3 * sigma(laboratory) ** 4, rel=0.02)
    assert failed(laboratory, replace(healthy, noise=three_values)) == {"shape"}


def test_noise_of_another_shape_where_sums_are_large_alone_is_seen(
    laboratory: Laboratory, healthy: Observation
) -> None:
    large = np.abs(healthy.sums) > np.quantile(np.abs(healthy.sums), 0.98)
    flat = np.random.default_rng(1).uniform(-1, 1, size=healthy.noise.shape) * math.sqrt(3) * sigma(laboratory)
    assert failed(
        laboratory, replace(healthy, noise=np.where(large, np.rint(flat).astype(np.int64), healthy.noise))
    ) == {"shape"}


def altered(healthy: Observation, place: tuple[int, ...], noise: NDArray[np.int64] | int) -> Observation:
    changed = healthy.noise.copy()
    changed[place] = noise
    return replace(healthy, noise=changed)


def test_one_participant_without_noise_in_one_round_is_named(laboratory: Laboratory, healthy: Observation) -> None:
    verdict = judge(laboratory, altered(healthy, (2, 7), 0))
    assert "participant-02's noise in round 8 carries 0.00" in outcome(verdict, "noise")


def test_one_entry_without_noise_is_named(laboratory: Laboratory, healthy: Observation) -> None:
    changed = healthy.noise.copy()
    changed[:, :, 33] = 0
    assert "in entry 33 carries 0.00" in outcome(judge(laboratory, replace(healthy, noise=changed)), "noise")


def test_noise_that_two_participants_share_in_different_rounds_with_the_sign_turned_is_named(
    laboratory: Laboratory, healthy: Observation
) -> None:
    verdict = judge(laboratory, altered(healthy, (3, 20), -healthy.noise[1, 4]))
    assert names(verdict) == ["freshness"]
    assert "participant-01 in round 5 is like that of participant-03 in round 21" in outcome(verdict, "freshness")


def test_one_row_that_gets_far_through_the_clip_is_named(laboratory: Laboratory, healthy: Observation) -> None:
    row = int(healthy.coins[1].sum(axis=0).argmax())  # one that was drawn: another may not be in so few rounds
    canary = laboratory.rows[1][row]
    changed = healthy.noise.copy()
    changed[1] += 10 * healthy.coins[1, :, row, None] * laboratory.directions[canary]
    verdict = judge(laboratory, replace(healthy, noise=changed))
    assert f"some of canary {canary} when it is drawn" in outcome(verdict, "freshness")


def test_sums_that_are_kept_for_a_later_round_are_seen(laboratory: Laboratory, healthy: Observation) -> None:
    changed = healthy.noise.copy()
    changed[:, 5:] += 2 * healthy.sums[:, :-5]
    verdict = judge(laboratory, replace(healthy, noise=changed))
    assert "sum of 5 rounds earlier" in outcome(verdict, "freshness")


def test_rows_that_are_always_or_never_drawn_are_seen(laboratory: Laboratory, healthy: Observation) -> None:
    stuck = np.repeat(healthy.coins[:, :1], LONGER.rounds, axis=1)
    assert failed(laboratory, replace(healthy, coins=stuck)) == {"sampler"}


def test_one_participant_whose_coins_are_anothers_is_named(laboratory: Laboratory, healthy: Observation) -> None:
    coins = healthy.coins.copy()
    rows = min(len(laboratory.rows[0]), len(laboratory.rows[3]))
    coins[3, :, :rows] = coins[0, :, :rows]
    verdict = judge(laboratory, replace(healthy, coins=coins))
    assert "participant-00 and participant-03 both drew" in outcome(verdict, "sampler")


# --- the command ---


@pytest.mark.usefixtures("eighty_columns")
def test_the_help_names_every_fault_in_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "--help")
    assert code == 0
    assert set(Fault) <= set(out.replace(",", " ").replace(".", " ").split())
    assert "--install-completion" not in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(empirical_command, "Setting", lambda mode: replace(SMALL, mode=mode))


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = onlysum.run(["audit", "empirical", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.usefixtures("small")
@pytest.mark.usefixtures("eighty_columns")
def test_the_command_prints_bound_claim_and_ceiling_and_never_calls_them_a_measurement(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = command(capsys)
    assert code == 0
    words = " ".join(out.split())
    for part in ("epsilon is at least", "claimed is", "this test can show", "does not prove it", "PASS"):
        assert part in words
    assert "measured" not in words
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("fault", ["no-noise", "batch-as-one", "exact-metrics"])
def test_the_command_leaves_with_exit_code_6_when_a_planted_fault_is_caught(
    fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(capsys, "--plant", fault)
    assert code == 6
    assert "FAIL" in out
    assert "PASS" not in out
    assert err.startswith("E-AUDIT-FAILED")


@pytest.mark.usefixtures("small")
def test_the_command_prints_json_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "--plant", "exact-metrics", "--json")
    values = json.loads(out)
    assert code == 6
    assert (values["passed"], values["planted"]) == (False, "exact-metrics")


@pytest.mark.usefixtures("small")
def test_a_planted_fault_that_nothing_catches_is_a_bug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        empirical, "observe", lambda laboratory, _fault, progress: observe(laboratory, progress=progress)
    )
    code, _, err = command(capsys, "--plant", "double-q")
    assert code == 1
    assert "was not caught" in err


@pytest.mark.slow
@pytest.mark.parametrize("fault", [None, *Fault])
def test_the_command_as_it_is(fault: Fault | None, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, *(("--plant", fault.value) if fault else ()))
    assert code == (6 if fault else 0)
    assert fault is None or f"FAIL {CAUGHT_BY[fault]}" in out
