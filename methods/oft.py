"""OFT: blocks of a layer's inputs are rotated.

Guarantees: what is summed are skew-symmetric matrices, a linear space: their mean still makes rotations, which a mean
of rotations does not.
Source: Qiu et al., "Controlling Text-to-Image Diffusion by Orthogonal Finetuning", NeurIPS 2023, arXiv:2306.07280.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

OFT: Final = Method(
    name="oft",
    title="OFT",
    category="reparameterised",
    source="Qiu et al., NeurIPS 2023, arXiv:2306.07280",
    peft_type="OFT",
    roles={Selector.ROTATION: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.ROTATION}), **HEAD},
    summed="the skew-symmetric matrices of the rotations, and the head",
    size="k (b - 1) / 2 for blocks of b",
    afterwards="the mean of the matrices; each mean is skew-symmetric again, so it is a rotation",
    notes="block_size must divide the inputs of each target.",
)
