"""The files of a run: the adapter from round to round, the sums that lead there, and what is released.

Guarantees: files of a run are whole or absent; a state that was written comes back bit for bit; what a leader of the
run writes lies apart, under the token of its lease, until a committed row says that it counts. Where they are kept
elsewhere (``coordinator.storage.content``), a path that is returned holds the copy of what is kept.
Leaves to others: what a sum makes of a state (``methods.global_adapter``), the release (``coordinator.runs.release``).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import numpy as np

from coordinator.storage.content import Change, RunContent
from host import durable
from methods.global_adapter import VECTOR_TYPE, iterate_bytes, read_initial, state_from_bytes, state_to_bytes
from methods.optimizer import OptimizerState
from methods.vectors import joined
from privacy.errors import LocalError
from privacy.plan import Plan
from privacy.secagg.fixed_point import Buffer
from privacy.secagg.hashes import adapter_hash_of

_READ_BYTES: Final = 2**20  # of a file at a time
_LED: Final = "led-"  # how the directories begin in which leaders write
_EXPORTED: Final = "adapter"
_REPORT: Final = "report.json"
_SUMS: Final = "sum-*.words"


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The directory of one run; asking for a file brings it there, if it is kept elsewhere, and may raise therefore."""

    directory: Path
    content: RunContent | None = None  # where its files are kept, if not in the directory alone

    @property
    def initial(self) -> Path:
        """All tensors that every participant starts from."""
        return self.file("initial_adapter.safetensors")

    @property
    def adapter_config(self) -> Path:
        """PEFT's own configuration of the adapter."""
        return self.file("adapter_config.json")

    @property
    def exported(self) -> Path:
        """The released adapter in PEFT's format."""
        return self.directory / _EXPORTED if self.content is None else self.content.fetch_tree(_EXPORTED)

    @property
    def report(self) -> Path:
        """The signed audit report."""
        return self.file(_REPORT)

    @property
    def reported(self) -> bool:
        """Whether there is a report."""
        return (self.directory / _REPORT).exists() if self.content is None else self.content.has(_REPORT)

    def file(self, name: str) -> Path:
        """Any file of the run by its name.

        Raises:
            LocalError: ``E-STORAGE-*``: it is kept elsewhere, and cannot be brought here.
        """
        return self.directory / name if self.content is None else self.content.fetch(name)

    def sum(self, round_number: int) -> Path:
        """The ring words of a round's sum: what participants download, and step from themselves."""
        return self.file(f"sum-{round_number}.words")

    def measured(self, plan: Plan) -> list[int]:
        """Return the integers of a measurement's sum; none of a plan that trains, or before its round is completed."""
        path, layout = self.sum(1), plan.layout(1)
        if plan.recipe.measured is None or not path.exists():
            return []
        return [int(entry) for entry in layout.decode(layout.ring.from_bytes(path.read_bytes(), layout.words))]

    def iterate(self, round_number: int) -> Path:
        """The vector that the round after this one starts from."""
        return self.file(f"global-{round_number}.f32")

    def released(self, round_number: int) -> Path:
        """The vector that is evaluated and exported after a round: the average of iterates, if the plan has one."""
        averaged = self._average(round_number)
        return averaged if averaged.exists() else self.iterate(round_number)

    def drafts(self, token: int) -> RunFiles:
        """Return where the leader with a fencing token writes, until what it has written counts."""
        return RunFiles(self.directory / f"{_LED}{token}")

    def publish(self, round_number: int, committed: bytes) -> None:
        """Make the files of a round that was committed those of the run; doing it again, or twice at once, is no error.

        Args:
            round_number: of the round.
            committed: hash of its iterate, as its row has it: of what several leaders may have written, that counts.
        """
        for directory in sorted(self.directory.glob(f"{_LED}*")):
            drafts = RunFiles(directory)
            if _has(drafts.iterate(round_number), committed):
                for path in drafts._of_round(round_number):  # the iterate last: then all of them are there
                    durable.move(path, self.directory / path.name)

    def publish_end(self, token: int) -> None:
        """Make adapter and report those of the run that has ended, and drop what no other leader finished.

        Args:
            token: of the lease under which the run ended: nobody takes that of a run that has ended.
        """
        drafts = self.drafts(token)
        if drafts.exported.exists():
            shutil.rmtree(self.directory / _EXPORTED, ignore_errors=True)  # of an end that was never committed
        for path in (drafts.exported, drafts.report):
            durable.move(path, self.directory / path.name)
        for directory in self.directory.glob(f"{_LED}*"):
            shutil.rmtree(directory, ignore_errors=True)

    @property
    def end_published(self) -> bool:
        """Whether adapter and report of a run that has ended lie where they are read, or nobody is left to put them."""
        return self.reported or not any(self.directory.glob(f"{_LED}*"))

    def _of_round(self, number: int) -> tuple[Path, ...]:
        return (self.sum(number), self._moments(number), self._average(number), self.iterate(number))

    def write_start(self, plan: Plan) -> None:
        """Write the vector that round 1 starts from."""
        vector = joined(plan.recipe, read_initial(self.initial.read_bytes(), plan.recipe))
        durable.write(self.iterate(0), iterate_bytes(vector))

    def write_sum(self, round_number: int, words: Buffer) -> None:
        """Make a sum durable; it stays while the run goes on, for members that come back after rounds."""
        durable.make_directory(self.directory)
        durable.write(self.sum(round_number), words)

    def write_state(self, state: OptimizerState) -> tuple[Buffer, Buffer]:
        """Make a round's state durable, and return the bytes of its iterate and of what is released."""
        durable.make_directory(self.directory)
        averaged = state.average is not state.iterate and not np.array_equal(state.average, state.iterate)
        iterate = iterate_bytes(state.iterate)
        released = iterate_bytes(state.average) if averaged else iterate
        durable.write(self._moments(state.round), state_to_bytes(state, with_iterate=False))
        if averaged:
            durable.write(self._average(state.round), released)
        else:
            durable.erase(self._average(state.round))  # of a leader with the same token that failed before its commit
        durable.write(self.iterate(state.round), iterate)
        return iterate, released

    def read_state(self, round_number: int) -> OptimizerState:
        """Return the state after a round; before round 1 it is the initial adapter.

        Raises:
            LocalError: ``E-STATE-DAMAGED``.
        """
        try:
            iterate = self.iterate(round_number).read_bytes()
            if round_number == 0:
                return OptimizerState.start(np.frombuffer(iterate, dtype=VECTOR_TYPE))
            moments = self._moments(round_number).read_bytes()
        except OSError as error:
            raise LocalError("E-STATE-DAMAGED", f"the adapter after round {round_number} does not load") from error
        return state_from_bytes(round_number, moments, iterate=iterate)

    def superseded(self, round_number: int, *, keep_released: bool) -> tuple[str, ...]:
        """Return the names of what no later round needs of a round."""
        moments, iterate, average = _names(round_number)
        if not keep_released:
            return (moments, iterate, average)
        return (moments,) if self.released(round_number).name == iterate else (moments, iterate)

    def forget(self, round_number: int, *, keep_released: bool) -> None:
        """Drop what no later round needs of a round."""
        self.remove(self.superseded(round_number, keep_released=keep_released))

    def remove(self, names: Iterable[str]) -> None:
        """Drop files of the directory, as far as they are there.

        Raises:
            LocalError: ``E-DISK-*``.
        """
        for name in names:
            durable.remove(self.directory / name)

    def forget_sums(self) -> None:
        """Drop all sums: the run has ended, and nobody steps from them any more."""
        self.remove(path.name for path in self.directory.glob(_SUMS))

    # --- where files are kept elsewhere ---

    def bring_start(self, completed: int) -> bool:
        """Bring here what a run begins with in a process; return whether the run has these files, and they are kept.

        Args:
            completed: its last round that is over.

        Raises:
            LocalError: ``E-STORAGE-*``.
        """
        there = all(path.exists() for path in (self.initial, self.iterate(0), self.iterate(completed)))
        return there and (self.content is None or bool(self.content.known()))

    def keep_round(self, round_number: int, drafts: RunFiles, superseded: Collection[str]) -> Change | None:
        """Keep what a leader wrote of a round, and return what the transaction says that commits it, if anything.

        Args:
            round_number: of the round.
            drafts: where the leader wrote.
            superseded: names of what is needed no longer then.

        Raises:
            LocalError: ``E-STORAGE-*``.
        """
        if self.content is None:
            return None
        written = [path.name for path in drafts._of_round(round_number) if path.exists()]
        known = self.content.known()
        dropped = tuple(known[name] for name in superseded if name in known)
        return Change(self.content.run_id, self.content.keep(drafts.directory, written), dropped)

    def keep_end(self, drafts: RunFiles, *, sums: bool) -> Change | None:
        """Keep what a leader wrote at the end of a run; arguments and result as of :meth:`keep_round`.

        Args:
            drafts: where the leader wrote.
            sums: whether the sums stay.

        Raises:
            LocalError: ``E-STORAGE-*``.
        """
        if self.content is None:
            return None
        exported = sorted(path for path in drafts.exported.glob("*") if path.is_file())
        written = [*(f"{_EXPORTED}/{path.name}" for path in exported), *([_REPORT] if drafts.report.exists() else [])]
        known = self.content.known()
        dropped = () if sums else tuple(kept for name, kept in known.items() if fnmatchcase(name, _SUMS))
        return Change(self.content.run_id, self.content.keep(drafts.directory, written), dropped)

    def _moments(self, round_number: int) -> Path:
        return self.file(f"state-{round_number}.safetensors")

    def _average(self, round_number: int) -> Path:
        return self.file(f"released-{round_number}.f32")


def _names(number: int) -> tuple[str, str, str]:
    """Return the names of a round's moments, iterate and average."""
    return (f"state-{number}.safetensors", f"global-{number}.f32", f"released-{number}.f32")


def _has(path: Path, committed: bytes) -> bool:
    """Return whether a file has this hash, without holding all of it."""
    try:
        with path.open("rb") as file:
            parts = iter(lambda: file.read(_READ_BYTES), b"")
            return adapter_hash_of(parts, os.fstat(file.fileno()).st_size) == committed
    except FileNotFoundError:
        return False
