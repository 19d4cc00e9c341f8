"""``coordinator doctor``: is this machine fit to run the service?

Guarantees: every check runs, whatever the others find; a bundle for support holds no key, no update and no database.
"""

from __future__ import annotations

import json
import platform
import shutil
import socket
import sys
import zipfile
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from coordinator.config import Home, Settings, load
from coordinator.daemon.status import read_status
from coordinator.database import attempt_rows, member_rows, run_rows
from coordinator.database import store as stores
from coordinator.enrolment.authority import expires_at, load_authority
from host.checkup import Check, CheckFailed, check, versions, versions_check
from host.console import moment
from privacy.errors import LocalError

FREE_BYTES: Final = 2**30  # less free space than this is reported
RENEW_SECONDS: Final = 60 * 86_400  # a certificate that expires within this time is reported
PACKAGES: Final = ("onlysum", "grpcio", "cryptography", "SQLAlchemy", "alembic", "pydantic", "numpy", "safetensors")


def examine(home: Home, now: int) -> list[Check]:
    """Run all checks."""
    checks = [check("configuration", lambda: _configuration(home))]
    checks += [check("keys", lambda: _keys(home, now)), check("disk", lambda: _disk(home))]
    if checks[0].ok:
        settings = load(home)
        checks += [
            check("database", lambda: _database(home, settings)),
            check("security log", lambda: _security_log(home, settings)),
            check("ports", lambda: _ports(home, settings)),
            check("runs", lambda: _runs(home, settings)),
        ]
    checks.append(versions_check(PACKAGES))
    return checks


def _configuration(home: Home) -> str:
    settings = load(home)
    return f"federation {settings.federation}, members at {settings.participants.address}"


def _keys(home: Home, now: int) -> str:
    authority = load_authority(home.authority)
    until = int(min(expires_at(authority.ca_certificate), expires_at(authority.server_certificate)))
    if until - now < RENEW_SECONDS:
        raise CheckFailed(f"a certificate expires at {moment(until)} UTC")
    return f"private, certificates hold until {moment(until)} UTC"


def _disk(home: Home) -> str:
    free = shutil.disk_usage(home.directory).free
    if free < FREE_BYTES:
        raise CheckFailed(f"only {free // 2**20} MiB are free")
    return f"{free // 2**30} GiB free"


def _database(home: Home, settings: Settings) -> str:
    engine = stores.existing(home.database_url(settings))
    found = stores.revision(engine)
    if found != stores.HEAD:
        raise CheckFailed(
            f"schema {found or 'none'}, this version needs {stores.HEAD}; run `onlysum coordinator migrate`"
        )
    if engine.dialect.name == "sqlite":
        with stores.refusals(), engine.connect() as connection:
            result = connection.execute(sa.text("PRAGMA integrity_check")).scalar()
        if result != "ok":
            raise CheckFailed(f"damaged: {result}; restore a backup")
    engine.dispose()
    return f"{engine.dialect.name}, schema {found}, intact"


def _security_log(home: Home, settings: Settings) -> str:
    store = stores.Store.open(home.database_url(settings))
    with closing(store), store.read() as connection:
        rows = member_rows.security_log(connection)
    member_rows.verify_security_log(rows)
    return f"{len(rows)} rows, chained"


def _ports(home: Home, settings: Settings) -> str:
    status = read_status(home)
    if status is not None:
        return f"the daemon listens at {status.address} and {status.enrolment_address}"
    for listener in (settings.participants, settings.enrolment):
        host, _, port = listener.bind.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host.strip("[]"), int(port)))
            except OSError as error:
                raise CheckFailed(f"{listener.bind} cannot be bound: {error.strerror}") from None
    return "free; the daemon does not run"


def _runs(home: Home, settings: Settings) -> str:
    store = stores.Store.open(home.database_url(settings))
    with closing(store), store.read() as connection:
        runs = run_rows.list_runs(connection)
    if lost := [one.run_id for one in runs if not one.state.ended and not home.run(one.run_id).is_dir()]:
        raise CheckFailed(f"the directory of run {lost[0]} is missing; restore a backup")
    return f"{len(runs)} runs, {sum(not one.state.ended for one in runs)} of them go on"


def write_bundle(file: Path, home: Home, checks: list[Check]) -> None:
    """Write a zip for support: checks, versions, configuration, the states of runs.

    Raises:
        LocalError: ``E-EXISTS``.
    """
    if file.exists():
        raise LocalError("E-EXISTS", str(file))
    states: list[dict[str, str | int]] = []
    if all(one.ok for one in checks if one.name in ("configuration", "database")):
        store = stores.Store.open(home.database_url(load(home)))
        with closing(store), store.read() as connection:
            for run in run_rows.list_runs(connection):
                attempts = attempt_rows.list_attempts(connection, run.run_id)
                aborted = sum(one.state == "aborted" for one in attempts)
                states.append({"run": run.run_id, "state": run.state.value, "code": run.code, "aborted": aborted})
    with zipfile.ZipFile(file, "x", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("checks.json", json.dumps([asdict(one) for one in checks], indent=2))
        archive.writestr("versions.json", json.dumps({**versions(PACKAGES), "platform": platform.platform()}, indent=2))
        archive.writestr("runs.json", json.dumps(states, indent=2))
        archive.writestr("command.txt", " ".join(sys.argv[:3]))
        if home.config.is_file():
            archive.write(home.config, home.config.name)
