"""The demo's processes: real daemons and commands, each ended by its own process id, whatever happens.

Guarantees: leaving the block ends every process that was started in it, first politely, then not; every line that they
write is in a file, and the end of that file is in the error when one fails.
Leaves to others: what the processes are for (``simulation.demo``).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import onlysum
from privacy.errors import LocalError

T = TypeVar("T")

END_SECONDS: Final = 5.0  # that a process has after SIGTERM before it is killed
COMMAND_SECONDS: Final = 120.0  # that a command may take; the demo's slowest loads torch and calibrates
TAIL_LINES: Final = 15  # of a failed process's log on the screen
ONE_THREAD: Final[Mapping[str, str]] = {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMBA", "VECLIB_MAXIMUM")
}  # several threads a process on few cores were up to 70 times slower


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        """Whether the process is still there."""
        return self.process.poll() is None

    def kill(self) -> None:
        """End it at once and without warning (SIGKILL), as a power cut would."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Ask it to stop (SIGTERM), and kill it if it does not."""
        if not self.running:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()


class Processes:
    """Starts ``onlysum`` as separate processes with one thread each; a context manager that ends them all."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._stack = ExitStack()
        here = os.pathsep.join(filter(None, [str(Path(onlysum.__file__).parent), os.environ.get("PYTHONPATH", "")]))
        self._environment = {**os.environ, **ONE_THREAD, "NO_COLOR": "1", "PYTHONPATH": here}
        self._environment.pop("ONLYSUM_HOME", None)

    def __enter__(self) -> Self:
        """Make the directory of the logs."""
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every daemon that was started, all of them asked before any is waited for."""
        self._stack.close()

    def start(self, name: str, *words: str) -> Daemon:
        """Start a daemon that runs until it is ended; its output is appended to ``NAME.log``."""
        log = self._logs / f"{name}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(  # noqa: S603  this very program with the demo's own arguments
                _command(words),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then ends its processes in order
            )
        daemon = Daemon(name, process, log)
        self._stack.callback(daemon.end)
        return daemon

    def run(self, *words: str, accept: Sequence[int] = (0,)) -> str:
        """Run a command to its end and return what it printed.

        Raises:
            LocalError: ``E-DEMO``, its exit code is not one of ``accept``.
        """
        done = subprocess.run(  # noqa: S603  this very program with the demo's own arguments
            _command(words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._environment,
            start_new_session=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        with (self._logs / "commands.log").open("a") as file:
            file.write(f"$ onlysum {' '.join(words)}\n{done.stdout}{done.stderr}exit code {done.returncode}\n\n")
        if done.returncode not in accept:
            said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-TAIL_LINES:])
            raise LocalError("E-DEMO", f"`onlysum {' '.join(words[:3])}` ended with {done.returncode}:\n{said}")
        return done.stdout

    def follow(self, *words: str) -> Iterator[str]:
        """Run a command and yield each line as it is printed; the command is ended when the caller stops asking."""
        with (self._logs / "commands.log").open("ab") as errors:
            process = subprocess.Popen(  # noqa: S603  this very program with the demo's own arguments
                _command(words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._environment,
                start_new_session=True,
                text=True,
            )
        try:
            yield from process.stdout or ()
        finally:
            process.kill()
            process.wait()


def together(*jobs: Callable[[], T]) -> list[T]:
    """Run jobs side by side, as many as there are cores, and return what each returned; the first error is raised."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return [waiting.result() for waiting in [pool.submit(job) for job in jobs]]


def wait_until(
    happened: Callable[[], bool], *, seconds: float, watching: Sequence[Daemon], what: str, every: float = 0.1
) -> None:
    """Wait for something that daemons are to bring about.

    Raises:
        LocalError: ``E-DEMO``, a daemon ended or the time passed; the end of its log is in the message.
    """
    end = time.monotonic() + seconds
    while not happened():
        for daemon in watching:
            if not daemon.running:
                code = daemon.process.returncode
                raise LocalError(
                    "E-DEMO", f"{daemon.name} ended with {code} while waiting for {what}:\n{tail(daemon.log)}"
                )
        if time.monotonic() > end:
            ends = "\n".join(f"--- {daemon.name}\n{tail(daemon.log)}" for daemon in watching[:2])
            raise LocalError("E-DEMO", f"no {what} within {seconds:.0f} s:\n{ends}")
        time.sleep(every)


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    with log.open(errors="replace") as file:
        return "".join(deque(file, maxlen=TAIL_LINES)).rstrip()


def _command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-P", "-m", "onlysum", *words]  # -P: nothing in the current directory is imported
