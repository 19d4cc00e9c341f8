"""One coordinator's process, on a database in a file, with members' daemons in threads; no torch.

Guarantees: the process is `onlysum coordinator start` with a directory that an operator's commands made; members are
the real daemons, with one-hot trainers, so that each step of the adapter shows whom its sum counted.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from coordinator.config import load_settings
from coordinator.database import attempt_rows
from coordinator.database.run_rows import RoundRecord
from coordinator.database.store import Store
from coordinator.home import Home
from coordinator.runs.global_adapter import RunFiles
from privacy.errors import Phase
from simulation.ports import free_ports
from tests.worlds.around_coordinators import check_sums, create_run, members_in_threads, onlysum
from tests.worlds.daemons import PATIENCE_SECONDS, until


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
        return create_run(draft, members, self.where, rounds=rounds)

    def await_end(self, run: str) -> None:
        """Follow a run until it has completed."""
        command = [sys.executable, "-m", "onlysum", "coordinator", "run", "watch", run, *self.where]
        watched = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
        assert watched.returncode == 0, watched.stdout

    def check_sums(self, run: str, members: Sequence[str]) -> tuple[RoundRecord, ...]:
        """Compare each step with the exact sum of the survivors that its certificate names; return the rounds."""
        return check_sums(self.store, RunFiles(Home(self.directory).run(run)), run, members)

    def members(self, place: Path, names: Sequence[str]) -> AbstractContextManager[None]:
        """Enrol members, and run their daemons in threads while the block runs."""
        return members_in_threads(place, names, self.where, self.made["authority_fingerprint"])


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
