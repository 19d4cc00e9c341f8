"""Frozen weights stay as narrow as they are stored: a layer widens its own while it computes, and lets go of it.

A bfloat16 base of a billion entries is 2 GB, and its float32 copy 4 GB more. So linear layers and embeddings, where
nearly all entries are, keep the checkpoint's own type, in the pages of the file itself; on an owner's wish linear
layers are packed into 8 or 4 bits an entry instead. What is small (norms, biases, convolutions) becomes float32.

Guarantees: products are computed in the type of what goes in (float32, or that of autocast), never in the stored one,
and forward and backward passes hold one layer's wide weight at a time; with weights of 16 bits outputs and gradients
have the very bits that a float32 copy gives. Weights of modules that are spared are float32 through and through.
Leaves to others: what trains, which ``adapters`` makes float32; loading (``participant.training.models``).
Source: Dettmers et al., "QLoRA", NeurIPS 2023, arXiv:2305.14314, for NF4; bitsandbytes 0.50 ``functional``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from participant.training.trainer import Weights
from privacy.errors import LocalError

NARROW: Final = (torch.bfloat16, torch.float16)
BLOCK: Final = {"8-bit": 256, "4-bit": 64}  # entries with one scale, as bitsandbytes has them by default

Widen = Callable[[torch.dtype], Tensor]  # returns a layer's weight in a type


class _Product(torch.autograd.Function):
    """A product with a frozen weight that is widened anew for the backward pass, not kept for it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(inputs: Tensor, bias: Tensor | None, layer: Any) -> Tensor:
        found: Tensor = layer.product(inputs, layer.widened(inputs.dtype), bias)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004  torch's own names
        _, _, ctx.layer = inputs

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (given,) = outer
        weight = ctx.layer.widened(given.dtype)
        rows = given.reshape(-1, given.shape[-1])
        back = (rows @ (weight.T if isinstance(ctx.layer, Conv1D) else weight)).reshape(*given.shape[:-1], -1)
        return back, rows.sum(dim=0) if ctx.needs_input_grad[1] else None, None

    @staticmethod
    def jvp(ctx: Any, *along: Any) -> Tensor:
        inputs, bias, _ = along
        weight = ctx.layer.widened(inputs.dtype)
        found: Tensor = inputs @ (weight if isinstance(ctx.layer, Conv1D) else weight.T)
        return found if bias is None else found + bias


class _Narrow(nn.Module):
    """Mixed into a layer with a weight; the same layer where its weight is as wide as what goes in."""

    weight: Any  # parameters, as the layer that this is mixed into has them
    bias: Any
    unpack: Widen | None = None  # of a packed weight

    def widened(self, kind: torch.dtype) -> Tensor:
        """Return the weight in a type."""
        wide: Tensor = self.weight.to(kind) if self.unpack is None else self.unpack(kind)
        return wide

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the layer returns, computed in the type of the inputs, or of autocast."""
        auto = torch.is_autocast_enabled(inputs.device.type)
        kind = torch.get_autocast_dtype(inputs.device.type) if auto else inputs.dtype
        if self.unpack is None and self.weight.dtype not in NARROW:
            plain: Tensor = super().forward(inputs)
            return plain
        found: Tensor = _Product.apply(inputs.to(kind), self.bias, self)  # type: ignore[no-untyped-call]
        return found


class NarrowLinear(_Narrow, nn.Linear):
    """y = x W^T + b."""

    @staticmethod
    def product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the layer's outputs."""
        return functional.linear(inputs, weight, None if bias is None else bias.to(inputs.dtype))


class NarrowConv1D(_Narrow, Conv1D):
    """y = x W + b, as GPT-2 has it."""

    @staticmethod
    def product(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the layer's outputs."""
        rows = torch.addmm(bias.to(inputs.dtype), inputs.reshape(-1, inputs.shape[-1]), weight)
        return rows.reshape(*inputs.shape[:-1], -1)


class NarrowEmbedding(nn.Embedding):
    """Rows of a table, widened as they are read."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens' rows, float32."""
        return super().forward(tokens).float()


_KINDS: Final[dict[type[nn.Module], type[nn.Module]]] = {
    nn.Linear: NarrowLinear,
    Conv1D: NarrowConv1D,
    nn.Embedding: NarrowEmbedding,
}


def keep_narrow(model: Any, weights: Weights, *, spared: Sequence[str]) -> None:
    """Let a frozen model compute in float32 with weights that stay narrow, or are packed.

    Args:
        model: as loaded, in the checkpoint's own type.
        weights: ``8-bit`` and ``4-bit`` pack linear layers; else each tensor stays as it is.
        spared: names of modules that become float32 altogether.

    Raises:
        LocalError: ``E-EXTRA-MISSING``, packing needs bitsandbytes.
    """
    kept: set[int] = set()
    answers = model.get_output_embeddings()
    for name, module in model.named_modules():
        if type(module) not in _KINDS or _is_below(name, spared):
            continue
        if weights in BLOCK and isinstance(module, nn.Linear) and module is not answers:
            _pack(module, weights)
        elif module.weight.dtype not in NARROW:
            continue
        module.__class__ = _KINDS[type(module)]
        kept.add(id(module.weight))
    for module in (module for name, module in model.named_modules() if _is_below(name, spared)):
        for name, tensor in list(module.named_parameters(recurse=False)):
            if id(tensor) in kept:  # a head that shares its weights with an embedding becomes one of its own
                setattr(module, name, nn.Parameter(tensor.detach().float(), requires_grad=False))
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) not in kept and tensor.dtype in NARROW:
            tensor.data = tensor.data.float()


def _is_below(name: str, modules: Sequence[str]) -> bool:
    return any(f".{module}." in f".{name}." for module in modules)


def _pack(layer: nn.Linear, weights: Weights) -> None:
    """Replace a linear layer's weight by its packed form."""
    if find_spec("bitsandbytes") is None:
        raise LocalError("E-EXTRA-MISSING", f"weights = {weights} needs bitsandbytes: pip install 'onlysum[packed]'")
    from bitsandbytes import functional as packing

    wide = layer.weight.detach().float().contiguous()
    state: Any
    unpack: Callable[..., Tensor]
    if weights == "4-bit":
        packed, state = packing.quantize_4bit(wide, blocksize=BLOCK[weights], quant_type="nf4")
        unpack = packing.dequantize_4bit
    else:
        packed, state = packing.quantize_blockwise(wide, blocksize=BLOCK[weights])
        unpack = packing.dequantize_blockwise
    layer.weight = nn.Parameter(packed, requires_grad=False)

    def widened(kind: torch.dtype) -> Tensor:
        if state.absmax.device != layer.weight.device:  # the layer was moved since
            state.to(layer.weight.device)
        return unpack(layer.weight, state).to(kind)

    vars(layer)["unpack"] = widened
