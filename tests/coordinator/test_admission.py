"""Which certificates the coordinator lets in: a member's current one, and nothing older."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from coordinator.database import member_rows
from coordinator.database.member_rows import TokenRecord
from coordinator.enrolment import authority as ca
from participant.link import identity
from privacy.errors import PeerError
from protos.envelope import Role
from protos.invitation import token_hash
from tests.worlds.coordinator import World
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
        asyncio.run(world.runner.admit(name, certificate))
    return caught.value.code


def test_a_member_is_admitted_with_its_certificate(world: World) -> None:
    asyncio.run(world.runner.admit(NAME, enrolled(world, "first")))


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
    asyncio.run(world.runner.admit(NAME, new))
