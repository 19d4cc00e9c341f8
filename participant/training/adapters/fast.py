"""The fast engine: per-example gradients from the one backward pass that training needs anyway.

``torch.autograd.grad`` of the summed loss at the points of all sites, a batched product a site, and the parts side by
side. Adapters' gradients are tiny, so having them for each example costs next to nothing: ``bench/dp_step.py``.

Guarantees: every trained tensor is used by some site and has one gradient per example, or the call fails; nothing is
hooked outside of a call, so evaluation and the self-check's own gradients see the bare model.
Leaves to others: layers that cannot be taken apart (``reference``), the proof on the very model (``selfcheck``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from participant.training.adapters.adapted import AdaptedModel
from participant.training.adapters.gradients import GradientEngine, Losses
from participant.training.adapters.switched import absent
from participant.training.adapters.taps import LayerTap, Undo, UnknownLayerError, Use, find_sites
from participant.training.examples import Examples
from participant.training.trainer import EngineName
from privacy.errors import LocalError


def choose_engine(
    adapted: AdaptedModel, synthetic: Examples, losses: Losses | None = None, *, engine: EngineName = "fast"
) -> GradientEngine:
    """Return the engine asked for; where the fast one cannot take a layer apart, Opacus' one.

    Args:
        adapted: the model.
        synthetic: examples that are nobody's data, on which the fast engine shows that it knows every layer.
        losses: each example's own loss; by default the task's.
        engine: the wish.

    Raises:
        LocalError: ``E-SELF-CHECK``, neither knows a layer.
    """
    if engine == "fast":
        fast = FastEngine(adapted, losses)
        try:
            fast.take_apart(synthetic)
        except UnknownLayerError:
            fast.close()
        else:
            return fast
    from participant.training.adapters.reference import OpacusEngine  # slow to import, and rarely needed

    return OpacusEngine(adapted, losses)


class FastEngine(GradientEngine):
    """Gradients from one backward pass."""

    def __init__(self, adapted: AdaptedModel, losses: Losses | None = None) -> None:
        super().__init__(adapted, losses)
        self._gradients = PerExampleGradients(adapted.model, adapted.trained)

    def rows(self, examples: Examples) -> Tensor:
        """Return one gradient per row; see :class:`GradientEngine`."""
        try:
            return self.take_apart(examples)
        except UnknownLayerError as error:
            raise LocalError("E-SELF-CHECK", f"per-example gradients: {error}") from None

    def take_apart(self, examples: Examples) -> Tensor:
        """Return what :meth:`rows` does, but raise :class:`UnknownLayerError` as it is."""
        return self._gradients(lambda: self.losses(examples))

    def close(self) -> None:
        """Do nothing: hooks last as long as a call."""


class PerExampleGradients:
    """Takes the gradient of a sum of losses apart, for any torch model.

    Args:
        model: with the examples first in every tensor.
        trained: tensors of the model.
    """

    def __init__(self, model: nn.Module, trained: tuple[nn.Parameter, ...]) -> None:
        self._model = model
        self._trained = trained
        self._sites = find_sites(model, trained)

    def __call__(self, losses: Callable[[], Tensor]) -> Tensor:
        """Return one gradient per row, shape (batch, entries), float32, the tensors in their order, row-major.

        Args:
            losses: runs the model and returns each example's own loss, shape (batch,).

        Raises:
            UnknownLayerError: a trained tensor's gradient cannot be taken apart.
        """
        found, uses = self._run(losses)
        used = {id(one) for site, _ in uses for one in site.parameters.values()}
        if any(id(one) not in used | absent(self._model) for one in self._trained):
            raise UnknownLayerError("a trained tensor is used outside of its module, or not at all")
        for site, use in uses:
            if len(use.point) != len(found) or use.point._version != use.version:
                raise UnknownLayerError(f"{type(site.module).__name__} does not keep the examples apart")
        outer = torch.autograd.grad(found.sum(), [use.point for _, use in uses], allow_unused=True)
        rows: dict[int, Tensor] = {}
        with torch.no_grad():
            for (site, use), one in zip(uses, outer, strict=True):
                taken = site.gradients(use, torch.zeros_like(use.point) if one is None else one)
                for name, parameter in site.parameters.items():
                    part = taken[name].reshape(len(found), parameter.numel())
                    rows[id(parameter)] = rows[id(parameter)] + part if id(parameter) in rows else part
            missing = {id(one): one.new_zeros(len(found), one.numel()) for one in self._trained if id(one) not in rows}
            return torch.cat([(rows | missing)[id(one)].float() for one in self._trained], dim=1)

    def _run(self, losses: Callable[[], Tensor]) -> tuple[Tensor, list[tuple[LayerTap, Use]]]:
        """Return the losses and every use of a site that led to them."""
        undo: list[Undo] = []
        try:
            for site in self._sites:
                undo += site.watch()
            return losses(), [(site, use) for site in self._sites for use in site.uses]
        finally:
            for one in undo:
                one()
            for site in self._sites:
                site.uses.clear()  # or the graph would outlive the call
