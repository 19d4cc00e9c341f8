"""Layer subset: modules that the plan names train whole.

Guarantees: the subset is the plan's and the same for everybody, so counts are those of the survivors; a choice by
gradients would depend on data.
Source: Lee et al., "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts", ICLR 2023, arXiv:2210.11466.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

LAYERS: Final = Method(
    name="layers",
    title="layer subset",
    category="selective",
    source="Lee et al., ICLR 2023, arXiv:2210.11466",
    peft_type="WHOLE",
    roles={Selector.WHOLE: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.WHOLE}), **HEAD},
    summed="the named modules, and the head",
    size="all entries of the named modules",
    afterwards="the mean of each tensor",
    notes="target_modules names whole modules, e.g. layers.11. Noise grows with the root of their entries: name few.",
)
