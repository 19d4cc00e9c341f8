"""A soak: daemons on loopback run round after round while something of theirs is killed or cut now and then.

``python -m tests.soak --minutes 10`` runs a coordinator and four participants, each a process of its own over mutual
TLS through a proxy. Once a minute the coordinator or a participant dies by kill -9 and is started again, or one
connection is cut, or all are. Every sum is compared with its certificate: participants contribute unit vectors, so it
shows who was counted how often. The last line has the figures; it ends with 1 on a wrong sum, a double count, a round
that hangs, or memory or descriptors that grow.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import numpy as np

from bench.coordination import coordinate
from coordinator.config import Durations, Listener, Settings
from coordinator.daemon.status import read_status
from coordinator.database import run_rows
from coordinator.database.run_rows import RoundRecord, RunRecord
from coordinator.database.store import Store
from coordinator.enrolment import authority as ca
from coordinator.enrolment.invitations import make_invitation
from coordinator.home import Home
from coordinator.opened import OpenHome
from coordinator.runs import creation
from coordinator.runs.global_adapter import RunFiles
from coordinator.runs.thresholds import Requested
from host.logs import Log
from host.system import SystemClock, SystemRandom
from participant.daemon import assembly
from participant.daemon.joining import join
from participant.opened import open_home
from participant.owner.registry import DatasetEntry, ModelEntry, Registry
from participant.runs.context import TrainingJob
from participant.training.trainer import OneHotTrainer
from privacy.plan import Plan
from protos import codec
from protos.envelope import Role
from simulation.ports import HOST, free_ports
from tests.worlds.coordinator import initial_adapter
from tests.worlds.daemons import POLICY, draft
from tests.worlds.fault_proxy import FaultProxy
from tests.worlds.plans import make_plan, names

MEMBERS: Final = names(4)  # of whom one may be missing in a sum
ENTRIES: Final = 12
ROUNDS: Final = 10  # of a run; one follows the other
HUNG_SECONDS: Final = 180.0  # without a round: several times what the slowest course of phases takes
START_SECONDS: Final = 120.0
# Ends of runs that a process saw before it is watched: for the report of the first it imports SciPy, which may take
# longer on a busy machine than a run.
WARM_ENDS: Final = 2
WARM_SECONDS: Final = 10.0  # after the last of them
GROWTH_MIB: Final = 24.0  # that a process may grow by after that: caches fill
GROWTH_DESCRIPTORS: Final = 24  # connections that are being closed, files that are open at the moment
DURATIONS: Final = Durations(phase_seconds=15, update_seconds=30, gather_seconds=10, evaluation_seconds=5)


def _take_part(directory: Path) -> None:
    """Run a participant's daemon: the body of a process of its own."""
    log = os.open(directory / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    assembly.assemble(directory, threading.Event(), make_trainer=_trainer).run()


def _trainer(job: TrainingJob) -> OneHotTrainer:
    return OneHotTrainer(job.verified.plan, job.me)


@dataclass
class Watched:
    """A process, and what it held once it was warm, and last."""

    name: str
    process: BaseProcess
    ends: int = 0  # of runs that it saw
    since: float = math.inf  # when it had seen enough of them
    first: tuple[float, int] | None = None
    last: tuple[float, int] | None = None

    def saw_an_end(self, now: float) -> None:
        """Count a run that ended."""
        self.ends += 1
        if self.ends == WARM_ENDS:
            self.since = now

    def look(self) -> None:
        """Note resident memory in MiB and open descriptors."""
        if time.monotonic() - self.since < WARM_SECONDS:
            return
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
            descriptors = len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))
        except OSError:
            return  # it was killed in between
        self.last = (pages * os.sysconf("SC_PAGE_SIZE") / 2**20, descriptors)
        self.first = self.first or self.last

    @property
    def grew(self) -> str:
        """What grew too much, in words, or nothing."""
        if self.first is None or self.last is None:
            return ""
        memory, descriptors = self.last[0] - self.first[0], self.last[1] - self.first[1]
        if memory <= GROWTH_MIB and descriptors <= GROWTH_DESCRIPTORS:
            return ""
        return f"{self.name} grew by {memory:.0f} MiB and {descriptors} descriptors"


