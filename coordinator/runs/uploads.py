"""Uploads on disk: masked updates wait here, byte by byte resumable, until their round ends.

Guarantees: one upload per participant and attempt, never longer than announced; a file counts only once its receipt is
committed, so whatever a crash leaves behind is either continued or overwritten.
Leaves to others: the hash over the whole and the receipt (``coordinator.protocol.round``).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from host import durable
from privacy.errors import PeerError, Phase
from privacy.secagg.messages import Position


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload by its place and its content."""

    run_id: str
    position: Position
    member: str
    sha256: bytes
    length: int


@dataclass(frozen=True, slots=True)
class UploadStore:
    """The spool directory."""

    directory: Path

    def path(self, upload: Upload) -> Path:
        """Return where an upload lies."""
        return self._attempt(upload.run_id, upload.position) / f"{upload.member}.{upload.sha256.hex()[:32]}"

    def open(self, run_id: str, position: Position) -> dict[str, set[Path]]:
        """Make an attempt's directory, and return what lies there already, by member."""
        directory, there = self._attempt(run_id, position), dict[str, set[Path]]()
        durable.make_directory(directory, mode=0o700)
        for path in directory.iterdir():  # a member's name may contain dots
            there.setdefault(path.name.rpartition(".")[0], set()).add(path)
        return there

    def offset(self, upload: Upload, others: Iterable[Path]) -> int:
        """Return how many bytes of an upload are there; other uploads of the member to this attempt are dropped."""
        path = self.path(upload)
        for other in others:
            if other != path:
                other.unlink(missing_ok=True)
        return path.stat().st_size if path.exists() else 0

    def append(self, upload: Upload, offset: int, data: bytes) -> int:
        """Append a chunk and return the next offset; the last is made durable with all before it, and with the name.

        Raises:
            PeerError: ``E-WIRE-CHUNK``, naming the offset from which to go on.
            LocalError: ``E-DISK-FULL`` or ``E-DISK-FAILED``.
        """
        path = self.path(upload)
        there = path.stat().st_size if path.exists() else 0
        if offset != there or offset + len(data) > upload.length:
            rule = f"a chunk at {offset} of {len(data)} bytes does not continue an upload that stands at {there}"
            raise PeerError.by_participant(upload.member, "E-WIRE-CHUNK", Phase.COLLECT_MASKED, rule)
        if not path.parent.exists():
            rule = "the attempt is over"
            raise PeerError.by_participant(upload.member, "E-WIRE-UNEXPECTED", Phase.COLLECT_MASKED, rule)
        with durable.disk_errors(path), path.open("ab") as file:
            file.write(data)
            if offset + len(data) == upload.length:
                file.flush()
                os.fsync(file.fileno())
                durable.sync_directory(path.parent)
        return offset + len(data)

    def discard(self, upload: Upload) -> None:
        """Drop an upload that is not what its receipt says, so that it may be sent again."""
        self.path(upload).unlink(missing_ok=True)

    def clear_round(self, run_id: str, round_number: int) -> None:
        """Drop every upload of a round."""
        for directory in (self.directory / run_id).glob(f"{round_number}-*"):
            shutil.rmtree(directory, ignore_errors=True)

    def clear_run(self, run_id: str) -> None:
        """Drop every upload of a run."""
        shutil.rmtree(self.directory / run_id, ignore_errors=True)

    def _attempt(self, run_id: str, position: Position) -> Path:
        return self.directory / run_id / f"{position.round}-{position.attempt}"
