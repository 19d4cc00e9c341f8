"""Masked updates on their way into a sum, wherever they are kept: each counts once, whole, as its receipt says.

Where uploads are kept elsewhere, another machine goes on with an attempt from there; what does not come back as it was
put there costs an attempt, and never makes a wrong sum.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Never

import pytest

from coordinator.daemon.runner import Runner
from coordinator.runs.attempt import Attempt
from coordinator.runs.uploads import Upload, UploadStore
from coordinator.storage import blobs as stored
from coordinator.storage.blobs import Blobs, DirectoryBlobs
from coordinator.storage.configured import Storage, open_blobs
from participant.protocol.round import Advertised
from privacy.errors import LocalError, PeerError
from privacy.secagg.messages import Position, Receipt
from tests.worlds.coordinator import EVALUATOR, RUN_ID, World
from tests.worlds.object_store import Fault, ObjectServer

AT = Position(b"\1" * 32, 1, 1)
AWAY = LocalError("E-STORAGE-AWAY", "the storage is away")
DATA = b"a whole upload of 32 bytes......"
WHOLE = Upload(RUN_ID, AT, "alice", hashlib.sha256(DATA).digest(), len(DATA))


@pytest.fixture
def world(tmp_path: Path, storage: Storage | None) -> World:
    """A federation of three and an evaluator, with its storage."""
    return World(tmp_path, evaluated=True, storage=storage)


@dataclass
class Kept:
    """A federation of three whose uploads are kept elsewhere too, and that place."""

    world: World
    blobs: Blobs
    place: Path

    def names(self, prefix: str = "spool") -> list[str]:
        """Return the names of the blobs that begin so."""
        return [blob.name for blob in self.blobs.list(prefix)]

    def taken_over(self) -> Runner:
        """Let a coordinator on another machine lead the run from now on: nothing but database and storage is there."""
        self.world.runner = self.world.on_another_machine(self.place / "second")
        return self.world.runner

    async def counted(self) -> Receipt:
        """Go on until everybody's update is in the sum, alice's last."""
        receipt, masked = await self.world.collecting()
        await self.world.members["alice"].upload(receipt, masked)
        await self.world.runner.submit("alice", receipt)
        return receipt


@pytest.fixture
def kept(tmp_path: Path, storage_elsewhere: Storage) -> Kept:
    (tmp_path / "first").mkdir()
    world = World(tmp_path / "first", storage=storage_elsewhere)
    return Kept(world, open_blobs(storage_elsewhere, world.home.directory), tmp_path)


def check_sums(world: World, tmp_path: Path) -> None:
    """Compare the adapters with those of a federation that nothing happened to."""
    (tmp_path / "plain").mkdir()
    plain = World(tmp_path / "plain")
    asyncio.run(plain.settle())
    assert [one.survivors for one in world.rounds()] == [one.survivors for one in plain.rounds()] == [3, 3]
    for number in (1, 2):
        assert world.adapter(number).tolist() == plain.adapter(number).tolist()


async def refused(call: Awaitable[object]) -> bool:
    """Return whether a call is refused as a peer's fault."""
    try:
        await call
    except PeerError:
        return True
    return False


def test_an_upload_goes_on_where_it_broke_off_also_at_another_daemon(world: World) -> None:
    async def scenario() -> None:
        receipt, masked = await world.collecting()
        alice = world.members["alice"]
        await alice.upload(receipt, masked, until=20)
        world.runner = world.daemon()
        await world.runner.tick()
        at, sha = receipt.position, receipt.masked_hash
        assert await world.runner.upload_offset("alice", RUN_ID, at, sha, len(masked)) == 32
        await alice.upload(receipt, masked)
        await world.runner.submit("alice", receipt)
        await world.runner.submit("alice", receipt)
        assert await world.runner.upload_offset("alice", RUN_ID, at, sha, len(masked)) == len(masked)
        await world.settle()

    asyncio.run(scenario())
    assert world.state().state.value == "completed"
    assert [one.survivors for one in world.rounds()] == [3, 3]


