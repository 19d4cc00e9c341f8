"""Byte vectors of suite 2: what alice gives bob, and what bob must make of it.

The library draws the randomness of an encapsulation itself; here it comes from the slow reference
(``tests/reference/slow_kem.py``), which is given it, so that the vectors can be made again byte for byte. Each value is
hexadecimal. The names that begin with ``_bad_`` must be refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from privacy.secagg import keys, suites
from privacy.secagg.messages import SealedPair
from privacy.secagg.pairing import Pairing
from privacy.secagg.suites import Route, channel_keys, masking_keys
from privacy.secret import SecretBytes
from tests.reference import slow_kem

FILE: Final = Path(__file__).parents[1] / "vectors" / "hybrid.json"
ROUND_CTX: Final = hashlib.sha256(b"onlysum tests: a round context").digest()


def secret(name: str) -> SecretBytes:
    """Return the 32 bytes that a name stands for in these vectors."""
    return SecretBytes(hashlib.sha256(b"onlysum tests: " + name.encode()).digest())


@dataclass(frozen=True)
class GivenEncapsulation:
    """A peer's public ML-KEM key with which one encapsulates from given randomness: the reference's."""

    public: bytes
    drawn: bytes

    def encapsulate(self) -> tuple[SecretBytes, bytes]:
        """Return the secret and the ciphertext, the same ones each time."""
        shared, ciphertext = slow_kem.encapsulated(self.public, self.drawn)
        return SecretBytes(shared), ciphertext


def given(link: Any, public: bytes, drawn: bytes) -> Any:
    """Return a hybrid link that encapsulates from given randomness to a suite's public key."""
    return replace(link, theirs=GivenEncapsulation(public[keys.KEY_BYTES :], drawn))


def pairing(me: str, peer: str, *, round_ctx: bytes = ROUND_CTX, drawn: bytes = b"") -> Pairing:
    """Return one participant's side of the pair; ``drawn`` is what it encapsulates from, if it is not to be fresh."""
    mine, theirs = (masking_keys(2, secret(f"masking {name}")) for name in (me, peer))
    link = mine.link(theirs.public)
    links = {peer: given(link, theirs.public, drawn) if drawn else link}
    return Pairing(me, round_ctx, secret(f"masking {me}"), links)


def channel(me: str, peer: str, *, drawn: bytes = b"") -> suites.Link:
    """Return one participant's link of the channel keys; ``drawn`` as in :func:`pairing`."""
    mine, theirs = (channel_keys(2, secret(f"channel {name}")) for name in (me, peer))
    link = mine.link(theirs.public)
    return given(link, theirs.public, drawn) if drawn else link


class FixedNonce:
    """Nonces of zeros: these keys are used once."""

    def token_bytes(self, count: int) -> bytes:
        """Return zeros."""
        return bytes(count)


def flipped(data: bytes, index: int) -> bytes:
    """Return the bytes with one bit changed."""
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


def made() -> dict[str, str]:
    """Return the vectors, the same bytes each time."""
    route = Route(keys.LABEL_CHANNEL, ROUND_CTX, "alice", "bob")
    drawn = {name: secret(f"encapsulation of a {name}").reveal() for name in ("pair secret", "share")}
    pair = pairing("alice", "bob", drawn=drawn["pair secret"]).seal_for("bob", FixedNonce())
    sealed = suites.seal(channel("alice", "bob", drawn=drawn["share"]), route, b"shares".ljust(66), FixedNonce())
    vectors = {
        "round_ctx": ROUND_CTX,
        "encapsulated_pair_from": drawn["pair secret"],
        "encapsulated_share_from": drawn["share"],
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
