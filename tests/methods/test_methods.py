"""Methods say what trains, what is summed and where they are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import methods
from authoring.method_command import app
from methods.method import Method, Selector, joined, split
from privacy.errors import LocalError
from tests.worlds.plans import make_plan

A, B = "base_model.model.layer.q_proj.lora_A.weight", "base_model.model.layer.q_proj.lora_B.weight"
WEIGHT, BIAS = "base_model.model.classifier.weight", "base_model.model.classifier.bias"
SHAPES = {A: (2, 8), B: (6, 2), WEIGHT: (3, 6), BIAS: (3,)}


def streams(method: Method) -> dict[str, str]:
    return {tensor.key: tensor.stream for tensor in method.manifest(SHAPES)}


def test_fedit_trains_and_sums_both_factors() -> None:
    assert streams(methods.get("fedit")) == {A: "adapter", B: "adapter", BIAS: "head", WEIGHT: "head"}


def test_ffa_lora_freezes_a_and_sums_b_alone() -> None:
    assert streams(methods.get("ffa-lora")) == {B: "adapter", BIAS: "head", WEIGHT: "head", A: "frozen"}


@pytest.mark.parametrize(("name", "adapter"), [("fedit", 28), ("ffa-lora", 12)])
def test_a_layout_has_the_lengths_of_its_streams(name: str, adapter: int) -> None:
    method = methods.get(name)
    layout = method.layout(method.manifest(SHAPES))
    assert {stream.name: stream.length for stream in layout} == {"adapter": adapter, "head": 21}


def test_a_stream_without_tensors_is_left_out() -> None:
    method = methods.get("ffa-lora")
    layout = method.layout(method.manifest({A: (2, 8), B: (6, 2)}))
    assert [stream.name for stream in layout] == ["adapter"]


@pytest.mark.parametrize("method", methods.all_methods(), ids=lambda method: method.name)
def test_every_method_is_described_whole_and_runs_in_some_mode(method: Method) -> None:
    assert methods.get(method.name) is method
    assert method.modes
    assert method.source
    assert method.summed
    assert not method.trained & method.frozen
    for mode in method.modes:
        method.require_mode(mode)


def test_a_mode_that_is_refused_is_refused_with_its_reason_and_the_modes_that_are_left() -> None:
    plain = methods.get("fedit")
    fields = {name: getattr(plain, name) for name in Method.__slots__}
    refusing = Method(**{**fields, "refused": {"distributed": "it strips others' noise"}})
    with pytest.raises(
        LocalError, match=r"FedIT in mode distributed: it strips others' noise; it runs in local"
    ) as info:
        refusing.require_mode("distributed")
    assert info.value.code == "E-METHOD-REFUSED"


@pytest.mark.parametrize("name", sorted(methods.REFUSED))
def test_methods_that_need_individual_updates_are_refused_by_name(name: str) -> None:
    with pytest.raises(LocalError, match=name) as info:
        methods.get(name)
    assert info.value.code == "E-METHOD-REFUSED"


def test_an_unknown_method_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(LocalError, match="did you mean ffa-lora") as info:
        methods.get("ffa-lroa")
    assert info.value.code == "E-METHOD-UNKNOWN"
    with pytest.raises(LocalError, match=f"did you mean ({'|'.join(one.name for one in methods.all_methods())})"):
        methods.get("lora")  # and not a refused method, though its name is as near


def test_a_tensor_that_no_method_of_the_kind_has_counts_as_head_only_where_heads_train() -> None:
    assert Selector.of("base_model.model.classifier.dense.weight") is Selector.HEAD


def test_splitting_and_joining_a_vector_are_inverse_and_keep_the_order_of_the_streams() -> None:
    plan, _ = make_plan(entries=12)
    vector = np.arange(12, dtype=np.float32)
    tensors = split(plan.recipe, vector)
    assert tensors[B].tolist() == list(range(9))
    assert tensors[WEIGHT].tolist() == [9, 10, 11]
    assert np.array_equal(joined(plan.recipe, tensors), vector)


def test_a_vector_of_another_length_is_refused() -> None:
    plan, _ = make_plan(entries=12)
    with pytest.raises(ValueError, match="not of 12 entries"):
        split(plan.recipe, np.zeros(13, dtype=np.float32))


def test_an_export_has_trained_tensors_from_the_vector_and_frozen_ones_from_the_start() -> None:
    plan, _ = make_plan(entries=12)
    initial = {A: np.ones((2, 4), dtype=np.float32), B: np.full(9, 7, dtype=np.float32)}
    exported = methods.get("ffa-lora").export(plan.recipe, np.arange(12, dtype=np.float32), initial)
    assert exported.keys() == {A, B, WEIGHT}
    assert exported[A].tolist() == initial[A].tolist()
    assert exported[B].tolist() == list(range(9))


@pytest.mark.parametrize("initial", [{}, {A: np.ones((4, 2), dtype=np.float32)}], ids=["missing", "another shape"])
def test_an_export_without_its_frozen_parts_is_refused(initial: dict[str, np.ndarray]) -> None:
    plan, _ = make_plan(entries=12)
    with pytest.raises(LocalError, match="initial adapter lacks"):
        methods.get("ffa-lora").export(plan.recipe, np.zeros(12, dtype=np.float32), initial)


def test_a_missing_tensor_cannot_be_joined() -> None:
    plan, _ = make_plan(entries=12)
    with pytest.raises(LocalError, match="adapter lacks"):
        joined(plan.recipe, {WEIGHT: np.zeros(3, dtype=np.float32)})


def test_the_command_lists_methods_and_refusals() -> None:
    shown = CliRunner().invoke(app, ["list"])
    assert shown.exit_code == 0
    assert "ffa-lora" in shown.output
    assert "krum" in shown.output
    listed = json.loads(CliRunner().invoke(app, ["list", "--json"]).output)
    assert {entry["name"] for entry in listed["methods"]} == {"fedit", "ffa-lora"}


def test_the_command_shows_what_a_method_sums() -> None:
    shown = CliRunner().invoke(app, ["show", "ffa-lora"]).output
    assert "2403.12313" in shown
    assert "adapter (lora-b); head (head)" in shown
    assert json.loads(CliRunner().invoke(app, ["show", "fedit", "--json"]).output)["frozen"] == []
