"""What each phase of an attempt has collected: one class per phase, each holding on to what the phases before it fixed.

Guarantees: what exists only in a phase is a field of that phase's class; none has a field that could hold one
participant's un-masked update.
Leaves to others: what is taken in (``checks``), and when a phase ends (``round``).
Source: docs/protocol.md sections 5 and 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from coordinator.protocol.bundles import DealerCommitments, KeptBundle
from privacy.errors import LocalError, Phase
from privacy.secagg.graph import MaskingGraph
from privacy.secagg.hashes import set_hash
from privacy.secagg.layout import Layout, Words
from privacy.secagg.messages import (
    Advertisement,
    HolderShares,
    Receipt,
    RoundCertificate,
    SurvivorProposal,
    SurvivorSet,
    SurvivorSignature,
    UnmaskRequest,
    UnmaskShares,
)


@dataclass(slots=True)
class Advertising:
    """Collects U1."""

    phase: ClassVar[Phase] = Phase.ADVERTISE_KEYS
    expected: frozenset[str]
    received: dict[str, Advertisement] = field(default_factory=dict)
    key_parts: set[bytes] = field(default_factory=set)  # of all that was received: no key may come twice


@dataclass(slots=True)
class Members:
    """U1, sorted by sender, and the context and the graph that it fixes."""

    u1: tuple[Advertisement, ...]
    round_ctx: bytes
    graph: MaskingGraph
    ids: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.ids = self.graph.members

    def short_of_holders(self, owners: Iterable[str], there: AbstractSet[str], threshold: int) -> str | None:
        """Return an owner of whose secrets too few holders are there to rebuild them, or ``None``."""
        if self.graph.complete:  # everybody holds shares of everybody, and enough are there
            return None
        return next((owner for owner in owners if len(there & set(self.graph.holders(owner))) < threshold), None)


@dataclass(slots=True)
class Sharing:
    """U1 and its context are fixed; collects U2."""

    phase: ClassVar[Phase] = Phase.SHARE_KEYS
    members: Members
    received: dict[str, KeptBundle] = field(default_factory=dict)
    expected: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.expected = frozenset(self.members.ids)


@dataclass(slots=True)
class Collecting:
    """U2 is fixed; adds masked updates into one running modular sum."""

    phase: ClassVar[Phase] = Phase.COLLECT_MASKED
    members: Members
    bundles: dict[str, KeptBundle]  # of U2
    layout: Layout
    total: Words
    received: dict[str, Receipt] = field(default_factory=dict)
    u2: tuple[str, ...] = field(init=False)  # its ids, sorted
    u2_hash: bytes = field(init=False)
    expected: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.u2 = tuple(sorted(self.bundles))
        self.u2_hash = set_hash(self.u2)
        self.expected = frozenset(self.u2)

    def dealt_to(self, holder: str) -> HolderShares:
        """Return what the others in U2 dealt to a holder: its neighbours alone in a k-regular graph, which names U2."""
        graph = self.members.graph
        dealers = [dealer for dealer in graph.neighbours(holder) if dealer in self.bundles]
        shares = tuple(self.bundles[dealer].dealt_to(holder) for dealer in dealers)
        return HolderShares(shares) if graph.complete else HolderShares(shares, self.u2)


@dataclass(slots=True)
class Agreeing:
    """S is fixed; collects its members' signatures."""

    phase: ClassVar[Phase] = Phase.AGREE_SURVIVORS
    members: Members
    u2: tuple[str, ...]
    commitments: dict[str, DealerCommitments]  # of U2; what was sealed is not needed any more
    total: Words | None
    proposal: SurvivorProposal
    received: dict[str, SurvivorSignature] = field(default_factory=dict)
    expected: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.expected = frozenset(self.survivors.ids)

    @property
    def survivors(self) -> SurvivorSet:
        """S with the digests of its uploads."""
        return self.proposal.survivors

    def take_total(self) -> Words:
        """Return the masked sum, which is changed from here on; it is taken once.

        Raises:
            LocalError: ``E-BUG``, it was taken before: removing its masks failed half way.
        """
        if self.total is None:
            raise LocalError("E-BUG", "the masks of this attempt's sum were removed before, or in part")
        total, self.total = self.total, None
        return total


@dataclass(slots=True)
class Unmasking:
    """A quorum has signed; collects shares."""

    phase: ClassVar[Phase] = Phase.UNMASK
    agreeing: Agreeing
    request: UnmaskRequest
    threshold: int  # how many shares rebuild a secret
    received: dict[str, UnmaskShares] = field(default_factory=dict)
    lacking: dict[str, int] = field(init=False)  # of whom in U2 how many more shares are needed
    expected: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.expected = self.agreeing.expected
        self.lacking = dict.fromkeys(self.agreeing.u2, self.threshold)

    def owners(self, holder: str) -> tuple[list[str], list[str]]:
        """Return of whom a holder releases shares: of seeds of survivors, of masking secrets of dropouts; sorted."""
        held = [name for name in self.agreeing.members.graph.holders(holder) if name in self.agreeing.commitments]
        survivors = [name for name in held if name in self.expected]
        return survivors, [name for name in held if name not in self.expected]

    def take(self, message: UnmaskShares) -> None:
        """Take a checked message in."""
        self.received[message.sender] = message
        for share in (*message.seed_shares, *message.masking_shares):
            if share.owner in self.lacking:
                self.lacking[share.owner] -= 1
                if not self.lacking[share.owner]:
                    del self.lacking[share.owner]


@dataclass(frozen=True, slots=True)
class RoundResult:
    """A completed round: the sum in ring words, and the certificate that goes to the whole roster."""

    phase: ClassVar[Phase] = Phase.RESULT
    expected: ClassVar[frozenset[str]] = frozenset()
    layout: Layout
    words: Words
    certificate: RoundCertificate
    survivors: tuple[str, ...]
    dropouts: tuple[str, ...]  # of the roster

    def blocks(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the sum's integers some at a time, see :meth:`Layout.blocks`."""
        return self.layout.blocks(self.words)

    def total(self) -> NDArray[np.int64]:
        """Return the sum's integers in the order of the layout."""
        return self.layout.decode(self.words)


State = Advertising | Sharing | Collecting | Agreeing | Unmasking | RoundResult
