"""The torch trainer: local steps on the owner's data, clipped and noised as the plan says.

Guarantees: what leaves :meth:`TorchTrainer.train` is a vector of integers that the ring can hold, with the plan's noise
inside in every noised mode; noise is drawn before a batch is read; batches are Poisson samples from secret coins and
their sizes, members and losses are written nowhere; an empty batch is a step. In a noised mode neither a refusal nor
the time that training takes depends on data once a round has begun: what fails contributes zeros under its noise.
Every constant is the plan's.
Leaves to others: charging (``participant.owner.ledger``), masking (``participant.protocol.round``), the coordinator's
optimizer.
Source: docs/privacy-accounting.md section 3.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar, assert_never

import numpy as np
import torch
from numpy.typing import NDArray

import methods
from host.logs import get_logger
from methods.method import BY_ITSELF, Fusion, Method
from methods.uploads import kept_as_sent, kept_at_start
from participant.training.adapters.adapted import AdaptedModel, read_initial
from participant.training.adapters.configurations import whole_modules
from participant.training.adapters.device import find_device, peak_mib, require_precision
from participant.training.adapters.gradients import GradientEngine
from participant.training.adapters.kinds import require_weights
from participant.training.adapters.prefix import KeptActivations, shortened
from participant.training.adapters.sums import Clip, GradientSums, joined
from participant.training.adapters.turns import TurnEngines
from participant.training.bases.checkpointing import run_blocks_again
from participant.training.bases.memory import Memory, micro_batch
from participant.training.data import Columns, hash_dataset
from participant.training.examples import Examples, load_examples, synthetic_examples
from participant.training.measuring.check import MeasureCheck
from participant.training.models import Base, load_base
from participant.training.noise_keys import NoiseKeys
from participant.training.record import OwnersRecord
from participant.training.round_work import RoundWork
from participant.training.selfcheck import PER_EXAMPLE, SLOT_ROWS, SelfCheck, moved_from
from participant.training.timing import FixedDuration, Slots, max_micro_batches
from participant.training.trainer import EngineName, Precision, Progress, Sums
from privacy.dp.bands import banded
from privacy.dp.clipping import clamp, clip_radius, integer_clip
from privacy.dp.fast_noise import compile_now, discrete_gaussian
from privacy.dp.sampling import choose, dealt, largest_batch, poisson_sample
from privacy.errors import LocalError
from privacy.interfaces import RandomSource
from privacy.plan import Plan
from privacy.secagg.fixed_point import fixed
from privacy.secagg.keys import framed

Vector = NDArray[np.float32]
Wide = NDArray[np.float64]
Integers = NDArray[np.int64]
Number = TypeVar("Number", np.int64, np.float64)

REHEARSALS: Final = 5  # of a micro-batch and of the noise, to see how long they take
SPARE_TIME: Final = 1.5  # a period over what its parts usually took when they were rehearsed
READING_SECONDS: Final = 1.0  # that reading the data takes at least; then twice as many, and so on

ASK_A_DRY_RUN: Final = "`onlysum participant status` says how many, and why not the first of them"

_log = get_logger("onlysum.participant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """What a trainer works with.

    Attributes:
        plan: verified and approved.
        me: this participant's name on the roster.
        model: folder of the base model.
        dataset: file or directory.
        columns: of the dataset; see ``participant.training.data.task_columns``.
        initial_adapter: the plan's safetensors file.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``auto``.
        threads: of torch; one where participants share a machine.
        engine: computes gradients; ``fast`` gives way to ``opacus`` where it does not know a layer.
        precision: of the frozen base.
        memory: how much of it training may take.
        sha256: of the dataset as it was registered; empty: not compared.
        strict: whether a row that the plan cannot use is refused; only for the owner's own eyes.
        kept: activations of other trainers of this process; only for simulations.
    """

    plan: Plan
    me: str
    model: Path
    dataset: Path
    columns: Columns
    initial_adapter: Path
    device: str = "cpu"
    threads: int = 1
    engine: EngineName = "fast"
    precision: Precision = "float32"
    memory: Memory = field(default_factory=Memory)
    sha256: str = ""
    strict: bool = False
    kept: KeptActivations | None = None


class TorchTrainer:
    """Implements ``participant.training.trainer.Trainer`` with torch, PEFT and Opacus.

    Args:
        materials: model, data and plan.
        random: secret coins and noise; a seeded source makes a simulation that is not private.
        keys: opens a stream for each round, from which secret coins and noise are drawn instead.
        pace: makes reading the data and every round of a noised mode take times that tell nothing of the data; a
            simulation needs none.
        record: told how many rows the plan cannot use, and the round and the class of the error where a step fails
            and noise leaves without it; for the owner's eyes, and within the round's fixed time.
    """

    def __init__(
        self,
        materials: Materials,
        random: RandomSource,
        keys: NoiseKeys | None = None,
        pace: FixedDuration | None = None,
        record: OwnersRecord | None = None,
    ) -> None:
        self._materials = materials
        self._plan = materials.plan
        self._random = random
        self._keys = keys
        self._pace = pace if materials.plan.privacy.noised else None
        self._record = record
        self.kept: Vector | None = None
        self.earlier: Sums = ()
        self.summed: Integers | None = None
        self._at_start = np.empty(0, dtype=np.float32)
        self._round = 0
        self._slots: Slots | None = None
        self._usual: dict[int, float] = {}  # seconds of a micro-batch when it was rehearsed, by turn
        self._self_check: SelfCheck | MeasureCheck | None = None
        self._engines: TurnEngines | None = None
        self._examples: Examples | None = None
        self._base: Base | None = None
        self._fixed_slots = False
        self._start: Vector = np.zeros(0, dtype=np.float32)
        self._units: list[Integers] = []
        self._dealt: list[Integers] | None = None
        self.remarks: tuple[str, ...] = ()  # what the owner should know of the rows, once they are read

    def prepare(self) -> None:
        """Load base and adapter, run the self-check on synthetic rows, then read the data.

        A row that the plan cannot use is an empty example: a refusal would be a release that nobody was charged for.

        Raises:
            LocalError: ``E-METHOD-REFUSED``, ``E-MODEL-*``, ``E-ADAPTER-HASH``, ``E-PLAN-*``, ``E-DEVICE``,
                ``E-SELF-CHECK`` or ``E-DATA-*``.
        """
        given, recipe = self._materials, self._plan.recipe
        methods.require_sound(recipe, self._plan.privacy.mode, self._plan.privacy.bands)
        if self._plan.privacy.unit == "user" and given.columns.user is None:
            raise LocalError("E-DATA-USER", f"{given.dataset.name}: the plan's unit is the user; no user column is set")
        torch.set_num_threads(given.threads)
        device = find_device(given.device)
        require_precision(device, given.precision)
        initial = read_initial(given.initial_adapter, recipe.adapter)
        task = recipe.task

        def base() -> Base:
            return load_base(
                given.model,
                recipe.base,
                task,
                head_modules=whole_modules(recipe.adapter),
                seed=recipe.adapter.seed,
                weights=given.memory.weights,
            )

        require_weights(recipe.adapter, given.memory.weights)
        self._at_start = kept_at_start(self._method, recipe, initial)
        loaded = base()
        adapted = AdaptedModel.attach(loaded.model, recipe, initial, device, precision=given.precision)
        if given.memory.checkpointing:
            run_blocks_again(adapted.model, recipe.adapter)
        size = self._micro_batch
        synthetic = synthetic_examples(loaded, task, size).to(device)
        engines = TurnEngines(adapted, synthetic, given.engine)
        self._start = adapted.vector()
        self._self_check = self._checked(
            SelfCheck(
                recipe=recipe,
                privacy=self._plan.privacy,
                engines=engines,
                synthetic=synthetic,
                initial=initial,
                clean_base=lambda: base().model,
                slot_rows=synthetic_examples(loaded, task, SLOT_ROWS).to(device),
            )
        )
        self._fixed_slots = self._self_check.run()
        compile_now()  # before a round's clock runs
        with nullcontext() if self._pace is None else self._pace.pad(READING_SECONDS):
            self._read(loaded, engines, synthetic)
        self._set_pace()

    def _checked(self, check: SelfCheck) -> SelfCheck | MeasureCheck:
        """Return the check that is run: of what trains, by default."""
        return check

    def _read(self, loaded: Base, engines: TurnEngines, synthetic: Examples) -> None:
        """Read the data: how long that takes may tell what is in it."""
        given, task, adapted = self._materials, self._plan.recipe.task, engines.adapted
        _require_unchanged(given)
        examples = load_examples(given.dataset, given.columns, task, loaded, strict=given.strict).to(adapted.device)
        if self._record is not None:
            self._record.read(len(examples), examples.unusable.size, examples.cause)
        if examples.unusable.size:
            _log.warning("rows that do not fit the plan count as empty", run=self._plan.run_id, next=ASK_A_DRY_RUN)
        self.remarks = examples.remarks
        self._units = self._rows_of_units(examples, np.arange(len(examples), dtype=np.int64))
        if self._visits > 1 and adapted.work.cacheable:
            examples = shortened(engines, synthetic, examples, given.kept)
        self._engines, self._examples, self._base = engines, examples, loaded

    def rehearse(self, monotonic: Callable[[], float]) -> tuple[float, int, str]:
        """Return what a round takes at most, timed on synthetic rows.

        Args:
            monotonic: seconds that never go backwards.

        Returns:
            Seconds of training, MiB of memory at most (the device's, where that is a GPU), and the device.
        """
        seconds = self._longest(FixedDuration(monotonic, lambda _seconds: None))
        device = find_device(self._materials.device)
        return seconds, peak_mib(device), str(device)

    def of_participant(self, me: str, rows: Integers, random: RandomSource) -> TorchTrainer:
        """Return the trainer of a participant that has some of these rows, on this one's base, engines and self-check.

        For simulations, where one process plays everybody: what is loaded once serves them all, one after the other.

        Args:
            me: its name on the roster.
            rows: which of the dataset's, ascending.
            random: its coins and noise.
        """
        if self._examples is None:
            raise LocalError("E-BUG", "a trainer was not prepared")
        other = TorchTrainer(replace(self._materials, me=me), random)
        other._engines, other._examples, other._fixed_slots = self._engines, self._examples, self._fixed_slots
        other._at_start, other._base = self._at_start, self._base
        other._units = self._rows_of_units(self._examples, rows)
        return other

    def check(self) -> None:
        """Repeat the self-check on the very engines that train, so that what rounds changed in them is seen.

        Raises:
            LocalError: ``E-SELF-CHECK``.
        """
        if self._self_check is None:
            raise LocalError("E-BUG", "a trainer was not prepared")
        self._self_check.run()

    def step_on_rows(self) -> tuple[str, ...]:
        """Take one private step of each turn on the owner's rows, keep nothing, and say what it found.

        The step reads as many rows as the largest batch, so that it costs no more than a step of a round.

        Raises:
            LocalError: ``E-TRAINING``, with the turn and the class of what failed.
        """
        sum_of = self._clipped if self._plan.privacy.mode in PER_EXAMPLE else self._plain
        found, recipe = [], self._plan.recipe
        for number, turn in enumerate(recipe.turns):
            which, batch = f"turn {number + 1} ({', '.join(turn.trains)})", self._largest_batch()
            try:
                sums = self.sums_of_turn(number)
                sums.engine.adapted.load(self._start if number == recipe.schedule.turn(1) else moved_from(self._start))
                seen = self._in_step(sums, batch)
                lost = seen.without_loss(joined(batch))
                total = sum_of(seen, batch)
                noisy = total + self._noise(total.size) if self._plan.privacy.noised else total
            except Exception as error:  # noqa: BLE001  whatever the rows bring about; its words may be theirs
                raise LocalError("E-TRAINING", f"{which}: {type(error).__name__}") from None
            if not np.isfinite(noisy).all():
                raise LocalError("E-TRAINING", f"{which}: a gradient is infinite, or not a number")
            if lost:  # under noise such a row counts as an empty one, without a word
                rule = f"the loss of {lost} of {joined(batch).size} rows is infinite, or not a number"
                raise LocalError("E-TRAINING", f"{which}: {rule}")
            moves = "went well" if total.any() else "moves nothing: every gradient is zero"
            found.append(f"{which}: a step on {joined(batch).size} of {len(self._examples or ())} rows {moves}")
        return tuple(found)

    def _largest_batch(self) -> list[Integers]:
        """Return the rows of as many units as a batch hardly ever exceeds, one at least."""
        units = max(self._bins, key=len)
        most = max(1, largest_batch(units.size, self._plan.privacy.bin_rate))
        chosen = choose(units, most, self._random)
        return self._rows_in_step([self._units[place] for place in chosen])

    def _set_pace(self) -> None:
        """See how long a round takes at most, so that every one takes as long."""
        if self._pace is not None:
            period = self._longest(self._pace)
            self._slots = Slots(self._pace, period, spare=SPARE_TIME)
            _log.info("every round's training takes the same time", run=self._plan.run_id, seconds=f"{period:.1f}")

    def train(self, round_number: int, adapter: Vector, progress: Progress) -> Integers:
        """Return this round's encoded update, shape (entries of its turn,); see :class:`~participant.training.trainer`.

        Raises:
            LocalError: ``E-RANDOM-REPEATED`` or ``E-DISK-*``, before a batch is drawn. In mode ``none`` also whatever
                fails later; in the others that is logged, and the noise leaves without it.
        """
        if self._keys is not None:
            self._random = self._keys.open_stream()
        self._round = round_number
        with nullcontext() if self._slots is None else self._slots.pad(self._slowness):
            return self._update(round_number, adapter, progress)

    def _slowness(self) -> float:
        """Return how many times longer than in the rehearsal a micro-batch of the round takes now."""
        turn = self._plan.recipe.schedule.turn(self._round)
        assert self._pace is not None  # there are slots
        return self._micro_batch_seconds(turn, self._pace, times=1) / max(self._usual[turn], sys.float_info.min)

    def _update(self, round_number: int, adapter: Vector, progress: Progress) -> Integers:
        work = self._work(round_number)
        match self._plan.privacy.mode:
            case "distributed":
                update = self._noisy_sum(work, adapter, progress)
            case "distributed-participant":
                update = self._noisy_difference(work, adapter, progress)
            case "local" | "none":
                encoding = self._plan.encoding
                difference, stays = self._local_steps(work, adapter, progress)
                update = fixed(difference, scale_exponent=encoding.scale_exponent, clamp=encoding.clamp)
                self._keep(stays, update, 2.0**-encoding.scale_exponent)
            case _ as unknown:
                assert_never(unknown)
        if self._method.home in BY_ITSELF:
            self._home_steps(work, adapter)
        return update

    def _work(self, round_number: int) -> RoundWork:
        """Enter a round's turn and return what trains in it."""
        recipe = self._plan.recipe
        sums = self.sums_of_turn(recipe.schedule.turn(round_number))
        return RoundWork.of_round(recipe, round_number, self._plan.member(self._materials.me), sums)

    def sums_of_turn(self, turn: int) -> GradientSums:
        """Enter a turn, by its number in the plan, and return sums of its gradients over the owner's data."""
        if self._engines is None:
            raise LocalError("E-BUG", "a trainer was not prepared")
        return self._sums(self._engines.enter(turn))

    def _sums(self, engine: GradientEngine) -> GradientSums:
        if self._examples is None:
            raise LocalError("E-BUG", "a trainer was not prepared")
        return GradientSums(engine, self._examples, self._micro_batch, self._fixed_slots)

    def _local_steps(self, work: RoundWork, adapter: Vector, progress: Progress) -> tuple[Wide, Vector]:
        """Take the plan's local steps; return how far they led, shape (entries of the turn's sums,), and what stays."""
        privacy, recipe = self._plan.privacy, self._plan.recipe
        rates, proximal = work.learning_rates, float(recipe.training.proximal)
        expected = float(privacy.sampling_rate) * self._counted
        kept = self._before
        adapter = work.start(self._with_home(adapter, kept))
        pull = work.pull(adapter, kept)
        position: Wide = adapter.astype(np.float64)
        for step in range(privacy.local_steps):
            part = work.in_step((work.number - 1) * privacy.local_steps + step)
            where = part.places[part.columns]
            if privacy.mode == "local":
                noise = self._noise(part.columns.size) * (1 if part.sums.held is None else part.sums.held)
                total = self._sum_at(part, position, self._clipped) + noise
                gradient = total * (self._unit(part.columns.size) / expected)
            else:
                gradient = self._sum_at(part, position, self._plain) / expected
            gradient = gradient + proximal * (position - adapter)[where] + pull[part.columns]  # neither reads data
            position[where] -= rates[part.columns] * gradient
            progress(step + 1, privacy.local_steps)
        return work.uploaded(adapter, position, kept, privacy.local_steps)

    def _keep(self, stays: Vector, sent: Integers, one: float) -> None:
        """Keep what stays at home, as far as it went up; steps that went astray leave nothing behind."""
        before = self._before
        moved = kept_as_sent(self._plan.recipe, before, stays, sent, one)
        self.kept = moved if np.isfinite(moved).all() else before

    @property
    def _before(self) -> Vector:
        """What had stayed at home before this round."""
        return self._at_start if self.kept is None else self.kept

    def _with_home(self, adapter: Vector, kept: Vector) -> Vector:
        """Return a global adapter as this participant trains on it, and the tensors that stay at home behind it."""
        method, plan = self._method, self._plan
        if method.seen is not None:
            share = plan.member(self._materials.me).weight / sum(member.weight for member in plan.roster)
            adapter = method.seen(plan.recipe, adapter, kept, share)
        return np.concatenate([adapter, kept]) if method.home else adapter

    def _home_steps(self, work: RoundWork, adapter: Vector) -> None:
        """Train what stays at home by itself, as many steps as the others: no clip and no noise, for nobody gets it."""
        kept = self._before
        start = np.concatenate([adapter, kept])
        home, position = work.at_home(self._sums(self._home_engine())), start.astype(np.float64)
        expected = float(self._plan.privacy.sampling_rate) * self._counted
        for _ in range(self._plan.privacy.local_steps):
            position[home.places] -= home.learning_rates * self._sum_at(home, position, self._plain) / expected
        stays = position[home.places].astype(np.float32)
        self.kept = stays if np.isfinite(stays).all() else kept

    def own_model(self, adapter: Vector) -> tuple[GradientEngine, Vector]:
        """Return an engine with this participant's own adapter switched on, and what it loads for a global adapter."""
        if self._method.home in BY_ITSELF:
            return self._home_engine(), np.concatenate([adapter, self._before])
        return self.sums_of_turn(0).engine, self._with_home(adapter, self._before)

    def best_fusion(self, adapter: Vector) -> Fusion:
        """Return the weights of a released state and one's own LoRA that one's own rows like best; for the owner."""
        if self._engines is None or self._examples is None:
            raise LocalError("E-BUG", "a trainer was not prepared")
        return self._engines.best_fusion(self._examples, np.concatenate([adapter, self._before]))

    def _home_engine(self) -> GradientEngine:
        if self._engines is None:
            raise LocalError("E-BUG", "a trainer was not prepared")
        return self._engines.at_home()

    @property
    def _method(self) -> Method:
        return methods.get(self._plan.recipe.adapter.method)

    def _noisy_sum(self, work: RoundWork, adapter: Vector, progress: Progress) -> Integers:
        """One step's clipped gradient sum, with bands those before it, and this participant's share of the noise."""
        noise = self._noise(work.turn.entries)
        total = clamp(self._sum_at(work.as_summed(), work.start(adapter), self._clipped), self._plan.encoding.clamp)
        progress(1, 1)
        if not self._plan.privacy.banded:
            return total + noise
        self.summed = total
        return banded(self._plan.privacy.bands, work.number, total, self.earlier) + noise

    def _noisy_difference(self, work: RoundWork, adapter: Vector, progress: Progress) -> Integers:
        """The whole difference clipped as one unit, with this participant's share of the noise."""
        noise = self._noise(work.turn.entries)
        difference, stays = self._local_steps(work, adapter, progress)
        row = clamp(integer_clip(difference[None], **self._clip)[0], self._plan.encoding.clamp)
        self._keep(stays, row, self._unit(work.turn.entries))
        return row + noise

    def _sum_at(
        self,
        work: RoundWork,
        position: Vector | Wide,
        sum_of: Callable[[GradientSums, list[Integers]], NDArray[Number]],
    ) -> NDArray[Number] | Integers:
        """Return the sum over a batch at a position, or zeros: that it failed might tell something of the data."""
        batch = self._batch()
        try:
            work.sums.engine.adapted.load(position.astype(np.float32))
            return sum_of(self._in_step(work.sums, batch), batch)
        except Exception as error:
            if not self._plan.privacy.noised:
                raise
            self._note_failure(error)
            return np.zeros(work.sums.entries, dtype=np.int64)

    def _note_failure(self, error: Exception) -> None:
        """Write down, for the owner's eyes, that a step failed and noise leaves without it."""
        failure = LocalError("E-TRAINING", type(error).__name__)  # its words may be the data's
        if self._record is not None:
            self._record.failed(self._round, type(error).__name__)
        next_step = failure.explanation.next_step
        _log.error("training failed", run=self._plan.run_id, code=failure.code, detail=failure.detail, next=next_step)

    def _in_step(self, sums: GradientSums, batch: list[Integers]) -> GradientSums:
        """Return sums over the examples as this step sees them: with coins of its own, where the task tosses any."""
        if self._base is None:
            raise LocalError("E-BUG", "a trainer was not prepared")
        work = sums.engine.adapted.work
        examples = work.in_step(sums.examples, joined(batch), self._base, self._random)
        return replace(sums, examples=examples)

    def _longest(self, pace: FixedDuration) -> float:
        """Return how many seconds a round's training takes at most: of the largest batches, on synthetic rows."""
        return max(self._longest_of(number, pace) for number in range(len(self._plan.recipe.turns)))

    def _longest_of(self, number: int, pace: FixedDuration) -> float:
        privacy, sums, turn = self._plan.privacy, self.sums_of_turn(number), self._plan.recipe.turns[number]
        count = max(
            max_micro_batches(privacy, units=units, size=sums.micro_batch, fixed_slots=sums.fixed_slots)
            for units in self._bins
        )
        one = self._usual[number] = self._micro_batch_seconds(number, pace, times=REHEARSALS)
        noise = pace.median_seconds(lambda: self._noise(turn.entries), times=REHEARSALS) if privacy.noised else 0.0
        if self._method.home in BY_ITSELF:  # trained as well, without a clip
            one += pace.median_seconds(self._sums(self._home_engine()).time_plain, times=REHEARSALS)
        return SPARE_TIME * (privacy.local_steps * (count * one + noise) + one)  # one shows how fast the machine is

    def _micro_batch_seconds(self, turn: int, pace: FixedDuration, *, times: int) -> float:
        sums = self.sums_of_turn(turn)
        timed = partial(sums.time_micro_batch, **self._clip) if self._plan.privacy.noised else sums.time_plain
        return pace.median_seconds(timed, times=times)

    def _noise(self, entries: int) -> Integers:
        return discrete_gaussian(entries, self._plan.privacy.variance_exponent, self._random)

    def _batch(self) -> list[Integers]:
        """Return the rows of each unit of privacy in a Poisson sample."""
        drawable = self._bins[self._round % len(self._bins)]
        sampled = drawable[poisson_sample(drawable.size, self._plan.privacy.bin_rate, self._random)]
        return self._rows_in_step([self._units[place] for place in sampled])

    @property
    def _bins(self) -> list[Integers]:
        """Which units have their turn together; all of them, where noise is not correlated over rounds."""
        if self._dealt is None or sum(map(len, self._dealt)) != len(self._units):
            seed = framed(self._plan.hash, self._materials.me.encode())
            self._dealt = dealt(len(self._units), len(self._plan.privacy.bands), seed)
        return self._dealt

    def _rows_in_step(self, units: list[Integers]) -> list[Integers]:
        privacy = self._plan.privacy
        if privacy.unit != "user":
            return units
        return [choose(rows, privacy.max_rows_per_user, self._random) for rows in units]

    def _clipped(self, sums: GradientSums, batch: list[Integers]) -> Integers:
        if self._plan.privacy.unit != "user":
            return sums.clipped(joined(batch), **self._clip)
        return sums.clipped_means(batch, **self._clip)

    def _plain(self, sums: GradientSums, batch: list[Integers]) -> Wide:
        """Sum the batch's gradients without a clip: in mode none, or where the whole difference is clipped later."""
        return sums.plain(joined(batch))

    def _rows_of_units(self, examples: Examples, rows: Integers) -> list[Integers]:
        """Return each unit's rows among some rows of the examples."""
        if self._plan.privacy.unit != "user" or examples.users is None:
            return [rows[place : place + 1] for place in range(rows.size)]
        users = examples.users[rows]
        order = np.argsort(users, kind="stable")
        return np.split(rows[order], np.flatnonzero(np.diff(users[order])) + 1)

    @property
    def _micro_batch(self) -> int:
        per_example = self._plan.privacy.mode in PER_EXAMPLE
        return micro_batch(self._plan.recipe, self._materials.memory, per_example=per_example)

    @property
    def _counted(self) -> int:
        """Number of units from which a batch is sampled; rows, where no part of the data is a unit by itself."""
        sampled_units = self._plan.privacy.unit in {"example", "user"}
        return self._plan.member(self._materials.me).units if sampled_units else len(self._units)

    @property
    def _visits(self) -> float:
        """How often an example is expected to be read in a whole run."""
        privacy = self._plan.privacy
        return float(privacy.sampling_rate) * privacy.local_steps * self._plan.recipe.rounds

    @property
    def _clip(self) -> Clip:
        return Clip(sensitivity=self._plan.privacy.sensitivity, clip_norm=float(self._plan.privacy.clip_norm))

    def _unit(self, entries: int) -> float:
        """Return what one integer step of a clipped gradient of so many entries stands for: C / r."""
        privacy = self._plan.privacy
        return float(privacy.clip_norm) / clip_radius(privacy.sensitivity, entries)


def _require_unchanged(given: Materials) -> None:
    """Refuse a dataset whose bytes are not those that its owner registered, before anything is charged.

    Raises:
        LocalError: ``E-DATA-CHANGED``.
    """
    if given.sha256 and hash_dataset(given.dataset) != given.sha256:
        detail = f"{given.dataset.name} is not what was registered with `dataset add`"
        raise LocalError("E-DATA-CHANGED", detail)
