"""What an operator wants to know first: does the service run, who is connected, which runs are open.

Guarantees: read from the database and the daemon's status file, so it works whether or not the daemon runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.daemon.status import read_status
from coordinator.daemon.troubles import Trouble
from coordinator.database import member_rows, run_rows
from coordinator.opened import OpenHome
from coordinator.views.leaders import leaders, live_anywhere
from coordinator.views.overview import overview
from coordinator.views.sentence import RunSentence, run_sentence
from coordinator.views.troubles import current_troubles, trouble_lines, troubles_json
from host.rendering import Json, Line, moment, table, timestamp


@dataclass(frozen=True, slots=True)
class Presence:
    """A member, and whether its daemon is connected."""

    name: str
    role: str
    live: bool


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that has not ended."""

    run_id: str
    state: str
    paused: bool
    code: str  # of why it is held
    sentence: RunSentence
    leader: str = ""  # where members dial the coordinator that leads it, if there are several

    def to_line(self) -> str:
        """Return it for people."""
        led = f" (led at {self.leader})" if self.leader else ""
        why = f" (held: {self.code}, see run show {self.run_id[:8]})" if self.code else ""
        return f"run {self.run_id[:8]}: {self.sentence.text}{led}{why}"


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The service, its members and its open runs."""

    federation: str
    address: str
    pid: int | None  # None: the daemon does not run
    since: int | None  # when it was started
    members: tuple[Presence, ...]
    invited: tuple[str, ...]
    runs: tuple[OpenRun, ...]
    troubles: tuple[Trouble, ...]  # what keeps it from working

    @property
    def running(self) -> bool:
        """Whether the daemon runs."""
        return self.pid is not None

    def to_json(self) -> Json:
        """Return it for programs."""
        return {
            "federation": self.federation,
            "running": self.running,
            "pid": self.pid,
            "since": timestamp(self.since),
            "address": self.address,
            "members": [{"name": member.name, "role": member.role, "live": member.live} for member in self.members],
            "invited": list(self.invited),
            "runs": [
                {
                    **run.sentence.to_json(),
                    "state": run.state,
                    "paused": run.paused,
                    "code": run.code,
                    "leader": run.leader,
                }
                for run in self.runs
            ],
            "troubles": troubles_json(self.troubles),
        }

    def to_lines(self) -> list[Line]:
        """Return it for people."""
        state = "not running; start it: `onlysum coordinator start`"
        if self.running:
            state = f"running (pid {self.pid}) since {moment(self.since)} UTC"
        rows = [(member.name, member.role, "yes" if member.live else "no") for member in self.members]
        lines: list[Line] = [f"federation {self.federation}, {self.address}: {state}", *trouble_lines(self.troubles)]
        lines += table(("MEMBER", "ROLE", "LIVE"), rows)
        if self.invited:
            lines.append(f"invited, not yet joined: {', '.join(self.invited)}")
        return lines + [run.to_line() for run in self.runs]


def service_status(opened: OpenHome, now: int) -> ServiceStatus:
    """Read the status; invitations that have expired by ``now`` (seconds since the Unix epoch) do not count."""
    daemon = read_status(opened.home)
    with opened.store.read() as connection:
        live, led = live_anywhere(connection, daemon.live if daemon else ()), leaders(connection)
        members = [member for member in member_rows.list_members(connection) if member.active]
        tokens = [token for token in member_rows.list_tokens(connection) if token.used_at is None]
        runs = [run for run in run_rows.list_runs(connection) if not run.state.ended]
    return ServiceStatus(
        federation=opened.settings.federation,
        address=opened.settings.participants.address,
        pid=daemon.pid if daemon else None,
        since=daemon.started_at if daemon else None,
        members=tuple(Presence(member.name, member.role.value, member.name in live) for member in members),
        invited=tuple(token.name for token in tokens if token.expires_at > now),
        runs=tuple(
            OpenRun(
                run.run_id,
                run.state.value,
                run.paused,
                run.code,
                run_sentence(overview(opened, run.run_id), now),
                led[run.run_id].address if run.run_id in led else "",
            )
            for run in runs
        ),
        troubles=current_troubles(opened, daemon),
    )
