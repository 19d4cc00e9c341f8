"""What a researcher writes: the recipe and, in a draft, the privacy that is asked for.

Guarantees: a :class:`Recipe` in memory is consistent: every tensor lies in one stream of the state or in none, the
streams' lengths are those of their tensors, and every round has a turn.
Leaves to others: the roster, thresholds, noise and ring, which a plan adds (``privacy.plan``).
Source: ``docs/protocol.md`` section 2.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from privacy import canonical, patterns
from privacy.adapter_parts import (
    OUTSIDE_STREAMS,
    Adapter,
    Differences,
    Role,
    Schedule,
    StateStream,
    Stream,
    Turn,
    Upload,
)
from privacy.errors import LocalError
from privacy.measure_parts import Measurement, lengths, require_task
from privacy.plan_parts import (
    ATTEMPTS,
    Attempts,
    BrokenRuleError,
    DecimalString,
    Hex256,
    MicroBatch,
    Name,
    Paragraphs,
    PlanModel,
    Positive,
    PrivacySpec,
    Rate,
    RateOrNone,
    Text,
    first_problem,
)
from privacy.task_parts import Task

HEAD_STREAM = "head"  # the task head: a stream of its own in every method
MAX_ENTRIES = 2**31  # entries of a vector: 8 GiB at 32 bits, beyond any adapter


class FileHash(PlanModel):
    """A file of the base model and its SHA-256."""

    name: Annotated[str, StringConstraints(pattern=patterns.FILE_NAME)]
    sha256: Hex256


class BaseReference(PlanModel):
    """The foundation model: each participant registers its own copy, which must have these very bytes."""

    name: Name
    architecture: Text  # informational: the class that config.json names
    files: Annotated[tuple[FileHash, ...], Field(min_length=1)]

    @property
    def hash(self) -> str:
        """SHA-256 (hex) over the canonical list of file hashes."""
        return hashlib.sha256(canonical.encode([file.model_dump() for file in self.files])).hexdigest()

    @model_validator(mode="after")
    def _sorted(self) -> Self:
        names = [file.name for file in self.files]
        if names != sorted(set(names)):
            raise ValueError("base files must be sorted and unique")
        return self


class StreamRate(PlanModel):
    """A learning rate of one stream."""

    stream: Name
    rate: Rate


class Optimizer(PlanModel):
    """What the coordinator does with the decoded mean (``local``, ``none``) or noisy gradient (``distributed``)."""

    name: Literal["mean", "sgd", "adam", "yogi", "none"] = "mean"  # "none": of a measurement, where nothing moves
    learning_rate: Rate = "1"
    head_learning_rate: Rate = "1"
    stream_rates: tuple[StreamRate, ...] = ()  # in place of the two, for the streams that it names
    momentum: DecimalString = "0"
    second_momentum: DecimalString = "0"
    epsilon: DecimalString = "0.001"
    average: DecimalString = "0"  # e of the exponential average of iterates, weight min(e, (r+1)/(r+10)); 0: off


class Training(PlanModel):
    """What a participant does in its steps; all constants, never a realised batch."""

    learning_rate: RateOrNone  # 0 in a measurement alone, as the next
    head_learning_rate: RateOrNone
    stream_rates: tuple[StreamRate, ...] = ()  # in place of the two, for the streams that it names
    micro_batch: MicroBatch = 64
    # Weight of the pull back to the round's start; left out of a plan's bytes where there is none.
    proximal: Annotated[DecimalString, Field(exclude_if=lambda weight: weight == "0")] = "0"


_NO_TRAINING = Training(learning_rate="0", head_learning_rate="0")


class Notice(PlanModel):
    """What people whose data is used may ask for; an empty text is shown as missing."""

    responsible: Text = ""  # who answers for the run
    contact: Text = ""  # whom to call
    data: Text = ""  # which data of whom is used
    retention: Text = ""  # how long what is kept


class Recipe(PlanModel):
    """The part of a plan that a researcher writes: everything but the federation. A draft directory holds it.

    ``state`` travels down at the start of each round; each round takes one of the ``turns``, which says what trains
    and what is summed.
    """

    title: Text
    purpose: Paragraphs
    notice: Notice = Notice()
    base: BaseReference
    adapter: Adapter
    state: Annotated[tuple[StateStream, ...], Field(min_length=1, max_length=16)]
    turns: Annotated[tuple[Turn, ...], Field(min_length=1, max_length=16)]
    schedule: Schedule = Schedule()
    upload: Upload = Differences()
    counts: Literal["all", "rank", "layers"] = (
        "all"  # who contributes which entries: all, or as the roster's options say
    )
    task: Task
    optimizer: Optimizer
    training: Training
    rounds: Positive

    @property
    def entries(self) -> int:
        """d: number of entries of the longest vector that is summed."""
        return max(turn.entries for turn in self.turns)

    @property
    def clipped_entries(self) -> int:
        """Number of entries of the longest vector that is clipped: one that is summed, or that trains in a step."""
        return max(self.entries, *(self._trained_entries(turn) for turn in self.turns))

    def _trained_entries(self, turn: Turn) -> int:
        if self.upload.kind == "gather":  # the mask comes before the clip
            return turn.entries
        return sum(tensor.entries for tensor in self.adapter.tensors if tensor.stream in turn.trains)

    @property
    def measured(self) -> Measurement | None:
        """What is measured; ``None`` where something trains."""
        return self.upload if isinstance(self.upload, Measurement) else None

    @property
    def state_entries(self) -> int:
        """Number of entries of the vector that travels down."""
        return sum(stream.length for stream in self.state)

    def turn(self, round_number: int) -> Turn:
        """Return what happens in a round, counted from 1."""
        return self.turns[self.schedule.turn(round_number)]

    @model_validator(mode="after")
    def _state(self) -> Self:
        names = [stream.name for stream in self.state]
        if len(set(names)) != len(names) or OUTSIDE_STREAMS & set(names):
            raise ValueError("streams must have distinct names, none of them 'frozen' or 'personal'")
        if len({tensor.key for tensor in self.adapter.tensors}) != len(self.adapter.tensors):
            raise ValueError("the adapter names a tensor twice")
        for stream in self.state:
            sizes = [tensor.entries for tensor in self.adapter.tensors if tensor.stream == stream.name]
            if sum(sizes) != stream.length:
                raise ValueError(f"stream {stream.name} has {stream.length} entries, its tensors {sum(sizes)}")
        if {tensor.stream for tensor in self.adapter.tensors} - {*names, *OUTSIDE_STREAMS}:
            raise ValueError("a tensor lies in a stream that the state lacks")
        if max(self.entries, self.state_entries) > MAX_ENTRIES:
            raise ValueError(f"a vector has more than {MAX_ENTRIES} entries")
        return self

    @model_validator(mode="after")
    def _turns(self) -> Self:
        if self.schedule.turns != frozenset(range(len(self.turns))):
            raise ValueError("the schedule must take every turn, and no other")
        trainable = {stream.name for stream in self.state if stream.role is Role.SHARED} | {Role.PERSONAL.value}
        for turn in self.turns:
            summed = [stream.name for stream in turn.sums]
            if len(set(summed)) != len(summed) or len(set(turn.trains)) != len(turn.trains):
                raise ValueError("a turn names a stream twice")
            if set(turn.trains) - trainable:
                raise ValueError("a turn trains what is neither a shared stream nor personal")
            if not turn.trains and self.measured is None:
                raise BrokenRuleError("E-PLAN-MALFORMED", "a turn of a plan that trains must train something")
        return self

    @model_validator(mode="after")
    def _measurement(self) -> Self:
        """A measurement is one round in which nothing trains and nothing moves."""
        if self.measured is None:
            if self.optimizer.name == "none" or "0" in {self.training.learning_rate, self.training.head_learning_rate}:
                raise ValueError("without a measurement something trains: an optimizer and learning rates above 0")
            return self
        require_task(self.measured, self.task)
        if self.optimizer != Optimizer(name="none"):
            raise ValueError("a measurement has no optimizer: its name is none, everything else as by default")
        if self.training != _NO_TRAINING.model_copy(update={"micro_batch": self.training.micro_batch}):
            raise ValueError("a measurement trains nothing: its learning rates are 0")
        if (self.rounds, self.schedule, self.counts) != (1, Schedule(), "all"):
            raise ValueError("a measurement has one round; another is another plan, charged for by itself")
        sums = tuple(Stream(name=name, length=length) for name, length in lengths(self.measured, self.task))
        if self.turns != (Turn(trains=(), sums=sums),):
            raise ValueError("a measurement sums the streams of its metrics, and nothing trains")
        return self

    @model_validator(mode="after")
    def _differences(self) -> Self:
        """What goes up as differences is what trains and is shared, in the order of the state."""
        if self.upload.kind == "differences":
            for turn in self.turns:
                shared = [(stream.name, stream.length) for stream in self.state if stream.name in turn.trains]
                if [(stream.name, stream.length) for stream in turn.sums] != shared:
                    raise ValueError("a turn must sum the shared streams that train in it, in the order of the state")
        return self

    @model_validator(mode="after")
    def _rates(self) -> Self:
        names = {stream.name for stream in self.state} | {Role.PERSONAL.value}
        for rates in (self.optimizer.stream_rates, self.training.stream_rates):
            streams = [entry.stream for entry in rates]
            if streams != sorted(set(streams)) or set(streams) - names:
                raise ValueError("stream_rates must be sorted and name streams of the state, each once")
        return self


def require_bandable(recipe: Recipe, privacy: PrivacySpec) -> None:
    """Refuse noise that is correlated over rounds where they do not sum the same entries, or there are too few.

    Raises:
        ValueError: the rule.
    """
    if not privacy.banded:
        return
    if len(recipe.turns) > 1 or recipe.upload.kind != "differences" or recipe.counts != "all":
        raise ValueError("bands need rounds that all sum the same entries: one turn, differences, everybody's")
    if len(privacy.bands) > recipe.rounds:
        raise ValueError("there are more bands than rounds")


class PrivacyTarget(PrivacySpec):
    """What a draft asks for; ``run create`` turns it into integers once the roster is known."""

    update_bound: DecimalString  # largest absolute coordinate of a difference (local, none)


class Draft(PlanModel):
    """A recipe with a privacy target, evaluation and protocol wishes, but no roster."""

    draft_version: Literal[2] = 2
    recipe: Recipe
    privacy: PrivacyTarget
    evaluation_data: Name
    evaluate_every: Positive = 1
    suite: Literal[1, 2] = 1
    max_attempts: Attempts = ATTEMPTS

    @model_validator(mode="after")
    def _countable(self) -> Self:
        self.privacy.require_countable(self.recipe.rounds)
        require_bandable(self.recipe, self.privacy)
        return self

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse and check a draft.

        Raises:
            LocalError: ``E-PLAN-MALFORMED``, naming the first field that does not fit.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            where, expected, _ = first_problem(error, "draft")
            raise LocalError("E-PLAN-MALFORMED", f"draft.json: {where}: {expected}") from None

    def to_bytes(self) -> bytes:
        """Return the canonical JSON of this draft."""
        return canonical.encode(self.model_dump(mode="json"))


def rate_of(rates: Optimizer | Training, stream: str) -> float:
    """Return the learning rate of a stream: its own, or that of the head, or that of all others."""
    for entry in rates.stream_rates:
        if entry.stream == stream:
            return float(entry.rate)
    return float(rates.head_learning_rate if stream == HEAD_STREAM else rates.learning_rate)
