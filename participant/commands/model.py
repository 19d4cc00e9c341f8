"""``onlysum participant model``: the base models that this participant has.

Guarantees: a model is hashed to its last file, and has run on synthetic rows, before it is registered.
Leaves to others: hashing (``participant.training.models``), which plans may use it (``participant.owner.policy``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from host.console import AsJson, show, show_view, working
from participant.commands.console import Directory, LocalName, ModelName, opened

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
    from host.system import SystemClock
    from participant.owner.registry import ModelEntry, Registry, absolute, check_name
    from participant.training.models import hash_model
    from participant.training.trial import try_base
    from participant.views.models import ModelView

    check_name(name)
    participant = opened(config)
    location = absolute(path)
    with working(f"hashing the files of {path}") as progress:
        files = hash_model(path, progress)
    with working("running it on synthetic rows"):
        remarks = try_base(path, name)
    entry = ModelEntry(name=name, path=location, added_at=int(SystemClock().now()), files=files)
    Registry(participant.home).add(entry)
    lines = [f"{name}: {len(files)} files, registered.", f"hash {entry.hash}", "Allow it in policy.toml under bases."]
    lines += remarks
    show(ModelView(entry).to_json(), lines, as_json=as_json)


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
