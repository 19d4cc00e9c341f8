"""What may still lie on disk of a run's updates and shares, computed from what the disk says; all else is erased.

Guarantees: an encoded (un-masked) update, a masked one and shares that others dealt outlive neither their use nor the
owner's consent, however their end came about: a refusal while the daemon was off, a crash between a record and the
erasing that follows from it, an end that was never told. Journals, certificates and reports stay, and so does the part
of an adapter that a method leaves at home, until its owner erases it, refuses the run, or leaves.
Leaves to others: when to sweep (``open_runs``, commands); which files a journal still needs (``RunMemory.files``);
overwriting, which file systems and disks do not promise.
Source: docs/protocol.md section 6.
"""

from __future__ import annotations

from typing import Final

from host import durable
from host.locks import only_daemon
from participant.home import Home, erase_adapters, erase_updates
from participant.owner.plan_store import PlanStore
from participant.runs.journal import Journal
from privacy.errors import LocalError, OnlysumError

LAST_ATTEMPT_SECONDS: Final = 86_400.0  # after a plan's expiry: nothing begins any more, an open attempt may end yet


def sweep(home: Home, plans: PlanStore, *, now: float) -> int:
    """Erase what is of no use any more of every run, and return how many files that were.

    The caller is the daemon between two tasks, or holds its lock.

    Raises:
        LocalError: ``E-DISK-*``, the first that was met; what can be erased is erased.
    """
    names = {path.parent.name for kind in ("*/*-*", "*/adapter.*") for path in home.runs.glob(kind)}
    erased, met = 0, list[OnlysumError]()
    for name in sorted(names):
        try:
            erased += sweep_run(home, plans, name, now=now)
        except OnlysumError as error:
            met.append(error)
    if met:
        raise met[0]
    return erased


def sweep_run(home: Home, plans: PlanStore, run_id: str, *, now: float) -> int:
    """Erase what is of no use any more of one run; as :func:`sweep`."""
    keep = _of_use(home, plans, run_id, now=now)
    if keep is not None:
        return erase_updates(home.runs / run_id, keep=keep)
    erased = erase_updates(home.runs / run_id, keep=_of_owner(home, plans, run_id))  # first: an update may be un-masked
    erase_adapters(home.runs / run_id)
    return erased


def sweep_without_daemon(home: Home, plans: PlanStore, *, now: float) -> None:
    """Sweep for a command; a daemon that runs does it itself when it sees what the command wrote."""
    try:
        with only_daemon(home.directory, "participant"):
            sweep(home, plans, now=now)
    except LocalError as error:
        if error.code != "E-RUNNING":
            raise


def _of_use(home: Home, plans: PlanStore, run_id: str, *, now: float) -> frozenset[str] | None:
    """Return the names of the files that a run may still use; ``None``: it is over, or damaged beyond any task."""
    if home.left_mark.exists():
        return None
    try:
        decision = plans.decision(run_id)
        if decision is None or decision.verdict != "approved" or plans.ended(run_id) is not None:
            return None
        verified = plans.get(run_id)
        if verified.hash.hex() != decision.plan_hash or now >= verified.plan.expires_at + LAST_ATTEMPT_SECONDS:
            return None
        return Journal.open(home.runs / run_id, verified.hash).memory.files
    except OnlysumError as error:
        if error.code in durable.DISK_CODES:  # what is not read now may say something tomorrow
            raise
        return None


def _of_owner(home: Home, plans: PlanStore, run_id: str) -> frozenset[str]:
    """Return the name of what a run that is over has left at home: its owner's, unless the run was refused, or left."""
    if home.left_mark.exists():
        return frozenset()
    try:
        decision = plans.decision(run_id)
        if decision is None or decision.verdict != "approved":
            return frozenset()
        return Journal.open(home.runs / run_id, bytes.fromhex(decision.plan_hash)).memory.at_home
    except OnlysumError as error:
        if error.code in durable.DISK_CODES:  # what is not read now may say something tomorrow
            raise
        return frozenset()
