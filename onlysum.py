"""The command ``onlysum``: the version, and the groups of sub-commands that the packages offer.

Guarantees: a package is imported only when one of its commands runs, so that help is quick and the coordinator never
meets torch; every :class:`~privacy.errors.OnlysumError` leaves as three lines and its exit code, every other exception
as one ``E-BUG`` with its traceback in a file, never on the screen.
Whoever loads a released adapter in a program of their own may need :func:`register_peft_types`.

Leaves to others: what the commands do (``coordinator.commands.coordinator``, ``participant.commands.participant``,
``audit.cli``, ``simulation.demo``).
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import json
import os
import sys
import tempfile
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from host.rendering import Json
    from privacy.error_codes import Explanation
    from privacy.errors import OnlysumError

__version__ = "0.1.0"


@dataclass(frozen=True, slots=True)
class CommandGroup:
    """A group of commands that another package offers: where its typer application lives, and its line in the help."""

    module: str
    attribute: str
    caption: str
    extra: str = ""  # the extra that its packages come with; empty for the base install
    subcommands: Mapping[str, CommandGroup] = field(default_factory=dict)  # of this group, offered by other packages


GROUPS: Final[dict[str, CommandGroup]] = {
    "coordinator": CommandGroup(
        "coordinator.commands.coordinator", "app", "Run the service that sums; invite, create runs."
    ),
    "participant": CommandGroup(
        "participant.commands.participant", "app", "Join, add data, approve plans, train, see spend."
    ),
    "plan": CommandGroup("authoring.plan_command", "app", "Build, check, show and compare plans.", extra="participant"),
    "method": CommandGroup("authoring.method_command", "app", "List fine-tuning methods and what each one sums."),
    "adapter": CommandGroup(
        "authoring.adapter_command", "app", "Merge a released adapter into its base.", extra="participant"
    ),
    "audit": CommandGroup(
        "audit.cli",
        "app",
        "Write, show, verify and export privacy reports.",
        # The audit package may not import the simulation, in which canaries train; this module may.
        subcommands={
            "empirical": CommandGroup("simulation.empirical.command", "app", "Test the claim.", extra="participant")
        },
    ),
    "demo": CommandGroup(
        "simulation.demo", "app", "Fine-tune among five participants on this machine.", extra="participant"
    ),
    "simulate": CommandGroup(
        "simulation.laboratory.command", "app", "Simulate many participants, sweep, replay.", extra="participant"
    ),
    "demo-compare": CommandGroup(
        "simulation.compare_cli", "app", "Compare local with shared noise, in a simulation.", extra="participant"
    ),
}
EXTRA_PACKAGES: Final = frozenset(
    {
        *("matplotlib", "numba", "opacus", "peft", "pyarrow", "PIL", "ray", "sklearn", "torch", "transformers"),
        *("argon2", "prometheus_client", "starlette", "uvicorn"),
    }
)


class LazyGroup(TyperGroup):
    """The command ``onlysum``: its own ``explain``, and the groups of other packages, imported when they are asked for.

    Typer keeps its copy of click private, so what belongs to click is annotated with ``Any`` here.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the places in the order of the help, then this group's own commands."""
        return [*GROUPS, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import the package that offers a command, or return one of this group's own."""
        place = GROUPS.get(cmd_name)
        return _load(place) if place else super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the captions without importing a package."""
        rows = [(name, place.caption) for name, place in GROUPS.items()]
        rows += [(name, self.commands[name].get_short_help_str(80)) for name in super().list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command, or suggest the nearest name."""
        if args and args[0] not in self.list_commands(ctx):
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            ctx.fail(f"no such command: {args[0]}" + (f"; did you mean {near[0]}?" if near else ""))
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onlysum {__version__}")
        raise typer.Exit


@app.callback()
def _front(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Fine-tune adapters of foundation models together.

    The coordinator learns only the sum of the updates; every unit of privacy
    spent is on a ledger that its owner holds.

    Example: onlysum demo
    """


@app.command()
def explain(
    code: Annotated[str, typer.Argument(help="An error code, e.g. E-POLICY-BUDGET.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="List every code.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what an error code means and what to do.

    Example: onlysum explain E-POLICY-BUDGET
    """
    from host.console import show
    from privacy.error_codes import REGISTRY

    if everything or not code:
        rows = {known: REGISTRY[known] for known in sorted(REGISTRY)}
        lines = [f"{known:<24}{entry.what}" for known, entry in rows.items()]
        show({known: _as_values(known, entry) for known, entry in rows.items()}, lines, as_json=as_json)
        return
    name = code.upper()
    entry = REGISTRY.get(name) or REGISTRY.get(f"E-{name}")
    if entry is None:
        raise _unknown_code(name, list(REGISTRY))
    name = name if name in REGISTRY else f"E-{name}"
    show(_as_values(name, entry), _explained(name, entry), as_json=as_json)


def register_peft_types() -> None:
    """Let PEFT read adapters of types that it does not bring, as the cards of such adapters ask; again does nothing.

    Raises:
        ImportError: the packages of the extra ``participant`` are not installed.
    """
    importlib.import_module("participant.training.tuners.bottleneck")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave the process with its exit code.

    Exit codes: 0 done, 1 a bug of onlysum, 2 usage or configuration, 3 refused or waiting for a person, 4 a peer is at
    fault, 5 network, 6 verification failed; 130 after Ctrl-C.
    """
    # What gRPC core would print on standard error reaches users as typed errors; it reads this when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 still gets every message
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run(words))


def run(words: list[str]) -> int:
    """Run the command with these arguments and return its exit code; errors are printed to standard error."""
    as_json = "--json" in words
    try:
        command = typer.main.get_command(app)
        outcome = command.main(args=words, prog_name="onlysum", standalone_mode=False, obj=build_draft)
    except (typer.Abort, KeyboardInterrupt) as ended:
        if isinstance(ended.__cause__, EOFError):  # typer takes it for Ctrl-D at a question; no command asks one
            return _leave(ended.__cause__, as_json=as_json)
        return 130
    except TyperException as problem:
        _print_usage(problem, as_json=as_json)
        return int(problem.exit_code)
    except BrokenPipeError:
        _silence(sys.stdout.fileno())
        return 0
    except SystemExit as ended:  # by which typer leaves where nobody reads any more
        if isinstance(ended.__context__, BrokenPipeError):
            return 0
        raise
    except Exception as problem:  # noqa: BLE001  the last place where an exception can be turned into an exit code
        return _leave(problem, as_json=as_json)
    return outcome if isinstance(outcome, int) else 0


def build_draft(recipe: Path, out: Path) -> list[str]:
    """Turn a recipe into a draft, for ``coordinator run create``: the coordinator's package may not import authoring.

    Args:
        recipe: ``recipe.toml``.
        out: the directory to make.

    Returns:
        What of the base's own preprocessing the recipe does not follow.

    Raises:
        LocalError: ``E-EXTRA-MISSING``, or as ``authoring.draft.build_draft``.
    """
    from participant.daemon.assembly import require_torch

    require_torch()
    from authoring.draft import build_draft as build

    warnings: list[str] = []
    build(recipe, out, warn=warnings.append)
    return warnings


def _load(place: CommandGroup) -> Any:
    from privacy.errors import LocalError

    try:
        loaded = getattr(importlib.import_module(place.module), place.attribute)
    except ModuleNotFoundError as missing:
        if missing.name not in EXTRA_PACKAGES:
            raise
        raise LocalError("E-EXTRA-MISSING", f"{missing.name} is not installed") from None
    command: Any = typer.main.get_command(loaded)
    for name, subcommand in place.subcommands.items():
        command.add_command(_load(subcommand), name)
    return command


def _leave(problem: Exception, *, as_json: bool) -> int:
    """Print an exception as a message and return the exit code of who is at fault."""
    from privacy.errors import LocalError, OnlysumError

    if isinstance(problem, ModuleNotFoundError) and problem.name in EXTRA_PACKAGES:
        problem = LocalError("E-EXTRA-MISSING", f"{problem.name} is not installed")
    if not isinstance(problem, OnlysumError):
        from host.durable import disk_error_behind

        problem = disk_error_behind(problem) or problem
    if not isinstance(problem, OnlysumError):
        problem = LocalError("E-BUG", f"{type(problem).__name__}; {_write_traceback(problem)}")
    _print_error(problem, as_json=as_json)
    return int(problem.explanation.fault)


def _print_error(error: OnlysumError, *, as_json: bool) -> None:
    from host.console import echo, say, with_config

    known = error.explanation
    if as_json:
        next_step = with_config(known.next_step)
        values = {"code": error.code, "detail": error.detail, "why": known.why, "next_step": next_step}
        echo(json.dumps({"error": {**values, "exit_code": int(known.fault)}}), to_error=True)
        return
    say(f"{error.code}: {known.what}: {error.detail}", to_error=True)
    say(f"  why: {known.why}", to_error=True)
    say(f"  next: {known.next_step}", to_error=True)


def _print_usage(problem: TyperException, *, as_json: bool) -> None:
    from host.console import echo, say

    context = getattr(problem, "ctx", None)
    message = problem.format_message().rstrip(".")
    if message.startswith("Usage:") or not message:  # a group was called without a command: typer's message is its help
        echo(message or (context.get_help() if context else ""), to_error=True)
        return
    help_line = f"see `{context.command_path if context else 'onlysum'} --help`"
    if as_json:
        values = {"code": "E-USAGE", "detail": message, "next_step": help_line, "exit_code": problem.exit_code}
        echo(json.dumps({"error": values}), to_error=True)
        return
    say(f"E-USAGE: {message}", to_error=True)
    say(f"  next: {help_line}", to_error=True)


def _write_traceback(problem: Exception) -> str:
    """Keep the traceback in a file that only this user can read, and say where it is.

    Types and places alone: the words of an exception may quote a row of the data, and such files get sent.
    """
    try:
        handle, name = tempfile.mkstemp(prefix="onlysum-bug-", suffix=".txt")
    except OSError:
        return "no traceback could be written"
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"onlysum {__version__}, Python {sys.version}\n")
        raised: BaseException | None = problem
        seen: list[BaseException] = []
        while raised is not None and raised not in seen:
            seen.append(raised)
            file.write(f"\n{type(raised).__module__}.{type(raised).__qualname__}, raised at\n")
            file.writelines(traceback.format_tb(raised.__traceback__))
            raised = raised.__cause__ or raised.__context__
    return f"the traceback is in {name}"


def _silence(descriptor: int) -> None:
    """Point a closed pipe at nothing, so that the interpreter does not complain when it flushes at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _unknown_code(code: str, codes: list[str]) -> OnlysumError:
    from privacy.errors import LocalError

    near = difflib.get_close_matches(code, codes, n=1, cutoff=0.5)
    return LocalError("E-NOT-FOUND", f"no error code {code}" + (f"; did you mean {near[0]}?" if near else ""))


def _as_values(code: str, entry: Explanation) -> dict[str, Json]:
    return {
        "code": code,
        "what": entry.what,
        "why": entry.why,
        "next_step": entry.next_step,
        "exit_code": int(entry.fault),
    }


def _explained(code: str, entry: Explanation) -> list[str]:
    lines = [f"{code}: {entry.what}", f"  why: {entry.why}", f"  next: {entry.next_step}"]
    return [*lines, f"  exit code: {int(entry.fault)}"]


if __name__ == "__main__":
    main()
