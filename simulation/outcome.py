"""What the demo leaves behind, and how anybody can check it without onlysum.

Guarantees: the accuracies in ``summary.json`` are the evaluator's signed ones; the held-out images are written as the
model takes them, so that transformers and PEFT alone can measure the adapter again.
Leaves to others: running the federation (``simulation.demo``), measuring again (``simulation.base``).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from privacy.dp.events import format_epsilon_up
from simulation.digits import Digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The figures of a run, as ``summary.json`` has them.

    ``accuracy_local_noise`` is that of the same data with local noise at the same epsilon, in a simulation; ``None``
    where that was not run or not ready. ``epsilon`` is the largest charged over the participants, this run alone, and
    ``None`` in mode ``none``; ``dropouts`` counts participant-rounds absent from the survivors; ``seconds`` is from the
    first line to the last.
    """

    mode: str
    accuracy_base: float
    accuracy_final: float
    accuracy_local_noise: float | None
    epsilon: float | None
    delta: float | None
    participants: int
    rounds: int
    dropouts: int
    bytes_sent: int
    seconds: float

    def write(self, path: Path) -> None:
        """Write the summary as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def write_held_out(directory: Path, held_out: Digits) -> None:
    """Write the images as the model takes them, float32 (count, 1, 16, 16), and their labels, as numpy arrays."""
    from simulation.base import preprocess

    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / "pixel_values.npy", preprocess(held_out).numpy())
    np.save(directory / "labels.npy", held_out.labels)


def change_one_byte(source: Path, target: Path) -> int:
    """Copy a report with one digit in its middle changed, and return that byte's offset."""
    data = bytearray(source.read_bytes())
    offset = next(place for place in range(len(data) // 2, len(data)) if chr(data[place]).isdigit())
    data[offset] = ord("0") + (data[offset] - ord("0") + 1) % 10
    target.write_bytes(bytes(data))
    return offset


def show(console: Console, summary: Summary, *, rechecked: float) -> None:
    """Print the figures with a word on what each one means."""
    table = Table(title="What came out", title_justify="left", show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for row in _rows(summary, rechecked):
        table.add_row(*row)
    console.print(table)


def _rows(summary: Summary, rechecked: float) -> list[tuple[str, str, str]]:
    spend = (
        [
            (
                "epsilon",
                format_epsilon_up(summary.epsilon),
                "the largest that any participant was charged; smaller is more private",
            ),
            ("delta", f"{summary.delta:g}", "the chance that is not covered by epsilon"),
        ]
        if summary.epsilon is not None and summary.delta is not None
        else [
            ("epsilon", "-", "no differential privacy in this mode: only the masks protect"),
        ]
    )
    return [
        ("accuracy before", f"{summary.accuracy_base:.1%}", "of the base, on images that nobody trained on"),
        ("accuracy after", f"{summary.accuracy_final:.1%}", "with the adapter; the evaluator signed both figures"),
        *_local_noise(summary),
        ("  rechecked", f"{rechecked:.1%}", "by PEFT and transformers alone, from the files below"),
        *spend,
        ("rounds", str(summary.rounds), f"each the sum of up to {summary.participants} masked updates"),
        ("dropouts", str(summary.dropouts), "participant-rounds that are missing from the sums"),
        ("sent", f"{summary.bytes_sent / 1e6:.1f} MB", "of masked updates, by all participants together"),
        ("time", f"{summary.seconds:.0f} s", ""),
    ]


def _local_noise(summary: Summary) -> list[tuple[str, str, str]]:
    if summary.accuracy_local_noise is None:
        return []
    words = "same data and epsilon, each adding all the noise (simulated once)"
    return [("  local noise", f"{summary.accuracy_local_noise:.1%}", words)]
