"""What keeps the coordinator from working is shown to its operator, and to nobody else."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path

import pytest

from coordinator.daemon.status import DaemonStatus, write_status
from coordinator.daemon.troubles import MAX_TROUBLES, RECENT_SECONDS, Trouble, Troubles
from coordinator.opened import OpenHome
from coordinator.views.overview import overview
from coordinator.views.status import service_status
from host import checkup
from host.locks import only_daemon
from host.rendering import View
from privacy.errors import LocalError, PeerError, Phase
from tests.worlds.coordinator import RUN_ID, World
from tests.worlds.federation import VirtualClock

FULL = OSError(errno.ENOSPC, "No space left on device", "/data/spool/1-1")
NOTED = {
    "a full disk that nobody turned into an error of ours": (FULL, "E-DISK-FULL", "/data/spool/1-1: No space left on "),
    "a broken disk": (OSError(errno.EIO, "Input/output error"), "E-DISK-FAILED", "a file of this coordinator: Input"),
    "a database in use": (LocalError("E-STATE-BUSY", "the database: locked"), "E-STATE-BUSY", "the database: locked"),
    "a bug, without its values": (ValueError("0.25 of anna"), "E-BUG", "ValueError; the log has where"),
}


@pytest.mark.parametrize("sentence", NOTED)
def test_an_error_of_this_machine_is_known_for_a_while(sentence: str) -> None:
    error, code, words = NOTED[sentence]
    clock = VirtualClock()
    troubles = Troubles(clock)
    for _ in range(3):
        troubles.note(error)
        clock.seconds += RECENT_SECONDS - 1
        (trouble,) = troubles.recent()
        assert trouble.code == code
        assert trouble.detail.startswith(words)
    clock.seconds += 2
    assert troubles.recent() == ()


def test_a_peers_fault_is_no_trouble_and_many_errors_are_a_few() -> None:
    troubles = Troubles(VirtualClock())
    troubles.note(PeerError.by_participant("bob", "E-WIRE-CHUNK", Phase.WIRE, "a chunk"))
    assert troubles.recent() == ()
    for number in range(100):
        troubles.note(LocalError("E-DISK-FAILED", f"file {number}"))
    assert len(troubles.recent()) == MAX_TROUBLES


def test_a_run_whose_steps_find_the_disk_full_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, rounds=1)

    async def serve() -> None:
        tried = asyncio.Event()

        async def refuse(_: object) -> None:
            tried.set()
            raise FULL

        monkeypatch.setattr("coordinator.runs.lifecycle.Lifecycle.advance", refuse)
        serving = asyncio.create_task(world.runner.serve())
        async with asyncio.timeout(30):
            await tried.wait()
        serving.cancel()

    asyncio.run(serve())
    assert world.runner.troubles() == (Trouble("E-DISK-FULL", "/data/spool/1-1: No space left on device"),)


def test_status_and_run_show_say_that_the_disk_is_full_and_not_only_who_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, rounds=1)
    asyncio.run(world.runner.tick())
    opened = OpenHome(world.home, world.settings, world.store)
    trouble = Trouble("E-DISK-FULL", "/data/spool: No space left on device")
    write_status(world.home, DaemonStatus(os.getpid(), 1, "h:1", "h:2", troubles=(trouble,)))
    with only_daemon(tmp_path, "coordinator"):
        views: tuple[View, ...] = (service_status(opened, 0), overview(opened, RUN_ID))
        for view in views:
            assert any(str(line).startswith("E-DISK-FULL: the disk is full: /data/spool") for line in view.to_lines())
            assert '"troubles": [{"code": "E-DISK-FULL"' in json.dumps(view.to_json())
        monkeypatch.setattr(checkup, "FULL_BYTES", 2**80)  # every disk is full, and no daemon could write that down
        write_status(world.home, DaemonStatus(os.getpid(), 1, "h:1", "h:2"))
        seen = [troubled.detail for troubled in service_status(opened, 0).troubles]
        assert seen[0].startswith(f"{tmp_path} has ")
