"""A tiny base, rows and a plan for each kind of task; the rows have something to learn.

Guarantees: as ``torch_world``: the same arguments give the same files and plan.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from authoring.draft import build_draft
from participant.training.data import task_columns
from privacy.draft import Draft
from tests.worlds.torch_world import ROWS, World, adapter_text, plan_of

WORDS: Final = ("pain", "fever", "cough", "rash", "calm", "fine", "well", "good")
SPECIAL: Final = ("<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>")
LENGTH: Final = 12
TEMPLATE: Final = (
    "{% for message in messages %}<|{{ message.role }}|> {{ message.content }} {{ eos_token }} {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
Row = dict[str, Any]


def words_of(random: np.random.Generator, count: int) -> list[str]:
    """Return words of which each tells the next but for one in four."""
    words = [str(random.choice(WORDS))]
    while len(words) < count:
        after = WORDS[(WORDS.index(words[-1]) + 1) % len(WORDS)]
        words.append(after if random.random() < 0.75 else str(random.choice(WORDS)))
    return words


def _sentence(random: np.random.Generator) -> str:
    return " ".join(words_of(random, int(random.integers(3, 8))))


def _labelled(random: np.random.Generator) -> Row:
    words = words_of(random, 5)
    present = [name for name, sign in (("a", "pain"), ("b", "calm"), ("c", "good")) if sign in words]
    return {"input": " ".join(words), "labels": present}


def _classed(random: np.random.Generator) -> Row:
    words = words_of(random, 5)
    return {"input": " ".join(words), "label": "bad" if sum(word in WORDS[:4] for word in words) > 2 else "good"}


def _tagged(random: np.random.Generator) -> Row:
    words = words_of(random, int(random.integers(3, 8)))
    return {"words": words, "tags": ["bad" if word in WORDS[:4] else "good" for word in words]}


def _numbered(random: np.random.Generator) -> Row:
    words = words_of(random, 5)
    return {"input": " ".join(words), "value": float(sum(word in WORDS[:4] for word in words)) - 2.5}


def _paired(random: np.random.Generator) -> Row:
    first, second = words_of(random, 4), words_of(random, 4)
    return {"input": " ".join(first), "pair": " ".join(second), "similarity": len({*first} & {*second}) / 4}


def _chat(random: np.random.Generator) -> Row:
    asked = str(random.choice(WORDS))
    answer = WORDS[(WORDS.index(asked) + 1) % len(WORDS)]
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": f"{answer} {answer}"}]}


def word_tokenizer(*, template: str | None = TEMPLATE, **special: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words that begins no text and pads none, like that of most causal models."""
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", **special}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)  # type: ignore[no-untyped-call]
    made.chat_template = template
    return made


def llama(folder: Path, **changes: Any) -> Path:
    """Write a Llama of width 16 with grouped heads, and a tokenizer without padding."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=32, max_position_embeddings=16, initializer_range=0.2,
        bos_token_id=1, eos_token_id=2, pad_token_id=None, **changes,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def gpt2(folder: Path) -> Path:
    """Write a GPT-2 of width 16, whose head is tied to its embeddings, and a tokenizer without padding."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(SPECIAL) + len(WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=16, initializer_range=0.2,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def _bert(model: type[Any], labels: int = 0) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.manual_seed(0)
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
        BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
        config = BertConfig(
            vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=16, initializer_range=0.2,
            id2label={number: f"label {number}" for number in range(labels or 2)},
        )  # fmt: skip
        model(config).save_pretrained(folder)
        return folder

    return write


@dataclass(frozen=True, slots=True)
class TaskCase:
    """A kind of task in small.

    Attributes:
        task: keys of the recipe's section, beside kind, data and length.
        base: writes a base.
        row: makes a row.
        targets: modules that are adapted.
        head: modules that train whole.
        rate: at which it learns.
        length: of a text in tokens.
    """

    kind: str
    base: Callable[[Path], Path]
    row: Callable[[np.random.Generator], Row]
    task: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = ("query", "value")
    head: tuple[str, ...] = ()
    rate: float = 0.5
    length: int = LENGTH


