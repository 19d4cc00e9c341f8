"""Every mode as people run it: recipe, draft, plan, approval, real training over mutual TLS, a loss, reports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForImageClassification

import methods
import onlysum
from coordinator.config import Durations
from coordinator.runs.global_adapter import RunFiles
from participant.opened import open_home
from privacy.dp.events import round_event
from privacy.error_codes import REGISTRY
from privacy.ledger_entries import Charge, Unprotected
from privacy.plan import Plan
from protos import codec
from tests.worlds.daemons import Service, until
from tests.worlds.expect import expect
from tests.worlds.torch_world import image_base, recipe_text, text_base
from tests.worlds.training_daemons import MEMBERS, ROWS, Owner, create, enrol, say

pytestmark = [pytest.mark.torch, pytest.mark.early]

GONE = "dave"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    durations = Durations(phase_seconds=20, update_seconds=40, gather_seconds=1, evaluation_seconds=20)
    running = Service(tmp_path / "coordinator", durations)
    yield running
    running.stop()


CASES = {
    "distributed, by users of many rows": ("text", "distributed", "user", {"unit": "user", "max_rows_per_user": 2}),
    "distributed, by participants": ("image", "distributed-participant", "participant", {"local_steps": 3}),
    "local, by users": ("text", "local", "user", {"unit": "user", "max_rows_per_user": 2}),
    "none, on data with users": ("text", "none", "none", {}),
    "distributed, by examples, one factor in turns": ("image", "distributed", "example", {"method": "rolora"}),
    "local, by examples, scales": ("image", "local", "example", {"method": "ia3"}),
    "distributed, by examples, a prompt": ("text", "distributed", "example", {"method": "prompt"}),
    "local, by examples, one factor at home": ("image", "local", "example", {"method": "fedsa-lora"}),
    "distributed, by examples, a LoRA at home": ("image", "distributed", "example", {"method": "feddpa"}),
    "none, own LoRAs beside the others' mean": ("image", "none", "none", {"method": "fedalt"}),
    "distributed, by participants, variates": (
        "image",
        "distributed-participant",
        "participant",
        {"method": "scaffold", "local_steps": 2},
    ),
    "distributed, by examples, layers by a coin": ("image", "distributed", "example", {"method": "droppeft"}),
    "local, by examples, sketches": ("image", "local", "example", {"method": "fedask"}),
    "none, directions": ("image", "none", "none", {"method": "fedkseed"}),
    "distributed, by examples, bottlenecks": ("text", "distributed", "example", {"method": "bottleneck"}),
    "distributed, by examples, correlated noise": ("image", "distributed", "example", {"bands": 2}),
}

# The others are left to `make test-all`.
OFTEN = {
    "distributed, by users of many rows",
    "none, on data with users",
    "distributed, by examples, a prompt",
    "distributed, by examples, correlated noise",
}


@pytest.mark.parametrize(
    ("kind", "mode", "unit", "privacy"),
    [pytest.param(*case, marks=[] if name in OFTEN else [pytest.mark.slow]) for name, case in CASES.items()],
    ids=CASES.keys(),
)
def test_a_run_from_its_recipe_to_reports_that_agree_although_one_participant_leaves(
    kind: str, mode: str, unit: str, privacy: dict[str, Any], tmp_path: Path, service: Service, capsys: Any
) -> None:
    (image_base if kind == "image" else text_base)(tmp_path / "base")
    everybody = (*MEMBERS, "referee")
    owners = {name: enrol(service, tmp_path, name, kind, mode=mode, unit=unit) for name in everybody}
    owners[GONE].leaves_in = 2
    try:
        for owner in owners.values():
            owner.start()
        until(lambda: service.live() == frozenset(everybody), "everybody polls")
        plan = create(service, tmp_path, recipe_text(kind, mode=mode, **privacy))
        until(lambda: service.state(plan.run_id) not in {"created", "approving", "running"}, "the run ends")
        assert service.state(plan.run_id) == "completed"
        check_history(service, plan)
        for name in MEMBERS[:3]:
            check_ledger(owners[name], plan)
        check_screen(owners["alice"], plan, capsys)
        check_reports(service, owners["alice"], plan, capsys)
        if methods.get(plan.recipe.adapter.method).home:
            check_own_adapter(service, owners["alice"], plan)
        if kind == "text":
            check_dry_run(owners["alice"], plan, capsys)
    finally:
        for owner in owners.values():
            owner.end()


def check_history(service: Service, plan: Plan) -> None:
    """All take part at first; the adapter moves each round; the evaluator measured each release."""
    sums = [codec.decode_certificate(row.certificate, sender="coordinator") for row in service.rounds(plan.run_id)]
    assert [one.survivors.ids for one in sums] == [MEMBERS, MEMBERS[:3], MEMBERS[:3]]
    assert plan.member("alice").units == (ROWS // 3 if plan.privacy.unit == "user" else ROWS)
    assert [one.round for one in service.measured(plan.run_id)] == [0, 1, 2, 3]
    files = RunFiles(service.home.run(plan.run_id))
    last = np.frombuffer(files.iterate(plan.recipe.rounds).read_bytes(), dtype="<f4")
    assert np.isfinite(last).all()
    until((files.exported / "adapter_model.safetensors").is_file, "the adapter lies where it is read")


def check_screen(owner: Owner, plan: Plan, capsys: Any) -> None:
    """The owner reads what is sampled: rows, or users of whom some rows are taken."""
    capsys.readouterr()
    say("participant", "plan", "show", plan.run_id, "--config", owner.directory)
    shown = " ".join(capsys.readouterr().out.split())
    by_user = plan.privacy.unit == "user"
    assert ("dataset rows (24 rows of 8 users)" if by_user else "dataset rows (24 rows)") in shown
    sampled = "user (at most 2 of a user's rows)" if by_user else "row"
    turns = " on average: in one round out of 2, when its turn comes, with 1" if plan.privacy.banded else ""
    assert f"sampling each {sampled} with probability 0.5{turns}." in shown
    assert ("own sums of the last round stay on its machine" in shown) == plan.privacy.banded


def check_dry_run(owner: Owner, plan: Plan, capsys: Any) -> None:
    """A row that the plan cannot use is named to the owner who asks."""
    words = ["participant", "plan", "dry-run", plan.run_id, "--config", str(owner.directory)]
    assert onlysum.run(words) == 0
    dataset = owner.directory.with_suffix(".jsonl")
    *others, last = dataset.read_text().splitlines()
    dataset.write_text("\n".join([*others, json.dumps({**json.loads(last), "label": "zebra"})]))
    capsys.readouterr()
    assert onlysum.run(words) == REGISTRY["E-DATA-MISMATCH"].fault.value
    told = capsys.readouterr().err
    assert f"alice.jsonl row {ROWS}: its label is not among the plan's" in told
    assert "zebra" not in told


def check_own_adapter(service: Service, owner: Owner, plan: Plan) -> None:
    """The owner exports its own adapter, which is not the released one, and may erase what it was made from."""
    released, own = RunFiles(service.home.run(plan.run_id)).exported, owner.directory.parent / "own"
    say("participant", "run", "export", plan.run_id, released, own, "--config", owner.directory)
    mixed = methods.get(plan.recipe.adapter.method).home == "mixed"
    file = "own_adapter.safetensors" if mixed else "adapter_model.safetensors"
    mine, public = load_file(own / file), load_file(released / "adapter_model.safetensors")
    assert any(key not in public or not np.array_equal(value, public[key]) for key, value in mine.items())
    if not mixed:
        base = AutoModelForImageClassification.from_pretrained(owner.directory.parent / "base")
        assert PeftModel.from_pretrained(base, own).active_peft_config.r in {2, 4}
    say("participant", "run", "erase", plan.run_id, "--config", owner.directory)
    assert not list((owner.directory / "runs" / plan.run_id).glob("kept-*"))


def check_ledger(owner: Owner, plan: Plan) -> None:
    """Each round is charged at the plan's event, or the run is noted once where there is no claim."""
    home = open_home(owner.directory)
    until(lambda: home.review.plans.ended(plan.run_id) is not None, "it hears of the end")
    entries = [row.entry for row in home.ledger.rows() if isinstance(row.entry, Charge | Unprotected)]
    if plan.privacy.mode == "none":
        assert [type(one) for one in entries] == [Unprotected]
        return
    charges = [expect(Charge, entry) for entry in entries]
    assert [(charge.round, charge.event, charge.unit) for charge in charges] == [
        (number, round_event(plan), plan.privacy.unit) for number in ((1, 3) if plan.privacy.banded else (1, 2, 3))
    ]


def check_reports(service: Service, owner: Owner, plan: Plan, capsys: Any) -> None:
    """Operator and owner say the same, and both verify."""
    reports = service.home.run(plan.run_id) / "report.json", owner.directory / "runs" / plan.run_id / "report.json"
    until(lambda: all(report.exists() for report in reports), "both report")
    for report in reports:
        say("audit", "verify", report)
    printed = " ".join(capsys.readouterr().out.split())
    assert "3 of 3 started rounds completed" in printed
    charges = "2 charged blocks of 2 rounds" if plan.privacy.banded else "3 charged rounds"
    claimed = f"at delta 0.00001 per {plan.privacy.unit} for {charges} follows from the plan"
    assert printed.count(claimed if plan.privacy.noised else "the plan makes no claim: no differential privacy") == 2
    say("audit", "compare", *reports)
    assert "both can be true: one plan, one history" in capsys.readouterr().out
