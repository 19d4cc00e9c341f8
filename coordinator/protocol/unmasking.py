"""How the sum becomes readable: secrets rebuilt from a quorum's shares, their mask streams removed.

Guarantees: self-mask seeds are rebuilt for survivors and masking secrets for dropouts, never both of one participant,
because each share list that goes in was checked to name exactly those; every rebuilt secret is checked against what
its dealer committed to before it is used.
Leaves to others: which shares are in (``round``). Big-integer arithmetic is not constant time (threat model).
Source: docs/protocol.md sections 5.5 and 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from coordinator.protocol.bundles import DealerCommitments
from privacy.errors import RoundAborted
from privacy.secagg import hashes, keys, shamir
from privacy.secagg.graph import MaskingGraph
from privacy.secagg.layout import Layout, Words
from privacy.secagg.masks import MaskTerm
from privacy.secagg.messages import ReleasedShare, UnmaskShares
from privacy.secagg.pairing import Pairing
from privacy.secagg.parameters import Parameters
from privacy.secagg.suites import masking_keys
from privacy.secret import SecretBytes


@dataclass(frozen=True, slots=True)
class RebuiltSecrets:
    """Self-mask seeds of the survivors, and their pairwise seeds with the dropouts of U2."""

    seeds: Mapping[str, SecretBytes]
    pairwise: Mapping[tuple[str, str], SecretBytes]  # by dropout and survivor


def rebuild_secrets(
    parameters: Parameters,
    graph: MaskingGraph,
    round_ctx: bytes,
    released: Sequence[UnmaskShares],
    commitments: Mapping[str, DealerCommitments],
    advertised: Mapping[str, bytes],
) -> RebuiltSecrets:
    """Rebuild every secret from its first holders' shares, as many as the plan's threshold.

    Args:
        parameters: fix suite and threshold.
        graph: who masked with whom.
        round_ctx: of the attempt.
        released: lists of shares, in which everybody in U2 has enough holders.
        commitments: of U2, by dealer.
        advertised: masking public keys of U1, by owner.

    Raises:
        RoundAborted: a dealer's shares do not rebuild what it committed to; the dealer is named.
    """
    holders = sorted(released, key=lambda one: one.sender)
    rebuild = _Rebuilding(parameters)
    seeds = rebuild.secrets((holder.sender, holder.seed_shares) for holder in holders)
    for owner, seed in seeds.items():
        if hashes.seed_commitment(round_ctx, owner, seed.reveal()) != commitments[owner].seed_commitment:
            raise _lying_dealer(owner)
    pairwise: dict[tuple[str, str], SecretBytes] = {}
    for owner, masking_secret in rebuild.secrets((holder.sender, holder.masking_shares) for holder in holders).items():
        keys_of_owner = masking_keys(parameters.suite, masking_secret)
        if keys_of_owner.public != advertised[owner]:
            raise _lying_dealer(owner)
        peers = [peer for peer in graph.neighbours(owner) if peer in seeds]
        links = {peer: keys_of_owner.link(advertised[peer]) for peer in peers}
        pairing = Pairing(owner, round_ctx, masking_secret, links)
        pairwise |= {(owner, peer): _pairwise_seed(pairing, peer, commitments) for peer in peers}
    return RebuiltSecrets(seeds, pairwise)


class _Rebuilding:
    """Rebuilds secrets from released shares; Lagrange coefficients are computed once for a set of holders."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._coefficients: dict[tuple[int, ...], tuple[int, ...]] = {}

    def secrets(self, lists: Iterable[tuple[str, Sequence[ReleasedShare]]]) -> dict[str, SecretBytes]:
        """Return the secret of each owner from the shares of its first holders."""
        found: dict[str, tuple[list[int], list[bytes]]] = {}
        for holder, shares in lists:
            point = self._parameters.index(holder) + 1
            for share in shares:
                points, values = found.setdefault(share.owner, ([], []))
                if len(points) < self._parameters.share_threshold:
                    points.append(point)
                    values.append(share.share)
        return {owner: self._combine(owner, tuple(points), values) for owner, (points, values) in found.items()}

    def _combine(self, owner: str, points: tuple[int, ...], shares: Sequence[bytes]) -> SecretBytes:
        if points not in self._coefficients:
            self._coefficients[points] = shamir.lagrange_at_zero(points)
        try:
            return shamir.combine(shares, self._coefficients[points])
        except ValueError:
            raise _lying_dealer(owner) from None


def _pairwise_seed(pairing: Pairing, peer: str, commitments: Mapping[str, DealerCommitments]) -> SecretBytes:
    """Rebuild a pairwise seed from a dropout's side, checked against what the lower id committed to."""
    lower, higher = sorted((pairing.me, peer))
    try:
        dealt = commitments[lower]
        return pairing.seed(peer, dealt.pair_at(dealt.place(higher)))
    except ValueError:
        raise _lying_dealer(lower) from None


def _lying_dealer(owner: str) -> RoundAborted:
    return RoundAborted("E-ROUND-SHARE", f"the shares of {owner} do not rebuild what it committed to")


def remove_masks(
    layout: Layout,
    words: Words,
    round_ctx: bytes,
    secrets: RebuiltSecrets,
    *,
    first_word: int = 0,
    threads: int = 1,
) -> None:
    """Subtract, in place, the survivors' self masks and their pairwise masks with the dropouts.

    ``words`` may be a part of the vector from ``first_word`` on, see :meth:`Layout.mask`: ranges need nothing of each
    other, and may be worked on anywhere by whoever has the rebuilt secrets.
    """

    def terms(stream: str) -> list[MaskTerm]:
        own = [
            MaskTerm(keys.self_stream_key(seed, round_ctx=round_ctx, participant=owner, stream=stream), -1)
            for owner, seed in secrets.seeds.items()
        ]
        pairwise = [
            MaskTerm(
                keys.pairwise_stream_key(secret, round_ctx=round_ctx, pair=(owner, peer), stream=stream),
                -1 if peer < owner else 1,  # the survivor added plus for the lower id
            )
            for (owner, peer), secret in secrets.pairwise.items()
        ]
        return [*own, *pairwise]

    layout.mask(words, terms, first_word=first_word, threads=threads)
