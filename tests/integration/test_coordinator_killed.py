"""The coordinator's process is killed (SIGKILL) in every phase; the run completes with the exact sums."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from coordinator.protocol.transitions import TRANSITIONS
from privacy.errors import Phase
from tests.worlds.coordinator_process import coordinator_process
from tests.worlds.daemons import until
from tests.worlds.plans import names

MEMBERS = names(3)
PHASES = [phase for phase in TRANSITIONS if phase is not Phase.RESULT]


def test_a_coordinator_killed_once_in_every_phase_completes_the_run_with_the_exact_sums(tmp_path: Path) -> None:
    with coordinator_process(tmp_path / "coordinator") as coordinator, coordinator.members(tmp_path, MEMBERS):
        run = coordinator.create_run(tmp_path / "draft", MEMBERS, rounds=len(PHASES))
        for number, phase in enumerate(PHASES, start=1):
            until(partial(coordinator.reached, run, number, phase), f"round {number} in {phase.name}")
            coordinator.kill()
            coordinator.start()
        coordinator.await_end(run)
        rows = coordinator.check_sums(run, MEMBERS)
        assert len(rows) == len(PHASES)
        assert [attempt[2] for attempt in coordinator.attempts(run)].count("completed") == len(PHASES)
