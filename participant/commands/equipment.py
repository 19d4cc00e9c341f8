"""Data and base model that come with ``join``: one command in place of three.

Guarantees: both are read to the end before a token is spent, so that a wrong path costs no invitation; what is
registered is what ``dataset add`` and ``model add`` would register.
Leaves to others: examining and registering (``participant.commands.dataset``, ``participant.commands.model``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from participant.commands.dataset import examine_dataset, register_dataset
from participant.commands.guided import name_of
from participant.commands.model import examine_model

if TYPE_CHECKING:
    from participant.opened import OpenHome
    from participant.owner.registry import DatasetEntry, ModelEntry

_NAMED = re.compile(r"([a-z0-9][a-z0-9._-]*)=(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Equipment:
    """What was examined; ``None`` for what was not given."""

    dataset: DatasetEntry | None = None
    model: ModelEntry | None = None
    remarks: tuple[str, ...] = ()

    def register(self, participant: OpenHome) -> list[str]:
        """Register both and return what to tell the owner.

        Raises:
            LocalError: as ``register_dataset``; ``E-EXISTS``.
        """
        from participant.owner.registry import Registry

        lines: list[str] = []
        if self.dataset is not None:
            lines += register_dataset(participant, self.dataset)[:1]
        if self.model is not None:
            Registry(participant.home).add(self.model)
            lines.append(f"{self.model.name}: {len(self.model.files)} files, registered; hash {self.model.hash}")
        return [*lines, *self.remarks]


def examine(data: str, base: str, *, population: str | None, user: str | None) -> Equipment:
    """Examine what was given as ``[NAME=]PATH``; without a name it is that of the file or folder.

    Args:
        data: a dataset, or empty.
        base: a base model's folder, or empty.
        population: whose budget the data spends.
        user: the column that identifies the person in each row.

    Raises:
        LocalError: as ``examine_dataset`` and ``examine_model``.
    """
    dataset: DatasetEntry | None = None
    model: ModelEntry | None = None
    remarks: tuple[str, ...] = ()
    if data:
        name, path = _named(data)
        dataset = examine_dataset(name, path, user=user, population=population)
    if base:
        name, path = _named(base)
        model, remarks = examine_model(name, path)
    return Equipment(dataset, model, remarks)


def _named(text: str) -> tuple[str, Path]:
    named = _NAMED.fullmatch(text)
    name, path = (named[1], named[2]) if named else (name_of(text), text)
    return name, Path(path).expanduser()