_LLAMA: Final = ("q_proj", "v_proj")
CASES: Final = {
    "plain text": TaskCase("causal-lm", llama, lambda r: {"text": _sentence(r)}, {"form": "text"}, _LLAMA),
    "plain text, GPT-2": TaskCase("causal-lm", gpt2, lambda r: {"text": _sentence(r)}, {"form": "text"}, ("c_attn",)),
    "completions": TaskCase(
        "causal-lm", llama, lambda r: {"ask": _sentence(r), "answer": _sentence(r)},
        {"form": "completion", "input_column": "ask", "completion_column": "answer"}, _LLAMA,
    ),
    "chats": TaskCase("causal-lm", llama, _chat, {"form": "chat", "input_column": "messages"}, _LLAMA, rate=0.2),
    "masked-lm": TaskCase("masked-lm", _bert(BertForMaskedLM), lambda r: {"text": _sentence(r)}, {"mask_rate": 0.3}),
    "multi-label": TaskCase(
        "multi-label", _bert(BertForSequenceClassification, 3), _labelled, {"labels": ["a", "b", "c"]},
        head=("classifier",),
    ),
    "regression": TaskCase(
        "regression", _bert(BertForSequenceClassification, 1), _numbered, head=("classifier",), rate=0.05
    ),
    "pooled text-classification": TaskCase(
        "text-classification", _bert(BertModel), _classed, {"labels": ["bad", "good"], "pooling": "mean"},
        head=("classifier",),
    ),
    "pooled regression": TaskCase(
        "regression", _bert(BertModel), _numbered, {"pooling": "cls"}, head=("classifier",), rate=0.05
    ),
    "token-classification": TaskCase(
        "token-classification", _bert(BertForTokenClassification), _tagged, {"labels": ["bad", "good"]},
        head=("classifier",),
    ),
    "sentence-embedding": TaskCase("sentence-embedding", _bert(BertModel), _paired),
}  # fmt: skip


def write_rows(path: Path, case: TaskCase, *, rows: int = ROWS, seed: int = 0) -> Path:
    """Write rows as lines of JSON; users hold three each."""
    random = np.random.default_rng(seed)
    lines = [json.dumps({**case.row(random), "person": f"u{row // 3}"}) for row in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def recipe_text(case: TaskCase, *, mode: str = "none", method: str = "fedit", **privacy: Any) -> str:
    """Return the recipe of a tiny run; ``privacy`` adds to or replaces keys of its section."""
    section = {"mode": mode, "sampling_rate": 0.5, "local_steps": 1 if mode.startswith("distributed") else 2}
    section |= {"epsilon": 8, "delta": 1e-5} if mode != "none" else {}
    lines, task = (
        "".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items())
        for given in (section | privacy, case.task)
    )
    adapter = adapter_text(method, "image" if case.targets[0] == "q_proj" else "text", targets=case.targets)
    return f"""
title = "Tiny"
purpose = "A tiny run for tests"
method = "{method}"
rounds = 3

[base]
name = "tiny-{case.kind}-{case.task.get("form", case.task.get("pooling", ""))}-{case.targets[0]}"
path = "base"

[task]
kind = "{case.kind}"
data = "rows"
max_length = {case.length}
{task}
[adapter]
{adapter}head_modules = {json.dumps(case.head)}
seed = 7

[privacy]
{lines}
[training]
learning_rate = {case.rate}
micro_batch = 8

[evaluation]
data = "public"
"""


def draft_of(directory: Path, case: TaskCase, **recipe: Any) -> Draft:
    """Write base and recipe, and build the draft."""
    if not (directory / "base").exists():
        case.base(directory / "base")
    (directory / "recipe.toml").write_text(recipe_text(case, **recipe))
    return build_draft(directory / "recipe.toml", directory / "draft", self_check=False)


def task_world(directory: Path, name: str, *, units: int = ROWS, **recipe: Any) -> World:
    """Write everything that a trainer needs for a kind of task."""
    case = CASES[name]
    plan = plan_of(draft_of(directory, case, **recipe), units=units)
    rows = write_rows(directory / "rows.jsonl", case)
    return World(directory, plan, rows, task_columns(plan.recipe.task, user_column="person"))
