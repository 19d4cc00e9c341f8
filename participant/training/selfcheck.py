"""The self-check: proves on the very model and method, with synthetic rows, that what is charged for is what happens.

Guarantees: it passes only if each example's gradient is its own, bit for bit the same beside any others; if one unit of
privacy moves the integer sum by at most D; if a step moves the
adapter and the model's answers; and if the exported
adapter gives those answers on a clean base. Otherwise it refuses, before anything is read or charged.
Leaves to others: real data, which it never sees.
Source: docs/privacy-accounting.md section 3; Opacus issue 820 (adapters that never moved while epsilon was charged).
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from safetensors.numpy import save_file

import methods
from methods.vectors import local_places, local_streams, local_tensors
from participant.training.adapters.adapted import ADAPTER_FILE, CONFIG_FILE, AdaptedModel, config_json
from participant.training.adapters.gradients import GradientEngine
from participant.training.adapters.sums import EMPTY_SLOT, Clip, GradientSums, joined
from participant.training.adapters.switched import left_out
from participant.training.adapters.turns import TurnEngines
from participant.training.bases.checks import normalises_over_batch
from participant.training.examples import IMAGES, Examples
from participant.training.round_work import resting_layers
from privacy.adapter_parts import StateStream, Tensor, Turn
from privacy.draft import Recipe
from privacy.errors import LocalError
from privacy.plan_parts import Mode, Privacy

GRADIENT_TOLERANCE: Final = 1e-4  # relative; float32 reductions differ by about 1e-6, a wrong gradient by more than 0.1
BFLOAT16_TOLERANCE: Final = 5e-2  # products of another shape, rounded to 8 bits: each is within 1e-2 of the float32 one
LOGIT_TOLERANCE: Final = 1e-4  # relative to the largest answer
MOVED: Final = 0.05  # standard deviation of the move from the start
MOVED_SEED: Final = 20221  # the same move every time
STEP_NORM: Final = 1.0  # length of the trial step of each stream: what it changes must show when it is reloaded
HUGE: Final = 1e6  # factor of the inputs of an example that must not get through the clip
ROWS_OF_A_USER: Final = 2  # of a synthetic one
SINGLE_EXAMPLES: Final = 4  # compared with a gradient of their own, one by one

SLOT_ROWS: Final = 32  # synthetic rows that are compared in every slot
PER_EXAMPLE: Final = frozenset({"local", "distributed"})  # modes that clip each example
# Classes that send tokens to experts: which rows share an expert's matrix product depends on the whole micro-batch.
ROUTERS: Final = re.compile(r"Router|MoE|Moe|Experts|TopK")

CleanBase = Callable[[], torch.nn.Module]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheck:
    """What is checked.

    Attributes:
        recipe: of the plan.
        privacy: of the plan.
        engines: those that training uses, over the model with the adapter loaded.
        synthetic: a micro-batch of synthetic examples.
        initial: tensors of the initial adapter.
        clean_base: loads the base anew.
        slot_rows: rows that are compared in every slot of a micro-batch; by default the synthetic ones.
    """

    recipe: Recipe
    privacy: Privacy
    engines: TurnEngines
    synthetic: Examples
    initial: Mapping[str, NDArray[Any]]
    clean_base: CleanBase
    slot_rows: Examples | None = None

    def run(self) -> bool:
        """Run every check in every turn: where the run starts, and at an adapter that has moved from there.

        At the start a factor may be zero and hide what is wrong with the other's gradient. Turns that the run does not
        start with are checked at the moved adapter alone, and so is everything where a factor stays at home.

        Returns:
            Whether each example needs a fixed slot in its micro-batch (``GradientSums.fixed_slots``).

        Raises:
            LocalError: ``E-SELF-CHECK``, naming the check.
        """
        adapted = self.engines.adapted
        start = adapted.vector()
        moved = moved_from(start)
        fixed_slots = False
        try:
            check_modules(self.engines.adapted.model, self.privacy.mode)
            for number, turn in enumerate(self.recipe.turns):
                rows = self.slot_rows or self.synthetic
                check = TurnCheck(self.recipe, turn, self.privacy, self.engines.enter(number), self.synthetic, rows)
                first = number == self.recipe.schedule.turn(1) and not methods.get(self.recipe.adapter.method).home
                positions = (start, moved) if first else (moved,)
                for position in positions:
                    adapted.load(position)
                    fixed_slots |= check.run(position, every_tensor=position is moved)
            self._left_out_layers()
            adapted.load(moved[: self.recipe.state_entries])
            self._reload()
        finally:
            adapted.load(start)
        return fixed_slots

    def _left_out_layers(self) -> None:
        """A model without the layers that rest in a round answers, and each example's gradient is its own there too."""
        if not methods.get(self.recipe.adapter.method).skips_layers:
            return
        engine = self.engines.enter(self.recipe.schedule.turn(1))
        rows = self.slot_rows or self.synthetic
        check = TurnCheck(self.recipe, self.recipe.turn(1), self.privacy, engine, self.synthetic, rows)
        try:
            with left_out(resting_layers(self.engines.adapted, 1)):
                check.without_layers()
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            _fail("left-out layers", f"the model does not run without them ({type(error).__name__})")

    def _reload(self) -> None:
        """The adapter as it will be exported gives the same answers on a clean base."""
        adapted = self.engines.adapted
        inputs = self.synthetic.take(np.arange(min(SINGLE_EXAMPLES, len(self.synthetic)))).inputs
        tensors = methods.get(self.recipe.adapter.method).export(
            self.recipe, adapted.vector()[: self.recipe.state_entries], self.initial
        )
        with tempfile.TemporaryDirectory(prefix="onlysum-selfcheck-") as directory, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's advice on names and formats does not concern this throw-away copy
            folder = Path(directory)
            save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / ADAPTER_FILE)
            (folder / CONFIG_FILE).write_text(config_json(adapted.model, self.recipe.adapter, self.recipe.base.name))
            clean = PeftModel.from_pretrained(self.clean_base().to(adapted.device), directory).eval()
        with torch.no_grad():
            answers, reloaded = (
                replace(adapted, precision="float32").logits(inputs),
                adapted.work.answers(clean, inputs),
            )
        if not (answers - reloaded).abs().max() <= LOGIT_TOLERANCE * answers.abs().max():
            _fail("save and reload", "the exported adapter answers differently on a clean base")


