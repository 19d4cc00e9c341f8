"""The options of each PEFT type: what a plan says of an adapter's size and place.

Guarantees: options belong to one PEFT type, so that a rank stands only where there is one.
Leaves to others: which method has which PEFT type (``methods``), realising a PEFT type in torch
(``participant.training.adapters.kinds``).
Source: ``docs/protocol.md`` section 2, ``docs/methods.md``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import Field, model_validator

from privacy.plan_parts import Count, PlanModel, Positive, Scale, Text

Modules = Annotated[tuple[Text, ...], Field(max_length=1000)]
Targets = Annotated[Modules, Field(min_length=1)]
Tokens = Annotated[int, Field(ge=1, le=10_000)]
Placement = Literal["pfeiffer", "houlsby"]
NonLinearity = Literal["gelu", "relu", "silu", "tanh"]


class PeftOptions(PlanModel):
    """Options of some PEFT type."""

    @property
    @abstractmethod
    def words(self) -> str:
        """Type and size in a few words."""


class LoraOptions(PeftOptions):
    """Low-rank factors beside linear layers."""

    peft_type: Literal["LORA"] = "LORA"
    rank: Positive
    alpha: Scale
    target_modules: Targets
    layers: tuple[Count, ...] = ()  # which layers are adapted; empty: all

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        return f"LoRA of rank {self.rank}, alpha {self.alpha}"


class CoreOptions(PeftOptions):
    """A square core between frozen low-rank factors; PEFT knows it as the LoRA that it multiplies out to."""

    peft_type: Literal["LORA_CORE"] = "LORA_CORE"
    rank: Positive
    alpha: Scale
    target_modules: Targets
    layers: tuple[Count, ...] = ()  # which layers are adapted; empty: all

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        return f"LoRA of rank {self.rank}, alpha {self.alpha}, of which the core trains"


class HeadsOptions(PeftOptions):
    """Several square cores side by side, each between frozen low-rank factors of its own; to PEFT one LoRA."""

    peft_type: Literal["LORA_HEADS"] = "LORA_HEADS"
    heads: Annotated[int, Field(ge=1, le=1000)]
    rank: Positive  # of each head
    alpha: Scale
    target_modules: Targets
    layers: tuple[Count, ...] = ()  # which layers are adapted; empty: all

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        return f"LoRA of {self.heads} heads of rank {self.rank}, alpha {self.alpha}, of which the cores train"


class AdaLoraOptions(PeftOptions):
    """Low-rank factors around a diagonal, of which the coordinator keeps the largest entries."""

    peft_type: Literal["ADALORA"] = "ADALORA"
    rank: Positive
    target_rank: Positive  # mean rank of a layer at the end
    alpha: Scale
    target_modules: Targets

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        return f"AdaLoRA of rank {self.rank}, in the end {self.target_rank}, alpha {self.alpha}"

    @model_validator(mode="after")
    def _shrinks(self) -> Self:
        if self.target_rank > self.rank:
            raise ValueError("target_rank must be at most rank")
        return self


class VeraOptions(PeftOptions):
    """Learned vectors around random projections that all layers share."""

    peft_type: Literal["VERA"] = "VERA"
    rank: Positive
    target_modules: Targets

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        return f"VeRA of rank {self.rank}"


class LokrOptions(PeftOptions):
    """Factors of a Kronecker product."""

    peft_type: Literal["LOKR"] = "LOKR"
    rank: Positive
    alpha: Scale
    target_modules: Targets

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        return f"LoKr of rank {self.rank}, alpha {self.alpha}"


class LohaOptions(PeftOptions):
    """Factors of two low-rank products that are multiplied entry by entry."""

    peft_type: Literal["LOHA"] = "LOHA"
    rank: Positive
    alpha: Scale
    target_modules: Targets

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        return f"LoHa of rank {self.rank}, alpha {self.alpha}"


class OftOptions(PeftOptions):
    """Rotations of blocks of a layer's inputs."""

    peft_type: Literal["OFT"] = "OFT"
    block_size: Annotated[int, Field(ge=2, le=10_000)]
    target_modules: Targets

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        return f"OFT in blocks of {self.block_size}"


