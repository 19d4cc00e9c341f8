"""The coordinator's database: opening it, its schema, transactions and copies.

Guarantees: a store is opened only when its schema is the newest, and migrations ship with the package; a database that
was lost or emptied is never begun anew.
Leaves to others: durability and the order of transactions (``coordinator.database.engines``), the tables' contents
(``coordinator.database.member_rows``, ``coordinator.database.run_rows``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from coordinator.database.engines import connect, refusals
from privacy.errors import LocalError
from privacy.printable import printable

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS: Final = Path(__file__).parent / "migrations"
HEAD: Final = "0011"  # the newest revision; read first, because importing alembic takes longer than most commands


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
    def open(cls, url: str, *, unused: bool = False) -> Store:
        """Open a coordinator's database, upgrading its schema first.

        A missing or emptied one is refused, never begun anew: with it went members, runs, and what tells a
        participant that was rolled back.

        Args:
            url: of the database.
            unused: the coordinator is new and has opened no database yet: an empty one on a server is begun.

        Raises:
            LocalError: ``E-STATE-DAMAGED``, ``E-DATABASE-AWAY``, ``E-STATE-BUSY``, ``E-DISK-FULL`` or
                ``E-DISK-FAILED``.
        """
        existing(url, unused=unused).dispose()
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
        with (
            refusals(),
            self._engine.connect().execution_options(reading=reading) as connection,
            connection.begin(),
        ):
            yield connection

    @property
    def shared(self) -> bool:
        """Whether several processes may work on it: not on a file, which belongs to one daemon."""
        return self._engine.dialect.name != "sqlite"

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine, for migrations and checks."""
        return self._engine

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def existing(url: str, *, unused: bool = False) -> Engine:
    """Return an engine for a database that holds a coordinator already; arguments and errors as of :meth:`Store.open`.

    An empty one is on a server where ``init`` has left a database of its own beside its keys: that one is refused too,
    if it is lost.
    """
    path = sqlite_path(url)
    if path is not None and not path.exists():
        raise LocalError("E-STATE-DAMAGED", f"there is no database {path}; it is never begun anew: restore a backup")
    engine = connect(url)
    with refusals():
        if not revision(engine) and (path is not None or not unused):
            detail = "the database is empty; it is never begun anew: restore a backup, or correct its URL"
            raise LocalError("E-STATE-DAMAGED", detail)
    return engine


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite database, or ``None`` for a database on a server."""
    parsed = sa.make_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


def revision(engine: Engine) -> str:
    """Return the schema's revision; empty when there is none yet.

    Raises:
        LocalError: ``E-DATABASE-NEWER``.
    """
    found = _revision(engine)
    if found > HEAD:
        detail = f"the database has schema {found[:40]}, this version knows up to {HEAD}"
        raise LocalError("E-DATABASE-NEWER", printable(detail))
    return found


def _revision(engine: Engine) -> str:
    with engine.connect().execution_options(reading=True) as connection:
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
