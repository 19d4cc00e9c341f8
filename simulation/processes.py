"""The demo's processes: real daemons and commands, each ended by its own process id, whatever happens.

Guarantees: leaving the block ends every process that was started in it, first politely, then not; every line that they
write is in a file.
Leaves to others: what the processes are for (``simulation.demo``).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self, TypeVar

import onlysum
from privacy.errors import LocalError

T = TypeVar("T")

END_SECONDS: Final = 5.0  # that a process has after SIGTERM before it is killed
COMMAND_SECONDS: Final = 120.0  # that a command may take; the demo's slowest loads torch and calibrates
ONE_THREAD: Final[Mapping[str, str]] = {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMBA", "VECLIB_MAXIMUM")
}  # several threads a process on few cores were up to 70 times slower


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon and its log."""

    name: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def running(self) -> bool:
        """Whether the process is still there."""
        return self.process.poll() is None

    def kill(self) -> None:
        """End it at once and without warning (SIGKILL), as a power cut would."""
        self.process.kill()
        self.process.wait()


class Processes:
    """Starts ``onlysum`` as separate processes with one thread each; a context manager that ends them all."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._started: list[subprocess.Popen[str]] = []
        self._closed = False
        self._lock = threading.Lock()
        path = os.pathsep.join(filter(None, [str(Path(onlysum.__file__).parent), os.environ.get("PYTHONPATH", "")]))
        self._environment = {**os.environ, **ONE_THREAD, "NO_COLOR": "1", "PYTHONPATH": path}
        self._environment.pop("ONLYSUM_HOME", None)

    def __enter__(self) -> Self:
        """Make the directory of the logs."""
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process that was started: all are asked, and whoever has not ended in time is killed."""
        with self._lock:
            self._closed = True
            left = [process for process in self._started if process.poll() is None]
        for process in left:
            process.terminate()
        end = time.monotonic() + END_SECONDS
        for process in left:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, name: str, *words: str, module: str = "onlysum") -> Daemon:
        """Start a daemon, or another module, that runs until it is ended; its output is appended to ``NAME.log``."""
        log = self._logs / f"{name}.log"
        with log.open("a") as file:
            return Daemon(name, self._open(words, stdout=file, stderr=file, module=module), log)

    def run(self, *words: str, given: str = "", accept: int = 0) -> str:
        """Run a command to its end and return what it printed.

        Args:
            words: the command, without ``onlysum``.
            given: its standard input.
            accept: the exit code that is expected.

        Raises:
            LocalError: ``E-DEMO``, it ended otherwise.
        """
        process = self._open(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        printed, complained = process.communicate(given, timeout=COMMAND_SECONDS)
        code, failed = process.returncode, process.returncode != accept
        with (self._logs / "commands.log").open("a") as file:  # an invitation is printed: only failures are kept
            file.write(f"$ onlysum {' '.join(words)}\n{printed if failed else ''}{complained}exit code {code}\n\n")
        if failed:
            output = (complained or printed).strip()
            raise LocalError("E-DEMO", f"`onlysum {' '.join(words[:3])}` ended with exit code {code}: {output}")
        return printed

    def follow(self, *words: str) -> Iterator[str]:
        """Run a command and yield each line as it is printed; the command is ended when the caller stops asking."""
        with (self._logs / "commands.log").open("a") as file:
            process = self._open(words, stdout=subprocess.PIPE, stderr=file)
        try:
            yield from process.stdout or ()
        finally:
            process.kill()
            process.wait()

    def together(self, *jobs: Callable[[], T]) -> list[T]:
        """Run jobs side by side, as many as there are cores, and return what each returned; errors end all of them."""
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            waiting = [pool.submit(job) for job in jobs]
            try:
                return [future.result() for future in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.__exit__(None, None, None)  # whatever still runs in another thread ends now
                raise

    def _open(
        self,
        words: Sequence[str],
        *,
        stdout: int | IO[str],
        stderr: int | IO[str],
        stdin: int = subprocess.DEVNULL,
        module: str = "onlysum",
    ) -> subprocess.Popen[str]:
        with self._lock:
            if self._closed:
                raise LocalError("E-DEMO", "the demo is ending")
            process = subprocess.Popen(  # noqa: S603  this very program with the demo's own arguments
                [sys.executable, "-P", "-m", module, *words],  # -P: nothing in the current directory is imported
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=self._environment,
                text=True,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then ends its processes in order
            )
            self._started.append(process)
            return process


def wait_until(
    happened: Callable[[], bool], *, seconds: float, watching: Sequence[Daemon], what: str, every: float = 0.1
) -> None:
    """Wait for something that daemons are to bring about.

    Raises:
        LocalError: ``E-DEMO``, a daemon ended or the time passed.
    """
    end = time.monotonic() + seconds
    while not happened():
        for daemon in watching:
            if not daemon.running:
                code = daemon.process.returncode
                raise LocalError(
                    "E-DEMO", f"{daemon.name} ended with exit code {code} while the demo waited for {what}"
                )
        if time.monotonic() > end:
            raise LocalError("E-DEMO", f"no {what} within {seconds:.0f} s")
        time.sleep(every)
