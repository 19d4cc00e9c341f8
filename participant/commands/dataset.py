"""``onlysum participant dataset``: the datasets that this participant has.

Guarantees: a dataset is parsed to its last row before it is registered.
Leaves to others: parsing (``participant.training.data``), what may be done with it (``participant.owner.policy``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from host.console import AsJson, show, show_view, working
from participant.commands.console import DatasetName, Directory, LocalName, complete_populations, opened

if TYPE_CHECKING:
    from participant.opened import OpenHome
    from participant.owner.registry import DatasetEntry

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Register, list and test datasets.")


@app.command("add")
def add_dataset(
    name: LocalName,
    path: Annotated[Path, typer.Argument(help="csv, jsonl, parquet, npz, a datasets directory or image folders.")],
    *,
    user: Annotated[
        str | None, typer.Option("--user", metavar="COLUMN", help="Column that identifies the person in each row.")
    ] = None,
    population: Annotated[
        str | None,
        typer.Option("--population", help="Whose budget it spends.", autocompletion=complete_populations),
    ] = None,
    input_column: Annotated[str | None, typer.Option("--input", metavar="COLUMN", help="Default: the plan's.")] = None,
    label_column: Annotated[str | None, typer.Option("--label", metavar="COLUMN", help="Default: the plan's.")] = None,
    values: Annotated[
        bool, typer.Option("--values", help="The label column holds numbers or texts, and no classes.")
    ] = False,
    another_population: Annotated[
        bool, typer.Option("--another-population", help="Register data again whose people have another budget too.")
    ] = False,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Parse a whole dataset and register it.

    Data that is registered already on this machine, under another population or none, is refused: its people have one
    budget.

    Example: onlysum participant dataset add wards wards.csv --user patient --population patients
    """
    from participant.views.datasets import DatasetView

    participant = opened(config)
    entry = examine_dataset(
        name,
        path,
        user=user,
        population=population,
        input_column=input_column,
        label_column=label_column,
        values=values,
        another_population=another_population,
    )
    lines = register_dataset(participant, entry)
    show(DatasetView(entry).to_json(), lines, as_json=as_json)


def examine_dataset(
    name: str,
    path: Path,
    *,
    user: str | None = None,
    population: str | None = None,
    input_column: str | None = None,
    label_column: str | None = None,
    values: bool = False,
    another_population: bool = False,
) -> DatasetEntry:
    """Parse a whole dataset and return what would be registered; the options are those of ``dataset add``.

    Raises:
        LocalError: ``E-USAGE``, a name that cannot travel; ``E-NOT-FOUND``, ``E-DATA-PARSE`` or ``E-DATA-USER``.
    """
    from host.system import SystemClock
    from participant.owner.inspection import inspect
    from participant.owner.registry import DatasetEntry, absolute, check_name

    check_name(name)
    if population is not None:
        check_name(population)
    location = absolute(path)
    with working(f"reading {path} to its last row"):
        facts = inspect(
            path, input_column=input_column, label_column=label_column, user_column=user, classes=not values
        )
    return DatasetEntry(
        name=name,
        path=location,
        added_at=int(SystemClock().now()),
        input_column=input_column,
        label_column=label_column,
        user_column=user,
        classes=not values,
        population=population,
        another_population=another_population,
        rows=facts.rows,
        users=facts.users,
        columns=facts.columns,
        labels=facts.labels,
        sha256=facts.sha256,
    )


def register_dataset(participant: OpenHome, entry: DatasetEntry) -> list[str]:
    """Register an examined dataset and return what to tell its owner.

    Raises:
        LocalError: ``E-EXISTS``, the name is taken; ``E-DATA-POPULATION``, its people have another budget already.
    """
    from participant.owner.policy import dataset_section, load_policy
    from participant.owner.registry import Registry, require_same_people
    from protos.envelope import Role

    policy, registry = load_policy(participant.home), Registry(participant.home)
    evaluator, name = participant.identity.role is Role.EVALUATOR, entry.name
    if not evaluator and not entry.another_population:
        populations = {key: value.population for key, value in policy.dataset.items()}
        registry.require_one_population(entry, populations, participant.neighbours.registered())
        charged = participant.ledger.populations_of_data(entry.sha256)
        require_same_people(entry, populations, charged, participant.neighbours.charged_apart(entry.sha256))
    registry.add(entry)
    lines = [f"{name}: {entry.rows} rows" + (f", {entry.users} users" if entry.users else "") + ", registered."]
    lines.append(f"columns: {', '.join(entry.columns)}")
    if entry.labels:
        lines.append(f"labels:  {', '.join(entry.labels)}")
    if evaluator:
        lines.append("Adapters are measured on it when a plan names it.")
    elif name not in policy.dataset:
        lines += ["Nothing may be done with it until policy.toml says so, for example:", ""]
        lines += dataset_section(name, entry.population or "POPULATION").rstrip().splitlines()
        if entry.population is None or entry.population not in policy.population:
            lines += ["", "The population needs a section of its own; policy.toml has an example."]
    return lines


@app.command("map")
def map_labels(
    name: DatasetName,
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="OWN=PLAN", help="A label of the data, and what plans call it.")
    ] = None,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Map the labels of a dataset to those that plans know.

    The data stays as it is. What was said before is replaced; without pairs
    labels are taken as they are.

    Example: onlysum participant dataset map wards positiv=positive negativ=negative
    """
    from participant.owner.registry import renamed_labels
    from participant.views.datasets import DatasetView

    registry = opened(config).review.registry
    entry = registry.dataset(name)
    entry = registry.replace(entry.model_copy(update={"renamed": renamed_labels(entry, pairs or ())}))
    lines = [f"{own} -> {plans}" for own, plans in entry.renamed.items()] or [f"{name}: labels are taken as they are."]
    show(DatasetView(entry).to_json(), lines, as_json=as_json)


@app.command("list")
def list_datasets(config: Directory = None, as_json: AsJson = False) -> None:
    """List the registered datasets.

    Example: onlysum participant dataset list
    """
    from participant.views.datasets import dataset_list

    show_view(dataset_list(opened(config)), as_json=as_json)


@app.command("show")
def show_dataset(name: DatasetName, config: Directory = None, as_json: AsJson = False) -> None:
    """Show what is known about a dataset.

    Example: onlysum participant dataset show wards
    """
    from participant.views.datasets import dataset_view

    show_view(dataset_view(opened(config), name), as_json=as_json)


@app.command("test")
def check_dataset(name: DatasetName, config: Directory = None, as_json: AsJson = False) -> None:
    """Parse a dataset again and compare it with what was added.

    Example: onlysum participant dataset test wards
    """
    from participant.owner.inspection import is_unchanged

    entry = opened(config).review.registry.dataset(name)
    with working(f"reading {entry.path} to its last row"):
        same = is_unchanged(entry)
    says = "as it was registered" if same else "of the registered size, but its bytes have changed"
    show({"name": name, "unchanged": same}, [f"{name}: {entry.rows} rows, {says}."], as_json=as_json)


@app.command("remove")
def remove_dataset(name: DatasetName, config: Directory = None, as_json: AsJson = False) -> None:
    """Forget a dataset. Its files stay.

    What was charged to its population stays charged.

    Example: onlysum participant dataset remove wards
    """
    registry = opened(config).review.registry
    registry.remove(registry.dataset(name))
    show({"removed": name}, [f"{name} is no longer registered; its files are where they were."], as_json=as_json)
