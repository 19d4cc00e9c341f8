"""A participant's directory: where each thing lies, and that nobody else can read it.

Guarantees: the directory is 0700 and its keys 0600, or it is not used.
Leaves to others: what the files mean, and how they are written (``host.durable``).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from host import durable
from host.credentials import DIRECTORY_MODE, check_private
from host.status_file import STATUS_NAME
from privacy.errors import LocalError

CONFIG_NAME: Final = "participant.toml"
NOISE_KEYS: Final = "noise-keys"


@dataclass(frozen=True, slots=True)
class Home:
    """Every path of a participant's directory."""

    directory: Path

    @property
    def config(self) -> Path:
        """participant.toml, for IT."""
        return self.directory / CONFIG_NAME

    @property
    def policy(self) -> Path:
        """policy.toml, the data owner's; the daemon only reads it."""
        return self.directory / "policy.toml"

    @property
    def identity(self) -> Path:
        """Keys, certificates and the membership."""
        return self.directory / "identity"

    @property
    def membership(self) -> Path:
        """The membership, written last when joining: with it the directory is whole."""
        return self.identity / "membership.json"

    @property
    def datasets(self) -> Path:
        """One NAME.json per registered dataset."""
        return self.directory / "datasets"

    @property
    def models(self) -> Path:
        """One NAME.json per registered base model."""
        return self.directory / "models"

    @property
    def plans(self) -> Path:
        """One directory per run: the plan, its signature and the owner's decision."""
        return self.directory / "plans"

    @property
    def runs(self) -> Path:
        """One directory per run: the journal and the files of the round."""
        return self.directory / "runs"

    @property
    def pause_mark(self) -> Path:
        """Exists while the owner has paused the daemon."""
        return self.directory / "paused"

    @property
    def left_mark(self) -> Path:
        """Exists once this participant has left its federation."""
        return self.directory / "left"

    @property
    def noise_keys(self) -> Path:
        """Hashes of what keys of noise were made from, so that none is used twice."""
        return self.directory / NOISE_KEYS

    @property
    def peer_heads(self) -> Path:
        """The newest heads of peers' ledgers that were seen here."""
        return self.directory / "peer-heads.json"

    @property
    def status_file(self) -> Path:
        """What the running daemon says about itself."""
        return self.directory / STATUS_NAME

    def make(self) -> None:
        """Create the directory and its parts, readable by this user alone."""
        for path in (self.directory, self.datasets, self.models, self.plans, self.runs):
            durable.make_directory(path, mode=DIRECTORY_MODE)

    def check(self) -> None:
        """Refuse a directory that is missing or that others can read.

        Raises:
            LocalError: ``E-CONFIG-MISSING`` or ``E-PERMISSIONS``.
        """
        if not self.config.is_file() or not self.identity.is_dir():
            raise LocalError("E-CONFIG-MISSING", f"{self.directory} is no participant's directory")
        for path in (self.directory, self.identity, *sorted(self.identity.glob("*.key"))):
            check_private(path)


def certificate_file(run: Path, number: int) -> Path:
    """Return where the certificate of a completed round lies in a run's directory."""
    return run / f"certificate.{number}"


def adapter_file(run: Path, number: int) -> Path:
    """Return where the adapter after a round, with all that the optimizer remembers, lies in a run's directory."""
    return run / f"adapter.{number}"


def taken_file(run: Path, number: int) -> Path:
    """Return where the coordinator's iterate after a round lies, where that was taken to start from."""
    return run / f"adapter.{number}.taken"


def sum_file(run: Path) -> Path:
    """Return where the sum of a measurement lies in a run's directory, as it was released."""
    return run / "sum.words"


def erase_adapters(run: Path) -> None:
    """Remove what rounds started from: the run is over."""
    for path in run.glob("adapter.*"):
        durable.remove(path)


def erase_updates(run: Path, *, keep: Collection[str] = ()) -> int:
    """Remove the encoded and masked updates and the shares of others; nothing else there has a dash in its name.

    Args:
        run: a run's directory.
        keep: names of files that are still of use.

    Returns:
        How many files were removed, drafts that a crash left among them.

    Raises:
        LocalError: ``E-DISK-FAILED``.
    """
    useless = [path for path in run.glob("*-*") if path.name not in keep]
    with durable.disk_errors(run):
        durable.erase(*useless)
    return len(useless)
