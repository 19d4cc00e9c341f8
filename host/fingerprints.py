"""Fingerprints of public keys: what two people compare by telephone, and what an owner pins in a policy.

Guarantees: every program here prints the same fingerprint of the same key; a pin of at least 128 bits matches one key
only, because finding a second key with the same digits takes 2^128 hashes.
Leaves to others: which keys are compared, and how long a pin must be (``participant.owner.policy``).
"""

from __future__ import annotations

import hashlib
from typing import Final

DIGITS: Final = 32  # hexadecimal, 128 bits: no second key with the same can be found
GROUP_DIGITS: Final = 4  # as people read them aloud


def fingerprint(public: bytes) -> str:
    """Return what two people compare by telephone: 128 bits of SHA-256 in eight groups of four hex digits.

    Args:
        public: an Ed25519 public key, or the DER of an authority's certificate.
    """
    digits = hashlib.sha256(public).hexdigest()[:DIGITS]
    return " ".join(digits[start : start + GROUP_DIGITS] for start in range(0, DIGITS, GROUP_DIGITS))


def matches(public: bytes, pin: str) -> bool:
    """Return whether a key is the pinned one.

    Args:
        public: the key, as for :func:`fingerprint`.
        pin: the beginning of its SHA-256, in lower-case hexadecimal without spaces; every digit counts.
    """
    return hashlib.sha256(public).hexdigest().startswith(pin)
