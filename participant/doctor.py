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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from participant.channel import Channel
from participant.config import load_settings
from participant.daemon import Opened, open_home
from participant.home import Home
from participant.policy import load_policy
from participant.presence import look
from privacy.errors import LocalError, OnlysumError
from privacy.plan import PROTOCOL_VERSION
from protos.envelope import Hello

FREE_BYTES: Final = 2**30  # less free space than this is reported
PACKAGES: Final = ("onlysum", "cryptography", "grpcio", "numpy", "pydantic", "torch", "transformers", "peft", "opacus")


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its outcome."""

    name: str
    ok: bool
    detail: str


class _Failed(Exception):
    """A check that found something."""


def examine(directory: Path) -> list[Check]:
    """Run all checks on a participant's directory."""
    home = Home(directory)
    checks = [_check("directory", lambda: _directory(home)), _check("configuration", lambda: _configuration(home))]
    checks.append(_check("policy", lambda: f"{len(load_policy(home).dataset)} datasets may be used"))
    checks.append(_check("disk", lambda: _disk(home)))
    if all(one.ok for one in checks[:2]):
        checks.append(_check("ledger", lambda: f"{open_home(directory).ledger.verify()} records verify"))
        checks.append(_check("datasets and models", lambda: _registered(open_home(directory))))
        checks.append(_check("coordinator", lambda: _coordinator(open_home(directory))))
    checks.append(_check("daemon", lambda: _daemon(home)))
    checks.append(Check("versions", ok=True, detail=", ".join(f"{name} {one}" for name, one in _versions().items())))
    return checks


def _check(name: str, look_at: Callable[[], str]) -> Check:
    try:
        return Check(name, ok=True, detail=look_at())
    except _Failed as found:
        return Check(name, ok=False, detail=str(found))
    except OnlysumError as error:
        return Check(name, ok=False, detail=f"{error}; next: {error.explanation.next_step}")
    except OSError as error:
        return Check(name, ok=False, detail=f"{type(error).__name__}: {error.strerror}")


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
        raise _Failed(f"{free // 2**20} MiB free; updates and journal need room")
    return f"{free // 2**30} GiB free"


def _registered(here: Opened) -> str:
    gone = [
        one.name
        for one in (*here.desk.registry.datasets(), *here.desk.registry.models())
        if not Path(one.path).exists()
    ]
    if gone:
        raise _Failed(f"files are missing of: {', '.join(gone)}")
    return f"{len(here.desk.registry.datasets())} datasets, {len(here.desk.registry.models())} models"


def _coordinator(here: Opened) -> str:
    identity, settings = here.identity, here.settings
    hello = Hello(
        protocol_version=PROTOCOL_VERSION,
        software_version=version("onlysum"),
        member=identity.name,
        role=identity.role,
        ledger_head=here.ledger.head(),
        datasets=here.desk.offers(),
    )
    with Channel(identity, proxy=settings.proxy) as channel:
        welcome = channel.handshake(hello)
    here.ledger.require_at_least(welcome.ledger_head)
    return f"{identity.addresses[0]} answers, {len(welcome.members)} members"


def _daemon(home: Home) -> str:
    seen = look(home)
    if seen is None or not seen.running:
        raise _Failed("not running; start it: onlysum participant start")
    if not seen.connected:
        raise _Failed(f"running, not connected: {seen.code} {seen.detail}")
    return "running and connected"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def write_bundle(file: Path, home: Home, checks: list[Check]) -> None:
    """Write a zip for support.

    Raises:
        LocalError: ``E-EXISTS``.
    """
    if file.exists():
        raise LocalError("E-EXISTS", f"{file} is there already")
    runs = {path.parent.name: path.stat().st_size for path in home.runs.glob("*/journal")}
    document = {
        "checks": [asdict(one) for one in checks],
        "versions": _versions(),
        "platform": platform.platform(),
        "python": sys.version,
        "journals": runs,
    }
    with zipfile.ZipFile(file, "x", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("doctor.json", json.dumps(document, indent=2))
        for path in (home.config, home.policy):
            if path.is_file():
                bundle.write(path, path.name)
