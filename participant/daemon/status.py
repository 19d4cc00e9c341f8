"""What the running participant says about itself: whether it is connected, its last problem, and who is enrolled.

Leaves to others: the file (``host.status_file``), one daemon per directory, and whether it runs (``host.locks``).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from host.locks import daemon_runs
from host.status_file import read_status_file, write_status_file
from participant.home import Home
from privacy.errors import OnlysumError
from privacy.interfaces import Clock
from protos.envelope import MemberEntry, Role


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """What the daemon said last; it need not run any more."""

    running: bool
    connected: bool
    since: int
    code: str  # of the last problem, empty when connected and the clocks agree
    detail: str
    members: tuple[MemberEntry, ...]  # as the coordinator listed them last
    runs: Mapping[str, str]  # by run: code and words of the refusal of its last task, where that was refused
    abstains: str = ""  # why it takes part in no run, though it is connected
    closed: tuple[str, ...] = ()  # runs in which it takes no part, since its journals of them were set back


class StatusFile:
    """The daemon's side of the file; safe to use from all its threads."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self._path = home.status_file
        self._lock = threading.Lock()
        self._fields: dict[str, Any] = {
            "since": int(clock.now()),
            "connected": False,
            "code": "",
            "detail": "",
            "abstains": "",
            "closed": [],
            "members": _members_before(home),
            "runs": {},
        }
        write_status_file(self._path, self._fields)

    def connected(self, clocks: OnlysumError | None = None) -> None:
        """The coordinator answers; its clock may be another than this machine's."""
        self._update(connected=True, code=clocks.code if clocks else "", detail=clocks.detail if clocks else "")

    def trouble(self, error: OnlysumError) -> None:
        """Calls fail."""
        self._update(connected=False, code=error.code, detail=error.detail)

    def abstaining(self, error: OnlysumError | None, closed: Sequence[str] = ()) -> None:
        """It takes part in no run for this reason, or does so again; in these runs it does not in any case."""
        self._update(abstains="" if error is None else str(error), closed=[*closed])

    def note_members(self, members: Sequence[MemberEntry]) -> None:
        """Remember who is enrolled, for `member list`."""
        self._update(members=[[member.name, member.role.value, member.identity_key.hex()] for member in members])

    def note_run(self, run_id: str, error: OnlysumError | None) -> None:
        """Remember why the last task of a run was refused; None: it was answered."""
        with self._lock:
            others = {known: said for known, said in self._fields["runs"].items() if known != run_id}
        said = {} if error is None else {run_id: f"{error.code}: {error.detail}. Next: {error.explanation.next_step}"}
        self._update(runs={**others, **said})

    def stopped(self) -> None:
        """The daemon ends; who was enrolled stays on file."""
        self._update(connected=False)

    def _update(self, **changes: Any) -> None:
        with self._lock:
            if all(self._fields[key] == value for key, value in changes.items()):
                return
            self._fields.update(changes)
            write_status_file(self._path, self._fields)


def read_status(home: Home) -> DaemonStatus | None:
    """Return what the daemon said last, or ``None`` if none has run in this directory."""
    fields = read_status_file(home.status_file)
    if fields is None:
        return None
    try:
        return DaemonStatus(
            running=daemon_runs(home.directory),
            connected=bool(fields["connected"]),
            since=int(fields["since"]),
            code=str(fields["code"]),
            detail=str(fields["detail"]),
            abstains=str(fields.get("abstains", "")),
            closed=tuple(str(run_id) for run_id in fields.get("closed", ())),
            members=tuple(MemberEntry(name, Role(role), bytes.fromhex(key)) for name, role, key in fields["members"]),
            runs={str(run): str(said) for run, said in dict(fields.get("runs", {})).items()},
        )
    except (KeyError, ValueError, TypeError):
        return None


def _members_before(home: Home) -> list[Any]:
    fields = read_status_file(home.status_file) or {}
    members = fields.get("members", [])
    return members if isinstance(members, list) else []
