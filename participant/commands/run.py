"""``onlysum participant run``: what a run has left with this owner.

Guarantees: nothing is sent or charged. Leaves to others: what is written (``participant.owner.own_adapter``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from host.console import AsJson, show
from participant.commands.console import Directory, RunName, opened

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from methods.method import Fusion

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Export or erase what a run left at home.")


@app.command()
def export(
    run: RunName,
    released: Annotated[Path, typer.Argument(help="The folder that the coordinator exported.")],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Write your own adapter, part of which stayed at home.

    Example: onlysum participant run export 3f2a adapter my-adapter
    """
    from participant.commands.plan import training_job
    from participant.daemon.assembly import choose_fusion
    from participant.owner.own_adapter import export_own

    participant = opened(config)
    plans = participant.review.plans
    run_id = plans.find(run)
    verified = plans.get(run_id)

    def choose(state: NDArray[np.float32], kept: NDArray[np.float32]) -> Fusion:
        return choose_fusion(training_job(participant, run_id, participant.review.judge_run(run_id, None)), state, kept)

    number = export_own(participant.home, verified, released, out, choose=choose)
    lines = [f"Wrote {out}: your own adapter as round {number} left it. It is as private as the data: keep it so."]
    show({"run": run_id, "round": number, "folder": str(out)}, lines, as_json=as_json)


@app.command()
def erase(run: RunName, config: Directory = None, as_json: AsJson = False) -> None:
    """Erase the part of an adapter that stayed at home.

    Example: onlysum participant run erase 3f2a
    """
    from participant.owner.own_adapter import erase_own

    participant = opened(config)
    run_id = participant.review.plans.find(run)
    erased = erase_own(participant.home, participant.review.plans, run_id)
    words = "Erased what this run had left at home." if erased else "This run has left nothing at home."
    show({"run": run_id, "erased": erased}, [words], as_json=as_json)
