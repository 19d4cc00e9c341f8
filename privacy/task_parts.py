"""What a model does and how raw rows become its input: one class for each kind of task.

Guarantees: a task has the fields of its kind and no others.
Leaves to others: reading rows (``participant.training.data``) and what is done with them
(``participant.training.tasks``).
Source: ``docs/protocol.md`` section 2.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from privacy.canonical import MAX_INTEGER
from privacy.plan_parts import LEAST_SCALE, MOST_SCALE, DecimalString, Name, PlanModel, Positive, Text

Labels = Annotated[tuple[Text, ...], Field(min_length=2)]
LongEnough = Annotated[int, Field(ge=2, le=MAX_INTEGER)]  # for a token, and one that is asked for
Pooling = Literal["model", "mean", "cls", "last"]  # how a text becomes one vector; "model": as the base itself does


class ImageClassification(PlanModel):
    """One label for each picture."""

    kind: Literal["image-classification"] = "image-classification"
    data: Name  # the owners' dataset of this name, or the one chosen at approval
    labels: Labels
    input_column: Text = "input"
    label_column: Text = "label"
    image_mean: DecimalString = "0"
    image_std: DecimalString = "1"
    image_scale: DecimalString = "1"  # raw pixel values are divided by this first

    @model_validator(mode="after")
    def _divisors(self) -> Self:
        if not all(LEAST_SCALE <= Decimal(divisor) <= MOST_SCALE for divisor in (self.image_std, self.image_scale)):
            rule = f"they must not be 0, but from {LEAST_SCALE:f} to {MOST_SCALE:,f}"
            raise ValueError(f"image_std and image_scale divide: {rule}")
        if Decimal(self.image_mean) > MOST_SCALE:
            raise ValueError(f"image_mean must be at most {MOST_SCALE:,f}")
        return self


class TextClassification(PlanModel):
    """One label for each text."""

    kind: Literal["text-classification"] = "text-classification"
    data: Name
    labels: Labels
    input_column: Text = "input"
    label_column: Text = "label"
    max_length: Positive  # tokens; longer texts are cut
    pooling: Pooling = "model"


class MultiLabel(PlanModel):
    """Any number of labels for each text."""

    kind: Literal["multi-label"] = "multi-label"
    data: Name
    labels: Labels
    input_column: Text = "input"
    label_column: Text = "labels"
    max_length: Positive
    pooling: Pooling = "model"


class Regression(PlanModel):
    """A number for each text."""

    kind: Literal["regression"] = "regression"
    data: Name
    input_column: Text = "input"
    label_column: Text = "value"
    max_length: Positive
    pooling: Pooling = "model"


class TokenClassification(PlanModel):
    """A label for each word of a text."""

    kind: Literal["token-classification"] = "token-classification"
    data: Name
    labels: Labels
    input_column: Text = "words"
    label_column: Text = "tags"
    max_length: Positive


class CausalLanguageModelling(PlanModel):
    """The next token: of plain text, of the completion after a prompt, or of the answers in a chat."""

    kind: Literal["causal-lm"] = "causal-lm"
    data: Name
    form: Literal["text", "completion", "chat"]
    input_column: Text = "text"  # the text, the prompt, or the messages
    completion_column: Text = ""  # of form completion, and of no other
    max_length: LongEnough

    @model_validator(mode="after")
    def _completion(self) -> Self:
        if (self.form == "completion") != bool(self.completion_column):
            raise ValueError("form completion has a completion_column, and no other form has one")
        return self


class MaskedLanguageModelling(PlanModel):
    """The tokens that were hidden."""

    kind: Literal["masked-lm"] = "masked-lm"
    data: Name
    input_column: Text = "text"
    mask_rate: DecimalString = "0.15"
    max_length: Positive

    @model_validator(mode="after")
    def _rate(self) -> Self:
        if not 0 < Decimal(self.mask_rate) < 1:
            raise ValueError("mask_rate must be above 0 and below 1")
        return self


class SentenceEmbedding(PlanModel):
    """One vector for each text, near those of texts that mean the same."""

    kind: Literal["sentence-embedding"] = "sentence-embedding"
    data: Name
    input_column: Text = "input"
    pair_column: Text = "pair"
    label_column: Text = "similarity"
    max_length: Positive
    pooling: Pooling = "mean"


Task = Annotated[
    ImageClassification
    | TextClassification
    | MultiLabel
    | Regression
    | TokenClassification
    | CausalLanguageModelling
    | MaskedLanguageModelling
    | SentenceEmbedding,
    Field(discriminator="kind"),
]


def single_labels(task: Task) -> tuple[str, ...]:
    """Return the labels of which each row has exactly one; none where the task has no such."""
    return task.labels if isinstance(task, ImageClassification | TextClassification) else ()


def task_words(task: Task) -> str:
    """Return what a model learns, from which columns, and how much of a row it reads."""
    match task:
        case ImageClassification():
            return f"one of {len(task.labels)} labels for each picture in column {task.input_column}"
        case TextClassification():
            words = f"one of {len(task.labels)} labels for each text in column {task.input_column}"
        case MultiLabel():
            words = f"any of {len(task.labels)} labels for each text in column {task.input_column}"
        case Regression():
            words = f"the number in column {task.label_column} for each text in column {task.input_column}"
        case TokenClassification():
            words = f"one of {len(task.labels)} labels for each word in column {task.input_column}"
        case CausalLanguageModelling(form="text"):
            words = f"to go on writing the texts in column {task.input_column}"
        case CausalLanguageModelling(form="completion"):
            words = f"to write column {task.completion_column} after column {task.input_column}"
        case CausalLanguageModelling():
            words = f"to answer as in the chats in column {task.input_column}"
        case MaskedLanguageModelling():
            words = f"hidden words of the texts in column {task.input_column}"
        case SentenceEmbedding():
            words = f"how alike the texts in columns {task.input_column} and {task.pair_column} are"
    return f"{words}; at most {task.max_length} tokens of a text are read"
