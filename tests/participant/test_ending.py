"""A daemon goes on when one file of its directory is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worlds.owner import policy_text
from tests.worlds.rehearsal import ME, Rehearsal


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
