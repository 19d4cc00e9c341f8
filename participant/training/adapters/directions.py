"""Derivatives along public random directions, by forward passes alone.

Guarantees: each example has its own derivatives, exact, from forward-mode differentiation; the sum that the self-check
compares them with comes from a backward pass, which shares no code with them. One direction is in memory at a time.
Leaves to others: what the directions are (``methods.fedkseed``).
Source: Qin et al., arXiv:2312.06353; Baydin et al., "Gradients without Backpropagation", arXiv:2202.08587.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.fedkseed import direction, directions
from participant.training.adapters.adapted import AdaptedModel
from participant.training.adapters.gradients import GradientEngine, Losses, flat
from participant.training.examples import Examples


class DirectionEngine(GradientEngine):
    """Derivatives of the scalars, and gradients of the head.

    Args:
        adapted: the model; the scalars come first among what trains.
        rows_of_head: takes the gradient of the losses apart, for the head's tensors; ``None``: there is no head.
        losses: each example's own loss; by default the task's.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        rows_of_head: Callable[[Callable[[], Tensor]], Tensor] | None,
        losses: Losses | None = None,
    ) -> None:
        super().__init__(adapted, losses)
        self._tensors = adapted.moved
        self._head = adapted.trained[1:]
        self._rows_of_head = rows_of_head

    def rows(self, examples: Examples) -> Tensor:
        """Return one gradient per row; see :class:`GradientEngine`."""
        values = {tensor.name: tensor.parameter.detach() for tensor in self._tensors}
        found: list[Tensor] = []
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad():  # the others have no forward mode
            found += (
                jvp(lambda given: self._with(given, examples), (values,), (self._along(number),))[1]
                for number in range(directions(self.adapted.recipe.adapter))
            )
        rows = [torch.stack(found, dim=1).float()]
        if self._rows_of_head is not None:
            rows.append(self._rows_of_head(lambda: self.losses(examples)))
        return torch.cat(rows, dim=1)

    def summed(self, examples: Examples, counted: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """Return the gradient of the summed loss; see :class:`GradientEngine`."""
        values = {tensor.name: tensor.parameter.detach().requires_grad_() for tensor in self._tensors}
        losses = self._with(values, examples)
        if counted is not None:
            losses = losses[torch.from_numpy(counted).to(losses.device)]
        wanted = [*values.values(), *self._head]
        parts = torch.autograd.grad(losses.sum(), wanted, allow_unused=True)
        gradients = {
            name: torch.zeros_like(value) if part is None else part
            for (name, value), part in zip(values.items(), parts, strict=False)
        }
        scalars = [
            sum(float((gradients[name].double() * along.double()).sum()) for name, along in self._along(number).items())
            for number in range(directions(self.adapted.recipe.adapter))
        ]
        head = flat(self._head, parts[len(values) :]).cpu().numpy() if self._head else np.empty(0)
        return np.concatenate([np.array(scalars), head.astype(np.float64)])

    def close(self) -> None:
        """Do nothing: nothing is hooked outside of a call."""

    def _with(self, tensors: Mapping[str, Tensor], examples: Examples) -> Tensor:
        moved: Any = partial(functional_call, self.adapted.model, dict(tensors), ())

        def model(**inputs: Tensor) -> Any:
            return moved(inputs)

        with self.adapted.computing():
            answers = self.adapted.work.answers(cast("torch.nn.Module", model), examples.inputs)
        return self._losses(answers, examples.labels)

    def _along(self, number: int) -> dict[str, Tensor]:
        """Return a direction's part in each tensor, by its name in the model."""
        adapter = self.adapted.recipe.adapter
        return {
            one.name: torch.from_numpy(direction(adapter, number, one.key, tuple(one.start.shape))).to(one.start.device)
            for one in self._tensors
        }
