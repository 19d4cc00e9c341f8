"""What an operator should hear of: runs that end or are held, members that are lost, certificates that end.

Guarantees: read from committed rows and from who is connected; looking changes nothing, and what fails is looked at
again. What happened before events were ever configured is no news. Of several coordinators the one tells of a run that
leads it, or led it last.
Leaves to others: telling (``host.events.announcer``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy.engine import Connection

from coordinator.database import lease_rows, member_rows, run_rows
from coordinator.database.lease_rows import LeaseRecord
from coordinator.database.run_rows import RunRecord, RunState, Standing
from coordinator.opened import OpenHome
from host.certificates import expires_at
from host.events.announcer import Announcer, Told
from host.events.event import CERTIFICATE_SECONDS, Event, Kind
from host.rendering import moment
from privacy.error_codes import REGISTRY
from privacy.errors import PlanError
from privacy.interfaces import Clock

LOOK_SECONDS: Final = 2.0
CERTIFICATES_SECONDS: Final = 3600.0  # between looks at certificates


class EventWatch:
    """Looks at a coordinator every few seconds and tells what is new."""

    def __init__(self, opened: OpenHome, announcer: Announcer, told: Told, *, clock: Clock) -> None:
        self._opened = opened
        self._announcer = announcer
        self._told = told
        self._clock = clock
        self._started = clock.monotonic()
        self._seen: dict[str, float] = {}  # when each member was last there, by the monotonic clock
        self._lost: set[str] = set()
        self._members: dict[str, frozenset[str]] = {}  # of runs that go on
        self._certificates_at = float("-inf")

    def look(self, live: frozenset[str]) -> None:
        """Tell what is new.

        Args:
            live: the members that are connected to this process now.

        Raises:
            LocalError: the database cannot be read now.
        """
        now, clock = int(self._clock.now()), self._clock.monotonic()
        with self._opened.store.read() as connection:
            leases = lease_rows.list_leases(connection) if self._opened.store.shared else {}
            known = run_rows.list_standings(connection)
            runs = [run for run in known if self._tells(leases.get(run.run_id))]
            running = [run for run in runs if run.state is RunState.RUNNING and not run.paused]
            for run in running:
                if run.run_id not in self._members:
                    self._members[run.run_id] = _members(run_rows.find_run(connection, run.run_id))
            if clock - self._certificates_at >= CERTIFICATES_SECONDS:
                self._look_at_certificates(connection, now)
                self._certificates_at = clock
        if self._told.fresh:
            self._told.settle(*(f"run-ended {run.run_id}" for run in known if run.state.ended))
        for run in runs:
            self._look_at(run, now)
        self._look_for_lost(running, live | _live_elsewhere(leases), now)

    def _tells(self, lease: LeaseRecord | None) -> bool:
        """Return whether this coordinator tells of a run: it led it last, or nobody ever did."""
        return lease is None or lease.address in self._opened.settings.participants.addresses

    def _look_at(self, run: Standing, now: int) -> None:
        if run.state.ended:
            known = REGISTRY.get(run.code)
            why = f": {run.code}, {known.what}" if known else ""
            text = f"run {run.run_id[:8]} is {run.state.value}{why}"
            self._tell("run-ended", run.run_id, text, run.ended_at or now, key=run.run_id)
            self._members.pop(run.run_id, None)
        elif run.held:
            text = f"run {run.run_id[:8]} is held and waits for you: {run.code}"
            self._tell("run-held", run.run_id, text, now, key=f"{run.run_id} {run.code}")

    def _look_at_certificates(self, connection: Connection, now: int) -> None:
        authority = self._opened.authority()
        ends = {
            "the authority": expires_at(authority.ca_certificate),
            "the service": expires_at(authority.server_certificate),
        }
        members = (member for member in member_rows.list_members(connection) if member.active and member.certificate)
        ends |= {f"member {member.name}": expires_at(member.certificate) for member in members}
        for whose, until in ends.items():
            if until - now < CERTIFICATE_SECONDS:
                text = f"the certificate of {whose} {'ended' if until <= now else 'ends'} at {moment(until)} UTC"
                self._tell("certificate-ends", whose, text, now, key=f"{whose} {until}")

    def _look_for_lost(self, running: Sequence[Standing], live: frozenset[str], now: int) -> None:
        """Tell whom a running run needs and who has been away for long; once, until it has been there again."""
        clock = self._clock.monotonic()
        self._seen.update(dict.fromkeys(live, clock))
        self._lost -= live
        for run in running:
            for name in sorted(self._members[run.run_id]):
                away = clock - self._seen.get(name, self._started)
                if name not in self._lost and away >= self._opened.settings.events.lost_seconds:
                    self._lost.add(name)
                    text = f"{name} has been away for {int(away)} s, and run {run.run_id[:8]} needs it"
                    self._tell("member-lost", name, text, now, key=f"{name} {now}")

    def _tell(self, kind: Kind, subject: str, text: str, at: int, *, key: str) -> None:
        event = Event(kind, at, self._opened.settings.federation, "coordinator", subject, text)
        self._announcer.announce(f"{kind} {key}", event)


def _live_elsewhere(leases: Mapping[str, LeaseRecord]) -> frozenset[str]:
    return frozenset(name for lease in leases.values() if lease.valid for name in lease.live)


def _members(run: RunRecord) -> frozenset[str]:
    try:
        plan = run.parsed()
    except PlanError:  # whoever leads the run says so
        return frozenset()
    return frozenset([*(member.id for member in plan.roster), *(one.id for one in plan.evaluation.evaluators)])
