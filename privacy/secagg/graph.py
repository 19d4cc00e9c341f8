"""Who masks with whom.

Guarantees: both ends of an edge compute it, each by itself, from what both have verified.
Leaves to others: whether the plan allows the graph (``plan``), and which participants are still there (``round``).
Source: docs/protocol.md section 9.
"""

from __future__ import annotations

from collections.abc import Sequence


def complete(members: Sequence[str], me: str) -> tuple[str, ...]:
    """Return everyone else, sorted: the neighbours in the complete graph.

    Raises:
        ValueError: ``me`` is not among the members, or one is named twice.
    """
    others = sorted(set(members) - {me})
    if len(others) + 1 != len(members) or me not in members:
        raise ValueError(f"{me} and {len(members) - 1} others must be distinct members")
    return tuple(others)
