"""``onlysum participant dataset`` and ``model``: what this participant has.

Guarantees: a dataset is parsed to its last row and a model hashed to its last file before either is entered.
Leaves to others: parsing (``data``), hashing (``models``), what may be done with them (``policy``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from host.console import AsJson, Json, moment, show, table
from participant.commands.console import Directory, opened
from privacy.errors import LocalError

if TYPE_CHECKING:
    from participant.owner.registry import DatasetEntry, ModelEntry

dataset_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Register, list and test datasets.")
model_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Register and list base models.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name of your own: a-z, 0-9, dot, dash, underscore.")]
Column = Annotated[str | None, typer.Option(metavar="COLUMN")]


@dataset_app.command("add")
def add_dataset(
    name: Name,
    path: Annotated[Path, typer.Argument(help="csv, jsonl, parquet, npz, a datasets directory or image folders.")],
    *,
    user: Annotated[str | None, typer.Option("--user", metavar="COLUMN", help="Whom a row is about.")] = None,
    population: Annotated[str | None, typer.Option("--population", help="Whose budget it spends.")] = None,
    input_column: Annotated[str | None, typer.Option("--input", metavar="COLUMN", help="Default: the plan's.")] = None,
    label_column: Annotated[str | None, typer.Option("--label", metavar="COLUMN", help="Default: the plan's.")] = None,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Parse a whole dataset and register it.

    Example: onlysum participant dataset add wards wards.csv --user patient --population patients
    """
    from host.system import SystemClock
    from participant.owner.policy import dataset_section, load_policy
    from participant.owner.registry import DatasetEntry, Registry, check_name
    from protos.envelope import Role

    check_name(name)
    here = opened(config)
    if population is not None:
        check_name(population)
    facts = _facts(path, input_column, label_column, user)
    entry = DatasetEntry(
        name=name,
        path=str(path.resolve()),
        added_at=int(SystemClock().now()),
        input_column=input_column,
        label_column=label_column,
        user_column=user,
        population=population,
        **facts,
    )
    Registry(here.home).add(entry)
    lines = [f"{name}: {entry.rows} rows" + (f", {entry.users} users" if entry.users else "") + ", registered."]
    policy = load_policy(here.home)
    if here.identity.role is Role.EVALUATOR:
        lines.append("Adapters are measured on it when a plan names it.")
    elif name not in policy.dataset:
        lines += ["Nothing may be done with it until policy.toml says so, for example:", ""]
        lines += dataset_section(name, population or "POPULATION").rstrip().splitlines()
        if population is None or population not in policy.population:
            lines += ["", "The population needs a section of its own; policy.toml has an example."]
    show(_dataset_json(entry), lines, as_json=as_json)


def _facts(path: Path, input_column: str | None, label_column: str | None, user: str | None) -> dict[str, object]:
    from participant.training.data import inspect_dataset

    if not path.exists():
        raise LocalError("E-NOT-FOUND", f"there is no {path}")
    found = inspect_dataset(path, input_column=input_column, label_column=label_column, user_column=user)
    return {
        "rows": found.rows,
        "users": found.users,
        "columns": found.columns,
        "labels": found.labels,
        "sha256": found.sha256,
    }


@dataset_app.command("list")
def list_datasets(config: Directory = None, as_json: AsJson = False) -> None:
    """List the registered datasets.

    Example: onlysum participant dataset list
    """
    entries = opened(config).review.registry.datasets()
    rows = [(one.name, str(one.units), one.population or "-", one.path) for one in entries]
    value: list[Json] = [_dataset_json(one) for one in entries]
    show(value, table(("NAME", "UNITS", "POPULATION", "PATH"), rows), as_json=as_json)


@dataset_app.command("show")
def show_dataset(name: Name, config: Directory = None, as_json: AsJson = False) -> None:
    """Show what is known about a dataset.

    Example: onlysum participant dataset show wards
    """
    entry = opened(config).review.registry.dataset(name)
    value = _dataset_json(entry)
    show(value, [f"{key:<14}{_text(one)}" for key, one in value.items()], as_json=as_json)


def _text(value: Json) -> str:
    return ", ".join(str(one) for one in value) if isinstance(value, list) else "-" if value is None else str(value)


