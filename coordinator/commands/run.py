"""``onlysum coordinator run``: creating, watching and ending runs.

Guarantees: a command changes rows and nothing else; the daemon notices within a fraction of a second.
Leaves to others: what is watched (``coordinator.views.watch``).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.commands.console import HERE, Directory, now, opened, seconds
from host.console import AsJson, Json, moment, show, table
from privacy.errors import LocalError

if TYPE_CHECKING:
    from privacy.plan import Plan
    from privacy.plan_parts import Privacy

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Create, watch and end runs.")
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or its beginning.")]


@app.command()
def create(
    draft: Annotated[Path, typer.Argument(metavar="DRAFT", help="The directory that `onlysum plan build` made.")],
    *,
    members: Annotated[str, typer.Option("--members", help="Names of the roster, comma-separated.")],
    f: Annotated[int | None, typer.Option("--f", help="Colluding participants to withstand; default a third.")] = None,
    min_survivors: Annotated[int | None, typer.Option("--min-survivors", help="Least participants in a sum.")] = None,
    weights: Annotated[str, typer.Option("--weights", help="equal, or units: by public dataset size.")] = "equal",
    graph: Annotated[str, typer.Option("--graph", help="complete; k-regular: cheaper, a weaker claim.")] = "complete",
    max_dropouts: Annotated[int | None, typer.Option("--max-dropouts", help="Of a round on a k-regular graph.")] = None,
    suite: Annotated[int | None, typer.Option("--suite", help="1, or 2: also ML-KEM-768; default the draft's.")] = None,
    expires: Annotated[str, typer.Option("--expires", help="Until when the run must be over.")] = "7d",
    config: Directory = HERE,
    as_json: AsJson = False,
) -> None:
    """Bind a draft to a roster and propose the plan to everybody.

    Noise and ring are calibrated to the roster, and the plan is signed.

    Example: onlysum coordinator run create digits/ --members a,b,c
    """
    from coordinator.runs import creation
    from coordinator.runs.thresholds import Requested
    from host.system import SystemRandom

    if weights not in ("equal", "units"):
        raise LocalError("E-USAGE", "--weights is equal or units")
    if graph not in ("complete", "k-regular"):
        raise LocalError("E-USAGE", "--graph is complete or k-regular")
    if suite not in (None, 1, 2):
        raise LocalError("E-USAGE", "--suite is 1 (X25519) or 2 (X25519 and ML-KEM-768, against quantum computers)")
    with opened(config) as here:
        made_at = now()
        request = creation.RunRequest(
            members=[name.strip() for name in members.split(",") if name.strip()],
            tolerance=Requested(
                f=f,
                min_survivors=min_survivors,
                graph="k-regular" if graph == "k-regular" else "complete",
                max_dropouts=max_dropouts,
            ),
            weight_rule="units" if weights == "units" else "equal",
            suite=None if suite is None else 2 if suite == 2 else 1,
            created_at=made_at,
            expires_at=made_at + seconds(expires),
        )
        known = creation.read_draft(draft)
        plan = creation.make_plan(here.store, here.settings, known, request, random=SystemRandom())
        creation.register(here.store, here.home, here.authority().operator, plan, draft)
    show(_plan_value(plan), _plan_lines(plan), as_json=as_json)


def _plan_value(plan: Plan) -> Json:
    from privacy.claims import trust_sentences

    return {
        "run": plan.run_id,
        "plan_sha256": plan.hash.hex(),
        "members": [member.id for member in plan.roster],
        "evaluators": [one.id for one in plan.evaluation.evaluators],
        "f": plan.f,
        "threshold": plan.shamir_threshold,
        "min_survivors": plan.min_survivors,
        "graph": plan.graph.model_dump(mode="json"),
        "suite": plan.suite,
        "mode": plan.privacy.mode,
        "noise_exponent": plan.privacy.noise_exponent,
        "sensitivity": plan.privacy.sensitivity,
        "ring_bits": plan.encoding.ring_bits,
        "trust": list(trust_sentences(plan)),
    }


def _plan_lines(plan: Plan) -> list[str]:
    from privacy.claims import graph_words, suite_words, trust_sentences

    return [
        f"Run {plan.run_id}: {plan.recipe.title}",
        f"  roster    {', '.join(f'{one.id} ({one.units})' for one in plan.roster)}",
        f"  evaluator {', '.join(one.id for one in plan.evaluation.evaluators) or 'nobody'}",
        f"  rounds    {plan.recipe.rounds}, {plan.recipe.entries} entries of {plan.encoding.ring_bits} bits",
        f"  privacy   {plan.privacy.mode}: {_noise_words(plan.privacy)}",
        f"  n={plan.n} f={plan.f} T={plan.shamir_threshold} min_survivors={plan.min_survivors}",
        f"  graph     {graph_words(plan)}",
        f"  suite     {suite_words(plan)}",
        *[f"  - {sentence}" for sentence in trust_sentences(plan)],
        f"Waits for the approval of all {plan.n}. Next: onlysum coordinator run watch {plan.run_id[:8]}",
    ]


def _noise_words(privacy: Privacy) -> str:
    from privacy.claims import NO_PRIVACY

    if not privacy.noised:
        return NO_PRIVACY.lower()
    return (
        f"epsilon {privacy.epsilon} at delta {privacy.delta}, unit {privacy.unit}: noise 2^{privacy.noise_exponent}, "
        f"sensitivity {privacy.sensitivity}, noise of {privacy.honest_noise} relied on"
    )


@app.command("list")
def list_all(config: Directory = HERE, as_json: AsJson = False) -> None:
    """List all runs.

    Example: onlysum coordinator run list
    """
    from coordinator.database import run_rows

    with opened(config) as here, here.store.read() as connection:
        found = [
            (one, one.parsed(), run_rows.list_rounds(connection, one.run_id)) for one in run_rows.list_runs(connection)
        ]
    value: Json = [
        {
            "run": one.run_id,
            "title": plan.recipe.title,
            "state": one.state.value,
            "paused": one.paused,
            "rounds_completed": len(rounds),
            "rounds": plan.recipe.rounds,
            "code": one.code,
            "created_at": one.created_at,
        }
        for one, plan, rounds in found
    ]
    rows = [
        (one.run_id[:12], one.state.value + (" (paused)" if one.paused else ""), f"{len(rounds)}/{plan.recipe.rounds}",
         moment(one.created_at), plan.recipe.title[:40])
        for one, plan, rounds in found
    ]  # fmt: skip
    none = ["No runs yet. Next: onlysum coordinator run create DRAFT --members A,B,C"]
    lines = table(("RUN", "STATE", "ROUNDS", "CREATED (UTC)", "TITLE"), rows) if rows else none
    show(value, lines, as_json=as_json)


@app.command("show")
def show_one(run: RunName, config: Directory = HERE, as_json: AsJson = False) -> None:
    """Show a run: is it going well, who is missing, what next.

    Example: onlysum coordinator run show 0a1b
    """
    from coordinator.views.overview import overview

    with opened(config) as here:
        seen = overview(here.store, here.home, run)
    show(seen.value(), seen.lines(), as_json=as_json)


@app.command()
def watch(run: RunName, config: Directory = HERE, as_json: AsJson = False) -> None:
    """Follow a run phase by phase until it ends.

    The exit code is 0 if it completed, 4 if not.

    Example: onlysum coordinator run watch 0a1b
    """
    from coordinator.views.watch import follow

    with opened(config) as here:
        completed = follow(here.store, here.home, run, as_json=as_json)
    if not completed:
        raise typer.Exit(4)


@app.command()
def pause(run: RunName, config: Directory = HERE, as_json: AsJson = False) -> None:
    """Open no further round; the one that is open goes on to its end.

    Example: onlysum coordinator run pause 0a1b
    """
    _set_paused(config, run, paused=True, as_json=as_json)


@app.command()
def resume(run: RunName, config: Directory = HERE, as_json: AsJson = False) -> None:
    """Go on with a paused run.

    Example: onlysum coordinator run resume 0a1b
    """
    _set_paused(config, run, paused=False, as_json=as_json)


def _set_paused(config: Path, run: str, *, paused: bool, as_json: bool) -> None:
    from coordinator.database import run_rows

    with opened(config) as here, here.store.begin() as connection:
        found = run_rows.find_run(connection, run)
        if found.state.ended:
            raise LocalError("E-USAGE", f"run {found.run_id} is {found.state.value} already")
        run_rows.set_paused(connection, found.run_id, paused=paused)
    show(
        {"run": found.run_id, "paused": paused},
        [f"{'Paused' if paused else 'Resumed'} {found.run_id}"],
        as_json=as_json,
    )


@app.command()
def abort(run: RunName, config: Directory = HERE, as_json: AsJson = False) -> None:
    """End a run for good; rounds that completed stay as they are.

    Example: onlysum coordinator run abort 0a1b
    """
    from coordinator.database import run_rows

    with opened(config) as here, here.store.begin() as connection:
        found = run_rows.find_run(connection, run)
        if found.state.ended:
            raise LocalError("E-USAGE", f"run {found.run_id} is {found.state.value} already")
        run_rows.request_abort(connection, found.run_id)
    show({"run": found.run_id, "abort_requested": True}, [f"The daemon ends {found.run_id}."], as_json=as_json)


@app.command()
def export(
    run: RunName,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="A new directory.")],
    config: Directory = HERE,
    as_json: AsJson = False,
) -> None:
    """Copy a completed run's adapter, report and plan.

    The adapter's model card and the signed evaluations go with them.

    Example: onlysum coordinator run export 0a1b -o result
    """
    import json

    from coordinator.database.run_rows import RunState
    from coordinator.runs.global_adapter import RunFiles
    from coordinator.views.overview import overview
    from host import durable

    with opened(config) as here:
        seen = overview(here.store, here.home, run)
        files = RunFiles(here.home.run(seen.run.run_id))
    if seen.run.state is not RunState.COMPLETED:
        raise LocalError("E-USAGE", f"run {seen.run.run_id} is {seen.run.state.value}, not completed")
    with durable.new_directory(out) as directory:
        (directory / "adapter").mkdir()
        for file in files.exported.iterdir():
            shutil.copyfile(file, directory / "adapter" / file.name)
        if files.report.exists():
            shutil.copyfile(files.report, directory / "report.json")
        (directory / "plan.json").write_bytes(seen.run.plan)
        (directory / "plan.sig").write_bytes(seen.run.signature)
        (directory / "evaluations.json").write_text(json.dumps(seen.evaluation_values(), indent=2))
    names = sorted(path.name for path in out.iterdir())
    value: Json = {"run": seen.run.run_id, "directory": str(out), "files": list(names)}
    show(value, [f"Wrote {out}/: {', '.join(names)}"], as_json=as_json)
