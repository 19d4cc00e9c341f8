"""What each phase of an attempt has collected: one class a phase, each holding on to what the phases before it fixed.

Guarantees: what exists only in a phase is a field of that phase's class; none has a field that could hold one
participant's un-masked update.
Leaves to others: what is taken in (``checks``), and when a phase ends (``round``).
Source: docs/protocol.md sections 5 and 8.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from coordinator.phase import Phase
from privacy.plan import Plan
from privacy.secagg.messages import (
    Advertisement,
    DealtShare,
    MerkleTree,
    Receipt,
    RoundCertificate,
    ShareBundle,
    SurvivorProposal,
    SurvivorSet,
    SurvivorSignature,
    UnmaskRequest,
    UnmaskShares,
)
from privacy.secagg.vector import Words, decode_total


@dataclass(slots=True)
class Advertising:
    """Collects U1."""

    phase: ClassVar[Phase] = Phase.ADVERTISE_KEYS
    expected: frozenset[str]
    received: dict[str, Advertisement] = field(default_factory=dict)


@dataclass(slots=True)
class Sharing:
    """U1 and its context are fixed; collects U2."""

    phase: ClassVar[Phase] = Phase.SHARE_KEYS
    u1: tuple[Advertisement, ...]
    round_ctx: bytes
    received: dict[str, ShareBundle] = field(default_factory=dict)

    @property
    def members(self) -> tuple[str, ...]:
        """The ids of U1, sorted."""
        return tuple(one.sender for one in self.u1)

    @property
    def expected(self) -> frozenset[str]:
        """Who may deal."""
        return frozenset(self.members)


@dataclass(slots=True)
class Collecting:
    """U2 is fixed; adds masked updates into one running modular sum."""

    phase: ClassVar[Phase] = Phase.COLLECT_MASKED
    sharing: Sharing
    bundles: dict[str, ShareBundle]  # of U2
    total: Words
    received: dict[str, Receipt] = field(default_factory=dict)
    _trees: dict[str, MerkleTree] = field(default_factory=dict, init=False)

    @property
    def u2(self) -> tuple[str, ...]:
        """The ids of U2, sorted."""
        return tuple(sorted(self.bundles))

    @property
    def expected(self) -> frozenset[str]:
        """Who may upload."""
        return frozenset(self.bundles)

    def dealt_to(self, holder: str) -> tuple[DealtShare, ...]:
        """Return what the other members of U2 dealt to a holder."""
        index = self.sharing.members.index(holder)
        return tuple(self._dealt(dealer, index) for dealer in self.u2 if dealer != holder)

    def _dealt(self, dealer: str, index: int) -> DealtShare:
        bundle = self.bundles[dealer]
        if dealer not in self._trees:
            self._trees[dealer] = MerkleTree.over([leaf.hash for leaf in bundle.leaves])
        tree = self._trees[dealer]
        return DealtShare(
            position=bundle.position,
            dealer=dealer,
            leaf=bundle.leaves[index],
            proof=tree.proof(index),
            sealed=bundle.sealed[index],
            root=tree.root,
            seed_commitment=bundle.seed_commitment,
            signature=bundle.signature,
            sealed_pair=bundle.pair_at(index).sealed,
        )


@dataclass(slots=True)
class Agreeing:
    """S is fixed; collects its members' signatures."""

    phase: ClassVar[Phase] = Phase.AGREE_SURVIVORS
    collecting: Collecting
    proposal: SurvivorProposal
    received: dict[str, SurvivorSignature] = field(default_factory=dict)

    @property
    def survivors(self) -> SurvivorSet:
        """S with the digests of its uploads."""
        return self.proposal.survivors

    @property
    def expected(self) -> frozenset[str]:
        """Who may sign."""
        return frozenset(self.survivors.ids)


@dataclass(slots=True)
class Unmasking:
    """A quorum has signed; collects shares."""

    phase: ClassVar[Phase] = Phase.UNMASK
    agreeing: Agreeing
    request: UnmaskRequest
    received: dict[str, UnmaskShares] = field(default_factory=dict)

    @property
    def expected(self) -> frozenset[str]:
        """Who may release."""
        return self.agreeing.expected


@dataclass(frozen=True, slots=True)
class RoundResult:
    """A completed round: the sum in ring words, and the certificate that goes to the whole roster."""

    phase: ClassVar[Phase] = Phase.RESULT
    expected: ClassVar[frozenset[str]] = frozenset()
    words: Words
    certificate: RoundCertificate
    survivors: tuple[str, ...]
    dropouts: tuple[str, ...]  # of the roster

    def total(self, plan: Plan) -> NDArray[np.int64]:
        """Return the sum's integers in the order of the layout."""
        return decode_total(plan, self.words)


State = Advertising | Sharing | Collecting | Agreeing | Unmasking | RoundResult
