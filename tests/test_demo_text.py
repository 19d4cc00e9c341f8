"""The demo with language as a stranger runs it, once, and what it leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.town import ANSWERS

ROOT = Path(__file__).parent.parent
SECONDS = 540  # the mark is 300 on two free cores
FILES = (
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "adapter/README.md",
    "base/config.json",
    "base/model.safetensors",
    "base/chat_template.jinja",
    "report.json",
)

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(SECONDS + 20)]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo-text-out"
    done = subprocess.run(
        [sys.executable, "-m", "examples.chat.demo", "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def test_it_leaves_base_adapter_report_and_figures(out: Path) -> None:
    assert [file for file in FILES if not (out / file).is_file()] == []


def test_perplexity_falls_on_conversations_that_nobody_trained_on(out: Path) -> None:
    found = summary(out)
    assert found["perplexity_after"] < 0.5 * found["perplexity_before"]
    assert found["accuracy_after"] > found["accuracy_before"] + 0.1


def test_epsilon_is_of_a_person_and_within_the_plan(out: Path) -> None:
    found = summary(out)
    assert (found["unit"], found["delta"]) == ("user", 1e-5)
    assert 0 < found["epsilon"] <= 8
    card = (out / "adapter" / "README.md").read_text()
    assert "perplexity" in card


def test_the_adapter_writes_mostly_in_words_of_the_desks_and_not_what_the_base_writes(out: Path) -> None:
    known = {word for answers in ANSWERS.values() for answer in answers for word in answer.split()}
    answers = summary(out)["written"]
    assert all(answer["adapter"] != answer["base"] for answer in answers)
    words = [word for answer in answers for word in answer["adapter"].split()]
    assert sum(word in known for word in words) > len(words) / 2
