"""The methods: which tensors train, what is summed, which modes are sound, and which methods cannot be summed at all.

Guarantees: a name gives a :class:`~methods.method.Method` or a refusal that says why; nothing here needs torch.
Source: docs/methods.md.
"""

from __future__ import annotations

import difflib
from typing import Final

from methods.fedit import FEDIT
from methods.ffa_lora import FFA_LORA
from methods.ia3 import IA3
from methods.method import Method
from methods.prompt import PROMPT
from methods.rolora import ROLORA
from privacy.draft import Recipe
from privacy.errors import LocalError
from privacy.plan_parts import Mode

_METHODS: Final[dict[str, Method]] = {method.name: method for method in (FEDIT, FFA_LORA, IA3, PROMPT, ROLORA)}

# Methods that secure aggregation cannot serve, by the names under which users will look for them.
REFUSED: Final[dict[str, str]] = {
    "flora": (
        "FLoRA stacks everybody's factors side by side, and the stack shows each adapter by itself; "
        "what it computes, the mean of the products, is what FlexLoRA and FedEx-LoRA reach from sums"
    ),
    "eva": "EVA initialises the adapter from activations on private data, which would leave without noise",
    "corda": "CorDA initialises the adapter from private data, which would leave without noise",
    "lora-ga": "LoRA-GA initialises the adapter from private gradients, which would leave without noise",
    "top-k": "each participant's own largest entries lie at other places, so a sum of them is none; masks are common",
    "clustering": "grouping participants by the similarity of their updates needs every single update",
    "krum": "Krum picks the update that lies closest to the others, so it needs every single update",
    "median": "a coordinate-wise median or trimmed mean needs every single update; a sum has none",
    "pfedpg": "pFedPG learns a prompt generator from each participant's own prompt, so it needs every single update",
    "pfpt": "PFPT matches the prompts of single participants to each other, so it needs every single update",
}


def all_methods() -> tuple[Method, ...]:
    """Return every method, sorted by name."""
    return tuple(_METHODS[name] for name in sorted(_METHODS))


def require_sound(recipe: Recipe, mode: Mode) -> None:
    """Refuse what no privacy mode could account for: a method or mode that is not sound, a stream beside the method's.

    Raises:
        LocalError: ``E-METHOD-UNKNOWN``, ``E-METHOD-REFUSED`` or ``E-PLAN-STREAM``, with the reason.
    """
    method = get(recipe.adapter.method)
    method.require_mode(mode)
    method.require_task(recipe.task)
    method.require_layout(recipe)


def get(name: str) -> Method:
    """Return a method by its name.

    Raises:
        LocalError: ``E-METHOD-REFUSED`` with the reason, if it needs individual updates; ``E-METHOD-UNKNOWN``.
    """
    if method := _METHODS.get(name.lower()):
        return method
    if reason := REFUSED.get(name.lower()):
        raise LocalError("E-METHOD-REFUSED", f"{name}: {reason}")
    near = difflib.get_close_matches(name.lower(), _METHODS, n=1, cutoff=0.5)
    raise LocalError("E-METHOD-UNKNOWN", name + (f"; did you mean {near[0]}?" if near else ""))
