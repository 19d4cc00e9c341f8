"""The database: schema, durability, members, tokens, ledger heads and the security log."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from coordinator.database import member_rows, store
from coordinator.database.engines import connect
from coordinator.database.member_rows import MemberRecord, TokenRecord
from coordinator.database.store import HEAD, Store, downgrade, upgrade
from coordinator.database.tables import metadata
from coordinator.database.writer import Writer
from coordinator.runs.ledger_heads import LedgerHeads
from privacy.errors import LocalError, OnlysumError, PeerError, VerificationError
from protos.envelope import DatasetOffer, LedgerHead, Role

NOW = 1_000
TOKEN = TokenRecord(
    token_id="t1",
    secret_hash=b"s" * 32,
    name="alice",
    role=Role.PARTICIPANT,
    labels="",
    made_at=NOW,
    expires_at=NOW + 100,
)


@pytest.fixture
def opened(database: str) -> Iterator[Store]:
    with closing(Store.create(database)) as store:
        yield store


def member(name: str = "alice", key: bytes = b"k" * 32) -> MemberRecord:
    return MemberRecord(
        name=name,
        role=Role.PARTICIPANT,
        identity_key=key,
        certificate=b"PEM",
        labels="",
        software_version="",
        enrolled_at=NOW,
        revoked_at=None,
    )


# --- schema ---


def test_the_migrations_build_exactly_the_declared_tables(opened: Store) -> None:
    with opened.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_newest_migration_is_the_one_that_opening_looks_for(opened: Store) -> None:
    with opened.engine.connect() as connection:
        assert ScriptDirectory.from_config(store.migrations(connection)).get_current_head() == HEAD


def test_migrating_down_and_up_again_leaves_the_same_tables(opened: Store) -> None:
    store.downgrade(opened.engine)
    assert sa.inspect(opened.engine).get_table_names() == ["alembic_version"]
    assert store.revision(opened.engine) == ""
    store.upgrade(opened.engine)
    assert set(metadata.tables) < set(sa.inspect(opened.engine).get_table_names())


def test_a_committed_transaction_is_on_disk_before_the_commit_returns(tmp_path: Path) -> None:
    opened = Store.create(f"sqlite:///{tmp_path}/coordinator.db")
    with opened.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_a_transaction_that_raises_leaves_nothing(opened: Store) -> None:
    with suppress(ZeroDivisionError), opened.begin() as connection:
        member_rows.add_token(connection, TOKEN)
        raise ZeroDivisionError
    with opened.read() as connection:
        assert member_rows.list_tokens(connection) == ()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "coordinator.db").write_bytes(b"no database at all, but long enough to be read as one" * 20)
    with pytest.raises(LocalError, match="E-STATE-DAMAGED"):
        Store.create(f"sqlite:///{tmp_path}/coordinator.db")


def test_a_database_that_another_program_holds_is_busy_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.database.engines.BUSY_SECONDS", 0)
    held, waiting = (Store.create(f"sqlite:///{tmp_path}/coordinator.db") for _ in range(2))
    with (
        held.begin(),
        pytest.raises(LocalError, match="E-STATE-BUSY: the database: database is locked"),
        waiting.begin(),
    ):
        pass


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (sqlite3.SQLITE_FULL, "E-DISK-FULL"),
        (sqlite3.SQLITE_IOERR_WRITE, "E-DISK-FULL"),
        (sqlite3.SQLITE_READONLY, "E-DISK-READONLY"),
        (sqlite3.SQLITE_CORRUPT, "E-STATE-DAMAGED"),
    ],
)
def test_what_a_disk_refuses_is_told_apart_from_damage(opened: Store, number: int, code: str) -> None:
    refusal = sqlite3.OperationalError("as the database puts it")
    refusal.sqlite_errorcode = number
    with pytest.raises(LocalError, match=code), opened.begin():
        raise sa.exc.OperationalError("INSERT", {}, refusal)


# --- tokens ---


def check(opened: Store, **changes: object) -> TokenRecord:
    given: dict[str, object] = {
        "token_id": "t1",
        "secret_hash": b"s" * 32,
        "name": "alice",
        "request_hash": b"r" * 32,
        "now": NOW,
    }
    with opened.begin() as connection:
        return member_rows.check_token(connection, **{**given, **changes})  # type: ignore[arg-type]  # a case table


def test_an_open_invitation_counts(opened: Store) -> None:
    with opened.begin() as connection:
        member_rows.add_token(connection, TOKEN)
    assert check(opened) == TOKEN


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"token_id": "t2"}, "E-TOKEN-UNKNOWN"),
        ({"secret_hash": b"x" * 32}, "E-TOKEN-UNKNOWN"),
        ({"name": "mallory"}, "E-TOKEN-UNKNOWN"),
        ({"now": NOW + 100}, "E-TOKEN-EXPIRED"),
    ],
    ids=["another token", "another secret", "another name", "too late"],
)
def test_an_invitation_that_does_not_count_says_why(opened: Store, changes: dict[str, object], code: str) -> None:
    with opened.begin() as connection:
        member_rows.add_token(connection, TOKEN)
    with pytest.raises(PeerError) as refused:
        check(opened, **changes)
    assert refused.value.code == code


def test_a_spent_invitation_counts_again_for_the_very_same_request_only(opened: Store) -> None:
    with opened.begin() as connection:
        member_rows.add_token(connection, TOKEN)
        member_rows.enrol_member(connection, member(), token_id="t1", request_hash=b"r" * 32)
    assert check(opened, now=NOW + 999).used_at == NOW
    with pytest.raises(PeerError) as refused:
        check(opened, request_hash=b"q" * 32)
    assert refused.value.code == "E-TOKEN-USED"


def test_a_second_invitation_for_a_name_replaces_the_open_first(opened: Store) -> None:
    with opened.begin() as connection:
        member_rows.add_token(connection, TOKEN)
        again = TokenRecord("t2", b"z" * 32, "alice", Role.PARTICIPANT, "", NOW, NOW + 1)
        member_rows.add_token(connection, again)
        assert [token.token_id for token in member_rows.list_tokens(connection)] == ["t2"]


# --- members ---


def test_two_members_cannot_share_an_identity_key(opened: Store) -> None:
    with opened.begin() as connection:
        member_rows.enrol_member(connection, member(), token_id="", request_hash=b"")
    with pytest.raises(PeerError, match="E-IDENTITY-KEY"), opened.begin() as connection:
        member_rows.enrol_member(connection, member("bob"), token_id="", request_hash=b"")


def test_a_revoked_member_may_not_call_and_may_enrol_again_with_another_key(opened: Store) -> None:
    with opened.begin() as connection:
        member_rows.enrol_member(connection, member(), token_id="", request_hash=b"")
        member_rows.revoke_member(connection, "alice", NOW)
    with pytest.raises(PeerError, match="E-MEMBER-REVOKED"), opened.read() as connection:
        member_rows.active_member(connection, "alice")
    with opened.begin() as connection:
        member_rows.enrol_member(connection, member(key=b"n" * 32), token_id="", request_hash=b"")
        assert member_rows.active_member(connection, "alice").identity_key == b"n" * 32


def test_nobody_of_that_name_is_a_typed_error(opened: Store) -> None:
    with opened.begin() as connection:
        with pytest.raises(PeerError, match="E-MEMBER-UNKNOWN"):
            member_rows.active_member(connection, "nobody")
        with pytest.raises(OnlysumError, match="E-NOT-FOUND"):
            member_rows.revoke_member(connection, "nobody", NOW)


def test_what_a_member_announces_replaces_what_it_announced_before(opened: Store) -> None:
    with opened.begin() as connection:
        member_rows.announce(connection, "alice", version="1", offers=[DatasetOffer("digits", 10)])
        member_rows.announce(connection, "alice", version="2", offers=[DatasetOffer("letters", 4)])
        assert member_rows.announced(connection, "alice") == (DatasetOffer("letters", 4),)


def seen(store: Store, *shown: tuple[bytes, LedgerHead]) -> list[LedgerHead]:
    """Return what the coordinator knows after each handshake of alice with an identity and a head."""

    async def scenario() -> list[LedgerHead]:
        heads = LedgerHeads(store, Writer(store))
        return [await heads.see(identity("alice", key), head, NOW + number) for number, (key, head) in enumerate(shown)]

    return asyncio.run(scenario())


def test_a_ledger_head_never_goes_back_and_an_older_one_is_logged(opened: Store) -> None:
    newer, older, key = LedgerHead(7, b"n" * 32), LedgerHead(6, b"o" * 32), b"a" * 32
    assert seen(opened, (key, newer), (key, older), (key, LedgerHead(7, b"f" * 32))) == [newer] * 3
    assert seen(opened, (key, older)) == [newer], "a new daemon reads it"
    with opened.read() as connection:
        kinds = [row.kind for row in member_rows.security_log(connection)]
    assert kinds == ["ledger-rollback"] * 3


def identity(name: str, key: bytes) -> MemberRecord:
    return MemberRecord(name, Role.PARTICIPANT, key, b"-----", "", "", NOW, None)


def test_a_member_that_enrols_anew_begins_a_ledger_anew_and_the_coordinator_says_so(opened: Store) -> None:
    long, short = LedgerHead(40, b"n" * 32), LedgerHead(2, b"s" * 32)
    assert seen(opened, (b"a" * 32, long), (b"b" * 32, short), (b"a" * 32, short)) == [long, short, long]
    with opened.read() as connection:
        ledgers = member_rows.ledgers_seen(connection, "alice")
        rows = [(row.kind, row.detail) for row in member_rows.security_log(connection)]
    assert [(one.identity_key, one.sequence) for one in ledgers] == [(b"a" * 32, 40), (b"b" * 32, 2)]
    assert [kind for kind, _ in rows] == ["ledger-identity", "ledger-rollback"]
    assert "shows record 2;" in rows[0][1]
    assert "last seen at record 40" in rows[0][1]


def test_heads_that_were_kept_by_name_belong_to_the_identity_of_that_name(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'old.db'}")
    upgrade(engine, "0001")
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO members (name, role, identity_key, certificate, labels, software_version, enrolled_at)"
                " VALUES ('alice', 'participant', :key, x'2d', '', '', 1)"
            ),
            {"key": b"a" * 32},
        )
        for name in ("alice", "forgotten"):
            connection.execute(
                sa.text("INSERT INTO heads (member, sequence, hash, at) VALUES (:name, 7, :hash, 1)"),
                {"name": name, "hash": b"h" * 32},
            )
    upgrade(engine)
    with engine.begin() as connection:
        (seen,) = member_rows.ledgers_seen(connection, "alice")
        assert (seen.identity_key, seen.sequence) == (b"a" * 32, 7)
        assert member_rows.ledgers_seen(connection, "forgotten") == ()
    downgrade(engine, "0001")
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT member, sequence FROM heads")).all() == [("alice", 7)]


# --- the security log ---


def test_the_security_log_is_a_chain(opened: Store) -> None:
    with opened.begin() as connection:
        for place in range(5):
            member_rows.log_security(connection, NOW, "kind", "subject", str(place))
        member_rows.verify_security_log(member_rows.security_log(connection))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE security SET detail = 'other' WHERE sequence = 3",
        "DELETE FROM security WHERE sequence = 1",
        "DELETE FROM security WHERE sequence = 3",
        "UPDATE security SET hash = previous WHERE sequence = 5",
    ],
)
def test_a_changed_security_log_is_noticed(opened: Store, change: str) -> None:
    with opened.begin() as connection:
        for place in range(5):
            member_rows.log_security(connection, NOW, "kind", "subject", str(place))
        connection.execute(sa.text(change))
        with pytest.raises(VerificationError, match="E-STATE-DAMAGED"):
            member_rows.verify_security_log(member_rows.security_log(connection))
