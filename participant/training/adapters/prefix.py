"""Blocks below the lowest trained one: what comes out of them never changes, so it is computed once per example.

Guarantees: activations are kept only if no trained tensor has any influence on them, and used only if synthetic rows
have the very same gradients, bit for bit, with the lower blocks as without; an example's activations come from a
micro-batch in which it has the slot that it would have later. They stay in memory, like the data that they come from.
Leaves to others: everything about privacy, which this does not touch: gradients are the same.
Source: docs/methods.md.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from participant.training.adapters.adapted import AdaptedModel
from participant.training.adapters.gradients import GradientEngine
from participant.training.adapters.turns import TurnEngines
from participant.training.examples import Examples
from privacy.errors import LocalError

ACTIVATIONS: Final = "frozen_prefix"  # among an example's inputs: what comes out of the lower blocks
MOST_BYTES: Final = 2**30  # of activations that are kept
_BEHIND: Final = ".original_module."  # in names of what a head of one's own stands in for: it is read by nothing

_Call = tuple[tuple[Any, ...], dict[str, Any]]


class KeptActivations:
    """The activations that were computed last, for whoever asks for the very same again: runs of one simulation."""

    def __init__(self) -> None:
        self._key = b""
        self._found: Tensor | None = None

    def get(self, key: bytes, compute: Callable[[], Tensor]) -> Tensor:
        """Return what belongs to a key, computed if it is not what was asked for last."""
        if self._found is None or key != self._key:
            self._found = None  # let go of before others take as much room
            self._key, self._found = key, compute()
        return self._found


class _PrefixEndedError(Exception):
    """Ends a forward pass where the lower blocks end."""


class _Passed(nn.Module):
    """Stands for all blocks where none of them trains: what goes in is what came out of the last one."""

    as_tuple = False  # whether the model's blocks give a tuple

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        """Return the activations, shape (batch, places, width)."""
        return (hidden_states,) if self.as_tuple else hidden_states


class FrozenPrefix:
    """The lower blocks of a model; made by :meth:`find`."""

    def __init__(self, adapted: AdaptedModel, owner: nn.Module, name: str, blocks: list[nn.Module], first: int) -> None:
        self._adapted, self._owner, self._name = adapted, owner, name
        self._blocks, self._first = blocks, first
        self._passed = _Passed()
        self._given: Tensor | None = None
        self._handles: list[RemovableHandle] = []

    @classmethod
    def find(cls, adapted: AdaptedModel) -> Self | None:
        """Return the blocks below the lowest one that trains, if there are any: all of them, where only a head does.

        None where the base's own tensors move along directions, by their names: blocks that are left would have others.
        """
        if adapted.moved:
            return None
        wanted = {id(parameter) for _, parameter in adapted.placed}
        whole: Self | None = None
        for owner in adapted.model.modules():
            for name, blocks in owner.named_children():
                if not isinstance(blocks, nn.ModuleList):
                    continue
                trains = [any(id(one) in wanted for one in block.parameters()) for block in blocks]
                if any(trains):
                    first = trains.index(True)
                    return cls(adapted, owner, name, list(blocks), first) if first else None
                if whole is None and len(blocks):
                    whole = cls(adapted, owner, name, list(blocks), len(blocks))
        return whole

    def activations(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return what comes out of the lower blocks, the examples first.

        Raises:
            LocalError: ``E-SELF-CHECK``, a trained tensor has an influence on it.
        """
        found: list[Tensor] = []

        def end(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(args[0] if args else kwargs["hidden_states"])
            raise _PrefixEndedError

        def end_after(_block: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            self._passed.as_tuple = isinstance(output, tuple)
            found.append(output[0] if self._passed.as_tuple else output)
            raise _PrefixEndedError

        handle = (
            self._blocks[-1].register_forward_hook(end_after)
            if self._first == len(self._blocks)
            else self._blocks[self._first].register_forward_pre_hook(end, with_kwargs=True)
        )
        try:
            self._adapted.logits(inputs)
        except _PrefixEndedError:
            pass
        finally:
            handle.remove()
        if len(found) != 1 or found[0].requires_grad:
            raise LocalError("E-SELF-CHECK", "frozen layers: a trained tensor has an influence on them")
        return found[0]

    def extended(self, examples: Examples, micro_batch: int, kept: KeptActivations | None = None) -> Examples:
        """Return the examples with their activations, computed in micro-batches of the plan's size, or kept."""

        def compute() -> Tensor:
            parts = []
            for start in range(0, len(examples), micro_batch):
                rows = np.arange(start, start + micro_batch)
                rows[rows >= len(examples)] = -1
                parts.append(self.activations(dict(examples.take(rows).inputs)))
            return torch.cat(parts)[: len(examples)]

        found = compute() if kept is None else kept.get(self._key(examples, micro_batch), compute)
        return replace(examples, inputs={**examples.inputs, ACTIVATIONS: found})

    def _key(self, examples: Examples, micro_batch: int) -> bytes:
        """Return a hash of everything that activations follow from: base, options of the adapter, rows and slots."""
        adapted, adapter = self._adapted, self._adapted.recipe.adapter
        above = {id(tensor) for block in self._blocks[self._first :] for tensor in block.parameters()}
        above |= {id(parameter) for _, parameter in adapted.placed}
        of_model = itertools.chain(adapted.model.named_parameters(), adapted.model.named_buffers())
        read = [(name, one) for name, one in of_model if id(one) not in above and _BEHIND not in name]
        how = (adapter.method, adapter.options, self._name, self._first, micro_batch)
        hashed = hashlib.sha256(repr((how, adapted.precision, adapted.device, torch.get_num_threads())).encode())
        for name, tensor in (*read, *sorted(examples.inputs.items())):
            hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return hashed.digest()

    def cut(self) -> None:
        """Take the lower blocks off: from here on the model reads the activations among its inputs."""
        blocks = self._blocks[self._first :] or [self._passed]
        self._put_blocks(blocks)
        self._handles = [
            self._adapted.model.register_forward_pre_hook(self._take, with_kwargs=True),
            blocks[0].register_forward_pre_hook(self._replace, with_kwargs=True),
        ]

    def restore(self) -> None:
        """Put the lower blocks back."""
        self._put_blocks(self._blocks)
        for handle in self._handles:
            handle.remove()

    def _put_blocks(self, blocks: list[nn.Module]) -> None:
        setattr(self._owner, self._name, nn.ModuleList(blocks))

    def _take(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
        self._given = kwargs.pop(ACTIVATIONS)
        return args, kwargs

    def _replace(self, _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
        if args:
            return (self._given, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._given}


def shortened(
    engines: TurnEngines, synthetic: Examples, examples: Examples, kept: KeptActivations | None = None
) -> Examples:
    """Return the examples with their activations and take the lower blocks off, or leave everything as it is.

    It is left where the lowest block trains in some turn, activations would take too much memory, or gradients would
    change.

    Args:
        engines: compute the gradients that must not change, in every turn.
        synthetic: synthetic examples, a micro-batch of them.
        examples: of the dataset.
        kept: where their activations may be already.
    """
    prefix = FrozenPrefix.find(engines.adapted)
    if prefix is None:
        return examples
    size = len(synthetic)
    try:
        extended = prefix.extended(synthetic, size)
    except LocalError:
        return examples
    if extended.inputs[ACTIVATIONS].nbytes // size * len(examples) > MOST_BYTES:
        return examples
    if not all(_same_rows(prefix, engines.enter(turn), synthetic, extended) for turn in engines.turns):
        return examples
    longer = prefix.extended(examples, size, kept)
    prefix.cut()
    return longer


def shortened_to_measure(
    adapted: AdaptedModel, examples: Examples, batch: int, kept: KeptActivations | None = None
) -> Examples:
    """Return the examples with their activations and take the lower blocks off, where a model is only measured.

    Everything is left as it is where :func:`shortened` would leave it; the model's answers must not change.

    Args:
        adapted: the model.
        examples: that it is measured on.
        batch: how many at a time.
        kept: where their activations may be already.
    """
    prefix, first = FrozenPrefix.find(adapted), examples.take(np.arange(min(batch, len(examples))))
    if prefix is None or not len(examples):
        return examples
    try:
        activations = prefix.activations(dict(first.inputs))
        if activations.nbytes // len(first) * len(examples) > MOST_BYTES:
            return examples
        longer = prefix.extended(examples, batch, kept)
    except LocalError:
        return examples
    with torch.no_grad():
        answers = adapted.logits(first.inputs)
        prefix.cut()
        if torch.equal(adapted.logits({**first.inputs, ACTIVATIONS: activations}), answers):
            return longer
    prefix.restore()
    return examples


def _same_rows(prefix: FrozenPrefix, engine: GradientEngine, synthetic: Examples, extended: Examples) -> bool:
    rows = engine.rows(synthetic)
    prefix.cut()
    try:
        return torch.equal(engine.rows(extended), rows)
    finally:
        prefix.restore()