@dataset_app.command("test")
def check_dataset(name: Name, config: Directory = None, as_json: AsJson = False) -> None:
    """Parse a dataset again and compare it with what was added.

    Example: onlysum participant dataset test wards
    """
    entry = opened(config).review.registry.dataset(name)
    same = unchanged(entry)
    says = "as it was registered" if same else "of the registered size, but its bytes have changed"
    show({"name": name, "unchanged": same}, [f"{name}: {entry.rows} rows, {says}."], as_json=as_json)


@dataset_app.command("remove")
def remove_dataset(name: Name, config: Directory = None, as_json: AsJson = False) -> None:
    """Forget a dataset. Its files stay.

    What was charged to its population stays charged.

    Example: onlysum participant dataset remove wards
    """
    registry = opened(config).review.registry
    registry.remove(registry.dataset(name))
    show({"removed": name}, [f"{name} is no longer registered; its files are where they were."], as_json=as_json)


def unchanged(entry: DatasetEntry) -> bool:
    """Say whether a dataset's bytes are those that were registered.

    Raises:
        LocalError: ``E-DATA-MISMATCH``, it has another size: plans that count its units no longer fit.
    """
    facts = _facts(Path(entry.path), entry.input_column, entry.label_column, entry.user_column)
    now, then = (facts["rows"], facts["users"]), (entry.rows, entry.users)
    if now != then:
        detail = f"{entry.name} has {now[0]} rows and {now[1]} users, registered were {then[0]} and {then[1]}"
        raise LocalError("E-DATA-MISMATCH", f"{detail}; remove it and add it again")
    return facts["sha256"] == entry.sha256


def _dataset_json(entry: DatasetEntry) -> dict[str, Json]:
    return {
        "name": entry.name,
        "path": entry.path,
        "rows": entry.rows,
        "users": entry.users,
        "units": entry.units,
        "population": entry.population,
        "input": entry.input_column,
        "label": entry.label_column,
        "user": entry.user_column,
        "columns": list(entry.columns),
        "labels": list(entry.labels),
        "added": moment(entry.added_at),
    }


@model_app.command("add")
def add_model(
    name: Name,
    path: Annotated[Path, typer.Argument(help="The folder with weights (safetensors), config and tokenizer.")],
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Hash a base model's files and register it; pickles are refused.

    Example: onlysum participant model add minilm /models/minilm
    """
    from host.system import SystemClock
    from participant.owner.registry import ModelEntry, Registry, check_name
    from participant.training.models import hash_model

    check_name(name)
    here = opened(config)
    files = hash_model(path)
    entry = ModelEntry(name=name, path=str(path.resolve()), added_at=int(SystemClock().now()), files=files)
    Registry(here.home).add(entry)
    lines = [f"{name}: {len(files)} files, registered.", f"hash {entry.hash}", "Allow it in policy.toml under bases."]
    show(_model_json(entry), lines, as_json=as_json)


@model_app.command("list")
def list_models(config: Directory = None, as_json: AsJson = False) -> None:
    """List the registered base models with their hashes.

    Example: onlysum participant model list
    """
    entries = opened(config).review.registry.models()
    lines = [line for one in entries for line in (f"{one.name}  {one.path}", f"  {one.hash}")]
    value: list[Json] = [_model_json(one) for one in entries]
    show(value, lines or ["no base model is registered; see `model add`"], as_json=as_json)


@model_app.command("show")
def show_model(name: Name, config: Directory = None, as_json: AsJson = False) -> None:
    """Show a base model's files and their hashes.

    Example: onlysum participant model show minilm
    """
    entry = opened(config).review.registry.model(name)
    lines = [f"{entry.name}  {entry.path}", f"hash {entry.hash}", *(f"{one.sha256}  {one.name}" for one in entry.files)]
    show(_model_json(entry), lines, as_json=as_json)


def _model_json(entry: ModelEntry) -> dict[str, Json]:
    return {
        "name": entry.name,
        "path": entry.path,
        "hash": entry.hash,
        "files": [{"name": one.name, "sha256": one.sha256} for one in entry.files],
        "added": moment(entry.added_at),
    }
