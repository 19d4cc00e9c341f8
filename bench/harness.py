"""What all benchmarks share: timing in turns, the machine, a table, and one JSON object as the last line.

Guarantees: the last line of a benchmark's output is ``{"bench": ..., "machine": ..., "figures": {name: number}}``.
Ratios within one run are the marks; absolute times are reported only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

RESULTS: Final = Path(__file__).parent / "results"
_CPU_INFO: Final = Path("/proc/cpuinfo")
_PACKAGES: Final = ("cryptography", "numpy")

Figures = Mapping[str, float]


def parser(caption: str | None) -> argparse.ArgumentParser:
    """Return an argument parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=(caption or "").splitlines()[0] if caption else None)
    made.add_argument("--save", action="store_true", help="also write the JSON object to bench/results/")
    return made


def seconds_in_turns(cases: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, float]:
    """Return the least seconds of each case; the cases take turns, so that a slow spell hits all of them."""
    least = dict.fromkeys(cases, float("inf"))
    for _ in range(repeats):
        for name, run in cases.items():
            started = time.perf_counter()
            run()
            least[name] = min(least[name], time.perf_counter() - started)
    return least


def machine(packages: Sequence[str] = _PACKAGES) -> dict[str, object]:
    """Return processor, cores, system and the versions that figures depend on, with the date."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "date": datetime.now(UTC).date().isoformat(),
    }


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a plain table: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(line, widths, strict=True)) for line in lines)
    )


def publish(bench: str, figures: Figures, *, packages: Sequence[str] = _PACKAGES, save: bool = False) -> None:
    """Print the JSON object as the last line and, if asked, keep it in ``bench/results/BENCH.json``."""
    made = {"bench": bench, "machine": machine(packages), "figures": dict(figures)}
    if save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{bench}.json").write_text(json.dumps(made, indent=2) + "\n")
    print(json.dumps(made), flush=True)


def _processor() -> str:
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
