"""How an owner's commands open the directory, and the options that they share.

Leaves to others: printing (``host.console``). Heavy modules are imported when a command runs, not for its help.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from host.console import notes_config

if TYPE_CHECKING:
    from participant.opened import OpenHome

Directory = Annotated[
    Path | None,
    typer.Option(
        "-c",
        "--config",
        metavar="DIR",
        envvar="ONLYSUM_HOME",
        help="The participant's directory.",
        callback=notes_config("participant"),
    ),
]


def _complete_plans(context: typer.Context, incomplete: str) -> list[str]:
    return _names(context, "plans/*/plan.json", incomplete, of=lambda path: path.parent.name)


def _complete_datasets(context: typer.Context, incomplete: str) -> list[str]:
    return _names(context, "datasets/*.json", incomplete, of=lambda path: path.stem)


def _complete_models(context: typer.Context, incomplete: str) -> list[str]:
    return _names(context, "models/*.json", incomplete, of=lambda path: path.stem)


def complete_populations(context: typer.Context, incomplete: str) -> list[str]:
    """Return the populations of the policy that begin like this."""
    try:
        policy = tomllib.loads((directory(context.params.get("config")) / "policy.toml").read_text())
    except (OSError, ValueError):
        return []
    populations = policy.get("population", {})
    return sorted(name for name in populations if name.startswith(incomplete))


def _names(context: typer.Context, pattern: str, incomplete: str, *, of: Callable[[Path], str]) -> list[str]:
    """Return the names of files in the directory; whoever presses Tab gets no errors and no waiting."""
    found = directory(context.params.get("config")).glob(pattern)
    return sorted(name for name in map(of, found) if name.startswith(incomplete))


RunName = Annotated[
    str, typer.Argument(metavar="PLAN", help="The run's id, or its beginning.", autocompletion=_complete_plans)
]
WaitingRun = Annotated[
    str,
    typer.Argument(
        metavar="[PLAN]",
        help="The run's id, or its beginning; by default of the one that waits.",
        autocompletion=_complete_plans,
    ),
]
LocalName = Annotated[str, typer.Argument(metavar="NAME", help="Local name: a-z, 0-9, dot, dash, underscore.")]
DatasetName = Annotated[
    str, typer.Argument(metavar="NAME", help="A registered dataset.", autocompletion=_complete_datasets)
]
ModelName = Annotated[
    str, typer.Argument(metavar="NAME", help="A registered base model.", autocompletion=_complete_models)
]
DatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="NAME",
        help="Use this dataset; default: the plan's name for it.",
        autocompletion=_complete_datasets,
    ),
]
Heard = Annotated[
    str,
    typer.Option("--heard", metavar="DIGITS", help="The roster's fingerprint, as the other owners read it to you."),
]


def directory(config: Path | None) -> Path:
    """Return the participant's directory: ``--config``, ``ONLYSUM_HOME``, or where the command runs."""
    return Path() if config is None else config


def opened(config: Path | None) -> OpenHome:
    """Open the directory for one command.

    Raises:
        LocalError: ``E-CONFIG-*`` or ``E-PERMISSIONS``.
        VerificationError: ``E-STATE-DAMAGED``.
    """
    from participant.opened import open_home

    return open_home(directory(config).resolve())