@dataclass
class Figures:
    """What a soak came to."""

    seconds: float = 0.0
    rounds: int = 0
    runs: dict[str, int] = field(default_factory=dict)  # by state and code with which they ended
    survivors: int = 0  # of all rounds together
    kills: int = 0
    cuts: int = 0
    wrong_sums: int = 0
    double_counts: int = 0
    hung: int = 0
    grew: list[str] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)  # of processes that were watched: growth in MiB

    @property
    def bad(self) -> bool:
        """Whether anything was as it must not be."""
        return bool(self.wrong_sums or self.double_counts or self.hung or self.grew or not self.rounds)

    def __str__(self) -> str:
        runs = ", ".join(f"{count} {state}" for state, count in sorted(self.runs.items())) or "none ended"
        growth = f"at most {max(self.resident):.1f} MiB" if self.resident else "not watched"
        return (
            f"soak: {self.seconds / 60:.1f} minutes, {self.rounds} rounds with {self.survivors} updates, runs: {runs};"
            f" kills {self.kills}, cuts {self.cuts}, wrong sums {self.wrong_sums}, double counts {self.double_counts},"
            f" rounds hung {self.hung}, growth {growth}{''.join(f'; {each}' for each in self.grew)}"
        )


class Soak:
    """The processes of a federation, and who looks after them; a context manager by :meth:`running`."""

    def __init__(self, directory: Path, seed: int) -> None:
        """Make the coordinator's directory; nothing runs yet."""
        self.directory = directory
        self.figures = Figures()
        self.home = Home(directory / "coordinator")
        self.home.directory.mkdir()
        self._random = random.Random(seed)
        self._watched: dict[str, Watched] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start everything, and end it after the block."""
        listen = f"{HOST}:{free_ports(1)[0]}"
        with ExitStack() as stack:
            self.proxy = stack.enter_context(FaultProxy(lambda: listen))
            self._prepare(listen)
            stack.callback(self.store.close)
            stack.callback(self._end)
            self._start("coordinator")
            _until(lambda: read_status(self.home) is not None, "the coordinator listens")
            for name in MEMBERS:
                self._enrol(name)
                self._start(name)
            _until(lambda: set(self._live()) == set(MEMBERS), "everybody polls")
            yield

    def _prepare(self, listen: str) -> None:
        self.authority = ca.create_authority(
            federation="test-federation", hosts=[HOST], random=SystemRandom(), now=time.time()
        )
        ca.save_authority(self.home.authority, self.authority)
        self.settings = Settings(
            federation="test-federation",
            operator="Test Operator",
            participants=Listener(address=self.proxy.address, listen=listen),
            enrolment=Listener(address=f"{HOST}:{free_ports(1)[0]}"),
            durations=DURATIONS,
            log=Log(file="log"),
        )
        self.store = Store.create(self.settings.database_url(self.home))
        initial = initial_adapter(ENTRIES)
        adapter = {"initial_hash": hashlib.sha256(initial).hexdigest()}
        self.recipe = make_plan(entries=ENTRIES, recipe={"rounds": ROUNDS, "adapter": adapter})[0].recipe
        self.draft = draft(self.directory / "draft", self.recipe, initial)

    def _enrol(self, name: str) -> None:
        path, now = self.directory / name, int(time.time())
        opened = OpenHome(self.home, self.settings, self.store)
        invitation = make_invitation(opened, name=name, role=Role.PARTICIPANT, labels=(), now=now, until=now + 3600)
        join(invitation, path, ledgers=path / "ledgers", clock=SystemClock(), random=SystemRandom())
        registry, base = Registry(open_home(path).home), self.recipe.base
        registry.add(DatasetEntry(name=self.recipe.task.data, path=os.devnull, added_at=0, rows=100))
        registry.add(ModelEntry(name=base.name, path=os.devnull, added_at=0, files=base.files))
        (path / "policy.toml").write_text(POLICY.format(authority=self.authority.fingerprint, base=base.hash))

    # --- processes ---

    def _start(self, name: str) -> None:
        spawn = multiprocessing.get_context("spawn")
        if name == "coordinator":
            process = spawn.Process(target=coordinate, args=(self.home.directory, self.settings), name=name)
        else:
            process = spawn.Process(target=_take_part, args=(self.directory / name,), name=name)
        process.start()
        self._watched[name] = Watched(name, process)

    def _stop_watching(self, name: str) -> None:
        watched = self._watched[name]
        watched.look()
        if watched.first is not None and watched.last is not None:
            self.figures.resident.append(watched.last[0] - watched.first[0])
        if grew := watched.grew:
            self.figures.grew.append(grew)

    def _kill(self, name: str) -> None:
        self._stop_watching(name)
        self._watched[name].process.kill()
        self._watched[name].process.join()

    def _end(self) -> None:
        for name in self._watched:
            self._kill(name)

    def _live(self) -> tuple[str, ...]:
        status = read_status(self.home)
        return status.live if status else ()

    # --- what is done to them ---

    def disturb(self) -> None:
        """Kill a process and start it again, or cut a connection."""
        what = self._random.choice(("coordinator", "participant", "cut", "cut all"))
        if what.startswith("cut"):
            self.figures.cuts += 1
            self.proxy.cut(self._random.randrange(100) if what == "cut" else None)
            return
        name = what if what == "coordinator" else self._random.choice(MEMBERS)
        self.figures.kills += 1
        self._kill(name)
        time.sleep(self._random.uniform(0.0, 2.0))
        self._start(name)

    # --- what they do ---

    def run(self, seconds: float, every: float) -> Figures:
        """Let runs follow each other for a time, disturbed each so many seconds."""
        begun = time.monotonic()
        disturbed, counted, last_round = begun, 0, begun
        plan = self._create()
        while (now := time.monotonic()) - begun < seconds:
            if now - disturbed >= every:
                disturbed = now
                self.disturb()
            for watched in self._watched.values():
                watched.look()
            rounds, record = self._rows(plan)
            if len(rounds) > counted:
                counted, last_round = len(rounds), now
            if record.state.ended:
                self._check(plan, rounds, f"{record.state.value} {record.code}".strip())
                plan, counted = self._create(), 0
                for watched in self._watched.values():
                    watched.saw_an_end(now)
            elif now - last_round > HUNG_SECONDS:
                self.figures.hung += 1
                break
            time.sleep(0.25)
        self._check(plan, self._rows(plan)[0], "")
        self.figures.seconds = time.monotonic() - begun
        return self.figures

    def _create(self) -> Plan:
        now = int(time.time())
        request = creation.RunRequest(
            members=MEMBERS, tolerance=Requested(f=1), created_at=now, expires_at=now + 36_000
        )
        made = creation.read_draft(self.draft)
        plan = creation.make_plan(self.store, self.settings, made, request, random=SystemRandom())
        creation.register(self.store, self.home, self.authority.operator, plan, self.draft)
        return plan

    def _rows(self, plan: Plan) -> tuple[tuple[RoundRecord, ...], RunRecord]:
        with self.store.read() as connection:
            return run_rows.list_rounds(connection, plan.run_id), run_rows.find_run(connection, plan.run_id)

    def _check(self, plan: Plan, rounds: tuple[RoundRecord, ...], state: str) -> None:
        """Compare each sum with the survivors of its certificate."""
        if state:
            self.figures.runs[state] = self.figures.runs.get(state, 0) + 1
        files = RunFiles(self.home.run(plan.run_id))
        for row in rounds:
            vectors = [np.fromfile(files.iterate(row.round - back), dtype="<f4").astype(np.float64) for back in (0, 1)]
            survivors = codec.decode_certificate(row.certificate, sender="coordinator").survivors.ids
            move = (vectors[0] - vectors[1]) * 2.0**plan.encoding.scale_exponent * len(survivors)
            counted = [round(float(move[plan.index(name)]), 2) for name in MEMBERS]
            self.figures.rounds += 1
            self.figures.survivors += len(survivors)
            self.figures.wrong_sums += counted != [float(name in survivors) for name in MEMBERS]
            self.figures.double_counts += any(times > 1 for times in counted)


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: it did not happen in {START_SECONDS:.0f} s")
        time.sleep(0.2)


def main() -> int:
    """Soak, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=60.0, help="seconds from one kill or cut to the next")
    parser.add_argument("--seed", type=int, default=0, help="which kills and cuts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="onlysum-soak-", ignore_cleanup_errors=True) as directory:
        soak = Soak(Path(directory), options.seed)
        with soak.running():
            soak.run(options.minutes * 60, options.every)
    print(soak.figures)
    return 1 if soak.figures.bad else 0


if __name__ == "__main__":
    sys.exit(main())
