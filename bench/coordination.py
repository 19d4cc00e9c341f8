"""A real coordinator in a process of its own on loopback, and what an operator does with it.

Guarantees: database, journals, listeners and mutual TLS are those of the daemon. Leaving the block ends the process.
Leaves to others: the participants (``bench.daemons``: real ones, ``bench.light``: light ones).
"""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from safetensors.numpy import save

from bench import plans
from coordinator.config import Durations, Listener, Settings
from coordinator.daemon import process as coordinator_daemon
from coordinator.daemon.status import read_status
from coordinator.database import run_rows
from coordinator.database.run_rows import RoundRecord
from coordinator.database.store import Store
from coordinator.enrolment import authority as ca
from coordinator.enrolment.authority import Authority
from coordinator.home import Home
from coordinator.runs import creation
from coordinator.runs.thresholds import Requested
from host.logs import Log
from host.system import SystemClock, SystemRandom
from privacy.draft import Draft, PrivacyTarget
from privacy.plan import Plan
from simulation.ports import HOST, free_ports

FEDERATION: Final = "bench"
PATIENCE_SECONDS: Final = 1800.0
SILENT_SECONDS: Final = 300.0  # hundreds of light participants share a thread: while one seals shares none can poll
LOOK_SECONDS: Final = 0.5  # between two looks: looking takes time from whom is measured
NO_CLAIM: Final = PrivacyTarget(
    mode="none",
    unit="none",
    epsilon="0",
    delta="0",
    sampling_rate="1",
    local_steps=1,
    clip_norm="1",
    update_bound="0.04",  # so that ten need no more bits than with noise
)


def until(condition: Callable[[], bool], what: str, *, crowd: Sequence[BaseProcess] = ()) -> None:
    """Wait for something, but not for ever, nor for processes that have failed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline or any(process.exitcode for process in crowd):
            raise TimeoutError(f"{what}: it did not happen")
        time.sleep(LOOK_SECONDS)


def coordinate(directory: Path, settings: Settings) -> None:
    """Run the coordinator's daemon: the body of a process of its own."""
    home = Home(directory)
    authority = ca.load_authority(home.authority)
    coordinator_daemon.start(home, settings, authority, lambda _: None)


@dataclass
class Coordination:
    """A coordinator's directory, its daemon's process, and its operator; a context manager.

    Args:
        directory: where the coordinator's directory and drafts lie.
        advertised: host and port that members dial, where that is not the listener's own: a proxy's.
        body: of the coordinator's process.
    """

    directory: Path
    advertised: str = ""
    body: Callable[[Path, Settings], None] = coordinate

    def __post_init__(self) -> None:
        self.home = Home(self.directory / "coordinator")
        self.home.directory.mkdir()
        made = ca.create_authority(federation=FEDERATION, hosts=[HOST], random=SystemRandom(), now=time.time())
        self.authority: Authority = made
        ca.save_authority(self.home.authority, self.authority)
        own = f"{HOST}:{free_ports(1)[0]}"
        self.settings = Settings(
            federation=FEDERATION,
            operator="Benchmark",
            participants=Listener(address=self.advertised or own, listen=own),
            enrolment=Listener(address=f"{HOST}:{free_ports(1)[0]}"),
            durations=Durations(
                phase_seconds=PATIENCE_SECONDS, gather_seconds=PATIENCE_SECONDS, liveness_seconds=SILENT_SECONDS
            ),
            log=Log(file="log"),
        )
        self.store = Store.create(self.settings.database_url(self.home))

    def __enter__(self) -> Self:
        self.process = multiprocessing.get_context("spawn").Process(
            target=self.body, args=(self.home.directory, self.settings)
        )
        self.process.start()
        until(lambda: read_status(self.home) is not None, "the coordinator listens")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.join(20)
        self.store.close()

    @property
    def address(self) -> str:
        """Where members dial."""
        return self.settings.participants.address

    def now(self) -> int:
        """Return the time that rows carry."""
        return int(SystemClock().now())

    def live(self) -> tuple[str, ...]:
        """Return who polls."""
        status = read_status(self.home)
        return status.live if status else ()

    def begin(self, participants: int, entries: int, rounds: int, tolerance: Requested | None = None) -> Plan:
        """Create a run over all participants without noise, and return its plan."""
        initial = save({name: np.zeros(shape, np.float32) for name, shape in plans.tensor_shapes(entries).items()})
        recipe = plans.recipe(entries, rounds=rounds, initial_hash=hashlib.sha256(initial).hexdigest())
        draft = self.directory / "draft"
        draft.mkdir()
        (draft / "draft.json").write_bytes(Draft(recipe=recipe, privacy=NO_CLAIM, evaluation_data="none").to_bytes())
        (draft / "initial_adapter.safetensors").write_bytes(initial)
        (draft / "adapter_config.json").write_text('{"peft_type":"LORA"}')
        now, members = self.now(), plans.members(participants)
        request = creation.RunRequest(
            members=members, tolerance=tolerance or Requested(), created_at=now, expires_at=now + 36_000
        )
        plan = creation.make_plan(self.store, self.settings, creation.read_draft(draft), request, random=SystemRandom())
        creation.register(self.store, self.home, self.authority.operator, plan, draft)
        return plan

    def finish(self, plan: Plan, crowd: Sequence[BaseProcess] = ()) -> None:
        """Wait for a run's end, which has to be its completion."""
        until(lambda: self.state(plan) in ("completed", "aborted", "refused"), "the run ends", crowd=crowd)
        if self.state(plan) != "completed":
            raise RuntimeError(f"the run was aborted; see {self.home.directory / 'log'}")

    def state(self, plan: Plan) -> str:
        """Return a run's state."""
        with self.store.read() as connection:
            return run_rows.find_run(connection, plan.run_id).state.value

    def rounds(self, plan: Plan) -> tuple[RoundRecord, ...]:
        """Return the rounds of a run that are over."""
        with self.store.read() as connection:
            return run_rows.list_rounds(connection, plan.run_id)
