"""Sites: the modules that own trained tensors, and how each tells one example's gradient from the next.

A site keeps, for each time its module is used, what the module was given and one tensor of the graph, its *point*. The
gradient of the summed loss at the point has the examples first; a batched product with what was given takes it to the
gradients of the module's tensors. Linear layers, norms, embeddings and IA3's scales have such a product of their own;
any other module is differentiated by itself, example by example (``torch.func.vmap``).

Guarantees: a use whose point was changed in place is refused, never guessed at.
Leaves to others: the backward passes, and what becomes of a point that has not one row for each example (``fast``);
whether a module treats each example by itself, which ``participant.training.selfcheck`` shows on the very model.
Source: Goodfellow 2015, "Efficient per-example gradient computations", arXiv:1510.01799.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.ia3.layer import Linear as ScaledLinear
from peft.tuners.ln_tuning.layer import LNTuningLayer
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from participant.training.bases.narrow import NarrowConv1D, NarrowEmbedding, NarrowLinear
from participant.training.tuners.bottleneck import BottleneckLayer

Undo = Callable[[], object]
Parameters = Mapping[str, nn.Parameter]  # trained ones, by their names within the site's module


class UnknownLayerError(Exception):
    """A module cannot be taken apart into its examples."""


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a site's module in a forward pass.

    Attributes:
        given: what the module was called with, positional and by name.
        point: the tensor whose gradient is asked for.
        version: of the point, as torch counts changes in place.
        several: whether an example's part of what was given has an axis of its own in front, as the module got it:
            several windows of one image, or what all examples share.
    """

    given: tuple[tuple[Any, ...], dict[str, Any]]
    point: Tensor
    version: int
    several: bool = False

    def by_example(self, batch: int) -> Use:
        """Return the use with the examples in an axis of their own, where each has several rows, one after another."""
        return self._mapped(
            lambda value: value.reshape(batch, -1, *value.shape[1:]) if len(value) == len(self.point) else value
        )

    def for_each(self, batch: int) -> Use:
        """Return the use as every example has it, where all share one."""
        return self._mapped(lambda value: value.expand(batch, *value.shape))

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Use:
        args, kwargs = self.given
        changed = tuple(change(value) if isinstance(value, Tensor) and value.dim() else value for value in args)
        return replace(self, given=(changed, kwargs), several=True)


