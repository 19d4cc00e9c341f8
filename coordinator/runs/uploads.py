"""Uploads on disk: masked updates wait here, byte by byte resumable, until their round ends.

Guarantees: one upload per participant and attempt, never longer than announced; a file counts only once its receipt is
committed, so whatever a crash leaves behind is either continued or overwritten. An attempt's directory bears the token
of the lease of who leads the run, and who takes it over renames it: what a process that leads the run no longer does to
its uploads reaches none of the new leader's. Where uploads are kept elsewhere too (``blobs``), the directory is this
machine's own: a whole upload is kept there before its last chunk is acknowledged, under a name that holds its hash, and
what comes back has that hash; nothing of an attempt is removed there before its end is committed.
Leaves to others: the hash over the whole and the receipt (``coordinator.protocol.round``).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from coordinator.storage import blobs as stored
from coordinator.storage.blobs import Blobs
from coordinator.storage.content import left_for_later
from host import durable
from host.logs import get_logger
from privacy.errors import LocalError, PeerError, Phase
from privacy.secagg.messages import Position

FIRST_TOKEN: Final = 1
SPOOL: Final = "spool"  # how the names of blobs begin that are uploads
_HASH_DIGITS: Final = 32  # of an upload's hash, in the name of its file
_BLOB: Final = re.compile(
    rf"{SPOOL}/[^/]+/(?P<round>\d{{1,9}})-(?P<attempt>\d{{1,9}})/(?P<member>[^/]+)\.(?P<sha256>[0-9a-f]{{64}})"
)


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
    blobs: Blobs | None = None  # where whole uploads are kept, if not in the directory alone

    def led_by(self, token: int) -> UploadStore:
        """Return the same directory for who leads a run under a token."""
        return replace(self, token=token)

    def path(self, upload: Upload) -> Path:
        """Return where an upload lies."""
        return self._attempt(upload.run_id, upload.position) / _file_name(upload.member, upload.sha256)

    def open(self, run_id: str, position: Position) -> dict[str, set[Path]]:
        """Make an attempt's directory, or take over that of an earlier leader; return what lies there, by member.

        Raises:
            LocalError: ``E-LEASE-LOST``: a later leader has taken it over; ``E-STORAGE-AWAY``: what is kept elsewhere
                cannot be brought here.
        """
        directory, there = self._attempt(run_id, position), dict[str, set[Path]]()
        self._take_over(directory, f"{position.round}-{position.attempt}")
        durable.make_directory(directory, mode=0o700)
        self._bring(directory, _attempt_name(run_id, position))
        for path in directory.iterdir():  # a member's name may contain dots
            there.setdefault(path.name.rpartition(".")[0], set()).add(path)
        return there

    def offset(self, upload: Upload, others: Iterable[Path]) -> int:
        """Return how many bytes of an upload are there; other uploads of the member to this attempt are dropped."""
        path = self.path(upload)
        for other in others:
            if other != path:
                durable.remove(other)
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

    @property
    def elsewhere(self) -> bool:
        """Whether an upload has to be kept elsewhere before it counts."""
        return self.blobs is not None

    def keep(self, upload: Upload) -> bool:
        """Keep a whole upload where a later leader finds it; return whether it is kept, and so may count.

        One that an earlier leader acknowledged and that is not here is brought. What is whole nowhere, or not what its
        hash says, is left to the round, which refuses it.

        Raises:
            LocalError: ``E-STORAGE-*``.
        """
        path, name = self.path(upload), _blob_name(upload)
        if self.blobs is None:
            return True
        if not path.parent.exists():
            return False  # the attempt is over
        if not path.exists() or path.stat().st_size != upload.length:
            return _fetched(self.blobs, name, path, upload.sha256, upload.length)
        if durable.sha256(path) != upload.sha256:
            return False
        self.blobs.put_new(name, path, sha256=upload.sha256)
        return True

    def discard(self, upload: Upload) -> None:
        """Drop an upload that is not what its receipt says, so that it may be sent again.

        Raises:
            LocalError: ``E-DISK-*``.
        """
        durable.remove(self.path(upload))

    def clear_round(self, run_id: str, round_number: int, attempt: int) -> None:
        """Drop every upload of a round, but for those to a later leader.

        Elsewhere, those of attempts after this one stay: a leader that was replaced since it committed the end of this
        one does not know of them.
        """
        for directory in (self.directory / run_id).glob(f"{round_number}-*"):
            if _token(directory) <= self.token:
                shutil.rmtree(directory, ignore_errors=True)
        if self.blobs is None:
            return
        with left_for_later(run_id):
            names = [blob.name for blob in self.blobs.list(f"{SPOOL}/{run_id}")]
            self.blobs.delete([name for name in names if _order(name) <= (round_number, attempt)])

    def clear_run(self, run_id: str) -> bool:
        """Drop every upload of a run, in the directory; return whether none is left there."""
        shutil.rmtree(self.directory / run_id, ignore_errors=True)
        return not (self.directory / run_id).exists()

    def erase_run(self, run_id: str) -> None:
        """Remove every upload of a run that has ended, also from where they are kept elsewhere.

        Raises:
            LocalError: ``E-DISK-*`` or ``E-STORAGE-AWAY``: to be tried again.
        """
        directory = self.directory / run_id
        with durable.disk_errors(directory):
            if directory.exists():
                shutil.rmtree(directory)
        if self.blobs is not None:
            self.blobs.delete_tree(f"{SPOOL}/{run_id}")

    def _bring(self, directory: Path, attempt: str) -> None:
        """Bring the uploads to an attempt that are kept elsewhere and not whole here.

        One that is not what its name says is not brought: the attempt does not come back then, and is tried again.
        """
        if self.blobs is None:
            return
        for blob in self.blobs.list(attempt):
            named = _BLOB.fullmatch(blob.name)
            if named is None:
                continue
            sha256 = bytes.fromhex(named["sha256"])
            path = directory / _file_name(named["member"], sha256)
            if path.exists() and durable.sha256(path) == sha256:
                continue
            if not _fetched(self.blobs, blob.name, path, sha256, blob.length):
                get_logger("coordinator").error("upload-damaged", name=blob.name)

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


def _fetched(blobs: Blobs, name: str, path: Path, sha256: bytes, length: int) -> bool:
    """Bring an upload, and return whether it is there and what its hash says."""
    try:
        stored.fetch(blobs, name, path, sha256=sha256, length=length)
    except LocalError as error:
        if error.code != "E-STORAGE-DAMAGED":
            raise
        return False
    return True


def _file_name(member: str, sha256: bytes) -> str:
    return f"{member}.{sha256.hex()[:_HASH_DIGITS]}"


def _attempt_name(run_id: str, position: Position) -> str:
    return f"{SPOOL}/{run_id}/{position.round}-{position.attempt}"


def _blob_name(upload: Upload) -> str:
    return f"{_attempt_name(upload.run_id, upload.position)}/{upload.member}.{upload.sha256.hex()}"


def _order(name: str) -> tuple[int, int]:
    """Return the round and the attempt of an upload by its blob's name; of any other name the first of all."""
    named = _BLOB.fullmatch(name)
    return (int(named["round"]), int(named["attempt"])) if named else (0, 0)


def _token(directory: Path) -> int:
    """Return the token that an attempt's directory bears; 0 if it bears none, as of older software."""
    token = directory.name.split("-")[2:]
    return int(token[0]) if token else 0
