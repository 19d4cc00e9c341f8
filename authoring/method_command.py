"""``onlysum method``: which methods there are, what each sums, and in which modes it is sound.

Guarantees: needs no torch. Leaves to others: everything about a single run (``onlysum plan``).
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

import methods
from methods.method import Method

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="List fine-tuning methods and what each one sums.",
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_methods(as_json: AsJson = False) -> None:
    """List every method with its modes, and those that cannot be summed.

    Example: onlysum method list
    """
    if as_json:
        known = [_as_values(method) for method in methods.all_methods()]
        typer.echo(json.dumps({"methods": known, "refused": methods.REFUSED}, indent=2))
        return
    for method in methods.all_methods():
        typer.echo(f"{method.name:<12}{', '.join(method.modes)}")
        typer.echo(f"{'':<12}sums {method.summed}")
    typer.echo("\nRefused, because they need individual updates: " + ", ".join(sorted(methods.REFUSED)))


@app.command()
def show(
    method: Annotated[str, typer.Argument(help="A method's name, e.g. ffa-lora.")],
    as_json: AsJson = False,
) -> None:
    """Say what a method trains, sums and leaves at home.

    Example: onlysum method show ffa-lora
    """
    found = methods.get(method)
    if as_json:
        typer.echo(json.dumps(_as_values(found), indent=2))
        return
    for label, value in _rows(found):
        typer.echo(f"{label:<12}{value}")


def _rows(method: Method) -> list[tuple[str, str]]:
    streams = (f"{name} ({', '.join(sorted(selectors))})" for name, selectors in method.streams.items())
    rows = [
        ("method", f"{method.title} ({method.category})"),
        ("source", method.source),
        ("trains", "; ".join(streams)),
        ("frozen", ", ".join(sorted(method.frozen)) or "nothing of the adapter"),
        ("sums", method.summed),
        ("afterwards", method.afterwards),
        ("modes", ", ".join(method.modes)),
        *((f"not {mode}", reason) for mode, reason in method.refused.items()),
    ]
    return [*rows, ("note", method.notes)] if method.notes else rows


def _as_values(method: Method) -> dict[str, object]:
    return {
        "name": method.name,
        "title": method.title,
        "category": method.category,
        "source": method.source,
        "streams": {name: sorted(selectors) for name, selectors in method.streams.items()},
        "frozen": sorted(method.frozen),
        "summed": method.summed,
        "afterwards": method.afterwards,
        "modes": list(method.modes),
        "refused": dict(method.refused),
        "notes": method.notes,
    }
