"""A whole federation over gRPC with mutual TLS: enrolment, approval, rounds, a loss and a return; no torch."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import onlysum
from coordinator.daemon import sessions
from coordinator.database import member_rows
from coordinator.database.run_rows import RoundRecord
from coordinator.runs import creation
from coordinator.runs.global_adapter import RunFiles
from coordinator.runs.thresholds import Requested
from host.system import SystemRandom
from participant.daemon import poller
from participant.daemon.status import read_status
from participant.link import delivery
from participant.opened import OpenHome, open_home
from participant.owner.plan_store import Decision
from privacy.draft import Recipe
from privacy.ledger_entries import Unprotected
from privacy.plan import Plan
from protos import codec
from protos.envelope import Role
from tests.worlds.coordinator import initial_adapter
from tests.worlds.daemons import NO_CLAIM, PATIENCE_SECONDS, Member, Service, draft, enrol, until
from tests.worlds.plans import make_plan, names

ENTRIES = 12
LOCAL = NO_CLAIM.model_copy(update={"mode": "local", "unit": "example", "epsilon": "6", "delta": "0.00001"})


@pytest.fixture
def recipe() -> Recipe:
    initial = hashlib.sha256(initial_adapter(ENTRIES)).hexdigest()
    return make_plan(entries=ENTRIES, recipe={"adapter": {"initial_hash": initial}})[0].recipe


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path / "coordinator")
    yield running
    running.stop()


@pytest.fixture
def federation(tmp_path: Path, service: Service, recipe: Recipe) -> Iterator[dict[str, Member]]:
    """Five enrolled participants and an evaluator, all polling."""
    members = {}
    roles = {**dict.fromkeys(names(5), Role.PARTICIPANT), "referee": Role.EVALUATOR}
    for name, role in roles.items():
        members[name] = enrol(service, tmp_path / name, name, role, recipe)
    for member in members.values():
        member.start()
    until(lambda: service.live() == frozenset(roles), "everybody polls")
    yield members
    for member in members.values():
        member.end()


def create_run(service: Service, draft_directory: Path) -> Plan:
    """Sign the draft for all five, as `run create` does."""
    now = int(time.time())
    request = creation.RunRequest(members=names(5), tolerance=Requested(f=1), created_at=now, expires_at=now + 3600)
    plan = creation.make_plan(
        service.store, service.settings, creation.read_draft(draft_directory), request, random=SystemRandom()
    )
    creation.register(service.store, service.home, service.authority.operator, plan, draft_directory)
    return plan


def survivors(row: RoundRecord) -> tuple[str, ...]:
    return codec.decode_certificate(row.certificate, sender="coordinator").survivors.ids


def has_ended(home: OpenHome, run_id: str) -> bool:
    return home.review.plans.ended(run_id) is not None


LOST = {
    "killed while it trains, it forfeits the round": (True, 4),
    "stopped after it trained, it resumes the round": (False, 5),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # killed threads
@pytest.mark.parametrize(("killed", "counted_in_round_2"), LOST.values(), ids=LOST.keys())
def test_three_rounds_over_mutual_tls_with_a_participant_that_is_lost_and_returns(
    tmp_path: Path,
    service: Service,
    federation: dict[str, Member],
    recipe: Recipe,
    killed: bool,
    counted_in_round_2: int,
) -> None:
    erin_is_back, seen = threading.Event(), dict[str, list[int]]()
    erin = federation["erin"]

    def leave(number: int) -> None:
        seen.setdefault("erin", []).append(number)
        if number == 2:
            erin.stop.set()
            if killed:
                raise SystemExit

    def wait_for_erin(number: int) -> None:
        if number == 2:
            erin_is_back.wait(PATIENCE_SECONDS)

    erin.on_training, federation["bob"].on_training = leave, wait_for_erin
    plan = create_run(service, draft(tmp_path / "draft", recipe, initial_adapter(ENTRIES)))
    until(erin.stop.is_set, "erin trains in round 2")
    erin.join()
    until(lambda: "erin" not in service.live(), "erin is missed")
    erin.start()
    until(lambda: "erin" in service.live(), "erin is back")
    erin_is_back.set()
    until(lambda: service.state(plan.run_id) == "completed", "the run completes")

    rows = service.rounds(plan.run_id)
    everybody = names(5)
    assert [survivors(row) for row in rows] == [everybody, everybody[:counted_in_round_2], everybody]
    starts = [*federation["alice"].adapters[plan.run_id], last_adapter(service, plan)]
    for row, before, after in zip(rows, starts[:-1], starts[1:], strict=True):
        mean = (after - before) * 2**plan.encoding.scale_exponent * len(survivors(row))
        counted = [name in survivors(row) for name in everybody]
        np.testing.assert_allclose(mean[: len(everybody)], counted, atol=1e-3)  # float32 adapters, integers between
        assert not mean[len(everybody) :].any()
    assert seen["erin"] == [1, 2, 3]
    assert [one.round for one in service.measured(plan.run_id)] == [0, 1, 2, 3]

    for name in everybody:
        home = open_home(federation[name].directory)
        until(partial(has_ended, home, plan.run_id), f"{name} hears of the end")
        decision = home.review.plans.decision(plan.run_id)
        assert isinstance(decision, Decision)
        assert (decision.verdict, decision.by, decision.roster_verified) == ("approved", "policy", False)
        assert [one.entry.population for one in home.ledger.rows() if isinstance(one.entry, Unprotected)] == [
            "patients"
        ]
        until(partial(is_swept, home.home.runs / plan.run_id), f"{name} erases what it needs no more")

    if not killed:
        second = create_run(service, tmp_path / "draft")
        until(lambda: service.state(second.run_id) == "completed", "a second run completes on the same daemons")


def test_the_reports_of_coordinator_and_participants_of_one_run_tell_one_history(
    tmp_path: Path, service: Service, federation: dict[str, Member], recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = create_run(service, draft(tmp_path / "draft", recipe, initial_adapter(ENTRIES), LOCAL))
    until(lambda: service.state(plan.run_id) == "completed", "the run completes")
    reports = {"coordinator": service.home.run(plan.run_id) / "report.json"}
    for name in ("alice", "bob"):
        home = open_home(federation[name].directory)
        until(partial(has_ended, home, plan.run_id), f"{name} hears of the end")
        reports[name] = home.home.runs / plan.run_id / "report.json"
        until(reports[name].exists, f"{name} reports")
    for one, other in (("coordinator", "alice"), ("alice", "coordinator"), ("alice", "bob")):
        code = onlysum.run(["audit", "compare", str(reports[one]), str(reports[other])])
        printed = capsys.readouterr().out
        assert code == 0
        assert "both can be true: one plan, one history" in printed
        assert "charged rounds 3 3" in " ".join(printed.split())
        assert "* transcript" not in " ".join(printed.split()), "no star: the same"
    assert onlysum.run(["audit", "verify", str(reports["alice"])]) == 0
    assert "the spend of 1 run on population patients" in " ".join(capsys.readouterr().out.split())


def is_swept(run: Path) -> bool:
    """Return whether nothing is left of a run but what it proves."""
    return {path.name.partition(".")[0] for path in run.iterdir()} == {"journal", "certificate", "report"}


def last_adapter(service: Service, plan: Plan) -> NDArray[np.float32]:
    files = RunFiles(service.home.run(plan.run_id))
    return np.frombuffer(files.iterate(plan.recipe.rounds).read_bytes(), dtype="<f4")


def test_of_two_copies_of_a_home_neither_goes_on_until_one_is_stopped_and_both_sides_say_so(
    tmp_path: Path, service: Service, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(sessions, "SILENT_SECONDS", 2.0)
    monkeypatch.setattr(delivery, "LONGEST_PAUSE_SECONDS", 0.5)

    def code(member: Member) -> str:
        seen = read_status(open_home(member.directory).home)
        return seen.code if seen else ""

    alice = enrol(service, tmp_path / "alice", "alice", Role.PARTICIPANT, recipe)
    shutil.copytree(tmp_path / "alice", tmp_path / "copy")
    copy = Member(tmp_path / "copy")
    alice.start()
    copy.start()
    until(lambda: code(alice) == code(copy) == "E-NET-TWICE", "both are told")
    assert [trouble.code for trouble in service.runner.troubles()] == ["E-NET-TWICE"]
    copy.end()
    until(lambda: not code(alice) and "alice" in service.live(), "the one that is left goes on by itself")
    assert service.runner.troubles() == ()
    alice.end()


def test_who_joins_later_or_anew_is_listed_with_its_fingerprint_without_a_restart(
    tmp_path: Path, service: Service, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller, "LISTING_SECONDS", 0.1)
    monkeypatch.setattr(poller, "POLL_SECONDS", 0.2)

    def listed() -> dict[str, bytes]:
        seen = read_status(open_home(alice.directory).home)
        return {member.name: member.identity_key for member in seen.members} if seen else {}

    def joined(place: str) -> bytes:
        directory = tmp_path / place
        enrol(service, directory, "bob", Role.PARTICIPANT, recipe)
        return open_home(directory).owner.identity.public

    alice = enrol(service, tmp_path / "alice", "alice", Role.PARTICIPANT, recipe)
    alice.start()
    until(lambda: "alice" in listed(), "alice connects")
    first = joined("bob")
    until(lambda: listed().get("bob") == first, "bob is listed")
    with service.store.begin() as connection:
        member_rows.revoke_member(connection, "bob", now=int(time.time()))
    second = joined("bob again")
    assert second != first
    until(lambda: listed().get("bob") == second, "bob is listed with the other key")
    alice.end()
