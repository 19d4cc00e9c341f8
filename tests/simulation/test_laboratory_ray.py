"""Training on a Ray cluster of two workers on this machine: the same bits, also when a worker is lost."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import LocalError
from simulation.laboratory import ray_engine
from simulation.laboratory.engines import Prepare
from simulation.laboratory.ray_engine import RayEngine, cluster
from simulation.laboratory.training import TrainingSet, Vector
from tests.worlds.laboratory import figures, finished, first_cell, write_data, write_spec

pytestmark = [pytest.mark.torch, pytest.mark.ray]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ray")
    write_data(directory)
    return directory


@pytest.fixture(scope="module")
def two_workers(data: Path) -> Iterator[Prepare]:
    with cluster("local", cpus=0.5, gpus=0, most_cpus=1) as prepare:
        yield prepare


def test_a_cluster_computes_the_same_numbers_as_one_process(data: Path, tmp_path: Path, two_workers: Prepare) -> None:
    cell, setup = first_cell(write_spec(data), tmp_path)
    here = finished(cell, setup, tmp_path / "here", "skipped")
    there = finished(cell, setup, tmp_path / "there", "skipped", two_workers)
    assert there.progress.trace == here.progress.trace
    assert [figures(row) for row in there.progress.measured] == [figures(row) for row in here.progress.measured]
    assert there.progress.training_seconds > 0


def test_the_task_of_a_lost_worker_runs_again(
    data: Path, tmp_path: Path, two_workers: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, setup = first_cell(write_spec(data), tmp_path)
    here = finished(cell, setup, tmp_path / "here", "skipped")
    mark, task = tmp_path / "killed", ray_engine._train

    def killed_once(*args: Any) -> Any:
        """Do a task, but kill the first worker that tries."""
        if not mark.exists():
            mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return task(*args)

    monkeypatch.setattr(ray_engine, "_train", killed_once)
    there = finished(cell, setup, tmp_path / "there", "skipped", two_workers)
    assert mark.exists()
    assert int(mark.read_text()) != os.getpid()
    assert there.progress.trace == here.progress.trace


def refusal(work: TrainingSet, directory: Path, prepare: Prepare) -> LocalError:
    with pytest.raises(LocalError) as refused:
        prepare(work, directory)
    assert refused.value.code == "E-SIMULATION-CLUSTER"
    return refused.value


def test_a_cluster_without_the_base_or_the_rows_is_refused_before_work_starts(
    data: Path, tmp_path: Path, two_workers: Prepare
) -> None:
    _, setup = first_cell(write_spec(data), tmp_path)
    elsewhere = tmp_path / "elsewhere"
    assert "E-MODEL-LOAD" in refusal(replace(setup.work, model=elsewhere), tmp_path, two_workers).detail
    shutil.copytree(data / "base", elsewhere)
    (elsewhere / "config.json").write_text("{}")
    assert "config.json differs" in refusal(replace(setup.work, model=elsewhere), tmp_path, two_workers).detail


def test_an_error_of_a_worker_arrives_with_its_code(data: Path, tmp_path: Path, two_workers: Prepare) -> None:
    _, setup = first_cell(write_spec(data), tmp_path)
    prepared = two_workers(replace(setup.work, initial=b"another adapter"), tmp_path)
    assert isinstance(prepared, RayEngine)
    position: Vector = setup.work.load(tmp_path).trainer._engines.adapted.vector()  # type: ignore[union-attr]  # prepared
    with prepared as engine, pytest.raises(LocalError) as failed:
        list(engine.updates(1, position, list(setup.keys), {}))
    assert failed.value.code == "E-ADAPTER-HASH"


def test_a_cluster_that_does_not_answer_or_has_no_such_processors_is_refused() -> None:
    with pytest.raises(LocalError) as refused, cluster("127.0.0.1:1", cpus=1, gpus=0):
        pass
    assert refused.value.code == "E-SIMULATION-CLUSTER"