class Ia3Options(PeftOptions):
    """Learned factors of activations: of the outputs of a module, or of the inputs of a feed-forward one."""

    peft_type: Literal["IA3"] = "IA3"
    target_modules: Targets
    feedforward_modules: Modules = ()

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        return f"IA3 of {', '.join(self.target_modules)}"


class NormOptions(PeftOptions):
    """Scale and shift of normalisation layers."""

    peft_type: Literal["LN_TUNING"] = "LN_TUNING"
    target_modules: Targets

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        return f"the norms {', '.join(self.target_modules)}"


class BottleneckOptions(PeftOptions):
    """Small networks behind linear modules: what comes out goes down to a few numbers, up again, and is added."""

    peft_type: Literal["BOTTLENECK"] = "BOTTLENECK"
    bottleneck_dim: Annotated[int, Field(ge=1, le=100_000)]
    target_modules: Targets
    # Behind which of them: the feed-forward ones (Pfeiffer), or those of the attention too (Houlsby).
    placement: Placement = "pfeiffer"
    non_linearity: NonLinearity = "gelu"
    layers: tuple[Count, ...] = ()  # which layers are adapted; empty: all

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        behind = "feed-forward" if self.placement == "pfeiffer" else "attention and feed-forward"
        return f"bottlenecks of width {self.bottleneck_dim} ({self.non_linearity}) behind {behind} modules"


class PromptOptions(PeftOptions):
    """Learned vectors before the embedded tokens of a text."""

    peft_type: Literal["PROMPT_TUNING"] = "PROMPT_TUNING"
    tokens: Tokens

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        return f"a prompt of {self.tokens} tokens"


class PrefixOptions(PeftOptions):
    """Learned keys and values before those of a text, in every layer."""

    peft_type: Literal["PREFIX_TUNING"] = "PREFIX_TUNING"
    tokens: Tokens

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        return f"a prefix of {self.tokens} tokens in every layer"


class PromptEncoderOptions(PeftOptions):
    """Learned vectors before the embedded tokens of a text, as a small network makes them."""

    peft_type: Literal["P_TUNING"] = "P_TUNING"
    tokens: Tokens
    hidden_size: Annotated[int, Field(ge=1, le=100_000)]  # of the network's two hidden layers

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        return f"a prompt of {self.tokens} tokens, made by a network of width {self.hidden_size}"


# Four that PEFT carries as a LoRA without targets: nothing is put beside a layer.


class BiasOptions(PeftOptions):
    """The base's own biases."""

    peft_type: Literal["BIAS"] = "BIAS"

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        return "the base's biases"


class WholeOptions(PeftOptions):
    """Modules of the base, whole."""

    peft_type: Literal["WHOLE"] = "WHOLE"
    target_modules: Targets

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        return f"the modules {', '.join(self.target_modules)}, whole"


class SeedsOptions(PeftOptions):
    """Modules of the base, whole, that move along public random directions alone."""

    peft_type: Literal["SEEDS"] = "SEEDS"
    directions: Annotated[int, Field(ge=1, le=100_000)]
    target_modules: Targets

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        return f"{self.directions} directions of the modules {', '.join(self.target_modules)}"


class HeadOptions(PeftOptions):
    """Nothing but the head."""

    peft_type: Literal["HEAD"] = "HEAD"

    @property
    def words(self) -> str:
        """Type and size in a few words."""
        return "the head alone"


AdapterOptions = Annotated[
    LoraOptions
    | CoreOptions
    | HeadsOptions
    | AdaLoraOptions
    | VeraOptions
    | LokrOptions
    | LohaOptions
    | OftOptions
    | Ia3Options
    | NormOptions
    | BottleneckOptions
    | PromptOptions
    | PrefixOptions
    | PromptEncoderOptions
    | BiasOptions
    | WholeOptions
    | SeedsOptions
    | HeadOptions,
    Field(discriminator="peft_type"),
]
OPTIONS: Final[dict[str, type[AdapterOptions]]] = {
    kind.model_fields["peft_type"].default: kind for kind in get_args(get_args(AdapterOptions)[0])
}
