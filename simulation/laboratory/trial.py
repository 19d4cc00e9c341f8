"""The rounds of one cell, from the initial adapter to its figures.

Guarantees: each round starts from the state that daemons would compute from the sum before it, and everything follows
from the cell, so that the same cell gives the same bits. What was done is kept after every round: interrupted, the
cell goes on after the last one.
Leaves to others: draft and plan (``setup``), sums (``sums``), where training runs (``engines``), files of the whole
simulation (``study``).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from safetensors.numpy import load, save

import methods
from host import durable
from methods.global_adapter import (
    iterate_bytes,
    next_state,
    read_initial,
    state_from_bytes,
    state_to_bytes,
    without_sum,
)
from methods.optimizer import OptimizerState
from methods.vectors import joined
from participant.training.evaluation import AdapterEvaluator
from privacy.dp.accountants import run_epsilon
from privacy.errors import RoundAborted
from privacy.plan import Plan
from simulation.binding import signed
from simulation.laboratory.absences import absences
from simulation.laboratory.engines import Engine, Prepare
from simulation.laboratory.setup import Setup
from simulation.laboratory.spec import Cell
from simulation.laboratory.sums import DirectSums, MaskedSums, Sums, run_round
from simulation.laboratory.training import SOURCE, AtHome, Integers, Vector
from simulation.seeded import seeded_key

PROGRESS: Final = "progress.json"
STATE_BYTES: Final = 4  # of an entry of the iterate
Masks = Literal["real", "skipped"]
Trained = Callable[[int], None]  # is told that so many more participants have trained


@dataclass(slots=True, kw_only=True)
class Progress:
    """What a cell has come to so far; all of it is kept.

    Attributes:
        trace: SHA-256 of what is released after each round, in hexadecimal.
        measured: a row of figures for the start and each measured round.
        transcript: of the rounds so far, in hexadecimal; empty without masks.
        voided: rounds without a sum.
        survived: participants in all sums together.
        attempts: of all rounds together.
        sent: bytes that the coordinator received.
        returned: bytes that travelled down: each sum to everybody, and the iterate where a step is not exact.
        training_seconds: processor time of training, wherever it ran.
        sum_seconds: processor time of everything else between two rounds.
        ended: why the run ended before its last round; empty if it did not.
    """

    trace: list[str] = field(default_factory=list)
    measured: list[dict[str, Any]] = field(default_factory=list)
    transcript: str = ""
    voided: list[int] = field(default_factory=list)
    survived: int = 0
    attempts: int = 0
    sent: int = 0
    returned: int = 0
    training_seconds: float = 0.0
    sum_seconds: float = 0.0
    ended: str = ""


class Trial:
    """A cell and how far it is.

    Args:
        cell: what is simulated.
        setup: its plan and data.
        directory: where it is kept.
        masks: whether sums are made under masks.
    """

    def __init__(self, cell: Cell, setup: Setup, directory: Path, masks: Masks) -> None:
        self._cell = cell
        self._setup = setup
        self._directory = directory
        self._masks = masks
        self._kept: dict[str, Vector] = {}  # what stays at home, with whom, where the method has such a part
        self._own_sums: dict[
            str, tuple[tuple[int, Integers], ...]
        ] = {}  # own sums that later rounds mask again, with bands
        self.progress, self.state = self._resume()

    @property
    def plan(self) -> Plan:
        """The cell's plan."""
        return self._setup.plan

    @property
    def done(self) -> int:
        """How many rounds are over."""
        return len(self.progress.trace)

    @property
    def over(self) -> bool:
        """Whether there is no round left."""
        return bool(self.progress.ended) or self.done == self.plan.recipe.rounds

    def run(self, prepare: Prepare, trained: Trained) -> None:
        """Run the rounds that are left.

        Args:
            prepare: makes the engine.
            trained: is told how many more participants have trained.

        Raises:
            LocalError: as the trainer and the evaluator.
        """
        if self.over:
            return
        evaluator, sums = self._setup.evaluator(), self._sums()
        if not self.progress.measured:
            self._measure(evaluator)
        with prepare(self._setup.work, self._directory) as engine:
            while not self.over:
                self._round(self.done + 1, sums, engine, trained)
                number = self.done
                if number == self.plan.recipe.rounds or number % self.plan.evaluation.every == 0 or self.over:
                    self._measure(evaluator)
                self._keep()

    def _round(self, number: int, sums: Sums, engine: Engine, trained: Trained) -> None:
        progress, plan, state = self.progress, self.plan, self.state
        started, before, sent = time.process_time(), progress.training_seconds, sums.sent
        stays: dict[str, Vector] = {}
        summed: dict[str, Integers] = {}

        def train(names: Sequence[str]) -> Iterator[Integers]:
            at_home = {name: AtHome(self._kept.get(name), self._own_sums.get(name, ())) for name in names}
            for name, update in zip(names, engine.updates(number, state.iterate, names, at_home), strict=True):
                progress.training_seconds += update.seconds
                if update.kept is not None and update.kept.size:
                    stays[name] = update.kept
                if update.summed is not None:
                    summed[name] = update.summed
                trained(1)
                yield update.entries

        iterate, after_void = bytes(iterate_bytes(state.iterate)), number - 1 in progress.voided
        try:
            total = run_round(
                sums, plan, number, iterate, train, lambda attempt: self._lost(number, attempt), after_void=after_void
            )
        except RoundAborted as aborted:
            progress.ended = f"{aborted.code}: {aborted.reason}"
            return
        if total is None:
            progress.voided.append(number)
            self.state = without_sum(plan, state)
        else:
            self.state = next_state(plan, state, plan.layout(number).blocks(total.words), total.survivors)
            self._kept |= {name: stays[name] for name in total.survivors if name in stays}
            self._keep_sums(number, {name: summed[name] for name in total.survivors if name in summed})
            self._count(number, len(total.survivors), total.attempts)
        progress.trace.append(hashlib.sha256(iterate_bytes(self.state.average)).hexdigest())
        progress.transcript, progress.sent = sums.transcript.hex(), progress.sent + sums.sent - sent
        here = 0.0 if engine.elsewhere else progress.training_seconds - before
        progress.sum_seconds += time.process_time() - started - here

    def _keep_sums(self, number: int, fresh: dict[str, Integers]) -> None:
        """Keep the survivors' own sums, and let go of those that no later round has a band for."""
        oldest = number + 2 - len(self.plan.privacy.bands)
        of_use = {name: tuple(one for one in sums if one[0] >= oldest) for name, sums in self._own_sums.items()}
        self._own_sums = of_use | {name: (*of_use.get(name, ()), (number, one)) for name, one in fresh.items()}

    def _count(self, number: int, survivors: int, attempts: int) -> None:
        """Count a round that has a sum."""
        progress, recipe = self.progress, self.plan.recipe
        progress.survived += survivors
        progress.attempts += attempts
        exact = methods.get(recipe.adapter.method).exact_step
        iterate = 0 if exact else recipe.state_entries * STATE_BYTES
        progress.returned += self.plan.n * (self.plan.layout(number).bytes + iterate)

    def _lost(self, number: int, attempt: int) -> dict[str, Any]:
        rates = self._cell.simulation.dropouts.rates
        return absences(rates, list(self._setup.keys), seed=self._cell.seed, number=number, attempt=attempt)

    def _sums(self) -> Sums:
        if self._masks == "skipped":
            return DirectSums(self.plan)
        operator = seeded_key(f"{SOURCE} {self._cell.seed} operator")
        return MaskedSums(
            signed(self.plan, operator),
            self._setup.keys,
            self._cell.seed,
            completed=self.done,
            transcript=bytes.fromhex(self.progress.transcript),
        )

    def _measure(self, evaluator: AdapterEvaluator) -> None:
        """Measure what is released now, beside what it cost so far."""
        progress, plan, number = self.progress, self.plan, self.done
        found = evaluator.measure(self.state.average)
        progress.measured.append(
            {
                "round": number,
                "examples": found.examples,
                **{metric.name: float(metric.value) for metric in found.metrics},
                "epsilon": run_epsilon(plan, number),
                "delta": float(plan.privacy.delta),
                "noise_multiplier": plan.privacy.noise_multiplier,
                "survivors_mean": progress.survived / (number - len(progress.voided) or 1),
                "attempts": progress.attempts,
                "voided": len(progress.voided),
                "bytes_up": progress.sent,
                "bytes_down": progress.returned,
                "training_seconds": progress.training_seconds,
                "sum_seconds": progress.sum_seconds,
                "adapter": hashlib.sha256(iterate_bytes(self.state.average)).hexdigest(),
                "ended": progress.ended,
            }
        )

    def _keep(self) -> None:
        """Keep the state, then what names it."""
        state = self._state_file(self.done)
        durable.write(state, state_to_bytes(self.state, with_iterate=True))
        if self._kept:
            durable.write(self._kept_file(self.done), save(self._kept))
        if self._own_sums:
            sums = {f"{at} {name}": one for name, kept in self._own_sums.items() for at, one in kept}
            durable.write(self._sums_file(self.done), save(sums))
        durable.write(self._directory / PROGRESS, json.dumps(asdict(self.progress)).encode())
        for older in (path for kind in ("state-*", "kept-*", "summed-*") for path in self._directory.glob(kind)):
            if older not in (state, self._kept_file(self.done), self._sums_file(self.done)):
                older.unlink()

    def _resume(self) -> tuple[Progress, OptimizerState]:
        kept = self._directory / PROGRESS
        if kept.exists():
            progress = Progress(**json.loads(kept.read_bytes()))
            done = len(progress.trace)
            if self._kept_file(done).exists():
                self._kept = load(self._kept_file(done).read_bytes())
            if self._sums_file(done).exists():
                self._own_sums = _by_member(load(self._sums_file(done).read_bytes()))
            return progress, state_from_bytes(done, self._state_file(done).read_bytes())
        recipe = self.plan.recipe
        return Progress(), OptimizerState.start(joined(recipe, read_initial(self._setup.work.initial, recipe)))

    def _kept_file(self, number: int) -> Path:
        return self._directory / f"kept-{number}.safetensors"

    def _sums_file(self, number: int) -> Path:
        return self._directory / f"summed-{number}.safetensors"

    def _state_file(self, number: int) -> Path:
        return self._directory / f"state-{number}.safetensors"


def _by_member(tensors: Mapping[str, Integers]) -> dict[str, tuple[tuple[int, Integers], ...]]:
    """Return own sums by member, the oldest first, from tensors named by round and member."""
    named = [(int(at), name, one) for key, one in tensors.items() for at, name in [key.split(" ", 1)]]
    named.sort(key=lambda entry: entry[:2])
    members = dict.fromkeys(name for _, name, _ in named)
    return {member: tuple((at, one) for at, name, one in named if name == member) for member in members}
