"""What a vector of a language model takes in memory on both sides, over gRPC with mutual TLS, three participants.

Everybody is a process of its own and looks at its own anonymous memory (``RssAnon``: pages of files that are mapped
are not counted) all the time; a figure is the most that was seen beyond what the process had when the run began, over
the bytes of a masked update. ``round`` is everything but training and the two steps of the optimizer: encoding,
masking, hashing, storing, uploading, collecting, unmasking, signing; the adapter that waits to be trained is
training's. ``step`` is what the state itself takes, three to four vectors of float32 and the sum: at the coordinator
when a round completes and when the adapter is exported, at a participant when it starts from the sum. The vector is
as long as an adapter of rank 16 on a language model of seven billion weights.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from bench import coordination, daemons, harness, plans
from coordinator.config import Settings
from coordinator.runs import completion, release
from host import durable
from participant.daemon import assembly
from participant.runs.context import TrainingJob
from participant.runs.global_adapter import GlobalAdapter
from participant.runs.round_training import RoundTraining
from participant.training.trainer import OneHotTrainer, Progress, Sums, Trainer

PARTICIPANTS: Final = 3
ENTRIES: Final = 40_000_000
ROUNDS: Final = 3
LOOK_SECONDS: Final = 0.005
WRITE_SECONDS: Final = 0.25
FILE, BEGUN = "memory.json", "begun"
ROUND, STEP, TRAINING = "round", "step", "training"


class Watch:
    """Looks at this process's memory in a thread, and keeps the most that was seen in each kind of work.

    It begins when the file ``begun`` is there, and counts what is beyond what the process has then.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / FILE
        self._work = ROUND
        self._least = 0
        self._most: Counter[str] = Counter()
        self.started: dict[int, float] = {}
        threading.Thread(target=self._look, daemon=True).start()

    @contextmanager
    def during(self, work: str) -> Iterator[None]:
        """Count what is seen for some kind of work; one at a time."""
        before, self._work = self._work, work
        try:
            yield
        finally:
            self._work = before

    def go_on(self, work: str) -> None:
        """Count what is seen from now on for some kind of work."""
        self._work = work

    def around(self, work: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that is some kind of work."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.during(work):
                return call(*args, **kwargs)

        return watched

    def _look(self) -> None:
        written = 0.0
        while not (self._file.parent / BEGUN).exists():
            time.sleep(LOOK_SECONDS)
        self._least = anonymous_bytes()
        while True:
            work, seen = self._work, anonymous_bytes() - self._least
            self._most[work] = max(self._most[work], seen)
            if time.monotonic() - written > WRITE_SECONDS:
                written = time.monotonic()
                durable.write(self._file, json.dumps({"most": self._most, "started": self.started}).encode())
            time.sleep(LOOK_SECONDS)


def anonymous_bytes() -> int:
    """Return how much memory this process has that is no file's."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


class _Watched:
    """A one-hot trainer whose memory counts as training's."""

    kept: NDArray[np.float32] | None = None
    earlier: Sums = ()
    summed: NDArray[np.int64] | None = None

    def __init__(self, inner: OneHotTrainer, watch: Watch) -> None:
        self._inner = inner
        self._watch = watch

    def prepare(self) -> None:
        self._inner.prepare()

    def train(self, round_number: int, adapter: NDArray[np.float32], progress: Progress) -> NDArray[np.int64]:
        self._watch.started[round_number] = time.monotonic()
        return self._inner.train(round_number, adapter, progress)


def _participate(path: Path) -> None:
    """Run a participant's daemon: the body of a process of its own."""
    watch = Watch(path)

    def make_trainer(job: TrainingJob) -> Trainer:
        return _Watched(OneHotTrainer(job.verified.plan, job.me), watch)

    def start_of(*args: Any, **kwargs: Any) -> NDArray[np.float32]:
        with watch.during(STEP):
            adapter = real(*args, **kwargs)
        watch.go_on(TRAINING)  # from here on it waits to be trained
        return adapter

    def train(*args: Any, **kwargs: Any) -> NDArray[np.int64]:
        update = trained(*args, **kwargs)
        watch.go_on(ROUND)  # the adapter was let go of
        return update

    real, trained = GlobalAdapter.start_of, RoundTraining.train
    with patch.object(GlobalAdapter, "start_of", start_of), patch.object(RoundTraining, "train", train):
        assembly.assemble(path, threading.Event(), make_trainer=make_trainer).run()


def _coordinate(directory: Path, settings: Settings) -> None:
    watch = Watch(directory)
    with (
        patch.object(completion, "complete_round", watch.around(STEP, completion.complete_round)),
        patch.object(release, "finish", watch.around(STEP, release.finish)),
    ):
        coordination.coordinate(directory, settings)


class Apart(daemons.Daemons):
    """A federation in which each participant is a process of its own."""

    processes: list[BaseProcess]

    def take_part(self, path: Path) -> None:
        """Start the participant's process."""
        process = multiprocessing.get_context("spawn").Process(target=_participate, args=(path,), daemon=True)
        process.start()
        self.processes = [*getattr(self, "processes", []), process]

    @property
    def coordinate(self) -> Callable[[Path, Settings], None]:
        """The body of the coordinator's process."""
        return _coordinate

    def __exit__(self, *raised: Any) -> None:
        """End everybody."""
        for process in getattr(self, "processes", []):
            process.terminate()
            process.join(20)
        super().__exit__(*raised)


def measure(entries: int, rounds: int) -> dict[str, float]:
    """Return the figures of a run."""
    with (
        TemporaryDirectory(prefix="onlysum-bench-", ignore_cleanup_errors=True) as directory,
        Apart(Path(directory), PARTICIPANTS, entries) as federation,
    ):
        places = [federation.directory / name for name in _names(federation)]
        for place in (*places, federation.coordination.home.directory):
            (place / BEGUN).touch()
        time.sleep(2 * WRITE_SECONDS)
        plan = federation.run(rounds)
        time.sleep(2 * WRITE_SECONDS)
        masked = plan.layout(1).bytes
        seen = [json.loads((place / FILE).read_text()) for place in places]
        coordinator = json.loads((federation.coordination.home.directory / FILE).read_text())
    starts = [min(one["started"][str(number)] for one in seen) for number in range(1, rounds + 1)]
    figures: dict[str, float] = {"masked_mib": masked / 2**20, "bytes_per_entry": masked / entries}
    for work in (ROUND, STEP):
        figures[f"participant_{work}_over_masked"] = max(one["most"].get(work, 0) for one in seen) / masked
        figures[f"coordinator_{work}_over_masked"] = coordinator["most"].get(work, 0) / masked
    return figures | {"round_seconds": min(after - before for before, after in pairwise(starts))}


def _names(federation: daemons.Daemons) -> tuple[str, ...]:
    return plans.members(federation.participants)


def main() -> int:
    """Measure, print the tables and the JSON line."""
    parser = harness.parser(__doc__)
    parser.add_argument("--entries", type=float, nargs="+", default=[ENTRIES], help="of the vectors, such as 4e7 2e8")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the run, at least 2")
    options = parser.parse_args()
    found: dict[str, float] = {}
    for entries in map(int, options.entries):
        figures = measure(entries, options.rounds)
        print(harness.table(["figure", "value"], [[name, f"{value:.2f}"] for name, value in figures.items()]))
        case = f"n{PARTICIPANTS}_d{entries:.0e}".replace("e+0", "e")
        found |= {f"{case}.{name}": round(value, 3) for name, value in figures.items()}
    harness.publish("large", found, save=options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
