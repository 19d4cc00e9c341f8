"""``onlysum plan``: building a draft from a recipe, and reading drafts and plans as files.

Guarantees: reading needs no directory of a participant and no torch; a plan file is parsed as strictly as a daemon
would. A signature is not checked here: only a member knows the operator's key.
Leaves to others: making the draft (``authoring``).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from host.console import AsJson, show, working
from host.durable import write_new
from host.rendering import Json
from privacy.adapter_parts import options_words
from privacy.draft import Draft
from privacy.errors import LocalError, PlanError
from privacy.measurement import measurement_words
from privacy.plan import Plan
from privacy.task_parts import task_words

if TYPE_CHECKING:
    from authoring.defaults import Choice

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Build, check, show and compare plans."
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A draft directory, draft.json or plan.json.")]


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="recipe.toml")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DRAFT", help="The directory to make.")],
    as_json: AsJson = False,
) -> None:
    """Turn a recipe into a draft.

    Fills in what the recipe leaves out and says why, hashes the base, makes
    the initial adapter, lays out the vector, and runs the self-check that each
    owner will run.

    Example: onlysum plan build recipe.toml -o draft
    """
    from participant.daemon.assembly import require_torch

    require_torch()
    from authoring.draft import build_draft

    warnings: list[str] = []
    chosen: list[Choice] = []
    with working("hashing the base, making the adapter and checking both"):
        draft = build_draft(recipe, out, warn=warnings.append, chose=chosen.append)
    lines = [
        f"Wrote {out}/: draft.json, initial_adapter.safetensors, adapter_config.json",
        f"  {draft.recipe.title}: {draft.recipe.entries:,} entries, {draft.recipe.rounds} rounds, {draft.privacy.mode}",
        f"Next, at the coordinator: onlysum coordinator run create {shlex.quote(str(out))} --members A,B,C",
    ]
    if draft.privacy.banded:
        bands = ", ".join(map(str, draft.privacy.bands))
        lines.insert(2, f"  noise is correlated over {len(draft.privacy.bands)} rounds: bands {bands}")
    lines += ["Chosen, because the recipe leaves it out:"] if chosen else []
    lines += [f"  {choice.key} = {choice.value}: {choice.reason}" for choice in chosen]
    lines += [f"warning: {warning}" for warning in warnings]
    value: Json = {
        "bands": [*draft.privacy.bands],
        "draft": str(out),
        "entries": draft.recipe.entries,
        "base_hash": draft.recipe.base.hash,
        "chosen": {choice.key: {"value": choice.value, "reason": choice.reason} for choice in chosen},
        "warnings": list(warnings),
    }
    show(value, lines, as_json=as_json)


@app.command()
def check(file: File, as_json: AsJson = False) -> None:
    """Check a draft or plan against every rule.

    The protocol's, those of its method, and its claim.

    Example: onlysum plan check draft
    """
    document = read(file)
    kind = "plan" if isinstance(document, Plan) else "draft"
    lines = [f"{file}: a valid {kind}"]
    import methods

    methods.require_sound(document.recipe, document.privacy.mode, document.privacy.bands)
    if isinstance(document, Plan):
        from privacy.dp.accountants import require_claim  # SciPy is slow to import

        require_claim(document)
        lines.append(f"hash {document.hash.hex()} (the operator's signature is checked by each member's daemon)")
    else:
        lines += _check_files(file, document)
    show({"file": str(file), "kind": kind, "ok": True}, lines, as_json=as_json)


def _check_files(file: Path, draft: Draft) -> list[str]:
    """Compare the files beside a draft with what it says about them."""
    import hashlib

    directory = file if file.is_dir() else file.parent
    initial = directory / "initial_adapter.safetensors"
    if not initial.is_file():
        raise LocalError("E-NOT-FOUND", f"{initial} is missing")
    if hashlib.sha256(initial.read_bytes()).hexdigest() != draft.recipe.adapter.initial_hash:
        raise LocalError("E-ADAPTER-HASH", f"{initial} is not the draft's initial adapter")
    return ["the initial adapter has the draft's hash"]


@app.command("show")
def show_file(
    file: File,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a draft or plan says, in words.

    Example: onlysum plan show draft
    """
    from participant.owner.plan_page import Page, draft_lines

    document = read(file)
    recipe = document.recipe
    sections = [("Recipe", tuple(f"{key}: {value}" for key, value in _facts(document)))]
    if isinstance(document, Plan):
        sections += draft_lines(document)
    named = f"run {document.run_id}, plan hash {document.hash.hex()}" if isinstance(document, Plan) else "a draft"
    page = Page(recipe.title, named, tuple(sections))
    if html is not None:
        write_new(html, page.html().encode())
    value: Json = json.loads(document.to_bytes())
    show(value, [f"wrote {html}"] if html else page.lines(), as_json=as_json)


def _facts(document: Draft | Plan) -> Iterator[tuple[str, str]]:
    from privacy.claims import graph_words, suite_words

    recipe, privacy = document.recipe, document.privacy
    yield "purpose", recipe.purpose
    yield "base", f"{recipe.base.name}, hash {recipe.base.hash}"
    yield "method", f"{recipe.adapter.method}, {options_words(recipe.adapter)}, {recipe.entries:,} entries"
    yield "task", f"{recipe.task.kind} on {recipe.task.data}: {task_words(recipe.task)}"
    for words in measurement_words(recipe):
        yield "measures", words
    yield "rounds", f"{recipe.rounds} of {privacy.local_steps} steps"
    if privacy.mode == "none":
        yield "privacy", "none: no differential privacy"
    else:
        yield "privacy", f"{privacy.mode}, epsilon {privacy.epsilon} at delta {privacy.delta} per {privacy.unit}"
    if isinstance(document, Plan):
        names = ", ".join(member.id for member in document.roster)
        yield "roster", f"{names}; f {document.f}, min_survivors {document.min_survivors}"
        yield "graph", graph_words(document)
    yield "suite", suite_words(document)


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="A")],
    second: Annotated[Path, typer.Argument(metavar="B")],
    as_json: AsJson = False,
) -> None:
    """Compare two drafts or plans, field by field.

    Example: onlysum plan diff draft-1 draft-2
    """
    before, after = (dict(_leaves(json.loads(read(file).to_bytes()), "")) for file in (first, second))
    changed = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    value: Json = {key: [before.get(key), after.get(key)] for key in changed}
    lines = [line for key in changed for line in (key, f"  - {before.get(key)}", f"  + {after.get(key)}")]
    show(value, lines or ["no difference"], as_json=as_json)


def _leaves(value: Json, path: str) -> Iterator[tuple[str, Json]]:
    match value:
        case dict():
            for key, inner in value.items():
                yield from _leaves(inner, f"{path}.{key}" if path else key)
        case list():
            for place, inner in enumerate(value):
                yield from _leaves(inner, f"{path}[{place}]")
        case _:
            yield path, value


def read(file: Path) -> Draft | Plan:
    """Read a draft directory, a draft or a plan.

    Raises:
        LocalError: ``E-NOT-FOUND`` or ``E-PLAN-*``, naming the file.
    """
    path = file / "draft.json" if file.is_dir() else file
    if not path.is_file():
        raise LocalError("E-NOT-FOUND", f"there is no {path}")
    data = path.read_bytes()
    if b'"draft_version"' not in data:
        try:
            return Plan.from_bytes(data)
        except PlanError as error:
            raise LocalError(error.code, f"{path}: {error.rule}") from None
    return Draft.from_bytes(data)
