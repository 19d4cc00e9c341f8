"""Layers that are left out of a model for a while: they pass on what they are given, and are not computed.

Guarantees: the model is as it was when the block ends, also after an error; a trained tensor of a layer that is left
out is known to have no gradient.
Leaves to others: which layers (``methods.coin``), and that no gradient of theirs goes up.
Source: docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import Tensor, nn


def _pass_on(hidden_states: Tensor, *_args: object, **_kwargs: object) -> Tensor:
    return hidden_states


def blocks_with(model: nn.Module, tensors: Collection[Tensor]) -> list[nn.Module]:
    """Return the members of a model's lists of layers that own some of these tensors; of nested lists the outer's."""
    wanted = {id(tensor) for tensor in tensors}
    found: list[nn.Module] = []

    def search(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                found.extend(block for block in child if any(id(one) in wanted for one in block.parameters()))
            else:
                search(child)

    search(model)
    return found


@contextmanager
def left_out(blocks: Collection[nn.Module]) -> Iterator[None]:
    """Leave layers out of every forward pass within."""
    try:
        for block in blocks:
            vars(block)["forward"] = _pass_on
        yield
    finally:
        for block in blocks:
            vars(block).pop("forward", None)


def absent(model: nn.Module) -> set[int]:
    """Return the tensors, by their identity, of layers that are left out at this moment."""
    skipped = [module for module in model.modules() if vars(module).get("forward") is _pass_on]
    return {id(tensor) for module in skipped for tensor in module.parameters()}
