"""Refusals are in the security log, and a stranger who is refused again and again fills no disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator.daemon.refusals import MAX_ROWS, MINUTE, RefusalLog, noting_refusals
from coordinator.database import member_rows
from coordinator.database.store import Store
from privacy.errors import PeerError, Phase


class Watch:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(f"sqlite:///{tmp_path / 'coordinator.db'}")


def kinds(store: Store) -> list[tuple[str, str, str]]:
    with store.read() as connection:
        rows = member_rows.security_log(connection)
    member_rows.verify_security_log(rows)
    return [(row.kind, row.subject, row.detail) for row in rows]


def test_a_refused_call_is_noted_with_who_and_why_and_stays_refused(store: Store) -> None:
    class Service:
        refusals = RefusalLog(store, Watch())

        @noting_refusals("handshake-refused")
        async def handshake(self, member: str) -> None:
            raise PeerError.by_participant(member, "E-MEMBER-REVOKED", Phase.HANDSHAKE, "no longer")

    with pytest.raises(PeerError):
        asyncio.run(Service().handshake("mallory"))
    assert kinds(store) == [("handshake-refused", "mallory", "E-MEMBER-REVOKED")]


def test_the_same_refusal_is_noted_once_a_minute(store: Store) -> None:
    clock = Watch()
    refusals = RefusalLog(store, clock)
    for _ in range(3):
        refusals.note("enrolment-refused", "mallory", "E-TOKEN-INVALID")
    assert len(kinds(store)) == 1
    clock.at += MINUTE
    refusals.note("enrolment-refused", "mallory", "E-TOKEN-INVALID")
    assert len(kinds(store)) == 2


def test_many_names_fill_no_disk(store: Store) -> None:
    refusals = RefusalLog(store, Watch())
    for number in range(5 * MAX_ROWS):
        refusals.note("enrolment-refused", f"mallory-{number}", "E-TOKEN-INVALID")
    assert len(kinds(store)) == MAX_ROWS
