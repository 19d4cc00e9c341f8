"""A measurement as people run it: recipe, plan, policy, daemons over mutual TLS, a dropout, figures, reports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import onlysum
from audit.measurement import measured_figures
from audit.verify import verify_report
from coordinator.config import Durations
from coordinator.opened import OpenHome
from coordinator.orders import export_run
from coordinator.runs.global_adapter import RunFiles
from coordinator.views.overview import overview
from coordinator.views.proposal import Proposal
from participant.home import sum_file
from participant.opened import open_home
from privacy.dp.events import round_event
from privacy.ledger_entries import Charge, Unprotected
from privacy.measurement import Figure
from privacy.plan import Plan
from tests.worlds.daemons import Service, until
from tests.worlds.measuring import EVERYTHING, MeasureMode, measure_text
from tests.worlds.torch_world import image_base, text_base
from tests.worlds.training_daemons import MEMBERS, ROWS, Owner, create, enrol, say

pytestmark = pytest.mark.torch

GONE = "dave"
ALLOWED = f"measures = {json.dumps(EVERYTHING)}"
CASES: dict[str, tuple[str, MeasureMode, str, dict[str, Any]]] = {
    "distributed, by examples": ("image", "distributed", "example", {}),
    "local, by users": ("text", "local", "user", {"unit": "user", "max_rows_per_user": 3}),
    "none": ("image", "none", "none", {}),
}
SELDOM = {"local, by users"}  # left to `make test-all`


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path / "coordinator", Durations(phase_seconds=20, update_seconds=40, gather_seconds=1))
    yield running
    running.stop()


@pytest.mark.parametrize(
    ("kind", "mode", "unit", "privacy"),
    [pytest.param(*case, marks=[pytest.mark.slow] if name in SELDOM else []) for name, case in CASES.items()],
    ids=CASES.keys(),
)
def test_a_measurement_from_its_recipe_to_figures_that_everybody_computes_alike(
    kind: str, mode: MeasureMode, unit: str, privacy: dict[str, Any], tmp_path: Path, service: Service, capsys: Any
) -> None:
    (image_base if kind == "image" else text_base)(tmp_path / "base")
    owners = {
        name: enrol(service, tmp_path, name, kind, mode=mode, unit=unit, more=ALLOWED) for name in (*MEMBERS, "referee")
    }
    owners[GONE].leaves_in = 1
    try:
        for owner in owners.values():
            owner.start()
        until(lambda: service.live() >= {*MEMBERS}, "everybody polls")
        plan = create(service, tmp_path, measure_text(kind, mode=mode, **privacy))
        assert not plan.evaluation.evaluators, "an evaluator has no part in what is private"
        until(lambda: service.state(plan.run_id) not in {"created", "approving", "running"}, "the run ends")
        assert service.state(plan.run_id) == "completed"
        reports = [service.home.run(plan.run_id) / "report.json"]
        for name in MEMBERS[:3]:
            check_ledger(owners[name], plan)
            reports.append(owners[name].directory / "runs" / plan.run_id / "report.json")
        until(lambda: all(report.exists() for report in reports), "everybody reports")
        figures = check_reports(reports, plan)
        check_operator(service, plan, figures, tmp_path, capsys)
        check_owner(owners["alice"], plan, capsys)
    finally:
        for owner in owners.values():
            owner.end()


def check_ledger(owner: Owner, plan: Plan) -> None:
    """The one round is charged as the plan's event, or the run is noted where there is no claim."""
    home = open_home(owner.directory)
    until(lambda: home.review.plans.ended(plan.run_id) is not None, "it hears of the end")
    entries = [row.entry for row in home.ledger.rows() if isinstance(row.entry, Charge | Unprotected)]
    if plan.privacy.mode == "none":
        assert [type(entry) for entry in entries] == [Unprotected]
    else:
        assert [(entry.round, entry.event, entry.unit) for entry in entries if isinstance(entry, Charge)] == [
            (1, round_event(plan), plan.privacy.unit)
        ]


def check_reports(reports: list[Path], plan: Plan) -> tuple[Figure, ...]:
    """Every report verifies and has the same sum; the figures are right within their errors."""
    found = [verify_report(report.read_bytes()).report for report in reports]
    assert len({report.measured for report in found}) == 1
    assert found[0].rounds[0].dropouts == (GONE,)
    figures = measured_figures(found[0])
    by_name = {(figure.metric, *figure.of): figure for figure in figures}
    each = ROWS // 3 if plan.privacy.unit == "user" else ROWS
    for metric in ("confusion", "histogram"):
        cells = [figure for figure in figures if figure.metric == metric]
        total = sum(figure.value or 0.0 for figure in cells)
        assert total == pytest.approx(3 * each, abs=1e-6 + 5 * len(cells) ** 0.5 * cells[0].noise_error)
    assert by_name["count",].value == pytest.approx(3 * each, abs=1e-6 + 5 * by_name["count",].noise_error)
    loss = by_name["loss",]
    assert loss.value is not None
    assert -5 * loss.standard_error < loss.value < 4 + 5 * loss.standard_error
    return figures


def check_operator(service: Service, plan: Plan, figures: tuple[Figure, ...], tmp_path: Path, capsys: Any) -> None:
    """The operator reads the figures, exports them and finds no adapter."""
    opened = OpenHome(service.home, service.settings, service.store)
    shown = overview(opened, plan.run_id)
    assert shown.figures == figures
    assert any("accuracy: " in line for line in shown.to_lines())
    json.dumps(shown.to_json(), allow_nan=False)
    assert any("trains nothing" in line for line in Proposal(plan).to_lines())
    (tmp_path / "out").mkdir()
    assert export_run(RunFiles(service.home.run(shown.run.run_id)), shown, tmp_path / "out", released=False) is None
    assert not (tmp_path / "out" / "adapter").exists()
    exported = json.loads((tmp_path / "out" / "measurement.json").read_text())
    assert exported["figures"] == [figure.to_json() for figure in figures]
    assert (exported["participants"], exported["dropouts"]) == (3, [GONE])
    say("audit", "show", tmp_path / "out" / "report.json")
    printed = " ".join(capsys.readouterr().out.split())
    assert "What was measured" in printed
    assert figures[0].words in printed
    say("audit", "verify", tmp_path / "out" / "report.json")
    assert "are the sum of 3 participants that the certificate names" in " ".join(capsys.readouterr().out.split())
    say("audit", "export", tmp_path / "out" / "report.json")
    assert "What was measured" in (tmp_path / "out" / "report.html").read_text()


def check_owner(owner: Owner, plan: Plan, capsys: Any) -> None:
    """The owner reads in plain words what is counted, and a dry run measures without a charge."""
    assert sum_file(owner.directory / "runs" / plan.run_id).exists()
    say("participant", "plan", "show", plan.run_id, "--config", owner.directory)
    shown = " ".join(capsys.readouterr().out.split())
    assert "This plan measures and trains nothing" in shown
    assert "[met] dataset.measures" in shown
    charged = len(list(open_home(owner.directory).ledger.rows()))
    assert onlysum.run(["participant", "plan", "dry-run", plan.run_id, "--config", str(owner.directory)]) == 0
    assert f"measuring {ROWS} of {ROWS} rows went well" in " ".join(capsys.readouterr().out.split())
    assert len(list(open_home(owner.directory).ledger.rows())) == charged
