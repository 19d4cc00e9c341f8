"""The benchmark of a round plays the real protocol: its own check of the sum, its counts of bytes and of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import round as bench_round
from bench.memory import Recording
from bench.players import Case, Stage
from privacy.secagg import keys

SMALL = "n5_d1000_k4_drop1"


def test_a_case_is_read_from_its_name() -> None:
    assert Case.parse("n100_d1e6_k99_drop10") == Case(100, 10**6, 99, 10, suite=1)
    assert Case.parse("n10_d1e5_k9_drop1_suite2") == Case(10, 10**5, 9, 1, suite=2)


@pytest.mark.parametrize("name", [SMALL, f"{SMALL}_suite2"])
def test_a_round_is_played_and_costed_phase_by_phase(name: str) -> None:
    outcome = Stage(Case.parse(name)).play()
    assert list(outcome.by_phase) == [
        "ADVERTISE_KEYS",
        "SHARE_KEYS",
        "COLLECT_MASKED",
        "AGREE_SURVIVORS",
        "UNMASK",
        "RESULT",
    ]
    assert outcome.bytes_per_entry > 2
    assert outcome.client_ms > 0


def test_real_updates_are_encoded_and_their_mean_is_decoded() -> None:
    Stage(Case.parse(SMALL), reals=True).play()


def test_the_coordinators_memory_is_that_of_a_replayed_round(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    stage = Stage(Case.parse("n5_d1e6_k4_drop1"), recording.note)
    stage.play()
    vectors = recording.peak_mib(stage.plan, stage.offer) / (stage.plan.plan.layout(1).bytes / 2**20)
    assert 1 < vectors < 2  # the sum and little else: it is unmasked where it lies


def test_one_process_verifies_a_signature_once_but_a_measured_participant_every_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, seen = keys.verify, list[bytes]()

    def counted(public: bytes, signature: bytes, message: bytes) -> bool:
        seen.append(signature)
        return real(public, signature, message)

    monkeypatch.setattr(keys, "verify", counted)
    Stage(Case.parse(SMALL), measured=1).play()
    once = len(seen)
    seen.clear()
    Stage(Case.parse(SMALL), measured=5).play()
    assert len(seen) > 1.5 * once


def test_the_peaks_of_ten_and_a_hundred_participants_are_compared() -> None:
    figures = {"n10_d1e6_k9_drop1.coordinator_peak_mib": 8.0, "n100_d1e6_k99_drop10.coordinator_peak_mib": 10.0}
    assert bench_round.peak_ratio(figures) == {"d1e6.peak_n100_over_n10": 1.25}
    assert bench_round.peak_ratio({}) == {}
