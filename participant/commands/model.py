"""``onlysum participant model``: the base models that this participant has.

Guarantees: a model is hashed to its last file, and has run on synthetic rows, before it is registered.
Leaves to others: hashing (``participant.training.models``), which plans may use it (``participant.owner.policy``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from host.console import AsJson, show, show_view, working
from participant.commands.console import Directory, LocalName, ModelName, opened

if TYPE_CHECKING:
    from participant.owner.registry import ModelEntry

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Register and list base models.")


@app.command("add")
def add_model(
    name: LocalName,
    path: Annotated[Path, typer.Argument(help="The folder with weights (safetensors), config and tokenizer.")],
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Hash a base model's files, run it on synthetic rows and register it.

    Pickles are refused.

    Example: onlysum participant model add minilm /models/minilm
    """
    from participant.owner.registry import Registry
    from participant.views.models import ModelView

    participant = opened(config)
    entry, remarks = examine_model(name, path)
    Registry(participant.home).add(entry)
    lines = [f"{name}: {len(entry.files)} files, registered.", f"hash {entry.hash}"]
    show(ModelView(entry).to_json(), [*lines, "Allow it in policy.toml under bases.", *remarks], as_json=as_json)


def examine_model(name: str, path: Path) -> tuple[ModelEntry, tuple[str, ...]]:
    """Hash a base model, run it on synthetic rows, and return what would be registered, with remarks for its owner.

    Raises:
        LocalError: ``E-USAGE``, a name that cannot travel; ``E-NOT-FOUND`` or ``E-MODEL-*``.
    """
    from host.system import SystemClock
    from participant.owner.registry import ModelEntry, absolute, check_name
    from participant.training.models import hash_model
    from participant.training.trial import try_base

    check_name(name)
    location = absolute(path)
    with working(f"hashing the files of {path}") as progress:
        files = hash_model(path, progress)
    with working("running it on synthetic rows"):
        remarks = try_base(path, name)
    return ModelEntry(name=name, path=location, added_at=int(SystemClock().now()), files=files), tuple(remarks)


@app.command("list")
def list_models(config: Directory = None, as_json: AsJson = False) -> None:
    """List the registered base models with their hashes.

    Example: onlysum participant model list
    """
    from participant.views.models import model_list

    show_view(model_list(opened(config)), as_json=as_json)


@app.command("show")
def show_model(name: ModelName, config: Directory = None, as_json: AsJson = False) -> None:
    """Show a base model's files and their hashes.

    Example: onlysum participant model show minilm
    """
    from participant.views.models import model_view

    show_view(model_view(opened(config), name), as_json=as_json)
