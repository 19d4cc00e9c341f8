"""A daemon ends when it is told to, and goes on when one file of its directory is damaged."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from participant.daemon.process import _end
from tests.worlds.owner import policy_text
from tests.worlds.rehearsal import ME, Rehearsal


def test_the_first_signal_lets_the_step_in_hand_end_and_the_second_does_not() -> None:
    stop = threading.Event()
    _end(stop)
    assert stop.is_set()
    with pytest.raises(KeyboardInterrupt):
        _end(stop)


def test_a_decision_that_is_damaged_while_the_daemon_runs_is_said_once_and_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Rehearsal(tmp_path / ME, policy=policy_text(approval="by-hand"))
    made.propose()
    decision = made.me.review().plans.directory(made.plan.run_id) / "decision.json"
    decision.write_text("{")
    made.daemon._reconsider()
    made.daemon._reconsider()
    assert capsys.readouterr().out.count("E-STATE-DAMAGED") == 1
    decision.unlink()
    made.me.review().approve(made.plan.run_id, who="Anna Meier")
    made.daemon._reconsider()
    assert len(made.me.link.take()) == 1
