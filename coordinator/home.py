"""A coordinator's directory: where each thing lies.

Guarantees: the authority's keys are 0600 in a 0700 directory, or they are not used.
Leaves to others: what the files mean, and how they are written (``host.durable``); what coordinator.toml moves
elsewhere, the database and the spool (``config``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from host.status_file import STATUS_NAME

CONFIG_NAME: Final = "coordinator.toml"


@dataclass(frozen=True, slots=True)
class Home:
    """Every path of a coordinator's directory."""

    directory: Path
    shared: Path | None = None  # what several coordinators have in common, if there are several (``config``)

    @property
    def config(self) -> Path:
        """coordinator.toml."""
        return self.directory / CONFIG_NAME

    @property
    def authority(self) -> Path:
        """Keys and certificates, 0700."""
        return self.directory / "authority"

    @property
    def runs(self) -> Path:
        """One directory per run."""
        return (self.shared or self.directory) / "runs"

    @property
    def unused(self) -> Path:
        """There from ``init`` until a database is first opened: until then an empty one on a server may be begun."""
        return self.directory / "unused"

    @property
    def status_file(self) -> Path:
        """What the running daemon says about itself; stale when its process is gone."""
        return self.directory / STATUS_NAME

    def run(self, run_id: str) -> Path:
        """Return the directory of a run."""
        return self.runs / run_id
