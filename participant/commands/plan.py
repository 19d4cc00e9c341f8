"""``onlysum participant plan``: plans that wait for this owner, and the owner's word.

Guarantees: a plan is shown with everything that bears on it before it can be approved; a decision is on disk when the
command ends, and the daemon, running or started later, tells the coordinator.
Leaves to others: the rules (``participant.owner.rules``), the page (``participant.owner.plan_page``).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from host.console import AsJson, say, show, show_view
from participant.commands.console import DatasetOption, Directory, Heard, WaitingRun, opened

if TYPE_CHECKING:
    from host.rendering import Json
    from participant.opened import OpenHome
    from participant.owner.approval import Judged
    from participant.owner.plan_store import Rehearsal
    from participant.runs.context import TrainingJob
    from participant.training.torch_trainer import TorchTrainer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="See, approve and refuse plans.")
Person = Annotated[str, typer.Option("--as", metavar="NAME", help="Who decides; by default the user who is logged in.")]


@app.command("list")
def list_plans(
    pending: Annotated[bool, typer.Option("--pending", help="Only those that wait for a person.")] = False,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """List the plans that were proposed to this participant.

    Example: onlysum participant plan list --pending
    """
    from participant.views.plans import plan_list

    show_view(plan_list(opened(config), pending=pending), as_json=as_json)


@app.command("show")
def show_plan(
    run: WaitingRun = "",
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the page as HTML.")] = None,
    dataset: DatasetOption = None,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Show a plan on one screen.

    What happens here, what leaves, what it costs, whom you trust.

    Example: onlysum participant plan show 3f2a
    """
    from host import durable
    from participant.owner.plan_page import plan_page

    participant = opened(config)
    run_id = participant.review.plans.find(run)
    judged = participant.review.judge_run(run_id, dataset)
    plans = participant.review.plans
    rehearsal = plans.rehearsal(run_id)
    page = plan_page(judged, participant.owner.name, plans.decision(run_id), plans.ended(run_id), rehearsal)
    value: Json = {
        "run": run_id,
        "plan_hash": judged.verified.hash.hex(),
        "roster": judged.assessment.roster,
        "suite": judged.verified.plan.suite,
        "graph": judged.verified.plan.graph.kind,
        "rehearsal": rehearsal.model_dump(mode="json") if rehearsal else None,
        "sections": {heading: list(sentences) for heading, sentences in page.sections},
        "rules": [
            {"rule": rule.name, "outcome": rule.outcome.value, "says": rule.says} for rule in judged.assessment.rules
        ],
    }
    if html is not None:
        durable.write_new(html, page.html().encode())
    show(value, [f"wrote {html}"] if html else page.lines(), as_json=as_json)


@app.command("dry-run")
def dry_run(
    run: WaitingRun = "", dataset: DatasetOption = None, config: Directory = None, as_json: AsJson = False
) -> None:
    """Check base, data and plan together, and rehearse a round.

    Loads both, runs the self-check, and takes one private step of each turn on
    the rows. Nothing is sent or charged. What a round takes here is kept for
    `plan show`.

    Example: onlysum participant plan dry-run 3f2a
    """
    from participant.daemon.assembly import torch_trainer
    from participant.owner.inspection import is_unchanged
    from participant.owner.rules import Outcome
    from privacy.claims import graph_words, suite_words

    participant = opened(config)
    run_id = participant.review.plans.find(run)
    judged = participant.review.judge_run(run_id, dataset)
    job = training_job(participant, run_id, judged)
    same = is_unchanged(job.dataset)
    trainer = torch_trainer(job, strict=True)
    trainer.prepare()
    steps = trainer.step_on_rows()
    rehearsal = _rehearsed(trainer)
    participant.review.plans.note_rehearsal(run_id, rehearsal)
    plan, unmet = judged.verified.plan, [rule for rule in judged.assessment.rules if rule.outcome is not Outcome.MET]
    value: Json = {
        "run": run_id,
        "dataset": job.dataset.name,
        "ok": True,
        "unchanged": same,
        "rehearsal": rehearsal.model_dump(mode="json"),
        "remarks": list(trainer.remarks),
        "steps": list(steps),
        "suite": plan.suite,
        "graph": plan.graph.kind,
        "roster": judged.assessment.roster,
        "unmet": [{"rule": rule.name, "outcome": rule.outcome.value, "says": rule.says} for rule in unmet],
    }
    lines = [
        f"The self-check of run {run_id[:8]} passed with dataset {job.dataset.name}; nothing was charged.",
        f"On {rehearsal.device} training takes up to {rehearsal.seconds} s a round, and {rehearsal.mib} MiB of memory.",
        *(f"{job.dataset.name}: {remark}" for remark in (*trainer.remarks, *steps)),
        *([] if same else ["The dataset's bytes are not those that were registered; its size is."]),
        f"suite {suite_words(plan)}; graph {graph_words(plan)}; roster: {judged.assessment.roster}",
        *(f"{rule.outcome.value:<15}{rule.name}: {rule.says}" for rule in unmet),
    ]
    show(value, lines, as_json=as_json)


