"""The empirical audit: the real training path passes, and each planted fault is caught by the check meant for it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import onlysum
from simulation import empirical, empirical_cli
from simulation.audit_result import CAUGHT_BY, Fault, Setting, Verdict
from simulation.empirical import DEVIATIONS, audit, judge, observe, scores
from simulation.faults import while_preparing
from simulation.laboratory import PROBES, Laboratory, Workbench
from tests.worlds.seeded import SeededRandom

pytestmark = pytest.mark.torch

SMALL = Setting(canaries=120, participants=4, rounds=12, sampling_rate="0.5")
LONGER = Setting(canaries=120, participants=4, rounds=40, sampling_rate="0.5")  # enough batches to see their spread
NOISY = Setting(canaries=160, participants=10, rounds=100)  # as many probes and rounds as the command has
CHECKS = ["plan", "self-check", "canaries", "noise", "sampler"]


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    bench = Workbench(tmp_path_factory.mktemp("laboratory"), SMALL, SeededRandom("audit"))
    return bench.prepare(bench.write_plan())


def test_a_healthy_run_passes_every_check_and_names_claim_and_ceiling(tmp_path: Path) -> None:
    seen: list[int] = []
    verdict = audit(SMALL, tmp_path, SeededRandom(2), progress=lambda done, total: seen.append(done))
    assert [check.name for check in verdict.checks] == CHECKS
    assert verdict.failed == ()
    assert verdict.claim is not None
    assert verdict.bound is not None
    assert verdict.ceiling is not None
    assert verdict.bound <= verdict.claim <= 2 < verdict.ceiling
    assert seen == list(range(1, SMALL.rounds + 1))


def test_each_canary_is_unlike_all_others_and_leaves_the_probes_alone(laboratory: Laboratory) -> None:
    directions = laboratory.directions.astype(float)
    overlaps = directions @ directions.T / laboratory.plan.privacy.sensitivity**2
    assert np.all(np.diag(overlaps) > 0.98)
    assert np.all(np.abs(overlaps - np.diag(np.diag(overlaps))) < 0.05)
    assert int(laboratory.probes.sum()) == PROBES
    assert not laboratory.directions[:, laboratory.probes].any()


def test_without_noise_every_guess_is_right(laboratory: Laboratory) -> None:
    seen = observe(laboratory, Fault.NO_NOISE)
    order = np.argsort(scores(laboratory, seen.total))
    assert laboratory.included[order[-30:]].all()
    assert not laboratory.included[order[:30]].any()
    verdict = judge(laboratory, seen)
    assert verdict.bound == verdict.ceiling
    assert "canaries" in names(verdict)


def test_without_the_clip_a_canary_is_seen_through_the_noise_and_the_noise_is_right(laboratory: Laboratory) -> None:
    assert names(judge(laboratory, observe(laboratory, Fault.NO_CLIP))) == ["canaries"]


def test_a_doubled_sampling_rate_is_seen_by_the_count_alone(laboratory: Laboratory) -> None:
    assert names(judge(laboratory, observe(laboratory, Fault.DOUBLE_Q))) == ["sampler"]


def test_noise_that_comes_again_in_every_round_is_seen_when_rounds_are_added_up(laboratory: Laboratory) -> None:
    verdict = judge(laboratory, observe(laboratory, Fault.REPEATED_NOISE))
    assert names(verdict) == ["noise"]
    freshness = float(verdict.failed[0].outcome.split("one round's (")[1].split()[0])
    assert freshness == pytest.approx((SMALL.rounds - 1) * (PROBES / 2) ** 0.5, rel=0.3)


def test_batches_of_one_size_are_seen_although_their_count_is_right(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, LONGER, SeededRandom(8))
    laboratory = bench.prepare(bench.write_plan())
    assert names(judge(laboratory, observe(laboratory))) == []
    verdict = judge(laboratory, observe(laboratory, Fault.FIXED_BATCHES))
    assert names(verdict) == ["sampler"]
    count, by_batch, _by_row = (float(one) for one in re.findall(r"[+-][0-9]+\.[0-9]", verdict.failed[0].outcome))
    assert abs(count) <= DEVIATIONS
    assert by_batch < -DEVIATIONS


def test_rows_that_are_always_or_never_drawn_are_seen(laboratory: Laboratory) -> None:
    seen = observe(laboratory)
    stuck = replace(seen, batches=tuple((batches[0],) * SMALL.rounds for batches in seen.batches))
    assert names(judge(laboratory, stuck)) == ["sampler"]


def test_a_fault_is_gone_after_its_round(laboratory: Laboratory) -> None:
    observe(laboratory, Fault.NO_NOISE)
    assert names(judge(laboratory, observe(laboratory))) == []


def test_one_of_ten_noises_missing_is_seen_by_the_probes_alone(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, NOISY, SeededRandom(5))
    laboratory = bench.prepare(bench.write_plan())
    verdict = judge(laboratory, observe(laboratory, Fault.MISSING_SHARE))
    assert names(verdict) == ["noise"]
    deviations = float(verdict.failed[0].outcome.split("(")[1].split()[0])
    assert deviations == pytest.approx(-11.3, abs=3)


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


def names(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.failed]


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
    monkeypatch.setattr(empirical_cli, "Setting", lambda: SMALL)


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
    monkeypatch.setattr(empirical, "while_training", lambda fault, last: while_preparing(None))
    code, _, err = command(capsys, "--plant", "double-q")
    assert code == 1
    assert "was not caught" in err


@pytest.mark.slow
@pytest.mark.parametrize("fault", [None, *Fault])
def test_the_command_as_it_is(fault: Fault | None, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, *(("--plant", fault.value) if fault else ()))
    assert code == (6 if fault else 0)
    assert fault is None or f"FAIL {CAUGHT_BY[fault]}" in out
