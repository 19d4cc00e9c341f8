"""Uploads on disk: masked updates wait here, byte by byte resumable, until their round ends.

Guarantees: one upload per participant and attempt, never longer than announced; a file counts only once its receipt is
committed, so whatever a crash leaves behind is either continued or overwritten. An attempt's directory bears the token
of the lease of who leads the run, and who takes it over renames it: what a process that leads the run no longer does to
its uploads reaches none of the new leader's.
Leaves to others: the hash over the whole and the receipt (``coordinator.protocol.round``).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from host import durable
from privacy.errors import LocalError, PeerError, Phase
from privacy.secagg.messages import Position

FIRST_TOKEN: Final = 1


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
    """The spool directory, as the leader of a run sees it."""

    directory: Path
    token: int = FIRST_TOKEN  # of the lease under which its run is led

    def led_by(self, token: int) -> UploadStore:
        """Return the same directory for who leads a run under a token."""
        return replace(self, token=token)

    def path(self, upload: Upload) -> Path:
        """Return where an upload lies."""
        return self._attempt(upload.run_id, upload.position) / f"{upload.member}.{upload.sha256.hex()[:32]}"

    def open(self, run_id: str, position: Position) -> dict[str, set[Path]]:
        """Make an attempt's directory, or take over that of an earlier leader; return what lies there, by member.

        Raises:
            LocalError: ``E-LEASE-LOST``: a later leader has taken it over.
        """
        directory, there = self._attempt(run_id, position), dict[str, set[Path]]()
        self._take_over(directory, f"{position.round}-{position.attempt}")
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
        """Drop every upload of a round, but for those to a later leader."""
        for directory in (self.directory / run_id).glob(f"{round_number}-*"):
            if _token(directory) <= self.token:
                shutil.rmtree(directory, ignore_errors=True)

    def clear_run(self, run_id: str) -> None:
        """Drop every upload of a run."""
        shutil.rmtree(self.directory / run_id, ignore_errors=True)

    def _attempt(self, run_id: str, position: Position) -> Path:
        return self.directory / run_id / f"{position.round}-{position.attempt}-{self.token}"

    def _take_over(self, directory: Path, attempt: str) -> None:
        newest = max([directory.with_name(attempt), *directory.parent.glob(f"{attempt}-*")], key=_token)
        if _token(newest) > self.token:
            raise LocalError("E-LEASE-LOST", f"another process has taken over the uploads in {newest}")
        if directory.exists() or not newest.exists():
            return
        with durable.disk_errors(newest):
            try:
                newest.rename(directory)
            except FileNotFoundError:
                raise LocalError("E-LEASE-LOST", f"another process has just taken over {newest}") from None
            durable.sync_directory(directory.parent)


def _token(directory: Path) -> int:
    """Return the token that an attempt's directory bears; 0 if it bears none, as of older software."""
    token = directory.name.split("-")[2:]
    return int(token[0]) if token else 0
