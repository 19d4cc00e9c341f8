"""An attempt opened again from its events: what does not replay exactly is given up, and another attempt completes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from coordinator.database.tables import events
from coordinator.protocol.round import CoordinatorRound
from coordinator.runs.attempt import ADVERTISED, CLOSED
from protos import codec
from protos.envelope import PlanApproved
from tests.worlds.coordinator import RUN_ID, World


def update(world: World, kind: str, **values: object) -> None:
    """Change the first event of a kind."""
    with world.store.begin() as connection:
        first = connection.execute(sa.select(sa.func.min(events.c.id)).where(events.c.kind == kind)).scalar()
        connection.execute(sa.update(events).where(events.c.id == first).values(**values))


def changed(world: World, kind: str, change: Callable[[bytes], bytes]) -> None:
    """Change the body of the first event of a kind."""
    with world.store.read() as connection:
        query = sa.select(events.c.body).where(events.c.kind == kind).order_by(events.c.id)
        body = bytes(connection.execute(query).scalars().first() or b"")
    update(world, kind, body=change(body))


def deleted(world: World, kind: str) -> None:
    """Delete the first event of a kind."""
    with world.store.begin() as connection:
        first = connection.execute(sa.select(sa.func.min(events.c.id)).where(events.c.kind == kind)).scalar()
        connection.execute(sa.delete(events).where(events.c.id == first))


def upload_of_carol(world: World) -> Path:
    """Where carol's upload lies."""
    return next(world.settings.spool_path(world.home).rglob("carol.*"))


def _approval(world: World) -> bytes:
    return codec.encode_submission(PlanApproved(RUN_ID, world.plan.hash, b"\0" * 64))


DAMAGES: dict[str, Callable[[World], object]] = {
    "the signature of a message is changed": lambda w: changed(w, ADVERTISED, lambda b: b[:-1] + bytes([b[-1] ^ 1])),
    "a message is no message": lambda w: update(w, ADVERTISED, body=b"\xff"),
    "a message is none of a round": lambda w: update(w, ADVERTISED, body=_approval(w)),
    "a message is missing": lambda w: deleted(w, ADVERTISED),
    "the close of a phase is missing": lambda w: deleted(w, CLOSED),
    "a phase closed with other answers": lambda w: changed(w, CLOSED, lambda b: b.replace(b'"alice",', b"")),
    "another phase closed": lambda w: changed(w, CLOSED, lambda b: b.replace(b"ADVERTISE_KEYS", b"SHARE_KEYS")),
    "an upload is gone": lambda w: upload_of_carol(w).unlink(),
    "an upload has other bytes": lambda w: upload_of_carol(w).write_bytes(bytes(upload_of_carol(w).stat().st_size)),
    "an upload was cut": lambda w: upload_of_carol(w).write_bytes(upload_of_carol(w).read_bytes()[:-4]),
    "an upload is empty": lambda w: upload_of_carol(w).write_bytes(b""),
}


@pytest.mark.parametrize("sentence", DAMAGES)
def test_an_attempt_is_given_up_and_another_one_completes_if(sentence: str, tmp_path: Path) -> None:
    world = World(tmp_path, n=3, rounds=1)

    async def scenario() -> None:
        while not any(world.settings.spool_path(world.home).rglob("carol.*")):
            await world.turn()
        DAMAGES[sentence](world)
        world.runner = world.daemon()
        await world.settle()

    asyncio.run(scenario())
    assert [(attempt.state, attempt.code) for attempt in world.attempts()] == [
        ("aborted", "E-STATE-DAMAGED"),
        ("completed", ""),
    ]


def test_an_attempt_that_replays_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, rounds=1)

    async def scenario() -> None:
        while not any(world.settings.spool_path(world.home).rglob("carol.*")):
            await world.turn()
        world.runner = world.daemon()
        await world.settle()

    asyncio.run(scenario())
    assert [(attempt.state, attempt.code) for attempt in world.attempts()] == [("completed", "")]


@pytest.mark.parametrize(("cores", "threads"), [({0}, 1), ({1, 3}, 2), (set(range(64)), 4)])
def test_masks_are_removed_on_the_cores_that_the_daemon_may_use_and_four_at_most(
    cores: set[int], threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, close = set[int](), CoordinatorRound.close

    def noted(self: CoordinatorRound, *, threads: int = 1) -> None:
        seen.add(threads)
        close(self, threads=threads)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
    monkeypatch.setattr(CoordinatorRound, "close", noted)
    asyncio.run(World(tmp_path, n=3, rounds=1).settle())
    assert seen == {threads}
