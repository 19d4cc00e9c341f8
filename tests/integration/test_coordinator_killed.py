"""The coordinator's process is killed (SIGKILL) in every phase; the run completes with the exact sums."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.config import load_settings
from coordinator.database import attempt_rows, run_rows
from coordinator.database.store import Store
from coordinator.home import Home
from coordinator.protocol.transitions import TRANSITIONS
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
from tests.worlds.plans import make_plan, names

ENTRIES = 12
MEMBERS = names(3)
PHASES = [phase for phase in TRANSITIONS if phase is not Phase.RESULT]


def onlysum(*words: str) -> Any:
    """Run a command of the operator and return what it prints."""
    command = [sys.executable, "-m", "onlysum", "coordinator", *words, "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode in (0, 3), done.stderr  # 3: the status of a daemon that was killed
    return json.loads(done.stdout)


class Coordinator:
    """A coordinator's process, started again after each kill."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        address, enrolment = (f"127.0.0.1:{port}" for port in free_ports(2))
        words = ["--name", "clinics", "--operator", "I", "--address", address, "--enrolment-address", enrolment]
        self.made = onlysum("init", str(directory), *words)
        home = Home(directory)
        self.store = Store.create(load_settings(home).database_url(home))
        self.process: subprocess.Popen[str] | None = None
        self.kills = 0

    def start(self) -> None:
        """Start the process and wait until it listens."""
        command = [sys.executable, "-m", "onlysum", "coordinator", "start", "--config", str(self.directory)]
        log = (self.directory / "log").open("a")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
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


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path / "coordinator")
    made.start()
    yield made
    made.kill()
    made.store.close()


@pytest.fixture
def stop(tmp_path: Path, coordinator: Coordinator) -> Iterator[threading.Event]:
    """Three daemons of participants in threads, polling; set to stop them."""
    stop, threads = threading.Event(), []
    base = make_plan(entries=ENTRIES)[0].recipe.base
    for name in MEMBERS:
        path = tmp_path / name
        token = onlysum("invite", name, "--config", str(coordinator.directory))["token"]
        join(token, path, ledgers=path / "ledgers", clock=SystemClock(), random=SystemRandom())
        registry = Registry(open_home(path).home)
        registry.add(DatasetEntry(name="digits", path="/data", added_at=0, rows=100))
        registry.add(ModelEntry(name="tiny-vit", path="/models/tiny", added_at=0, files=base.files))
        policy = POLICY.format(authority=coordinator.made["authority_fingerprint"], base=base.hash)
        (path / "policy.toml").write_text(policy)
        runner = assembly.assemble(path, stop, make_trainer=_trainer, measure=_never)
        threads.append(threading.Thread(target=runner.run, daemon=True))
    for thread in threads:
        thread.start()
    yield stop
    stop.set()
    for thread in threads:
        thread.join(20)


def _trainer(job: Any) -> OneHotTrainer:
    return OneHotTrainer(job.verified.plan, job.me)


def _never(job: Any, adapter: Any) -> Any:
    raise AssertionError("nobody evaluates here")


def draft(directory: Path) -> Path:
    """Write a draft of as many rounds as there are phases."""
    initial = initial_adapter(ENTRIES)
    given: dict[str, Any] = {"rounds": len(PHASES), "adapter": {"initial_hash": hashlib.sha256(initial).hexdigest()}}
    made = Draft(recipe=make_plan(entries=ENTRIES, recipe=given)[0].recipe, privacy=NO_CLAIM, evaluation_data="none")
    directory.mkdir()
    (directory / "draft.json").write_bytes(made.to_bytes())
    (directory / "initial_adapter.safetensors").write_bytes(initial)
    (directory / "adapter_config.json").write_text("{}")
    return directory


def test_a_coordinator_killed_once_in_every_phase_completes_the_run_with_the_exact_sums(
    tmp_path: Path, coordinator: Coordinator, stop: threading.Event
) -> None:
    where = ["--config", str(coordinator.directory)]
    until(lambda: all(one["live"] for one in onlysum("status", *where)["members"]), "everybody polls")
    run = onlysum("run", "create", str(draft(tmp_path / "draft")), "--members", ",".join(MEMBERS), *where)["run"]
    for number, phase in enumerate(PHASES, start=1):
        until(
            partial(coordinator.reached, run, number, phase),
            f"round {number} in {phase.name}",
        )
        coordinator.kill()
        coordinator.start()
    watched = subprocess.run(
        [sys.executable, "-m", "onlysum", "coordinator", "run", "watch", run, *where],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert watched.returncode == 0, watched.stdout

    with coordinator.store.read() as connection:
        rows, plan = run_rows.list_rounds(connection, run), run_rows.find_run(connection, run).parsed()
    files = RunFiles(Home(coordinator.directory).run(run))
    vectors = [np.frombuffer(files.released(number).read_bytes(), dtype="<f4") for number in range(len(PHASES) + 1)]
    for row in rows:
        counted = codec.decode_certificate(row.certificate, sender="coordinator").survivors.ids
        mean = (vectors[row.round] - vectors[row.round - 1]) * 2**plan.encoding.scale_exponent * len(counted)
        assert np.rint(mean[:3]).tolist() == [name in counted for name in MEMBERS]
    assert len(rows) == len(PHASES)
    assert [attempt[2] for attempt in coordinator.attempts(run)].count("completed") == len(PHASES)