class LayerTap(ABC):
    """A module that owns trained tensors.

    Args:
        module: it.
        parameters: its trained tensors.
    """

    def __init__(self, module: nn.Module, parameters: Parameters) -> None:
        self.module = module
        self.parameters = parameters
        self.uses: list[Use] = []

    def watch(self) -> list[Undo]:
        """Note every use of the module from now on, until what is returned has been called."""
        return [self.module.register_forward_hook(self._after, with_kwargs=True).remove]

    def _after(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        self.note(args, kwargs, output)

    def note(self, args: tuple[Any, ...], kwargs: dict[str, Any], point: object) -> None:
        """Keep one use.

        Raises:
            UnknownLayerError: the point is no tensor with a gradient.
        """
        if not isinstance(point, Tensor) or not point.requires_grad:
            raise UnknownLayerError(f"{type(self.module).__name__} gives no tensor with a gradient")
        self.uses.append(Use((args, kwargs), point, point._version))

    @abstractmethod
    def gradients(self, use: Use, outer: Tensor) -> Mapping[str, Tensor]:
        """Return one gradient per row of each tensor.

        Args:
            use: one of :attr:`uses`.
            outer: gradient of the summed loss at its point, the examples first.

        Returns:
            By the names of :attr:`parameters`, each with the examples first and as many entries per example as the
            tensor has.
        """


class LinearSite(LayerTap):
    """y = x W^T + b, and transformers' y = x W + b."""

    def gradients(self, use: Use, outer: Tensor) -> Mapping[str, Tensor]:
        """Return the products of outputs' gradients with inputs, and their sums for the bias."""
        outer = _middle(outer)
        found = {}
        if "weight" in self.parameters:
            inputs = _middle(use.given[0][0]).to(outer.dtype)
            left, right = (inputs, outer) if isinstance(self.module, Conv1D) else (outer, inputs)
            found["weight"] = left.transpose(1, 2) @ right
        if "bias" in self.parameters:
            found["bias"] = outer.sum(dim=1)
        return found


class NormSite(LayerTap):
    """Layer normalisation: y = w * (x - mean) / deviation + b."""

    module: nn.LayerNorm

    def gradients(self, use: Use, outer: Tensor) -> Mapping[str, Tensor]:
        """Return sums over positions, for the weight after multiplication with the normalised input."""
        shape = (len(outer), -1, self.module.normalized_shape)
        found = {}
        if "weight" in self.parameters:
            bare = functional.layer_norm(
                use.given[0][0].to(outer.dtype), self.module.normalized_shape, eps=self.module.eps
            )
            found["weight"] = (outer * bare).reshape(*shape[:2], *shape[2]).sum(dim=1)
        if "bias" in self.parameters:
            found["bias"] = outer.reshape(*shape[:2], *shape[2]).sum(dim=1)
        return found


class EmbeddingSite(LayerTap):
    """Rows of a table: each example's gradient goes to the rows that it read."""

    module: nn.Embedding

    def gradients(self, use: Use, outer: Tensor) -> Mapping[str, Tensor]:
        """Return each example's own table of gradients."""
        tokens, count = use.given[0][0].flatten(1), self.module.num_embeddings
        batch, width = len(tokens), outer.shape[-1]
        outer = outer.reshape(-1, width)
        if self.module.padding_idx is not None:
            outer = outer * (tokens != self.module.padding_idx).reshape(-1, 1)
        places = tokens + count * torch.arange(batch, device=tokens.device)[:, None]
        table = torch.zeros(batch * count, width, dtype=outer.dtype, device=outer.device)
        return {"weight": table.index_add_(0, places.reshape(-1), outer).reshape(batch, count, width)}


class ScaleSite(LayerTap):
    """IA3: the inputs of a feed-forward layer, or the outputs of any other, times a vector."""

    module: ScaledLinear

    def watch(self) -> list[Undo]:
        """Note what goes into the base layer, scaled, or what comes out of it, not yet scaled."""
        if self.module.is_feedforward:
            self._plain: Any = None
            return [
                self.module.register_forward_pre_hook(self._before).remove,
                self.module.base_layer.register_forward_pre_hook(self._scaled_input).remove,
            ]
        return [
            self.module.base_layer.register_forward_hook(self._plain_output).remove,
            self.module.register_forward_hook(self._scaled_output).remove,
        ]

    def _before(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        self._plain = args[0]

    def _scaled_input(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        self.note((self._plain,), {}, args[0])

    def _plain_output(self, _module: nn.Module, _args: tuple[Any, ...], output: object) -> None:
        self._plain = output

    def _scaled_output(self, _module: nn.Module, _args: tuple[Any, ...], output: object) -> None:
        self.note((self._plain,), {}, output)

    def gradients(self, use: Use, outer: Tensor) -> Mapping[str, Tensor]:
        """Return sums over positions of the gradient times what was scaled."""
        (name,) = self.parameters
        return {name: _middle(outer * use.given[0][0]).sum(dim=1)}


class AnySite(LayerTap):
    """A module without a product of its own: differentiated by itself, example by example."""

    def gradients(self, use: Use, outer: Tensor) -> Mapping[str, Tensor]:
        """Return the module's gradients, its forward pass once more for each example.

        Raises:
            UnknownLayerError: the module cannot be vectorised.
        """
        args, kwargs = use.given
        own = {name: one.detach() for name, one in self.parameters.items()}
        owned = [
            place for place, one in enumerate(args) if isinstance(one, Tensor) and one.shape[:1] == outer.shape[:1]
        ]

        def one_example(mine: list[Tensor], outer: Tensor) -> dict[str, Tensor]:
            given = list(args)
            for place, value in zip(owned, mine, strict=True):
                given[place] = value if use.several else value[None]

            def use_again(tensors: dict[str, Tensor]) -> Tensor:
                found: Tensor = functional_call(self.module, tensors, tuple(given), kwargs)
                return found

            found: dict[str, Tensor] = vjp(use_again, own)[1](outer if use.several else outer[None])[0]
            return found

        try:
            rows: dict[str, Tensor] = vmap(one_example)([args[place].detach() for place in owned], outer)
        except (RuntimeError, ValueError, TypeError) as error:
            raise UnknownLayerError(f"{type(self.module).__name__}: {type(error).__name__}") from None
        return rows


class PromptSite(LayerTap):
    """Soft prompts: PEFT computes one prompt and repeats it for the batch, so the point is what it repeats it to."""

    def __init__(self, model: PeftModel, parameters: Parameters) -> None:
        super().__init__(model.prompt_encoder[model.active_adapter], parameters)
        self._model = model

    def watch(self) -> list[Undo]:
        """Note every prompt that the model asks for."""
        original = self._model.get_prompt

        def noted(batch_size: int, *args: Any, **kwargs: Any) -> object:
            prompts = original(batch_size, *args, **kwargs)
            self.note(args, kwargs, prompts)
            return prompts

        vars(self._model)["get_prompt"] = noted
        return [lambda: vars(self._model).pop("get_prompt")]

    def gradients(self, use: Use, outer: Tensor) -> Mapping[str, Tensor]:
        """Return each example's gradient of the prompt, taken through the prompt's encoder."""
        tokens = self._model.prompt_tokens[self._model.active_adapter][None].to(outer.device)
        own = {name: one.detach() for name, one in self.parameters.items()}
        try:
            pull = vjp(lambda tensors: functional_call(self.module, tensors, (tokens,)), own)[1]
            rows: dict[str, Tensor] = vmap(lambda row: pull(row[None])[0])(outer)
        except (RuntimeError, ValueError, TypeError) as error:
            raise UnknownLayerError(f"{type(self.module).__name__}: {type(error).__name__}") from None
        return rows


_CLOSED: Mapping[type[nn.Module], type[LayerTap]] = {
    nn.Linear: LinearSite,
    NarrowLinear: LinearSite,
    Conv1D: LinearSite,
    NarrowConv1D: LinearSite,
    nn.LayerNorm: NormSite,
    nn.Embedding: EmbeddingSite,
    NarrowEmbedding: EmbeddingSite,
}


def find_sites(model: nn.Module, trained: tuple[nn.Parameter, ...]) -> list[LayerTap]:
    """Return the sites of a model: together they own every trained tensor that belongs to a module."""
    wanted = {id(one) for one in trained}
    if isinstance(model, PeftModel) and _repeats_prompts(model):
        encoder = model.prompt_encoder[model.active_adapter]
        return [PromptSite(model, _below(encoder, wanted)), *_sites(model.base_model, wanted)]
    return list(_sites(model, wanted))


def _repeats_prompts(model: PeftModel) -> bool:
    config = model.active_peft_config
    return bool(config.is_prompt_learning) and str(config.peft_type.value) not in {"PREFIX_TUNING", "CARTRIDGE"}


def _sites(module: nn.Module, wanted: set[int]) -> Iterator[LayerTap]:
    below = _below(module, wanted)
    if not below:
        return
    if isinstance(module, ScaledLinear) and len(below) == 1 and not any(one.startswith("base_") for one in below):
        yield ScaleSite(module, below)
    elif isinstance(module, BaseTunerLayer) and not _of_layers(module):
        yield AnySite(module, below)
    elif not _own(module, wanted):
        for child in module.children():
            yield from _sites(child, wanted)
    elif (site := _CLOSED.get(type(module))) and not getattr(module, "scale_grad_by_freq", False):
        yield site(module, below)
    else:
        yield AnySite(module, below)


def _of_layers(module: BaseTunerLayer) -> bool:
    """Return whether a layer of PEFT only calls layers that own its tensors: W x + B (A x), y + U f(D y), a norm."""
    plain = isinstance(module, LNTuningLayer | BottleneckLayer)
    return plain or (isinstance(module, LoraLinear) and not module.lora_variant)


def _below(module: nn.Module, wanted: set[int]) -> Parameters:
    return {name: one for name, one in module.named_parameters() if id(one) in wanted}


def _own(module: nn.Module, wanted: set[int]) -> bool:
    """Return whether a module uses a trained tensor itself; what a list or dictionary holds is used by its owner."""
    holders = [child for child in module.children() if isinstance(child, nn.ParameterDict | nn.ParameterList)]
    return any(
        id(parameter) in wanted for holder in (module, *holders) for parameter in holder.parameters(recurse=False)
    )


def _middle(values: Tensor) -> Tensor:
    """Return values of shape (batch, positions, width), whatever lay between batch and width."""
    return values[:, None] if values.dim() == 2 else values.flatten(1, -2)
