"""``coordinator renew``: certificates of the service, its authority, and its address."""

from __future__ import annotations

import shlex
from pathlib import Path

from coordinator.commands.console import now, seconds
from coordinator.config import load_settings
from coordinator.database import member_rows
from coordinator.enrolment.authority import Authority, load_authority
from coordinator.enrolment.issuing import DAY
from coordinator.enrolment.notices import move
from coordinator.enrolment.renewal import renew_now, rotate
from coordinator.home import Home
from coordinator.opened import open_home
from host.certificates import expires_at
from host.rendering import Json, moment, timestamp
from host.system import SystemRandom
from privacy.errors import LocalError


def renew_all(target: Path, *, authority: bool, overlap: str, address: str) -> tuple[Json, list[str]]:
    """Renew what is asked for; return what was done, for programs and for people.

    Args:
        target: the coordinator's directory.
        authority: replace the authority.
        overlap: how long the old one still counts, a duration; empty: as long as members' certificates hold.
        address: what members dial from now on; empty: as before.

    Raises:
        LocalError: ``E-USAGE``, ``E-CERTIFICATE``, ``E-CONFIG-*`` or ``E-DISK-*``.
    """
    home, lines = Home(target), list[str]()
    settings = load_settings(home)
    days = seconds(overlap) // DAY if overlap else settings.certificates.member_days
    if authority and not days:
        raise LocalError("E-USAGE", "--overlap has days, e.g. 30d")
    if address:
        settings = move(home, address, load_authority(home.authority).operator, now=now())
        lines += _moved(target, address)
    if authority:
        made = rotate(home, settings, SystemRandom(), now(), overlap_days=days)
        lines += _rotated(made)
    else:
        made = renew_now(home, settings, SystemRandom(), now())
    _log(target, made, address=address, authority=authority)
    until = expires_at(made.server_certificate)
    lines.append(
        f"The service's certificate is valid until {moment(until)} UTC; a running service takes it up by itself."
    )
    value: Json = {
        "server_certificate_until": timestamp(until),
        "authority_fingerprint": made.fingerprint,
        "authority_until": timestamp(expires_at(made.ca_certificate)),
        "authority_before_until": timestamp(made.handover.ends) if made.handover else None,
        "addresses": [*settings.addresses],
    }
    return value, lines


def _log(target: Path, made: Authority, *, address: str, authority: bool) -> None:
    what = [f"authority {made.fingerprint}"] if authority else []
    what += [f"address {address}"] if address else []
    with open_home(target) as opened, opened.store.begin() as connection:
        detail = ", ".join(what) or "server certificate"
        member_rows.log_security(connection, now(), "renewed", opened.settings.federation, detail)


def _moved(target: Path, address: str) -> list[str]:
    return [
        f"Members will dial {address}; the present address stays in coordinator.toml as a former one, and answers too.",
        f"Restart the service: `onlysum coordinator start --config {shlex.quote(str(target))}`",
        "Members are told when they connect.",
        "When all of them have been connected since, take `former` out of coordinator.toml.",
    ]


def _rotated(made: Authority) -> list[str]:
    assert made.handover is not None
    return [
        f"New authority  {made.fingerprint}",
        f"The one before counts until {moment(made.handover.ends)} UTC; its key is gone.",
        "Members' daemons follow by themselves until then. Read the new fingerprint to the owners: each puts it into",
        "policy.toml, ca_fingerprint. Open invitations are void: make them anew.",
    ]
