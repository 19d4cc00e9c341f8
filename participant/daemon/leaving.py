"""Leaving a federation: what is still held of others' secrets and of updates is erased, and the coordinator is told.

Guarantees: no daemon starts here again once the mark is on disk, and everything after it can be done again: a second
time sweeps and tells once more. Ledger, journals, decisions and reports stay.
Leaves to others: what is erased (``participant.runs.erasure``); ending the membership (``coordinator.daemon.runner``).
"""

from __future__ import annotations

from dataclasses import dataclass

from host import durable
from host.locks import only_daemon
from participant.link.channel import Channel
from participant.opened import OpenHome
from participant.runs.erasure import sweep
from privacy.errors import OnlysumError
from privacy.interfaces import Clock
from protos.envelope import MemberLeft
from protos.invitation import leaving_bytes

GONE = frozenset({"E-MEMBER-REVOKED", "E-MEMBER-UNKNOWN"})  # the coordinator knows already


@dataclass(frozen=True, slots=True)
class Left:
    """How many files were erased, and why the coordinator could not be told, if so."""

    erased: int
    untold: OnlysumError | None


def leave(participant: OpenHome, clock: Clock) -> Left:
    """Leave for good.

    Raises:
        LocalError: ``E-RUNNING``, the daemon runs; ``E-DISK-*``.
    """
    home = participant.home
    with only_daemon(home.directory, "participant"):
        durable.write(home.left_mark, b"")
        participant.ledgers.note_left(participant.member)
        erased = sweep(home, participant.review.plans, now=clock.now())
        return Left(erased, _tell(participant))


def _tell(participant: OpenHome) -> OnlysumError | None:
    """Tell the coordinator, in the words that the identity key signs; return why it does not know, if so."""
    identity = participant.identity
    signed = leaving_bytes(federation=identity.federation, name=identity.name)
    try:
        with Channel(identity, proxy=participant.settings.proxy) as channel:
            channel.submit(MemberLeft(identity.signing.sign(signed)))
    except OnlysumError as error:
        return None if error.code in GONE else error
    return None
