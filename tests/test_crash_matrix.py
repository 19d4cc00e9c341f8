"""A sample of the crash matrix, of which ``make test-crash`` plays all; that it has every step, and sees faults."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NoReturn, get_args

import pytest

from coordinator.database import (
    attempt_rows,
    coordinator_rows,
    label_rows,
    member_rows,
    run_rows,
    standing_rows,
    user_rows,
)
from coordinator.protocol.transitions import TRANSITIONS
from host import durable
from participant.protocol.memory import Record
from participant.runs import journal
from participant.training.trainer import OneHotTrainer
from tests import crash_matrix
from tests.crash_matrix import (
    COURSES,
    POSTGRESQL,
    SQLITE,
    Case,
    Course,
    Databases,
    cases,
    sample,
)
from tests.worlds.crashes import COORDINATOR, CrashingFederation
from tests.worlds.durable_steps import Death, Kill, Moment

PLAIN = COURSES["two rounds"]
POWER = (Moment.BEFORE, Death.POWER)

# Rows that no course of a run writes, and what does.
ELSEWHERE = {
    "attempt_rows.abort_open_attempts": "restoring a backup",
    "coordinator_rows.say_running": "the process beside a run, every five seconds",
    "coordinator_rows.say_ended": "the process when it ends",
    "label_rows.set_labels": "a command",
    "member_rows.add_token": "a command, before anybody is a member",
    "member_rows.enrol_member": "enrolment",
    "member_rows.certify_again": "an invitation of a member that is known",
    "member_rows.keep_renewed": "a renewal of a certificate: tests of renewals",
    "member_rows.use_renewed": "a renewal of a certificate: tests of renewals",
    "member_rows.revoke_member": "a command, or a member that leaves",
    "member_rows.saw_members": "the status file's clock",
    "run_rows.add_run": "the command that creates a run",
    "run_rows.hold": "a coordinator that was set back",
    "user_rows.add_user": "a command",
    "user_rows.remove_user": "a command",
    "user_rows.add_login": "the dashboard",
    "user_rows.end_login": "the dashboard",
}
# Records that no course appends: refusals for good follow from lies and rollbacks, parts at home from other methods,
# and kept sums from noise that is correlated over rounds (killed in tests of their own).
NOT_APPENDED = {"RunRefused", "PartKept", "SumKept"}


@pytest.fixture(scope="module")
def databases() -> Iterator[Databases]:
    made = Databases()
    yield made
    made.close()


@pytest.fixture(scope="module")
def without_deaths(databases: Databases) -> dict[str, CrashingFederation]:
    """Each course once, with nobody dying in it."""
    played = {}
    for name, course in COURSES.items():
        played[name], verdict = databases.play(course, SQLITE)
        assert not str(verdict), f"{name}: {verdict}"
    return played


# --- the sample ---


@pytest.mark.parametrize(("kind", "count"), [(SQLITE, 6), (POSTGRESQL, 2)])
def test_whoever_dies_at_a_durable_step_the_run_ends_with_exact_sums(
    databases: Databases, without_deaths: dict[str, CrashingFederation], kind: str, count: int
) -> None:
    steps = without_deaths[PLAIN.name].steps.steps  # the same on either kind of database
    for case in sample(list(cases(PLAIN, kind, steps, known=frozenset())), count, seed=17):
        federation, verdict = databases.play(PLAIN, kind, case.kill)
        assert len(federation.steps.deaths) == 1, f"{case}: nobody died"
        assert not str(verdict), f"{case}: {verdict}"


# --- whether it has everything ---


def test_every_function_that_writes_the_coordinators_rows_is_in_the_matrix_or_named_here(
    without_deaths: dict[str, CrashingFederation],
) -> None:
    seen = {
        function.removeprefix("coordinator.database.")
        for federation in without_deaths.values()
        for function in federation.steps.functions
    }
    modules = (attempt_rows, coordinator_rows, label_rows, member_rows, run_rows, standing_rows, user_rows)
    written = {name for module in modules for name in _writing(module)}
    assert written - seen == ELSEWHERE.keys()


def test_every_phase_and_every_kind_of_record_is_in_the_matrix(without_deaths: dict[str, CrashingFederation]) -> None:
    steps = " ".join(step.what for federation in without_deaths.values() for step in federation.steps.steps)
    for phase in TRANSITIONS:
        assert phase.name in steps
    appended = {kind for federation in without_deaths.values() for kind in federation.records}
    assert {kind.__name__ for kind in get_args(Record)} - appended == NOT_APPENDED


def test_the_courses_are_what_their_names_say(without_deaths: dict[str, CrashingFederation]) -> None:
    everybody = tuple(sorted(without_deaths[PLAIN.name].owners))
    survivors = {name: federation.found for name, federation in without_deaths.items()}
    assert survivors == {
        "two rounds": {1: everybody, 2: everybody},
        "a second attempt": {1: everybody, 2: everybody},
        "a voided round": {1: (), 2: everybody},
        "an operator's orders": {1: everybody},
    }
    attempts = {name: federation.attempts for name, federation in without_deaths.items()}
    assert attempts["two rounds"] == [(1, 1, "completed"), (2, 1, "completed")]
    assert attempts["a second attempt"] == [(1, 1, "aborted"), (1, 2, "completed"), (2, 1, "completed")]


def _writing(module: ModuleType) -> Iterator[str]:
    """Yield the functions and methods of a module of rows that insert, update or delete."""
    short = module.__name__.rpartition(".")[2]
    for node in ast.parse(inspect.getsource(module)).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for function in inside:
            if isinstance(function, ast.FunctionDef) and _writes(function) and "connection" in ast.dump(function.args):
                yield f"{short}.{prefix}{function.name}"


def _writes(function: ast.FunctionDef) -> bool:
    words = ("sa.insert(", "sa.update(", "sa.delete(", "_this_attempt(")
    return any(word in ast.unparse(function) for word in words)


# --- whether it sees what is wrong ---


def _case(databases: Databases, course: Course, side: str, what: str, moment: Moment, death: Death) -> Case:
    """Return a death at the first step of a side whose words begin so."""
    federation, _ = databases.play(course, SQLITE)
    own = [step for step in federation.steps.steps if step.side == side]
    number = next(number for number, step in enumerate(own) if step.what.startswith(what))
    return Case(course.name, SQLITE, Kill(side, number, moment, death), own[number])


RELEASES = (
    "commit delete events, insert events [HeadsShown-RELEASE"  # everybody has signed: no other attempt may complete
)


def test_an_upload_whose_name_is_not_synced_costs_no_round(databases: Databases) -> None:
    """A power cut took uploads whose receipts were committed, and with them the round, or the run."""
    case = _case(databases, PLAIN, COORDINATOR, RELEASES, *POWER)
    _, verdict = databases.play(PLAIN, SQLITE, case.kill)
    assert not str(verdict)


def test_a_disk_error_while_a_plan_is_taken_leaves_no_run_waiting_for_its_answer(databases: Databases) -> None:
    """The plan was not looked at again before a restart, and the run waited until it expired."""
    _, verdict = databases.play(PLAIN, SQLITE, Kill("alice", 0, Moment.BEFORE, Death.BROKEN))
    assert not str(verdict)


def test_a_disk_that_does_not_remove_what_nobody_needs_any_more_costs_no_round(databases: Databases) -> None:
    """The refusal escaped as the system's own error: logged as a fault of the program, and two seconds were lost."""
    case = _case(databases, PLAIN, COORDINATOR, "unlink state", Moment.BEFORE, Death.BROKEN)
    federation, verdict = databases.play(PLAIN, SQLITE, case.kill)
    assert not str(verdict)
    assert len(federation.steps.deaths) == 1


