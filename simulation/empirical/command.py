"""``onlysum audit empirical``: test the privacy claim on a synthetic plan, and show that planted faults are caught.

Guarantees: exit code 6 when a check contradicts the claim; a bound is printed beside the claim and the ceiling of the
test, never alone; nothing is read but what was made up for the test.
Leaves to others: the audit itself (``empirical``), which needs torch and is imported when it runs.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from host.console import say
from privacy.dp.events import format_epsilon_up
from privacy.errors import LocalError, VerificationError
from simulation.empirical.result import CAUGHT_BY, AuditedMode, Fault, Setting, Verdict

if TYPE_CHECKING:
    from participant.training.trainer import Progress

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def empirical(
    plant: Annotated[
        Fault | None, typer.Option("--plant", metavar="FAULT", help="A fault, which has to be caught.")
    ] = None,
    mode: Annotated[
        AuditedMode, typer.Option("--mode", help="Whose noise is audited: shares of it, or each one's own.")
    ] = AuditedMode.DISTRIBUTED,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train on canaries and see if they contradict the claim.

    Ten participants train a synthetic plan with a claimed epsilon of 2, through
    the code that daemons run. A pass cannot prove a claim: the bound could
    never exceed the printed ceiling.

    Faults of the noise: no-noise, missing-share, quiet-data, quiet-peaks.

    Of its shape: laplace-noise, coarse-noise.

    Of its freshness: repeated-noise, repeated-once, restarted-seed.

    Of its independence: shared-noise, tiled-noise, bare-momentum.

    Of the clip: no-clip, tensor-clip, batch-as-one.

    Of the sampler: double-q, fixed-batches, shared-coins, sitting-out.

    Of the plan: exact-metrics.

    Exit code 0: nothing contradicts the claim. 6: a check does; so it should
    with --plant. 1: the planted fault was not caught, which is a bug.

    Example: onlysum audit empirical --plant missing-share
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two threads are slower on tiny layers
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries, about themselves
    from host.system import SystemRandom
    from simulation.empirical.audit import audit

    with tempfile.TemporaryDirectory(prefix="onlysum-audit-") as directory, _bar() as progress:
        verdict = audit(Setting(mode=mode), Path(directory), SystemRandom(), fault=plant, progress=progress)
    if as_json:
        typer.echo(json.dumps(_as_values(verdict, plant), indent=2))
    else:
        _show(verdict, plant)
    failed = [check.name for check in verdict.failed]
    if plant is not None and CAUGHT_BY[plant] not in failed:
        raise LocalError("E-BUG", f"the planted fault {plant.value} was not caught by the check {CAUGHT_BY[plant]}")
    if failed:
        caught = " (the planted fault was caught)" if plant else ""
        raise VerificationError("E-AUDIT-FAILED", ", ".join(failed) + caught)


def _show(verdict: Verdict, plant: Fault | None) -> None:
    from audit.text import aligned

    setting = verdict.setting
    size = f"{setting.participants} participants, {setting.rounds} rounds, {setting.canaries} canaries"
    typer.echo(f"A synthetic plan: {size}, {setting.mode.value} noise")
    typer.echo(f"Claimed: epsilon {setting.epsilon} at delta {setting.delta}")
    if plant:
        typer.echo(f"Planted: {plant.value}, which the check {CAUGHT_BY[plant]} has to catch")
    for check in verdict.checks:
        say(aligned(f"{'ok  ' if check.passed else 'FAIL'} {check.name}", check.outcome))
    if not verdict.failed:
        most = format_epsilon_up(verdict.ceiling or 0.0)
        say(
            "PASS: nothing contradicts the claim. That does not prove it: whatever had happened, this test could not "
            f"have shown more than epsilon {most}."
        )


def _as_values(verdict: Verdict, plant: Fault | None) -> dict[str, object]:
    return {
        "mode": verdict.setting.mode.value,
        "planted": plant.value if plant else None,
        "passed": not verdict.failed,
        "claimed_epsilon": verdict.claim,
        "lower_bound": verdict.bound,
        "ceiling": verdict.ceiling,
        "checks": [{"name": check.name, "passed": check.passed, "found": check.outcome} for check in verdict.checks],
    }


@contextmanager
def _bar() -> Iterator[Progress]:
    """Yield a callback that draws a bar over the rounds on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("rounds", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
