"""What differential privacy cannot cover is refused by name, wherever recipe, plan, ledger or report says it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import methods
import onlysum
from audit.verify import verify_report
from authoring.recipe import read_recipe
from authoring.refused_keys import REASONS
from methods.method import Method
from privacy import canonical, ledger
from privacy.canonical import Json
from privacy.dp import events
from privacy.dp.accountants import plan_delta, require_claim
from privacy.errors import LocalError, OnlysumError, PlanError
from privacy.plan import Plan
from tests.worlds.plans import STRONG, make_plan, plan_document, travel
from tests.worlds.recipes import RECIPE
from tests.worlds.reports import participant_report

UNSOUND = {
    "packing rows of several people into one sequence": ("training", "packing = true"),
    "overlapping windows of one row": ("task", "stride = 64"),
    "a contrastive loss over the batch": ("training", "contrastive = true"),
    "a balance loss of experts": ("training", "router_aux_loss_coef = 0.01"),
    "batch normalisation": ("adapter", "batch_norm = true"),
    "mixing rows of several people": ("training", "mixup = 0.2"),
    "an adapter initialised from private activations": ("adapter", 'init = "eva"'),
    "a clip norm that follows the gradients": ("privacy", "adaptive_clipping = true"),
    "stopping by a private loss": ("training", "early_stopping = true"),
    "metrics without noise": ("training", 'metrics = ["loss"]'),
    "dropping examples of a full batch": ("training", "max_batch = 64"),
    "batches of a fixed size": ("training", "batch_size = 64"),
    "a seed that reproduces the noise": ("privacy", "noise_seed = 7"),
    "a seed that reproduces the batches": ("privacy", "sampling_seed = 7"),
    "noise of one's own choice": ("privacy", "noise_multiplier = 0.5"),
}


@pytest.mark.parametrize("sentence", UNSOUND)
def test_a_recipe_is_refused_with_the_reason_for(sentence: str, tmp_path: Path) -> None:
    section, line = UNSOUND[sentence]
    (tmp_path / "recipe.toml").write_text(RECIPE.replace(f"[{section}]\n", f"[{section}]\n{line}\n"))
    with pytest.raises(LocalError) as caught:
        read_recipe(tmp_path / "recipe.toml")
    key = line.partition(" ")[0]
    assert caught.value.code == "E-PLAN-UNSOUND"
    assert f"{section}.{key}: {REASONS[key]}" in caught.value.detail
    assert "line " in caught.value.detail


SLIPS = {
    "an epsilon in a mode without one": ('mode = "distributed"', 'mode = "none"', "mode none has no differential"),
    "measuring on the owners' own data": ('data = "held-out"', 'data = "digits"', "must be public data"),
    "a sampling rate above 1": ("sampling_rate = 0.5", "sampling_rate = 1.5", "at most 1"),
}


@pytest.mark.parametrize("sentence", SLIPS)
def test_a_recipe_is_refused_for(sentence: str, tmp_path: Path) -> None:
    old, new, words = SLIPS[sentence]
    (tmp_path / "recipe.toml").write_text(RECIPE.replace(old, new))
    with pytest.raises(LocalError, match=words) as caught:
        read_recipe(tmp_path / "recipe.toml")
    assert caught.value.code == "E-CONFIG-INVALID"


PLANS: dict[str, tuple[str, dict[str, Any]]] = {
    "noise of sigma 4": ("E-PLAN-NOISE", {"privacy": {"variance_exponent": 5}}),
    "noise beyond the sampler": ("E-PLAN-NOISE", {"privacy": {"variance_exponent": 51}}),
    "noise that is no power of two": ("E-PLAN-MALFORMED", {"privacy": {"variance_exponent": "3.5"}}),
    "noise by its sigma": ("E-PLAN-MALFORMED", {"privacy": {"sigma": "11.5"}}),
    "a sensitivity that rounding could exceed": ("E-PLAN-NOISE", {"privacy": {"sensitivity": 4}}),
    "a sampling rate above 1": ("E-PLAN-RULE", {"privacy": {"sampling_rate": "1.01"}}),
    "a sampling rate of 0": ("E-PLAN-RULE", {"privacy": {"sampling_rate": "0"}}),
    "several steps in one distributed round": ("E-PLAN-RULE", {"privacy": {"local_steps": 2}}),
    "noise relied on that colluders know": ("E-PLAN-RULE", {"privacy": {"honest_noise": 4}}),
    "weights in a noised sum": ("E-PLAN-RULE", {"weight_rule": "units"}),
    "another relation than zero-out": ("E-PLAN-MALFORMED", {"privacy": {"relation": "replace-one"}}),
    "participants as units of a sampled sum": ("E-PLAN-RULE", {"privacy": {"unit": "participant"}}),
    "users without a bound on their rows": ("E-PLAN-RULE", {"privacy": {"unit": "user"}}),
    "a delta of 1": ("E-PLAN-RULE", {"privacy": {"delta": "1"}}),
    "a ring that the sum leaves": ("E-PLAN-RING", {"encoding": {"clamp": 2**31}}),
    "packing": ("E-PLAN-MALFORMED", {"recipe": {"training": {"packing": True}}}),
    "mixing rows": ("E-PLAN-MALFORMED", {"recipe": {"training": {"mixup": "0.2"}}}),
    "a loss of another kind": ("E-PLAN-MALFORMED", {"recipe": {"training": {"loss": "contrastive"}}}),
    "an initialisation by data": ("E-PLAN-MALFORMED", {"recipe": {"adapter": {"init": "eva"}}}),
    "a clip that adapts": ("E-PLAN-MALFORMED", {"privacy": {"adaptive_clipping": True}}),
    "metrics beside the sum": ("E-PLAN-MALFORMED", {"metrics": ["loss"]}),
    "seeds of coins or noise": ("E-PLAN-MALFORMED", {"privacy": {"seed": 7}}),
}


@pytest.mark.parametrize("sentence", PLANS)
def test_a_noised_plan_is_refused_for(sentence: str) -> None:
    code, overrides = PLANS[sentence]
    with pytest.raises(PlanError) as caught:
        Plan.from_bytes(canonical.encode(plan_document(mode="distributed", **overrides)))
    assert caught.value.code == code


def metrics(document: dict[str, Any]) -> None:
    document["recipe"]["adapter"]["tensors"].append(
        {"key": "loss", "shape": [1], "stream": "metrics", "part": "adapter"}
    )
    travel(document["recipe"], {"name": "metrics", "length": 1})


def hidden_metrics(document: dict[str, Any]) -> None:
    document["recipe"]["adapter"]["tensors"][0]["stream"] = "adapter"
    document["recipe"]["state"][0]["length"] += 8
    document["recipe"]["turns"][0]["sums"][0]["length"] += 8


def understated(document: dict[str, Any]) -> None:
    document["privacy"]["epsilon"] = "1"


def sampled_more(document: dict[str, Any]) -> None:
    document["privacy"]["epsilon"] = "6"
    document["privacy"]["sampling_rate"] = "1"


CHECKED: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "a stream of metrics, which nothing clips or noises": ("E-PLAN-STREAM", metrics),
    "a tensor that the method keeps frozen": ("E-PLAN-STREAM", hidden_metrics),
    "a claim below what its integers give": ("E-PLAN-CLAIM", understated),
    "a sampling rate that its claim forgot": ("E-PLAN-CLAIM", sampled_more),
}


@pytest.mark.parametrize("sentence", CHECKED)
def test_plan_check_refuses(sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, change = CHECKED[sentence]
    document: dict[str, Any] = json.loads(canonical.encode(plan_document(mode="distributed")))
    change(document)
    file = tmp_path / "plan.json"
    file.write_bytes(canonical.encode(document))
    assert onlysum.run(["plan", "check", str(file)]) == 4
    assert capsys.readouterr().err.startswith(code)


def test_plan_check_accepts_a_plan_that_keeps_its_claim(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_bytes(canonical.encode(plan_document(mode="distributed")))
    assert onlysum.run(["plan", "check", str(file)]) == 0


@pytest.mark.parametrize("name", methods.REFUSED)
def test_a_method_that_needs_single_updates_or_private_data_is_refused_with_its_reason(name: str) -> None:
    with pytest.raises(LocalError, match=f"{name.upper()}: ") as caught:
        methods.get(name.upper())
    assert caught.value.code == "E-METHOD-REFUSED"
    assert len(caught.value.detail) > len(name) + 30


@pytest.mark.parametrize("method", methods.all_methods(), ids=lambda method: method.name)
def test_a_mode_that_a_method_refuses_is_refused_wherever_a_recipe_is_taken(method: Method) -> None:
    for mode, reason in method.refused.items():
        with pytest.raises(LocalError) as caught:
            method.require_mode(mode)
        assert caught.value.code == "E-METHOD-REFUSED"
        assert reason in caught.value.detail


UNKNOWN_EVENTS: dict[str, Any] = {
    "an event of an unknown kind": {"kind": "laplace", "scale": "1"},
    "a Gaussian that hides a field": {"kind": "gaussian", "noise_multiplier": "1", "rounds": 1},
    "a Gaussian without noise": {"kind": "gaussian", "noise_multiplier": "0"},
    "a sampling rate above 1": {
        "kind": "poisson-sampled", "sampling_rate": "1.5", "event": {"kind": "gaussian", "noise_multiplier": "1"}
    },
    "sampling of an unknown mechanism": {
        "kind": "poisson-sampled", "sampling_rate": "0.5", "event": {"kind": "laplace", "scale": "1"}
    },
    "no repetition": {"kind": "composed", "event": {"kind": "gaussian", "noise_multiplier": "1"}, "count": 0},
}  # fmt: skip


@pytest.mark.parametrize("sentence", UNKNOWN_EVENTS)
def test_an_unknown_event_is_refused_by_itself_in_a_ledger_and_in_a_report(sentence: str) -> None:
    value = UNKNOWN_EVENTS[sentence]
    with pytest.raises(ValueError, match=r"."):
        events.from_json(value)
    charge: Json = {
        "kind": "charge", "run_id": "00" * 16, "plan_hash": "00" * 32, "round": 1, "population": "patients",
        "unit": "example", "relation": "zero-out", "event": value, "delta": "0.00001",
    }  # fmt: skip
    record: Json = {"sequence": 1, "previous": "00" * 32, "at": 0, "entry": charge}
    with pytest.raises(OnlysumError) as caught:
        ledger.parse_record(canonical.encode(record), b"")
    assert caught.value.code == "E-STATE-DAMAGED"
    report = json.loads(participant_report()[1])
    report["body"]["privacy"]["round_event"] = value
    with pytest.raises(OnlysumError) as caught:
        verify_report(canonical.encode(report))
    assert caught.value.code == "E-REPORT-MALFORMED"


def test_a_k_regular_plan_adds_up_at_a_little_less_than_its_delta_and_may_not_name_a_tiny_one() -> None:
    plan, _ = make_plan(mode="distributed", **STRONG, privacy={"honest_noise": 57})
    assert plan_delta(plan) == float(plan.privacy.delta) - 2**-40
    require_claim(plan)
    with pytest.raises(PlanError, match="at least 1e-9"):
        make_plan(mode="distributed", **STRONG, privacy={"honest_noise": 57, "delta": "0.0000000001"})


def test_a_plan_that_keeps_its_claim_is_not_refused() -> None:
    plan, _ = make_plan(mode="distributed")
    require_claim(plan)
    methods.require_sound(plan.recipe, plan.privacy.mode)
    assert plan_delta(plan) == float(plan.privacy.delta)
