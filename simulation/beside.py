"""The demo's data once more, with local noise at the same epsilon, in a process beside the federation.

Guarantees: the base, the images of each participant and the held-out ones are the demo's, the recipe that of
``demo --privacy local``, its epsilon the same; what differs is who adds how much noise. It yields the processors to
whatever else runs, and its figure is measured or absent.
Leaves to others: training and sums (``simulation.compare``), which make it a simulation: noise and keys follow from a
seed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from simulation.processes import ONE_THREAD, Daemon, Processes
from simulation.stage import PARTICIPANTS, Stage

NICE: Final = 10  # the federation goes first
PATIENCE: Final = 45.0  # seconds that the demo waits for it at its end
_OUTCOME: Final = "outcome.json"


@dataclass(frozen=True, slots=True)
class Beside:
    """The process."""

    daemon: Daemon
    outcome: Path

    @classmethod
    def start(cls, processes: Processes, *, stage: Stage, seed: int) -> Self:
        """Start it once the base is there; it ends with the demo's other processes."""
        words = (str(stage.local_noise), str(stage.base), str(seed))
        return cls(processes.start("local-noise", *words, module=__name__), stage.local_noise / _OUTCOME)

    def accuracy(self) -> float | None:
        """Return what the adapter reached on the held-out images, or ``None`` if that takes too long or failed."""
        end = time.monotonic() + PATIENCE
        while self.daemon.running and time.monotonic() < end:
            time.sleep(0.1)
        return float(json.loads(self.outcome.read_bytes())["accuracy"]) if self.outcome.exists() else None

    @property
    def trouble(self) -> str:
        """Why there is no figure, in words."""
        return "is not ready in time" if self.daemon.running else f"failed, see {self.daemon.log.name}"


def main(out: Path, base: Path, seed: int) -> None:
    """Run it below ``out`` and leave the outcome there, whole or not at all."""
    os.environ.update(ONE_THREAD)  # before torch is imported
    os.nice(NICE)
    from simulation.compare import Size, copy_base, run

    stage, size = Stage(out), Size(participants=len(PARTICIPANTS))
    units = copy_base(stage, base, seed, size)
    cell = run(stage, units, "local", seed, size, lambda done, total: print(f"round {done} of {total}", flush=True))
    outcome = {"accuracy_base": cell.accuracy_base, "accuracy": cell.accuracy, "epsilon": cell.epsilon}
    part = out / f"{_OUTCOME}.part"
    part.write_text(json.dumps(outcome))
    part.rename(out / _OUTCOME)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
