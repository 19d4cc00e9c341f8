"""``participant doctor``: is this machine fit to take part?

Guarantees: every check runs, whatever the others find; a bundle for support holds no key, no data, no update and no
ledger. Leaves to others: the checks' own rules (``home``, ``policy``, ``ledger``, ``channel``).
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from host import checkup
from host.certificates import compare_clocks, expires_at, invalid_now, renewal_due
from host.checkup import Check, CheckFailed, Examination, check, check_disk, versions_check
from host.events.signature import load_secret
from host.rendering import Json, moment
from host.system import SystemClock
from participant.config import load_settings
from participant.daemon.status import read_status
from participant.home import Home
from participant.link.channel import Channel
from participant.link.identity import load_identity
from participant.opened import OpenHome, open_home
from participant.owner.policy import load_policy
from participant.runs.rollback import lost_head, own_heads
from participant.views.identity import certificate_trouble
from privacy.errors import RefusedError
from privacy.plan import PROTOCOL_VERSION
from protos.envelope import Hello

PACKAGES: Final = ("onlysum", "cryptography", "grpcio", "numpy", "pydantic", "torch", "transformers", "peft", "opacus")


def examine(directory: Path, bundle: Path | None = None) -> Examination:
    """Run all checks on a participant's directory, and write them to a bundle if one is asked for.

    Raises:
        LocalError: ``E-EXISTS``, of the bundle.
    """
    home = Home(directory)
    checks = _checks(home, SystemClock().now())
    if bundle is not None:
        write_bundle(bundle, home, checks)
    return Examination(checks, bundle)


def _checks(home: Home, now: float) -> tuple[Check, ...]:
    checks = [check("directory", lambda: _directory(home)), check("configuration", lambda: _configuration(home))]
    readable = all(outcome.ok for outcome in checks)
    checks.append(check("policy", lambda: f"{len(load_policy(home).dataset)} datasets may be used"))
    checks.append(check_disk(home.directory, "updates and journal"))
    if readable:
        checks.append(check("certificate", lambda: _certificate(home, now)))
        checks.append(check("device", lambda: _device(home)))
        checks.append(check("ledger", lambda: f"{open_home(home.directory).ledger.verify()} records verify"))
        checks.append(check("datasets and models", lambda: _registered(open_home(home.directory))))
        checks.append(check("coordinator", lambda: _coordinator(open_home(home.directory))))
    checks.append(check("daemon", lambda: _daemon(home)))
    checks.append(versions_check(PACKAGES))
    return tuple(checks)


def _directory(home: Home) -> str:
    home.check()
    return f"{home.directory}, closed to others"


def _configuration(home: Home) -> str:
    settings = load_settings(home)
    load_secret(home.directory, settings.events)
    computing = f"device {settings.device}, engine {settings.engine}, precision {settings.precision}"
    return f"name {settings.name}, {computing}, proxy {'set' if settings.proxy else 'none'}"


def _certificate(home: Home, now: float) -> str:
    identity = load_identity(home.identity)
    if trouble := certificate_trouble(identity.certificate, identity.name, now):
        raise CheckFailed(f"until {moment(expires_at(identity.certificate))} UTC: {trouble}")
    if reason := invalid_now(identity.authority, now):
        raise CheckFailed(f"the authority {reason}; ask the operator")
    due = moment(renewal_due(identity.certificate))
    return f"valid until {moment(expires_at(identity.certificate))} UTC, renewed from {due} UTC on"


def _device(home: Home) -> str:
    """Say where this machine would train; an evaluator on the base install has no torch, and says so."""
    if find_spec("torch") is None:
        return "torch is not installed: training needs onlysum[participant]"
    from participant.training.adapters.device import find_device, require_precision

    settings = load_settings(home)
    device = find_device(settings.device)
    require_precision(device, settings.precision)
    return f"{device}, precision {settings.precision}"


def _registered(opened: OpenHome) -> str:
    registry = opened.review.registry
    datasets, models = registry.datasets(), registry.models()
    missing = [entry.name for entry in (*datasets, *models) if not Path(entry.path).exists()]
    if missing:
        raise CheckFailed(f"files are missing of: {', '.join(missing)}")
    return f"{len(datasets)} datasets, {len(models)} models"


def _coordinator(opened: OpenHome) -> str:
    identity, settings = opened.identity, opened.settings
    hello = first_words(opened)
    with Channel(identity, proxy=settings.proxy) as channel:
        welcome = channel.handshake(hello)
    if clocks := compare_clocks(SystemClock().now(), welcome.clock):
        raise clocks
    if (lost := lost_head(opened.ledger, welcome, own_heads(opened.owner, welcome))) is not None:
        detail = f"record {lost.sequence} of the ledger was shown and is missing here"
        raise RefusedError("E-LEDGER-ROLLBACK", f"{detail}; next: onlysum participant ledger reanchor")
    return f"{identity.addresses[0]} answers, {len(welcome.members)} members"


def first_words(opened: OpenHome) -> Hello:
    """Return what a command says at a handshake, as the daemon would."""
    return Hello(
        protocol_version=PROTOCOL_VERSION,
        software_version=version("onlysum"),
        member=opened.identity.name,
        role=opened.identity.role,
        ledger_head=opened.ledger.head(),
        datasets=opened.review.offers(),
    )


def _daemon(home: Home) -> str:
    status = read_status(home)
    if status is None or not status.running:
        return "not running; when the rest is in order: onlysum participant start"
    if not status.connected:
        raise CheckFailed(f"running, not connected: {status.code} {status.detail}")
    return "running and connected"


def write_bundle(file: Path, home: Home, checks: tuple[Check, ...]) -> None:
    """Write a zip for support: checks, versions, configuration and policy, the sizes of journals.

    Raises:
        LocalError: ``E-EXISTS``.
    """
    journals: Json = {path.parent.name: path.stat().st_size for path in home.runs.glob("*/journal")}
    documents = {"journals": journals}
    checkup.write_bundle(file, checks, PACKAGES, documents=documents, configuration=[home.config, home.policy])
