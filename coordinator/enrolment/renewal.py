"""The coordinator's own certificate is renewed by itself, and what a command renews is taken up while the daemon runs.

Guarantees: where nothing else is asked for the key stays, and so does the authority that members pinned, so that nobody
notices; an authority that is not valid now is refused, since no certificate of its would be accepted; a certificate
names every host under which members still dial.
Leaves to others: members' certificates (``renewals``), an authority's successor (``succession``).
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from coordinator.config import Settings
from coordinator.enrolment.authority import (
    CA_CERTIFICATE,
    SERVER_CERTIFICATE,
    Authority,
    covers,
    load_authority,
    renew_server,
    replace_authority,
    save_server_certificate,
)
from coordinator.enrolment.succession import succeed
from coordinator.home import Home
from host.certificates import RENEW_SECONDS, expires_at, invalid_now, require_valid
from host.locks import held
from host.logs import get_logger
from privacy.errors import OnlysumError
from privacy.interfaces import Clock, RandomSource

LOCK_NAME = "renewal.lock"  # of whoever writes certificates: the daemon's timer, or a command


def with_valid_server(
    home: Home, settings: Settings, authority: Authority, random: RandomSource, now: float, *, anew: bool = False
) -> Authority:
    """Return the authority with a server certificate that is valid now and names the hosts that members dial.

    Args:
        home: the coordinator's directory.
        settings: coordinator.toml.
        authority: its keys.
        random: source of serial numbers.
        now: seconds since the Unix epoch.
        anew: renew it although it is still good.

    Raises:
        LocalError: ``E-CERTIFICATE``, the authority itself is not valid now.
    """
    require_valid(authority.ca_certificate, "the authority's certificate", now)
    hosts, shown = settings.hosts, authority.server_certificate
    holds = not anew and not invalid_now(shown, now) and expires_at(shown) - now >= RENEW_SECONDS
    if holds and all(covers(shown, host) for host in hosts):
        return authority
    renewed = renew_server(authority, hosts=hosts, random=random, now=now)
    save_server_certificate(home.authority, renewed)
    get_logger("coordinator").info("server certificate renewed", hosts=hosts)
    return replace(authority, server_certificate=renewed)


def renew_now(home: Home, settings: Settings, random: RandomSource, now: float) -> Authority:
    """Renew the server's certificate whatever its age; raises as :func:`with_valid_server`."""
    with held(home.directory / LOCK_NAME):
        return with_valid_server(home, settings, load_authority(home.authority), random, now, anew=True)


def rotate(home: Home, settings: Settings, random: RandomSource, now: float, *, overlap_days: int) -> Authority:
    """Put a new authority in the place of the present one, which names it; its private key is gone then.

    Raises:
        LocalError: ``E-CERTIFICATE``, the present one is not valid now, or ``E-USAGE``.
    """
    with held(home.directory / LOCK_NAME):
        present = load_authority(home.authority)
        require_valid(present.ca_certificate, "the authority's certificate", now)
        after = succeed(
            present,
            federation=settings.federation,
            hosts=settings.hosts,
            overlap_days=overlap_days,
            random=random,
            now=now,
        )
        replace_authority(home.authority, after)
        return after


class AuthorityKeeper:
    """The authority as the running daemon has it: looked at again from time to time."""

    def __init__(
        self, home: Home, settings: Settings, authority: Authority, *, clock: Clock, random: RandomSource
    ) -> None:
        self._home = home
        self._settings = settings
        self._clock = clock
        self._random = random
        self._lock = threading.Lock()
        self._read_at = self._written_at()
        self._log = get_logger("coordinator")
        self.current = authority

    def look(self) -> None:
        """Take up what a command has written, and renew the server's certificate when that is due.

        What cannot be read or written now is logged, and the present certificates stay in use.
        """
        with self._lock:
            try:
                self._look()
            except (OnlysumError, OSError) as error:
                self._log.error("certificates are not renewed", error=str(error))

    def _look(self) -> None:
        with held(self._home.directory / LOCK_NAME):
            written_at = self._written_at()
            if written_at != self._read_at:
                self.current, self._read_at = load_authority(self._home.authority), written_at
                self._log.info("certificates taken up", authority=self.current.fingerprint)
            now = self._clock.now()
            self.current = with_valid_server(self._home, self._settings, self.current, self._random, now)
            self._read_at = self._written_at()

    def _written_at(self) -> tuple[int, ...]:
        return tuple(_written_at(self._home.authority / name) for name in (CA_CERTIFICATE, SERVER_CERTIFICATE))


def _written_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
