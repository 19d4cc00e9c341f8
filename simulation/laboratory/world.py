"""What a simulation trains on: base, everybody's rows, and the held-out rows.

Guarantees: the digits are made once per directory and are the same each time; what is there is named with its hash,
so that a manifest says on what its figures were measured.
Leaves to others: the digits themselves (``simulation.digits``, ``simulation.base``).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from participant.training.data import hash_dataset
from participant.training.models import hash_model
from participant.training.rows.formats import read_rows
from privacy.draft import BaseReference
from privacy.errors import LocalError
from simulation.laboratory.spec import Spec

SEED: Final = 1  # of the digits' split and of their base, as in the demo
WORLD: Final = "world"
_BASE, _ROWS, _HELD_OUT = "base", "rows.npz", "held-out.npz"
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class World:
    """Three paths."""

    base: Path
    rows: Path
    held_out: Path

    @classmethod
    def of(cls, spec: Spec, out: Path, note: Note) -> World:
        """Return what a SPEC names, or make what it asks for.

        Args:
            spec: names files, or a world.
            out: the simulation's directory.
            note: is told what takes long.

        Raises:
            LocalError: ``E-NOT-FOUND``, ``E-MODEL-*`` or ``E-DATA-PARSE``.
        """
        section = spec.simulation
        if section.world is None:
            named = (str(spec.document["base"]["path"]), str(section.rows), str(section.held_out))
            world = cls(*((spec.directory / Path(name).expanduser()).resolve() for name in named))
        else:
            world = _digits(out / WORLD, note)
        for path in (world.base, world.rows, world.held_out):
            if not path.exists():
                raise LocalError("E-NOT-FOUND", f"{spec.name}: there is no {path}")
        return world

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of each, in hexadecimal."""
        base = BaseReference(name="base", architecture="", files=hash_model(self.base))
        return {"base": base.hash, "rows": hash_dataset(self.rows), "held_out": hash_dataset(self.held_out)}

    def places(self) -> list[str]:
        """Return what names each row in a refusal."""
        return [where for where, _ in read_rows(self.rows, None)]

    def values(self, column: str) -> list[str]:
        """Return what every row has in a column.

        Raises:
            LocalError: ``E-DATA-PARSE``, naming the first row without it.
        """
        values = []
        for where, row in read_rows(self.rows, {column}):
            if column not in row:
                raise LocalError("E-DATA-PARSE", f"{where}: there is no column {column}")
            values.append(str(row[column]))
        return values


def _digits(directory: Path, note: Note) -> World:
    """Make the digits and their base, whole or not at all."""
    world = World(directory / _BASE, directory / _ROWS, directory / _HELD_OUT)
    if directory.exists():
        return world
    from simulation import base
    from simulation.digits import split
    from simulation.stage import write_npz

    note("training the digits' base")
    part = directory.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    parts = split(1, SEED)
    write_npz(part / _ROWS, parts.participants[0])
    write_npz(part / _HELD_OUT, parts.held_out)
    base.save(base.train(parts.public, SEED), part / _BASE)
    part.rename(directory)
    return world
