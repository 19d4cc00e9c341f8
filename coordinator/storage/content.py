"""The files of runs, where they are kept outside this machine's directory: the directory is then a copy that may go.

Guarantees: a file is kept under a name that holds its hash before the row that needs it is committed, and what comes
back has the hash of its row: a copy on this machine too, before it is first used in a process.
Leaves to others: which files a run has, and when (``coordinator.runs``), the place (``blobs``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy.engine import Connection

from coordinator.database import content_rows
from coordinator.database.content_rows import Kept
from coordinator.database.store import Store
from coordinator.storage import blobs
from coordinator.storage.blobs import Blobs
from host import durable
from host.logs import get_logger
from privacy.errors import LocalError

RUNS: Final = "runs"  # how the names of blobs begin that are files of runs


@dataclass(frozen=True, slots=True)
class Content:
    """The files of all runs."""

    blobs: Blobs
    store: Store
    directory: Path  # where copies lie, a directory per run
    compared: dict[tuple[str, str], bytes] = field(default_factory=dict)  # run and name -> hash of the copy

    def of(self, run_id: str) -> RunContent:
        """Return the files of a run."""
        return RunContent(self, run_id)

    def keep_all(self, run_id: str) -> tuple[Kept, ...]:
        """Keep all files of a run's directory, as :meth:`RunContent.keep` does."""
        files = self.of(run_id)
        return files.keep(files.directory, sorted(path.name for path in files.directory.iterdir() if path.is_file()))


@dataclass(frozen=True, slots=True)
class Change:
    """What a transaction says of a run's files: which are kept from now on, and which no longer."""

    run_id: str
    kept: tuple[Kept, ...] = ()
    dropped: tuple[Kept, ...] = ()

    def write(self, connection: Connection) -> None:
        """Execute it."""
        content_rows.drop(connection, self.run_id, [one.name for one in self.dropped])
        content_rows.add(connection, self.run_id, self.kept)


@dataclass(frozen=True, slots=True)
class RunContent:
    """The files of one run."""

    content: Content
    run_id: str

    @property
    def directory(self) -> Path:
        """Where copies lie."""
        return self.content.directory / self.run_id

    def known(self) -> dict[str, Kept]:
        """Return the files that the run has, by name."""
        with self.content.store.read() as connection:
            return content_rows.of_run(connection, self.run_id)

    def has(self, name: str) -> bool:
        """Return whether the run has a file."""
        return self._find(name) is not None

    def fetch(self, name: str) -> Path:
        """Return where a file's copy lies, brought here if need be; it is not there if the run has no such file.

        Raises:
            LocalError: ``E-STORAGE-AWAY``, ``E-STORAGE-DAMAGED`` or ``E-DISK-*``.
        """
        path, kept = self.directory / name, self._find(name)
        if kept is not None and not self._is_copy(path, kept):
            blobs.fetch(self.content.blobs, self._key(kept), path, sha256=kept.sha256, length=kept.length)
            self.content.compared[self.run_id, name] = kept.sha256
        return path

    def fetch_tree(self, name: str) -> Path:
        """Return a directory with all its files; raises as :meth:`fetch`."""
        for each in self.known():
            if each.startswith(f"{name}/"):
                self.fetch(each)
        return self.directory / name

    def keep(self, directory: Path, names: Iterable[str]) -> tuple[Kept, ...]:
        """Keep files of a directory, and return what the transaction has to say that needs them.

        Raises:
            LocalError: as :meth:`fetch`.
        """
        return tuple(self._keep(directory, name) for name in names)

    def delete(self, dropped: Collection[Kept]) -> None:
        """Remove files that the run has no longer, as a committed row says; raises as :meth:`fetch`."""
        self.content.blobs.delete([self._key(kept) for kept in dropped])

    def sweep(self) -> None:
        """Remove what lies there of a run that has ended and does not belong to it; raises as :meth:`fetch`."""
        wanted = {self._key(kept) for kept in self.known().values()}
        there = self.content.blobs.list(f"{RUNS}/{self.run_id}")
        self.content.blobs.delete([blob.name for blob in there if blob.name not in wanted])

    def missing(self) -> list[str]:
        """Return the names of the run's files that are not there, or not whole; raises as :meth:`fetch`."""
        there = {blob.name: blob.length for blob in self.content.blobs.list(f"{RUNS}/{self.run_id}")}
        return [kept.name for kept in self.known().values() if there.get(self._key(kept)) != kept.length]

    def _find(self, name: str) -> Kept | None:
        with self.content.store.read() as connection:
            return content_rows.find(connection, self.run_id, name)

    def _is_copy(self, path: Path, kept: Kept) -> bool:
        if not path.exists():
            return False
        if self.content.compared.get((self.run_id, kept.name)) != kept.sha256:
            if durable.sha256(path) != kept.sha256:  # of before the database was set back, or damaged
                return False
            self.content.compared[self.run_id, kept.name] = kept.sha256
        return True

    def _keep(self, directory: Path, name: str) -> Kept:
        path = directory / name
        kept = Kept(name, durable.sha256(path), path.stat().st_size)
        self.content.blobs.put_new(self._key(kept), path, sha256=kept.sha256)
        return kept

    def _key(self, kept: Kept) -> str:
        return f"{RUNS}/{self.run_id}/{kept.name}/{kept.sha256.hex()}"


@contextmanager
def left_for_later(run_id: str) -> Iterator[None]:
    """Log that something could not be removed: no round fails for it, and it goes with all else at the run's end."""
    try:
        yield
    except LocalError as error:
        get_logger("coordinator").warning("storage-not-cleared", run=run_id, code=error.code, error=error.detail)


def probe(place: Blobs, scratch: Path, token: bytes) -> str:
    """Write, read and remove a few bytes, and return what was done.

    Args:
        place: what is tried.
        scratch: a directory on this machine.
        token: fresh random bytes, which are the name and the content.

    Raises:
        LocalError: as of :class:`Blobs`.
    """
    file, name = scratch / "probe", f"probe/{token.hex()}"
    file.write_bytes(token)
    digest = durable.sha256(file)
    place.put_new(name, file, sha256=digest)
    try:
        blobs.read(place, name, sha256=digest, length=len(token))
    finally:
        place.delete([name])
    if any(blob.name == name for blob in place.list("probe")):
        raise LocalError("E-STORAGE-AWAY", f"{place.place}: what is removed stays there")
    return f"{place.place}: written, read and removed"
