"""What a researcher writes: the recipe and, in a draft, the privacy that is asked for.

Guarantees: a :class:`Recipe` in memory is consistent: every tensor lies in one stream of the layout, and the streams'
lengths are those of their tensors.
Leaves to others: the roster, thresholds, noise and ring, which a plan adds (``privacy.plan``).
Source: ``docs/protocol.md`` section 2.
"""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from privacy import canonical
from privacy.errors import LocalError
from privacy.plan_parts import Count, DecimalString, Hex256, Name, Paragraphs, PlanModel, Positive, PrivacySpec, Text

MAX_ENTRIES = 2**31  # entries of a vector: 8 GiB at 32 bits, beyond any adapter


class FileHash(PlanModel):
    """A file of the base model and its SHA-256."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
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


class Tensor(PlanModel):
    """A tensor of the adapter, under its key in PEFT's own file format.

    Trained tensors are laid out in the order of the manifest, row-major, stream by stream. Frozen ones are common to
    all and come from the initial adapter.
    """

    key: Annotated[Text, StringConstraints(min_length=1, max_length=300)]
    shape: Annotated[tuple[Positive, ...], Field(max_length=8)]
    stream: Name  # a stream of the layout, or "frozen"

    @property
    def entries(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


class Adapter(PlanModel):
    """The PEFT method, its configuration, and what every tensor of the adapter is."""

    method: Name
    peft_type: Text
    rank: Count = 0
    alpha: DecimalString = "0"
    target_modules: tuple[Text, ...] = ()
    head_modules: tuple[Text, ...] = ()  # PEFT's modules_to_save: the task head, a stream of its own
    layers: tuple[Count, ...] = ()  # which layers are adapted; empty: all
    seed: Count = 0  # of the initial adapter's random parts; public
    initial_hash: Hex256  # SHA-256 of the initial adapter's safetensors file
    tensors: Annotated[tuple[Tensor, ...], Field(min_length=1)]


class Stream(PlanModel):
    """A named part of the vector, masked under a key of its own."""

    name: Name
    length: Positive


class Task(PlanModel):
    """What the model does, and how raw rows become its input."""

    kind: Literal["image-classification", "text-classification"]
    data: Name  # the owners' dataset of this name, or the one chosen at approval
    labels: Annotated[tuple[Text, ...], Field(min_length=2)]
    input_column: Text = "input"
    label_column: Text = "label"
    max_length: Count = 0  # tokens; 0 for images
    image_mean: DecimalString = "0"
    image_std: DecimalString = "1"
    image_scale: DecimalString = "1"  # raw pixel values are divided by this first


class Optimizer(PlanModel):
    """What the coordinator does with the decoded mean (``local``, ``none``) or noisy gradient (``distributed``)."""

    name: Literal["mean", "sgd", "adam", "yogi"] = "mean"
    learning_rate: DecimalString = "1"
    head_learning_rate: DecimalString = "1"
    momentum: DecimalString = "0"
    second_momentum: DecimalString = "0"
    epsilon: DecimalString = "0.001"
    average: DecimalString = "0"  # e of the exponential average of iterates, weight min(e, (r+1)/(r+10)); 0: off


class Training(PlanModel):
    """What a participant does in its steps; all constants, never a realised batch."""

    learning_rate: DecimalString
    head_learning_rate: DecimalString
    micro_batch: Positive = 64


class Recipe(PlanModel):
    """The part of a plan that a researcher writes: everything but the federation. A draft directory holds it."""

    title: Text
    purpose: Paragraphs
    base: BaseReference
    adapter: Adapter
    layout: Annotated[tuple[Stream, ...], Field(min_length=1)]
    task: Task
    optimizer: Optimizer
    training: Training
    rounds: Positive

    @property
    def entries(self) -> int:
        """d: number of entries of the vector that is summed."""
        return sum(stream.length for stream in self.layout)

    @model_validator(mode="after")
    def _layout(self) -> Self:
        names = [stream.name for stream in self.layout]
        if len(set(names)) != len(names) or "frozen" in names:
            raise ValueError("streams must have distinct names, none of them 'frozen'")
        if len({tensor.key for tensor in self.adapter.tensors}) != len(self.adapter.tensors):
            raise ValueError("the adapter names a tensor twice")
        for stream in self.layout:
            sizes = [tensor.entries for tensor in self.adapter.tensors if tensor.stream == stream.name]
            if sum(sizes) != stream.length:
                raise ValueError(f"stream {stream.name} has {stream.length} entries, its tensors {sum(sizes)}")
        if {tensor.stream for tensor in self.adapter.tensors} - {*names, "frozen"}:
            raise ValueError("a tensor lies in a stream that the layout lacks")
        if self.entries > MAX_ENTRIES:
            raise ValueError(f"the vector has more than {MAX_ENTRIES} entries")
        return self


class PrivacyTarget(PrivacySpec):
    """What a draft asks for; ``run create`` turns it into integers once the roster is known."""

    update_bound: DecimalString  # largest absolute coordinate of a difference (local, none)


class Draft(PlanModel):
    """A recipe with a privacy target, evaluation and protocol wishes, but no roster."""

    draft_version: Literal[1] = 1
    recipe: Recipe
    privacy: PrivacyTarget
    evaluation_data: Name
    evaluate_every: Positive = 1
    suite: Literal[1, 2] = 1
    max_attempts: Positive = 3

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse and check a draft.

        Raises:
            LocalError: ``E-PLAN-MALFORMED``, naming the first field that does not fit.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "draft"
            said = first.get("ctx", {}).get("error") or first["msg"]
            raise LocalError("E-PLAN-MALFORMED", f"draft.json: {where}: {said}") from None

    def to_bytes(self) -> bytes:
        """Return the canonical JSON of this draft."""
        return canonical.encode(self.model_dump(mode="json"))
