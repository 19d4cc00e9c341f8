"""Kinds of tasks: what is asked of each row, each example's own gradient, and what becomes of rows that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from structlog.testing import capture_logs

from methods.vectors import joined
from participant.training.adapters.adapted import read_initial
from participant.training.examples import Examples, load_examples
from participant.training.tasks.forms import messages_of
from participant.training.tasks.work import IGNORED, TOKEN_MASK, TOKENS
from participant.training.torch_trainer import TorchTrainer
from participant.training.trial import try_base
from privacy.dp.fast_noise import discrete_gaussian
from privacy.errors import LocalError
from tests.worlds.seeded import SeededRandom
from tests.worlds.task_world import CASES, TaskCase, draft_of, gpt2, llama, task_world, word_tokenizer
from tests.worlds.torch_world import ROWS, World

pytestmark = pytest.mark.torch

CAUSAL = [name for name, case in CASES.items() if case.kind == "causal-lm"]
SOME = np.arange(6)
MOST_ERROR = 1e-5  # relative


def examples_of(world: World) -> Examples:
    return load_examples(world.dataset, world.columns, world.task, world.base())


def rewritten(world: World, place: int, row: dict[str, Any]) -> Path:
    """Write the world's rows with one in place of another."""
    lines = world.dataset.read_text().splitlines()
    lines[place] = json.dumps({**json.loads(lines[place]), **row})
    path = world.directory / "changed.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def refused(world: World, row: dict[str, Any], place: int = 3) -> str:
    """Return why a row is refused to its owner, before anything is trained."""
    with pytest.raises(LocalError) as info:
        load_examples(rewritten(world, place, row), world.columns, world.task, world.base())
    assert info.value.code == "E-DATA-MISMATCH"
    before = f"1 of {ROWS} rows are of no use; the first: "
    assert info.value.detail.startswith(f"{before}changed.jsonl row {place + 1}: ")
    return info.value.detail.removeprefix(before)


# --- gradients ---


@pytest.mark.parametrize("name", CAUSAL)
def test_an_example_s_gradient_is_that_of_transformers_own_loss_of_it_alone(name: str, tmp_path: Path) -> None:
    """Which is the mean over the example's own tokens that are asked for, by transformers' own shift."""
    world = task_world(tmp_path, name, mode="distributed")
    engine = world.trainer().sums_of_turn(0).engine
    moved = engine.adapted.vector() + 0.1 * np.random.default_rng(0).normal(size=engine.adapted.entries)
    engine.adapted.load(moved.astype(np.float32))
    examples = examples_of(world).take(SOME)
    rows = engine.per_example(examples)
    for place in SOME:
        ids, mask = (examples.inputs[key][place : place + 1] for key in (TOKENS, TOKEN_MASK))
        wanted = torch.cat([torch.full((1, 1), IGNORED), examples.labels[place : place + 1, :-1]], dim=1)
        length = int(mask.sum())  # without padding
        loss = engine.adapted.model(
            input_ids=ids[:, :length], attention_mask=mask[:, :length], labels=wanted[:, :length]
        ).loss
        single = torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, engine.adapted.trained)]).numpy()
        assert np.linalg.norm(single) > 0
        assert np.linalg.norm(rows[place] - single) <= MOST_ERROR * np.linalg.norm(single)


@pytest.mark.parametrize("name", [name for name in CASES if name not in CAUSAL])
def test_an_example_s_gradient_is_its_own(name: str, tmp_path: Path) -> None:
    world = task_world(tmp_path, name, mode="distributed")
    engine = world.trainer().sums_of_turn(0).engine
    moved = engine.adapted.vector() + 0.1 * np.random.default_rng(0).normal(size=engine.adapted.entries)
    engine.adapted.load(moved.astype(np.float32))
    examples = examples_of(world).take(SOME)
    rows = engine.per_example(examples)
    for place in SOME:
        single = engine.summed(examples.take(np.array([place])))
        assert np.linalg.norm(rows[place] - single) <= MOST_ERROR * np.linalg.norm(single)
    assert len({row.tobytes() for row in rows}) == len(SOME)


# --- what is asked for ---


def text_of(ids: Any) -> str:
    return str(word_tokenizer().decode([int(number) for number in ids]))


def asked(world: World, row: dict[str, Any]) -> tuple[str, str]:
    """Return what is read of a row, and what is asked for."""
    examples = load_examples(rewritten(world, 0, row), world.columns, world.task, world.base()).take(np.array([0]))
    length = int(examples.inputs[TOKEN_MASK][0].sum())
    ids, labels = examples.inputs[TOKENS][0, :length].tolist(), examples.labels[0].tolist()
    assert all(wanted in {IGNORED, after} for wanted, after in zip(labels, ids[1:], strict=False))
    assert set(labels[length - 1 :]) == {IGNORED}
    return text_of(ids), text_of(wanted for wanted in labels if wanted != IGNORED)


