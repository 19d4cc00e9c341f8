"""``recipe.toml``: what a researcher writes to describe a run, before there is a roster.

Guarantees: an unknown key is refused with its line and the nearest known key; numbers keep their decimal form, so that
a plan says what the file says.
Leaves to others: the base, the adapter and the draft (``authoring.draft``).

A new task needs no more than this; ``plan build`` fills in the rest and says what it chose and why
(``authoring.defaults``, ``authoring.filling``)::

    [base]
    path = "base"                # relative to this file; config.json and safetensors

    [task]
    data = "digits"              # under which name owners register their dataset
    labels = ["0", "1", "2"]     # of the kinds that have labels

    [privacy]
    epsilon = 8

The whole format; where a line has a value in its comment, that is the default and the line may be left out, and where
it has a star, ``plan build`` chooses::

    title = "Digits"             # *
    purpose = "Recognise digits of every writer"   # "Not stated."
    method = "ffa-lora"          # "ffa-lora"; onlysum method list
    rounds = 20                  # *

    [base]
    name = "digits-vit"          # * the folder's
    path = "base"

    [task]
    kind = "image-classification"    # * text-classification, multi-label, regression, token-classification, causal-lm,
                                 # masked-lm, sentence-embedding
    data = "digits"
    labels = ["0", "1", "2"]
    input_column = "image"       # "input"; "words" of token-classification, "text" of causal-lm and masked-lm
    label_column = "label"       # "labels" of multi-label, "value" of regression, "tags", "similarity"
    image_scale = 255            # * 1; raw pixel values are divided by it, then (x - mean) / std
    image_mean = 0.5             # * 0
    image_std = 0.5              # * 1
    max_length = 128             # * for text, in place of the three: tokens; longer texts are cut
    form = "chat"                # causal-lm: "text", "completion" (of a prompt) or "chat"
    completion_column = "answer" # causal-lm, form "completion"; its prompt is the input
    mask_rate = 0.15             # 0.15; masked-lm: part of a text's tokens that is hidden
    pair_column = "pair"         # "pair"; sentence-embedding: the second text
    pooling = "mean"             # * of a text, where it is read as a whole: or "cls", "last", "model"

    [adapter]                    # what the method's PEFT type has: onlysum method show METHOD; * all of it
    rank = 4                     # LORA, LORA_CORE, ADALORA, VERA, LOKR, LOHA; LORA_HEADS: of each head
    heads = 4                    # LORA_HEADS
    target_rank = 2              # ADALORA: mean rank of a layer at the end
    alpha = 16                   # LORA, LORA_CORE, ADALORA, LOKR, LOHA
    target_modules = ["q_proj", "v_proj"]    # of all but prompts, BIAS and HEAD; norms of LN_TUNING, any of WHOLE
    layers = []                  # LORA, LORA_CORE, LORA_HEADS, BOTTLENECK; all, but * where target_modules is left out
    block_size = 8               # OFT
    bottleneck_dim = 8           # BOTTLENECK: numbers between its two projections
    placement = "pfeiffer"       # "pfeiffer", behind feed-forward parts; BOTTLENECK: or "houlsby", behind attention too
    non_linearity = "gelu"       # "gelu"; BOTTLENECK: relu, silu, tanh
    directions = 256             # SEEDS
    feedforward_modules = []     # IA3: target modules whose inputs are scaled, not their outputs
    tokens = 20                  # PROMPT_TUNING, PREFIX_TUNING, P_TUNING
    hidden_size = 128            # P_TUNING
    head_modules = ["classifier"]    # modules trained whole; [], but * where target_modules or [adapter] is left out
    seed = 0                     # 0

    [privacy]
    mode = "distributed"         # "distributed"; local, distributed-participant, none
    unit = "example"             # "example"; or "user"; the other modes have their own
    epsilon = 8
    delta = 1e-5                 # * at most 1e-5
    sampling_rate = 0.5          # *
    local_steps = 1              # 1, but * where rounds is left out
    clip_norm = 1                # 1
    update_bound = 8             # 8: largest absolute entry of a difference (local, none)
    max_rows_per_user = 0        # for the user unit
    upload_after_ms = 0
    bands = 1                    # 1; distributed: over how many rounds noise is correlated, or "auto" by expected error

    [expected]                   # what the rule reckons with; the roster and its data are fixed by `run create` alone
    participants = 5             # 5
    units = 5000                 # 1000 for each participant: examples, or users, of all of them together

    [training]                   # * all rates, here and in [optimizer], where neither section has one
    learning_rate = 2
    head_learning_rate = 2       # learning_rate
    stream_rates = {}            # of single streams, e.g. {a = 0.5}: onlysum method show METHOD
    micro_batch = 64             # 64
    mask = 0.25                  # random-mask, lora-a2, droppeft: share of entries, ranks, layers that train in a round
    sketch = 24                  # fedask: columns of a sketch; count-sketch: buckets of a row
    opening_rounds = 5           # slora: rounds of sparse updates, before the low-rank ones
    proximal = 0.1               # 0; fedprox: weight of the pull back to where the round started

    [optimizer]                  # all of it may be left out; with [training] learning_rate alone:
    name = "mean"                # mean, sgd, adam, yogi
    learning_rate = 1
    head_learning_rate = 1
    stream_rates = {}
    momentum = 0
    second_momentum = 0
    epsilon = 0.001
    average = 0

    [evaluation]
    data = "held-out"            # "held-out"; the evaluator's public dataset
    every = 1

    [notice]                     # shown to owners and in reports; what is left out is shown as missing
    responsible = ""             # who answers for the run
    contact = ""                 # whom to call
    data = ""                    # which data of whom is used
    retention = ""               # how long what is kept
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from authoring.refused_keys import REASONS
from host import configuration
from host.settings import Section
from privacy.adapter_options import NonLinearity, Placement
from privacy.errors import LocalError
from privacy.plan import MAX_ROSTER
from privacy.plan_parts import ATTEMPTS, Attempts, Count, DecimalString, Mode, Name, Paragraphs, Positive, Text, Unit
from privacy.task_parts import Pooling


def decimal_text(value: Any) -> Any:
    """Turn a TOML number into the decimal text of plans; the shortest text that gives a float back is meant."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return f"{Decimal(repr(value)):f}"


