"""One coordinator's process, on a database in a file, with members' daemons in threads; no torch.

Guarantees: the process is `onlysum coordinator start` with a directory that an operator's commands made; members are
the real daemons, with one-hot trainers, so that each step of the adapter shows whom its sum counted.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.config import load_settings
from coordinator.database import attempt_rows, run_rows
from coordinator.database.run_rows import RoundRecord
from coordinator.database.store import Store
from coordinator.home import Home
from coordinator.runs.global_adapter import RunFiles
from host.system import SystemClock, SystemRandom
from participant.daemon import assembly
from participant.daemon.joining import join
from participant.opened import open_home
from participant.owner.registry import DatasetEntry, ModelEntry, Registry
from participant.training.trainer import OneHotTrainer
from privacy.draft import Draft
from privacy.errors import Phase
from protos import codec
from simulation.ports import free_ports
from tests.worlds.coordinator import initial_adapter
from tests.worlds.daemons import NO_CLAIM, PATIENCE_SECONDS, POLICY, until
from tests.worlds.plans import make_plan

ENTRIES = 12


def onlysum(*words: str) -> Any:
    """Run a command of the operator and return what it prints."""
    command = [sys.executable, "-m", "onlysum", "coordinator", *words, "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode in (0, 3), done.stderr  # 3: the status of a daemon that was killed
    return json.loads(done.stdout)


class CoordinatorProcess:
    """A coordinator's process, which a test may kill and start again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address, self.enrolment, self.admin = (f"127.0.0.1:{port}" for port in free_ports(3))
        words = ["--name", "clinics", "--operator", "I", "--address", self.address]
        words += ["--enrolment-address", self.enrolment, "--admin", self.admin]
        self.made = onlysum("init", str(directory), *words)
        home = Home(directory)
        self.store = Store.create(load_settings(home).database_url(home))
        self.process: subprocess.Popen[str] | None = None
        self.kills = 0

    @property
    def where(self) -> list[str]:
        """Name the directory to a command."""
        return ["--config", str(self.directory)]

    @property
    def log(self) -> Path:
        """What the process says of itself."""
        return self.directory / "log"

    def start(self) -> None:
        """Start the process and wait until it listens."""
        command = [sys.executable, "-m", "onlysum", "coordinator", "start", *self.where]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log.open("a"), text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("Ready")

    def kill(self) -> None:
        """End the process at once."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.kills += 1

    def attempts(self, run: str) -> list[tuple[int, int, str, str]]:
        """Return round, attempt, state and phase of all attempts."""
        with self.store.read() as connection:
            rows = attempt_rows.list_attempts(connection, run)
        return [(row.round, row.attempt, row.state, row.phase) for row in rows]

    def reached(self, run: str, number: int, phase: Phase) -> bool:
        """Return whether a run is in a phase of a round, or beyond that round."""
        return any(
            (attempt[0], attempt[3]) == (number, phase.name) or attempt[0] > number for attempt in self.attempts(run)
        )

    def create_run(self, draft: Path, members: Sequence[str], *, rounds: int) -> str:
        """Write a draft, create a run of it once everybody polls, and return its id."""
        until(lambda: all(each["live"] for each in onlysum("status", *self.where)["members"]), "everybody polls")
        initial = initial_adapter(ENTRIES)
        given: dict[str, Any] = {"rounds": rounds, "adapter": {"initial_hash": hashlib.sha256(initial).hexdigest()}}
        recipe = make_plan(entries=ENTRIES, recipe=given)[0].recipe
        draft.mkdir()
        (draft / "draft.json").write_bytes(Draft(recipe=recipe, privacy=NO_CLAIM, evaluation_data="none").to_bytes())
        (draft / "initial_adapter.safetensors").write_bytes(initial)
        (draft / "adapter_config.json").write_text("{}")
        run: str = onlysum("run", "create", str(draft), "--members", ",".join(members), *self.where)["run"]
        return run

    def await_end(self, run: str) -> None:
        """Follow a run until it has completed."""
        command = [sys.executable, "-m", "onlysum", "coordinator", "run", "watch", run, *self.where]
        watched = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
        assert watched.returncode == 0, watched.stdout

    def check_sums(self, run: str, members: Sequence[str]) -> tuple[RoundRecord, ...]:
        """Compare each step with the exact sum of the survivors that its certificate names; return the rounds."""
        with self.store.read() as connection:
            rows, plan = run_rows.list_rounds(connection, run), run_rows.find_run(connection, run).parsed()
        files = RunFiles(Home(self.directory).run(run))
        vectors = [np.frombuffer(files.released(number).read_bytes(), dtype="<f4") for number in range(len(rows) + 1)]
        for row in rows:
            counted = codec.decode_certificate(row.certificate, sender="coordinator").survivors.ids
            mean = (vectors[row.round] - vectors[row.round - 1]) * 2**plan.encoding.scale_exponent * len(counted)
            assert np.rint(mean[: len(members)]).tolist() == [name in counted for name in members]
        return rows

    @contextmanager
    def members(self, place: Path, names: Sequence[str]) -> Iterator[None]:
        """Enrol members, and run their daemons in threads while the block runs."""
        stop, threads = threading.Event(), list[threading.Thread]()
        base = make_plan(entries=ENTRIES)[0].recipe.base
        for name in names:
            path = place / name
            token = onlysum("invite", name, *self.where)["token"]
            join(token, path, ledgers=path / "ledgers", clock=SystemClock(), random=SystemRandom())
            registry = Registry(open_home(path).home)
            registry.add(DatasetEntry(name="digits", path="/data", added_at=0, rows=100))
            registry.add(ModelEntry(name="tiny-vit", path="/models/tiny", added_at=0, files=base.files))
            policy = POLICY.format(authority=self.made["authority_fingerprint"], base=base.hash)
            (path / "policy.toml").write_text(policy)
            runner = assembly.assemble(path, stop, make_trainer=_trainer, measure=_never)
            threads.append(threading.Thread(target=runner.run, daemon=True))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(20)


@contextmanager
def coordinator_process(directory: Path) -> Iterator[CoordinatorProcess]:
    """Yield a coordinator whose process has been started."""
    made = CoordinatorProcess(directory)
    made.start()
    try:
        yield made
    finally:
        made.kill()
        made.store.close()


def _trainer(job: Any) -> OneHotTrainer:
    return OneHotTrainer(job.verified.plan, job.me)


def _never(job: Any, adapter: Any) -> Any:
    raise AssertionError("nobody evaluates here")
