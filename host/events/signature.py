"""The signature of an event for a webhook: HMAC-SHA256 under a secret that both sides have in a file.

Guarantees: the secret is read from a file that only its owner can read, and is nowhere else; what is signed are the
time of sending and the very bytes of the body, so that whoever verifies knows who sent it and when, and that nothing
was changed.
Leaves to others: sending (``host.events.webhook``), refusing what is old or came before (the receiver).
Source: RFC 2104; the form of the header is that of Stripe's webhooks.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Final

from host.credentials import check_private
from host.events.event import Events
from privacy.errors import LocalError
from privacy.secret import SecretBytes

HEADER: Final = "Onlysum-Signature"  # t=SECONDS,v1=HEX
LEAST_BYTES: Final = 16  # of a secret: less could be guessed
MOST_BYTES: Final = 4096


def load_secret(directory: Path, settings: Events) -> SecretBytes | None:
    """Return the secret that a configuration names, without the line break that an editor leaves behind it.

    Args:
        directory: of the daemon, where a relative path begins.
        settings: of its events.

    Raises:
        LocalError: ``E-CONFIG-MISSING``, ``E-PERMISSIONS``, ``E-DISK-FAILED``, or ``E-CONFIG-INVALID``: it is too short
            or too long.
    """
    if not settings.secret_file:
        return None
    path = directory / settings.secret_file
    check_private(path)
    try:
        with path.open("rb") as file:
            secret = SecretBytes(file.read(MOST_BYTES + 1).rstrip(b"\r\n"))
    except OSError as error:
        raise LocalError("E-DISK-FAILED", f"{path} cannot be read: {error.strerror}") from None
    if not LEAST_BYTES <= len(secret) <= MOST_BYTES:
        rule = f"a webhook's secret has {LEAST_BYTES} to {MOST_BYTES} bytes"
        raise LocalError("E-CONFIG-INVALID", f"{path}: {rule}")
    return secret


def signature(secret: SecretBytes, body: bytes, *, at: int) -> str:
    """Return the header's value.

    Args:
        secret: of the webhook.
        body: as it is sent.
        at: seconds since the Unix epoch, when it is sent.
    """
    signed = hmac.new(secret.reveal(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={signed}"
