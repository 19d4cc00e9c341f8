"""A new coordinator: its directory, database, keys and configuration.

Guarantees: coordinator.toml is written last, so a directory with this file is complete; keys are never overwritten.
Leaves to others: the text of coordinator.toml (``config``), the keys themselves (``authority``).
"""

from __future__ import annotations

from coordinator.config import parse_settings
from coordinator.database.store import Store
from coordinator.enrolment.authority import Authority, create_authority, save_authority
from coordinator.home import Home
from host import durable
from host.credentials import DIRECTORY_MODE
from host.state_format import write_format
from privacy.errors import LocalError
from privacy.interfaces import RandomSource


def create_coordinator(home: Home, text: str, *, now: int, random: RandomSource) -> Authority:
    """Make a coordinator.

    Args:
        home: its directory, which may be there but holds no coordinator.
        text: of coordinator.toml.
        now: seconds since the Unix epoch, from which certificates hold.
        random: keys are drawn from it.

    Raises:
        LocalError: ``E-EXISTS``, ``E-CONFIG-*``, ``E-DISK-FULL`` or ``E-DISK-FAILED``.
    """
    if home.authority.exists():
        detail = f"{home.authority} has keys, but {home.config} is missing; bring that back, or move the directory away"
        raise LocalError("E-EXISTS", detail)
    settings = parse_settings(text)
    with durable.disk_errors(home.directory):
        durable.make_directory(home.directory, mode=DIRECTORY_MODE)
        durable.make_directory(home.runs)
        durable.make_directory(settings.spool_path(home), mode=DIRECTORY_MODE)
    Store.create(settings.database_url(home)).close()  # before the keys: a full disk is noticed here
    made = create_authority(federation=settings.federation, hosts=settings.hosts, random=random, now=now)
    save_authority(home.authority, made)
    write_format(home.directory)
    durable.write(home.unused, b"")
    durable.write(home.config, text.encode())
    return made
