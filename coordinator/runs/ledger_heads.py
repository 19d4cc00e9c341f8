"""The newest head of each member's ledger, in memory and in the database.

Guarantees: what is returned is as new as anything that was shown before, to any process on the database; it is
committed with what was added to the writer at the time.
Leaves to others: the rows and what the security log says (``coordinator.database.member_rows``), whether a head is
older than it may be (``coordinator.runs.submissions``).
"""

from __future__ import annotations

from coordinator.database import member_rows
from coordinator.database.member_rows import MemberRecord
from coordinator.database.store import Store
from coordinator.database.writer import Writer
from protos.envelope import LedgerHead


class LedgerHeads:
    """Heads by identity key; a head is read from the database once, unless other processes write there too."""

    def __init__(self, store: Store, writer: Writer) -> None:
        self._store = store
        self._writer = writer
        self._known: dict[bytes, LedgerHead] = {}

    def keep(self, head: LedgerHead, *, name: str, identity_key: bytes, now: int) -> LedgerHead:
        """Return the highest head that an identity has shown before or now, and remember it."""
        known = self._known.get(identity_key)
        if known is None or self._store.shared:
            with self._store.read() as connection:
                stored = member_rows.highest_head(connection, identity_key)
            known = stored if known is None else member_rows.newer_head(stored, known)  # that is not committed yet
        newest = member_rows.newer_head(known, head)
        self._known[identity_key] = newest
        if newest is not known:
            self._writer.also(
                None,
                lambda connection: member_rows.keep_head(
                    connection, head, name=name, identity_key=identity_key, now=now
                ),
                on_failure=self._known.clear,
            )
        return newest

    async def see(self, member: MemberRecord, head: LedgerHead, now: int) -> LedgerHead:
        """As :meth:`keep`, at a handshake: an older head is logged, and what is returned is durable."""
        known = self.keep(head, name=member.name, identity_key=member.identity_key, now=now)
        if head.place != known.place:
            self._writer.also(
                None, lambda connection: member_rows.log_older_head(connection, member.name, head, known, now)
            )
        await self._writer.written()
        return known
