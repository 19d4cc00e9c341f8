"""Which work is done for a plan's task: the one place that lists the kinds.

Guarantees: every kind that a plan may name has its work here.
"""

from __future__ import annotations

from typing import assert_never

from participant.training.tasks.classes import ImageClasses, TextClasses
from participant.training.tasks.embedding import NearTexts
from participant.training.tasks.language import HiddenTokens, NextTokens
from participant.training.tasks.values import Numbers, SeveralLabels, WordLabels
from participant.training.tasks.work import TaskWork
from privacy.task_parts import (
    CausalLanguageModelling,
    ImageClassification,
    MaskedLanguageModelling,
    MultiLabel,
    Regression,
    SentenceEmbedding,
    Task,
    TextClassification,
    TokenClassification,
)


def work_of(task: Task) -> TaskWork:
    """Return what a trainer does for a task."""
    match task:
        case ImageClassification():
            return ImageClasses(task)
        case TextClassification():
            return TextClasses(task)
        case MultiLabel():
            return SeveralLabels(task)
        case Regression():
            return Numbers(task)
        case TokenClassification():
            return WordLabels(task)
        case CausalLanguageModelling():
            return NextTokens(task)
        case MaskedLanguageModelling():
            return HiddenTokens(task)
        case SentenceEmbedding():
            return NearTexts(task)
        case _ as unknown:
            assert_never(unknown)
