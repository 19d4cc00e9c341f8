"""The demo as a stranger runs it, once, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SECONDS = 480  # the mark is 180 on two free cores
FILES = (
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "base/config.json",
    "base/model.safetensors",
    "heldout/labels.npy",
    "heldout/pixel_values.npy",
    "masks.svg",
    "report.html",
    "report.json",
    "summary.json",
    "logs/coordinator.log",
)

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(SECONDS + 20)]


@dataclass(frozen=True)
class Outcome:
    out: Path
    screen: str
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    out = tmp_path_factory.mktemp("demo") / "demo-out"
    done = subprocess.run(
        [sys.executable, "-m", "onlysum", "demo", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    yield Outcome(out, done.stdout, json.loads((out / "summary.json").read_text()))
    assert not still_running(out), "a process of the demo outlived it"


def still_running(out: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(out) in command and entry.parent.name != str(os.getpid()):
            found.append(command)
    return found


def verify(report: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onlysum", "audit", "verify", str(report)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_it_leaves_everything_that_a_stranger_needs_to_check_it(demo: Outcome) -> None:
    assert not [name for name in FILES if not (demo.out / name).is_file()]


def test_accuracy_rises_by_at_least_ten_points(demo: Outcome) -> None:
    assert demo.summary["accuracy_final"] - demo.summary["accuracy_base"] >= 0.10


def test_the_privacy_spent_is_within_the_target(demo: Outcome) -> None:
    assert demo.summary["mode"] == "distributed"
    assert 0 < demo.summary["epsilon"] <= 8
    assert demo.summary["delta"] == pytest.approx(1e-5)


def test_a_participant_was_killed_and_the_run_went_on(demo: Outcome) -> None:
    assert demo.summary["dropouts"] >= 1
    assert demo.summary["rounds"] == 100
    assert demo.summary["participants"] == 5
    assert "SIGKILL" in demo.screen


def test_peft_and_transformers_alone_reach_the_accuracy_that_the_evaluator_signed(demo: Outcome) -> None:
    from simulation.base import recheck

    assert recheck(demo.out) == pytest.approx(demo.summary["accuracy_final"], abs=0.004)  # one image of 334


def test_the_report_verifies(demo: Outcome) -> None:
    assert verify(demo.out / "report.json").returncode == 0


def test_a_report_with_one_changed_byte_does_not_verify(demo: Outcome, tmp_path: Path) -> None:
    data = bytearray((demo.out / "report.json").read_bytes())
    for place in range(len(data) // 7, len(data), len(data) // 7):
        changed = bytes([*data[:place], data[place] ^ 1, *data[place + 1 :]])
        (tmp_path / "changed.json").write_bytes(changed)
        assert verify(tmp_path / "changed.json").returncode == 6, f"byte {place}"


def test_what_came_from_one_participant_is_shown_beside_the_sum(demo: Outcome) -> None:
    assert "What it received from alice: 1674 masked numbers" in demo.screen
    assert re.search(r"What it unmasked: the sum of [45]\b", demo.screen)
    assert "masked numbers" in (demo.out / "masks.svg").read_text()


def test_the_same_data_is_measured_with_local_noise_or_the_screen_says_that_it_was_not(demo: Outcome) -> None:
    local = demo.summary["accuracy_local_noise"]
    if local is None:  # other tests run on the same processors
        assert "not ready in time" in demo.screen
        return
    assert demo.summary["accuracy_base"] < local < 1
    assert "each adding all the noise" in demo.screen
    measured = json.loads((demo.out / "federation" / "local-noise" / "outcome.json").read_text())
    assert measured["accuracy"] == local
    assert measured["epsilon"] == pytest.approx(demo.summary["epsilon"], abs=0.02)


def test_what_takes_long_says_what_has_just_been_done(demo: Outcome) -> None:
    for sign in ("coordinator listens", "alice joined", "alice registered", "policy approved", "checks itself"):
        assert sign in demo.screen


def test_the_screen_says_what_the_base_has_not_seen(demo: Outcome) -> None:
    assert re.search(r"never an 8 or a 9", demo.screen)


def test_without_a_terminal_there_are_plain_lines_and_no_bars(demo: Outcome) -> None:
    assert "\x1b" not in demo.screen
    assert "\r" not in demo.screen


def test_nothing_of_the_data_is_in_a_log(demo: Outcome) -> None:
    for log in (demo.out / "logs").glob("*.log"):
        assert not re.search(r"\b(loss|gradient|pixel)\b", log.read_text(errors="replace"), re.IGNORECASE), log.name