def test_uploads_that_break_a_rule_are_refused_and_the_right_one_still_counts(world: World) -> None:
    async def scenario() -> None:
        receipt, masked = await world.collecting()
        runner, alice, at, sha = world.runner, world.members["alice"], receipt.position, receipt.masked_hash
        cases = {
            "a longer one": runner.upload_offset("alice", RUN_ID, at, sha, len(masked) + 1),
            "of a stranger": runner.upload_offset(EVALUATOR, RUN_ID, at, sha, len(masked)),
            "of an attempt that was never opened": runner.upload_offset(
                "alice", RUN_ID, Position(at.plan_hash, 1, 2), sha, len(masked)
            ),
            "of another run": runner.upload_offset("alice", "ff" * 16, at, sha, len(masked)),
            "a chunk with a gap": runner.write_chunk("alice", RUN_ID, at, sha, 4, b"abcd"),
            "a chunk beyond the end": runner.write_chunk("alice", RUN_ID, at, sha, 0, masked + b"x"),
            "a receipt before its bytes": runner.submit("alice", receipt),
        }
        for case, call in cases.items():
            assert await refused(call), case
        forged = bytes(len(masked))
        await alice.upload(receipt, forged)
        with pytest.raises(PeerError, match="E-ROUND-UPLOAD"):
            await runner.submit("alice", receipt)
        assert await runner.upload_offset("alice", RUN_ID, at, sha, len(masked)) == 0
        await alice.upload(receipt, masked)
        await runner.submit("alice", receipt)
        await world.settle()

    asyncio.run(scenario())
    assert [one.survivors for one in world.rounds()] == [3, 3]


def test_a_receipt_before_its_upload_is_complete_leaves_what_is_there(world: World) -> None:
    async def scenario() -> None:
        receipt, masked = await world.collecting()
        await world.members["alice"].upload(receipt, masked, until=20)
        assert await refused(world.runner.submit("alice", receipt))
        at, sha = receipt.position, receipt.masked_hash
        assert await world.runner.upload_offset("alice", RUN_ID, at, sha, len(masked)) == 32

    asyncio.run(scenario())


def test_an_upload_of_a_member_that_dealt_no_shares_is_refused(tmp_path: Path, storage: Storage | None) -> None:
    world = World(tmp_path, n=5, rounds=1, storage=storage)

    async def scenario() -> None:
        erin = world.members["erin"]
        while not isinstance(erin.simulated.state, Advertised):
            await world.turn()
        erin.present = False
        while isinstance(world.members["alice"].simulated.state, Advertised | None):
            await world.turn()
        for _ in range(3):
            await world.turn()
        world.clock.seconds += 2.5  # erin's heartbeat is over
        receipt, masked = await world.collecting()
        at, sha = receipt.position, receipt.masked_hash
        assert await refused(world.runner.upload_offset("erin", RUN_ID, at, sha, len(masked)))
        assert await world.runner.upload_offset("alice", RUN_ID, at, sha, len(masked)) == 0

    asyncio.run(scenario())


def test_another_upload_of_the_same_member_replaces_the_unfinished_one(world: World) -> None:
    async def scenario() -> None:
        receipt, masked = await world.collecting()
        at, spool = receipt.position, world.settings.spool_path(world.home)
        for sha in (b"1" * 32, b"2" * 32):
            await world.runner.upload_offset("alice", RUN_ID, at, sha, len(masked))
            await world.runner.write_chunk("alice", RUN_ID, at, sha, 0, b"abc")
        assert len(list(spool.rglob("alice.*"))) == 1

    asyncio.run(scenario())


def test_a_chunk_that_was_under_way_when_its_round_was_cleared_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    spool, at = UploadStore(tmp_path / "spool"), Position(b"\1" * 32, 1, 1)
    spool.open(RUN_ID, at)
    upload = Upload(RUN_ID, at, "alice", b"\2" * 32, 32)
    assert spool.append(upload, 0, bytes(16)) == 16
    spool.clear_round(RUN_ID, 1, 1)
    with pytest.raises(PeerError, match="E-WIRE-UNEXPECTED: alice in COLLECT_MASKED: the attempt is over"):
        spool.append(upload, 0, bytes(16))
    assert not list(spool.directory.rglob("alice.*"))


def test_the_spool_is_empty_when_the_run_is_over(world: World) -> None:
    asyncio.run(world.settle())
    assert not list(world.settings.spool_path(world.home).rglob("*.*"))


