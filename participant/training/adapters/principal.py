"""LoRA from the base's own singular vectors: where its factors start, and what then lies in the base twice.

Guarantees: the start is a function of the base's weights alone. It is made once, by whoever makes the initial adapter;
everybody else loads it, since two machines may give other signs or another order to the same singular vectors.
Leaves to others: which method starts so (``methods``), whose adapter it is (``adapted``).
Source: Meng et al., "PiSSA", NeurIPS 2024, arXiv:2404.02948; Balazy et al., "LoRA-XS", arXiv:2405.17604.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn

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
        _require_rank(layer)
        reading, writing = layer.lora_A[ADAPTER].weight, _writing(layer).weight
        weight = layer.get_base_layer().weight.detach().double()
        weight = weight.T if layer.fan_in_fan_out else weight
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        rank = reading.shape[0]
        roots = (values[:rank] / layer.scaling[ADAPTER]).sqrt() if with_values else torch.ones(rank, dtype=weight.dtype)
        with torch.no_grad():
            reading.copy_(roots[:, None] * right[:rank])
            writing.copy_(left[:, :rank] * roots)


def start_orthonormal(model: nn.Module) -> None:
    """Turn the rows of every factor A, random as they are, into orthonormal ones."""
    for layer in lora_layers(model):
        _require_rank(layer)
        reading = layer.lora_A[ADAPTER].weight
        with torch.no_grad():
            reading.copy_(torch.linalg.qr(reading.T.double())[0].T)


def take_out_of_base(model: nn.Module) -> None:
    """Subtract from every adapted weight what its adapter adds: the model's answers are the bare base's."""
    for layer in lora_layers(model):
        weight = layer.get_base_layer().weight
        with torch.no_grad():
            weight -= layer.get_delta_weight(ADAPTER).to(weight.dtype)


def _require_rank(layer: Any) -> None:
    """Refuse a rank above the number of singular vectors that a layer has."""
    most, rank = min(layer.in_features, layer.out_features), layer.lora_A[ADAPTER].weight.shape[0]
    if rank > most:
        raise LocalError("E-CONFIG-INVALID", f"adapter.rank {rank}: a target module has {most} singular vectors")


def lora_layers(model: nn.Module) -> Iterator[Any]:
    """Yield the layers that LoRA adapts; PEFT does not annotate what they hold."""
    return (module for module in model.modules() if isinstance(module, LoraLinear))


def _writing(layer: Any) -> Any:
    factor = layer.lora_B[ADAPTER]
    return factor.out if isinstance(factor, nn.Sequential) else factor
