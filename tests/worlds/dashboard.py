"""A coordinator with a dashboard: synthetic rows of a run in the middle, or what another world has left on disk.

Guarantees: the rows are those that the daemon's own functions write; names, counts and times follow from the number of
members alone. The daemon's lock is held, so that it counts as running.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy.engine import Connection

from coordinator.config import Admin, Durations, Listener, Settings, settings_template
from coordinator.daemon.refusals import RefusalLog
from coordinator.daemon.status import DaemonStatus, write_status
from coordinator.dashboard.accounts import new_user
from coordinator.dashboard.app import make_app
from coordinator.database import attempt_rows, member_rows, run_rows, standing_rows, user_rows
from coordinator.database.attempt_rows import COORDINATOR
from coordinator.database.member_rows import MemberRecord, TokenRecord
from coordinator.database.run_rows import RoundRecord, RunRecord, RunState
from coordinator.database.store import Store
from coordinator.database.user_rows import UserRole
from coordinator.enrolment.authority import create_authority, save_authority
from coordinator.home import Home
from coordinator.opened import OpenHome
from coordinator.runs.attempt import CLOSED
from host.locks import only_daemon
from host.state_format import write_format
from host.system import SystemRandom
from privacy import canonical
from privacy.evaluation import Metric
from privacy.plan import Plan
from privacy.secagg.messages import Position
from protos import codec
from protos.envelope import Abstained, DatasetOffer, Evaluation, Role
from tests.worlds.coordinator import RUN_ID
from tests.worlds.federation import VirtualClock
from tests.worlds.plans import CREATED_AT, make_plan, sign_plan, signing_key
from tests.worlds.sites import Site, running

OPERATOR, AUDITOR = "operator-ann", "auditor-ann"
PASSWORD: Final = "correct horse battery"
NOW: Final = CREATED_AT + 40 * 3600
ROUND_SECONDS: Final = 220
SITES: Final = (
    "aarhus", "basel", "cadiz", "dresden", "edinburgh", "florence", "ghent", "helsinki", "innsbruck", "jena", "krakow",
    "leiden", "malmo", "nantes", "oslo", "porto", "quimper", "riga", "seville", "turin", "uppsala", "vienna", "wroclaw",
    "york", "zagreb",
)  # fmt: skip


@dataclass
class Seeded:
    """A coordinator's directory with a store that is open."""

    opened: OpenHome
    clock: VirtualClock
    plan: Plan


def site_names(n: int) -> tuple[str, ...]:
    """Return n names as members have them."""
    kinds = ("hospital", "clinic")
    return tuple(sorted(f"{kinds[i // len(SITES) % 2]}-{SITES[i % len(SITES)]}" for i in range(n)))


def seed(directory: Path, *, n: int, rounds: int = 100, done: int = 40) -> Seeded:
    """Make a coordinator of n members with one run in its middle, one that ended and one that waits."""
    home, clock = Home(directory), VirtualClock()
    clock.seconds = float(NOW)
    settings = Settings(
        federation="hospitals-north",
        operator="Institute of Example",
        participants=Listener(address="sum.example.org:8443"),
        enrolment=Listener(address="sum.example.org:8444"),
        admin=Admin(listen="127.0.0.1:8445"),
        durations=Durations(update_seconds=600),
    )
    text = settings_template(federation="hospitals-north", operator="Institute of Example", also=[],
                             participants="sum.example.org:8443", enrolment="sum.example.org:8444",
                             admin="127.0.0.1:8445")  # fmt: skip
    home.config.write_text(text)
    write_format(directory)
    made = create_authority(
        federation="hospitals-north", hosts=["sum.example.org"], random=SystemRandom(), now=CREATED_AT
    )
    save_authority(home.authority, made)
    opened = OpenHome(home, settings, Store.create(settings.database_url(home)))
    names = site_names(n)
    plan = _midway_plan(names, rounds)
    with opened.store.begin() as connection:
        for number, name in enumerate(names):
            key = signing_key(name).public
            member = MemberRecord(
                name, Role.PARTICIPANT, key, made.server_certificate, "", "", CREATED_AT - 86_400 + number, None
            )
            member_rows.enrol_member(connection, member, token_id="", request_hash=b"")
            member_rows.announce(connection, name, version="0.1.0", offers=[DatasetOffer("scans", 1000 + number)])
        member_rows.saw_members(connection, names, NOW - 7200)
        token = TokenRecord("t" * 32, b"s" * 32, "clinic-lund", Role.PARTICIPANT, "", NOW - 500_000, NOW + 90_000)
        member_rows.add_token(connection, token)
        for role in UserRole:
            user_rows.add_user(connection, new_user(f"{role.value}-ann", role, PASSWORD, CREATED_AT))
    for run_id, state in (
        ("22" * 16, RunState.ABORTED),
        (plan.run_id, RunState.RUNNING),
        ("33" * 16, RunState.CREATED),
    ):
        _register(opened, plan.model_copy(update={"run_id": run_id}), state)
    _fill(opened, plan, done)
    status = DaemonStatus(os.getpid(), NOW - 90_000, "sum.example.org:8443", "sum.example.org:8444", live=names[:-1])
    write_status(home, status)
    return Seeded(opened, clock, plan)


def _midway_plan(names: tuple[str, ...], rounds: int) -> Plan:
    n = len(names)
    base, _ = make_plan(n=n, f=1, mode="distributed", recipe={"rounds": rounds, "title": "Chest X-ray findings"})
    roster = [
        member.model_copy(update={"id": name, "identity_key": signing_key(name).public.hex()})
        for member, name in zip(base.roster, names, strict=True)
    ]
    document = base.model_copy(update={"roster": tuple(roster), "federation": "hospitals-north"})
    return Plan.from_bytes(canonical.encode(document.model_dump(mode="json")))


