"""VeRA: random projections, common to all layers and to everybody, with learned vectors between and behind them.

Guarantees: the projections are of the initial adapter, so that everybody has the same bytes whatever their generator
does.
Source: Kopiczko et al., "VeRA: Vector-based Random Matrix Adaptation", ICLR 2024, arXiv:2310.11454.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

VERA: Final = Method(
    name="vera",
    title="VeRA",
    category="reparameterised",
    source="Kopiczko et al., ICLR 2024, arXiv:2310.11454",
    peft_type="VERA",
    roles={Selector.SCALE: Role.SHARED, Selector.PROJECTION: Role.FROZEN, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.SCALE}), **HEAD},
    summed="the two scaling vectors of each module, and the head",
    size="r + d",
    afterwards="the mean of each vector",
    notes="The two vectors multiply each other, so their mean is biased in every mode but distributed.",
)
