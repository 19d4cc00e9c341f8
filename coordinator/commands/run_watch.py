"""``run watch``: a run's events, as lines or as a live picture.

Guarantees: one line per round, with its time; on a terminal a live picture stands below them; with ``--json`` one
object per line and event.
Leaves to others: what happened (``coordinator.views.watch``).
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Final

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coordinator.database import run_rows
from coordinator.database.run_rows import RunState
from coordinator.opened import OpenHome
from coordinator.views.overview import Overview, measured, overview
from coordinator.views.watch import RunEvent, Watcher
from host.rendering import wrapped

POLL_SECONDS: Final = 0.3
BAR_WIDTH: Final = 40
SHOWN_NAMES: Final = 6


def follow(opened: OpenHome, name: str, *, as_json: bool) -> bool:
    """Print what happens in a run until it ends; return whether that is what its operator wanted.

    A run that completed is, and so is one that its operator ended.
    """
    with opened.store.read() as connection:
        watcher = Watcher(opened.store, run_rows.find_run(connection, name).run_id)
    console = Console(no_color="NO_COLOR" in os.environ, highlight=False)
    if as_json or not console.is_terminal:
        return _follow_plainly(watcher, as_json=as_json)
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while True:
            for event in watcher.new_events():
                _print_lines(live.console, event)
            current = overview(opened, watcher.run_id)
            live.update(_picture(current))
            if current.run.state.ended:
                break
            time.sleep(POLL_SECONDS)
    for event in watcher.new_events():
        _print_lines(console, event)
    return _as_wanted(watcher)


def _follow_plainly(watcher: Watcher, *, as_json: bool) -> bool:
    while True:
        for event in watcher.new_events():
            for line in [json.dumps(event.to_json())] if as_json else event.to_lines():
                typer.echo(line)
        if sys.stdout is not None:  # closed by who started this
            sys.stdout.flush()
        if watcher.state and RunState(watcher.state).ended:
            return _as_wanted(watcher)
        time.sleep(POLL_SECONDS)


def _print_lines(console: Console, event: RunEvent) -> None:
    for line in event.to_lines():
        console.print("\n".join(wrapped(line, console.width)), markup=False)


def _as_wanted(watcher: Watcher) -> bool:
    return watcher.state == RunState.COMPLETED.value or watcher.code == "E-RUN-ENDED"


def _picture(current: Overview) -> Group:
    """Return the live part: a bar over the rounds, and the open phase."""
    completed, total, phase = len(current.rounds), current.plan.recipe.rounds, current.phase
    bar = ProgressBar(total=total, completed=completed, width=BAR_WIDTH)
    first = Table.grid(padding=(0, 1))
    first.add_row(bar, Text(f"{completed} of {total} rounds, {current.run.state.value}"))
    lines: list[Text] = []
    if phase is not None:
        waits = f", waits for {', '.join(phase.missing[:SHOWN_NAMES])}" if phase.missing else ""
        lines.append(Text(f"{phase.phase}: {len(phase.answered)} of {len(phase.expected)}{waits}"))
    elif current.undecided:
        lines.append(Text(f"waits for the approval of {', '.join(current.undecided[:SHOWN_NAMES])}"))
    if current.evaluations:
        lines.append(Text(measured(current.evaluations[-1])))
    return Group(first, *lines)
