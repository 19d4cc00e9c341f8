"""The methods: which tensors train, what is summed, which modes are sound, and which methods cannot be summed at all.

Guarantees: a name gives a :class:`~methods.method.Method` or a refusal that says why; nothing here needs torch.
Source: docs/methods.md.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

from methods.adalora import ADALORA
from methods.bitfit import BITFIT
from methods.bottleneck import BOTTLENECK
from methods.count_sketch import COUNT_SKETCH
from methods.dora import DORA
from methods.droppeft import DROPPEFT
from methods.fdlora import FDLORA
from methods.fed_sb import FED_SB
from methods.fedalt import FEDALT
from methods.fedask import FEDASK
from methods.feddpa import FEDDPA
from methods.federa import FEDERA
from methods.fedex_lora import FEDEX_LORA
from methods.fedit import FEDIT
from methods.fedkseed import FEDKSEED
from methods.fedprox import FEDPROX
from methods.fedrot_lora import FEDROT_LORA
from methods.fedsa_lora import FEDSA_LORA
from methods.fedsvd import FEDSVD
from methods.ffa_lora import FFA_LORA
from methods.flexlora import FLEXLORA
from methods.head import HEAD_ONLY
from methods.hetlora import HETLORA
from methods.ia3 import IA3
from methods.la_lora import LA_LORA
from methods.layers import LAYERS
from methods.ln_tuning import LN_TUNING
from methods.loha import LOHA
from methods.lokr import LOKR
from methods.lora_a2 import LORA_A2
from methods.lora_fair import LORA_FAIR
from methods.method import Method
from methods.oft import OFT
from methods.optimizer import OptimizerState, Wide
from methods.p_tuning import P_TUNING
from methods.prefix import PREFIX
from methods.prompt import PROMPT
from methods.random_mask import RANDOM_MASK
from methods.ravan import RAVAN
from methods.refused import REFUSED
from methods.rolora import ROLORA
from methods.rslora import RSLORA
from methods.scaffold import SCAFFOLD
from methods.slora import SLORA
from methods.vera import VERA
from privacy.draft import Recipe
from privacy.errors import LocalError
from privacy.plan_parts import Mode

__all__ = ["REFUSED", "advance", "all_methods", "get", "require_sound"]

_METHODS: Final[dict[str, Method]] = {
    method.name: method
    for method in (
        ADALORA,
        BITFIT,
        BOTTLENECK,
        COUNT_SKETCH,
        DORA,
        DROPPEFT,
        FDLORA,
        FEDALT,
        FEDASK,
        FEDDPA,
        FEDERA,
        FEDEX_LORA,
        FEDIT,
        FEDKSEED,
        FEDPROX,
        FEDROT_LORA,
        FEDSA_LORA,
        FEDSVD,
        FED_SB,
        FFA_LORA,
        FLEXLORA,
        HEAD_ONLY,
        HETLORA,
        IA3,
        LAYERS,
        LA_LORA,
        LN_TUNING,
        LOHA,
        LOKR,
        LORA_A2,
        LORA_FAIR,
        OFT,
        PREFIX,
        PROMPT,
        P_TUNING,
        RANDOM_MASK,
        RAVAN,
        ROLORA,
        RSLORA,
        SCAFFOLD,
        SLORA,
        VERA,
    )
}
# What papers call methods that are the same sums under masks.
_ALSO_CALLED: Final = {
    "dp-bitfit": "bitfit",
    "fedbf": "bitfit",
    "fedprompt": "prompt",
    "fetchsgd": "count-sketch",
    "lora-sb": "fed-sb",
    "pissa": "federa",
    "promptfl": "prompt",
}


def all_methods() -> tuple[Method, ...]:
    """Return every method, sorted by name."""
    return tuple(_METHODS[name] for name in sorted(_METHODS))


def require_sound(recipe: Recipe, mode: Mode, bands: Sequence[int] = (1,)) -> None:
    """Refuse what no privacy mode could account for: a method or mode that is not sound, a stream beside the method's.

    Args:
        recipe: of a draft or plan.
        mode: of its privacy.
        bands: of its privacy; noise that is correlated over rounds needs entries that are the same in every round.

    Raises:
        LocalError: ``E-METHOD-UNKNOWN``, ``E-METHOD-REFUSED`` or ``E-PLAN-STREAM``, with the reason.
    """
    method = get(recipe.adapter.method)
    if recipe.measured is None:
        method.require_mode(mode)
    method.require_task(recipe.task)
    method.require_layout(recipe)
    if len(bands) > 1:
        method.require_one_basis()


def advance(recipe: Recipe, state: OptimizerState, direction: Wide) -> OptimizerState:
    """Return the state after one more round, by the step of the recipe's method.

    Args:
        recipe: of the plan.
        state: of the previous round.
        direction: see :func:`methods.optimizer.step`.
    """
    return get(recipe.adapter.method).advance(recipe, state, direction)


def get(name: str) -> Method:
    """Return a method by its name.

    Raises:
        LocalError: ``E-METHOD-REFUSED`` with the reason, if it needs individual updates; ``E-METHOD-UNKNOWN``.
    """
    if method := _METHODS.get(name.lower()):
        return method
    if refused := REFUSED.get(name.lower()):
        raise LocalError("E-METHOD-REFUSED", f"{name}: {refused.reason}")
    if name.lower() in _ALSO_CALLED:
        raise LocalError("E-METHOD-UNKNOWN", f"{name}; it is method {_ALSO_CALLED[name.lower()]} here")
    near = difflib.get_close_matches(name.lower(), _METHODS, n=1, cutoff=0.5)
    raise LocalError("E-METHOD-UNKNOWN", name + (f"; did you mean {near[0]}?" if near else ""))
