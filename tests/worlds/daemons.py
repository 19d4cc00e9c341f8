"""Daemons over gRPC with mutual TLS, each in a thread of its own on loopback; no torch: trainers are one-hot."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from coordinator.config import Durations, Listener, Settings
from coordinator.daemon.runner import Runner
from coordinator.daemon.service import Credentials, serve
from coordinator.database import member_rows, run_rows
from coordinator.database.member_rows import TokenRecord
from coordinator.database.run_rows import EvaluationRecord, RoundRecord
from coordinator.database.store import Store
from coordinator.enrolment import authority as ca
from coordinator.home import Home
from host.system import SystemClock, SystemRandom
from participant.daemon import assembly
from participant.daemon.joining import join
from participant.opened import open_home
from participant.owner.registry import DatasetEntry, ModelEntry, Registry
from participant.runs.context import TrainingJob
from participant.runs.evaluator import Measured
from participant.training.trainer import OneHotTrainer, Progress, Sums, Trainer
from privacy.draft import Draft, PrivacyTarget, Recipe
from privacy.evaluation import Metric
from protos.envelope import Role
from protos.invitation import encode_invitation, token_hash

T = TypeVar("T")

HOST = "127.0.0.1"
PATIENCE_SECONDS = 60.0
DURATIONS = Durations(phase_seconds=20, update_seconds=40, gather_seconds=20, evaluation_seconds=20)
POLICY = """
[approval]
mode = "by-policy"
unverified_roster = true
[coordinator]
ca_fingerprint = "{authority}"
[population.patients]
unit = "example"
lifetime_epsilon = 10
lifetime_delta = 1e-6
per_run_epsilon = 8
per_run_delta = 1e-5
[dataset.digits]
population = "patients"
modes = ["none", "local"]
bases = ["{base}"]
methods = ["ffa-lora"]
"""


def until(condition: Callable[[], bool], what: str, *, seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: it did not happen"
        time.sleep(0.005)


class Service:
    """The coordinator's daemon, in a thread of its own."""

    def __init__(self, directory: Path, durations: Durations = DURATIONS) -> None:
        self.home = Home(directory)
        directory.mkdir()
        self.authority = ca.create_authority(
            federation="test-federation", hosts=[HOST], random=SystemRandom(), now=time.time()
        )
        self.settings = Settings(
            federation="test-federation",
            operator="Test Operator",
            participants=Listener(address=f"{HOST}:1"),
            enrolment=Listener(address=f"{HOST}:2"),
            durations=durations,
        )
        self.store = Store.create(self.settings.database_url(self.home))
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.call(self._start())

    async def _start(self) -> None:
        self.runner = Runner(
            self.store, self.home, self.settings, self.authority, clock=SystemClock(), random=SystemRandom()
        )
        self.runner.discover()
        self.listeners = await serve(
            self.runner,
            credentials=self._credentials(),
            address=f"{HOST}:0",
            enrolment_address=f"{HOST}:0",
            renewed=self._credentials,
        )
        self.serving = asyncio.create_task(self.runner.serve())

    def _credentials(self) -> Credentials:
        authority, now = self.runner.authority.current, time.time()
        return Credentials(authority.trusted(now), authority.chain(now), authority.server_key)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the service's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def stop(self) -> None:
        """End the service and its thread."""

        async def end() -> None:
            await self.listeners.stop()
            self.serving.cancel()
            await asyncio.gather(self.serving, return_exceptions=True)

        self.call(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.store.close()

    def invite(self, name: str, role: Role, *, address: str = "") -> str:
        """Return the line with which a member joins; ``address`` is where it dials, if not straight here."""
        made = ca.invite(
            self.authority,
            federation="test-federation",
            name=name,
            role=role,
            enrolment_addresses=[self.listeners.enrolment_address],
            addresses=[address or self.listeners.address],
            random=SystemRandom(),
            until=int(time.time()) + 3600,
        )
        token = TokenRecord(
            token_id=made.token_id,
            secret_hash=token_hash(made.token_id, made.secret),
            name=name,
            role=role,
            labels="",
            made_at=int(time.time()),
            expires_at=made.expires_at,
        )
        with self.store.begin() as connection:
            member_rows.add_token(connection, token)
        return encode_invitation(made)

    def live(self) -> frozenset[str]:
        """Return who polls."""
        return self.runner.liveness.all_live()

    def state(self, run_id: str) -> str:
        """Return a run's state."""
        with self.store.read() as connection:
            return run_rows.find_run(connection, run_id).state.value

    def rounds(self, run_id: str) -> tuple[RoundRecord, ...]:
        """Return what the database says of a run's rounds."""
        with self.store.read() as connection:
            return run_rows.list_rounds(connection, run_id)

    def measured(self, run_id: str) -> tuple[EvaluationRecord, ...]:
        """Return what the evaluators measured."""
        with self.store.read() as connection:
            return run_rows.list_evaluations(connection, run_id)


@dataclass
class Member:
    """A daemon on its own directory, in a thread."""

    directory: Path
    on_training: Callable[[int], None] = lambda number: None
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    adapters: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)  # that rounds of a run started from

    def start(self) -> None:
        """Start the daemon."""
        self.stop = threading.Event()
        runner = assembly.assemble(self.directory, self.stop, make_trainer=self._trainer, measure=_measure)
        self.thread = threading.Thread(target=runner.run, daemon=True)
        self.thread.start()

    def end(self) -> None:
        """Let the daemon end, which it must."""
        self.stop.set()
        self.join()
        assert self.thread is not None
        assert not self.thread.is_alive()

    def join(self) -> None:
        """Wait for the daemon's end."""
        assert self.thread is not None, "the daemon was not started"
        self.thread.join(20)

    def _trainer(self, job: TrainingJob) -> Trainer:
        member, inner = self, OneHotTrainer(job.verified.plan, job.me)

        class Watched:
            kept: NDArray[np.float32] | None = None
            earlier: Sums = ()
            summed: NDArray[np.int64] | None = None

            def prepare(self) -> None:
                inner.prepare()

            def train(self, round_number: int, adapter: NDArray[np.float32], progress: Progress) -> NDArray[np.int64]:
                member.adapters.setdefault(job.verified.plan.run_id, []).append(adapter)
                member.on_training(round_number)
                inner.earlier = self.earlier
                update = inner.train(round_number, adapter, progress)
                self.summed = inner.summed
                return update

        return Watched()