def test_members_read_what_is_kept_of_their_runs_from_wherever_it_is(world: World) -> None:
    async def read(sha256: bytes, offset: int = 0) -> bytes:
        return b"".join([data async for data in world.runner.read_content("bob", sha256, offset)])

    async def scenario() -> None:
        await world.settle()
        start = world.adapter(0).tobytes()
        assert await read(hashlib.sha256(start).digest(), 4) == start[4:]
        released = world.files().released(2).read_bytes()
        assert await read(hashlib.sha256(released).digest()) == released

    asyncio.run(scenario())


# --- where they are kept elsewhere ---


def test_another_machine_goes_on_with_the_uploads_that_were_counted(kept: Kept, tmp_path: Path) -> None:
    async def scenario() -> None:
        receipt = await kept.counted()
        runner = kept.taken_over()
        await runner.tick()
        attempt = kept.world.run().attempt
        assert attempt is not None
        assert set(attempt.counted) == {"alice", "bob", "carol"}
        assert attempt.counted["alice"] == receipt.masked_hash
        await kept.world.settle()

    asyncio.run(scenario())
    assert [(one.round, one.attempt) for one in kept.world.attempts()] == [(1, 1), (2, 1)]
    check_sums(kept.world, tmp_path)


def test_another_machine_goes_on_from_the_adapter_of_the_last_round(kept: Kept, tmp_path: Path) -> None:
    async def scenario() -> None:
        while len(kept.world.rounds()) < 1:
            await kept.world.turn()
        kept.taken_over()
        await kept.world.settle()

    asyncio.run(scenario())
    assert kept.world.state().state.value == "completed"
    check_sums(kept.world, tmp_path)
    again = kept.world.on_another_machine(tmp_path / "third")
    again.discover()
    assert kept.world.files().exported.joinpath("adapter_model.safetensors").read_bytes()
    assert kept.world.files().report.read_bytes()


