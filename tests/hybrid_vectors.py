"""Byte vectors of suite 2: what alice gives bob, and what bob must make of it.

Encapsulation draws the library's own randomness, so another implementation checks these by opening them. Each value is
hexadecimal. The names that begin with ``_bad_`` must be refused.

Usage: ``python -m tests.hybrid_vectors`` writes ``tests/vectors/hybrid.json`` anew, with other ciphertexts.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

from privacy.secagg import keys, suites
from privacy.secagg.messages import SealedPair
from privacy.secagg.pairing import Pairing
from privacy.secagg.suites import Route, channel_keys, masking_keys
from privacy.secret import SecretBytes

FILE: Final = Path(__file__).with_name("vectors") / "hybrid.json"
ROUND_CTX: Final = hashlib.sha256(b"onlysum tests: a round context").digest()


def secret(name: str) -> SecretBytes:
    """Return the 32 bytes that a name stands for in these vectors."""
    return SecretBytes(hashlib.sha256(b"onlysum tests: " + name.encode()).digest())


def pairing(me: str, peer: str, *, round_ctx: bytes = ROUND_CTX) -> Pairing:
    """Return one participant's side of the pair."""
    mine, theirs = (masking_keys(2, secret(f"masking {name}")) for name in (me, peer))
    return Pairing(me, round_ctx, secret(f"masking {me}"), {peer: mine.link(theirs.public)})


def channel(me: str, peer: str) -> suites.Link:
    """Return one participant's link of the channel keys."""
    mine, theirs = (channel_keys(2, secret(f"channel {name}")) for name in (me, peer))
    return mine.link(theirs.public)


class FixedNonce:
    """Nonces of zeros: these keys are used once."""

    def token_bytes(self, count: int) -> bytes:
        """Return zeros."""
        return bytes(count)


def flipped(data: bytes, index: int) -> bytes:
    """Return the bytes with one bit changed."""
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


def made() -> dict[str, str]:
    """Return new vectors."""
    route = Route(keys.LABEL_CHANNEL, ROUND_CTX, "alice", "bob")
    pair = pairing("alice", "bob").seal_for("bob", FixedNonce())
    sealed = suites.seal(channel("alice", "bob"), route, b"shares".ljust(66), FixedNonce())
    vectors = {
        "round_ctx": ROUND_CTX,
        **{
            f"{name}_{kind}_{form}": value
            for name in ("alice", "bob")
            for kind, make in (("masking", masking_keys), ("channel", channel_keys))
            for form, value in (
                ("secret", secret(f"{kind} {name}").reveal()),
                ("public", make(2, secret(f"{kind} {name}")).public),
            )
        },
        "sealed_pair": pair.sealed,
        "pair_commitment": pair.commitment,
        "pairwise_seed": pairing("alice", "bob").seed("bob", pair).reveal(),
        "sealed_share": sealed,
        "share": b"shares".ljust(66),
        "_bad_sealed_pair_kem": flipped(pair.sealed, 0),
        "_bad_sealed_pair_box": flipped(pair.sealed, 1100),
        "_bad_sealed_pair_short": pair.sealed[:-1],
        "_bad_pair_commitment": flipped(pair.commitment, 0),
        "_bad_sealed_share_kem": flipped(sealed, 1087),
        "_bad_sealed_share_box": flipped(sealed, 1181),
        "_bad_sealed_share_long": sealed + b"\0",
    }
    return {name: value.hex() for name, value in vectors.items()}


def read() -> dict[str, bytes]:
    """Return the committed vectors."""
    return {name: bytes.fromhex(value) for name, value in json.loads(FILE.read_text()).items()}


def opened_pair(sealed: bytes, commitment: bytes) -> bytes:
    """Return bob's pairwise seed with alice, or raise ``ValueError``."""
    return pairing("bob", "alice").seed("alice", SealedPair(sealed, commitment)).reveal()


def opened_share(sealed: bytes, *, sender: str = "alice", recipient: str = "bob", label: bytes = b"") -> bytes:
    """Return what bob finds in a sealed share, or raise ``ValueError``."""
    route = Route(label or keys.LABEL_CHANNEL, ROUND_CTX, sender, recipient)
    return suites.unseal(channel("bob", "alice"), route, sealed).reveal()


if __name__ == "__main__":
    FILE.write_text(json.dumps(made(), indent=1) + "\n")
