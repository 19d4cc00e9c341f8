"""Where members dial from now on: the operator says so in coordinator.toml, and every handshake repeats it.

Guarantees: a notice is signed by the operator's key, and a later one replaces it, so that nobody else can lead members
elsewhere, or back; coordinator.toml is changed first, and holds nothing else than before but the addresses.
Leaves to others: what the keys of coordinator.toml mean (``coordinator.config``).
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from coordinator.config import Settings, load_settings, parse_settings
from coordinator.home import Home
from host import durable
from privacy import canonical, patterns
from privacy.errors import LocalError, VerificationError
from privacy.plan_parts import PlanModel
from privacy.secagg.keys import SigningKey
from protos.invitation import is_address
from protos.renewal import MAX_ADDRESSES, AddressNotice, addresses_bytes

NOTICE: Final = "addresses.json"
_SECTION: Final = re.compile(r"(?m)^\[participants\][^\n]*\n(?:(?!\[)[^\n]*(?:\n|\Z))*")
_ADDRESS: Final = re.compile(r"(?m)^address[ \t]*=[ \t]*\"[^\"\n]*\"")
_FORMER: Final = re.compile(r"(?m)^former[ \t]*=[ \t]*\[[^\]]*\][^\n]*\n")


def _address(value: str) -> str:
    if not is_address(value):
        raise ValueError("no address")
    return value


class _Saved(PlanModel):
    """The form of ``addresses.json``."""

    addresses: Annotated[
        tuple[Annotated[str, AfterValidator(_address)], ...], Field(min_length=1, max_length=MAX_ADDRESSES)
    ]
    said_at: int
    signature: Annotated[str, StringConstraints(pattern=patterns.HEX_512)]


def read_notice(home: Home) -> AddressNotice | None:
    """Return what the operator said last; None if the addresses never changed.

    Raises:
        VerificationError: ``E-STATE-DAMAGED``.
    """
    path = home.directory / NOTICE
    if not path.exists():
        return None
    try:
        saved = _Saved.model_validate_json(path.read_bytes())
    except ValidationError:
        raise VerificationError("E-STATE-DAMAGED", f"{path} does not parse") from None
    return AddressNotice(saved.addresses, saved.said_at, bytes.fromhex(saved.signature))


def move(home: Home, address: str, operator: SigningKey, *, now: int) -> Settings:
    """Let members dial another address, and the present one for as long as coordinator.toml names it.

    Args:
        home: the coordinator's directory.
        address: host:port.
        operator: the operator's key.
        now: seconds since the Unix epoch.

    Returns:
        The new settings; the daemon has them from its next start on.

    Raises:
        LocalError: ``E-USAGE``, it is the present address; ``E-CONFIG-INVALID``, it is none that members can dial, or
            there would be more than eight.
    """
    settings = load_settings(home)
    present = settings.participants
    if address == present.address:
        raise LocalError("E-USAGE", f"members dial {address} already")
    former = [known for known in present.addresses if known != address]
    text = _with_addresses(home.config.read_text(encoding="utf-8"), address, former)
    changed = parse_settings(text)
    if changed.model_copy(update={"participants": present}) != settings:
        raise LocalError("E-CONFIG-INVALID", "coordinator.toml has a form that this command cannot change: edit it")
    document = _signed(home, changed, operator, now)
    durable.write(home.config, text.encode())
    durable.write(home.directory / NOTICE, document)
    return changed


def tell_of_replicas(home: Home, settings: Settings, operator: SigningKey, *, now: int) -> None:
    """Let members know of all coordinators, also those that joined before there were several.

    Args:
        home: the coordinator's directory.
        settings: coordinator.toml; nothing is said unless it names other coordinators.
        operator: the operator's key.
        now: seconds since the Unix epoch.

    Raises:
        VerificationError: ``E-STATE-DAMAGED``.
        LocalError: ``E-DISK-*``.
    """
    said = read_notice(home)
    if settings.replicas is not None and (said is None or {*said.addresses} != {*settings.addresses}):
        durable.write(home.directory / NOTICE, _signed(home, settings, operator, now))


def _signed(home: Home, settings: Settings, operator: SigningKey, now: int) -> bytes:
    """Return the notice of the addresses in coordinator.toml, newer than the last one."""
    before = read_notice(home)
    said_at = max(now, before.said_at + 1 if before else 1)
    addresses = settings.addresses
    signature = operator.sign(addresses_bytes(federation=settings.federation, said_at=said_at, addresses=addresses))
    return canonical.encode({"addresses": [*addresses], "said_at": said_at, "signature": signature.hex()})


def _with_addresses(text: str, address: str, former: list[str]) -> str:
    """Return coordinator.toml with other addresses in its section of participants."""
    section = _SECTION.search(text)
    if section is None or not _ADDRESS.search(section[0]):
        raise LocalError("E-CONFIG-INVALID", "coordinator.toml has no line `address = ...` in [participants]: edit it")
    quoted = ", ".join(f'"{known}"' for known in former)
    listed = f'address = "{address}"', f"former = [{quoted}]  # answers too, until members have been told\n"
    without = _FORMER.sub("", section[0])
    line = _ADDRESS.sub(lambda _: listed[0], without, count=1)
    changed = re.sub(r"(?m)^(address = [^\n]*\n)", lambda found: found[1] + listed[1], line, count=1)
    return text[: section.start()] + changed + text[section.end() :]
