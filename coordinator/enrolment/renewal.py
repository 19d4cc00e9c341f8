"""The coordinator's own certificate is renewed by itself, when the daemon starts.

Guarantees: the key stays, and so does the authority that members pinned, so that nobody notices; an authority that is
not valid now is refused, since no certificate of its would be accepted.
Leaves to others: members' certificates, which nothing renews yet.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from coordinator.config import Settings
from coordinator.enrolment.authority import Authority, covers, renew_server, save_server_certificate
from coordinator.home import Home
from host.certificates import RENEW_SECONDS, expires_at, invalid_now, require_valid
from privacy.interfaces import RandomSource


def with_valid_server(
    home: Home, settings: Settings, authority: Authority, random: RandomSource, now: float
) -> Authority:
    """Return the authority with a server certificate that is valid now and names the hosts that members dial.

    Raises:
        LocalError: ``E-CERTIFICATE``, the authority itself is not valid now.
    """
    require_valid(authority.ca_certificate, "the authority's certificate", now)
    hosts = settings.hosts
    shown = authority.server_certificate
    holds = not invalid_now(shown, now) and expires_at(shown) - now >= RENEW_SECONDS
    if holds and all(covers(shown, host) for host in hosts):
        return authority
    renewed = renew_server(authority, hosts=hosts, random=random, now=now)
    save_server_certificate(home.authority, renewed)
    structlog.get_logger("coordinator").info("server certificate renewed", hosts=hosts)
    return replace(authority, server_certificate=renewed)
