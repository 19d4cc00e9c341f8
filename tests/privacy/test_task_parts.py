"""What a plan may say of its task."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from privacy.task_parts import Task, task_words

TASKS: TypeAdapter[Any] = TypeAdapter(Task)
FIELDS: dict[str, dict[str, Any]] = {
    "image-classification": {"labels": ("a", "b")},
    "text-classification": {"labels": ("a", "b"), "max_length": 8},
    "multi-label": {"labels": ("a", "b"), "max_length": 8},
    "regression": {"max_length": 8},
    "token-classification": {"labels": ("a", "b"), "max_length": 8},
    "causal-lm": {"form": "text", "max_length": 8},
    "masked-lm": {"max_length": 8},
    "sentence-embedding": {"max_length": 8},
}
KINDS = {kind.model_fields["kind"].default for kind in get_args(get_args(Task)[0])}
BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "one label": ("multi-label", {"labels": ("a",)}, "labels"),
    "no room for a token after another": ("causal-lm", {"max_length": 1}, "max_length"),
    "a completion without a column": ("causal-lm", {"form": "completion"}, "completion_column"),
    "a column of completions for chats": ("causal-lm", {"form": "chat", "completion_column": "answer"}, "completion"),
    "nothing hidden": ("masked-lm", {"mask_rate": "0"}, "mask_rate"),
    "everything hidden": ("masked-lm", {"mask_rate": "1"}, "mask_rate"),
    "another kind's field": ("regression", {"labels": ("a", "b")}, "labels"),
}


def test_the_kinds_are_those_of_which_this_test_knows_the_fields() -> None:
    assert FIELDS.keys() == KINDS
    for kind, fields in FIELDS.items():
        assert TASKS.validate_python({"kind": kind, "data": "rows", **fields}).kind == kind


@pytest.mark.parametrize("sentence", BAD)
def test_a_task_that_makes_no_sense_is_refused(sentence: str) -> None:
    kind, change, named = BAD[sentence]
    with pytest.raises(ValidationError, match=named):
        TASKS.validate_python({"kind": kind, "data": "rows", **FIELDS[kind], **change})


def test_what_a_model_learns_is_said_in_words_of_its_columns() -> None:
    said = {kind: task_words(TASKS.validate_python({"kind": kind, "data": "rows", **FIELDS[kind]})) for kind in KINDS}
    assert said["image-classification"] == "one of 2 labels for each picture in column input"
    assert said["causal-lm"] == "to go on writing the texts in column text; at most 8 tokens of a text are read"
    assert len({*said.values()}) == len(KINDS)
    chat = TASKS.validate_python({"kind": "causal-lm", "data": "rows", "max_length": 8, "form": "chat"})
    assert task_words(chat).startswith("to answer as in the chats in column text")
