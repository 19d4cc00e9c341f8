"""A federation of daemons on loopback: a real coordinator process, participants' real runners in threads of this one.

Guarantees: enrolment, approval, journals, ledgers, the database, mutual TLS and the polls are those of daemons; only
the trainer is not: it contributes a unit vector. Leaving the block ends everything.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from bench import plans
from coordinator.config import Durations, Listener, Settings
from coordinator.daemon import process as coordinator_daemon
from coordinator.daemon.status import read_status
from coordinator.database import member_rows, run_rows
from coordinator.database.member_rows import TokenRecord
from coordinator.database.store import Store
from coordinator.enrolment import authority as ca
from coordinator.enrolment.authority import Authority
from coordinator.home import Home
from coordinator.runs import creation
from host.logs import Log
from host.system import SystemClock, SystemRandom
from participant.daemon import assembly as participant_daemon
from participant.daemon.joining import join
from participant.opened import open_home
from participant.owner.registry import DatasetEntry, ModelEntry, Registry
from participant.runs.context import TrainingJob
from participant.training.trainer import OneHotTrainer, Progress, Trainer
from privacy.draft import Draft, PrivacyTarget
from privacy.plan import Plan
from protos.envelope import Role
from protos.invitation import encode_invitation, token_hash

HOST: Final = "127.0.0.1"
FEDERATION: Final = "bench"
PATIENCE_SECONDS: Final = 300.0
LOOK_SECONDS: Final = 0.5  # between two looks: looking takes time from the participants, who are in this process
POLICY: Final = """
[approval]
mode = "by-policy"
unverified_roster = true
[coordinator]
ca_fingerprint = "{authority}"
[population.nobody]
unit = "example"
lifetime_epsilon = 10
lifetime_delta = 1e-6
per_run_epsilon = 8
per_run_delta = 1e-5
[dataset.digits]
population = "nobody"
modes = ["none"]
bases = ["{base}"]
methods = ["ffa-lora"]
"""


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something, but not for ever."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: it did not happen")
        time.sleep(LOOK_SECONDS)


def _coordinate(directory: Path, settings: Settings) -> None:
    """Run the coordinator's daemon: the body of a process of its own."""
    home = Home(directory)
    authority = ca.load_authority(home.authority)
    coordinator_daemon.start(home, settings, authority, lambda _: None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class _Timed:
    """A one-hot trainer that notes when each round asks for training."""

    inner: OneHotTrainer
    started: dict[int, float]

    def prepare(self) -> None:
        self.inner.prepare()

    def train(self, round_number: int, adapter: NDArray[np.float32], progress: Progress) -> NDArray[np.int64]:
        self.started.setdefault(round_number, time.monotonic())
        return self.inner.train(round_number, adapter, progress)


@dataclass
class Daemons:
    """A coordinator and its participants; a context manager."""

    directory: Path
    participants: int
    entries: int
    started: dict[int, float] = field(default_factory=dict)  # when the first participant trained, by round

    def __enter__(self) -> Self:
        self.home = Home(self.directory / "coordinator")
        self.home.directory.mkdir()
        self.authority: Authority = ca.create_authority(
            federation=FEDERATION, hosts=[HOST], random=SystemRandom(), now=time.time()
        )
        ca.save_authority(self.home.authority, self.authority)
        self.settings = Settings(
            federation=FEDERATION,
            operator="Benchmark",
            participants=Listener(address=f"{HOST}:{_free_port()}"),
            enrolment=Listener(address=f"{HOST}:{_free_port()}"),
            durations=Durations(phase_seconds=PATIENCE_SECONDS, gather_seconds=PATIENCE_SECONDS),
            log=Log(file="log"),
        )
        self.store = Store.create(self.settings.database_url(self.home))
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._process = multiprocessing.get_context("spawn").Process(
            target=_coordinate, args=(self.home.directory, self.settings)
        )
        self._process.start()
        until(lambda: read_status(self.home) is not None, "the coordinator listens")
        for name in plans.members(self.participants):
            self._enrol(name)
        until(lambda: len(self._live()) == self.participants, "everybody polls")
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

    def _live(self) -> tuple[str, ...]:
        status = read_status(self.home)
        return status.live if status else ()

    def _enrol(self, name: str) -> None:
        path, recipe = self.directory / name, plans.recipe(self.entries)
        join(self._invite(name), path, ledgers=path / "ledgers", clock=SystemClock(), random=SystemRandom())
        registry = Registry(open_home(path).home)
        registry.add(DatasetEntry(name=recipe.task.data, path=os.devnull, added_at=0, rows=100))
        registry.add(ModelEntry(name=recipe.base.name, path=os.devnull, added_at=0, files=recipe.base.files))
        policy = POLICY.format(authority=self.authority.fingerprint, base=recipe.base.hash)
        (path / "policy.toml").write_text(policy)
        runner = participant_daemon.assemble(path, self._stop, make_trainer=self._trainer)
        thread = threading.Thread(target=runner.run, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _trainer(self, job: TrainingJob) -> Trainer:
        return _Timed(OneHotTrainer(job.verified.plan, job.me), self.started)

    def _invite(self, name: str) -> str:
        now = int(time.time())
        made = ca.invite(
            self.authority,
            federation=FEDERATION,
            name=name,
            role=Role.PARTICIPANT,
            enrolment_addresses=[self.settings.enrolment.address],
            addresses=[self.settings.participants.address],
            random=SystemRandom(),
            until=now + 3600,
        )
        token = TokenRecord(
            token_id=made.token_id,
            secret_hash=token_hash(made.token_id, made.secret),
            name=name,
            role=Role.PARTICIPANT,
            labels="",
            made_at=now,
            expires_at=made.expires_at,
        )
        with self.store.begin() as connection:
            member_rows.add_token(connection, token)
        return encode_invitation(made)

    def run(self, rounds: int) -> Plan:
        """Run a plan of some rounds to its end; ``started`` then holds their times."""
        initial = save(
            {name: np.zeros(shape, dtype=np.float32) for name, shape in plans.tensor_shapes(self.entries).items()}
        )
        recipe = plans.recipe(self.entries, rounds=rounds, initial_hash=hashlib.sha256(initial).hexdigest())
        target = PrivacyTarget(
            mode="none",
            unit="none",
            epsilon="0",
            delta="0",
            sampling_rate="1",
            local_steps=1,
            clip_norm="1",
            update_bound="1",
        )
        draft = self.directory / "draft"
        draft.mkdir()
        (draft / "draft.json").write_bytes(Draft(recipe=recipe, privacy=target, evaluation_data="none").to_bytes())
        (draft / "initial_adapter.safetensors").write_bytes(initial)
        (draft / "adapter_config.json").write_text('{"peft_type":"LORA"}')
        now = int(time.time())
        request = creation.RunRequest(members=plans.members(self.participants), created_at=now, expires_at=now + 3600)
        plan = creation.make_plan(self.store, self.settings, creation.read_draft(draft), request, random=SystemRandom())
        creation.register(self.store, self.home, self.authority.operator, plan, draft)
        until(lambda: self._state(plan.run_id) in ("completed", "aborted"), "the run ends")
        if self._state(plan.run_id) != "completed":
            raise RuntimeError(f"the run was aborted; see {self.home.directory / 'log'}")
        return plan

    def _state(self, run_id: str) -> str:
        with self.store.read() as connection:
            return run_rows.find_run(connection, run_id).state.value
