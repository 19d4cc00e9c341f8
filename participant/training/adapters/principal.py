"""LoRA from the base's own singular vectors: where its factors start, and what then lies in the base twice.

Guarantees: the start is a function of the base's weights alone. It is made once, by whoever makes the initial adapter;
everybody else loads it, since two machines may give other signs or another order to the same singular vectors.
Leaves to others: which method starts so (``methods``), whose adapter it is (``adapted``).
Source: Meng et al., "PiSSA", NeurIPS 2024, arXiv:2404.02948; Balazy et al., "LoRA-XS", arXiv:2405.17604.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from privacy.errors import LocalError

ADAPTER = "default"


def start_from_base(model: nn.Module, *, with_values: bool) -> None:
    """Set both factors of every LoRA to the largest singular vectors of the weight that it adapts.

    Args:
        model: with fresh adapters.
        with_values: whether the singular values belong to the factors, so that their scaled product is the weight's
            best approximation of its rank; otherwise the factors are orthonormal.
    """
    for layer in lora_layers(model):
        reading, writing = _reading(layer), _writing(layer)
        weight = _weight(layer).detach().double()
        weight = weight.T if layer.fan_in_fan_out else weight
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        rank = len(reading)
        _require_rank(rank, len(values))
        roots = (values[:rank] / layer.scaling[ADAPTER]).sqrt() if with_values else torch.ones_like(values[:rank])
        with torch.no_grad():
            reading.copy_(roots[:, None] * right[:rank])
            writing.copy_(left[:, :rank] * roots)


def start_orthonormal(model: nn.Module) -> None:
    """Turn the rows of every factor A, random as they are, into orthonormal ones."""
    for layer in lora_layers(model):
        reading = _reading(layer)
        _require_rank(len(reading), min(len(_writing(layer)), reading.shape[1]))
        with torch.no_grad():
            reading.copy_(torch.linalg.qr(reading.T.double())[0].T)


def take_out_of_base(model: nn.Module) -> None:
    """Subtract from every adapted weight what its adapter adds: the model's answers are the bare base's."""
    for layer in lora_layers(model):
        weight = _weight(layer)
        with torch.no_grad():
            weight.data = weight.data.float()  # the difference is finer than a narrow weight can hold
            weight -= layer.get_delta_weight(ADAPTER).to(weight.dtype)


def lora_layers(model: nn.Module) -> Iterator[LoraLinear]:
    """Yield the layers that LoRA adapts."""
    return (module for module in model.modules() if isinstance(module, LoraLinear))


def _require_rank(rank: int, most: int) -> None:
    """Refuse a rank above the number of singular vectors that a layer has."""
    if rank > most:
        raise LocalError("E-CONFIG-INVALID", f"adapter.rank {rank}: a target module has {most} singular vectors")


def _weight(layer: LoraLinear) -> Tensor:
    return layer.get_base_layer().get_parameter("weight")


def _reading(layer: LoraLinear) -> Tensor:
    """Return A, shape (rank, inputs)."""
    return layer.get_parameter(f"lora_A.{ADAPTER}.weight")


def _writing(layer: LoraLinear) -> Tensor:
    """Return B, shape (outputs, rank); of a layer with a core, what stands outside of it."""
    cored = isinstance(layer.lora_B[ADAPTER], nn.Sequential)
    return layer.get_parameter(f"lora_B.{ADAPTER}.{'out.' if cored else ''}weight")
