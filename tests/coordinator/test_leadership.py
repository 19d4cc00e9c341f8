"""A leader that was replaced commits, publishes and removes nothing any more; and who takes which run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from coordinator.database import run_rows
from coordinator.database.run_rows import RunState
from coordinator.leadership.claims import Claims, LedRun, decide
from coordinator.runs import completion, run
from coordinator.runs.attempt import Attempt
from coordinator.runs.global_adapter import RunFiles
from coordinator.runs.uploads import Upload, UploadStore
from privacy.errors import LocalError, NetworkError, PeerError
from privacy.secagg.hashes import adapter_hash, genesis_transcript
from privacy.secagg.messages import MaskedUpload, Position, Receipt
from protos.status import leader_address, led_elsewhere
from tests.worlds.coordinator import RUN_ID, ScriptedMember, Send, World

AT = Position(bytes(32), 1, 1)
OTHER_ADDRESS = "sum-b.example.org:8443"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- who takes which ---


def led(number: int, members: str, holder: str = "", *, reachable: bool = True) -> LedRun:
    return LedRun(str(number), frozenset(members), holder, reachable)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([led(1, "ab")], Claims(("1",), ())),
        ([led(1, "ab", "me")], Claims((), ())),
        ([led(1, "ab", "you")], Claims((), ())),
        ([led(1, "ab", reachable=False)], Claims((), ())),
        ([led(1, "ab", "you"), led(2, "bc")], Claims((), ())),
        ([led(1, "ab", "you"), led(2, "cd")], Claims(("2",), ())),
        ([led(1, "ab", "me"), led(2, "bc")], Claims(("2",), ())),
        ([led(1, "ab", "me"), led(2, "cd", "you"), led(3, "bc")], Claims(("3",), ())),
        ([led(1, "ab", "you"), led(2, "cd", "me"), led(3, "bc")], Claims((), ("2",))),
        ([led(1, "ab"), led(2, "bc", "you")], Claims((), ())),
        ([led(1, "a", "you"), led(2, "b", "me"), led(3, "c", "me"), led(4, "abc", "me")], Claims((), ("2", "3", "4"))),
    ],
    ids=[
        "nobody leads it",
        "it is led here",
        "it is led elsewhere",
        "its files are not here",
        "it shares a member with a run led elsewhere",
        "it shares none with it",
        "it shares a member with a run led here",
        "it joins two, and the older one is led here",
        "it joins two, and the older one is led elsewhere",
        "an older one that nobody leads goes to whoever leads the other",
        "all that hang together go to whoever leads the oldest",
    ],
)
def test_runs_that_share_a_member_are_led_by_one_process(runs: list[LedRun], expected: Claims) -> None:
    assert decide(runs, "me") == expected


# --- a leader that was replaced ---


async def uploaded(world: World) -> dict[str, Receipt]:
    """Bring round 1 to where all updates are uploaded; return the receipts, which are not sent yet."""
    receipts: dict[str, Receipt] = {}

    def keeping_receipts(member: ScriptedMember) -> Send:
        async def send(message: Any) -> None:
            if isinstance(message, MaskedUpload):
                receipts[member.name] = message.receipt
                await member.upload(message.receipt, bytes(message.masked))
            else:
                await member.deliver(message)

        return send

    for member in world.members.values():
        member.send = keeping_receipts(member)
    while len(receipts) < len(world.members):
        await world.turn()
    for member in world.members.values():
        member.send = member.deliver
    return receipts


def test_what_comes_while_a_new_leader_reads_the_journal_is_taken_once_it_has(world: World) -> None:
    async def scenario() -> None:
        receipts = await uploaded(world)
        world.runner = world.other_daemon(OTHER_ADDRESS)
        world.runner.discover()
        upload = receipts["alice"]
        offset = world.runner.upload_offset("alice", RUN_ID, upload.position, upload.masked_hash, upload.length)
        coming: list[asyncio.Task[int] | asyncio.Task[None]] = [asyncio.create_task(offset)]
        coming += [asyncio.create_task(world.runner.submit(name, receipt)) for name, receipt in receipts.items()]
        await asyncio.sleep(0)
        assert not any(task.done() for task in coming)
        await world.runner.tick()
        assert await asyncio.gather(*coming) == [upload.length, None, None, None]
        await world.settle()

    asyncio.run(scenario())
    assert [(row.round, row.attempt, row.survivors) for row in world.rounds()] == [(1, 1, 3), (2, 1, 3)]


def test_a_leader_that_was_replaced_takes_no_message_and_moves_nothing_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "OPENED_WITHIN_SECONDS", 0)

    async def scenario() -> None:
        receipts = await uploaded(world)
        stalled, before = world.runner, world.run()
        world.runner = world.other_daemon(OTHER_ADDRESS)
        world.runner.discover()
        assert world.run().lease.token == before.lease.token + 1
        with pytest.raises(LocalError, match="E-LEASE-LOST"):
            await stalled.submit("alice", receipts["alice"])
        assert before.attempt is None  # what it had in memory is gone
        with pytest.raises(PeerError, match="opened again"):
            await stalled.submit("bob", receipts["bob"])
        await world.runner.tick()
        for name, receipt in receipts.items():
            await world.runner.submit(name, receipt)
        await world.settle()
        before.also(lambda connection: run_rows.request_abort(connection, RUN_ID))
        with pytest.raises(LocalError, match="E-LEASE-LOST"):
            await before.context.writer.written()

    asyncio.run(scenario())
    assert world.state().state is RunState.COMPLETED
    assert not world.state().abort_requested
    assert [(row.round, row.attempt, row.survivors) for row in world.rounds()] == [(1, 1, 3), (2, 1, 3)]
    for number in (1, 2):
        move = world.adapter(number) - world.adapter(number - 1)
        assert [round(float(step) * 3 * 2**16, 3) for step in move[:3]] == [1, 1, 1]


def test_a_stalled_leader_opens_no_attempt(world: World) -> None:
    async def scenario() -> None:
        while world.state().state is not RunState.RUNNING:
            await world.turn()
        before, context = world.run(), world.run().context
        world.runner = world.other_daemon(OTHER_ADDRESS)
        world.runner.discover()
        tried = world.attempts()
        at = Position(world.plan.hash, 1, len(tried) + 1)
        with pytest.raises(LocalError, match="E-LEASE-LOST"):
            Attempt.open(
                context.store,
                before.spool,
                before.plan,
                before.offer(at),
                lease=before.lease,
                rows=before.rows,
                clock=world.clock,
                timers=before.timers,
            )
        assert world.attempts() == tried

    asyncio.run(scenario())


def test_files_of_a_leader_that_was_replaced_are_never_those_of_the_run(world: World) -> None:
    plan, files = world.plan, RunFiles(world.home.run(RUN_ID))
    at, previous = Position(plan.hash, 1, 1), genesis_transcript(plan.hash)
    done = completion.void_round(plan, files, at, drafts=files.drafts(2), previous=previous, now=1)
    files.drafts(1).directory.mkdir()
    files.drafts(1).iterate(1).write_bytes(b"of a leader that was stopped here")
    files.publish(1, done.adapter_hash)
    assert adapter_hash(files.iterate(1).read_bytes()) == done.adapter_hash
    files.publish(1, done.adapter_hash)
    assert adapter_hash(files.iterate(1).read_bytes()) == done.adapter_hash
    for token, report in ((1, b"stale"), (2, b"signed")):
        files.drafts(token).exported.mkdir(parents=True)
        (files.drafts(token).exported / "README.md").write_bytes(report)
        files.drafts(token).report.write_bytes(report)
    files.publish_end(2)
    files.publish_end(2)
    assert files.report.read_bytes() == (files.exported / "README.md").read_bytes() == b"signed"
    assert not list(files.directory.glob("led-*"))


def test_uploads_go_with_the_run_and_who_led_it_before_reaches_none_of_them(tmp_path: Path) -> None:
    upload, spool = Upload(RUN_ID, AT, "alice", bytes(32), 8), UploadStore(tmp_path)
    first, second = spool.led_by(1), spool.led_by(2)
    first.open(RUN_ID, AT)
    first.append(upload, 0, b"1234")
    assert set(second.open(RUN_ID, AT)) == {"alice"}
    assert second.offset(upload, ()) == 4
    assert first.offset(upload, ()) == 0
    with pytest.raises(PeerError, match="E-WIRE"):
        first.append(upload, 4, b"5678")
    with pytest.raises(PeerError, match="E-WIRE-UNEXPECTED"):
        first.append(upload, 0, b"1234")
    with pytest.raises(LocalError, match="E-LEASE-LOST"):
        first.open(RUN_ID, AT)
    first.clear_round(RUN_ID, 1, 1)
    assert second.append(upload, 4, b"5678") == 8
    second.clear_round(RUN_ID, 1, 1)
    assert second.offset(upload, ()) == 0


def test_uploads_of_older_software_which_knew_no_tokens_are_gone_on_with(tmp_path: Path) -> None:
    left = tmp_path / RUN_ID / "1-1"
    left.mkdir(parents=True)
    (left / "alice.00").write_bytes(b"1234")
    assert set(UploadStore(tmp_path).open(RUN_ID, AT)) == {"alice"}
    assert not left.exists()


def test_of_two_processes_that_take_uploads_over_at_once_the_second_gives_the_lease_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    UploadStore(tmp_path).led_by(1).open(RUN_ID, AT)
    rename = Path.rename

    def overtaken(path: Path, target: Path) -> Path:
        rename(path, target.with_name(f"{AT.round}-{AT.attempt}-3"))  # by a process with a later lease
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    with pytest.raises(LocalError, match="E-LEASE-LOST: another process has just taken over"):
        UploadStore(tmp_path).led_by(2).open(RUN_ID, AT)


# --- members ---


def test_a_member_is_told_where_its_runs_are_led_in_words_that_its_daemon_reads() -> None:
    told = led_elsewhere("alice", OTHER_ADDRESS)
    assert leader_address(told) == OTHER_ADDRESS
    assert leader_address(led_elsewhere("alice", "")) == ""
    assert leader_address(NetworkError("E-NET-LOST", told.detail)) == ""