def check_modules(model: torch.nn.Module, mode: Mode) -> None:
    """Refuse a model in which something drops out, keeps statistics of batches, or lets rows meet.

    Raises:
        LocalError: ``E-SELF-CHECK``.
    """
    for name, module in model.named_modules():
        if normalises_over_batch(module):
            _fail("modules", f"{name} normalises over the batch")
        if isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.training and module.p:
            _fail("modules", f"{name} drops out")
    if mode in PER_EXAMPLE and (found := routers(model)):
        _fail("modules", f"{found[0]} routes to experts: their batches depend on company")


def moved_from(start: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an adapter that has moved from the start, the same every time; shape as the start's."""
    return start + MOVED * np.random.default_rng(MOVED_SEED).normal(size=start.shape).astype(np.float32)


def routers(model: torch.nn.Module) -> list[str]:
    """Return the modules of a model that send tokens to experts, each with its class."""
    named = ((name, type(module).__name__) for name, module in model.named_modules())
    return [f"{name} ({kind})" for name, kind in named if ROUTERS.search(kind)]


@dataclass(frozen=True, slots=True)
class TurnCheck:
    """What is checked of one turn, wherever the adapter is.

    Attributes:
        recipe: of the plan.
        turn: which one.
        privacy: of the plan.
        engine: of the turn.
        synthetic: a micro-batch of synthetic examples.
        slot_rows: rows that are compared in every slot.
    """

    recipe: Recipe
    turn: Turn
    privacy: Privacy
    engine: GradientEngine
    synthetic: Examples
    slot_rows: Examples

    @property
    def _adapted(self) -> AdaptedModel:
        return self.engine.adapted

    @property
    def _size(self) -> int:
        return len(self.synthetic)

    def run(self, position: NDArray[np.float32], *, every_tensor: bool) -> bool:
        """Run the checks at the adapter that is loaded; return whether each example needs a fixed slot.

        Args:
            position: what is loaded, shape (state entries,); it is loaded again at the end.
            every_tensor: whether every tensor must have a gradient; at the start a factor may be zero.

        Raises:
            LocalError: ``E-SELF-CHECK``, naming the check.
        """
        self._trainables()
        fixed_slots = False
        if self.privacy.mode in PER_EXAMPLE:
            self._gradients()
            self._independence()
            fixed_slots = not (self._same_in_every_slot() and (not every_tensor or self._rows_same_in_every_slot()))
            self._sensitivity(fixed_slots)
        self._step(position, every_tensor=every_tensor)
        return fixed_slots

    def without_layers(self) -> None:
        """Check gradients where some layers are left out.

        Raises:
            LocalError: ``E-SELF-CHECK``.
        """
        if self.privacy.mode in PER_EXAMPLE:
            self._gradients()
            self._independence()
        elif not np.isfinite(self.engine.summed(self.synthetic.take(np.arange(self._size)))).all():
            _fail("left-out layers", "the model's gradient is no number without them")

    def _trainables(self) -> None:
        """What trains is what the plan says, no more and no less."""
        training = {id(parameter) for parameter in self._adapted.model.parameters() if parameter.requires_grad}
        expected = {id(parameter) for parameter in self._adapted.trained}
        if training != expected:
            few = len(expected - training)
            _fail("trainables", f"{few} of the plan's tensors are frozen, {len(training - expected)} others train")

    def _gradients(self) -> None:
        """Per-example gradients from a batch are those of single examples, computed without hooks.

        An example is compared with itself in a batch of one, and alone in a whole micro-batch: there the kernels are
        the same, so that a coarse precision hides nothing.
        """
        places = np.arange(self._size)
        rows = self._rows(places)
        coarse = GRADIENT_TOLERANCE if self._adapted.precision == "float32" else BFLOAT16_TOLERANCE
        for place in range(min(SINGLE_EXAMPLES, self._size)):
            alone = np.where(places == place, places, EMPTY_SLOT)
            for slots, tolerance in ((places[place : place + 1], coarse), (alone, GRADIENT_TOLERANCE)):
                single = self.engine.summed(self.synthetic.take(slots), slots != EMPTY_SLOT)
                difference, length = np.linalg.norm(rows[place] - single), np.linalg.norm(single)
                if not difference <= tolerance * length:
                    _fail("per-example gradients", f"example {place} differs from its own gradient by {difference:.2g}")

    def _independence(self) -> None:
        """An example's bits are the same whatever is in the other slots: examples, nothing, or what is no number."""
        places = np.arange(self._size)
        others = np.roll(places, 1)
        rows = self._rows(places)
        for kept in (places % 2 == 0, places % 2 == 1, *(places == slot for slot in {0, self._size - 1})):
            for beside in (others, np.full(self._size, EMPTY_SLOT)):
                found = self._rows(np.where(kept, places, beside))
                if not np.array_equal(found[kept], rows[kept]):
                    _fail("batch independence", "an example's gradient depends on the other examples of its batch")
        spoilt = self.synthetic.take(places)
        if IMAGES in spoilt.inputs:  # tokens are always numbers
            spoilt.inputs[IMAGES][0] = torch.nan
            if not np.array_equal(self.engine.per_example(spoilt)[1:], rows[1:]):
                _fail("batch independence", "an example that is no number spoils the others of its batch")

    def _same_in_every_slot(self) -> bool:
        """Return whether an example's bits are the same in every slot; if not, it gets one slot for good."""
        for place in {0, self._size // 2, self._size - 1}:
            rows = self._rows(np.full(self._size, place))
            if not (rows == rows[0]).all():
                return False
        return True

    def _rows_same_in_every_slot(self) -> bool:
        """Return whether many rows have the same bits wherever they stand: a few would miss rare differences."""
        for start in range(0, len(self.slot_rows), self._size):
            count = min(self._size, len(self.slot_rows) - start)
            first = self.engine.per_example(self.slot_rows.take(start + np.arange(self._size) % count))[:count]
            for turn in range(1, count):  # after which each of these rows has been in every slot
                rows = (np.arange(self._size) + turn) % count
                if not np.array_equal(self.engine.per_example(self.slot_rows.take(start + rows)), first[rows]):
                    return False
        return True

    def _sensitivity(self, fixed_slots: bool) -> None:
        """Adding or removing one unit moves the integer sum by at most D, one with huge inputs included."""
        huge = self.synthetic.take(np.arange(self._size))
        if IMAGES in huge.inputs:
            huge.inputs[IMAGES][0] *= HUGE
        sums = GradientSums(self.engine, huge, self._size, fixed_slots)
        clip = Clip(sensitivity=self.privacy.sensitivity, clip_norm=float(self.privacy.clip_norm))
        by_user = self.privacy.unit == "user"
        units = np.array_split(np.arange(self._size), max(1, self._size // (ROWS_OF_A_USER if by_user else 1)))

        def sum_of(some: list[NDArray[np.int64]]) -> NDArray[np.int64]:
            return sums.clipped_means(some, **clip) if by_user else sums.clipped(joined(some), **clip)

        total = sum_of(units)
        for place in {0, len(units) - 1}:
            moved = total - sum_of(units[:place] + units[place + 1 :])
            if sum(int(entry) ** 2 for entry in moved) > self.privacy.sensitivity**2:
                _fail(
                    "sensitivity", f"one {self.privacy.unit} moves the sum by more than D = {self.privacy.sensitivity}"
                )
        if not total.any():
            _fail("sensitivity", "the clipped sum of all examples is zero")

    def _step(self, before: NDArray[np.float32], *, every_tensor: bool) -> None:
        """A step moves every stream, at a moved adapter every tensor, and with each stream the model's answers."""
        gradient = self.engine.summed(self.synthetic.take(np.arange(self._size)))
        inputs = self.synthetic.take(np.arange(self._size)).inputs
        where = local_places(self.recipe, self.turn)
        with torch.no_grad():
            answers = self._adapted.logits(inputs)
        for tensor, span in _spans(local_tensors(self.recipe, self.turn)):
            length = np.linalg.norm(gradient[span])
            if not np.isfinite(length) or (every_tensor and length == 0):
                _fail("non-zero update", f"a step does not move {tensor.key} of stream {tensor.stream}")
        for stream, span in _spans(local_streams(self.recipe, self.turn)):
            length = np.linalg.norm(gradient[span])
            if not length > 0:
                _fail("non-zero update", f"a step does not move stream {stream.name}")
            alone = before.copy()
            alone[where[span]] -= (STEP_NORM * gradient[span] / length).astype(np.float32)
            self._adapted.load(alone)
            with torch.no_grad():
                if torch.equal(self._adapted.logits(inputs), answers):
                    _fail("non-zero update", f"stream {stream.name} does not change the model's answers")
        self._adapted.load(before)

    def _rows(self, slots: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.engine.per_example(self.synthetic.take(slots))


def _spans(parts: Iterable[Tensor] | Iterable[StateStream]) -> Iterator[tuple[Any, slice]]:
    """Yield each part of a vector with its place."""
    start = 0
    for part in parts:
        length = part.entries if isinstance(part, Tensor) else part.length
        yield part, slice(start, start := start + length)


def _fail(check: str, what: str) -> None:
    raise LocalError("E-SELF-CHECK", f"{check}: {what}")
