"""Fingerprints of public keys: what two people compare by telephone, and what an owner pins in a policy.

Guarantees: every program here prints the same fingerprint of the same key; a pin of at least 128 bits matches one key
only, because finding a second key with the same digits takes 2^128 hashes. The fingerprint of a roster has 256 bits:
there a coordinator could choose both lists that it shows to two owners, and look for any two with the same digits.
Leaves to others: which keys are compared, and how long a pin must be (``participant.owner.policy``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from privacy.secagg.keys import framed

LABEL_ROSTER: Final = b"onlysum/1/roster-fingerprint"
DIGITS: Final = 32  # hexadecimal, 128 bits: no second key with the same can be found
ROSTER_DIGITS: Final = 64  # hexadecimal, 256 bits: no two rosters with the same can be found in less than 2^128 hashes
GROUP_DIGITS: Final = 4  # as people read them aloud


def fingerprint(public: bytes) -> str:
    """Return what two people compare by telephone: 128 bits of SHA-256 in eight groups of four hex digits.

    Args:
        public: an Ed25519 public key, or the DER of an authority's certificate.
    """
    return _grouped(hashlib.sha256(public).hexdigest()[:DIGITS])


def roster_fingerprint(federation: str, authority: bytes, members: Mapping[str, bytes]) -> str:
    """Return what owners compare once in place of every key: 256 bits in sixteen groups of four hex digits.

    Two that are the same mean the same federation, authority, names and keys, none more and none fewer.

    Args:
        federation: its name.
        authority: SHA-256 of the authority's certificate, 32 bytes.
        members: the identity keys (Ed25519 public keys) of all participants, by name; in any order.
    """
    entries = (part for name in sorted(members) for part in (name.encode(), members[name]))
    return _grouped(hashlib.sha256(framed(LABEL_ROSTER, federation.encode(), authority, *entries)).hexdigest())


def digits_of(text: str) -> str:
    """Return the digits of a fingerprint as a person typed it: lower case, without spaces, colons and dashes."""
    return "".join(text.lower().replace(":", "").replace("-", "").split())


def _grouped(digits: str) -> str:
    return " ".join(digits[start : start + GROUP_DIGITS] for start in range(0, len(digits), GROUP_DIGITS))


def matches(public: bytes, pin: str) -> bool:
    """Return whether a key is the pinned one.

    Args:
        public: the key, as for :func:`fingerprint`.
        pin: the beginning of its SHA-256, in lower-case hexadecimal without spaces; every digit counts.
    """
    return hashlib.sha256(public).hexdigest().startswith(pin)
