"""The coordinator's database: opening it, its schema, transactions and copies.

Guarantees: SQLite runs in WAL mode with synchronous=FULL, so a committed transaction survives a power cut; a store is
opened only when its schema is the newest, and migrations ship with the package.
Leaves to others: the tables' contents (``coordinator.database.member_rows``, ``coordinator.database.run_rows``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from privacy.errors import LocalError

if TYPE_CHECKING:
    from alembic.config import Config

BUSY_SECONDS: Final = 10  # how long a command waits for the daemon's transaction, and the other way round
MIGRATIONS: Final = Path(__file__).parent / "migrations"
_CODES: Final = {
    sqlite3.SQLITE_FULL: "E-DISK-FULL",
    sqlite3.SQLITE_IOERR: "E-DISK-FULL",  # what SQLite says when the log beside the database cannot grow
    sqlite3.SQLITE_BUSY: "E-STATE-BUSY",
    sqlite3.SQLITE_LOCKED: "E-STATE-BUSY",
    sqlite3.SQLITE_READONLY: "E-DISK-FAILED",
    sqlite3.SQLITE_CANTOPEN: "E-DISK-FAILED",
    sqlite3.SQLITE_PERM: "E-DISK-FAILED",
}
HEAD: Final = "0002"  # the newest revision; read first, because importing alembic takes longer than most commands


def _full_durability(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    with closing(connection.cursor()) as cursor:
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={BUSY_SECONDS * 1000}",
        ):
            cursor.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # A transaction that reads before it writes must not find, when it writes, that another one came in between.
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


class Store:
    """A database whose schema is up to date; made by :meth:`open` or :meth:`create`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def create(cls, url: str) -> Store:
        """Make the database of a new coordinator, or open the one that is there.

        Raises:
            LocalError: as :meth:`open`.
        """
        engine = connect(url)
        with refusals():
            if revision(engine) != HEAD:
                upgrade(engine)
        return cls(engine)

    @classmethod
    def open(cls, url: str) -> Store:
        """Open a coordinator's database, upgrading its schema first.

        A missing or emptied one is refused, never begun anew: with it went members, runs, and what tells a
        participant that was rolled back.

        Raises:
            LocalError: ``E-STATE-DAMAGED``, ``E-STATE-BUSY``, ``E-DISK-FULL`` or ``E-DISK-FAILED``.
        """
        existing(url).dispose()
        return cls.create(url)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Open a transaction that is durable when the block ends, and undone when it raises."""
        with self._transaction(reading=False) as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that sees one state of the database and keeps nobody waiting."""
        with self._transaction(reading=True) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, reading: bool) -> Iterator[Connection]:
        connecting = self._engine.connect().execution_options(reading=reading)
        with refusals(), connecting as connection, connection.begin():
            yield connection

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine, for migrations and checks."""
        return self._engine

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


@contextmanager
def refusals() -> Iterator[None]:
    """Turn a database's refusal into an error that says what to do."""
    try:
        yield
    except sa.exc.DatabaseError as error:
        number = getattr(error.orig, "sqlite_errorcode", None)
        code = _CODES.get(number & 0xFF if number is not None else -1, "E-STATE-DAMAGED")
        raise LocalError(code, f"the database: {error.orig}") from error


def connect(url: str) -> Engine:
    """Return an engine for a database URL with this project's durability settings."""
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":
        engine = sa.create_engine(url, connect_args={"isolation_level": None, "check_same_thread": False})
        event.listen(engine, "connect", _full_durability)
        event.listen(engine, "begin", _begin)
    return engine


def existing(url: str) -> Engine:
    """Return an engine for a database that holds a coordinator already; errors as of :meth:`Store.open`."""
    path = sa.make_url(url).database if url.startswith("sqlite:") else None
    if path is not None and not Path(path).exists():
        raise LocalError("E-STATE-DAMAGED", f"there is no database {path}; it is never begun anew: restore a backup")
    engine = connect(url)
    with refusals():
        if not revision(engine):
            raise LocalError("E-STATE-DAMAGED", "the database is empty; it is never begun anew: restore a backup")
    return engine


def revision(engine: Engine) -> str:
    """Return the schema's revision; empty when there is none yet."""
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return ""
        return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() or ""


def upgrade(engine: Engine, to: str = "head") -> None:
    """Bring the schema to a revision of the shipped migrations."""
    from alembic import command

    with engine.connect() as connection:
        command.upgrade(migrations(connection), to)


def downgrade(engine: Engine, to: str = "base") -> None:
    """Take the schema back to a revision; for going back to an older release."""
    from alembic import command

    with engine.connect() as connection:
        command.downgrade(migrations(connection), to)


def migrations(connection: Connection) -> Config:
    """Return alembic's configuration of the shipped migrations, run on this connection."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a SQLite database consistently while a daemon writes to it."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
