"""What stands around coordinators' processes in a test: an operator's commands, members' daemons, the oracle.

Guarantees: members are the real daemons, with one-hot trainers, so that each step of the adapter shows whom its sum
counted; no torch.
Leaves to others: the processes (``coordinator_process``, ``replicas``).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.database import run_rows
from coordinator.database.run_rows import RoundRecord
from coordinator.database.store import Store
from coordinator.runs.global_adapter import RunFiles
from host.system import SystemClock, SystemRandom
from participant.daemon import assembly
from participant.daemon.joining import join
from participant.opened import open_home
from participant.owner.registry import DatasetEntry, ModelEntry, Registry
from participant.training.trainer import OneHotTrainer
from privacy.draft import Draft
from protos import codec
from tests.worlds.coordinator import initial_adapter
from tests.worlds.daemons import NO_CLAIM, POLICY
from tests.worlds.plans import make_plan

ENTRIES = 12


def onlysum(*words: str) -> Any:
    """Run a command of the operator and return what it prints."""
    command = [sys.executable, "-m", "onlysum", "coordinator", *words, "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode in (0, 3), done.stderr  # 3: the status of a daemon that was killed
    return json.loads(done.stdout)


def create_run(draft: Path, members: Sequence[str], where: Sequence[str], *, rounds: int) -> str:
    """Write a draft into a new directory, create a run of it, and return its id.

    Args:
        draft: the directory.
        members: the roster.
        where: names the coordinator to a command.
        rounds: of the run.
    """
    initial = initial_adapter(ENTRIES)
    given: dict[str, Any] = {"rounds": rounds, "adapter": {"initial_hash": hashlib.sha256(initial).hexdigest()}}
    recipe = make_plan(entries=ENTRIES, recipe=given)[0].recipe
    draft.mkdir()
    (draft / "draft.json").write_bytes(Draft(recipe=recipe, privacy=NO_CLAIM, evaluation_data="none").to_bytes())
    (draft / "initial_adapter.safetensors").write_bytes(initial)
    (draft / "adapter_config.json").write_text("{}")
    run: str = onlysum("run", "create", str(draft), "--members", ",".join(members), *where)["run"]
    return run


@contextmanager
def members_in_threads(place: Path, names: Sequence[str], where: Sequence[str], authority: str) -> Iterator[None]:
    """Enrol members, and run their daemons while the block runs.

    Args:
        place: where their directories lie.
        names: theirs.
        where: names the coordinator to a command.
        authority: fingerprint of the federation's.
    """
    stop, threads = threading.Event(), list[threading.Thread]()
    base = make_plan(entries=ENTRIES)[0].recipe.base
    for name in names:
        path = place / name
        token = onlysum("invite", name, *where)["token"]
        join(token, path, ledgers=path / "ledgers", clock=SystemClock(), random=SystemRandom())
        registry = Registry(open_home(path).home)
        registry.add(DatasetEntry(name="digits", path="/data", added_at=0, rows=100))
        registry.add(ModelEntry(name="tiny-vit", path="/models/tiny", added_at=0, files=base.files))
        (path / "policy.toml").write_text(POLICY.format(authority=authority, base=base.hash))
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


def check_sums(store: Store, files: RunFiles, run: str, members: Sequence[str]) -> tuple[RoundRecord, ...]:
    """Compare each step with the exact sum of the survivors that its certificate names; return the rounds."""
    with store.read() as connection:
        rows, plan = run_rows.list_rounds(connection, run), run_rows.find_run(connection, run).parsed()
    vectors = [np.frombuffer(files.released(number).read_bytes(), dtype="<f4") for number in range(len(rows) + 1)]
    for row in rows:
        counted = codec.decode_certificate(row.certificate, sender="coordinator").survivors.ids
        mean = (vectors[row.round] - vectors[row.round - 1]) * 2**plan.encoding.scale_exponent * len(counted)
        assert np.rint(mean[: len(members)]).tolist() == [name in counted for name in members]
    return rows


def _trainer(job: Any) -> OneHotTrainer:
    return OneHotTrainer(job.verified.plan, job.me)


def _never(job: Any, adapter: Any) -> Any:
    raise AssertionError("nobody evaluates here")
