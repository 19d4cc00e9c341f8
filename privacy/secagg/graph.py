"""Who masks with whom, and who holds whose shares.

Guarantees: everybody who verified the same U1 computes the same graph, each by itself; edges go both ways; a k-regular
graph is a function of ``round_ctx`` alone, which no single party chooses.
Leaves to others: whether a plan's graph is strong enough (``graph_bounds``), and which of the neighbours are still
there (``round``).
Source: docs/protocol.md section 9, docs/graphs.md; SHAKE-256 of FIPS 202.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Final

from privacy.secagg.hashes import LABEL_GRAPH
from privacy.secagg.keys import framed, number

_WORD_BYTES: Final = 8  # a participant's place in a cycle is that of its word among all words


@dataclass(frozen=True, slots=True)
class Cycle:
    """A Hamiltonian cycle over the members' indices."""

    order: array[int]  # the cycle, from any of its members
    place: array[int]  # where in it a member stands, by index

    def beside(self, index: int) -> tuple[int, int]:
        """Return the two neighbours of a member in this cycle."""
        at = self.place[index]
        return self.order[at - 1], self.order[(at + 1) % len(self.order)]


@dataclass(frozen=True, slots=True)
class MaskingGraph:
    """Who masks with whom among U1: the union of some Hamiltonian cycles, or everybody with everybody.

    An edge that lies in several cycles is one edge: a participant has at most two neighbours a cycle.
    """

    members: tuple[str, ...]  # U1, sorted
    cycles: tuple[Cycle, ...] = ()  # none: the complete graph

    @property
    def complete(self) -> bool:
        """Whether everybody masks with everybody."""
        return not self.cycles

    def neighbours(self, me: str) -> tuple[str, ...]:
        """Return with whom a member masks, sorted; raise ``KeyError`` if it is none."""
        return tuple(name for name in self.holders(me) if name != me)

    def holders(self, owner: str) -> tuple[str, ...]:
        """Return who holds shares of a member's secrets, sorted: its neighbours and itself.

        Raises:
            KeyError: it is no member.
        """
        index = bisect_left(self.members, owner)
        if index == len(self.members) or self.members[index] != owner:
            raise KeyError(owner)
        if self.complete:
            return self.members
        found = {index}
        for cycle in self.cycles:
            found.update(cycle.beside(index))
        return tuple(self.members[one] for one in sorted(found))


def masking_graph(members: Sequence[str], *, round_ctx: bytes, neighbours: int) -> MaskingGraph:
    """Return the graph of an attempt.

    Args:
        members: U1, sorted.
        round_ctx: of the attempt; it fixes the cycles.
        neighbours: k of the plan, even: the graph is the union of k/2 cycles. 0: the complete graph.

    Raises:
        ValueError: the members are not sorted and distinct, or k is odd, or there are too few members for a cycle.
    """
    ids = tuple(members)
    if list(ids) != sorted(set(ids)):
        raise ValueError("members must be sorted and distinct")
    if neighbours % 2 or (neighbours and len(ids) < 3):
        raise ValueError(f"{len(ids)} members and {neighbours} neighbours: need at least 3, and an even number")
    return _union_of_cycles(ids, round_ctx, neighbours // 2)


@lru_cache(maxsize=8)  # every phase of an attempt asks again, and in a simulation every participant
def _union_of_cycles(members: tuple[str, ...], round_ctx: bytes, cycles: int) -> MaskingGraph:
    return MaskingGraph(members, tuple(_cycle(len(members), round_ctx, index) for index in range(cycles)))


def _cycle(size: int, round_ctx: bytes, index: int) -> Cycle:
    """Return a uniformly random cycle: the members in the order of distinct random words.

    Given that the words differ, every order is equally likely; if two are equal, all are drawn again.
    """
    for draw in count():
        seed = framed(LABEL_GRAPH, round_ctx, number(index), number(draw))
        stream = hashlib.shake_256(seed).digest(_WORD_BYTES * size)
        words = [stream[at : at + _WORD_BYTES] for at in range(0, len(stream), _WORD_BYTES)]
        if len(set(words)) == size:
            break
    order = array("H", sorted(range(size), key=words.__getitem__))
    place = array("H", bytes(order.itemsize * size))
    for at, member in enumerate(order):
        place[member] = at
    return Cycle(order, place)
