"""The reference engine: per-example gradients from Opacus' hooks.

Guarantees: every trained tensor has one gradient per example, or the call fails. Only the modules that own a trained
tensor are told that they train (Opacus asks for it): for linear layers and norms that changes nothing, so no dropout is
ever active. ``tests/participant/test_adapter_engines.py`` holds the fast engine to this one.
Source: Opacus 1.6 ``grad_sample_module.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleHooks

from participant.training.adapters.adapted import AdaptedModel
from participant.training.adapters.gradients import GradientEngine, Losses
from participant.training.examples import Examples
from privacy.errors import LocalError


class OpacusEngine(GradientEngine):
    """Gradients by Opacus, for layers that the fast engine cannot take apart and for comparison.

    Raises:
        LocalError: ``E-SELF-CHECK``, a trained module has state that depends on batches.
    """

    def __init__(self, adapted: AdaptedModel, losses: Losses | None = None) -> None:
        super().__init__(adapted, losses)
        for module in adapted.model.modules():
            own = list(module.parameters(recurse=False))
            module.training = any(parameter.requires_grad for parameter in own)
        try:
            self._hooks = GradSampleHooks(adapted.model, loss_reduction="sum", strict=True)
        except NotImplementedError:
            what = "a trained layer keeps state that no single example owns"
            raise LocalError("E-SELF-CHECK", f"per-example gradients: {what}") from None
        self._hooks.disable_hooks()

    def rows(self, examples: Examples) -> torch.Tensor:
        """Return one gradient per row; see :class:`GradientEngine`."""
        self._hooks.enable_hooks()
        try:
            self._backward(examples)
            return torch.cat([self._samples(parameter, len(examples)) for parameter in self.adapted.trained], dim=1)
        finally:
            self._hooks.disable_hooks()
            self._clear()

    def summed(self, examples: Examples, counted: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """Return the gradient of the summed loss; see :class:`GradientEngine`."""
        with _quiet():
            return super().summed(examples, counted)

    def close(self) -> None:
        """Take Opacus' hooks off the model."""
        self._hooks.remove_hooks()
        self.adapted.model.eval()

    def _backward(self, examples: Examples) -> None:
        with _quiet():
            self.losses(examples).sum().backward()  # type: ignore[no-untyped-call]

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


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # The first trained layer's input needs no gradient; Opacus' hooks are made for that.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        yield
