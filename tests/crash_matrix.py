"""The crash matrix: a federation whose coordinator, or one of whose participants, dies at each step to its disk.

``python -m tests.crash_matrix`` plays each course once without a fault and takes down every durable step of either
side; then once for each step, dying before it and after it, by kill -9 on either kind of database and by a power cut
on SQLite, and once where the disk is full or fails at that step.
Whatever happens, the run ends as the course says, each sum is exactly that of its certificate's survivors, and nobody
says two different things where one may be said, or is charged twice. The last line has the figures.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Final

import structlog

from coordinator import orders
from coordinator.database.run_rows import RunState
from participant.runs.tasks import position_of
from protos.envelope import NumberedTask, SharesDealt, UnmaskRequested
from tests.worlds.coordinator import RUN_ID
from tests.worlds.crashes import COORDINATOR, CrashingFederation, Verdict
from tests.worlds.durable_steps import Death, Kill, Moment, Step
from tests.worlds.plans import CREATED_AT
from tests.worlds.postgres import Server

SQLITE: Final = "SQLite"
POSTGRESQL: Final = "PostgreSQL"
MEMORY: Final = Path("/dev/shm")  # where steps take no time; a power cut is simulated, so nothing is lost by it
LOST: Final = ("carol", "dave")  # who go away in courses where too few are left
VICTIMS: Final = ("alice", "bob", "carol", "dave")  # who dies in turn: a case each has one
WAYS: Final = {  # to die at a step; the disk of a database's server is not cut here, nor refuses
    SQLITE: (
        *itertools.product(Moment, (Death.KILL, Death.POWER)),
        *((Moment.BEFORE, death) for death in Death if death.refusal),
    ),
    POSTGRESQL: tuple(itertools.product(Moment, (Death.KILL,))),
}


@dataclass(frozen=True)
class Course:
    """What happens in a run beside the death.

    Args:
        name: as figures and tests call it.
        direct: is given the federation before it begins.
        state: how the run must end.
        rounds: how many rounds are over then.
        voided: how many of them have no sum.
    """

    name: str
    direct: Callable[[CrashingFederation], None]
    state: RunState = RunState.COMPLETED
    rounds: int = 2
    voided: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One death in one course."""

    course: str
    database: str
    kill: Kill
    step: Step

    def __str__(self) -> str:
        kill = self.kill
        return (
            f"{self.course}, {self.database}: {kill.death.value} {kill.moment.value} step {kill.number} of {self.step}"
        )


@dataclass
class Figures:
    """What the cases came to."""

    cases: int = 0
    kills: int = 0
    problems: list[str] = field(default_factory=list)
    wrong_sums: int = 0
    counted_twice: int = 0
    hung: int = 0

    def add(self, case: Case, died: int, verdict: Verdict) -> None:
        """Take in what became of a case."""
        self.cases, self.kills = self.cases + 1, self.kills + died
        self.wrong_sums += len(verdict.wrong_sums)
        self.counted_twice += len(verdict.counted_twice)
        self.hung += len(verdict.hung)
        if str(verdict):
            self.problems.append(f"{case}: {verdict}")

    def __str__(self) -> str:
        return (
            f"crash matrix: {self.cases} cases, {self.kills} kills, wrong sums {self.wrong_sums}, double counts"
            f" {self.counted_twice}, rounds hung {self.hung}, other problems {len(self.problems)}"
        )


# --- courses ---


def _all_goes_well(federation: CrashingFederation) -> None:
    """Nothing but the death happens."""


def _lost_when(asked: type[SharesDealt | UnmaskRequested], *, hangs: bool) -> Callable[[CrashingFederation], None]:
    """Let too many be lost in the first attempt when they are asked for something, until it has been given up.

    Args:
        asked: the task that they do not answer.
        hangs: whether they stay connected.
    """

    def direct(federation: CrashingFederation) -> None:
        def lose(*, lost: bool) -> None:
            for name in LOST:
                federation.owners[name].hangs, federation.owners[name].present = lost and hangs, hangs or not lost

        def on_task(name: str, numbered: NumberedTask) -> None:
            if name in LOST and isinstance(numbered.task, asked) and position_of(numbered.task).order == (1, 1):
                lose(lost=not any(attempt.state == "aborted" for attempt in federation.world.attempts()))

        def on_turn() -> None:
            if any(attempt.state == "aborted" for attempt in federation.world.attempts()):
                lose(lost=False)

        federation.on_task, federation.on_turn = on_task, on_turn

    return direct


def _ordered(federation: CrashingFederation) -> None:
    """Let the operator leave a participant out after the first round, pause, go on, and end the run."""
    world = federation.world
    due: list[Callable[[], object]] = [
        lambda: orders.set_excluded(world.store, RUN_ID, LOST[0], excluded=True, now=CREATED_AT),
        lambda: orders.set_paused(world.store, RUN_ID, paused=True),
        lambda: orders.set_paused(world.store, RUN_ID, paused=False),
        lambda: orders.abort(world.store, RUN_ID),
    ]

    def on_turn() -> None:
        if due and world.rounds() and not federation.ended:
            federation.order(due.pop(0))

    federation.on_turn = on_turn


COURSES: Final = {
    course.name: course
    for course in (
        Course("two rounds", _all_goes_well),
        Course("a second attempt", _lost_when(SharesDealt, hangs=True)),
        Course("a voided round", _lost_when(UnmaskRequested, hangs=False), voided=1),
        Course("an operator's orders", _ordered, RunState.ABORTED, rounds=1),
    )
}


