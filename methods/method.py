"""What a federated fine-tuning method is: which tensors train when, what is summed, and in which modes that is sound.

Guarantees: a method is data and pure functions on names, shapes and arrays; every tensor is claimed by a
:class:`~methods.selectors.Selector` to which the method gives a role, or is refused by name; a mode that is not sound
is refused with its reason; :meth:`Method.export` gives PEFT's tensors.
Leaves to others: realising selectors in torch (``participant.training.adapters.kinds``), the mechanism
(``privacy.dp``), the coordinator's step (``optimizer``), files.
Source: docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from methods import layout
from methods.layout import ADAPTER_STREAM, NO_SIZES, Sizes, UploadKind
from methods.optimizer import OptimizerState, Wide, step
from methods.products import BASE
from methods.selectors import VARIATES, Selector, select
from methods.vectors import Vector, home_tensors, split, trained_tensors
from privacy.adapter_options import OPTIONS, AdapterOptions
from privacy.adapter_parts import Adapter, Differences, MaskOf, Role, Schedule, StateStream, Tensor, Turn, Upload
from privacy.draft import HEAD_STREAM, Recipe
from privacy.errors import LocalError
from privacy.plan_parts import Mode
from privacy.task_parts import ImageClassification, Task

EVERY_ROUND: Final = Schedule()  # the same turn
_DIFFERENCES: Final = Differences()

Category = Literal["additive", "selective", "reparameterised", "personalised"]
# Where the factors of a LoRA start: where PEFT lets them; there, but with orthonormal rows of A; at the largest
# singular vectors of the base's weights; or at these, and their product is taken out of the base.
Start = Literal["peft", "orthonormal", "principal", "principal, out of the base"]
Home = Literal["", "part", "beside", "alone", "mixed"]
BY_ITSELF: Final[frozenset[Home]] = frozenset({"beside", "alone"})  # what stays at home and trains after the others
Fusion = tuple[float, float]  # weights of the released adapter and of one's own
WHOLE: Final[Fusion] = (1.0, 1.0)
Published = dict[str, Vector]  # tensors of an adapter by key
ALL_MODES: Final[tuple[Mode, ...]] = get_args(Mode)


def _as_it_is(_adapter: Adapter, tensors: Published, _initial: Mapping[str, NDArray[Any]]) -> Published:
    return tensors


def _as_led(_recipe: Recipe, _start: Wide, end: Wide) -> Wide:
    return end


def _nothing(_tensors: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    return {}


def _home_entries(recipe: Recipe) -> int:
    return sum(tensor.entries for tensor in home_tensors(recipe))


def _as_mine(released: Published, mine: Published, _weights: Fusion) -> Published:
    return {**released, **mine}


def _no_others(_adapter: Adapter) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method of federated parameter-efficient fine-tuning.

    Attributes:
        name: as plans have it.
        title: as papers have it.
        category: of parameter-efficient fine-tuning.
        source: where it was published.
        peft_type: PEFT's type that realises it; its options are what a recipe's ``[adapter]`` must have.
        settings: options of PEFT that the method fixes.
        start: where factors start; public in every case.
        base_moves: whether it is part of the adapter by how much the weights move that a LoRA adapts; zero at first.
        roles: what becomes of the tensors of each selector.
        streams: shared and derived selectors by stream, in the order of the vector.
        turns: the streams that train in each kind of round; one turn with every shared stream if empty.
        schedule: which round takes which turn; where a recipe says how many rounds open a run, those after them.
        upload: the form in which an update goes up: all that trained, or what a common mask chose.
        takes: keys of ``[training]`` that a recipe of it must have.
        masked: the streams that a common mask is over.
        mask_of: what it chooses.
        mask_lasts: whether it is the same in every round.
        skips_layers: whether layers that a mask leaves out are left out of the model too, for the round.
        home: what stays with its participant. ``part``: some of the adapter's own tensors; ``mixed``: a second LoRA,
            of which a mixer takes more or less; both train with the rest, in the same clip and noise. ``beside`` and
            ``alone``: a second LoRA that trains after the shared steps, on top of the shared one or without it; it
            is in no forward pass whose gradient goes up, and no noise is on it.
        beside_model: tensors of the state that are none of the model's, by the model's own, at the start.
        over_all: streams whose mean is over the whole roster: members that drop out count with zeros.
        kept: how many entries stay at home where they are no tensors of the model.
        pull: what is added to each gradient, from recipe, state and what stayed at home; reads no data.
        seen: the state as a participant trains on it, from recipe, state, what stayed at home, and the share of the
            roster's weight that is its own.
        mine: the adapter that a participant may take home, from the released tensors, its own, and the weights of both.
        fusions: weights of both among which a participant's own rows choose; none: both count whole.
        mine_options: options of PEFT that are others for it.
        counts: whether everybody contributes to every entry, or as far as its own rank goes.
        alternates: what trains in each local step, over and over; all of the turn in every step if empty.
        proximal: whether local steps are drawn back to the round's start.
        summed: the vector that the coordinator learns the sum of, in words.
        size: its entries for a module of d outputs and k inputs, the head's not counted, in words.
        afterwards: what the coordinator does with the sum.
        align: what a participant makes of where its steps led before it goes up; from recipe, start and end.
        factors_beside: whether the differences of the factors go up beside their products.
        advance: the coordinator's step: the state after a round, from recipe, state and direction.
        exact_step: whether everybody computes that to the same bit; where not, the coordinator's iterate travels too,
            and is compared with each one's own.
        moves_basis: whether that changes what an entry means, so that no history of single entries can be kept.
        plain_mean: whether it takes the mean as it is, so that no other optimizer and no average of iterates fits.
        error: how far that is from what it should be, where sums do not determine it; to be logged.
        publish: makes of every tensor what is exported in PEFT's format; given the adapter, its tensors by key, and
            those of the initial adapter.
        published_options: options of PEFT that are others for what is exported.
        refused: modes that are not sound for it, each with the reason.
        texts_only: whether only models of texts can be adapted by it.
        notes: what a user should know before choosing it.
    """

    name: str
    title: str
    category: Category
    source: str
    peft_type: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: Start = "peft"
    base_moves: bool = False
    roles: Mapping[Selector, Role]
    streams: Mapping[str, frozenset[Selector]]
    turns: tuple[frozenset[str], ...] = ()
    schedule: Schedule = EVERY_ROUND
    upload: UploadKind = "differences"
    takes: frozenset[str] = frozenset()
    masked: frozenset[str] = frozenset({ADAPTER_STREAM})
    mask_of: MaskOf = "entries"
    mask_lasts: bool = False
    skips_layers: bool = False
    home: Home = ""
    beside_model: Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]] = _nothing
    over_all: frozenset[str] = frozenset()
    kept: Callable[[Recipe], int] = _home_entries
    pull: Callable[[Recipe, Wide, Vector], Wide] | None = None
    seen: Callable[[Recipe, Vector, Vector, float], Vector] | None = None
    mine: Callable[[Published, Published, Fusion], Published] = _as_mine
    fusions: tuple[Fusion, ...] = ()
    mine_options: Callable[[Adapter], Mapping[str, Any]] = _no_others
    counts: Literal["all", "rank"] = "all"
    alternates: tuple[frozenset[Selector], ...] = ()
    proximal: bool = False
    summed: str
    size: str
    afterwards: str
    align: Callable[[Recipe, Wide, Wide], Wide] = _as_led
    factors_beside: bool = False
    advance: Callable[[Recipe, OptimizerState, Wide], OptimizerState] = step
    exact_step: bool = True
    moves_basis: bool = False
    plain_mean: bool = False
    error: Callable[[Recipe, OptimizerState, Wide], float] | None = None
    publish: Callable[[Adapter, Published, Mapping[str, NDArray[Any]]], Published] = _as_it_is
    published_options: Callable[[Adapter], Mapping[str, Any]] = _no_others
    refused: Mapping[Mode, str] = field(default_factory=dict)
    texts_only: bool = False
    notes: str = ""

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes in which the method may run."""
        return tuple(mode for mode in ALL_MODES if mode not in self.refused)

    @property
    def options(self) -> type[AdapterOptions]:
        """The options of its PEFT type."""
        return OPTIONS[self.peft_type]

    @property
    def keeps(self) -> bool:
        """Whether something of it stays at home from round to round."""
        return bool(self.home) or self.pull is not None

    def with_role(self, role: Role) -> tuple[Selector, ...]:
        """Return the selectors of a role, sorted."""
        return tuple(sorted(selector for selector, given in self.roles.items() if given is role))

    def require_mode(self, mode: Mode) -> None:
        """Refuse a mode in which the method is not sound.

        Raises:
            LocalError: ``E-METHOD-REFUSED`` with the reason.
        """
        if reason := self.refused.get(mode):
            allowed = ", ".join(self.modes)
            raise LocalError("E-METHOD-REFUSED", f"{self.title} in mode {mode}: {reason}; it runs in {allowed}")

    def require_task(self, task: Task) -> None:
        """Refuse a task whose models the method cannot adapt.

        Raises:
            LocalError: ``E-METHOD-REFUSED``.
        """
        if self.texts_only and isinstance(task, ImageClassification):
            raise LocalError("E-METHOD-REFUSED", f"{self.title} needs a model of texts; the task is {task.kind}")

    def require_one_basis(self) -> None:
        """Refuse a method whose rounds sum other entries, or whose step moves them: their noise could not cancel.

        Raises:
            LocalError: ``E-METHOD-REFUSED``.
        """
        same = self.upload == "differences" and self.counts == "all" and len(self.turns) <= 1
        if not (same and self.exact_step and not self.moves_basis and not self.skips_layers):
            rule = "its rounds do not sum the same entries on the same axes, so noise over several would not cancel"
            raise LocalError("E-METHOD-REFUSED", f"{self.title} with bands: {rule}; leave bands at 1")

    def in_step(self, recipe: Recipe, turn: Turn, step: int) -> NDArray[np.int64] | None:
        """Return which of a turn's entries train in a local step; ``None``: all of them.

        Args:
            recipe: names the tensors.
            turn: of the round.
            step: counted through the run, from 0.
        """
        if not self.alternates:
            return None
        chosen, adapter = self.alternates[step % len(self.alternates)], recipe.adapter
        tensors = trained_tensors(recipe, turn)
        active = [select(tensor.key, adapter.options, adapter.head_modules) in chosen for tensor in tensors]
        return np.flatnonzero(np.repeat(active, [tensor.entries for tensor in tensors]))

    # --- what a recipe must say ---

    def stream_of(self, key: str, adapter: Adapter) -> str:
        """Return the stream in which a tensor lies, or ``frozen`` or ``personal``.

        Raises:
            LocalError: ``E-METHOD-REFUSED``: no selector claims the tensor, or the method knows no such tensor.
        """
        selector = select(key, adapter.options, adapter.head_modules)
        role = self.roles.get(selector)
        if role is None:
            raise LocalError("E-METHOD-REFUSED", f"{self.title} has no tensor like {key}")
        if role in {Role.FROZEN, Role.PERSONAL}:
            return role.value
        return next(stream for stream, selectors in self.streams.items() if selector in selectors)

    def part_of(self, key: str) -> Literal["adapter", "base"]:
        """Return whether a tensor is what is added to one of the base's own."""
        return "base" if self.base_moves and key.endswith(BASE) else "adapter"

    def manifest(self, shapes: Mapping[str, tuple[int, ...]], adapter: Adapter) -> tuple[Tensor, ...]:
        """Return what every tensor of an adapter is: by stream in the order of the vector, then by key; frozen last."""
        order = {name: place for place, name in enumerate((*self.streams, Role.PERSONAL.value, Role.FROZEN.value))}
        tensors = [
            Tensor(key=key, shape=shape, stream=self.stream_of(key, adapter), part=self.part_of(key))
            for key, shape in shapes.items()
        ]
        return tuple(sorted(tensors, key=lambda tensor: (order[tensor.stream], tensor.key)))

    def require_tensors(self, manifest: tuple[Tensor, ...]) -> None:
        """Refuse a base or a recipe with nothing that the method could train.

        Raises:
            LocalError: ``E-CONFIG-INVALID``.
        """
        wanted = [stream for stream in self.streams if stream != HEAD_STREAM] or [HEAD_STREAM]
        present = {tensor.stream for tensor in manifest}
        for stream in wanted:
            if stream not in present:
                chosen = ", ".join(sorted(self.streams[stream]))
                hint = "name head_modules" if stream == HEAD_STREAM else "take another base or method"
                raise LocalError("E-CONFIG-INVALID", f"{self.title} finds nothing to train ({chosen}); {hint}")

    def state(self, manifest: tuple[Tensor, ...]) -> tuple[StateStream, ...]:
        """Return the streams that a manifest has tensors of, with their lengths, in the order of the vector."""
        streams = []
        for name, selectors in self.streams.items():
            length = sum(tensor.entries for tensor in manifest if tensor.stream == name)
            derived = any(self.roles[selector] is Role.DERIVED for selector in selectors)
            if length:
                streams.append(StateStream(name=name, length=length, role=Role.DERIVED if derived else Role.SHARED))
        return tuple(streams)

    def upload_of(
        self, state: tuple[StateStream, ...], sizes: Sizes = NO_SIZES, tensors: tuple[Tensor, ...] = ()
    ) -> Upload:
        """Return the form in which updates go up; see :func:`methods.layout.upload_of`."""
        return layout.upload_of(self, state, sizes, tensors)

    def turns_of(
        self, state: tuple[StateStream, ...], upload: Upload = _DIFFERENCES, tensors: tuple[Tensor, ...] = ()
    ) -> tuple[Turn, ...]:
        """Return what trains and what is summed in each kind of round; see :func:`methods.layout.turns_of`."""
        return layout.turns_of(self, state, upload, tensors)

    def require_layout(self, recipe: Recipe) -> None:
        """Refuse a recipe that lets anything else travel, train or be summed than this method does.

        Raises:
            LocalError: ``E-PLAN-STREAM``, or ``E-METHOD-REFUSED`` if the method knows no such tensor or PEFT type.
        """
        adapter = recipe.adapter
        if adapter.options.peft_type != self.peft_type:
            rule = f"{self.title} is of PEFT type {self.peft_type}, the plan's adapter of {adapter.options.peft_type}"
            raise LocalError("E-METHOD-REFUSED", rule)
        foreign = [stream.name for stream in recipe.state if stream.name not in self.streams]
        if foreign:
            rule = f"the plan lets stream {foreign[0]} travel; {self.title} has {', '.join(self.streams)} and no other"
            raise LocalError("E-PLAN-STREAM", rule)
        for tensor in adapter.tensors:
            if tensor.stream != (expected := self.stream_of(tensor.key, adapter)) or tensor.part != self.part_of(
                tensor.key
            ):
                raise LocalError("E-PLAN-STREAM", f"{tensor.key} lies in stream {tensor.stream}, not in {expected}")
        state = self.state(adapter.tensors)
        if recipe.state != state:
            given, names = (", ".join(stream.name for stream in streams) for streams in (recipe.state, state))
            raise LocalError("E-PLAN-STREAM", f"the plan's state is {given}; that of {self.title} is {names}, in order")
        if recipe.measured is not None:  # what is summed follows from the metrics, and nothing of the method happens
            return
        schedule = layout.schedule_of(self, recipe.schedule.opening_rounds, recipe.rounds)
        if (recipe.turns, recipe.schedule) != (self.turns_of(state, recipe.upload, adapter.tensors), schedule):
            raise LocalError("E-PLAN-STREAM", f"the plan's turns are not those of {self.title}: what trains when")
        if (recipe.upload.kind, recipe.counts) != (self.upload, self.counts):
            raise LocalError(
                "E-PLAN-STREAM", f"updates of {self.title} go up as {self.upload}, counted by {self.counts}"
            )
        self._require_steps(recipe)

    def _require_steps(self, recipe: Recipe) -> None:
        """Refuse steps, at participants or at the coordinator, that are not the method's."""
        if self.proximal != (float(recipe.training.proximal) > 0):
            rule = "needs training.proximal" if self.proximal else "has no training.proximal; method fedprox has"
            raise LocalError("E-METHOD-REFUSED", f"{self.title} {rule}")
        optimizer = recipe.optimizer
        if self.plain_mean and (optimizer.name != "mean" or float(optimizer.average) > 0):
            rule = "takes the mean as it is; take optimizer mean without an average"
            raise LocalError("E-METHOD-REFUSED", f"{self.title} {rule}")
        if self.moves_basis and (optimizer.name in {"adam", "yogi"} or float(optimizer.average) > 0):
            rule = "changes the basis of its factors each round, so a history of single entries mixes two of them"
            raise LocalError("E-METHOD-REFUSED", f"{self.title} {rule}; take optimizer mean or sgd without an average")

    def export(self, recipe: Recipe, vector: Vector, initial: Mapping[str, NDArray[Any]]) -> dict[str, Vector]:
        """Return every tensor of the adapter under its key in PEFT's format.

        Args:
            recipe: names tensors and streams.
            vector: the global adapter, shape (state entries,).
            initial: tensors of the initial adapter; frozen ones stay as they are there.

        Raises:
            LocalError: ``E-PLAN-RULE``, a frozen tensor is missing or of another shape.
        """
        tensors = split(recipe, vector)
        tensors = {key: value for key, value in tensors.items() if not key.startswith(VARIATES)}
        for tensor in recipe.adapter.tensors:
            if tensor.stream == Role.FROZEN or (tensor.stream == Role.PERSONAL and self.home == "part"):
                value = initial.get(tensor.key)
                if value is None or value.shape != tensor.shape:
                    raise LocalError("E-PLAN-RULE", f"the initial adapter lacks {tensor.key} of shape {tensor.shape}")
                tensors[tensor.key] = value.astype(np.float32)
        return self.publish(recipe.adapter, tensors, initial)


HEAD: Final[Mapping[str, frozenset[Selector]]] = {HEAD_STREAM: frozenset({Selector.HEAD})}  # of every method's streams
