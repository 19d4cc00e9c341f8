"""``onlysum method``: which methods there are, what each sums, and in which modes it is sound.

Guarantees: needs no torch. Leaves to others: everything about a single run (``onlysum plan``).
"""

from __future__ import annotations

import json
from typing import Annotated, Final

import typer

import methods
from host.console import echo, say
from methods.method import ALL_MODES, Method
from methods.refused import RefusedMethod
from privacy.adapter_parts import Role

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="List fine-tuning methods and what each one sums.",
)
_INDENT: Final = 20
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_methods(as_json: AsJson = False) -> None:
    """List every method with its modes, and those that cannot be summed.

    Example: onlysum method list
    """
    if as_json:
        known = [_as_values(method) for method in methods.all_methods()]
        echo(json.dumps([*known, *map(_refused_values, methods.REFUSED.values())], indent=2))
        return
    for method in methods.all_methods():
        say(f"{method.name:<{_INDENT}}{', '.join(method.modes)}")
        say(f"{'':<{_INDENT}}sums {method.summed}: {method.size}")
        for mode, reason in method.refused.items():
            say(f"{'':<{_INDENT}}not {mode}: {reason}")
    say("\nRefused, because they need individual updates, or private data before any noise:")
    for refused in methods.REFUSED.values():
        say(f"{refused.name:<{_INDENT}}{refused.reason}")


@app.command()
def show(
    method: Annotated[str, typer.Argument(help="A method's name, e.g. ffa-lora.")],
    as_json: AsJson = False,
) -> None:
    """Show what a method trains, sums and leaves at home.

    Example: onlysum method show ffa-lora
    """
    refused = methods.REFUSED.get(method.lower())
    if as_json:
        values = _refused_values(refused) if refused else _as_values(methods.get(method))
        echo(json.dumps(values, indent=2))
        return
    for label, value in described_refusal(refused) if refused else described(methods.get(method)):
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
        ("size", f"{method.size}; the head is not counted"),
        ("afterwards", method.afterwards),
        ("modes", ", ".join(method.modes)),
        *((f"not {mode}", reason) for mode, reason in method.refused.items()),
    ]
    return [*rows, ("note", method.notes)] if method.notes else rows


def described_refusal(refused: RefusedMethod) -> list[tuple[str, str]]:
    """Return what there is to know of a method that cannot be had, as (label, words)."""
    return [
        ("method", f"{refused.title} ({refused.category})"),
        ("source", refused.source),
        ("modes", "none"),
        ("refused", refused.reason),
    ]


def option_keys(method: Method) -> list[str]:
    """Return the keys that a recipe's ``[adapter]`` has for a method; those in brackets may be left out."""
    fields = method.options.model_fields.items()
    return [name if field.is_required() else f"[{name}]" for name, field in fields if name != "peft_type"]


def _turns(method: Method) -> str:
    if not method.turns:
        return "one: every round trains all of it"
    ordered = [", ".join(stream for stream in method.streams if stream in turn) for turn in method.turns]
    again = "; and again" if len(method.schedule.cycle) > 1 else " to the end"
    return "; then ".join(ordered) + again


def _as_values(method: Method) -> dict[str, object]:
    return {
        "id": method.name,
        "title": method.title,
        "category": method.category,
        "source": method.source,
        "peft_type": method.peft_type,
        "options": option_keys(method),
        "streams": {name: sorted(selectors) for name, selectors in method.streams.items()},
        "roles": {selector.value: role.value for selector, role in sorted(method.roles.items())},
        "turns": [sorted(turn) for turn in method.turns],
        "summed": method.summed,
        "size": method.size,
        "afterwards": method.afterwards,
        "modes": list(method.modes),
        "refused": dict(method.refused),
        "notes": method.notes,
    }


def _refused_values(refused: RefusedMethod) -> dict[str, object]:
    return {
        "id": refused.name,
        "title": refused.title,
        "category": refused.category,
        "source": refused.source,
        "size": None,
        "modes": [],
        "refused": dict.fromkeys(ALL_MODES, refused.reason),
    }
