"""``coordinator doctor``: is this machine fit to run the service?

Guarantees: every check runs, whatever the others find; a bundle for support holds no key, no update and no database.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from sqlalchemy.engine import Engine

from coordinator.config import Settings, load_settings
from coordinator.daemon.status import read_status
from coordinator.database import attempt_rows, member_rows, run_rows
from coordinator.database import store as stores
from coordinator.database.engines import refusals
from coordinator.database.store import Store
from coordinator.enrolment.authority import covers, load_authority
from coordinator.home import Home
from coordinator.leadership import examination
from coordinator.opened import open_store, require_content
from coordinator.storage.configured import Storage, open_blobs
from coordinator.storage.content import probe
from host import checkup
from host.certificates import RENEW_SECONDS, expires_at, invalid_now, renewal_overdue, require_valid
from host.checkup import Check, CheckFailed, Examination, check, check_disk, versions_check
from host.events.signature import load_secret
from host.rendering import Json, moment
from host.system import SystemClock, SystemRandom

RENEWS: Final = " the service renews it when it runs, or: onlysum coordinator renew"
MOST_NAMED: Final = 8
PROBE_BYTES: Final = 16
PACKAGES: Final = ("onlysum", "grpcio", "cryptography", "SQLAlchemy", "alembic", "pydantic", "numpy", "safetensors")


def examine(home: Home, now: int, bundle: Path | None = None) -> Examination:
    """Run all checks, and write them to a bundle if one is asked for.

    Raises:
        LocalError: ``E-EXISTS``, of the bundle.
    """
    checks = _checks(home, now)
    if bundle is not None:
        write_bundle(bundle, home, checks)
    return Examination(checks, bundle)


def _checks(home: Home, now: int) -> tuple[Check, ...]:
    checks = [check("configuration", lambda: _configuration(home)), check("keys", lambda: _keys(home, now))]
    checks.append(check_disk(home.directory, "updates and database"))
    if checks[0].ok:
        settings = load_settings(home)
        checks += [
            check("names", lambda: _names(home, settings)),
            check("database", lambda: _database(home, settings)),
            *replica_checks(home, settings),
            check("members", lambda: _members(home, settings, now)),
            check("security log", lambda: _security_log(home, settings)),
            check("ports", lambda: _ports(home, settings)),
            check("runs", lambda: _runs(home, settings)),
        ]
        if (place := settings.storage) is not None:
            checks.append(check("storage", lambda: _storage(home, place)))
    checks.append(versions_check(PACKAGES))
    return tuple(checks)


def replica_checks(home: Home, settings: Settings) -> list[Check]:
    """Return what concerns several coordinators; nothing where the database belongs to one."""
    if stores.sqlite_path(settings.database_url(home)) is not None:
        return []

    def looked(look: Callable[[Store], str]) -> Callable[[], str]:
        def run() -> str:
            with closing(open_store(home, settings)) as store:
                return look(store)

        return run

    checks = [check("coordinators", looked(partial(examination.coordinators, settings)))]
    if settings.replicas is not None and settings.replicas.directory:
        checks.append(check("shared directory", looked(partial(examination.shared_directory, settings))))
    return [*checks, check("clocks", looked(partial(examination.clocks, settings, clock=SystemClock())))]


def _configuration(home: Home) -> str:
    settings = load_settings(home)
    load_secret(home.directory, settings.events)
    return f"federation {settings.federation}, members at {settings.participants.address}"


def _keys(home: Home, now: int) -> str:
    authority = load_authority(home.authority)
    require_valid(authority.ca_certificate, "the authority's certificate", now)
    if reason := invalid_now(authority.server_certificate, now):
        raise CheckFailed(f"the server certificate {reason};{RENEWS}")
    authority_until, until = expires_at(authority.ca_certificate), expires_at(authority.server_certificate)
    if authority_until - now < RENEW_SECONDS:
        raise CheckFailed(
            f"the authority ends at {moment(authority_until)} UTC; next: onlysum coordinator renew --authority, "
            "while members are connected: who has not followed by then must be invited again"
        )
    if until - now < RENEW_SECONDS:
        raise CheckFailed(f"the server certificate expires at {moment(until)} UTC;{RENEWS}")
    overlap = authority.overlapping(now)
    before = f"; the authority before counts until {moment(overlap.ends)} UTC" if overlap else ""
    return f"private, server certificate until {moment(until)}, authority until {moment(authority_until)} UTC{before}"


def _members(home: Home, settings: Settings, now: int) -> str:
    store = open_store(home, settings)
    with closing(store), store.read() as connection:
        active = [member for member in member_rows.list_members(connection) if member.active and member.certificate]
    if late := [member.name for member in active if now >= renewal_overdue(member.certificate)]:
        names = ", ".join(late[:MOST_NAMED]) + (" and others" if len(late) > MOST_NAMED else "")
        raise CheckFailed(
            f"not renewed in time: {names}; are their daemons connected? Of one that has ended: "
            "onlysum coordinator invite NAME --again"
        )
    first = min((expires_at(member.certificate) for member in active), default=None)
    return f"{len(active)} members, the first certificate ends at {moment(first)} UTC" if first else "no members yet"


def _names(home: Home, settings: Settings) -> str:
    certificate = load_authority(home.authority).server_certificate
    hosts = settings.hosts
    if strange := sorted(host for host in hosts if not covers(certificate, host)):
        raise CheckFailed(
            f"the server certificate does not name {', '.join(strange)}: whoever dials that is refused;{RENEWS}"
        )
    return f"the server certificate names {', '.join(sorted(hosts))}"


def _database(home: Home, settings: Settings) -> str:
    engine = stores.existing(settings.database_url(home), unused=home.unused.exists())
    with closing(stores.Store(engine)):
        return _schema(engine)


def _schema(engine: Engine) -> str:
    schema = stores.revision(engine)
    if not schema:
        return f"{engine.dialect.name}, empty, as a new coordinator's may be"
    if schema != stores.HEAD:
        raise CheckFailed(
            f"schema {schema or 'none'}, this version needs {stores.HEAD}; run `onlysum coordinator migrate`"
        )
    with refusals(), engine.connect().execution_options(reading=True) as connection:
        if engine.dialect.name == "sqlite":
            result = connection.exec_driver_sql("PRAGMA integrity_check").scalar()
            if result != "ok":
                raise CheckFailed(f"damaged: {result}; restore a backup")
            return f"sqlite, schema {schema}, intact"
        if connection.exec_driver_sql("SHOW fsync").scalar() != "on":
            raise CheckFailed("the server runs with fsync = off: what is committed there is lost in a power cut")
        return f"{engine.dialect.name} {connection.exec_driver_sql('SHOW server_version').scalar()}, schema {schema}"


def _security_log(home: Home, settings: Settings) -> str:
    store = open_store(home, settings)
    with closing(store), store.read() as connection:
        rows = member_rows.security_log(connection)
    member_rows.verify_security_log(rows)
    return f"{len(rows)} rows, chained"


def _ports(home: Home, settings: Settings) -> str:
    status = read_status(home)
    if status is not None:
        return f"the daemon listens at {status.address} and {status.enrolment_address}"
    admin = (settings.admin.listen,) if settings.admin else ()
    for address in (*settings.participants.binds, settings.enrolment.bind, *admin):
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host.strip("[]"), int(port)))
            except OSError as error:
                raise CheckFailed(f"{address} cannot be bound: {error.strerror}") from None
    return "free; the daemon does not run"


def _runs(home: Home, settings: Settings) -> str:
    store = open_store(home, settings)
    with closing(store), store.read() as connection:
        runs = run_rows.list_runs(connection)
    open_runs = [run.run_id for run in runs if not run.state.ended]
    if settings.storage is not None:
        return _kept_runs(home, settings, len(runs), open_runs)
    if lost := [run_id for run_id in open_runs if not settings.placed(home).run(run_id).is_dir()]:
        raise CheckFailed(f"the directory of run {lost[0]} is missing; restore a backup")
    return f"{len(runs)} runs, {len(open_runs)} of them go on"


def _kept_runs(home: Home, settings: Settings, known: int, open_runs: list[str]) -> str:
    """Look whether the files of runs that go on are where they are kept, whole by their lengths."""
    with closing(open_store(home, settings)) as store:
        content = require_content(home, settings, store)
        for run_id in open_runs:
            files = content.of(run_id)
            if not files.known():
                raise CheckFailed(f"run {run_id} has no files in the storage: it was created before [storage] was set")
            if missing := files.missing():
                raise CheckFailed(f"{missing[0]} of run {run_id} is missing from the storage; bring it back there")
    return f"{known} runs, {len(open_runs)} of them go on, their files are in the storage"


def _storage(home: Home, place: Storage) -> str:
    with TemporaryDirectory() as scratch:
        return probe(open_blobs(place, home.directory), Path(scratch), SystemRandom().token_bytes(PROBE_BYTES))


def write_bundle(file: Path, home: Home, checks: tuple[Check, ...]) -> None:
    """Write a zip for support: checks, versions, configuration, the states of runs.

    Raises:
        LocalError: ``E-EXISTS``.
    """
    readable = all(check.ok for check in checks if check.name in ("configuration", "database"))
    states = _run_states(home) if readable else []
    checkup.write_bundle(file, checks, PACKAGES, documents={"runs": states}, configuration=[home.config])


def _run_states(home: Home) -> list[Json]:
    states: list[Json] = []
    store = open_store(home, load_settings(home))
    with closing(store), store.read() as connection:
        for run in run_rows.list_runs(connection):
            attempts = attempt_rows.list_attempts(connection, run.run_id)
            aborted = sum(attempt.state == "aborted" for attempt in attempts)
            states.append({"run": run.run_id, "state": run.state.value, "code": run.code, "aborted": aborted})
    return states
