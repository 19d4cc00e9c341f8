"""Every family of models gives exact gradients of single examples for every PEFT type, or a refusal that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5ForSequenceClassification

from docs.build_models import TEXT, rebuilt
from participant.training.bases.answers import row_by_row
from tests.worlds.families import FAMILIES
from tests.worlds.model_table import METHODS, cell

# PEFT asks transformers for a name that it deprecates, and is warned of norms that it adapts all the same.
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type"),
]

QUICK = (
    ("albert", "fedit"),
    ("deberta", "fedit"),
    ("gpt2", "fedit"),
    ("mistral", "fedit"),
    ("swin", "fedit"),
    ("t5", "ia3"),
    ("distilbert", "prompt"),
)


@pytest.mark.parametrize(("family", "method"), QUICK)
def test_each_example_has_its_own_gradient_in(family: str, method: str, tmp_path: Path) -> None:
    FAMILIES[family].write(tmp_path / "base")
    found = cell(FAMILIES[family], method, tmp_path)
    assert found.exact, found


def test_a_method_that_does_not_fit_a_family_is_refused_with_what_to_do(tmp_path: Path) -> None:
    FAMILIES["gpt2"].write(tmp_path / "base")
    found = cell(FAMILIES["gpt2"], "oft", tmp_path)
    assert found.refusal.startswith("E-CONFIG-INVALID: adapter: Target module Conv1D")
    assert found.refusal.endswith("take other target_modules, or another method")


def test_the_layers_of_albert_share_one_tensor_whose_gradients_are_added_up(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    FAMILIES["albert"].write(tmp_path / "base")
    assert cell(FAMILIES["albert"], "fedit", tmp_path).exact
    keys = load_file(tmp_path / "fedit" / "initial_adapter.safetensors")
    assert len([key for key in keys if key.endswith("query.lora_A.weight")]) == 1  # of two layers


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_of_models_says_what_is_measured() -> None:
    text = TEXT.read_text()
    assert "INEXACT" not in text
    assert all(f"`{method}`" in text for method in METHODS)
    assert rebuilt(text) == text


@pytest.mark.filterwarnings("ignore")
def test_t5_answers_as_its_own_class_does_and_also_where_a_row_has_no_end(tmp_path: Path) -> None:
    FAMILIES["t5"].write(tmp_path)
    own: Any = T5ForSequenceClassification.from_pretrained(tmp_path)
    own.train(False)
    tokens = torch.tensor([[5, 6, 7, 1, 0, 0], [8, 9, 4, 5, 6, 1]])
    mask = tokens.ne(0).long()
    with torch.no_grad():
        expected = own(input_ids=tokens, attention_mask=mask).logits
        ours = row_by_row(own)
        assert torch.equal(ours(input_ids=tokens, attention_mask=mask).logits, expected)
        tokens[1] = 0
        beside_nothing = ours(input_ids=tokens, attention_mask=tokens.ne(0).long()).logits
    assert torch.equal(beside_nothing[0], expected[0])
    assert beside_nothing.isfinite().all()
