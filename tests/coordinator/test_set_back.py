"""A coordinator that was set back is shown so by certificates: it holds the run, says why, and no liar can make it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from coordinator.daemon.backup import DATABASE
from coordinator.database import attempt_rows, run_rows
from coordinator.database.run_rows import RunState
from coordinator.database.store import Store, copy_sqlite
from coordinator.opened import OpenHome
from coordinator.protocol.checks import check_known_round
from coordinator.runs.run import COORDINATOR
from coordinator.views.overview import overview
from coordinator.views.sentence import run_sentence
from coordinator.views.status import OpenRun
from privacy.errors import PeerError
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg.messages import Position, RoundCertificate, SurvivorSet, SurvivorSignature
from privacy.secagg.parameters import Parameters
from protos import codec
from protos.envelope import RoundKnown
from tests.worlds.coordinator import RUN_ID, World
from tests.worlds.plans import make_plan

CODE = "E-COORDINATOR-ROLLBACK"


async def rounds(world: World, count: int) -> None:
    """Let the federation complete rounds."""
    for _ in range(400):
        if len(world.rounds()) >= count:
            return
        await world.turn()
    raise AssertionError("no round completes")


def certificate(world: World, number: int) -> RoundCertificate:
    row = world.rounds()[number - 1]
    return codec.decode_certificate(row.certificate, sender=COORDINATOR)


def set_back(world: World, backup: Path) -> None:
    """Put a backup in the database's place, as `restore` does, and start a daemon on it."""
    world.store.close()
    for path in world.home.directory.glob(f"{DATABASE}*"):
        path.unlink()
    copy_sqlite(backup, world.home.directory / DATABASE)
    world.store = Store.create(world.settings.database_url(world.home))
    with world.store.begin() as connection:
        attempt_rows.abort_open_attempts(connection, 0, attempt_rows.RESTORED)
    world.runner = world.daemon()
    world.runner.discover()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path, RoundCertificate, RoundCertificate]:
    """A run of three rounds that was backed up after the first."""
    path = tmp_path_factory.mktemp("set-back")
    world, backup = World(path, n=4, f=1, rounds=3), path / "backup.db"

    async def scenario() -> None:
        await rounds(world, 1)
        copy_sqlite(world.home.directory / DATABASE, backup)
        await rounds(world, 3)

    asyncio.run(scenario())
    return world, backup, certificate(world, 2), certificate(world, 3)


Story = tuple[World, Path, RoundCertificate, RoundCertificate]


def show(world: World, known: RoundCertificate) -> None:
    asyncio.run(world.runner.submit("alice", RoundKnown(RUN_ID, known)))


def test_a_later_rounds_certificate_holds_the_run_and_says_what_to_do(story: Story) -> None:
    world, backup, _, third = story
    set_back(world, backup)
    show(world, third)
    row = world.state()
    assert (row.state, row.held, row.code) == (RunState.RUNNING, True, CODE)
    assert "round 3 was completed, and here is nothing after round 1" in row.reason
    assert "alice has the certificate" in row.reason
    asyncio.run(world.runner.tick())
    with world.store.read() as connection:
        assert not [one for one in attempt_rows.list_attempts(connection, RUN_ID) if one.state == "open"]
    show(world, third)  # said again, it changes nothing
    assert world.state() == row
    opened = OpenHome(world.home, world.settings, world.store)
    said = run_sentence(overview(opened, RUN_ID), world.clock.now())
    line = OpenRun(row.run_id, row.state.value, row.paused, row.code, said).to_line()
    assert "held: E-COORDINATOR-ROLLBACK" in line
    assert "in trouble (E-COORDINATOR-ROLLBACK)" in said.text


def test_an_attempt_that_is_open_when_the_certificate_comes_is_aborted_with_that_code(story: Story) -> None:
    world, backup, second, _ = story
    set_back(world, backup)

    async def scenario() -> None:
        for _ in range(20):
            await world.turn()
            if any(one.state == "open" for one in tried(world)):
                break
        await world.runner.submit("bob", RoundKnown(RUN_ID, second))
        await world.runner.tick()

    asyncio.run(scenario())
    assert [one.state for one in tried(world) if one.state == "open"] == []
    assert world.state().held


def tried(world: World) -> list[attempt_rows.AttemptRecord]:
    with world.store.read() as connection:
        return list(attempt_rows.list_attempts(connection, RUN_ID))


def test_a_held_run_goes_on_when_its_operator_says_so(story: Story) -> None:
    world, backup, _, third = story
    set_back(world, backup)
    show(world, third)
    with world.store.begin() as connection:
        run_rows.set_paused(connection, RUN_ID, paused=False)
    row = world.state()
    assert (row.held, row.paused, row.code, row.reason) == (False, False, "", "")


def test_a_certificate_of_the_attempt_that_a_restore_gave_up_counts(story: Story) -> None:
    world, backup, second, _ = story
    set_back(world, backup)
    position = second.position
    with world.store.begin() as connection:
        if position.order not in {(one.round, one.attempt) for one in attempt_rows.list_attempts(connection, RUN_ID)}:
            attempt_rows.open_attempt(connection, RUN_ID, position, 0)
        attempt_rows.abort_open_attempts(connection, 0, attempt_rows.RESTORED)
    world.runner = world.daemon()
    world.runner.discover()
    show(world, second)
    assert world.state().held


def without_signatures(known: RoundCertificate) -> RoundCertificate:
    return replace(known, signatures=known.signatures[:2])


