"""SQLite and PostgreSQL: how each is opened, how a transaction begins, and what its refusals mean.

Guarantees: on either, a committed transaction survives a power cut (of a server with fsync: doctor checks it); writers
take turns from their first statement on, so what a transaction has read is still so when it writes; readers see one
state and keep nobody waiting; a server that has gone away is told apart from a damaged database.
Leaves to others: the schema (``coordinator.database.store``), the daemon's patience (``coordinator.daemon.runner``).
Source: SQLite's result codes; PostgreSQL's appendix A (error codes), sections 13.2 and 13.3.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from host.durable import sqlite_code
from privacy.errors import LocalError

BUSY_SECONDS: Final = 10  # how long a command waits for the daemon's transaction, and the other way round
LOST_SECONDS: Final = 20  # after which a connection to a server that does not answer counts as broken
# With these nothing is wrong with the rows.
PASSING: Final = ("E-DATABASE-AWAY", "E-STATE-BUSY", "E-DISK-FULL", "E-LEASE-LOST", "E-STORAGE-AWAY")
STALLED_SECONDS: Final = 5  # that a writer may keep others waiting without a statement: its process hangs
WRITERS: Final = 0x6F6E6C7973756D  # the advisory lock whose holder writes: "onlysum"

# So that libpq notices when the server's machine is gone: the daemon waits for its answers.
_SERVER_OPTIONS: Final = {
    "connect_timeout": BUSY_SECONDS,
    "client_encoding": "utf8",
    "keepalives_idle": LOST_SECONDS // 2,
    "keepalives_interval": LOST_SECONDS // 4,
    "keepalives_count": 2,
    "tcp_user_timeout": LOST_SECONDS * 1000,
}
# Whoever waits for a standby goes on to; a commit that does not even wait for the server's own disk is not durable.
_SETTINGS: Final = f"""
    SELECT current_setting('server_encoding'),
           set_config('lock_timeout', '{BUSY_SECONDS}s', false),
           set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                                            THEN 'on' ELSE current_setting('synchronous_commit') END, false)
"""
# The server's own limit is of transactions that wait between two statements. Whoever was stopped while it sent one, as
# rows that go together are sent, has its connection ended by the next writer.
_END_STALLED: Final = f"""
    SELECT pg_terminate_backend(holder.pid)
    FROM pg_locks JOIN pg_stat_activity AS holder USING (pid)
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND classid::bigint = {WRITERS >> 32} AND objid::bigint = {WRITERS & 0xFFFFFFFF}
      AND wait_event = 'ClientRead' AND state_change < clock_timestamp() - interval '{STALLED_SECONDS} seconds'
"""  # noqa: S608  numbers of this module alone
_SQLITE_BUGS: Final = (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH)
# By the beginning of the SQLSTATE; the longest that fits counts.
_SERVER_CODES: Final = {
    "08": "E-DATABASE-AWAY",  # connection
    "25P03": "E-DATABASE-AWAY",  # ended by the server because this process hung in a transaction
    "57P": "E-DATABASE-AWAY",  # shut down, starting, or ended by an administrator
    "53": "E-DATABASE-AWAY",  # out of memory or connections
    "53100": "E-DISK-FULL",
    "58": "E-DISK-FAILED",
    "28": "E-DATABASE-AWAY",  # this user or password is not let in
    "3D": "E-DATABASE-AWAY",  # no database of this name
    "0A000": "E-DATABASE-AWAY",  # no transaction that writes: a standby
    "42501": "E-DATABASE-AWAY",  # no rights
    "55P03": "E-STATE-BUSY",
    "57014": "E-STATE-BUSY",  # a time limit of the server
    "40": "E-STATE-BUSY",  # deadlock or serialization: undone, to be tried again
    "42P01": "E-STATE-DAMAGED",  # a table is missing
    "42703": "E-STATE-DAMAGED",  # a column is missing
    "XX": "E-STATE-DAMAGED",  # data or index corrupted
}


def connect(url: str) -> Engine:
    """Return an engine for a database URL with this project's durability and order of transactions.

    Raises:
        LocalError: ``E-EXTRA-MISSING``: the driver of PostgreSQL is not installed.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed)
    return _server(parsed)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn a database's refusal into an error that says what to do."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        code = _code(error)
        said = " ".join(str(error.orig).split())
        # A statement that breaks a rule of the tables is quoted with its values; the log has the statement's place.
        detail = f"a statement was refused: {type(error.orig).__name__}" if code == "E-BUG" else f"the database: {said}"
        raise LocalError(code, detail) from error


def passing(error: Exception) -> bool:
    """Return whether it is worth trying again: nothing is wrong with what is stored."""
    return isinstance(error, LocalError) and error.code in PASSING


def _code(error: sa.exc.DBAPIError) -> str:
    if isinstance(error.orig, sqlite3.Error):
        bug = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _SQLITE_BUGS
        return "E-BUG" if bug else sqlite_code(error.orig) or "E-STATE-DAMAGED"
    state: str | None = getattr(error.orig, "sqlstate", None)
    if state is None:  # no answer of the server's at all
        lost = error.connection_invalidated or isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
        return "E-DATABASE-AWAY" if lost else "E-BUG"
    fitting = [begin for begin in _SERVER_CODES if state.startswith(begin)]
    return _SERVER_CODES[max(fitting, key=len)] if fitting else "E-BUG"


# --- SQLite ---


def _sqlite(url: URL) -> Engine:
    engine = sa.create_engine(url, connect_args={"isolation_level": None, "check_same_thread": False})
    event.listen(engine, "connect", _full_durability)
    event.listen(engine, "begin", _begin)
    return engine


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
    connection.exec_driver_sql("BEGIN" if _reads(connection) else "BEGIN IMMEDIATE")


def _reads(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("reading", False))


# --- PostgreSQL ---


def _server(url: URL) -> Engine:
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    try:
        engine = sa.create_engine(url, connect_args=dict(_SERVER_OPTIONS), pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise LocalError("E-EXTRA-MISSING", f"a database on a server needs {error.name}") from None
    event.listen(engine, "connect", _server_settings)
    event.listen(engine, "begin", _begin_on_server)
    return engine


def _server_settings(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    with closing(connection.cursor()) as cursor:
        cursor.execute(_SETTINGS)
        encoding = (cursor.fetchone() or ("unknown",))[0]
    connection.commit()
    if encoding != "UTF8":
        raise LocalError("E-CONFIG-INVALID", f"the database's encoding is {encoding}, and has to be UTF8")


def _begin_on_server(connection: Connection) -> None:
    # The same two kinds as with SQLite. A writer's first statement waits for its turn; each later one sees what those
    # before it have committed, which a snapshot taken while it waited would not.
    if _reads(connection):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return
    connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE")
    # A process that was stopped in the middle of a transaction must not keep the others from ever writing again.
    connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{STALLED_SECONDS}s'")
    if not connection.exec_driver_sql(f"SELECT pg_try_advisory_xact_lock({WRITERS})").scalar_one():
        connection.exec_driver_sql(_END_STALLED)
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS})")