# --- playing ---


def played(course: Course, directory: Path, database: str, kill: Kill | None = None) -> CrashingFederation:
    """Play a course to its end and return the federation, its processes ended."""
    federation = CrashingFederation(directory, database, kill)
    course.direct(federation)
    with federation.watching():
        federation.run()
    return federation


class Databases:
    """Gives each case a database and a directory of its own, and takes them away."""

    def __init__(self) -> None:
        self._server: Server | None = None

    def play(self, course: Course, kind: str, kill: Kill | None = None) -> tuple[CrashingFederation, Verdict]:
        """Play a course on a database of a kind; return the federation and what is wrong with it."""
        place = MEMORY if MEMORY.is_dir() else None
        with tempfile.TemporaryDirectory(prefix="onlysum-crash-", dir=place) as directory:
            url = "sqlite:///coordinator.db" if kind == SQLITE else self._postgres().database()
            federation = played(course, Path(directory), url, kill)
            verdict = federation.verdict(course.state, rounds=course.rounds, voided=course.voided)
            federation.world.store.close()
            if kind == POSTGRESQL:
                self._postgres().drop(url)
        return federation, verdict

    def _postgres(self) -> Server:
        if self._server is None:
            self._server = Server()
        return self._server

    def close(self) -> None:
        """End the server, if there is one."""
        if self._server is not None:
            self._server.remove()
        self._server = None


# --- which cases there are ---


def steps_of(course: Course, kind: str, databases: Databases) -> tuple[Step, ...]:
    """Return the durable steps of a course without a death, in order."""
    federation, verdict = databases.play(course, kind)
    assert not str(verdict), f"{course.name} without a death: {verdict}"
    return tuple(federation.steps.steps)


def cases(course: Course, kind: str, steps: Sequence[Step], *, known: Set[tuple[str, str]]) -> Iterator[Case]:
    """Yield a case for each step of either side, moment and death.

    Args:
        course: in which.
        kind: of the database.
        steps: of the course, as :func:`steps_of` returns them.
        known: kinds and places of steps that earlier courses have had: those die in one way, each in another, and on
            SQLite alone.
    """
    for side in (COORDINATOR, *VICTIMS):
        for number, step in enumerate(step for step in steps if step.side == side):
            if side != COORDINATOR and VICTIMS[number % len(VICTIMS)] != side:
                continue  # participants are alike: each dies at a quarter of the steps that all of them take
            ways = WAYS[kind]
            if (step.what, step.place) in known:
                ways = (ways[number % len(ways)],) if kind == SQLITE else ()
            for moment, death in ways:
                yield Case(course.name, kind, Kill(side, number, moment, death), step)


def whole_matrix(kinds: Iterable[str], databases: Databases) -> list[Case]:
    """Return all cases."""
    found: list[Case] = []
    for kind in kinds:
        known: set[tuple[str, str]] = set()
        for course in COURSES.values():
            steps = steps_of(course, kind, databases)
            found += cases(course, kind, steps, known=frozenset(known))
            known |= {(step.what, step.place) for step in steps}
    return found


def sample(all_cases: Sequence[Case], count: int, seed: int = 0) -> list[Case]:
    """Return some cases, evenly spread over the matrix, others with each seed."""
    stride = max(1, len(all_cases) // count)
    return list(all_cases[seed % stride :: stride])[:count]


@cache
def _own_databases() -> Databases:
    quiet()
    databases = Databases()
    Finalize(None, databases.close, exitpriority=1)  # also when a worker ends, which atexit does not see
    return databases


def outcome(case: Case) -> tuple[Case, int, Verdict]:
    """Play a case; return also how many died in it, which is one, and what is wrong."""
    try:
        federation, verdict = _own_databases().play(COURSES[case.course], case.database, case.kill)
    except Exception as error:  # noqa: BLE001  # what escapes a daemon is a finding, and the other cases are played
        return case, 1, Verdict([], [], [], [f"{type(error).__name__}: {error}"])
    return case, len(federation.steps.deaths), verdict


def quiet() -> None:
    """Let the daemons log nothing."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def main() -> int:
    """Play the matrix, or a part of it, and print problems and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--sample", type=int, default=0, help="so many cases, evenly spread, in place of all")
    parser.add_argument("--only", default="", help="cases whose words contain this")
    parser.add_argument("--seed", type=int, default=0, help="which sample")
    parser.add_argument("--databases", nargs="+", choices=(SQLITE, POSTGRESQL), default=[SQLITE, POSTGRESQL])
    options = parser.parse_args()
    databases = _own_databases()
    chosen = [case for case in whole_matrix(options.databases, databases) if options.only in str(case)]
    if options.sample:
        chosen = sample(chosen, options.sample, options.seed)
    figures = Figures()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=spawn) as pool:
        for number, (case, died, verdict) in enumerate(pool.map(outcome, chosen), start=1):
            figures.add(case, died, verdict)
            if str(verdict) or died != 1:
                print(f"{case}: {verdict or f'{died} died'}", flush=True)
            if number % max(1, len(chosen) // 20) == 0:
                print(f"{number} of {len(chosen)}: {figures}", flush=True)
    databases.close()
    print(figures)
    return 1 if figures.problems or figures.kills != figures.cases else 0


if __name__ == "__main__":
    sys.exit(main())
