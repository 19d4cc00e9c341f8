"""What the running daemon says about itself to the commands beside it.

Guarantees: a small file, replaced whole, for information only: nothing is decided from it, and losing it loses nothing.
Leaves to others: showing it (``cli``).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from participant.home import Home
from privacy.errors import OnlysumError
from privacy.interfaces import Clock
from protos.envelope import MemberEntry, Role


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """What a command finds."""

    running: bool
    connected: bool
    since: int
    code: str  # of the last trouble, empty when connected
    detail: str
    members: tuple[MemberEntry, ...]  # as the coordinator listed them last


class StatusFile:
    """The daemon's side."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self._path = home.status_file
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {
            "pid": os.getpid(),
            "since": int(clock.now()),
            "connected": False,
            "code": "",
            "detail": "",
            "members": _members_before(home),
        }
        self._write()

    def connected(self) -> None:
        """The coordinator answers."""
        self._update(connected=True, code="", detail="")

    def trouble(self, error: OnlysumError) -> None:
        """Calls fail."""
        self._update(connected=False, code=error.code, detail=error.detail)

    def note_members(self, members: Sequence[MemberEntry]) -> None:
        """Remember who is enrolled, for `member list`."""
        self._update(members=[[one.name, one.role.value, one.identity_key.hex()] for one in members])

    def stopped(self) -> None:
        """The daemon ends."""
        self._update(pid=0, connected=False)

    def _update(self, **changes: Any) -> None:
        with self._lock:
            if all(self._state[key] == value for key, value in changes.items()):
                return
            self._state.update(changes)
            self._write()

    def _write(self) -> None:
        draft = self._path.with_name(self._path.name + ".part")
        try:
            draft.write_text(json.dumps(self._state))
            draft.replace(self._path)
        except OSError:
            return  # a full disk must not stop the daemon here: nothing depends on this file


def read_status(home: Home) -> DaemonStatus | None:
    """Return what the daemon said last, or ``None`` if none has run here."""
    state = _read(home)
    if state is None:
        return None
    try:
        return DaemonStatus(
            running=_alive(int(state["pid"])),
            connected=bool(state["connected"]),
            since=int(state["since"]),
            code=str(state["code"]),
            detail=str(state["detail"]),
            members=tuple(MemberEntry(name, Role(role), bytes.fromhex(key)) for name, role, key in state["members"]),
        )
    except (KeyError, ValueError, TypeError):
        return None


def _read(home: Home) -> dict[str, Any] | None:
    try:
        state = json.loads(home.status_file.read_text())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def _members_before(home: Home) -> list[Any]:
    state = _read(home) or {}
    members = state.get("members", [])
    return members if isinstance(members, list) else []


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