LEAST_EPSILON: Final = Decimal("0.001")
MOST_EPSILON: Final = Decimal(1000)
DAY_MS: Final = 86_400_000
NO_PURPOSE: Final = "Not stated."

# Units that a mode may have; the first is meant where a recipe names none.
UNITS: Final[dict[Mode, tuple[Unit, ...]]] = {
    "local": ("example", "user"),
    "distributed": ("example", "user"),
    "distributed-participant": ("participant",),
    "none": ("none",),
}

Number = Annotated[DecimalString, BeforeValidator(decimal_text)]
Texts = tuple[Text, ...]
Kind = Literal[
    "image-classification",
    "text-classification",
    "multi-label",
    "regression",
    "token-classification",
    "causal-lm",
    "masked-lm",
    "sentence-embedding",
]


class BaseSection(Section):
    """``[base]``: the foundation model."""

    name: Name | None = None
    path: str


class TaskSection(Section):
    """``[task]``: what the model does and how rows become its input."""

    kind: Kind | None = None
    data: Name
    labels: Annotated[Texts, Field(min_length=2)] | None = None
    form: Literal["text", "completion", "chat"] | None = None
    input_column: Text | None = None
    label_column: Text | None = None
    completion_column: Text | None = None
    pair_column: Text | None = None
    pooling: Pooling | None = None
    mask_rate: Number | None = None
    max_length: Positive | None = None
    image_mean: Number | None = None
    image_std: Number | None = None
    image_scale: Number | None = None


class AdapterSection(Section):
    """``[adapter]``: its size and place; which of them a method needs, its PEFT type says."""

    rank: Positive | None = None
    target_rank: Positive | None = None
    heads: Positive | None = None
    alpha: Number | None = None
    target_modules: Texts | None = None
    layers: tuple[Count, ...] | None = None
    feedforward_modules: Texts | None = None
    tokens: Positive | None = None
    hidden_size: Positive | None = None
    block_size: Positive | None = None
    bottleneck_dim: Positive | None = None
    placement: Placement | None = None
    non_linearity: NonLinearity | None = None
    directions: Positive | None = None
    head_modules: Texts | None = None
    seed: Count = 0


