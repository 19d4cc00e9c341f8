"""Dealing: a participant's two secrets split among its holders, each pair of shares sealed, and opened by its holder.

Guarantees: what opens is exactly what the dealer signed, two shares below p; anything else is no pair of shares, and
the dealer alone can have made it.
Leaves to others: signing the bundle and checking signature, proof and ciphertext of what was passed on (``checks`` of
the participant), what follows from a bad share (``round``).
Source: docs/protocol.md sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from privacy.interfaces import RandomSource
from privacy.secagg import hashes, keys, messages, shamir, suites
from privacy.secagg.messages import (
    SEALED_PLAINTEXT_BYTES,
    DealtShare,
    Position,
    SealedPair,
    ShareBundle,
    ShareLeaf,
)
from privacy.secagg.pairing import Pairing
from privacy.secagg.parameters import Parameters
from privacy.secagg.shamir import SHARE_BYTES
from privacy.secagg.suites import HYBRID, Link, Route
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
    links: Mapping[str, Link]  # of the channel keys, by peer

    def seal(self, recipient: str, plaintext: bytes, random: RandomSource) -> bytes:
        """Return what only the recipient opens."""
        return suites.seal(self.links[recipient], self._route(self.me, recipient), plaintext, random)

    def unseal(self, sender: str, sealed: bytes) -> SecretBytes:
        """Return what a peer sealed for this participant.

        Raises:
            ValueError: it does not authenticate.
        """
        return suites.unseal(self.links[sender], self._route(sender, self.me), sealed)

    def _route(self, sender: str, recipient: str) -> Route:
        return Route(keys.LABEL_CHANNEL, self.round_ctx, sender, recipient)


def share_hashes(round_ctx: bytes, holder: str, held: HeldShare) -> tuple[bytes, bytes]:
    """Return the hashes of a pair of shares (masking secret, seed) as they stand in the dealer's leaf."""
    return (
        hashes.share_hash(b"masking", round_ctx, held.dealer, holder, held.masking_share),
        hashes.share_hash(b"seed", round_ctx, held.dealer, holder, held.seed_share),
    )


@dataclass(frozen=True, slots=True)
class Dealer:
    """Splits a participant's two secrets and seals a pair of shares for each peer."""

    parameters: Parameters
    position: Position
    channels: Channels
    pairing: Pairing
    random: RandomSource

    def deal(self, seed: SecretBytes, holders: Sequence[str]) -> tuple[ShareBundle, HeldShare]:
        """Return the bundle, still unsigned, and the pair of shares that the dealer itself holds.

        Args:
            seed: of the self mask.
            holders: sorted, the dealer among them; at least as many as the plan's threshold of shares.
        """
        me, round_ctx = self.channels.me, self.channels.round_ctx
        held = self._split(seed, holders)
        sealed = tuple(
            b"" if name == me else self.channels.seal(name, _plaintext(held[name]), self.random) for name in holders
        )
        pairs = tuple(SealedPair() if name == me else self.pairing.seal_for(name, self.random) for name in holders)
        leaves = tuple(
            ShareLeaf(
                name,
                messages.ciphertext_hash(box, pair.sealed),
                *share_hashes(round_ctx, name, held[name]),
                pair.commitment,
            )
            for name, box, pair in zip(holders, sealed, pairs, strict=True)
        )
        bundle = ShareBundle(
            position=self.position,
            sender=me,
            leaves=leaves,
            sealed=sealed,
            seed_commitment=hashes.seed_commitment(round_ctx, me, seed.reveal()),
            sealed_pairs=tuple(pair.sealed for pair in pairs) if self.parameters.suite == HYBRID else (),
        )
        return bundle, held[me]

    def _split(self, seed: SecretBytes, holders: Sequence[str]) -> dict[str, HeldShare]:
        points = {name: self.parameters.index(name) + 1 for name in holders}
        split = [
            shamir.split(
                secret, threshold=self.parameters.share_threshold, points=list(points.values()), random=self.random
            )
            for secret in (self.pairing.masking_secret, seed)
        ]
        return {
            name: HeldShare(self.channels.me, *(shares[x].reveal() for shares in split)) for name, x in points.items()
        }


def _plaintext(held: HeldShare) -> bytes:
    return held.masking_share + held.seed_share


def open_dealt(channels: Channels, one: DealtShare) -> HeldShare:
    """Return the opened pair of shares.

    Raises:
        ValueError: the dealer signed something that is no pair of shares, or not the one that it committed to.
    """
    opened = channels.unseal(one.dealer, one.sealed).reveal()
    if len(opened) != SEALED_PLAINTEXT_BYTES:
        raise ValueError("what was sealed is no pair of shares")
    held = HeldShare(one.dealer, opened[:SHARE_BYTES], opened[SHARE_BYTES:])
    if any(int.from_bytes(share, "big") >= shamir.FIELD for share in (held.masking_share, held.seed_share)):
        raise ValueError("a share is not below p")
    committed = (one.leaf.masking_share_hash, one.leaf.seed_share_hash)
    if share_hashes(channels.round_ctx, channels.me, held) != committed:
        raise ValueError("the shares are not the ones that were committed to")
    return held
