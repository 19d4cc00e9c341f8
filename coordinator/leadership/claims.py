"""Which runs a process should take, and which hand over.

Guarantees: what follows does so from what everybody reads, so that processes that read the same decide alike; runs that
share a member come to be led by one process, since a member talks to one at a time.
Leaves to others: reading and writing leases (``coordinator.leadership.leadership``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LedRun:
    """A run that goes on; ``holder`` leads it, and is empty if nobody does."""

    run_id: str
    members: frozenset[str]
    holder: str
    reachable: bool = True  # its files can be read here


@dataclass(frozen=True, slots=True)
class Claims:
    """What a process should do now, by runs."""

    take: tuple[str, ...]
    hand_over: tuple[str, ...]

    @property
    def any(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.take or self.hand_over)


def decide(runs: Sequence[LedRun], me: str) -> Claims:
    """Return what a process should take and hand over.

    Of runs that are connected by members, all belong to whoever leads the oldest of those that are led.

    Args:
        runs: that go on, oldest first.
        me: the process.
    """
    take: list[str] = []
    give: list[str] = []
    for group in _connected(runs):
        first = next((run.holder for run in group if run.holder), me)
        if first == me:
            take += [run.run_id for run in group if not run.holder and run.reachable]
        else:
            give += [run.run_id for run in group if run.holder == me]
    return Claims(tuple(take), tuple(give))


def _connected(runs: Sequence[LedRun]) -> Iterator[list[LedRun]]:
    """Yield the runs in groups that have no member in common, each oldest first."""
    groups: list[tuple[set[str], list[int]]] = []
    for number, run in enumerate(runs):
        members, numbers = set(run.members), [number]
        apart: list[tuple[set[str], list[int]]] = []
        for group in groups:
            if group[0].isdisjoint(members):
                apart.append(group)
            else:
                members |= group[0]
                numbers = group[1] + numbers
        groups = [*apart, (members, numbers)]
    for _, numbers in groups:
        yield [runs[number] for number in sorted(numbers)]