class PrivacySection(Section):
    """``[privacy]``: the target that ``run create`` calibrates for."""

    mode: Mode = "distributed"
    unit: Unit | None = None
    epsilon: Number = "0"
    delta: Number | None = None
    sampling_rate: Number | None = None
    local_steps: Positive | None = None
    clip_norm: Number = "1"
    update_bound: Number = "8"
    max_rows_per_user: Count = 0
    upload_after_ms: Count = 0
    bands: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = 1

    @property
    def unit_of_privacy(self) -> Unit:
        """The unit, where the recipe leaves it to the mode."""
        return self.unit or UNITS[self.mode][0]


class ExpectedSection(Section):
    """``[expected]``: the sizes that the rule of ``authoring.defaults`` reckons with."""

    participants: Annotated[int, Field(ge=3, le=MAX_ROSTER)] | None = None
    units: Positive | None = None


class TrainingSection(Section):
    """``[training]``: a participant's own steps."""

    learning_rate: Number | None = None
    head_learning_rate: Number | None = None
    stream_rates: dict[Name, Number] = Field(default_factory=dict)
    micro_batch: Positive = 64
    mask: Number | None = None
    sketch: Positive | None = None
    opening_rounds: Positive | None = None
    proximal: Number = "0"


class OptimizerSection(Section):
    """``[optimizer]``: the coordinator's."""

    name: Literal["mean", "sgd", "adam", "yogi"] = "mean"
    learning_rate: Number = "1"
    head_learning_rate: Number = "1"
    stream_rates: dict[Name, Number] = Field(default_factory=dict)
    momentum: Number = "0"
    second_momentum: Number = "0"
    epsilon: Number = "0.001"
    average: Number = "0"


class NoticeSection(Section):
    """``[notice]``: what people whose data is used may ask for."""

    responsible: Text = ""
    contact: Text = ""
    data: Text = ""
    retention: Text = ""


class EvaluationSection(Section):
    """``[evaluation]``: on which public data, and how often."""

    data: Name = "held-out"
    every: Positive = 1


class RecipeFile(Section):
    """The whole of ``recipe.toml``."""

    title: Text | None = None
    purpose: Paragraphs = NO_PURPOSE
    method: str = "ffa-lora"
    rounds: Positive | None = None
    base: BaseSection
    task: TaskSection
    adapter: AdapterSection | None = None
    privacy: PrivacySection
    expected: ExpectedSection = ExpectedSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    optimizer: OptimizerSection | None = None
    notice: NoticeSection = NoticeSection()
    suite: Literal[1, 2] = 1
    max_attempts: Attempts = ATTEMPTS


def read_recipe(path: Path) -> RecipeFile:
    """Parse ``recipe.toml``.

    Raises:
        LocalError: ``E-NOT-FOUND``, ``E-CONFIG-INVALID``, ``E-CONFIG-UNKNOWN-KEY`` or ``E-PLAN-UNSOUND``.
    """
    if not path.exists():
        raise LocalError("E-NOT-FOUND", f"there is no recipe {path}")
    try:
        found = configuration.load(path, RecipeFile)
    except LocalError as error:
        raise _explained(error) from None
    _check(found, path.name)
    return found


def _explained(error: LocalError) -> LocalError:
    """Return a refusal with its reason for a key that is not misspelt but unsound."""
    where = error.detail.partition(";")[0]
    reason = REASONS.get(where.rpartition(".")[2].rpartition(" ")[2])
    if error.code != "E-CONFIG-UNKNOWN-KEY" or reason is None:
        return error
    return LocalError("E-PLAN-UNSOUND", f"{where}: {reason}")


def _check(recipe: RecipeFile, file: str) -> None:
    """Refuse what every later step would refuse with less to go on."""
    problems = {
        **task_problems(recipe.task),
        **privacy_problems(recipe.privacy),
        "evaluation.data: it must be public data, not the owners' own": recipe.evaluation.data == recipe.task.data,
        **_band_problems(recipe),
        "training.proximal: times the learning rate it must be at most 1, or steps leap over the start": (
            Decimal(recipe.training.proximal) * Decimal(recipe.training.learning_rate or 0) > 1
        ),
        **_rate_problems(recipe),
        **_optimizer_problems(recipe.optimizer or OptimizerSection()),
    }
    refuse_first(file, problems)


def refuse_first(file: str, problems: Mapping[str, bool]) -> None:
    """Refuse the first problem that there is.

    Raises:
        LocalError: ``E-CONFIG-INVALID``.
    """
    for problem, found in problems.items():
        if found:
            raise LocalError("E-CONFIG-INVALID", f"{file}: {problem}")


