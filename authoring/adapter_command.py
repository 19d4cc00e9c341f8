"""``onlysum adapter``: what is done with an adapter that a run released.

Leaves to others: merging (``participant.training.bases.merged``), which needs torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from host.console import AsJson, show, working

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Merge a released adapter into its base.",
)


@app.callback()
def _group() -> None:
    """Merge a released adapter into its base."""


@app.command()
def merge(
    base: Annotated[Path, typer.Argument(help="The folder of the base model.")],
    adapter: Annotated[Path, typer.Argument(help="The folder that a run exported.")],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    as_json: AsJson = False,
) -> None:
    """Write the base with the adapter merged into its weights.

    Example: onlysum adapter merge base adapter merged
    """
    from participant.training.bases.merged import merge as merge_into

    with working("merging"):
        merge_into(base, adapter, out)
    lines = [f"Wrote {out}: one model, which transformers load without PEFT. Its card has the adapter's claim."]
    show({"folder": str(out)}, lines, as_json=as_json)
