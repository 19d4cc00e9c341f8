"""Which certificates the coordinator lets in: a member's current one, and nothing older."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from coordinator.daemon.sessions import MAX_SESSIONS, SILENT_SECONDS, Sessions
from coordinator.database import member_rows
from coordinator.database.member_rows import TokenRecord
from coordinator.enrolment import authority as ca
from coordinator.enrolment.renewals import OVERLAP_SECONDS
from participant.link import identity
from privacy.errors import NetworkError, PeerError
from protos.envelope import Role
from protos.invitation import token_hash
from tests.worlds.coordinator import World
from tests.worlds.postgres import Server
from tests.worlds.seeded import SeededRandom

NAME = "newcomer"


@pytest.fixture
def world(tmp_path: Path, database: str) -> World:
    return World(tmp_path, database=database)


def enrolled(world: World, seed: str) -> bytes:
    """Invite and enrol the newcomer; return the DER of its certificate."""
    now = int(world.clock.now())
    invitation = ca.invite(
        world.authority,
        federation=world.settings.federation,
        name=NAME,
        role=Role.PARTICIPANT,
        enrolment_addresses=["127.0.0.1:2"],
        addresses=["127.0.0.1:1"],
        random=SeededRandom(f"invitation {seed}"),
        until=now + 60,
    )
    token = TokenRecord(
        token_id=invitation.token_id,
        secret_hash=token_hash(invitation.token_id, invitation.secret),
        name=NAME,
        role=Role.PARTICIPANT,
        labels="",
        made_at=now,
        expires_at=invitation.expires_at,
    )
    with world.store.begin() as connection:
        member_rows.add_token(connection, token)
    request = identity.enrolment_request(invitation, identity.new_keys(SeededRandom(seed)))
    issued = asyncio.run(world.runner.enrol(request))
    return ssl.PEM_cert_to_DER_cert(issued.certificate.decode())


def refused(world: World, name: str, certificate: bytes) -> str:
    with pytest.raises(PeerError) as caught:
        asyncio.run(world.runner.admit(name, certificate, b""))
    return caught.value.code


def test_a_member_is_admitted_with_its_certificate(world: World) -> None:
    asyncio.run(world.runner.admit(NAME, enrolled(world, "first"), b""))


def test_a_stranger_is_not_admitted(world: World) -> None:
    assert refused(world, "stranger", enrolled(world, "first")) == "E-MEMBER-UNKNOWN"


def test_a_revoked_certificate_stays_out_when_the_member_enrols_again(world: World) -> None:
    old = enrolled(world, "first")
    with world.store.begin() as connection:
        member_rows.revoke_member(connection, NAME, int(world.clock.now()))
    world.runner = world.daemon()
    assert refused(world, NAME, old) == "E-MEMBER-REVOKED"
    new = enrolled(world, "second")
    assert refused(world, NAME, old) == "E-MEMBER-REVOKED"
    asyncio.run(world.runner.admit(NAME, new, b""))


def test_what_one_coordinator_issues_or_replaces_counts_at_the_other_before_it_has_looked(
    tmp_path: Path, postgres: Server
) -> None:
    world = World(tmp_path, database=postgres.database())
    first, renewed = enrolled(world, "first"), world.authority.server_certificate
    here, there, now = world.runner, world.other_daemon("127.0.0.1:10"), int(world.clock.now())
    there.discover()
    with world.store.begin() as connection:
        member_rows.keep_renewed(connection, NAME, renewed, now, "issued here")
    here.discover()
    asyncio.run(there.admit(NAME, ssl.PEM_cert_to_DER_cert(renewed.decode()), b""))
    with world.store.read() as connection:
        assert member_rows.active_member(connection, NAME).certificate == renewed
    here.discover()
    asyncio.run(here.admit(NAME, first, b""))  # calls that were on their way are heard
    asyncio.run(there.admit(NAME, first, b""))
    world.clock.seconds += OVERLAP_SECONDS
    for runner in (here, there):
        world.runner = runner
        assert refused(world, NAME, first) == "E-MEMBER-REVOKED"
        assert refused(world, NAME, b"never issued") == "E-MEMBER-REVOKED"
        asyncio.run(runner.admit(NAME, ssl.PEM_cert_to_DER_cert(renewed.decode()), b""))
    world.store.close()


def twice(world: World, certificate: bytes, session: bytes) -> bool:
    """Call once in a session, and return whether the call was refused because two daemons run."""
    try:
        asyncio.run(world.runner.admit(NAME, certificate, session))
    except NetworkError as error:
        return error.code == "E-NET-TWICE"
    return False


OLD, NEW = b"o" * 16, b"n" * 16


def test_a_daemon_that_was_started_again_is_served_at_once(world: World) -> None:
    certificate = enrolled(world, "first")
    for session in (OLD, OLD, NEW, NEW, NEW):
        assert not twice(world, certificate, session)
        world.clock.seconds += 1
    assert world.runner.troubles() == ()


def test_of_two_copies_of_a_directory_neither_is_served_until_one_falls_silent(world: World) -> None:
    certificate = enrolled(world, "first")
    assert not twice(world, certificate, OLD)
    world.clock.seconds += 1
    assert not twice(world, certificate, NEW)
    world.clock.seconds += 1
    for session in (OLD, NEW, b"", OLD, NEW):
        assert twice(world, certificate, session)
        assert [trouble.code for trouble in world.runner.troubles()] == ["E-NET-TWICE"]
        world.clock.seconds += 20
    with world.store.read() as connection:
        assert [row.kind for row in member_rows.security_log(connection)].count("identity-twice") == 1
    world.clock.seconds += SILENT_SECONDS
    assert not twice(world, certificate, NEW)
    assert world.runner.troubles() == ()


def test_malicious_member_with_ever_new_sessions_is_remembered_by_a_few(world: World) -> None:
    sessions = Sessions(world.clock)
    for number in range(1000):
        sessions.hear(NAME, number.to_bytes(16))
        world.clock.seconds += 0.01
    assert len(sessions._recent(NAME)) == MAX_SESSIONS
    assert not sessions.twice(NAME)
    sessions.hear("another", OLD)
    sessions.hear(NAME, (999 - MAX_SESSIONS // 2).to_bytes(16))
    assert sessions.all_twice() == (NAME,)