def task_problems(task: TaskSection) -> dict[str, bool]:
    """Return what may be wrong with a task, each with whether it is."""
    return {
        "task.pair_column: it is the input's own column": task.pair_column is not None
        and task.pair_column == task.input_column,
        "task.label_column: it is the input's own column": task.label_column is not None
        and task.label_column == task.input_column,
        "task.labels: one of them is empty": any(not label.strip() for label in task.labels or ()),
        "task.image_std: it must not be 0": task.image_std is not None and Decimal(task.image_std) == 0,
        "task.image_scale: it must not be 0": task.image_scale is not None and Decimal(task.image_scale) == 0,
    }


def privacy_problems(privacy: PrivacySection) -> dict[str, bool]:
    """Return what may be wrong with the privacy that is asked for, each with whether it is."""
    noised = privacy.mode != "none"
    return {
        "privacy.epsilon: a noised mode needs an epsilon, and a delta between 0 and 1": noised
        and not (Decimal(privacy.epsilon) > 0 and (privacy.delta is None or 0 < Decimal(privacy.delta) < 1)),
        f"privacy.epsilon: it must be {LEAST_EPSILON} to {MOST_EPSILON}; more protects nobody": (
            noised and not LEAST_EPSILON <= Decimal(privacy.epsilon) <= MOST_EPSILON
        ),
        "privacy.epsilon: mode none has no differential privacy, so no epsilon and no delta": not noised
        and (privacy.epsilon, privacy.delta or "0") != ("0", "0"),
        "privacy.local_steps: mode distributed takes one step per round": privacy.mode == "distributed"
        and privacy.local_steps not in (None, 1),
        "privacy.upload_after_ms: it must be at most a day, 86400000": privacy.upload_after_ms > DAY_MS,
        "privacy.update_bound: it must be above 0": Decimal(privacy.update_bound) <= 0,
        "privacy.sampling_rate: it must be above 0 and at most 1": privacy.sampling_rate is not None
        and not 0 < Decimal(privacy.sampling_rate) <= 1,
        f"privacy.unit: mode {privacy.mode} has {' or '.join(UNITS[privacy.mode])}": (
            privacy.unit_of_privacy not in UNITS[privacy.mode]
        ),
        "privacy.max_rows_per_user: it belongs to the user unit, and only to it": (privacy.unit == "user")
        != (privacy.max_rows_per_user > 0),
    }


def _band_problems(recipe: RecipeFile) -> dict[str, bool]:
    """Return why noise cannot be correlated over so many rounds."""
    privacy = recipe.privacy
    bands = 1 if privacy.bands == "auto" else privacy.bands
    return {
        "privacy.bands: they belong to mode distributed": privacy.bands != 1 and privacy.mode != "distributed",
        "privacy.bands: there are more of them than rounds": recipe.rounds is not None and bands > recipe.rounds,
        "privacy.bands: times sampling_rate they must be at most 1, since one bin of so many has its turn in a round": (
            bands > 1 and privacy.sampling_rate is not None and bands * Decimal(privacy.sampling_rate) > 1
        ),
    }


def _rate_problems(recipe: RecipeFile) -> dict[str, bool]:
    """Return the learning rates of which rounds are charged for and nothing is learnt."""
    rates = {
        f"{section}.{name}": rate
        for section, part in (("training", recipe.training), ("optimizer", recipe.optimizer or OptimizerSection()))
        for name, rate in {
            "learning_rate": part.learning_rate,
            "head_learning_rate": part.head_learning_rate,
            **{f"stream_rates.{stream}": rate for stream, rate in part.stream_rates.items()},
        }.items()
    }
    return {
        f"{key}: a rate of 0 trains nothing and is charged for": rate is not None and Decimal(rate) == 0
        for key, rate in rates.items()
    }


def _optimizer_problems(optimizer: OptimizerSection) -> dict[str, bool]:
    """Return what would let the coordinator's steps grow without end, or divide by zero."""
    return {
        "optimizer.momentum: it must be below 1": Decimal(optimizer.momentum) >= 1,
        "optimizer.second_momentum: it must be below 1": Decimal(optimizer.second_momentum) >= 1,
        "optimizer.average: it must be below 1": Decimal(optimizer.average) >= 1,
        "optimizer.epsilon: adam and yogi divide by it": optimizer.name in {"adam", "yogi"}
        and Decimal(optimizer.epsilon) == 0,
    }
