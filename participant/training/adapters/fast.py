"""The fast engine: per-example gradients from the one backward pass that training needs anyway.

``torch.autograd.grad`` of the summed loss at the points of all sites, a batched product a site, and the parts side by
side. Adapters' gradients are tiny, so having them for each example costs next to nothing: ``bench/dp_step.py``. Where
all examples share what a module computes (DeBERTa projects one table of relative positions for the whole batch), each
example's gradient takes a backward pass of its own.

Guarantees: every trained tensor is used by some site and has one gradient per example, or the call fails; nothing is
hooked outside of a call, so evaluation and the self-check's own gradients see the bare model.
Leaves to others: layers that cannot be taken apart (``reference``), the proof on the very model (``selfcheck``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from participant.training.adapters.adapted import AdaptedModel
from participant.training.adapters.gradients import GradientEngine, Losses
from participant.training.adapters.switched import absent
from participant.training.adapters.taps import LayerTap, Undo, UnknownLayerError, Use, find_sites
from participant.training.examples import Examples
from participant.training.trainer import EngineName
from privacy.errors import LocalError

# The rows of a use: each example's one after another's; what all share; or not told yet, its gradients being zero.
Arrangement = Literal["together", "shared", "unseen"]
_Tapped = tuple[LayerTap, Use]


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
        self._together: dict[int, bool] = {}  # of sites with several rows an example, as soon as they have gradients

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
        rows: dict[int, Tensor] = {}
        for site, use, outer in self._by_example(found, uses):
            with torch.no_grad():
                taken = site.gradients(use, outer)
                for name, parameter in site.parameters.items():
                    part = taken[name].reshape(len(found), parameter.numel())
                    rows[id(parameter)] = rows[id(parameter)] + part if id(parameter) in rows else part
        missing = {id(one): one.new_zeros(len(found), one.numel()) for one in self._trained if id(one) not in rows}
        return torch.cat([(rows | missing)[id(one)].float() for one in self._trained], dim=1)

    def _by_example(self, found: Tensor, uses: list[_Tapped]) -> Iterator[tuple[LayerTap, Use, Tensor]]:
        """Yield every use with its gradient, both with the examples first."""
        batch = len(found)
        for site, use in uses:
            if not use.point.dim() or use.point._version != use.version:
                raise UnknownLayerError(f"{type(site.module).__name__} does not keep the examples apart")
        own = [one for one in uses if self._arranged(one, batch) != "shared"]
        shared = [one for one in uses if self._arranged(one, batch) == "shared"]
        unseen = any(self._arranged(one, batch) == "unseen" for one in own)
        for one, outer in zip(own, _gradients(found.sum(), own, keep=bool(shared) or unseen), strict=True):
            site, use = one
            if self._arranged(one, batch) == "unseen" and outer.any() and outer.isfinite().all():
                each = torch.stack([_gradients(loss, [one], keep=True)[0] for loss in found])
                self._together[id(site)] = _is_together(each)
                if not self._together[id(site)]:
                    yield site, use.for_each(batch), each
                    continue
            if len(use.point) == batch:
                yield site, use, outer
            else:
                yield site, use.by_example(batch), outer.reshape(batch, -1, *outer.shape[1:])
        each_of = [_gradients(loss, shared, keep=True) for loss in (found if shared else ())]
        for (site, use), outers in zip(shared, zip(*each_of, strict=True), strict=True):
            yield site, use.for_each(batch), torch.stack(outers)

    def _arranged(self, tapped: _Tapped, batch: int) -> Arrangement:
        """Return how a use's rows belong to the examples of a batch."""
        site, use = tapped
        if batch in {1, len(use.point)}:
            return "together"
        if len(use.point) % batch or not self._together.get(id(site), True):
            return "shared"
        return "together" if id(site) in self._together else "unseen"

    def _run(self, losses: Callable[[], Tensor]) -> tuple[Tensor, list[_Tapped]]:
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


def _gradients(loss: Tensor, uses: list[_Tapped], *, keep: bool) -> list[Tensor]:
    """Return a loss' gradient at every use's point; zeros where it does not depend on it."""
    if not uses:
        return []
    points = [use.point for _, use in uses]
    found = torch.autograd.grad(loss, points, allow_unused=True, retain_graph=keep)
    return [torch.zeros_like(point) if one is None else one for point, one in zip(points, found, strict=True)]


def _is_together(outer: Tensor) -> bool:
    """Return whether each example's gradient, shape (batch, rows, ...), lies in its own share of the rows alone."""
    batch = len(outer)
    blocks = outer.reshape(batch, batch, -1).ne(0).any(dim=2)
    return not bool((blocks & ~torch.eye(batch, dtype=torch.bool, device=blocks.device)).any())
