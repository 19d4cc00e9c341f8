"""Pairwise seeds: what two participants share, so that the masking secret of either rebuilds it.

Guarantees: in suite 2 a seed rests on X25519 and on a pair secret that only ML-KEM carries; everybody who derives it,
from either side, has checked the pair secret against one signed commitment, so that masks cancel or the lower id is
shown to have lied.
Leaves to others: who masks with whom (``round``), and when secrets are dropped.
Source: docs/protocol.md section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from privacy.interfaces import RandomSource
from privacy.secagg import hashes, keys, suites
from privacy.secagg.messages import SealedPair
from privacy.secagg.suites import HybridLink, Link, Route
from privacy.secret import SecretBytes


@dataclass(frozen=True, slots=True)
class Pairing:
    """A participant's masking secret among its peers in an attempt: its own, or a dropout's that was rebuilt."""

    me: str
    round_ctx: bytes
    masking_secret: SecretBytes
    links: Mapping[str, Link]  # of the masking keys, by peer

    def seal_for(self, peer: str, random: RandomSource) -> SealedPair:
        """Return what a peer needs besides its own masking secret: nothing in suite 1, or if its id is lower."""
        link = self.links[peer]
        if not isinstance(link, HybridLink) or peer < self.me:
            return SealedPair()
        secret = self._own_secret(peer)
        return SealedPair(
            suites.seal(link, self._route(self.me, peer), secret.reveal(), random), self._commitment(peer, secret)
        )

    def seed(self, peer: str, pair: SealedPair) -> SecretBytes:
        """Return the pairwise seed with a peer.

        Args:
            peer: the other one.
            pair: what the lower of the two gave the higher.

        Raises:
            ValueError: the pair secret is not what the lower id committed to, or does not open.
        """
        link = self.links[peer]
        if not isinstance(link, HybridLink):
            return link.agreed
        lower, _ = self._ordered(peer)
        secret = self._own_secret(peer) if lower == self.me else self._opened(link, peer, pair)
        if self._commitment(peer, secret) != pair.commitment:
            raise ValueError("the pair secret is not the one that was committed to")
        return keys.derive(
            suites.joined(link.agreed, secret),
            salt=self.round_ctx,
            label=keys.LABEL_PAIRWISE_SEED,
            parts=tuple(name.encode() for name in self._ordered(peer)),
        )

    def _own_secret(self, peer: str) -> SecretBytes:
        return keys.derive(
            self.masking_secret,
            salt=self.round_ctx,
            label=keys.LABEL_PAIR_SECRET,
            parts=(self.me.encode(), peer.encode()),
        )

    def _opened(self, link: HybridLink, peer: str, pair: SealedPair) -> SecretBytes:
        return suites.unseal(link, self._route(peer, self.me), pair.sealed)

    def _route(self, lower: str, higher: str) -> Route:
        return Route(keys.LABEL_PAIR_CHANNEL, self.round_ctx, lower, higher)

    def _commitment(self, peer: str, secret: SecretBytes) -> bytes:
        return hashes.pair_commitment(self.round_ctx, *self._ordered(peer), secret.reveal())

    def _ordered(self, peer: str) -> tuple[str, str]:
        return min(self.me, peer), max(self.me, peer)
