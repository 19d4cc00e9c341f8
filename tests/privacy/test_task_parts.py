"""What a plan may say of its task, and what of it this version trains."""

from __future__ import annotations

from typing import get_args

import pytest

from privacy.errors import LocalError
from privacy.task_parts import Classification, Pooling, Task, TextClassification, require_classification

KINDS = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(Task)[0])}
TRAINED = {"image-classification", "text-classification"}
TEXT = TextClassification(data="notes", labels=("a", "b"), max_length=8)


def test_the_kinds_that_are_trained_are_those_of_classification() -> None:
    assert {kind.model_fields["kind"].default for kind in get_args(Classification)} == TRAINED
    assert require_classification(TEXT) is TEXT


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - TRAINED))
def test_a_kind_that_is_not_trained_is_refused_by_name(kind: str) -> None:
    task = KINDS[kind].model_construct(kind=kind)
    with pytest.raises(LocalError, match=f"the task is {kind}") as info:
        require_classification(task)
    assert info.value.code == "E-TASK-UNSUPPORTED"


@pytest.mark.parametrize("pooling", [pooling for pooling in get_args(Pooling) if pooling != "model"])
def test_another_pooling_than_the_models_own_is_refused_and_not_passed_over(pooling: Pooling) -> None:
    with pytest.raises(LocalError, match=f"pooling is {pooling}") as info:
        require_classification(TEXT.model_copy(update={"pooling": pooling}))
    assert info.value.code == "E-TASK-UNSUPPORTED"
