"""What a gradient engine is: gradients of the trained tensors for batches of examples.

Guarantees: each row is the gradient of one example's own loss, or the call fails; the summed gradient comes from torch
alone, so that it checks the rows of either engine.
Leaves to others: how rows are found (``fast``, ``reference``), whether they are right for this very model
(``participant.training.selfcheck``), clipping (``privacy.dp``).
Source: docs/privacy-accounting.md section 3.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from participant.training.adapters.adapted import AdaptedModel
from participant.training.examples import Examples

Losses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # answers and labels, examples first, to (batch,)


class GradientEngine(ABC):
    """Computes gradients of an adapted model.

    Args:
        adapted: the model; the engine may attach hooks to it, until :meth:`close`.
        losses: each example's own loss; by default the task's.
    """

    def __init__(self, adapted: AdaptedModel, losses: Losses | None = None) -> None:
        self.adapted = adapted
        self._losses = losses or adapted.work.losses

    @abstractmethod
    def rows(self, examples: Examples) -> torch.Tensor:
        """Return one gradient per row, shape (batch, entries), float32 on the model's device, in the vector's order.

        Raises:
            LocalError: ``E-SELF-CHECK``, a trained tensor has no gradient of each example.
        """

    @abstractmethod
    def close(self) -> None:
        """Take all hooks off the model."""

    def per_example(self, examples: Examples) -> NDArray[np.float32]:
        """Return :meth:`rows` in numpy."""
        return self.rows(examples).cpu().numpy()

    def summed(self, examples: Examples, counted: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """Return the gradient of the summed loss of the counted examples, shape (entries,), by torch alone."""
        losses = self.losses(examples)
        if counted is not None:
            losses = losses[torch.from_numpy(counted).to(losses.device)]
        parts = torch.autograd.grad(losses.sum(), self.adapted.trained, allow_unused=True)
        return flat(self.adapted.trained, parts).cpu().numpy().astype(np.float64)

    def losses(self, examples: Examples) -> torch.Tensor:
        """Return each example's loss, shape (batch,), with its graph."""
        return self._losses(self.adapted.logits(examples.inputs), examples.labels)


def flat(trained: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Return gradients of the trained tensors as one vector, shape (entries,); a missing one is zero."""
    parts = zip(trained, gradients, strict=True)
    return torch.cat([(torch.zeros_like(one) if part is None else part).detach().reshape(-1) for one, part in parts])
