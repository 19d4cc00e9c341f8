"""Daemons on loopback: a real coordinator in a process of its own, participants' real runners in threads of this one.

Guarantees: enrolment, approval, journals, ledgers, the database, mutual TLS and the polls are those of daemons; only
who trains is given from outside. Leaving the block ends everything.
Leaves to others: what trains (``wire``), torch.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from coordinator.config import Durations, Listener, Settings
from coordinator.daemon import process as coordinator_daemon
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
from participant.daemon import assembly as participant_daemon
from participant.daemon.joining import join
from participant.opened import open_home
from participant.owner.registry import DatasetEntry, ModelEntry, Registry
from participant.runs.context import TrainingJob
from participant.training.trainer import Trainer
from privacy.draft import Draft
from privacy.errors import LocalError
from privacy.plan import Plan
from protos.envelope import Role
from simulation.ports import HOST, free_ports

FEDERATION: Final = "loopback"
VALID_SECONDS: Final = 7 * 86_400  # of a plan; invitations are used at once
LOOK_SECONDS: Final = 0.5  # between two looks: looking takes time from the participants, who are in this process
MOST: Final = 1e6  # epsilon: nothing here is anybody's
LEAST_DELTA: Final = 1e-9  # where nothing is charged
POLICY: Final = """
[approval]
mode = "by-policy"
unverified_roster = true
[coordinator]
ca_fingerprint = "{authority}"
[population.nobody]
unit = "{unit}"
lifetime_epsilon = {most}
lifetime_delta = {delta}
per_run_epsilon = {most}
per_run_delta = {delta}
[floors]
f = 0
max_epsilon_if_all_collude = {most}
graphs = ["complete", "k-regular"]
[dataset.{data}]
population = "nobody"
modes = ["{mode}"]
bases = ["{base}"]
methods = ["{method}"]
max_rounds = {rounds}
"""


class Loopback:
    """A coordinator and its participants; a context manager.

    Args:
        directory: of all of them.
        draft: as ``plan build`` writes it.
        units: each participant's public number of units.
        make_trainer: makes what trains, and is called in each participant's thread.
        patience: seconds that a phase may take, and that is waited for daemons.
    """

    def __init__(
        self,
        directory: Path,
        draft: Path,
        units: Mapping[str, int],
        make_trainer: Callable[[TrainingJob], Trainer],
        *,
        patience: float = 300.0,
    ) -> None:
        self._directory = directory
        self._draft_directory = draft
        self._draft: Draft = creation.read_draft(draft)
        self._units = units
        self._make_trainer = make_trainer
        self._patience = patience
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.home = Home(self._directory / "coordinator")
        self.home.directory.mkdir()
        self._authority = ca.create_authority(
            federation=FEDERATION, hosts=[HOST], random=SystemRandom(), now=time.time()
        )
        ca.save_authority(self.home.authority, self._authority)
        self._settings = Settings(
            federation=FEDERATION,
            operator="Simulation",
            participants=Listener(address=f"{HOST}:{free_ports(1)[0]}"),
            enrolment=Listener(address=f"{HOST}:{free_ports(1)[0]}"),
            durations=Durations(
                phase_seconds=self._patience, update_seconds=self._patience, gather_seconds=self._patience
            ),
            log=Log(file="log"),
        )
        self.store = Store.create(self._settings.database_url(self.home))
        self._process = multiprocessing.get_context("spawn").Process(
            target=_coordinate, args=(self.home.directory, self._settings)
        )
        self._process.start()
        try:
            self._until(lambda: read_status(self.home) is not None, "the coordinator listens")
            for name in self._units:
                self._enrol(name)
            self._until(lambda: len(self._live()) == len(self._units), "everybody polls")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
        self._process.terminate()
        self._process.join(20)
        self.store.close()

    def run(self, tolerance: Requested | None = None) -> Plan:
        """Run the draft to its end and return its plan.

        Raises:
            LocalError: ``E-RUN-FAILED``, it was aborted; or as ``run create``.
        """
        now = int(time.time())
        request = creation.RunRequest(
            members=tuple(self._units),
            tolerance=tolerance or Requested(),
            created_at=now,
            expires_at=now + VALID_SECONDS,
        )
        plan = creation.make_plan(self.store, self._settings, self._draft, request, random=SystemRandom())
        creation.register(self.store, self.home, self._authority.operator, plan, self._draft_directory)
        while not (record := self._record(plan.run_id)).state.ended:
            if not self._process.is_alive():
                raise LocalError("E-RUN-FAILED", f"the coordinator ended; see {self.home.directory / 'log'}")
            time.sleep(LOOK_SECONDS)
        if record.state is not run_rows.RunState.COMPLETED:
            raise LocalError("E-RUN-FAILED", f"{record.code}: {record.reason}; see {self.home.directory / 'log'}")
        return plan

    def rounds(self, plan: Plan) -> list[RoundRecord]:
        """Return the rows of a run's rounds."""
        with self.store.read() as connection:
            return list(run_rows.list_rounds(connection, plan.run_id))

    def files(self, plan: Plan) -> RunFiles:
        """Return the files of a run."""
        return RunFiles(self.home.run(plan.run_id))

    def _record(self, run_id: str) -> RunRecord:
        with self.store.read() as connection:
            return run_rows.find_run(connection, run_id)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something, but not for ever."""
        deadline = time.monotonic() + self._patience
        while not condition():
            if time.monotonic() > deadline:
                raise LocalError("E-RUN-FAILED", f"{what}: it did not happen in {self._patience:.0f} s")
            time.sleep(LOOK_SECONDS)

    def _live(self) -> tuple[str, ...]:
        status = read_status(self.home)
        return status.live if status else ()

    def _enrol(self, name: str) -> None:
        path, recipe, mode = self._directory / name, self._draft.recipe, self._draft.privacy.mode
        join(self._invite(name), path, ledgers=path / "ledgers", clock=SystemClock(), random=SystemRandom())
        registry = Registry(open_home(path).home)
        registry.add(_dataset(recipe.task.data, self._units[name], users=self._draft.privacy.unit == "user"))
        registry.add(ModelEntry(name=recipe.base.name, path=os.devnull, added_at=0, files=recipe.base.files))
        policy = POLICY.format(
            authority=self._authority.fingerprint,
            unit=self._draft.privacy.unit if mode != "none" else "example",
            most=MOST,
            delta=self._draft.privacy.delta if mode != "none" else LEAST_DELTA,
            data=recipe.task.data,
            mode=mode,
            base=recipe.base.hash,
            method=recipe.adapter.method,
            rounds=recipe.rounds,
        )
        (path / "policy.toml").write_text(policy)
        runner = participant_daemon.assemble(path, self._stop, make_trainer=self._make_trainer)
        thread = threading.Thread(target=runner.run, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _invite(self, name: str) -> str:
        opened, now = OpenHome(self.home, self._settings, self.store), int(time.time())
        until = now + VALID_SECONDS
        return make_invitation(opened, name=name, role=Role.PARTICIPANT, labels=(), now=now, until=until)


def _dataset(name: str, units: int, *, users: bool) -> DatasetEntry:
    """Return an entry that announces a number of units; nothing reads its file."""
    if not users:
        return DatasetEntry(name=name, path=os.devnull, added_at=0, rows=units)
    return DatasetEntry(name=name, path=os.devnull, added_at=0, rows=units, user_column="user", users=units)


def _coordinate(directory: Path, settings: Settings) -> None:
    """Run the coordinator's daemon: the body of a process of its own."""
    home = Home(directory)
    coordinator_daemon.start(home, settings, ca.load_authority(home.authority), lambda _: None)
