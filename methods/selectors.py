"""Which tensors are meant: a closed set of selectors, each claiming the keys of one PEFT type's own file format.

Guarantees: a key is claimed by one selector or by none, and a tensor that none claims is refused by name; the head's
selector claims the tensors of the modules that ``head_modules`` names, and nothing else.
Leaves to others: what becomes of a tensor (``method``), which parameter of the model it is
(``participant.training.adapters.kinds``).
Source: PEFT 0.21 ``utils/save_and_load.py`` for the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from privacy.adapter_parts import AdapterOptions
from privacy.errors import LocalError


class Selector(StrEnum):
    """Tensors of an adapter that a method treats alike."""

    LORA_A = "lora-a"  # the factor that reads the input, shape (rank, inputs)
    LORA_B = "lora-b"  # the factor that writes the output, shape (outputs, rank); zero at first
    SCALE = "scale"  # IA3's factors of activations, one for each channel; one at first
    PROMPT = "prompt"  # the learned vectors before the embedded tokens, shape (tokens, width)
    HEAD = "head"  # the modules that PEFT saves whole: ``modules_to_save``


# The end of a key in PEFT's file, by PEFT type.
_ENDINGS: Final[dict[str, dict[str, Selector]]] = {
    "LORA": {".lora_A.weight": Selector.LORA_A, ".lora_B.weight": Selector.LORA_B},
    "IA3": {".ia3_l": Selector.SCALE},
    "PROMPT_TUNING": {"prompt_embeddings": Selector.PROMPT},
}


def select(key: str, options: AdapterOptions, head_modules: Sequence[str]) -> Selector:
    """Return the selector that claims a tensor.

    Args:
        key: of the tensor in PEFT's file.
        options: of the plan's adapter.
        head_modules: the plan's.

    Raises:
        LocalError: ``E-METHOD-REFUSED``, no selector claims it.
    """
    parts = key.split(".")
    if any(
        module.split(".") == parts[at : at + module.count(".") + 1]
        for module in head_modules
        for at in range(len(parts))
    ):
        return Selector.HEAD
    for ending, selector in _ENDINGS[options.peft_type].items():
        if key.endswith(ending):
            return selector
    named = ", ".join(head_modules) or "none"
    raise LocalError(
        "E-METHOD-REFUSED", f"no selector of {options.peft_type} claims {key}, and it is of no head module ({named})"
    )
