"""Dealing: a participant's two secrets split among U1, each pair of shares sealed for its holder, and opened there.

Guarantees: what opens is exactly what the dealer signed, two shares below p; anything else is no pair of shares, and
the dealer alone can have made it.
Leaves to others: signing the bundle and checking signature, proof and ciphertext of what was passed on (``checks`` of
the participant), what follows from a bad share (``round``).
Source: docs/protocol.md sections 3 and 4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from privacy.plan import Plan
from privacy.seams import RandomSource
from privacy.secagg import keys, messages, shamir
from privacy.secagg.messages import (
    SEALED_PLAINTEXT_BYTES,
    SHARE_BYTES,
    DealtShare,
    Position,
    ShareBundle,
    ShareLeaf,
)
from privacy.secret import SecretBytes


@dataclass(frozen=True, slots=True)
class HeldShare:
    """A dealer's two shares for one holder, opened."""

    dealer: str
    masking_share: bytes
    seed_share: bytes

    def __repr__(self) -> str:
        return f"HeldShare(dealer={self.dealer!r}, <redacted>)"


@dataclass(frozen=True, slots=True)
class Channels:
    """One participant's sealed channels to and from its peers in an attempt."""

    me: str
    round_ctx: bytes
    agreed: Mapping[str, SecretBytes]  # by peer

    def seal(self, recipient: str, plaintext: bytes, random: RandomSource) -> bytes:
        """Return what only the recipient opens."""
        key = self._key(self.me, recipient, self.agreed[recipient])
        nonce = random.token_bytes(keys.NONCE_BYTES)
        return keys.seal(key, nonce, plaintext, seal_context(self.round_ctx, self.me, recipient))

    def unseal(self, sender: str, sealed: bytes) -> SecretBytes:
        """Return what a peer sealed for this participant.

        Raises:
            ValueError: it does not authenticate.
        """
        key = self._key(sender, self.me, self.agreed[sender])
        return keys.unseal(key, sealed, seal_context(self.round_ctx, sender, self.me))

    def _key(self, sender: str, recipient: str, agreed: SecretBytes) -> SecretBytes:
        return keys.channel_key(agreed, round_ctx=self.round_ctx, sender=sender, recipient=recipient)


def seal_context(round_ctx: bytes, dealer: str, holder: str) -> bytes:
    """Return the associated data of a sealed share: label, round_ctx, from, to."""
    return keys.framed(messages.LABEL_SEAL, round_ctx, dealer.encode(), holder.encode())


def share_hashes(round_ctx: bytes, holder: str, held: HeldShare) -> tuple[bytes, bytes]:
    """Return the hashes of a pair of shares (masking secret, seed) as they stand in the dealer's leaf."""
    return (
        messages.share_hash(b"masking", round_ctx, held.dealer, holder, held.masking_share),
        messages.share_hash(b"seed", round_ctx, held.dealer, holder, held.seed_share),
    )


@dataclass(frozen=True, slots=True)
class Dealer:
    """Splits a participant's two secrets and seals a pair of shares for each peer."""

    plan: Plan
    position: Position
    channels: Channels
    random: RandomSource

    def deal(
        self, masking_secret: SecretBytes, seed: SecretBytes, members: Sequence[str]
    ) -> tuple[ShareBundle, HeldShare]:
        """Return the bundle, still unsigned, and the pair of shares that the dealer itself holds."""
        me, round_ctx = self.channels.me, self.channels.round_ctx
        held = self._split(masking_secret, seed, members)
        sealed = tuple(
            b"" if name == me else self.channels.seal(name, _plaintext(held[name]), self.random) for name in members
        )
        leaves = tuple(
            ShareLeaf(name, hashlib.sha256(box).digest(), *share_hashes(round_ctx, name, held[name]))
            for name, box in zip(members, sealed, strict=True)
        )
        commitment = messages.seed_commitment(round_ctx, me, seed.reveal())
        return ShareBundle(self.position, me, leaves, sealed, commitment), held[me]

    def _split(self, masking_secret: SecretBytes, seed: SecretBytes, members: Sequence[str]) -> dict[str, HeldShare]:
        points = {name: self.plan.index(name) + 1 for name in members}
        split = [
            shamir.split(secret, threshold=self.plan.shamir_threshold, points=list(points.values()), random=self.random)
            for secret in (masking_secret, seed)
        ]
        return {
            name: HeldShare(self.channels.me, *(shares[x].reveal() for shares in split)) for name, x in points.items()
        }


def _plaintext(held: HeldShare) -> bytes:
    return held.masking_share + held.seed_share


def open_dealt(channels: Channels, one: DealtShare) -> HeldShare | None:
    """Return the opened pair of shares, or ``None`` if the dealer signed something that is no pair of shares."""
    try:
        opened = channels.unseal(one.dealer, one.sealed).reveal()
    except ValueError:
        return None
    if len(opened) != SEALED_PLAINTEXT_BYTES:
        return None
    held = HeldShare(one.dealer, opened[:SHARE_BYTES], opened[SHARE_BYTES:])
    below_p = all(int.from_bytes(x, "big") < shamir.FIELD for x in (held.masking_share, held.seed_share))
    committed = (one.leaf.masking_share_hash, one.leaf.seed_share_hash)
    return held if below_p and share_hashes(channels.round_ctx, channels.me, held) == committed else None
