"""The adapter of a plan: its tensors, and what travels, trains and is summed.

Guarantees: a part has the types and bounds of its fields.
Leaves to others: the options of each PEFT type (``adapter_options``), rules between parts (``privacy.draft``), which
method says so (``methods``).
Source: ``docs/protocol.md`` section 2, ``docs/methods.md``.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from privacy.adapter_options import AdapterOptions, Modules
from privacy.measure_parts import Measurement
from privacy.plan_parts import Count, Hex256, Name, PlanModel, Positive, Text

TensorKey = Annotated[Text, StringConstraints(min_length=1, max_length=300)]


class Role(StrEnum):
    """What becomes of a part of an adapter."""

    SHARED = "shared"  # travels down, trains, is summed
    DERIVED = "derived"  # travels down, never trains: the coordinator computes it from sums
    PERSONAL = "personal"  # trains and stays with its participant from round to round
    FROZEN = "frozen"  # the same for everybody all through the run, from the initial adapter


# Where tensors lie that are in no stream: the words of a manifest.
OUTSIDE_STREAMS: Final = frozenset({Role.FROZEN, Role.PERSONAL})


class Tensor(PlanModel):
    """A tensor under its key in PEFT's own file format, or under the base's own key where it is added to the base.

    Tensors of a stream lie in it in the order of the manifest, row-major. Frozen ones are common to all and come from
    the initial adapter; personal ones start there.
    """

    key: TensorKey
    shape: Annotated[tuple[Positive, ...], Field(max_length=8)]
    stream: Name  # a stream of the state, or "frozen" or "personal"
    part: Literal["adapter", "base"] = "adapter"  # "base": what is added to the base's own tensor of this key

    @property
    def entries(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


class Adapter(PlanModel):
    """The method, its PEFT type with options, and what every tensor is."""

    method: Name
    options: AdapterOptions
    head_modules: Modules = ()  # PEFT's modules_to_save: the task head, a stream of its own
    seed: Count = 0  # of the initial adapter's random parts; public
    initial_hash: Hex256  # SHA-256 of the initial adapter's safetensors file
    tensors: Annotated[tuple[Tensor, ...], Field(min_length=1)]

    @property
    def rank(self) -> int:
        """Of its factors, of all heads together, or the width of its bottlenecks; 0 where its PEFT type has neither."""
        width = getattr(self.options, "bottleneck_dim", 0)
        return int(getattr(self.options, "rank", width)) * int(getattr(self.options, "heads", 1))


def options_words(adapter: Adapter) -> str:
    """Return an adapter's PEFT type and size in a few words."""
    return adapter.options.words


# --- what travels down, what trains, what is summed ---


class StateStream(PlanModel):
    """A named part of the state that travels down at the start of each round."""

    name: Name
    length: Positive
    role: Literal[Role.SHARED, Role.DERIVED] = Role.SHARED


class Stream(PlanModel):
    """A named part of the vector that is summed, masked under a key of its own."""

    name: Name
    length: Positive


class Turn(PlanModel):
    """One kind of round: what trains in it, and what is summed."""

    # Streams of the state, or "personal"; none in a measurement.
    trains: Annotated[tuple[Name, ...], Field(max_length=16)]
    sums: Annotated[tuple[Stream, ...], Field(min_length=1, max_length=16)]

    @property
    def entries(self) -> int:
        """Number of entries of the vector that is summed."""
        return sum(stream.length for stream in self.sums)


class Opening(PlanModel):
    """Rounds at the start of a run that take one turn."""

    turn: Count
    rounds: Positive


class Schedule(PlanModel):
    """Which turn each round takes: first those of the opening, then the cycle, over and over."""

    opening: Annotated[tuple[Opening, ...], Field(max_length=16)] = ()
    cycle: Annotated[tuple[Count, ...], Field(min_length=1, max_length=16)] = (0,)

    @property
    def opening_rounds(self) -> int:
        """How many rounds open the run."""
        return sum(part.rounds for part in self.opening)

    @property
    def turns(self) -> frozenset[int]:
        """Every turn that is taken."""
        return frozenset((*self.cycle, *(part.turn for part in self.opening)))

    def turn(self, round_number: int) -> int:
        """Return the turn of a round, counted from 1."""
        place = round_number - 1
        for part in self.opening:
            if place < part.rounds:
                return part.turn
            place -= part.rounds
        return self.cycle[place % len(self.cycle)]


# --- the form in which an update goes up ---


class Differences(PlanModel):
    """What trained, minus where it started; in mode ``distributed`` its clipped gradients."""

    kind: Literal["differences"] = "differences"


class Products(PlanModel):
    """The products of factors, minus those at the start, beside the differences of the factors."""

    kind: Literal["products"] = "products"


class Sketch(PlanModel):
    """Two linear sketches of each product of factors, by public random matrices."""

    kind: Literal["sketch"] = "sketch"
    columns: Annotated[int, Field(ge=1, le=100_000)]


class CountSketch(PlanModel):
    """A count sketch of what trained: in each row every entry falls into one bucket, with a sign."""

    kind: Literal["count-sketch"] = "count-sketch"
    rows: Annotated[int, Field(ge=1, le=100)]
    width: Positive


MaskOf = Literal["entries", "ranks", "layers"]


class Gather(PlanModel):
    """The coordinates of a public random mask; what is left to its default is left out of a plan's bytes."""

    kind: Literal["gather"] = "gather"
    entries: Positive  # how many are chosen: entries of a stream, ranks of every factor, or layers
    of: Annotated[MaskOf, Field(exclude_if=lambda of: of == "entries")] = "entries"
    lasting: Annotated[bool, Field(exclude_if=lambda lasting: not lasting)] = False  # the same in every round


class Variates(PlanModel):
    """The differences, and beside them the differences of control variates."""

    kind: Literal["variates"] = "variates"


class Own(PlanModel):
    """How far a participant's own tensors went, which stay at home; the sum is of where everybody's are."""

    kind: Literal["own"] = "own"


Upload = Annotated[
    Differences | Products | Sketch | CountSketch | Gather | Variates | Own | Measurement,
    Field(discriminator="kind"),
]