def repeated_signature(known: RoundCertificate) -> RoundCertificate:
    return replace(known, signatures=(known.signatures[0],) * 4)


def another_round(known: RoundCertificate) -> RoundCertificate:
    at = known.position
    return replace(known, position=Position(at.plan_hash, at.round, at.attempt + 1))


def other_survivors(known: RoundCertificate) -> RoundCertificate:
    members = tuple((name, hashlib.sha256(name.encode()).digest()) for name, _ in known.survivors.members)
    return replace(known, survivors=SurvivorSet(known.survivors.u2_hash, members))


def strangers(known: RoundCertificate) -> RoundCertificate:
    members = (*known.survivors.members, ("zoe", b"z" * 32))
    return replace(known, survivors=SurvivorSet(known.survivors.u2_hash, members))


def too_few(known: RoundCertificate) -> RoundCertificate:
    return replace(known, survivors=SurvivorSet(known.survivors.u2_hash, known.survivors.members[:2]))


def unsorted(known: RoundCertificate) -> RoundCertificate:
    return replace(known, survivors=SurvivorSet(known.survivors.u2_hash, known.survivors.members[::-1]))


def another_plan(known: RoundCertificate) -> RoundCertificate:
    at = known.position
    return replace(known, position=Position(b"p" * 32, at.round, at.attempt))


LIES: dict[str, tuple[Callable[[RoundCertificate], RoundCertificate], str]] = {
    "too few have signed it": (without_signatures, "E-ROUND-QUORUM"),
    "one signature stands for all": (repeated_signature, "E-ROUND-QUORUM"),
    "it is moved to another attempt": (another_round, "E-ROUND-QUORUM"),
    "other survivors are written over the signatures": (other_survivors, "E-ROUND-QUORUM"),
    "it names somebody who is not on the roster": (strangers, "E-ROUND-SET"),
    "it names fewer than may survive": (too_few, "E-ROUND-SET"),
    "its survivors are not sorted": (unsorted, "E-ROUND-SET"),
    "it is of another plan": (another_plan, "E-ROUND-CONTEXT"),
}


@pytest.mark.parametrize("lie", LIES)
def test_malicious_certificate_holds_no_run_if(lie: str, story: Story) -> None:
    world, backup, _, third = story
    set_back(world, backup)
    change, code = LIES[lie]
    before = world.state()
    with pytest.raises(PeerError) as refused:
        show(world, change(third))
    assert (refused.value.code, refused.value.participant) == (code, "alice")
    assert world.state() == before


def test_malicious_certificate_made_of_what_one_was_asked_to_unmask_holds_no_run(story: Story) -> None:
    """Whoever releases shares holds a quorum's signatures, also of an attempt that was aborted after that."""
    world, backup, second, _ = story
    set_back(world, backup)
    with world.store.begin() as connection:
        if second.position.order not in {(one.round, one.attempt) for one in tried_in(connection)}:
            attempt_rows.open_attempt(connection, RUN_ID, second.position, 0)
        attempt_rows.end_attempt(
            connection, RUN_ID, second.position, "aborted", now=0, code="E-ROUND-TOO-FEW", reason="too few answered"
        )
    world.runner = world.daemon()
    world.runner.discover()
    with pytest.raises(PeerError, match="E-ROUND-CONTEXT"):
        show(world, second)
    assert not world.state().held


def tried_in(connection: Connection) -> tuple[attempt_rows.AttemptRecord, ...]:
    return attempt_rows.list_attempts(connection, RUN_ID)


def test_a_certificate_of_a_round_that_is_known_or_of_a_run_that_is_over_changes_nothing(story: Story) -> None:
    world, backup, second, third = story
    set_back(world, backup)
    asyncio.run(world.runner.tick())
    with pytest.raises(PeerError, match="E-ROUND-CONTEXT"):
        show(world, certificate(world, 1))
    with world.store.begin() as connection:
        run_rows.set_run_state(
            connection, RUN_ID, RunState.ABORTED, now=int(world.clock.seconds), code="E-RUN-FAILED", reason="ended"
        )
    world.runner = world.daemon()
    world.runner.discover()
    show(world, third)
    assert (world.state().state, world.state().code) == (RunState.ABORTED, "E-RUN-FAILED")
    assert second.position.round == 2


def known_round(signers: Iterable[str]) -> tuple[Parameters, RoundCertificate]:
    """Return a round of five members whose survivors are the first four, signed by whom the test says."""
    plan, keys = make_plan(n=5, f=1)
    parameters, at = plan.parameters(), Position(plan.hash, 1, 1)
    survivors = SurvivorSet(b"u" * 32, tuple((name, b"d" * 32) for name in parameters.ids[:4]))
    signatures = tuple(
        SurvivorSignature(at, name, keys[name].sign(survivors.signed_bytes(PROTOCOL_VERSION, at, name, b"c" * 32)))
        for name in signers
    )
    return parameters, RoundCertificate(at, b"c" * 32, survivors, b"s" * 32, signatures)


def test_a_round_is_known_by_a_quorum_of_its_own_survivors_and_no_fewer() -> None:
    ids = make_plan(n=5, f=1)[0].parameters().ids
    parameters, known = known_round(ids[:4])
    assert parameters.quorum == 4
    check_known_round(parameters, known, sender="alice")
    for signers in (ids[:3], (*ids[:3], ids[4])):
        parameters, known = known_round(signers)
        with pytest.raises(PeerError, match="E-ROUND-QUORUM"):
            check_known_round(parameters, known, sender="alice")