@pytest.mark.parametrize(("side", "what"), [(COORDINATOR, "unlink dave"), ("dave", "unlink adapter")])
def test_what_a_disk_did_not_erase_when_a_run_ended_is_erased_soon(databases: Databases, side: str, what: str) -> None:
    """It stayed until the next start, or for an hour; of a participant also the update without masks."""
    course = COURSES["an operator's orders"]
    case = _case(databases, course, side, what, Moment.BEFORE, Death.BROKEN)
    _, verdict = databases.play(course, SQLITE, case.kill)
    assert not str(verdict)


def test_what_escapes_a_daemon_is_a_problem_of_its_case(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    case = _case(databases, PLAIN, COORDINATOR, "unlink state", Moment.BEFORE, Death.BROKEN)
    monkeypatch.setattr(crash_matrix.Databases, "play", lambda *_: _raise(OSError("escaped")))
    assert str(crash_matrix.outcome(case)[2]) == "OSError: escaped"


def _raise(error: Exception) -> NoReturn:
    raise error


def test_the_matrix_sees_an_upload_whose_name_is_not_synced(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "sync_directory", _unless("coordinator.runs.uploads", durable.sync_directory))
    case = _case(databases, PLAIN, COORDINATOR, RELEASES, *POWER)
    _, verdict = databases.play(PLAIN, SQLITE, case.kill)
    assert "1 rounds have no sum, and not 0" in str(verdict)


def test_the_matrix_sees_a_journal_that_is_not_synced(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    def append(path: Path, data: bytes) -> None:
        with path.open("ab") as file:
            file.write(data)

    case = _case(databases, PLAIN, "alice", "unlink encoded", *POWER)
    monkeypatch.setattr(journal, "_append", append)
    _, verdict = databases.play(PLAIN, SQLITE, case.kill)
    assert str(verdict)


def test_the_matrix_sees_somebody_counted_twice(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    train = OneHotTrainer.train
    monkeypatch.setattr(OneHotTrainer, "train", lambda *given: 2 * train(*given))
    _, verdict = databases.play(PLAIN, SQLITE)
    assert verdict.wrong_sums
    assert verdict.counted_twice


def _unless(module: str, sync: object) -> object:
    """Return an fsync of directories that does nothing for one module."""

    def some(directory: Path) -> None:
        frame = inspect.currentframe()
        caller = frame.f_back if frame is not None else None
        if caller is None or caller.f_globals["__name__"] != module:
            assert callable(sync)
            sync(directory)

    return some
