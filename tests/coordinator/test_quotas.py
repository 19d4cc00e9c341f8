"""What one member may keep busy at the coordinator: calls, unfinished messages, handshakes, uploads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from coordinator.daemon.quotas import (
    HANDSHAKE_SECONDS,
    HANDSHAKES,
    LEAST_CHUNK_BYTES,
    MAX_BUFFERED,
    MAX_CALLS,
    WORK_SECONDS,
    WORK_SHARE,
    CallQuota,
    ChunkSizes,
    HandshakeRate,
    WorkQuota,
)
from coordinator.daemon.troubles import Trouble
from coordinator.database import member_rows
from privacy.errors import NetworkError, PeerError
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg.messages import MaskedUpload
from protos.envelope import Hello, LedgerHead, Role
from tests.worlds.coordinator import RUN_ID, World
from tests.worlds.federation import VirtualClock


def busy(call: Callable[[], object]) -> None:
    with pytest.raises(NetworkError) as caught:
        call()
    assert caught.value.code == "E-NET-BUSY"


def test_a_member_has_a_bounded_number_of_calls_of_a_kind_and_takes_none_from_others() -> None:
    quota = CallQuota()
    with ExitStack() as calls:
        for _ in range(MAX_CALLS):
            calls.enter_context(quota.call("mallory", "Submit"))
        busy(lambda: calls.enter_context(quota.call("mallory", "Submit")))
        calls.enter_context(quota.call("mallory", "Poll"))
        calls.enter_context(quota.call("alice", "Submit"))
    with quota.call("mallory", "Submit"):
        pass


def test_unfinished_messages_of_a_member_share_one_bound_of_bytes() -> None:
    quota = CallQuota()
    with quota.buffer("mallory", 100) as first, quota.buffer("mallory", 100) as second:
        first.add(100)
        second.add(100 * (MAX_BUFFERED - 1))
        busy(lambda: second.add(1))
        with quota.buffer("alice", 100) as other:
            other.add(100)
    with quota.buffer("mallory", 100) as again:
        again.add(100)


def test_handshakes_follow_each_other_at_a_bounded_rate() -> None:
    clock = VirtualClock()
    rate = HandshakeRate(clock)
    for _ in range(HANDSHAKES):
        rate.spend("mallory")
    busy(lambda: rate.spend("mallory"))
    rate.spend("alice")
    clock.seconds += HANDSHAKE_SECONDS
    rate.spend("mallory")
    busy(lambda: rate.spend("mallory"))


def test_work_for_a_member_is_bounded_at_once_and_a_share_of_a_core_after_that() -> None:
    clock = VirtualClock()
    quota = WorkQuota(clock)
    for _ in range(10):
        quota.spend("mallory", WORK_SECONDS / 10)
    busy(lambda: quota.spend("mallory", 0.01))
    quota.spend("alice", WORK_SECONDS)
    clock.seconds += 10
    quota.spend("mallory", 10 * WORK_SHARE)
    busy(lambda: quota.spend("mallory", 0.01))


def test_only_the_last_chunk_of_a_message_may_be_small() -> None:
    sizes = ChunkSizes("mallory")
    for length in (LEAST_CHUNK_BYTES, LEAST_CHUNK_BYTES, 1):
        sizes.take(length)
    with pytest.raises(PeerError, match="only the last chunk has less than 65536 bytes") as caught:
        sizes.take(LEAST_CHUNK_BYTES)
    assert (caught.value.code, caught.value.participant) == ("E-WIRE-CHUNK", "mallory")


def test_who_was_refused_for_its_quota_is_named_to_the_operator_and_in_the_security_log(tmp_path: Path) -> None:
    world = World(tmp_path, n=3)
    for _ in range(5):
        world.runner.over_quota("bob", NetworkError("E-NET-BUSY", "bob has 8 calls of Submit in flight"))
    assert Trouble("E-NET-BUSY", "bob has 8 calls of Submit in flight") in world.runner.troubles()
    with world.store.read() as connection:
        rows = [(row.kind, row.subject, row.detail) for row in member_rows.security_log(connection)]
    assert rows.count(("over-quota", "bob", "E-NET-BUSY")) == 1


def test_malicious_handshakes_with_old_heads_write_a_bounded_number_of_rows(tmp_path: Path) -> None:
    world = World(tmp_path, n=3)

    async def scenario() -> None:
        await world.runner.tick()
        for number in range(100):
            head = LedgerHead(100 - number, b"h" * 32)
            hello = Hello(PROTOCOL_VERSION, "0.2.0", "alice", Role.PARTICIPANT, head, ())
            with suppress(NetworkError):
                await world.runner.handshake("alice", hello)

    asyncio.run(scenario())
    with world.store.read() as connection:
        kinds = [row.kind for row in member_rows.security_log(connection)]
    assert kinds.count("ledger-rollback") == HANDSHAKES - 1, "all but the first show an older head"


def test_malicious_parallel_uploads_leave_one_file_per_member(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, rounds=1)
    member, spool = world.members["bob"], world.settings.spool_path(world.home)
    refused: list[str] = []

    async def flooding(message: object) -> None:
        if not isinstance(message, MaskedUpload):
            await member.deliver(message)
            return
        at, length, runner = message.position, len(message.masked), world.runner
        hashes = [bytes([number]) * 32 for number in range(40)]
        for sha256 in hashes:
            assert await runner.upload_offset("bob", RUN_ID, at, sha256, length) == 0
        for sha256 in hashes:
            try:
                await runner.write_chunk("bob", RUN_ID, at, sha256, 0, b"x")
            except PeerError as error:
                refused.append(error.code)
        assert len(list(spool.rglob("bob.*"))) == 1
        await member.deliver(message)

    member.send = flooding
    asyncio.run(world.settle())
    assert refused == ["E-WIRE-CHUNK"] * 39
    assert world.rounds()[0].survivors == 3, "the right upload still counts"


def test_uploads_of_an_attempt_that_was_given_up_are_dropped(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, rounds=1)
    spool = world.settings.spool_path(world.home)

    async def lost(message: object) -> None:
        if not isinstance(message, MaskedUpload):
            await world.members["carol"].deliver(message)
        else:
            world.members["carol"].present = False

    world.members["carol"].send = lost

    async def scenario() -> None:
        await world.settle()
        assert list(spool.rglob("bob.*"))
        world.clock.seconds += 1801
        await world.settle()

    asyncio.run(scenario())
    assert world.attempts()[0].state == "aborted"
    assert not list(spool.rglob("bob.*"))


def test_the_bound_on_a_submission_follows_from_the_largest_roster_of_a_members_runs(tmp_path: Path) -> None:
    world = World(tmp_path, n=5)
    asyncio.run(world.runner.tick())
    assert world.runner.submission_limit("alice") == 2**16 + 5 * 3 * 2**10
    assert world.runner.submission_limit("stranger") == 2**16
