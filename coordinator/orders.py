"""What an operator orders in a run: pause, resume, end, leave a member out, label; and what leaves with an export.

Guarantees: an order changes rows and nothing else, in one transaction, and the daemon notices within a fraction of a
second; commands and dashboard give the same orders.
Leaves to others: carrying them out (``lifecycle``), creating runs (``creation``).
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from coordinator.database import label_rows, member_rows, run_rows, standing_rows
from coordinator.database.run_rows import RunRecord, RunState
from coordinator.database.store import Store
from coordinator.labels import require_key
from coordinator.runs.global_adapter import RunFiles
from coordinator.runs.release import MEASUREMENT_FILE, measurement_json, write_adapter
from privacy.errors import LocalError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from coordinator.views.overview import Overview

END_SECONDS: Final = 10.0  # that an export waits for the files of an end that was just committed


@dataclass(frozen=True, slots=True)
class Left:
    """How many of a roster take part after an order."""

    run_id: str
    taking_part: int
    roster: int


def set_paused(store: Store, name: str, *, paused: bool) -> str:
    """Open no further attempt of a run, or go on; return the run's id.

    Raises:
        LocalError: ``E-NOT-FOUND``, or ``E-USAGE``: it has ended.
    """
    with store.begin() as connection:
        run = _going_on(connection, name)
        run_rows.set_paused(connection, run.run_id, paused=paused)
    return run.run_id


def abort(store: Store, name: str) -> str:
    """Ask the daemon to end a run; return its id.

    Raises:
        LocalError: as :func:`set_paused`.
    """
    with store.begin() as connection:
        run = _going_on(connection, name)
        run_rows.request_abort(connection, run.run_id)
    return run.run_id


def set_excluded(store: Store, name: str, member: str, *, excluded: bool, now: int) -> Left:
    """Leave a participant out of the rest of a run, or take it back.

    Raises:
        LocalError: ``E-NOT-FOUND``, or ``E-USAGE``: the run has ended, or too few would be left.
    """
    with store.begin() as connection:
        run = _going_on(connection, name)
        plan = run.parsed()
        roster = [participant.id for participant in plan.roster]
        out = standing_rows.excluded_members(connection, run.run_id).keys()
        if member not in roster:
            raise LocalError("E-NOT-FOUND", f"{member!r} is not on the roster of run {run.run_id}: {', '.join(roster)}")
        left = len(roster) - len(out | {member} if excluded else out - {member})
        if excluded and left < plan.min_survivors:
            least = f"the plan asks for at least {plan.min_survivors} participants in a sum"
            raise LocalError("E-USAGE", f"without {member} {left} of {len(roster)} would be left, and {least}")
        if excluded != (member in out):
            standing_rows.set_excluded(connection, run.run_id, member, excluded=excluded, now=now)
            kind = "member-excluded" if excluded else "member-included"
            member_rows.log_security(connection, now, kind, member, run.run_id)
    return Left(run.run_id, left, len(roster))


def set_labels(
    store: Store, name: str, labels: Mapping[str, str], *, remove: Collection[str]
) -> tuple[str, dict[str, str]]:
    """Change an operator's notes on a run, also on one that has ended; return the run's id and all its labels.

    Raises:
        LocalError: ``E-NOT-FOUND``, or ``E-USAGE``: nothing is to change, a label is set and removed at once, no key
            is like that, or the labels would be too many.
    """
    for key in remove:
        require_key(key)
    if not labels and not remove:
        raise LocalError("E-USAGE", "give KEY=VALUE, or --remove KEY")
    if both := sorted({*labels} & {*remove}):
        raise LocalError("E-USAGE", f"label {both[0]} is both set and removed")
    with store.begin() as connection:
        run_id = run_rows.find_run(connection, name).run_id
        return run_id, label_rows.set_labels(connection, run_id, labels, remove=remove)


def _going_on(connection: Connection, name: str) -> RunRecord:
    record = run_rows.find_run(connection, name)
    if record.state.ended:
        raise LocalError("E-USAGE", f"run {record.run_id} is {record.state.value} already")
    return record


def export_run(files: RunFiles, ended: Overview, directory: Path, *, released: bool) -> int | None:
    """Fill a directory with a run's adapter, or what it measured, and its report, plan and evaluations.

    Args:
        files: of the run.
        ended: the run.
        directory: empty.
        released: of a run that ended early, what its completed rounds released.

    Returns:
        After which round the adapter is, of a run that ended early; ``None``: the run completed.

    Raises:
        LocalError: ``E-USAGE``: the run goes on, has released nothing, or ended early and ``released`` is not set.
    """
    last = _unfinished_at(ended, released=released)
    _wait_for_its_end(files)
    if ended.plan.recipe.measured is not None:
        (directory / MEASUREMENT_FILE).write_bytes(measurement_json(ended.plan, files, ended.rounds))
    else:
        _export_adapter(ended, files, directory, last)
    if files.report.exists():
        shutil.copyfile(files.report, directory / "report.json")
    (directory / "plan.json").write_bytes(ended.run.plan)
    (directory / "plan.sig").write_bytes(ended.run.signature)
    (directory / "evaluations.json").write_text(json.dumps(ended.evaluation_values(), indent=2))
    return last


def _wait_for_its_end(files: RunFiles) -> None:
    """Wait for files whose row was committed a moment ago: the leader moves them to their places after that."""
    until = time.monotonic() + END_SECONDS
    while not files.end_published and time.monotonic() < until:
        time.sleep(0.05)


def _export_adapter(ended: Overview, files: RunFiles, directory: Path, last: int | None) -> None:
    """Copy a run's adapter, or write that after its last completed round."""
    with tempfile.TemporaryDirectory() as scratch:
        adapter = files.exported if last is None else Path(scratch)
        if last is not None:
            write_adapter(adapter, ended.plan, files, ended.evaluations, completed=last)
        (directory / "adapter").mkdir()
        for file in adapter.iterdir():
            shutil.copyfile(file, directory / "adapter" / file.name)


def _unfinished_at(ended: Overview, *, released: bool) -> int | None:
    run, completed = ended.run, len(ended.rounds)
    if run.state is RunState.COMPLETED:
        return None
    why = f"run {run.run_id} is {run.state.value}, not completed"
    if not run.state.ended:
        raise LocalError("E-USAGE", f"{why}; end it first, or wait")
    if not completed:
        raise LocalError("E-USAGE", f"{why}, and has released nothing")
    if not released:
        raise LocalError("E-USAGE", f"{why}; --released exports what {completed} of its rounds released")
    return ended.rounds[-1].round
