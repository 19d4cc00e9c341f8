"""The demo's stage: who takes part, and the files that each of them has before anything starts.

Guarantees: each participant's directory holds its own images and nobody else's; what was written for an earlier demo is
removed only if a demo made it.
Leaves to others: enrolment and the run (``simulation.demo``).
"""

from __future__ import annotations

import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from privacy.errors import LocalError
from simulation.digits import Digits, Split, split

PARTICIPANTS: Final = ("alice", "bob", "carol", "dave", "erin")
EVALUATOR: Final = "evaluator"
FEDERATION: Final = "demo"
DATASET: Final = "digits"  # each participant's own, under the same name
HELD_OUT: Final = "heldout"
MARK: Final = ".onlysum-demo"  # in a directory that a demo made


@dataclass(frozen=True, slots=True)
class Stage:
    """Every path of a demo, below one directory."""

    out: Path

    @property
    def base(self) -> Path:
        """The base model."""
        return self.out / "base"

    @property
    def adapter(self) -> Path:
        """The trained adapter in PEFT's format."""
        return self.out / "adapter"

    @property
    def held_out(self) -> Path:
        """Images and labels that anybody can check the adapter with."""
        return self.out / "heldout"

    @property
    def logs(self) -> Path:
        """One log a process."""
        return self.out / "logs"

    @property
    def report(self) -> Path:
        """The signed privacy report."""
        return self.out / "report.json"

    @property
    def summary(self) -> Path:
        """The figures."""
        return self.out / "summary.json"

    @property
    def federation(self) -> Path:
        """What would lie on seven machines: a directory for the coordinator and for each member."""
        return self.out / "federation"

    @property
    def coordinator(self) -> Path:
        """The coordinator's directory."""
        return self.federation / "coordinator"

    @property
    def recipe(self) -> Path:
        """What the researcher wrote."""
        return self.federation / "recipe.toml"

    @property
    def draft(self) -> Path:
        """What ``plan build`` made of it."""
        return self.federation / "draft"

    def home(self, member: str) -> Path:
        """Return a member's directory."""
        return self.federation / member

    def data(self, member: str) -> Path:
        """Return the file of a member's images."""
        return self.federation / f"{member}-digits.npz"

    def clear(self) -> None:
        """Remove what an earlier demo left, and make the directory.

        Raises:
            LocalError: ``E-EXISTS``, something else lies there.
        """
        if self.out.exists() and any(self.out.iterdir()):
            if not (self.out / MARK).is_file():
                raise LocalError("E-EXISTS", f"{self.out} holds something that no demo made; choose another --out")
            shutil.rmtree(self.out)
        self.federation.mkdir(parents=True)
        (self.out / MARK).write_text("made by `onlysum demo`, and removed by the next one\n")


def write_data(stage: Stage, seed: int) -> Split:
    """Split the digits and write each member's part where only its daemon looks."""
    parts = split(len(PARTICIPANTS), seed)
    for member, digits in (*zip(PARTICIPANTS, parts.participants, strict=True), (EVALUATOR, parts.held_out)):
        write_npz(stage.data(member), digits)
    return parts


def write_npz(path: Path, digits: Digits) -> None:
    """Write images and labels as ``onlysum participant dataset add`` reads them."""
    np.savez(path, image=digits.images, label=digits.labels)


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nobody listens on, all different."""
    with_sockets = [socket.socket() for _ in range(count)]
    try:
        for one in with_sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in with_sockets]
    finally:
        for one in with_sockets:
            one.close()
