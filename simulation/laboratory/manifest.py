"""What a simulation was made of, so that it can be made again: SPEC, data, code, and the trace of every round.

Guarantees: a manifest that is read is of this format; it holds no row of the data, only hashes.
Leaves to others: making it again (``study``).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from functools import cache
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from host import durable
from privacy.errors import LocalError
from privacy.plan_parts import first_problem
from simulation.laboratory.results import LABEL
from simulation.laboratory.spec import Spec
from simulation.laboratory.world import World

FILE: Final = "manifest.json"
PACKAGES: Final = (
    "privacy",
    "methods",
    "host",
    "protos",
    "audit",
    "authoring",
    "coordinator",
    "participant",
    "simulation",
)
LIBRARIES: Final = ("numpy", "opacus", "peft", "torch", "transformers")


class Part(BaseModel):
    """Base of every part: frozen and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Outcome(Part):
    """One cell: the SHA-256 of its plan, of the state after each round, and of what is released."""

    plan: str
    trace: tuple[str, ...]
    adapter: str


class Manifest(Part):
    """The whole of ``manifest.json``.

    Attributes:
        spec: the SPEC's text.
        name: of its file.
        directory: that its paths are relative to.
        method: in place of the SPEC's; empty: its own.
        masks: real or skipped; the numbers are the same.
        code: SHA-256 of the program's source.
        versions: of Python and of what computes.
        machine: the kind of processor.
        data: SHA-256 of base, rows and held-out rows.
        cells: what is done so far, by the cell's id.
    """

    label: Literal["simulation, not private"] = LABEL
    format: Literal[1] = 1
    spec: str
    name: str
    directory: str
    method: str = ""
    masks: Literal["real", "skipped"]
    code: str
    versions: dict[str, str]
    machine: str
    data: dict[str, str]
    cells: dict[str, Outcome] = {}

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Parse a manifest.

        Raises:
            LocalError: ``E-NOT-FOUND`` or ``E-CONFIG-INVALID``.
        """
        if not path.is_file():
            raise LocalError("E-NOT-FOUND", f"there is no manifest {path}")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            where, expected, _ = first_problem(error, "manifest")
            raise LocalError("E-CONFIG-INVALID", f"{path.name}: {where}: {expected}") from None

    @classmethod
    def begin(cls, spec: Spec, world: World, *, method: str, masks: Literal["real", "skipped"]) -> Manifest:
        """Return the manifest of a simulation of which nothing is done yet."""
        return cls(
            spec=spec.text,
            name=spec.name,
            directory=str(spec.directory),
            method=method,
            masks=masks,
            code=code_sha256(),
            versions=versions(),
            machine=f"{platform.system()} {platform.machine()}",
            data=world.hashes(),
        )

    def write(self, path: Path) -> None:
        """Replace the file."""
        durable.write(path, self.model_dump_json(indent=2).encode() + b"\n")

    def with_cell(self, cell: str, outcome: Outcome) -> Manifest:
        """Return the manifest with one more cell."""
        return self.model_copy(update={"cells": {**self.cells, cell: outcome}})

    def differences(self, other: Manifest) -> list[str]:
        """Return what is not alike in two manifests of one SPEC and can change numbers, in words."""
        found = ["the code of onlysum"] if self.code != other.code else []
        found += [
            f"{name} ({self.versions.get(name, 'none')} there, {other.versions.get(name, 'none')} here)"
            for name in sorted(self.versions.keys() | other.versions.keys())
            if self.versions.get(name) != other.versions.get(name)
        ]
        return found + (["the kind of machine"] if self.machine != other.machine else [])


@cache
def code_sha256() -> str:
    """Return the SHA-256 over all source files of the program, in hexadecimal."""
    root, digest = Path(__file__).parent.parent.parent, hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in LIBRARIES}}
