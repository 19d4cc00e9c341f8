"""Uploads on disk: masked updates wait here, byte by byte resumable, until their round ends.

Guarantees: one upload per participant and attempt, never longer than announced; a file counts only once its receipt is
committed, so whatever a crash leaves behind is either continued or overwritten.
Leaves to others: the hash over the whole and the receipt (``coordinator.protocol.round``).
"""

from __future__ import annotations

import os
import shutil
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

    def offset(self, upload: Upload) -> int:
        """Return how many bytes of an upload are there; other uploads of the member to this attempt are dropped."""
        path = self.path(upload)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for other in path.parent.glob(f"{upload.member}.*"):
            # A member's name may contain dots, so that "a" also finds the files of "a.b".
            if other != path and other.name.rpartition(".")[0] == upload.member:
                other.unlink()
        return path.stat().st_size if path.exists() else 0

    def append(self, upload: Upload, offset: int, data: bytes) -> int:
        """Append a chunk and return the next offset; the last chunk is made durable with all before it.

        Raises:
            PeerError: ``E-WIRE-CHUNK``, naming the offset from which to go on.
            LocalError: ``E-DISK-FULL`` or ``E-DISK-FAILED``.
        """
        path = self.path(upload)
        there = path.stat().st_size if path.exists() else 0
        if offset != there or offset + len(data) > upload.length:
            rule = f"a chunk at {offset} of {len(data)} bytes does not continue an upload that stands at {there}"
            raise PeerError.by_participant(upload.member, "E-WIRE-CHUNK", Phase.COLLECT_MASKED, rule)
        with durable.disk_errors(path), path.open("ab") as file:
            file.write(data)
            if offset + len(data) == upload.length:
                file.flush()
                os.fsync(file.fileno())
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
