"""Every step by which a daemon makes something durable, counted; and a death, or a refusal of the disk, at any of them.

A step is a commit to a database or a call by which a file's bytes or name reach the disk: fsync, rename, removal,
truncation. They are found where Python hands them to the system, so that a step which is new in the daemons is found
too. Guarantees: from its death on, a side makes nothing durable any more until it is revived; a power cut takes what
was not synced: bytes of files, names in directories, removals.
Leaves to others: the sides themselves (``crashes``), power cuts inside SQLite and PostgreSQL, which sync by themselves.
Source: POSIX fsync(2), whose promise ends at the file: a name is durable when its directory is synced.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeVar
from unittest.mock import patch

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.default import DefaultDialect

from host.status_file import STATUS_NAME
from tests.worlds.owner import Killed

T = TypeVar("T")
PACKAGES: Final = ("coordinator", "participant", "host")
OF_DATABASES: Final = re.compile(r"\.db(-wal|-shm|-journal)?$")
NOT_DURABLE: Final = re.compile(rf"(\.?{re.escape(STATUS_NAME)}(\.new)?|\.lock|lock|log)$")  # lost without harm
VARYING: Final = re.compile(r"[0-9a-f]{8,}|\d+")
WRITES: Final = re.compile(r"^\s*(INSERT INTO|UPDATE|DELETE FROM)\s+\"?(\w+)", re.IGNORECASE)


class Moment(Enum):
    """When in a step a side dies."""

    BEFORE = "before"
    AFTER = "after"


class Death(Enum):
    """How a side dies: the system lives on and keeps what was handed to it, or not; or what its disk refuses, once."""

    KILL = "kill -9"
    POWER = "power cut"
    FULL = "disk full"
    BROKEN = "disk error"

    @property
    def refusal(self) -> bool:
        """Whether nobody dies: the disk refuses one step, and the daemon goes on."""
        return self in (Death.FULL, Death.BROKEN)


@dataclass(frozen=True, slots=True)
class Step:
    """One step: whose, of what kind, and where in the program."""

    side: str
    what: str
    place: str

    def __str__(self) -> str:
        return f"{self.side}: {self.what} ({self.place})"


@dataclass(frozen=True, slots=True)
class Kill:
    """A death at the step of a number, from 0, among all of a side."""

    side: str
    number: int
    moment: Moment
    death: Death


@dataclass
class DurableSteps:
    """Counts the steps of some sides, each of which owns a directory; a context manager by :meth:`watching`.

    Args:
        roots: directory of each side.
        databases: the side whose are all databases that SQLAlchemy writes.
        kill: what dies, or nobody.
    """

    roots: Mapping[str, Path]
    databases: str
    kill: Kill | None = None
    steps: list[Step] = field(default_factory=list)
    functions: set[str] = field(default_factory=set)  # of the coordinator's database that have written rows
    dead: set[str] = field(default_factory=set)
    deaths: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._count: Counter[str] = Counter()
        self._written: dict[int, list[str]] = {}  # statements of open transactions, by connection
        self._known: dict[Path, set[str]] = {}  # names in directories when they were synced last
        self._before: dict[Path, dict[str, bytes]] = {}  # what names stood for then that were taken away since
        self._sizes: dict[Path, int] = {}  # synced bytes of files
        self._power = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch, and kill, while the block runs."""
        for root in self.roots.values():
            self._note_tree(root)
        with ExitStack() as stack:
            for name in ("replace", "rename", "unlink", "remove", "truncate"):
                stack.enter_context(patch.object(os, name, self._of_path(name, getattr(os, name))))
            stack.enter_context(patch.object(os, "fsync", self._of_descriptor(os.fsync)))
            stack.enter_context(patch.object(sqlite3, "connect", self._connecting(sqlite3.connect)))
            stack.enter_context(patch.object(DefaultDialect, "do_commit", self._committing(DefaultDialect.do_commit)))
            event.listen(Engine, "before_cursor_execute", self._note_statement)
            stack.callback(event.remove, Engine, "before_cursor_execute", self._note_statement)
            yield

    def revive(self, side: str) -> None:
        """Let a side that died make things durable again; after a power cut it finds what was synced."""
        self.dead.discard(side)
        if self._power:
            self._lose(self.roots[side])
            self._power = False
        self._note_tree(self.roots[side])

    # --- steps ---

    def step(self, side: str, what: str, do: Callable[[], T]) -> T:
        if side in self.dead:
            raise Killed(side)
        step, number = Step(side, what, _place()), self._count[side]
        self._count[side] += 1
        self.steps.append(step)
        due = self.kill is not None and (self.kill.side, self.kill.number) == (side, number)
        if due and self.kill is not None and self.kill.death.refusal:
            self.deaths.append(step)
            raise _refusal(self.kill.death, what)
        if due and self.kill is not None and self.kill.moment is Moment.BEFORE:
            self._die(step)
        done = do()
        if due:
            self._die(step)
        return done

    def _die(self, step: Step) -> None:
        assert self.kill is not None
        self.dead.add(step.side)
        self.deaths.append(step)
        self._power = self.kill.death is Death.POWER
        raise Killed(step.side)

    def _side(self, path: Path) -> str | None:
        if NOT_DURABLE.search(path.name) or OF_DATABASES.search(path.name):
            return None
        return next((side for side, root in self.roots.items() if path.is_relative_to(root)), None)

    # --- files ---

    def _of_path(self, name: str, original: Callable[..., None]) -> Callable[..., None]:
        def call(path: Any, *others: Any, **options: Any) -> None:
            where = _absolute(path, options.get("dir_fd"))
            side = self._side(where)
            if side is None:
                return original(path, *others, **options)
            target = Path(others[0]) if name in ("replace", "rename") else where
            if name == "truncate":
                return self.step(side, f"truncate {_kind(where)}", lambda: original(path, *others, **options))

            def do() -> None:
                self._keep(target)
                self._keep(where)
                original(path, *others, **options)
                self._sizes[target] = self._sizes.pop(where, 0)

            if not where.exists():  # nothing is to be removed: no step
                return original(path, *others, **options)
            return self.step(side, f"{name} {_kind(target)}", do)

        return call

    def _of_descriptor(self, original: Callable[[int], None]) -> Callable[[int], None]:
        """Return an fsync that is noted in place of done: this disk loses what was not synced by itself."""

        def call(descriptor: int) -> None:
            path = _of_number(descriptor)
            side = self._side(path)
            if side is None:
                return original(descriptor)

            def do() -> None:
                if path.is_dir():
                    self._before[path] = {}
                    self._known[path] = {entry.name for entry in path.iterdir()}
                else:
                    self._sizes[path] = path.stat().st_size

            return self.step(side, f"fsync {_kind(path)}", do)

        return call

    def _keep(self, path: Path) -> None:
        """Remember what a name stood for, which is there again if the power goes before its directory is synced."""
        if path.name in self._known.get(path.parent, ()) and path.is_file():
            self._before.setdefault(path.parent, {}).setdefault(path.name, path.read_bytes())

    def _note_tree(self, root: Path) -> None:
        for directory, folders, files in os.walk(root):
            here = Path(directory)
            self._known[here], self._before[here] = {*folders, *files}, {}
            for file in files:
                self._sizes[here / file] = (here / file).stat().st_size

    def _lose(self, root: Path) -> None:
        """Take from a side's directory all that was not synced."""
        for directory, folders, files in os.walk(root):
            here = Path(directory)
            known, before = self._known.get(here, set()), self._before.get(here, {})
            for name in set(folders) - known:
                shutil.rmtree(here / name)
                folders.remove(name)
            for name in files:
                path = here / name
                if self._side(path) is None:
                    continue
                if name not in known:
                    path.unlink()
                elif name in before:
                    path.write_bytes(before[name])
                elif path.stat().st_size > self._sizes.get(path, 0):
                    self._tear(path)
            for name in before.keys() - set(files):
                (here / name).write_bytes(before[name])

    def _tear(self, path: Path) -> None:
        """Leave half of the bytes that were not synced."""
        synced = self._sizes.get(path, 0)
        with path.open("r+b") as file:
            file.truncate(synced + (path.stat().st_size - synced) // 2)

    # --- databases ---

    def _connecting(self, original: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
        watch = self

        class Watched(sqlite3.Connection):
            """A connection whose commits are steps; the daemons of owners write their transactions out."""

            side = ""
            changes = 0

            def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
                if statement == "COMMIT" and self.total_changes > self.changes:
                    self.changes = self.total_changes
                    what = "commit to the ledger"
                    return watch.step(self.side, what, lambda: sqlite3.Connection.execute(self, statement))
                return super().execute(statement, *parameters)

        def connect(path: Any, *others: Any, **options: Any) -> sqlite3.Connection:
            side = next((side for side, root in self.roots.items() if Path(path).is_relative_to(root)), None)
            if side is None or side == self.databases:
                return original(path, *others, **options)
            opened = original(path, *others, factory=Watched, **options)
            assert isinstance(opened, Watched)
            opened.side = side
            return opened

        return connect

    def _note_statement(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        if (wrote := WRITES.match(statement)) is None:
            return
        verb, table = wrote[1].split()[0].lower(), wrote[2]
        values = context.compiled_parameters if context is not None and context.compiled is not None else []
        kinds = sorted({str(row[key]) for row in values for key in ("kind", "phase", "state") if key in row})
        of = f" [{', '.join(kinds)}]" if kinds else ""
        self._written.setdefault(_of_driver(connection.connection), []).append(f"{verb} {table}{of}")
        self.functions |= set(_row_functions())

    def _committing(self, original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def do_commit(dialect: Any, connection: Any) -> None:
            wrote = self._written.pop(_of_driver(connection), [])
            if not wrote:
                return original(dialect, connection)
            what = "commit " + ", ".join(dict.fromkeys(wrote))
            return self.step(self.databases, what, lambda: original(dialect, connection))

        return do_commit


def _refusal(death: Death, what: str) -> Exception:
    """Return what the system raises where a disk refuses."""
    if what.startswith("commit"):
        error = sqlite3.OperationalError("the disk refused")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL if death is Death.FULL else sqlite3.SQLITE_IOERR
        return error
    number = errno.ENOSPC if death is Death.FULL else errno.EIO
    return OSError(number, os.strerror(number), what)


def _of_driver(connection: Any) -> int:
    """Return what tells a driver's connection from others, however SQLAlchemy wraps it."""
    return id(getattr(connection, "dbapi_connection", connection))


def _absolute(path: Any, directory: int | None) -> Path:
    if directory is not None:
        return _of_number(directory) / os.fsdecode(path)
    return Path.cwd() / os.fsdecode(path)


def _of_number(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def _kind(path: Path) -> str:
    return VARYING.sub("#", path.name)


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _place() -> str:
    """Return the daemon's function that asked for a step; ``host.durable`` asks for others."""
    for frame in _frames():
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] in PACKAGES and module != "host.durable":
            return f"{module}.{frame.f_code.co_name}"
    return ""


def _row_functions() -> Iterator[str]:
    for frame in _frames():
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("coordinator.database.") and module.endswith("_rows"):
            yield f"{module}.{frame.f_code.co_qualname}"
