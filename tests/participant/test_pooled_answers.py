"""Texts pooled before a head of our own: by the mean of their tokens, their first, or their last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from participant.training.examples import load_examples
from participant.training.tasks.kinds import work_of
from participant.training.tasks.pooling import pooled
from participant.training.tasks.work import TOKEN_MASK, TOKENS
from privacy.task_parts import TextClassification
from tests.worlds.task_world import task_world

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_the_answer_to_a_text_is_that_of_the_head_to_its_pooled_vector(pooling: Any, tmp_path: Path) -> None:
    world = task_world(tmp_path, "pooled text-classification")
    task = world.task.model_copy(update={"pooling": pooling})
    base = world.base()
    examples = load_examples(world.dataset, world.columns, task, base).take(np.arange(6))
    model: Any = base.model
    with torch.no_grad():
        answers = work_of(task).answers(model, examples.inputs)
        hidden = model.bert(examples.inputs[TOKENS], attention_mask=examples.inputs[TOKEN_MASK]).last_hidden_state
        expected = model.classifier(pooled(hidden, examples.inputs[TOKEN_MASK], pooling))
    assert answers.shape == (6, 2)
    torch.testing.assert_close(answers, expected)


def test_padding_has_no_part_in_an_answer(tmp_path: Path) -> None:
    world = task_world(tmp_path, "pooled text-classification")
    base, work = world.base(), work_of(world.task)
    examples = load_examples(world.dataset, world.columns, world.task, base).take(np.arange(6))
    mask = examples.inputs[TOKEN_MASK]
    assert int(mask.min()) == 0  # there is padding
    other = {**examples.inputs, TOKENS: torch.where(mask == 1, examples.inputs[TOKENS], 5)}
    with torch.no_grad():
        torch.testing.assert_close(work.answers(base.model, other), work.answers(base.model, examples.inputs))


def test_only_a_pooling_of_our_own_takes_the_class_for_tokens() -> None:
    fields = {"data": "rows", "labels": ("a", "b"), "max_length": 8}
    loaders = {
        pooling: work_of(TextClassification.model_validate({**fields, "pooling": pooling})).loader
        for pooling in ("model", "mean", "cls", "last")
    }
    assert loaders.pop("model") == "AutoModelForSequenceClassification"
    assert set(loaders.values()) == {"AutoModelForTokenClassification"}
