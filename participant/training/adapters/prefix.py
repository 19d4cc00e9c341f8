"""Blocks below the lowest trained one: what comes out of them never changes, so it is computed once per example.

Guarantees: activations are kept only if no trained tensor has any influence on them, and used only if synthetic rows
have the very same gradients, bit for bit, with the lower blocks as without; an example's activations come from a
micro-batch in which it has the slot that it would have later. They stay in memory, like the data that they come from.
Leaves to others: everything about privacy, which this does not touch: gradients are the same.
Source: docs/methods.md.
"""

from __future__ import annotations

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

_Call = tuple[tuple[Any, ...], dict[str, Any]]


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

    def extended(self, examples: Examples, micro_batch: int) -> Examples:
        """Return the examples with their activations, computed in micro-batches of the plan's size."""
        parts = []
        for start in range(0, len(examples), micro_batch):
            rows = np.arange(start, start + micro_batch)
            rows[rows >= len(examples)] = -1
            parts.append(self.activations(dict(examples.take(rows).inputs)))
        joined = torch.cat(parts)[: len(examples)]
        return replace(examples, inputs={**examples.inputs, ACTIVATIONS: joined})

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


def shortened(engines: TurnEngines, synthetic: Examples, examples: Examples) -> Examples:
    """Return the examples with their activations and take the lower blocks off, or leave everything as it is.

    It is left where the lowest block trains in some turn, activations would take too much memory, or gradients would
    change.

    Args:
        engines: compute the gradients that must not change, in every turn.
        synthetic: synthetic examples, a micro-batch of them.
        examples: of the dataset.
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
    longer = prefix.extended(examples, size)
    prefix.cut()
    return longer


def _same_rows(prefix: FrozenPrefix, engine: GradientEngine, synthetic: Examples, extended: Examples) -> bool:
    rows = engine.rows(synthetic)
    prefix.cut()
    try:
        return torch.equal(engine.rows(extended), rows)
    finally:
        prefix.restore()
