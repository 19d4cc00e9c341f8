"""What a model writes after public prompts, and how it is compared with what is expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from participant.training.evaluation import AdapterEvaluator
from participant.training.examples import Examples, load_examples
from participant.training.tasks.generation import prompt_and_answer, rouge, write_on
from participant.training.tasks.work import TOKEN_MASK, TOKENS
from privacy.evaluation import Metric
from tests.worlds.task_world import task_world
from tests.worlds.torch_world import World

pytestmark = pytest.mark.torch


def loaded(world: World) -> tuple[Any, Examples]:
    base = world.base()
    return base, load_examples(world.dataset, world.columns, world.task, base)


def test_a_prompt_ends_where_the_first_answer_begins(tmp_path: Path) -> None:
    base, examples = loaded(task_world(tmp_path, "chats"))
    for row in range(6):
        prompt, answer = prompt_and_answer(examples, row)
        text, written = (base.tokenizer.decode(ids) for ids in (prompt, answer))
        assert text.endswith("<|assistant|>")
        assert written.endswith("</s>")
        whole = examples.inputs[TOKENS][row][examples.inputs[TOKEN_MASK][row] == 1].tolist()
        assert prompt + answer == whole


@pytest.mark.parametrize("method", ["fedit", "prompt"])
def test_what_is_written_is_the_likeliest_token_each_time(method: str, tmp_path: Path) -> None:
    world = task_world(tmp_path, "chats", method=method)
    base, model = world.base(), world.adapted().model
    prompts = [[3, 5, 2, 4], [3, 6, 2, 4]]
    for prompt, found in zip(prompts, write_on(model, base, prompts, 4), strict=True):
        ids = list(prompt)
        for token in found:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits
            assert int(logits[0, -1].argmax()) == token
            ids.append(token)
            if token == base.tokenizer.eos_token_id:  # type: ignore[union-attr]
                break


def test_rouge_is_one_where_everything_expected_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, examples = loaded(task_world(tmp_path, "completions"))
    answers = {tuple(prompt): answer for prompt, answer in (prompt_and_answer(examples, row) for row in range(24))}
    monkeypatch.setattr(
        "participant.training.tasks.generation.write_on",
        lambda model, base, prompts, tokens: [answers[tuple(prompt)] for prompt in prompts],
    )
    assert rouge(None, base, examples) == (Metric("rouge-l", "1.000000"),)
    monkeypatch.setattr(
        "participant.training.tasks.generation.write_on", lambda model, base, prompts, tokens: [[] for _ in prompts]
    )
    assert rouge(None, base, examples) == (Metric("rouge-l", "0.000000"),)


@pytest.mark.parametrize("method", ["fedit", "prompt"])
def test_an_evaluator_measures_what_a_model_reads_and_what_it_writes(method: str, tmp_path: Path) -> None:
    world = task_world(tmp_path, "chats", method=method)
    with capture_logs():
        evaluator = AdapterEvaluator.load(
            world.plan.recipe, model=world.directory / "base", dataset=world.dataset, columns=world.columns,
            initial_adapter=world.initial,
        )  # fmt: skip
    start = evaluator.adapted.vector()
    measured = evaluator.measure(start)
    assert [metric.name for metric in measured.metrics] == [
        "accuracy", "exact-match", "loss", "perplexity", "rouge-l"
    ]  # fmt: skip
    figures = {metric.name: float(metric.value) for metric in measured.metrics}
    assert figures["perplexity"] == pytest.approx(np.exp(figures["loss"]), rel=1e-4)
    assert measured == evaluator.measure(start)
    assert measured != evaluator.measure(start + 0.3)
