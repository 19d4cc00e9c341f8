"""What a dataset on disk holds, and whether it still is what was registered.

Guarantees: the whole of it is read, to its last row.
Leaves to others: parsing (``participant.training.data``), the register (``registry``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from participant.owner.registry import DatasetEntry
from privacy.errors import LocalError

if TYPE_CHECKING:
    from participant.training.data import DatasetFacts


def inspect(
    path: Path, *, input_column: str | None, label_column: str | None, user_column: str | None, classes: bool = True
) -> DatasetFacts:
    """Return what a dataset holds.

    Raises:
        LocalError: ``E-NOT-FOUND``, ``E-DATA-PARSE`` or ``E-DATA-USER``.
    """
    from participant.training.data import inspect_dataset

    if not path.exists():
        raise LocalError("E-NOT-FOUND", f"there is no {path}")
    return inspect_dataset(
        path, input_column=input_column, label_column=label_column, user_column=user_column, classes=classes
    )


def is_unchanged(entry: DatasetEntry) -> bool:
    """Return whether a dataset's bytes are those that were registered.

    Raises:
        LocalError: ``E-DATA-MISMATCH``, it has another size: plans that count its units no longer fit.
    """
    facts = inspect(
        Path(entry.path),
        input_column=entry.input_column,
        label_column=entry.label_column,
        user_column=entry.user_column,
        classes=entry.classes,
    )
    if (facts.rows, facts.users) != (entry.rows, entry.users):
        detail = f"{entry.name} has {facts.rows} rows and {facts.users} users, registered were {entry.rows} and "
        raise LocalError("E-DATA-MISMATCH", f"{detail}{entry.users}; remove it and add it again")
    return facts.sha256 == entry.sha256