def test_the_last_chunk_is_acknowledged_only_once_the_upload_is_kept(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        receipt, masked = await kept.world.collecting()
        alice = kept.world.members["alice"]
        with monkeypatch.context() as broken:
            broken.setattr(type(kept.blobs), "put_new", _away)
            for _ in range(2):  # the last chunk, then the announcement of what is whole already
                with pytest.raises(LocalError, match="E-STORAGE-AWAY"):
                    await alice.upload(receipt, masked)
            with pytest.raises(LocalError, match="E-STORAGE-AWAY"):
                await kept.world.runner.submit("alice", receipt)
        attempt = kept.world.run().attempt
        assert attempt is not None
        assert "alice" not in attempt.counted
        assert not any("alice" in name for name in kept.names())
        await alice.upload(receipt, masked)
        assert sum("alice" in name for name in kept.names()) == 1
        for _ in range(2):
            await kept.world.runner.submit("alice", receipt)
        await kept.world.settle()

    asyncio.run(scenario())
    check_sums(kept.world, tmp_path)


@pytest.mark.parametrize("late", [False, True], ids=["before the takeover", "after the takeover"])
def test_an_upload_that_was_acknowledged_elsewhere_counts_with_its_receipt_alone(
    kept: Kept, tmp_path: Path, late: bool
) -> None:
    async def scenario() -> None:
        receipt, masked = await kept.world.collecting()
        if late:  # a leader that was replaced puts it as it wakes
            await kept.taken_over().tick()
            name = f"spool/{RUN_ID}/1-1/alice.{receipt.masked_hash.hex()}"
            file = tmp_path / "upload"
            file.write_bytes(masked)
            kept.blobs.put_new(name, file, sha256=receipt.masked_hash)
        else:
            await kept.world.members["alice"].upload(receipt, masked)
            await kept.taken_over().tick()
        await kept.world.runner.submit("alice", receipt)
        await kept.world.settle()

    asyncio.run(scenario())
    assert len(kept.world.attempts()) == 2
    check_sums(kept.world, tmp_path)


def test_an_upload_that_was_kept_for_an_attempt_as_it_was_opened_before_is_kept_for_it_as_it_is_now(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        receipt, masked = await kept.world.collecting()
        await kept.world.members["alice"].upload(receipt, masked)
        run, keep = kept.world.run(), Attempt.keep
        assert run.attempt is not None
        puts: list[str] = []

        def opened_again(attempt: Attempt, upload: Upload) -> None:
            puts.append(upload.member)
            if len(puts) > 1:
                keep(attempt, upload)

        monkeypatch.setattr(run.attempt, "_kept", {})

        monkeypatch.setattr(Attempt, "keep", opened_again)
        await kept.world.runner.submit("alice", receipt)
        assert puts == ["alice", "alice"]
        assert run.attempt is not None
        assert run.attempt.counted["alice"] == receipt.masked_hash
        assert sum("alice" in name for name in kept.names()) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("spoil", ["changed", "lost"])
def test_an_upload_that_does_not_come_back_costs_an_attempt_and_makes_no_wrong_sum(
    kept: Kept, tmp_path: Path, spoil: str
) -> None:
    async def scenario() -> None:
        await kept.counted()
        name = next(name for name in kept.names() if "alice" in name)
        length = kept.blobs.list(name.rpartition("/")[0])[0].length
        kept.blobs.delete([name])
        if spoil == "changed":
            file = tmp_path / "other"
            file.write_bytes(bytes(length))
            kept.blobs.put_new(name, file, sha256=hashlib.sha256(bytes(length)).digest())
        kept.taken_over()
        await kept.world.settle()

    asyncio.run(scenario())
    assert [(one.attempt, one.state, one.code) for one in kept.world.attempts()[:2]] == [
        (1, "aborted", "E-STATE-DAMAGED"),
        (2, "completed", ""),
    ]
    check_sums(kept.world, tmp_path)


def test_while_the_storage_is_away_an_attempt_waits_and_is_not_given_up(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        await kept.counted()
        runner = kept.taken_over()
        with monkeypatch.context() as broken:
            broken.setattr(type(kept.blobs), "list", _away)
            for _ in range(2):
                with pytest.raises(LocalError, match="E-STORAGE-AWAY"):
                    await runner.tick()
        assert kept.world.attempts()[-1].state == "open"
        await kept.world.settle()

    asyncio.run(scenario())
    assert len(kept.world.attempts()) == 2
    check_sums(kept.world, tmp_path)


def test_a_round_whose_sum_cannot_be_kept_now_is_completed_when_it_can(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        world = kept.world
        put_new = type(kept.blobs).put_new

        def no_sums(blobs: Blobs, name: str, source: Path, *, sha256: bytes) -> None:
            if "/sum-" in name:
                raise AWAY
            put_new(blobs, name, source, sha256=sha256)

        with monkeypatch.context() as broken:
            broken.setattr(type(kept.blobs), "put_new", no_sums)
            for _ in range(3):
                with pytest.raises(LocalError, match="E-STORAGE-AWAY"):
                    await world.settle()
        assert not world.rounds()
        await world.settle()

    asyncio.run(scenario())
    assert [(one.round, one.attempt) for one in kept.world.attempts()] == [(1, 1), (2, 1)]
    check_sums(kept.world, tmp_path)


def test_nothing_of_uploads_and_sums_is_left_when_the_run_is_over_also_if_the_storage_was_away_then(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        with monkeypatch.context() as broken:
            broken.setattr(type(kept.blobs), "delete", _away)
            broken.setattr(type(kept.blobs), "delete_tree", _away)
            with pytest.raises(LocalError, match="E-STORAGE-AWAY"):
                await kept.world.settle()
        assert kept.world.state().state.ended
        assert kept.names()
        await kept.world.settle()

    asyncio.run(scenario())
    assert not kept.names()
    left = {name.split("/")[2] for name in kept.names("runs")}
    assert not {name for name in left if name.startswith("sum-")}
    assert {"initial_adapter.safetensors", "adapter", "report.json", "global-0.f32", "global-2.f32"} <= left
    assert "state-1.safetensors" not in left


def test_uploads_go_with_their_round(kept: Kept) -> None:
    async def scenario() -> None:
        while not kept.world.rounds():
            await kept.world.turn()
        assert not kept.names()

    asyncio.run(scenario())


def _away(*_: object, **__: object) -> Never:
    raise AWAY


# --- the store of uploads itself ---


@pytest.fixture
def spool(tmp_path: Path) -> UploadStore:
    """A spool whose uploads are kept elsewhere too, with alice's whole upload in its directory."""
    made = UploadStore(tmp_path / "spool", blobs=DirectoryBlobs(tmp_path / "kept"))
    made.open(RUN_ID, AT)
    made.append(WHOLE, 0, DATA)
    return made


def names(spool: UploadStore) -> list[str]:
    assert spool.blobs is not None
    return [blob.name for blob in spool.blobs.list("")]


def blob_name(at: Position = AT, run_id: str = RUN_ID) -> str:
    return f"spool/{run_id}/{at.round}-{at.attempt}/alice.{WHOLE.sha256.hex()}"


def put(spool: UploadStore, name: str, data: bytes = DATA) -> None:
    assert spool.blobs is not None
    file = spool.directory.parent / "file"
    file.write_bytes(data)
    spool.blobs.put_new(name, file, sha256=hashlib.sha256(data).digest())


def test_a_whole_upload_is_kept_once_under_its_place_and_its_hash(spool: UploadStore) -> None:
    assert spool.elsewhere
    assert spool.keep(WHOLE)
    assert spool.keep(WHOLE)
    assert names(spool) == [blob_name()]


def test_uploads_that_the_disk_does_not_remove_are_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = UploadStore(tmp_path / "spool")
    directory = tmp_path / "spool" / RUN_ID
    directory.mkdir(parents=True)
    (directory / "alice").write_bytes(b"an upload")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as disk:
        disk.setattr(os, "unlink", refuse)
        assert not spool.clear_run(RUN_ID)
        with pytest.raises(LocalError, match="E-DISK-FAILED"):
            spool.erase_run(RUN_ID)
    spool.erase_run(RUN_ID)
    assert not directory.exists()
    spool.erase_run(RUN_ID)
    assert spool.clear_run(RUN_ID)


def test_without_a_storage_an_upload_counts_as_it_lies_in_the_directory(tmp_path: Path) -> None:
    spool = UploadStore(tmp_path)
    assert not spool.elsewhere
    assert spool.keep(WHOLE)
    spool.erase_run(RUN_ID)
    assert not list(tmp_path.iterdir())


def test_an_upload_that_is_missing_too_short_or_not_what_its_hash_says_is_not_kept(spool: UploadStore) -> None:
    missing = replace(WHOLE, member="bob")
    short = replace(WHOLE, member="carol")
    spool.append(short, 0, DATA[:-1])
    longer = replace(WHOLE, length=WHOLE.length - 1)
    other = replace(WHOLE, sha256=bytes(32))
    spool.append(other, 0, DATA)
    for upload in (missing, short, longer, other):
        assert not spool.keep(upload)
    assert names(spool) == []


def test_an_attempt_that_is_over_gets_no_upload_back(spool: UploadStore) -> None:
    spool.keep(WHOLE)
    spool.clear_run(RUN_ID)
    assert not spool.keep(WHOLE)
    assert not (spool.directory / RUN_ID).exists()


def test_an_upload_that_is_kept_and_not_whole_here_is_brought_with_its_receipt(
    spool: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.keep(WHOLE)
    for left in (b"", DATA[:-1]):
        spool.path(WHOLE).write_bytes(left)
        assert spool.keep(WHOLE)
        assert spool.path(WHOLE).read_bytes() == DATA
    spool.path(WHOLE).unlink()
    with monkeypatch.context() as broken:
        broken.setattr(DirectoryBlobs, "blocks", _away)
        with pytest.raises(LocalError, match="E-STORAGE-AWAY"):
            spool.keep(WHOLE)
    assert spool.keep(WHOLE)


def test_another_machine_brings_what_is_kept_of_the_attempt_and_of_no_other(spool: UploadStore, tmp_path: Path) -> None:
    spool.keep(WHOLE)
    put(spool, blob_name(Position(AT.plan_hash, 1, 11)))
    put(spool, blob_name(run_id="ff" * 16))
    second = replace(spool, directory=tmp_path / "second", token=2)
    (path,) = second.open(RUN_ID, AT)["alice"]
    assert path.read_bytes() == DATA
    assert path == second.path(WHOLE)
    assert len(list((tmp_path / "second").rglob("alice.*"))) == 1


def test_what_is_whole_here_is_not_brought_again_and_what_is_not_is_replaced(
    spool: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.keep(WHOLE)
    fetched: list[str] = []
    fetch = stored.fetch

    def counting(blobs: Blobs, name: str, target: Path, *, sha256: bytes, length: int) -> None:
        fetched.append(name)
        fetch(blobs, name, target, sha256=sha256, length=length)

    monkeypatch.setattr(stored, "fetch", counting)
    spool.open(RUN_ID, AT)
    assert fetched == []
    spool.path(WHOLE).write_bytes(DATA[:4])
    spool.open(RUN_ID, AT)
    assert fetched == [blob_name()]
    assert spool.path(WHOLE).read_bytes() == DATA


def test_an_upload_that_is_damaged_where_it_is_kept_is_not_brought_and_others_are(
    spool: UploadStore, tmp_path: Path
) -> None:
    put(spool, blob_name().replace("alice", "bob"), bytes(32))
    spool.keep(WHOLE)
    second = replace(spool, directory=tmp_path / "second")
    assert set(second.open(RUN_ID, AT)) == {"alice"}


def test_a_storage_that_is_away_when_uploads_are_brought_is_no_damage(
    spool: UploadStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.keep(WHOLE)
    monkeypatch.setattr(DirectoryBlobs, "blocks", _away)
    with pytest.raises(LocalError, match="E-STORAGE-AWAY"):
        replace(spool, directory=tmp_path / "second").open(RUN_ID, AT)


def test_names_that_are_no_uploads_are_not_brought_and_go_with_any_round(spool: UploadStore, tmp_path: Path) -> None:
    for strange in ("alice.1234", f"alice-{WHOLE.sha256.hex()}", f"bob.{WHOLE.sha256.hex()}/more"):
        put(spool, f"spool/{RUN_ID}/1-1/{strange}")
    assert replace(spool, directory=tmp_path / "second").open(RUN_ID, AT) == {}
    put(spool, blob_name())
    spool.clear_round(RUN_ID, 1, 0)
    assert names(spool) == [blob_name()]


def test_a_round_that_ended_takes_no_upload_of_a_later_attempt_along(spool: UploadStore) -> None:
    for number, attempt in ((1, 1), (1, 2), (1, 3), (2, 1)):
        put(spool, blob_name(Position(AT.plan_hash, number, attempt)))
    spool.clear_round(RUN_ID, 1, 2)
    assert names(spool) == [blob_name(Position(AT.plan_hash, 1, 3)), blob_name(Position(AT.plan_hash, 2, 1))]
    spool.clear_round(RUN_ID, 2, 1)
    assert names(spool) == []


def test_a_round_ends_though_its_uploads_cannot_be_removed_now(
    spool: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.keep(WHOLE)
    with monkeypatch.context() as broken:
        broken.setattr(DirectoryBlobs, "list", _away)
        spool.clear_round(RUN_ID, 1, 1)
    assert names(spool) == [blob_name()]
    spool.clear_run(RUN_ID)
    assert names(spool) == [blob_name()]
    spool.erase_run(RUN_ID)
    assert names(spool) == []


# --- a bucket in trouble ---


@pytest.mark.objects
@pytest.mark.parametrize("fault", [Fault.ERRORS, Fault.REFUSES, Fault.LOSES_ANSWER])
def test_a_bucket_in_trouble_makes_members_try_again_and_loses_no_round(
    tmp_path: Path, objects: ObjectServer, fault: Fault
) -> None:
    (tmp_path / "first").mkdir()
    world = World(tmp_path / "first", storage=objects.storage(tmp_path.name, tmp_path / "first"))

    async def scenario() -> None:
        receipt, masked = await world.collecting()
        with objects.fault(fault, "PUT"), pytest.raises(LocalError, match="E-STORAGE-AWAY"):
            await world.members["alice"].upload(receipt, masked)
        await world.members["alice"].upload(receipt, masked)
        await world.runner.submit("alice", receipt)
        await world.settle()

    asyncio.run(scenario())
    check_sums(world, tmp_path)
    assert len(world.attempts()) == 2
