"""What a federated fine-tuning method is: which tensors train, what is summed, and in which modes that is sound.

Guarantees: a method is data and pure functions on names, shapes and arrays; what trains is a closed set of
:class:`Selector`; a mode that is not sound is refused with its reason; :meth:`Method.export` gives PEFT's tensors.
Leaves to others: realising selectors in torch (``participant.training.adapters``), the mechanism (``privacy.dp``),
files.
Source: docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from privacy.draft import Recipe, Stream, Tensor
from privacy.errors import LocalError
from privacy.plan_parts import Mode

FROZEN: Final = "frozen"  # the word of a plan's manifest for tensors that travel once, in the initial adapter
HEAD_STREAM: Final = "head"  # the task head: a stream of its own in every method
ADAPTER_STREAM: Final = "adapter"

Category = Literal["additive", "selective", "reparameterised"]
ALL_MODES: Final[tuple[Mode, ...]] = get_args(Mode)


class Selector(StrEnum):
    """Which tensors of an adapter are meant, by their keys in PEFT's file format; a method names no others."""

    LORA_A = "lora-a"  # the factor that reads the input, shape (rank, inputs)
    LORA_B = "lora-b"  # the factor that writes the output, shape (outputs, rank); zero at first
    HEAD = "head"  # the modules that PEFT saves whole: ``modules_to_save``

    @classmethod
    def of(cls, key: str) -> Selector:
        """Return the selector that a tensor's key belongs to; whatever is no factor is of a module saved whole."""
        if key.endswith(".lora_A.weight"):
            return cls.LORA_A
        return cls.LORA_B if key.endswith(".lora_B.weight") else cls.HEAD


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method of federated parameter-efficient fine-tuning.

    Attributes:
        name: as plans have it.
        title: as papers have it.
        category: of parameter-efficient fine-tuning.
        source: where it was published.
        peft_type: PEFT's configuration that realises it.
        streams: what trains and is summed, stream by stream in the order of the vector.
        frozen: tensors of the adapter that do not train and come from the plan's initial adapter.
        summed: the vector that the coordinator learns the sum of, in words.
        afterwards: what the coordinator does with the sum.
        refused: modes that are not sound for it, each with the reason.
        notes: what a user should know before choosing it.
    """

    name: str
    title: str
    category: Category
    source: str
    peft_type: str
    streams: Mapping[str, frozenset[Selector]]
    frozen: frozenset[Selector]
    summed: str
    afterwards: str
    refused: Mapping[Mode, str] = field(default_factory=dict)
    notes: str = ""

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes in which the method may run."""
        return tuple(mode for mode in ALL_MODES if mode not in self.refused)

    @property
    def trained(self) -> frozenset[Selector]:
        """Every selector that trains."""
        return frozenset().union(*self.streams.values())

    def require_mode(self, mode: Mode) -> None:
        """Refuse a mode in which the method is not sound.

        Raises:
            LocalError: ``E-METHOD-REFUSED`` with the reason.
        """
        if reason := self.refused.get(mode):
            allowed = ", ".join(self.modes)
            raise LocalError("E-METHOD-REFUSED", f"{self.title} in mode {mode}: {reason}; it runs in {allowed}")

    def stream_of(self, key: str) -> str:
        """Return the stream in which a tensor trains, or ``frozen``.

        Raises:
            LocalError: ``E-METHOD-REFUSED``, the method knows no such tensor.
        """
        selector = Selector.of(key)
        for stream, selectors in self.streams.items():
            if selector in selectors:
                return stream
        if selector in self.frozen:
            return FROZEN
        raise LocalError("E-METHOD-REFUSED", f"{self.title} has no tensor like {key}")

    def require_layout(self, recipe: Recipe) -> None:
        """Refuse a recipe that sums anything beside this method's own streams, such as losses or counts.

        Raises:
            LocalError: ``E-PLAN-STREAM``, or ``E-METHOD-REFUSED`` if the method knows no such tensor.
        """
        for tensor in recipe.adapter.tensors:
            if tensor.stream != (wanted := self.stream_of(tensor.key)):
                raise LocalError("E-PLAN-STREAM", f"{tensor.key} lies in stream {tensor.stream}, not in {wanted}")
        if recipe.layout != (wanted_layout := self.layout(recipe.adapter.tensors)):
            found, names = (", ".join(one.name for one in layout) for layout in (recipe.layout, wanted_layout))
            raise LocalError("E-PLAN-STREAM", f"the plan sums {found}; {self.title} sums {names}, in this order")

    def manifest(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Tensor, ...]:
        """Return what every tensor of an adapter is: by stream in the order of the vector, then by key; frozen last."""
        order = {stream: place for place, stream in enumerate((*self.streams, FROZEN))}
        tensors = (Tensor(key=key, shape=shape, stream=self.stream_of(key)) for key, shape in shapes.items())
        return tuple(sorted(tensors, key=lambda tensor: (order[tensor.stream], tensor.key)))

    def layout(self, manifest: tuple[Tensor, ...]) -> tuple[Stream, ...]:
        """Return the streams that a manifest has tensors of, with their lengths, in the order of the vector."""
        lengths = {
            stream: sum(tensor.entries for tensor in manifest if tensor.stream == stream) for stream in self.streams
        }
        return tuple(Stream(name=stream, length=length) for stream, length in lengths.items() if length)

    def export(
        self, recipe: Recipe, vector: NDArray[np.float32], initial: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[np.float32]]:
        """Return every tensor of the adapter under its key in PEFT's format.

        Args:
            recipe: names tensors and streams.
            vector: the global adapter, shape (entries,).
            initial: tensors of the initial adapter; only the frozen ones are taken.

        Raises:
            LocalError: ``E-PLAN-RULE``, a frozen tensor is missing or of another shape.
        """
        exported = split(recipe, vector)
        for tensor in recipe.adapter.tensors:
            if tensor.stream == FROZEN:
                found = initial.get(tensor.key)
                if found is None or found.shape != tensor.shape:
                    raise LocalError("E-PLAN-RULE", f"the initial adapter lacks {tensor.key} of shape {tensor.shape}")
                exported[tensor.key] = found.astype(np.float32)
        return exported


def trained_tensors(recipe: Recipe) -> tuple[Tensor, ...]:
    """Return the tensors that train, in the order of the vector: stream by stream, then as the manifest has them."""
    return tuple(
        tensor for stream in recipe.layout for tensor in recipe.adapter.tensors if tensor.stream == stream.name
    )


def split(recipe: Recipe, vector: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return the trained tensors that a vector holds, by key.

    Raises:
        ValueError: the vector is not of shape (entries,).
    """
    if vector.shape != (recipe.entries,):
        raise ValueError(f"a vector of shape {vector.shape} is not of {recipe.entries} entries")
    tensors, start = {}, 0
    for tensor in trained_tensors(recipe):
        tensors[tensor.key] = vector[start : start + tensor.entries].reshape(tensor.shape)
        start += tensor.entries
    return tensors


def joined(recipe: Recipe, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return the vector, shape (entries,), of trained tensors; the inverse of :func:`split`.

    Raises:
        LocalError: ``E-PLAN-RULE``, a tensor is missing or of another shape.
    """
    parts = []
    for tensor in trained_tensors(recipe):
        found = tensors.get(tensor.key)
        if found is None or found.shape != tensor.shape:
            raise LocalError("E-PLAN-RULE", f"the adapter lacks {tensor.key} of shape {tensor.shape}")
        parts.append(found.astype(np.float32).reshape(-1))
    return np.concatenate(parts)
