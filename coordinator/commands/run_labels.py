"""``run label``: an operator's notes on runs.

Leaves to others: what a label may be (``coordinator.labels``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.commands.console import Directory, RunName, complete_labels, opened
from host.console import AsJson, show

if TYPE_CHECKING:
    from coordinator.opened import OpenHome


def label(
    run: RunName,
    labels: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Labels to set.", autocompletion=complete_labels),
    ] = None,
    *,
    remove: Annotated[
        list[str] | None,
        typer.Option(
            "--remove", metavar="KEY", help="Take a label off; also more than once.", autocompletion=complete_labels
        ),
    ] = None,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Note something on a run, to find it by; members do not see it.

    Example: onlysum coordinator run label 0a1b site=north --remove draft
    """
    from coordinator import orders
    from coordinator.labels import label_words, read_labels

    changed = read_labels(labels or [])
    with opened(config) as coordinator:
        run_id, after = orders.set_labels(coordinator.store, run, changed, remove=remove or [])
    words = f"labelled {', '.join(label_words(after))}" if after else "has no labels"
    show({"run": run_id, "labels": dict(after)}, [f"{run_id}: {words}"], as_json=as_json)


def taken_over(coordinator: OpenHome, name: str, labels: dict[str, str]) -> dict[str, str]:
    """Return an earlier run's labels, with those that are given in their place.

    Raises:
        LocalError: ``E-NOT-FOUND``, or ``E-USAGE``: they would be too many.
    """
    from coordinator.database import label_rows, run_rows
    from coordinator.labels import require_few

    with coordinator.store.read() as connection:
        before = label_rows.labels_of(connection, run_rows.find_run(connection, name).run_id)
    require_few(before | labels)
    return before | labels
