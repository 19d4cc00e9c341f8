"""Who gets which rows.

Guarantees: every row belongs to exactly one participant; the same seed gives the same parts; nobody is left without
data.
Source: Yurochkin et al., Bayesian Nonparametric Federated Learning (ICML 2019), section 4, for Dirichlet by label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from privacy.errors import LocalError
from simulation.laboratory.spec import PartitionSection

Integers = NDArray[np.int64]


def partition(
    how: PartitionSection, values: Sequence[str], *, participants: int, seed: int, names: Sequence[str]
) -> tuple[Integers, ...]:
    """Return the rows of each participant, ascending.

    Args:
        how: the kind, with its number.
        values: of each row: its label, or what it has in the partition's column.
        participants: how many.
        seed: of every choice.
        names: of the participants, for the refusal.

    Raises:
        LocalError: ``E-SIMULATION-PARTITION``, somebody is left without a row.
    """
    random = np.random.default_rng(seed)
    match how.kind:
        case "iid":
            parts = np.array_split(random.permutation(len(values)), participants)
        case "dirichlet":
            parts = _by_label(_groups(values), float(how.alpha or 0), participants, random)
        case "column":
            parts = _by_value(_groups(values), participants, random)
        case "size":
            parts = np.split(random.permutation(len(values)), _ends(len(values), float(how.skew or 0), participants))
    if empty := [name for name, part in zip(names, parts, strict=True) if not part.size]:
        detail = f"{how.kind} over {len(values)} rows leaves {len(empty)} of {participants} without data: {empty[0]}"
        raise LocalError("E-SIMULATION-PARTITION", detail if len(empty) == 1 else f"{detail} and others")
    return tuple(np.sort(part).astype(np.int64) for part in parts)


def _groups(values: Sequence[str]) -> list[Integers]:
    """Return the rows of each value, in the values' order."""
    numbers = np.unique(np.asarray(values), return_inverse=True)[1]
    return [np.flatnonzero(numbers == number) for number in range(int(numbers.max()) + 1)]


def _by_label(groups: list[Integers], alpha: float, participants: int, random: np.random.Generator) -> list[Integers]:
    """Cut each label's rows in proportions of their own."""
    shares: list[list[Integers]] = [[] for _ in range(participants)]
    for rows in groups:
        proportions = random.dirichlet(np.full(participants, alpha))
        ends = np.rint(np.cumsum(proportions)[:-1] * rows.size).astype(np.int64)
        for share, part in zip(shares, np.split(random.permutation(rows), ends), strict=True):
            share.append(part)
    return [np.concatenate(share) for share in shares]


def _by_value(groups: list[Integers], participants: int, random: np.random.Generator) -> list[Integers]:
    """Give each value's rows, the most frequent first, to whoever has the fewest so far."""
    shuffled = [groups[place] for place in random.permutation(len(groups))]
    shares: list[list[Integers]] = [[] for _ in range(participants)]
    sizes = np.zeros(participants, dtype=np.int64)
    for rows in sorted(shuffled, key=len, reverse=True):
        poorest = int(sizes.argmin())
        shares[poorest].append(rows)
        sizes[poorest] += rows.size
    return [np.concatenate(share) if share else np.empty(0, dtype=np.int64) for share in shares]


def _ends(rows: int, skew: float, participants: int) -> Integers:
    """Return where each part but the last ends: parts in proportion to i^-skew."""
    weights = np.arange(1, participants + 1, dtype=np.float64) ** -skew
    ends: Integers = np.rint(np.cumsum(weights)[:-1] / weights.sum() * rows).astype(np.int64)
    return ends
