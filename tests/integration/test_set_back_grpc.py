"""A backup, a run, a restore, over gRPC: charges do not vanish, and who was set back goes on once they are charged."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator.database import run_rows
from coordinator.runs import creation
from coordinator.runs.thresholds import Requested
from host.system import SystemRandom
from participant.commands.participant import app
from participant.daemon.backup import read_backup, write_backup
from participant.opened import open_home
from participant.views.status import participant_status
from privacy.draft import Recipe
from privacy.plan import Plan
from protos.envelope import Role
from tests.worlds.coordinator import initial_adapter
from tests.worlds.daemons import NO_CLAIM, POLICY, Member, Service, draft, enrol, until
from tests.worlds.plans import make_plan, names

ENTRIES, MEMBERS, ROUNDS = 12, 3, 2
LOCAL = NO_CLAIM.model_copy(update={"mode": "local", "unit": "example", "epsilon": "6", "delta": "0.00001"})
ROOMY = POLICY.replace("lifetime_epsilon = 10", "lifetime_epsilon = 40")


@pytest.fixture
def recipe() -> Recipe:
    initial = hashlib.sha256(initial_adapter(ENTRIES)).hexdigest()
    return make_plan(entries=ENTRIES, recipe={"rounds": ROUNDS, "adapter": {"initial_hash": initial}})[0].recipe


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path / "coordinator")
    yield running
    running.stop()


def create_run(service: Service, directory: Path) -> Plan:
    now = int(time.time())
    request = creation.RunRequest(
        members=names(MEMBERS), tolerance=Requested(f=1), created_at=now, expires_at=now + 3600
    )
    plan = creation.make_plan(
        service.store, service.settings, creation.read_draft(directory), request, random=SystemRandom()
    )
    creation.register(service.store, service.home, service.authority.operator, plan, directory)
    return plan


def why(service: Service, run_id: str) -> str:
    with service.store.read() as connection:
        run = run_rows.find_run(connection, run_id)
    return f"{run.code} {run.reason}"


def charged(directory: Path) -> list[int]:
    """Rounds that are charged, run by run."""
    return [run.rounds for run in open_home(directory).ledger.spent("patients").runs]


def test_charges_since_a_backup_do_not_vanish_and_a_person_lets_the_participant_go_on(
    tmp_path: Path, service: Service, recipe: Recipe
) -> None:
    members = {name: enrol(service, tmp_path / name, name, Role.PARTICIPANT, recipe, ROOMY) for name in names(MEMBERS)}
    source = draft(tmp_path / "draft", recipe, initial_adapter(ENTRIES), LOCAL)
    alice, back = members["alice"], Member(tmp_path / "restored")
    try:
        for member in members.values():
            member.start()
        until(lambda: len(service.live()) == MEMBERS, "everybody polls")
        write_backup(open_home(alice.directory), tmp_path / "backup.tar.gz")
        first = create_run(service, source)
        until(lambda: service.state(first.run_id) == "completed", "the run completes")
        assert charged(alice.directory) == [ROUNDS]
        alice.end()

        read_backup(tmp_path / "backup.tar.gz", back.directory, at=1, ledgers=back.directory / "ledgers")
        assert charged(back.directory) == []
        back.start()
        until(lambda: "alice" in service.live(), "she is back")
        until(lambda: bool(participant_status(open_home(back.directory)).abstains), "she knows that she was set back")
        second = create_run(service, source)
        until(lambda: service.state(second.run_id) == "refused", "the run is refused")
        assert "E-LEDGER-ROLLBACK alice: " in why(service, second.run_id)
        assert "run create DRAFT --members bob,carol" in why(service, second.run_id)
        assert charged(back.directory) == []
        back.end()

        words = ["ledger", "reanchor", "--config", str(back.directory)]
        shown = CliRunner().invoke(app, words, catch_exceptions=False)
        assert "Nothing was written" in shown.output
        assert f"{ROUNDS} of {ROUNDS} rounds are charged to patients" in shown.output
        written = CliRunner().invoke(app, [*words, "--as", "Anna Meier"], catch_exceptions=False)
        assert "Written to the ledger as Anna Meier" in written.output
        assert charged(back.directory) == [ROUNDS]

        back.start()
        until(lambda: "alice" in service.live(), "she takes part again")
        third = create_run(service, source)
        until(lambda: service.state(third.run_id) == "completed", "the next run completes")
        assert charged(back.directory) == [ROUNDS, ROUNDS]
        assert len(service.rounds(third.run_id)) == ROUNDS
        assert not participant_status(open_home(back.directory)).abstains
    finally:
        for member in (*members.values(), back):
            if member.thread is not None and member.thread.is_alive():
                member.end()
