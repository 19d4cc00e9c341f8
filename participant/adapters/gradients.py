"""Per-example gradients of the trained tensors, from Opacus' hooks.

Guarantees: each row is the gradient of one example's own loss, or the call fails; every trained tensor has one
gradient an example. Only the modules that own a trained tensor are told that they train (Opacus asks for it): for
linear layers and norms that changes nothing, so no dropout is ever active.
Leaves to others: whether rows are right for this model (``participant.selfcheck``), clipping (``privacy.dp``).
Source: Opacus 1.6 ``grad_sample_module.py``; docs/privacy-accounting.md section 3.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleHooks

from participant.adapters.adapted import AdaptedModel
from participant.examples import Examples
from privacy.errors import LocalError

Losses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (batch, labels) and (batch,) to (batch,)


def example_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of each example, shape (batch,): one number a sequence, never a mean over tokens."""
    return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")


class GradientEngine:
    """Computes gradients of an adapted model for batches of examples.

    Args:
        adapted: the model; hooks are attached to it.
        losses: each example's own loss.

    Raises:
        LocalError: ``E-SELF-CHECK``, a trained module has state that depends on batches.
    """

    def __init__(self, adapted: AdaptedModel, losses: Losses = example_losses) -> None:
        self.adapted = adapted
        self._losses = losses
        for module in adapted.model.modules():
            own = list(module.parameters(recurse=False))
            module.training = any(parameter.requires_grad for parameter in own)
        try:
            self._hooks = GradSampleHooks(adapted.model, loss_reduction="sum", strict=True)
        except NotImplementedError:
            what = "a trained layer keeps state that no single example owns"
            raise LocalError("E-SELF-CHECK", f"per-example gradients: {what}") from None

    def per_example(self, examples: Examples) -> NDArray[np.float32]:
        """Return one gradient a row, shape (batch, entries), in the order of the vector.

        Raises:
            LocalError: ``E-SELF-CHECK``, a trained tensor has no gradient of each example.
        """
        self._hooks.enable_hooks()
        self._backward(examples, None)
        rows = [self._samples(parameter, len(examples)) for parameter in self.adapted.trained]
        self._clear()
        return torch.cat(rows, dim=1).cpu().numpy()

    def summed(self, examples: Examples, counted: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """Return the gradient of the summed loss of the counted examples, shape (entries,), without Opacus."""
        self._hooks.disable_hooks()
        self._backward(examples, counted)
        parts = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self.adapted.trained
        ]
        flat = torch.cat([part.detach().reshape(-1) for part in parts]).cpu().numpy().astype(np.float64)
        self._clear()
        return flat

    def _backward(self, examples: Examples, counted: NDArray[np.bool_] | None) -> None:
        losses = self._losses(self.adapted.logits(examples.inputs), examples.labels)
        if counted is not None:
            losses = losses[torch.from_numpy(counted).to(losses.device)]
        with warnings.catch_warnings():
            # The first trained layer's input needs no gradient; Opacus' hooks are made for that.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            losses.sum().backward()  # type: ignore[no-untyped-call]

    def _samples(self, parameter: torch.nn.Parameter, batch: int) -> torch.Tensor:
        found = getattr(parameter, "grad_sample", None)
        if not isinstance(found, torch.Tensor) or found.shape != (batch, *parameter.shape):
            shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise LocalError(
                "E-SELF-CHECK",
                f"per-example gradients: a tensor of shape {tuple(parameter.shape)} has {shape} for {batch} examples",
            )
        return found.detach().reshape(batch, -1)

    def _clear(self) -> None:
        for parameter in self.adapted.trained:
            parameter.grad = None
            parameter.grad_sample = None  # type: ignore[attr-defined]  # where Opacus keeps it
