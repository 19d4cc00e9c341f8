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

from coordinator.bundles import DealerCommitments
from privacy.errors import RoundAborted
from privacy.plan import Plan
from privacy.secagg import keys, messages, shamir
from privacy.secagg.masks import MaskTerm
from privacy.secagg.messages import ReleasedShare, UnmaskShares
from privacy.secagg.pairing import Pairing
from privacy.secagg.suites import masking_keys
from privacy.secagg.vector import Words, mask_in_place
from privacy.secret import SecretBytes


@dataclass(frozen=True, slots=True)
class RebuiltSecrets:
    """Self-mask seeds of the survivors, and their pairwise seeds with the dropouts of U2."""

    seeds: Mapping[str, SecretBytes]
    pairwise: Mapping[tuple[str, str], SecretBytes]  # by dropout and survivor


def rebuild_secrets(
    plan: Plan,
    round_ctx: bytes,
    released: Sequence[UnmaskShares],
    commitments: Mapping[str, DealerCommitments],
    advertised: Mapping[str, bytes],
) -> RebuiltSecrets:
    """Rebuild every secret from the first T holders' shares.

    Args:
        plan: fixes suite and threshold.
        round_ctx: of the attempt.
        released: lists of shares, all of the same owners.
        commitments: of U2, by dealer.
        advertised: masking public keys of U1, by owner.

    Raises:
        RoundAborted: a dealer's shares do not rebuild what it committed to; the dealer is named.
    """
    holders = sorted(released, key=lambda one: one.sender)[: plan.shamir_threshold]
    coefficients = shamir.lagrange_at_zero([plan.index(one.sender) + 1 for one in holders])
    seeds = {
        owner: _combine(owner, shares, coefficients) for owner, shares in _by_owner(one.seed_shares for one in holders)
    }
    for owner, seed in seeds.items():
        if messages.seed_commitment(round_ctx, owner, seed.reveal()) != commitments[owner].seed_commitment:
            raise _lying_dealer(owner)
    pairwise: dict[tuple[str, str], SecretBytes] = {}
    for owner, shares in _by_owner(one.masking_shares for one in holders):
        masking_secret = _combine(owner, shares, coefficients)
        keys_of_owner = masking_keys(plan.suite, masking_secret)
        if keys_of_owner.public != advertised[owner]:
            raise _lying_dealer(owner)
        links = {peer: keys_of_owner.link(advertised[peer]) for peer in seeds}
        pairing = Pairing(owner, round_ctx, masking_secret, links)
        pairwise |= {(owner, peer): _pairwise_seed(pairing, peer, commitments) for peer in seeds}
    return RebuiltSecrets(seeds, pairwise)


def _pairwise_seed(pairing: Pairing, peer: str, commitments: Mapping[str, DealerCommitments]) -> SecretBytes:
    """Rebuild a pairwise seed from a dropout's side, checked against what the lower id committed to."""
    lower, higher = sorted((pairing.me, peer))
    try:
        dealt = commitments[lower]
        return pairing.seed(peer, dealt.pair_at(dealt.place(higher)))
    except ValueError:
        raise _lying_dealer(lower) from None


def _by_owner(lists: Iterable[tuple[ReleasedShare, ...]]) -> Iterable[tuple[str, tuple[bytes, ...]]]:
    """Yield each owner with its shares, one a holder; all lists name the same owners in the same order."""
    for column in zip(*lists, strict=True):
        yield column[0].owner, tuple(one.share for one in column)


def _combine(owner: str, shares: Sequence[bytes], coefficients: Sequence[int]) -> SecretBytes:
    try:
        return shamir.combine(shares, coefficients)
    except ValueError:
        raise _lying_dealer(owner) from None


def _lying_dealer(owner: str) -> RoundAborted:
    return RoundAborted("E-ROUND-SHARE", f"the shares of {owner} do not rebuild what it committed to")


def remove_masks(
    plan: Plan,
    words: Words,
    round_ctx: bytes,
    secrets: RebuiltSecrets,
    *,
    threads: int = 1,
) -> None:
    """Subtract, in place, the survivors' self masks and their pairwise masks with the dropouts."""

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

    mask_in_place(plan, words, terms, threads=threads)
