"""``participant doctor``: is this machine fit to take part?

Guarantees: every check runs, whatever the others find; a bundle for support holds no key, no data, no update and no
ledger. Leaves to others: the checks' own rules (``home``, ``policy``, ``ledger``, ``channel``).
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import zipfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Final

from host.checkup import Check, CheckFailed, check, versions, versions_check
from participant.config import load_settings
from participant.daemon.assembly import Opened, open_home
from participant.daemon.status_file import read_status
from participant.home import Home
from participant.link.channel import Channel
from participant.owner.policy import load_policy
from privacy.errors import LocalError
from privacy.plan import PROTOCOL_VERSION
from protos.envelope import Hello

FREE_BYTES: Final = 2**30  # less free space than this is reported
PACKAGES: Final = ("onlysum", "cryptography", "grpcio", "numpy", "pydantic", "torch", "transformers", "peft", "opacus")


def examine(directory: Path) -> list[Check]:
    """Run all checks on a participant's directory."""
    home = Home(directory)
    checks = [check("directory", lambda: _directory(home)), check("configuration", lambda: _configuration(home))]
    checks.append(check("policy", lambda: f"{len(load_policy(home).dataset)} datasets may be used"))
    checks.append(check("disk", lambda: _disk(home)))
    if all(one.ok for one in checks[:2]):
        checks.append(check("ledger", lambda: f"{open_home(directory).ledger.verify()} records verify"))
        checks.append(check("datasets and models", lambda: _registered(open_home(directory))))
        checks.append(check("coordinator", lambda: _coordinator(open_home(directory))))
    checks.append(check("daemon", lambda: _daemon(home)))
    checks.append(versions_check(PACKAGES))
    return checks


def _directory(home: Home) -> str:
    home.check()
    return f"{home.directory}, closed to others"


def _configuration(home: Home) -> str:
    settings = load_settings(home)
    computing = f"device {settings.device}, engine {settings.engine}, precision {settings.precision}"
    return f"name {settings.name}, {computing}, proxy {'set' if settings.proxy else 'none'}"


def _disk(home: Home) -> str:
    free = shutil.disk_usage(home.directory if home.directory.exists() else Path()).free
    if free < FREE_BYTES:
        raise CheckFailed(f"{free // 2**20} MiB free; updates and journal need room")
    return f"{free // 2**30} GiB free"


def _registered(here: Opened) -> str:
    gone = [
        one.name
        for one in (*here.review.registry.datasets(), *here.review.registry.models())
        if not Path(one.path).exists()
    ]
    if gone:
        raise CheckFailed(f"files are missing of: {', '.join(gone)}")
    return f"{len(here.review.registry.datasets())} datasets, {len(here.review.registry.models())} models"


def _coordinator(here: Opened) -> str:
    identity, settings = here.identity, here.settings
    hello = Hello(
        protocol_version=PROTOCOL_VERSION,
        software_version=version("onlysum"),
        member=identity.name,
        role=identity.role,
        ledger_head=here.ledger.head(),
        datasets=here.review.offers(),
    )
    with Channel(identity, proxy=settings.proxy) as channel:
        welcome = channel.handshake(hello)
    here.ledger.require_at_least(welcome.ledger_head)
    return f"{identity.addresses[0]} answers, {len(welcome.members)} members"


def _daemon(home: Home) -> str:
    seen = read_status(home)
    if seen is None or not seen.running:
        raise CheckFailed("not running; start it: onlysum participant start")
    if not seen.connected:
        raise CheckFailed(f"running, not connected: {seen.code} {seen.detail}")
    return "running and connected"


def write_bundle(file: Path, home: Home, checks: list[Check]) -> None:
    """Write a zip for support.

    Raises:
        LocalError: ``E-EXISTS``.
    """
    if file.exists():
        raise LocalError("E-EXISTS", str(file))
    runs = {path.parent.name: path.stat().st_size for path in home.runs.glob("*/journal")}
    document = {
        "checks": [asdict(one) for one in checks],
        "versions": versions(PACKAGES),
        "platform": platform.platform(),
        "python": sys.version,
        "journals": runs,
    }
    with zipfile.ZipFile(file, "x", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("doctor.json", json.dumps(document, indent=2))
        for path in (home.config, home.policy):
            if path.is_file():
                bundle.write(path, path.name)