def _register(opened: OpenHome, plan: Plan, state: RunState) -> None:
    ended = NOW - 50_000 if state.ended else None
    record = RunRecord(plan.run_id, plan.to_bytes(), sign_plan(plan), RunState.CREATED, "", "", False, False,
                       CREATED_AT, None)  # fmt: skip
    opened.home.run(plan.run_id).mkdir(parents=True)
    with opened.store.begin() as connection:
        run_rows.add_run(connection, record)
        if state is not RunState.CREATED:
            code = "E-RUN-ENDED" if ended else ""
            run_rows.set_run_state(connection, plan.run_id, state, now=ended or NOW, code=code, reason="")


def _fill(opened: OpenHome, plan: Plan, done: int) -> None:
    names = [member.id for member in plan.roster]
    flaky, slow = names[len(names) // 2], names[-2]
    begun = NOW - 300 - done * ROUND_SECONDS
    with opened.store.begin() as connection:
        for number in range(1, done + 1):
            at, over = Position(plan.hash, number, 1), begun + number * ROUND_SECONDS
            missing = [flaky] * (number % 4 == 1) + [names[0]] * (number == 23)
            missing = missing[: plan.n - plan.min_survivors]
            attempt_rows.open_attempt(connection, plan.run_id, at, over - ROUND_SECONDS + 8)
            attempt_rows.end_attempt(connection, plan.run_id, at, "completed", now=over)
            if number % 5 == 0:
                standing_rows.add_late(connection, plan.run_id, [slow], phase="COLLECT_MASKED", now=over - 20)
                _event(connection, plan, number, slow, over - 10)
            voided = number == 17
            run_rows.add_round(
                connection,
                plan.run_id,
                RoundRecord(
                    number, 1, b"" if voided else b"c", b"t" * 32, 0 if voided else plan.n - len(missing),
                    () if voided else tuple(missing), b"a" * 32, b"s" * 32, 48, b"r" * 32, 48, over,
                ),
            )  # fmt: skip
            if number % 2 == 0:
                _measure(connection, plan, number, over)
        _open_attempt(connection, plan, done + 1)


def _event(connection: Connection, plan: Plan, number: int, sender: str, at: int) -> None:
    rows = attempt_rows.Rows()
    rows.add_event(plan.run_id, Position(plan.hash, number, 1), kind="Receipt", sender=sender, body=b"", now=at)
    rows.write(connection)


def _measure(connection: Connection, plan: Plan, number: int, at: int) -> None:
    metric = Metric.of("accuracy", 0.93 - 0.55 * 0.93**number + 0.004 * (number % 3 - 1))
    assert metric is not None
    measured = Evaluation(plan.run_id, plan.hash, number, b"a" * 32, 10_000, (metric,), b"d" * 32, b"s" * 64)
    run_rows.add_evaluation(connection, "registry-bern", measured, at)


def _open_attempt(connection: Connection, plan: Plan, number: int) -> None:
    """Three have not answered, of whom one cannot take part: in the third phase of a round."""
    at, names = Position(plan.hash, number, 1), [member.id for member in plan.roster]
    attempt_rows.open_attempt(connection, plan.run_id, at, NOW - 200)
    rows = attempt_rows.Rows()
    for phase in ("ADVERTISE_KEYS", "SHARE_KEYS"):
        body = canonical.encode({"phase": phase, "answered": list(names)})
        rows.add_event(plan.run_id, at, kind=CLOSED, sender=COORDINATOR, body=body, now=NOW - 180)
    rows.set_phase(plan.run_id, at, "COLLECT_MASKED")
    rows.write(connection)
    for name in names[1 : max(1, len(names) - 2)]:
        _event(connection, plan, number, name, NOW - 60)
    told, rows = codec.encode_submission(Abstained(plan.run_id, at, "E-DISK-FULL")), attempt_rows.Rows()
    rows.add_event(plan.run_id, at, kind=Abstained.__name__, sender=names[0], body=told, now=NOW - 100)
    rows.write(connection)


@dataclass
class Dashboard(Site):
    """A dashboard that is served."""

    opened: OpenHome

    def log_in(self, name: str, password: str = PASSWORD) -> str:
        """Log in and return the cookie."""
        answer, _ = self.ask("POST", "/login", fields={"name": name, "password": password})
        return (answer.getheader("Set-Cookie") or "").partition(";")[0]

    def form_token(self, cookie: str) -> str:
        """Return what the forms of a login carry."""
        _, page = self.ask("GET", "/", cookie=cookie)
        found = re.search(r'name="form_token" value="([0-9a-f]{64})"', page)
        assert found
        return found[1]

    def paused(self) -> bool:
        """Return whether the run in its middle is paused."""
        with self.opened.store.read() as connection:
            return run_rows.find_run(connection, RUN_ID).paused

    def security_rows(self, kind: str) -> list[tuple[str, str]]:
        """Return who and what of the security log's rows of a kind."""
        with self.opened.store.read() as connection:
            return [(row.subject, row.detail) for row in member_rows.security_log(connection) if row.kind == kind]


@contextmanager
def served(opened: OpenHome, clock: VirtualClock) -> Iterator[Dashboard]:
    """Serve the dashboard of a coordinator that counts as running, while the block runs."""
    refusals, random = RefusalLog(opened.store, clock), SystemRandom()
    with (
        only_daemon(opened.home.directory, "coordinator"),
        running(lambda address: make_app(opened, refusals, address=address, clock=clock, random=random)) as address,
    ):
        yield Dashboard(address, opened)
