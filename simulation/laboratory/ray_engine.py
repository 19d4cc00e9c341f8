"""Participants' training as stateless tasks on a Ray cluster, or on one that is started on this machine.

Guarantees: an update has the same bits as in process, because it follows from the task alone; a worker loads base and
rows once per run of a simulation; the driver holds a bounded number of updates; the task of a lost worker runs again.
Before a run every machine of the cluster shows that it has the same code, base and rows. Nothing is reported to Ray's
makers.
Leaves to others: the cluster itself (docs/researcher.md), the training (``training``).
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from participant.training.data import hash_dataset
from participant.training.models import verify_base
from privacy.errors import LocalError, OnlysumError
from privacy.plan import Plan
from simulation.laboratory.engines import Kept, Prepare
from simulation.laboratory.manifest import code_sha256
from simulation.laboratory.training import NOTHING, Training, TrainingSet, Update, Vector

LOCAL: Final = "local"
RETRIES: Final = 5  # of a task whose worker is lost
AHEAD: Final = 2  # tasks per worker that are on the way
MOST_PARTICIPANTS: Final = 16  # of a task: some of them train in the time that a task itself takes
MOST_BYTES: Final = 2**22  # of a task's updates
STORE_BYTES: Final = 2**28  # shared memory of a cluster on this machine

Failure = tuple[str, str]  # code and detail: errors of workers lose their class on the way
_loaded: dict[str, Training] = {}  # of this worker: the last run of a simulation that it trained for


@contextmanager
def cluster(address: str, *, cpus: float, gpus: float, most_cpus: int | None = None) -> Iterator[Prepare]:
    """Connect to a cluster, or start one on this machine, for as long as the block runs.

    Args:
        address: of the cluster's head, ``auto``, or ``local``.
        cpus: processors that a task takes.
        gpus: GPUs that a task takes; 0.25 lets four share one.
        most_cpus: processors of a cluster on this machine; all that it has.

    Yields:
        What makes an engine of a run.

    Raises:
        LocalError: ``E-EXTRA-MISSING``, or ``E-SIMULATION-CLUSTER``: it does not answer, or has no such processors.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's own default to come, without its warning
    import ray

    here = {"include_dashboard": False, "object_store_memory": STORE_BYTES, "num_cpus": most_cpus}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **(here if address == LOCAL else {}))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise LocalError("E-SIMULATION-CLUSTER", f"{address}: {type(error).__name__}") from None
    try:
        there = ray.cluster_resources()
        slots = [there.get(kind, 0) / share for kind, share in (("CPU", cpus), ("GPU", gpus)) if share]
        if min(slots) < 1:
            raise LocalError("E-SIMULATION-CLUSTER", f"{address} has no {cpus:g} CPU and {gpus:g} GPU for a task")
        yield partial(RayEngine, workers=int(min(slots)), cpus=cpus, gpus=gpus)
    finally:
        ray.shutdown()


class RayEngine:
    """Trains on the cluster that this process is connected to.

    Args:
        work: what trains.
        directory: not used: workers have their own.
        workers: how many tasks run at a time.
        cpus: that a task takes.
        gpus: that a task takes.

    Raises:
        LocalError: ``E-SIMULATION-CLUSTER``, a machine lacks something.
    """

    elsewhere = True

    def __init__(self, work: TrainingSet, directory: Path, *, workers: int, cpus: float, gpus: float) -> None:
        import ray

        self._ray: Any = ray
        self._plan = Plan.from_bytes(work.plan)
        self._require_everywhere(work)
        self._work = ray.put(work)
        self._ahead = AHEAD * workers
        self._task = ray.remote(_train).options(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work = None  # its memory on the cluster is free when nobody names it

    def updates(self, number: int, adapter: Vector, names: Sequence[str], kept: Kept) -> Iterator[Update]:
        """Yield updates as :class:`~simulation.laboratory.engines.Engine` says.

        Raises:
            LocalError: as the trainer, or ``E-SIMULATION-CLUSTER``: a task was lost too often.
        """
        size = max(1, min(MOST_PARTICIPANTS, MOST_BYTES // (8 * self._plan.recipe.entries)))
        position, on_the_way = self._ray.put(adapter), deque[Any]()
        for start in range(0, len(names), size):
            some = names[start : start + size]
            theirs = {name: kept[name] for name in some if name in kept}
            on_the_way.append(self._task.remote([self._work], some, number, position, theirs))
            if len(on_the_way) > self._ahead:
                yield from self._taken(on_the_way.popleft())
        while on_the_way:
            yield from self._taken(on_the_way.popleft())

    def _taken(self, task: Any) -> list[Update]:
        try:
            found: list[Update] | Failure = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            raise LocalError("E-SIMULATION-CLUSTER", f"a task was lost: {type(error).__name__}") from None
        if isinstance(found, tuple):
            raise LocalError(*found)
        return found

    def _require_everywhere(self, work: TrainingSet) -> None:
        """Let every machine compare its code, base and rows with this one's."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        wanted = code_sha256(), hash_dataset(work.rows)
        probes = {
            node["NodeManagerAddress"]: self._ray.remote(_lacking)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote(work, *wanted)
            for node in self._ray.nodes()
            if node["Alive"]
        }
        for address, probe in probes.items():
            if lacking := self._ray.get(probe):
                raise LocalError("E-SIMULATION-CLUSTER", f"{address}: {lacking}")


def _train(work: list[Any], names: Sequence[str], number: int, adapter: Vector, kept: Kept) -> list[Update] | Failure:
    """Return the updates of some participants: what a worker does.

    Args:
        work: the reference of what trains; in a list, so that only who lacks it fetches it.
        names: on the roster.
        number: of the round.
        adapter: that it starts from.
        kept: what is with whom from earlier rounds.
    """
    import ray

    key = work[0].hex()
    try:
        if key not in _loaded:
            _loaded.clear()
            with tempfile.TemporaryDirectory(prefix="onlysum-worker-") as directory:
                _loaded[key] = ray.get(work[0]).load(Path(directory))
        own = adapter.copy()  # what Ray shares cannot be written to, and torch would warn
        return [_loaded[key].update(name, number, own, kept.get(name, NOTHING)) for name in names]
    except OnlysumError as error:
        return error.code, error.detail


def _lacking(work: TrainingSet, code: str, rows: str) -> str:
    """Return what this machine lacks, in words; nothing if it lacks nothing."""
    if code_sha256() != code:
        return "it has another version of onlysum"
    try:
        verify_base(work.model, Plan.from_bytes(work.plan).recipe.base)
    except OnlysumError as error:
        return f"the base {work.model}: {error.code}: {error.detail}"
    if not work.rows.exists() or hash_dataset(work.rows) != rows:
        return f"the rows {work.rows} are missing or others"
    return ""