def _measure(job: TrainingJob, adapter: NDArray[np.float32]) -> Measured:
    return Measured(100, (Metric("loss", str(np.count_nonzero(adapter))),), b"\2" * 32)


NO_CLAIM = PrivacyTarget(
    mode="none",
    unit="none",
    epsilon="0",
    delta="0",
    sampling_rate="1",
    local_steps=1,
    clip_norm="1",
    update_bound="1",
)


def draft(directory: Path, recipe: Recipe, initial: bytes, target: PrivacyTarget = NO_CLAIM) -> Path:
    """Write the directory of a draft and return it."""
    directory.mkdir()
    made = Draft(recipe=recipe, privacy=target, evaluation_data="public-digits")
    (directory / "draft.json").write_bytes(made.to_bytes())
    (directory / "initial_adapter.safetensors").write_bytes(initial)
    (directory / "adapter_config.json").write_text('{"peft_type":"LORA"}')
    return directory


def enrol(
    service: Service,
    directory: Path,
    name: str,
    role: Role,
    recipe: Recipe,
    policy: str = POLICY,
    *,
    address: str = "",
) -> Member:
    """Join a member and let its policy approve the recipe's plans; its daemon is not started yet.

    ``address`` is where it dials, if not straight to the coordinator.
    """
    invitation = service.invite(name, role, address=address)
    join(invitation, directory, ledgers=directory / "ledgers", clock=SystemClock(), random=SystemRandom())
    registry = Registry(open_home(directory).home)
    data = recipe.task.data if role is Role.PARTICIPANT else "public-digits"
    registry.add(DatasetEntry(name=data, path="/data", added_at=0, rows=100))
    registry.add(ModelEntry(name="tiny-vit", path="/models/tiny", added_at=0, files=recipe.base.files))
    (directory / "policy.toml").write_text(
        policy.format(authority=service.authority.fingerprint, base=recipe.base.hash)
    )
    return Member(directory)
