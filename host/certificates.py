"""How long a certificate holds, and what this machine's clock makes of it.

Guarantees: a certificate that does not hold now is said with its dates and this machine's time, since either may be
wrong; two clocks that differ are said with both times.
Leaves to others: whose certificates there are (``coordinator.enrolment.authority``, ``participant.link.identity``).
"""

from __future__ import annotations

from typing import Final

from cryptography import x509

from host.rendering import moment
from privacy.errors import LocalError

RENEW_SECONDS: Final = 60 * 86_400  # the service's and the authority's are reported when they end within this time
SKEW_SECONDS: Final = 300  # by which clocks may differ: what expires here does so after hours or days


def valid_from(pem: bytes) -> int:
    """Return from when a certificate holds, in seconds since the Unix epoch."""
    return int(x509.load_pem_x509_certificate(pem).not_valid_before_utc.timestamp())


def expires_at(pem: bytes) -> int:
    """Return when a certificate expires, in seconds since the Unix epoch."""
    return int(x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp())


def issued_by(pem: bytes, authority: bytes) -> bool:
    """Return whether a certificate names an authority (both PEM) as the one that issued it."""
    return x509.load_pem_x509_certificate(pem).issuer == x509.load_pem_x509_certificate(authority).subject


def renewal_due(pem: bytes) -> int:
    """Return from when a certificate that its holder renews is to be renewed: two thirds of its time have passed."""
    begin, end = valid_from(pem), expires_at(pem)
    return begin + (end - begin) * 2 // 3


def renewal_overdue(pem: bytes) -> int:
    """Return from when somebody should look why a certificate was not renewed: five sixths of its time have passed."""
    begin, end = valid_from(pem), expires_at(pem)
    return begin + (end - begin) * 5 // 6


def invalid_now(pem: bytes, now: float) -> str:
    """Return why a certificate does not hold at ``now`` by this machine's clock; empty if it does."""
    clock = f"this machine's clock says {moment(int(now))} UTC"
    if now < valid_from(pem):
        return f"is valid from {moment(valid_from(pem))} UTC on, and {clock}: the clock is behind"
    if now > expires_at(pem):
        return f"expired at {moment(expires_at(pem))} UTC, and {clock}: it must be renewed, or the clock is ahead"
    return ""


def require_valid(pem: bytes, whose: str, now: float) -> None:
    """Refuse to begin with a certificate that nobody would accept.

    Args:
        pem: the certificate.
        whose: for the message.
        now: seconds since the Unix epoch.

    Raises:
        LocalError: ``E-CERTIFICATE``.
    """
    if reason := invalid_now(pem, now):
        raise LocalError("E-CERTIFICATE", f"{whose} {reason}")


def compare_clocks(own: float, coordinators: int) -> LocalError | None:
    """Return what is wrong if this machine's clock and the coordinator's differ, ``E-CLOCK``.

    Args:
        own: seconds since the Unix epoch.
        coordinators: likewise; 0 if it did not say.
    """
    if not coordinators or abs(own - coordinators) <= SKEW_SECONDS:
        return None
    clocks = f"this machine's clock says {moment(int(own))} UTC, the coordinator's says {moment(coordinators)} UTC"
    return LocalError("E-CLOCK", clocks)
