"""A participant whose clock and the coordinator's differ says so, with both times, for as long as they do."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from participant.daemon.status import read_status
from privacy.errors import NetworkError
from protos.envelope import NumberedTask, Welcome
from tests.worlds.owner import OwnerDirectory, RecordingLink, owned_plan


@dataclass
class Elsewhere(RecordingLink):
    """A coordinator with a clock of its own, whose connection breaks at the first poll."""

    clock: int = 0

    def handshake(self, hello: object) -> Welcome:
        return replace(self.welcome(), clock=self.clock)

    def poll(
        self, seen: frozenset[bytes], wait_seconds: float, most: Callable[[], int] = lambda: 0
    ) -> Generator[NumberedTask, None, None]:
        raise NetworkError("E-NET-LOST", "the connection broke")


def test_clocks_that_differ_are_in_the_status_while_they_do_and_once_in_the_log(tmp_path: Path) -> None:
    owner = OwnerDirectory(tmp_path / "alice", plan=owned_plan(mode="distributed"))
    link = Elsewhere()
    owner.link = link
    poller = owner.daemon()._poller
    seen: list[tuple[str, str]] = []
    with capture_logs() as logs:
        for apart in (0, 7200, 7200, 0, -7200):
            link.clock = int(owner.clock.now()) + apart
            with pytest.raises(NetworkError):
                poller._converse()
            status = read_status(owner.home)
            assert status is not None
            assert status.connected
            seen.append((status.code, status.detail))
    assert [code for code, _ in seen] == ["", "E-CLOCK", "E-CLOCK", "", "E-CLOCK"]
    assert "this machine's clock says" in seen[-1][1]
    assert [line["code"] for line in logs if line["event"] == "clocks differ"] == ["E-CLOCK", "E-CLOCK"]