def _rehearsed(trainer: TorchTrainer) -> Rehearsal:
    """Time a round on synthetic rows."""
    from host.system import SystemClock
    from participant.owner.plan_store import Rehearsal

    clock = SystemClock()
    seconds, mib, device = trainer.rehearse(clock.monotonic)
    return Rehearsal(seconds=math.ceil(seconds), mib=mib, device=device, at=int(clock.now()))


def training_job(participant: OpenHome, run_id: str, judged: Judged) -> TrainingJob:
    """Return what a trainer would be made from, before anybody has approved."""
    from participant.runs.context import TrainingJob
    from privacy.errors import LocalError

    if judged.dataset is None or judged.model is None:
        what = "dataset" if judged.dataset is None else "base model"
        raise LocalError("E-NOT-FOUND", f"the plan's {what} is not registered here")
    return TrainingJob(
        verified=judged.verified,
        me=participant.owner.name,
        dataset=judged.dataset,
        model=judged.model,
        initial_adapter=participant.review.plans.initial_adapter(run_id),
        device=participant.settings.device,
        threads=participant.settings.threads,
        engine=participant.settings.engine,
        precision=participant.settings.precision,
        memory=participant.settings.memory,
    )


@app.command("approve")
def approve(
    run: WaitingRun = "",
    *,
    who: Person = "",
    dataset: DatasetOption = None,
    overrule: Annotated[
        list[str] | None,
        typer.Option("--overrule", metavar="RULE", help="A broken rule that the policy lets you overrule; repeatable."),
    ] = None,
    because: Annotated[str, typer.Option("--because", metavar="TEXT", help="Why; kept, and told to nobody.")] = "",
    propose: Annotated[
        bool, typer.Option("--propose", help="With the lines that policy.toml lacks, and pins of who is not pinned.")
    ] = False,
    heard: Heard = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not show the plan and ask: it was read.")] = False,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Show a plan, ask, and approve it.

    Without a terminal nothing is asked. The daemon runs the self-check and
    tells the coordinator. What a rule of the policy refuses, only the persons
    in approval.may_overrule can approve, with --overrule, --as and --because.
    With --propose it also shows the lines for policy.toml that would allow
    this plan and no more, has you compare the fingerprint of the roster with
    the other owners, and writes both when you say yes.

    Example: onlysum participant plan approve 3f2a --as "Anna Meier"
    """
    import sys

    from participant.commands.asking import approve_with_lines
    from privacy.errors import LocalError

    participant = opened(config)
    review = participant.review
    asks = sys.stdin.isatty() and not as_json and not yes
    if not (run or asks or yes):
        raise LocalError("E-USAGE", "name the plan that you have read: another one may have come since")
    if propose and (overrule or not (asks or yes)):
        raise LocalError("E-USAGE", "--propose changes policy.toml: it needs a terminal or --yes, and no --overrule")
    if heard and not propose:
        raise LocalError("E-USAGE", "--heard pins the roster, which belongs to --propose; or use `member pin --all`")
    run_id = review.plans.find(run)
    added: dict[str, Json] = {}
    lines: list[str] = []
    if propose:
        decision, proposed, pinned = approve_with_lines(
            participant, run_id, who=who, dataset=dataset, because=because, heard=heard, asks=asks
        )
        added = {"appended": list(proposed.lines), "pinned": list(pinned)}
        lines += [f"added to {participant.home.policy}"] if proposed.lines or pinned else []
        lines += [f"pinned {', '.join(pinned)}"] if pinned else []
    else:
        if asks:
            _show_and_ask(participant, run_id, dataset)
        decision = review.approve(
            run_id, who=who or None, dataset_name=dataset, overruling=overrule or (), because=because
        )
    lines.append(f"approved by {decision.who} with dataset {decision.dataset}; plan hash {decision.plan_hash}")
    lines += [f"overruled: {rule.rule}: {rule.says}" for rule in decision.overruled]
    show({"run": run_id, **decision.model_dump(mode="json"), **added}, lines, as_json=as_json)


def _show_and_ask(participant: OpenHome, run_id: str, dataset: str | None) -> None:
    from participant.owner.plan_page import plan_page

    judged = participant.review.judge_run(run_id, dataset)
    plans = participant.review.plans
    say(*plan_page(judged, participant.owner.name, plans.decision(run_id), plans.ended(run_id)).lines())
    if not judged.assessment.broken:
        typer.confirm("Approve this plan?", abort=True)


@app.command("refuse")
def refuse(
    run: WaitingRun = "",
    *,
    because: Annotated[str, typer.Option("--because", metavar="TEXT", help="What the operator is told.")],
    who: Person = "",
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Refuse a plan, with words that the operator will read.

    Example: onlysum participant plan refuse 3f2a --because "not before the ethics board has met"
    """
    from host.system import SystemClock
    from participant.runs.erasure import sweep_without_daemon

    participant = opened(config)
    review = participant.review
    run_id = review.plans.find(run)
    decision = review.refuse(run_id, because=because, who=who or None)
    sweep_without_daemon(participant.home, review.plans, now=SystemClock().now())
    lines = [f"refused by {decision.who}; the operator is told: {because}"]
    show({"run": run_id, **decision.model_dump(mode="json")}, lines, as_json=as_json)
