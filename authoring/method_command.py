"""``onlysum method``: which methods there are, what each sums, and in which modes it is sound.

Guarantees: needs no torch. Leaves to others: everything about a single run (``onlysum plan``).
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

import methods
from host.console import echo, say
from methods.method import Method
from privacy.adapter_parts import Role

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
        echo(json.dumps({"methods": known, "refused": methods.REFUSED}, indent=2))
        return
    for method in methods.all_methods():
        say(f"{method.name:<12}{', '.join(method.modes)}", f"{'':<12}sums {method.summed}")
    say("", "Refused, because they need individual updates: " + ", ".join(sorted(methods.REFUSED)))


@app.command()
def show(
    method: Annotated[str, typer.Argument(help="A method's name, e.g. ffa-lora.")],
    as_json: AsJson = False,
) -> None:
    """Show what a method trains, sums and leaves at home.

    Example: onlysum method show ffa-lora
    """
    shown = methods.get(method)
    if as_json:
        echo(json.dumps(_as_values(shown), indent=2))
        return
    for label, value in described(shown):
        say(f"{label:<12}{value}")


def described(method: Method) -> list[tuple[str, str]]:
    """Return what there is to know of a method, as (label, words)."""
    rows = [
        ("method", f"{method.title} ({method.category})"),
        ("source", method.source),
        ("PEFT type", method.peft_type),
        ("[adapter]", ", ".join(option_keys(method))),
        ("trains", "; ".join(f"{name} ({', '.join(sorted(chosen))})" for name, chosen in method.streams.items())),
        ("turns", _turns(method)),
        ("frozen", ", ".join(method.with_role(Role.FROZEN)) or "nothing of the adapter"),
        ("personal", ", ".join(method.with_role(Role.PERSONAL)) or "nothing"),
        ("sums", method.summed),
        ("afterwards", method.afterwards),
        ("modes", ", ".join(method.modes)),
        *((f"not {mode}", reason) for mode, reason in method.refused.items()),
    ]
    return [*rows, ("note", method.notes)] if method.notes else rows


def option_keys(method: Method) -> list[str]:
    """Return the keys that a recipe's ``[adapter]`` has for a method; those in brackets may be left out."""
    fields = method.options.model_fields.items()
    return [name if field.is_required() else f"[{name}]" for name, field in fields if name != "peft_type"]


def _turns(method: Method) -> str:
    if not method.turns:
        return "one: every round trains all of it"
    ordered = [", ".join(stream for stream in method.streams if stream in turn) for turn in method.turns]
    return "; then ".join(ordered) + "; and again"


def _as_values(method: Method) -> dict[str, object]:
    return {
        "id": method.name,
        "name": method.name,
        "title": method.title,
        "category": method.category,
        "source": method.source,
        "peft_type": method.peft_type,
        "options": option_keys(method),
        "streams": {name: sorted(selectors) for name, selectors in method.streams.items()},
        "roles": {selector.value: role.value for selector, role in sorted(method.roles.items())},
        "turns": [sorted(turn) for turn in method.turns],
        "summed": method.summed,
        "afterwards": method.afterwards,
        "modes": list(method.modes),
        "refused": dict(method.refused),
        "notes": method.notes,
    }
