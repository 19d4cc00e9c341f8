"""How far a round's training is: a bar on a terminal, nothing anywhere else.

Guarantees: shows steps, never a loss; several rounds show one bar after another.
"""

from __future__ import annotations

from participant.training.trainer import Progress


def silent(**_which: object) -> Progress:
    """Return a callback that shows nothing."""
    return _nothing


def _nothing(done: int, total: int) -> None:
    pass


def bars(*, run_id: str, round_number: int) -> Progress:
    """Return a callback that draws a bar for one round on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    drawn = Bars(*columns, console=Console(stderr=True), transient=True)
    drawn.start()
    task = drawn.add_task(f"run {run_id[:8]} round {round_number}", total=None)

    def step(done: int, total: int) -> None:
        drawn.update(task, completed=done, total=total)
        if done >= total:
            drawn.stop()

    return step
