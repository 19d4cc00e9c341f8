"""What ``join`` goes on to ask where a person sits at the terminal: the data, whose budget it spends, the base model.

Guarantees: each answer does what the command of its own would do; an empty one leaves it for later, and what is refused
is asked again; no question is asked of a program.
Leaves to others: the commands (``dataset``, ``model``), what the policy must say (``participant policy propose``).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import typer

from host.console import say
from participant.commands.dataset import add_dataset
from participant.commands.model import add_model
from privacy.errors import OnlysumError


def go_on(config: Path | None, *, evaluator: bool, data: bool = True, base: bool = True) -> None:
    """Ask for what is needed before a plan can be approved; nothing without a terminal.

    Args:
        config: the participant's directory.
        evaluator: whether there is no population to ask for.
        data: whether to ask for data.
        base: whether to ask for the base model.
    """
    if not sys.stdin.isatty():
        return
    if data or base:
        say("", "What a plan will need. Enter leaves it for later.")
    if data:
        _until_taken(lambda: _ask_dataset(config, evaluator=evaluator))
    if base:
        _until_taken(lambda: _ask_base(config))
    say("Next: onlysum participant start")
    if not evaluator:
        say("When a plan waits: onlysum participant plan approve --propose")


def _until_taken(ask: Callable[[], None]) -> None:
    while True:
        try:
            ask()
        except OnlysumError as error:
            say(f"{error.code}: {error.explanation.what}: {error.detail}. Next: {error.explanation.next_step}")
        else:
            return


def _ask_dataset(config: Path | None, *, evaluator: bool) -> None:
    path = _asked("Your data: path of a file or folder")
    if not path:
        return
    name = _asked("  its name in plans", name_of(path))
    population = "" if evaluator else _asked("  the people whose budget it spends, as one word (such as patients)")
    user = "" if evaluator else _asked("  column that names the person, if a person has several rows")
    add_dataset(name, Path(path).expanduser(), user=user or None, population=population or None, config=config)


def _ask_base(config: Path | None) -> None:
    path = _asked("The base model: path of its folder")
    if path:
        add_model(_asked("  its name", name_of(path)), Path(path).expanduser(), config=config)


def _asked(question: str, usual: str = "") -> str:
    answer: str = typer.prompt(question, default=usual, show_default=bool(usual))
    return answer.strip()


def name_of(path: str) -> str:
    """Return the name that a file or folder has in plans, unless another is given."""
    return re.sub(r"[^a-z0-9._-]+", "-", Path(path).stem.lower()).strip("-._") or "data"
