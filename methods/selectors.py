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

from privacy.adapter_options import AdapterOptions, SeedsOptions, WholeOptions
from privacy.errors import LocalError


class Selector(StrEnum):
    """Tensors of an adapter that a method treats alike."""

    LORA_A = "lora-a"  # the factor that reads the input, shape (rank, inputs)
    LORA_B = "lora-b"  # the factor that writes the output, shape (outputs, rank); zero at first
    HOME_A = "home-a"  # the factors of a second LoRA, which stays with its participant
    HOME_B = "home-b"
    MIXER = "mixer"  # how much of either LoRA each token gets, by a linear layer at each adapted one
    VARIATE = "variate"  # beside each tensor that trains: the mean of everybody's control variates
    BASE = "base"  # the weight under two factors of LoRA, where a method moves it; the base's own at first
    CORE = "core"  # between two factors of LoRA, shape (rank, rank); zero at first
    DIAGONAL = "diagonal"  # between two factors of AdaLoRA, shape (rank, 1); zero at first
    MAGNITUDE = "magnitude"  # DoRA's lengths of the weights of each output; those of the base at first
    SCALE = "scale"  # factors of activations: IA3's, one for each channel, and VeRA's two vectors
    PROJECTION = "projection"  # VeRA's random matrices, common to all layers
    FACTOR = "factor"  # of a Kronecker (LoKr) or an entrywise product (LoHa)
    ROTATION = "rotation"  # OFT's skew-symmetric matrices; zero at first
    NORM = "norm"  # scale and shift of a normalisation; those of the base at first
    DOWN = "down"  # of a bottleneck: the projection to a few numbers, and its shift
    UP = "up"  # of a bottleneck: the projection back, and its shift; zero at first
    PROMPT = "prompt"  # learned vectors before a text: embedded tokens, or keys and values of each layer
    ENCODER = "encoder"  # the network that makes a prompt out of learned vectors
    BIAS = "bias"  # the base's own
    SEEDS = "seeds"  # how far the base has moved along each public direction; zero at first
    WHOLE = "whole"  # modules of the base that ``target_modules`` names
    HEAD = "head"  # the modules that PEFT saves whole: ``modules_to_save``


# Keys of prompts in PEFT's file, and of the network that makes one, which PEFT does not write.
PROMPT_KEY: Final = "prompt_embeddings"
PROMPT_NETWORK: Final = "prompt_encoder."

# The second LoRA's name within keys, and what keys of variates begin with: neither is of PEFT's file.
HOME_NAME: Final = "home"
VARIATES: Final = "variates."
SEEDS_KEY: Final = "base_model.seeds"

_LORA: Final = {".lora_A.weight": Selector.LORA_A, ".lora_B.weight": Selector.LORA_B}
_NETWORK: Final = [f"{PROMPT_NETWORK}mlp_head.{layer}.{name}" for layer in (0, 2, 4) for name in ("weight", "bias")]

# The end of a key in PEFT's file, by PEFT type.
_ENDINGS: Final[dict[str, dict[str, Selector]]] = {
    "LORA": {
        **_LORA,
        ".lora_magnitude_vector": Selector.MAGNITUDE,
        ".base_layer.weight": Selector.BASE,
        f".lora_A.{HOME_NAME}.weight": Selector.HOME_A,
        f".lora_B.{HOME_NAME}.weight": Selector.HOME_B,
        f".lora_mixer.{HOME_NAME}.weight": Selector.MIXER,
        f".lora_mixer.{HOME_NAME}.bias": Selector.MIXER,
    },
    "LORA_CORE": {
        ".lora_A.weight": Selector.LORA_A,
        ".lora_B.out.weight": Selector.LORA_B,
        ".lora_B.core.weight": Selector.CORE,
    },
    "LORA_HEADS": {
        ".lora_A.weight": Selector.LORA_A,
        ".lora_B.out.weight": Selector.LORA_B,
        ".lora_B.cores.weight": Selector.CORE,
        ".lora_B.cores.scale": Selector.SCALE,
    },
    "ADALORA": {".lora_A": Selector.LORA_A, ".lora_B": Selector.LORA_B, ".lora_E": Selector.DIAGONAL},
    "VERA": {
        ".vera_lambda_b": Selector.SCALE,
        ".vera_lambda_d": Selector.SCALE,
        "base_model.vera_A": Selector.PROJECTION,
        "base_model.vera_B": Selector.PROJECTION,
    },
    "LOKR": {f".lokr_{name}": Selector.FACTOR for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")},
    "LOHA": {f".hada_{name}": Selector.FACTOR for name in ("w1_a", "w1_b", "w2_a", "w2_b")},
    "OFT": {".oft_R.weight": Selector.ROTATION},
    "IA3": {".ia3_l": Selector.SCALE},
    "LN_TUNING": {f".ln_tuning_layers.{name}": Selector.NORM for name in ("weight", "bias")},
    "BOTTLENECK": {
        f".bottleneck_{selector.value}.{name}": selector
        for selector in (Selector.DOWN, Selector.UP)
        for name in ("weight", "bias")
    },
    "PROMPT_TUNING": {PROMPT_KEY: Selector.PROMPT},
    "PREFIX_TUNING": {PROMPT_KEY: Selector.PROMPT},
    "P_TUNING": {f"{PROMPT_NETWORK}embedding.weight": Selector.PROMPT, **dict.fromkeys(_NETWORK, Selector.ENCODER)},
    "BIAS": {".bias": Selector.BIAS},
    "WHOLE": {"": Selector.WHOLE},  # within its target modules
    "SEEDS": {SEEDS_KEY: Selector.SEEDS, "": Selector.WHOLE},  # likewise
    "HEAD": {},
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
    if key.startswith(VARIATES):
        return Selector.VARIATE
    if _within(key, head_modules):
        return Selector.HEAD
    targets = options.target_modules if isinstance(options, WholeOptions | SeedsOptions) else ()
    for ending, selector in _ENDINGS[options.peft_type].items():
        if key.endswith(ending) and (selector is not Selector.WHOLE or _within(key, targets)):
            return selector
    named = ", ".join(head_modules) or "none"
    raise LocalError(
        "E-METHOD-REFUSED", f"no selector of {options.peft_type} claims {key}, and it is of no head module ({named})"
    )


def _within(key: str, modules: Sequence[str]) -> bool:
    """Return whether a tensor lies in one of the modules."""
    parts = key.split(".")
    return any(
        module.split(".") == parts[at : at + module.count(".") + 1] for module in modules for at in range(len(parts))
    )