def test_of_a_text_everything_after_its_first_token_is_asked_for_and_its_end(tmp_path: Path) -> None:
    world = task_world(tmp_path, "plain text")
    assert asked(world, {"text": "pain fever cough"}) == ("pain fever cough </s>", "fever cough </s>")


def test_of_a_completion_the_prompt_is_read_and_not_asked_for(tmp_path: Path) -> None:
    world = task_world(tmp_path, "completions")
    row = {"ask": "pain fever", "answer": "calm fine"}
    assert asked(world, row) == ("pain fever calm fine </s>", "calm fine </s>")


def test_of_a_chat_every_answer_is_asked_for_and_no_question(tmp_path: Path) -> None:
    world = task_world(tmp_path, "chats")
    turns = [("user", "pain"), ("assistant", "fever"), ("user", "calm"), ("assistant", "fine well")]
    whole, answers = asked(world, {"messages": [{"role": role, "content": text} for role, text in turns]})
    assert whole == "<|user|> pain </s> <|assistant|> fever </s> <|user|> calm </s> <|assistant|> fine well"  # no end
    assert answers == "fever </s> fine well"
    assert examples_of(replace(world, dataset=world.directory / "changed.jsonl")).remarks == (
        f"1 of {ROWS} rows are longer than task.max_length, and are cut",
    )


def test_a_chat_may_be_json_in_a_table() -> None:
    chat = [{"role": "user", "content": "how?"}, {"role": "assistant", "content": "fine"}]
    assert messages_of(json.dumps(chat), "row 1") == chat


def test_of_words_the_first_token_of_each_is_asked_for(tmp_path: Path) -> None:
    world = task_world(tmp_path, "token-classification")
    path = rewritten(world, 0, {"words": ["pain", "fine"], "tags": ["bad", "good"]})
    examples = load_examples(path, world.columns, world.task, world.base()).take(np.array([0]))
    assert examples.labels[0, :4].tolist() == [IGNORED, 0, 1, IGNORED]


def test_hidden_tokens_are_hidden_anew_in_each_step_by_the_participant_s_own_coins(tmp_path: Path) -> None:
    world = task_world(tmp_path, "masked-lm", mode="distributed")
    base, engine = world.base(), world.trainer().sums_of_turn(0).engine
    examples, work = examples_of(world), engine.adapted.work

    def hidden(seed: str) -> Examples:
        return work.in_step(examples, SOME, base, SeededRandom(seed))

    first, again, other = hidden("a"), hidden("a"), hidden("b")
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)
    assert torch.equal(other.labels[len(SOME) :], examples.labels[len(SOME) :]), "rows that are not in the batch"
    for some in (first, other):
        chosen = some.labels != IGNORED
        assert (some.inputs[TOKENS][chosen] == base.tokenizer.mask_token_id).all()  # type: ignore[union-attr]
        whole = torch.where(chosen, some.labels, some.inputs[TOKENS])
        assert torch.equal(whole, torch.where(examples.labels != IGNORED, examples.labels, examples.inputs[TOKENS]))
        words = (some.inputs[TOKEN_MASK].sum(dim=1) - 2).numpy()  # without [CLS] and [SEP]
        assert np.array_equal(chosen.sum(dim=1).numpy(), np.maximum(1, np.rint(0.3 * words)))


# --- rows that do not fit ---

MESSAGES = [{"role": "user", "content": "pain"}, {"role": "assistant", "content": "fine"}]
UNFIT: dict[str, tuple[str, dict[str, Any], str]] = {
    "an empty text": ("plain text", {"text": " "}, "its text is empty; leave it out"),
    "an empty prompt": ("completions", {"ask": ""}, "its prompt is empty"),
    "an empty completion": ("completions", {"answer": ""}, "its completion is empty"),
    "a prompt that leaves no room": ("completions", {"ask": "pain " * 20}, "its prompt alone has 20 tokens"),
    "a chat without an answer": ("chats", {"messages": MESSAGES[:1]}, "nothing is answered; leave it out"),
    "a chat that is a text": ("chats", {"messages": "hello"}, "a chat is a list"),
    "a chat with an empty message": ("chats", {"messages": [MESSAGES[0], {**MESSAGES[1], "content": ""}]}, "is empty"),
    "a chat without roles": ("chats", {"messages": [{"content": "fine"}]}, "has no role"),
    "a question that leaves no room": (
        "chats", {"messages": [{"role": "user", "content": "pain " * 20}, MESSAGES[1]]}, "its question alone has",
    ),
    "a text to hide nothing in": ("masked-lm", {"text": ""}, "its text is empty"),
    "a number that is none": ("regression", {"value": "high"}, "not a number of at most"),
    "a number without end": ("regression", {"value": "inf"}, "not a number of at most"),
    "a label that the plan lacks": ("multi-label", {"labels": ["a", "zebra"]}, "`dataset map` translates"),
    "a word without a label": ("token-classification", {"tags": ["bad"]}, "each word has one"),
    "a similarity beyond one": ("sentence-embedding", {"similarity": 2}, "not from -1 to 1"),
    "a pair that is a number": ("sentence-embedding", {"pair": 5}, "not text"),
}  # fmt: skip


@pytest.mark.parametrize("sentence", UNFIT)
def test_a_row_that_does_not_fit_is_refused_to_its_owner(sentence: str, tmp_path: Path) -> None:
    name, row, says = UNFIT[sentence]
    world = task_world(tmp_path, name)
    detail = refused(world, row)
    assert says in detail
    assert "zebra" not in detail


def test_in_a_round_a_chat_without_an_answer_is_an_empty_example(tmp_path: Path) -> None:
    world = task_world(tmp_path, "chats", mode="distributed", sampling_rate=1)
    dataset = rewritten(world, 3, {"messages": MESSAGES[:1]})
    noise = discrete_gaussian(world.plan.recipe.entries, world.plan.privacy.variance_exponent, SeededRandom("secret"))
    start = joined(world.plan.recipe, read_initial(world.initial, world.plan.recipe.adapter))
    with capture_logs() as logs:
        trainer = world.trainer(SeededRandom("secret"), dataset=dataset)
    assert [log["event"] for log in logs] == ["rows that do not fit the plan count as empty"]
    found = trainer.train(1, start, lambda done, of: None)
    sums, clip = trainer.sums_of_turn(0), {"sensitivity": world.plan.privacy.sensitivity, "clip_norm": 1.0}
    sums.engine.adapted.load(start)
    others = np.delete(np.arange(ROWS), 3)
    assert np.array_equal(found, sums.clipped(others, **clip) + noise)  # type: ignore[arg-type]
    assert not sums.clipped(np.array([3]), **clip).any()  # type: ignore[arg-type]


def test_an_owner_is_told_of_labels_that_no_row_has(tmp_path: Path) -> None:
    world = task_world(tmp_path, "multi-label")
    for place in range(ROWS):
        lines = rewritten(replace(world, dataset=world.dataset), place, {"labels": ["a"]})
        world = replace(world, dataset=lines)
    trainer = TorchTrainer(world.materials(strict=True), SeededRandom(1))
    trainer.prepare()
    assert trainer.remarks == ("no row has label b, c",)


def test_an_owner_s_own_spelling_of_labels_is_translated(tmp_path: Path) -> None:
    world = task_world(tmp_path, "multi-label")
    path = rewritten(world, 0, {"labels": ["Schmerz", "b"]})
    columns = replace(world.columns, renamed={"Schmerz": "a"})
    examples = load_examples(path, columns, world.task, world.base())
    assert examples.labels[0].tolist() == [1, 1, 0]


# --- bases that do not fit ---


def built(tmp_path: Path, case: TaskCase) -> str:
    """Return why a draft is refused."""
    with pytest.raises(LocalError) as info:
        draft_of(tmp_path, case)
    return str(info.value)


def test_a_base_without_a_chat_template_is_refused_for_chats(tmp_path: Path) -> None:
    llama(tmp_path / "base")
    word_tokenizer(template=None).save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    assert "E-MODEL-LOAD: tiny-causal-lm-chat-q_proj: its tokenizer has no chat template" in built(
        tmp_path, CASES["chats"]
    )


@pytest.mark.parametrize("write", [llama, gpt2])
def test_a_base_that_writes_is_registered_without_a_padding_token(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    try_base(write(tmp_path / "base"), "writer")


def test_a_base_that_writes_is_not_registered_without_its_head(tmp_path: Path) -> None:
    path = llama(tmp_path / "base") / "model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if key != "lm_head.weight"}, path, {"format": "pt"})
    with pytest.raises(LocalError, match=r"the checkpoint has no weights for lm_head\.weight"):
        try_base(tmp_path / "base", "writer")


def test_a_head_that_is_tied_to_the_embeddings_does_not_train_whole(tmp_path: Path) -> None:
    says = built(tmp_path, replace(CASES["plain text, GPT-2"], head=("lm_head",)))
    assert "lm_head shares its weights with transformer.wte (tied)" in says
    assert "tie_word_embeddings = false" in says


def test_a_classifier_of_texts_needs_a_padding_token_and_is_told_where_to_name_it(tmp_path: Path) -> None:
    case = replace(CASES["plain text"], kind="regression", task={}, head=("score",))
    assert "no padding token; name one as pad_token in tokenizer_config.json" in built(tmp_path, case)


def test_a_length_beyond_the_base_s_positions_is_refused(tmp_path: Path) -> None:
    assert "has 16 positions" in built(tmp_path, replace(CASES["plain text"], length=17))
