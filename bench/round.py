"""What a round of secure aggregation costs, in memory, with all signatures and checks on.

A case ``n10_d1e6_k9_drop1`` has ten participants, 10^6 entries in words as ``run create`` chooses them, nine
neighbours each, and one dropout after SHARE_KEYS. ``client_ms`` is processor time of the median participant over all
phases, training apart, nothing memoised; ``coordinator_ms`` is processor time of one thread; ``bytes_per_entry``
counts what a participant uploads in all phases as the codec writes it, ``n10_d1e6.bytes_down_per_entry`` what it is
told and the sum, which it downloads before the next round; ``coordinator_peak_mib`` is what the coordinator has
allocated at most; ``seconds`` and ``cpu_seconds`` are of the whole round, everybody in one process and one thread.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench import harness
from bench.memory import Recording
from bench.players import Case, Outcome, Stage
from bench.suites import Weighed
from privacy.errors import PeerError

# Where k is n - 1 the graph is complete. k40 and k52 show what fewer neighbours cost; plans refuse them as too weak.
CASES: Final = (
    "n10_d1e6_k9_drop1",
    "n10_d1e6_k9_drop1_suite2",
    "n50_d1e5_k49_drop5",
    "n100_d1e6_k40_drop10",
    "n100_d1e6_k99_drop10",
    "n200_d1e5_k199_drop20",
    "n1000_d1e5_k52_drop50",
)
DEFAULT: Final = ("n10_d1e6", "n10_d1e6_k9_drop1")  # whose bytes are those of a default plan
PEAK_RATIO: Final = ("n100_d1e6", "n10_d1e6")  # whose peaks are compared
BUDGET_SECONDS: Final = 20.0  # of the repetitions of a case
HEADS: Final = (
    "case",
    "f",
    "min_survivors",
    "h",
    "client ms",
    "coordinator ms",
    "bytes/entry",
    "peak MiB",
    "round s",
    "CPU s",
)


def measure(name: str, *, repeats: int) -> tuple[Outcome, float, float, list[str]]:
    """Return a case's figures, its peak in MiB, what travels down in bytes per entry, and its row of the table.

    Raises:
        PeerError: the case is one that plans refuse.
    """
    case = Case.parse(name)
    with TemporaryDirectory(prefix="onlysum-bench-") as directory:
        recording = Recording(Path(directory))
        stage = Weighed(case, recording.note)
        best = stage.play()
        peak = recording.peak_mib(stage.plan, stage.offer)
    for _ in range(min(repeats - 1, int(BUDGET_SECONDS / best.seconds))):
        best = best.least(Stage(case).play())
    plan = stage.plan.plan
    stated = [str(plan.f), str(plan.min_survivors), str(plan.privacy.honest_noise)]
    costs = [f"{best.client_ms:.1f}", f"{best.coordinator_ms:.1f}", f"{best.bytes_per_entry:.4f}"]
    down = (stage.told() + plan.layout(1).bytes) / case.entries  # the sum goes down in the words that came up
    return best, peak, down, [name, *stated, *costs, f"{peak:.1f}", f"{best.seconds:.1f}", f"{best.cpu_seconds:.1f}"]


def phase_table(outcomes: dict[str, Outcome]) -> str:
    """Return what each phase costs: milliseconds of the mean measured participant and of the coordinator."""
    phases = list(next(iter(outcomes.values())).by_phase)
    rows = [
        [name, *(f"{a:.1f} + {b:.1f}" for a, b in (outcome.by_phase[phase] for phase in phases))]
        for name, outcome in outcomes.items()
    ]
    return harness.table(["client + coordinator ms", *phases], rows)


def peak_ratio(figures: dict[str, float]) -> dict[str, float]:
    """Return by how much the coordinator's peak grows from 10 to 100 participants, if both were measured."""
    larger, smaller = (
        [peak for name, peak in figures.items() if re.match(rf"{case}_k\d+_drop\d+\.coordinator_peak", name)]
        for case in PEAK_RATIO
    )
    return {"d1e6.peak_n100_over_n10": round(max(larger) / max(smaller), 3)} if larger and smaller else {}


def main() -> int:
    """Measure, print the tables and the JSON line."""
    parser = harness.parser(__doc__)
    parser.add_argument("cases", nargs="*", default=CASES, metavar="CASE", help="such as n10_d1e6_k9_drop1")
    parser.add_argument("--repeats", type=int, default=3, help="of which the least times are taken")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    rows, outcomes = [], {}
    for name in options.cases:
        try:
            outcome, peak, down, row = measure(name, repeats=options.repeats)
        except PeerError as error:
            print(f"{name}: left out, {error.rule}")
            continue
        outcomes[name] = outcome
        rows.append(row)
        figures[f"{name}.client_ms"] = round(outcome.client_ms, 2)
        figures[f"{name}.coordinator_ms"] = round(outcome.coordinator_ms, 2)
        figures[f"{name}.bytes_per_entry"] = round(outcome.bytes_per_entry, 4)
        figures[f"{name}.coordinator_peak_mib"] = round(peak, 2)
        if name == DEFAULT[1]:
            figures[f"{DEFAULT[0]}.bytes_up_per_entry"] = round(outcome.bytes_per_entry, 4)
            figures[f"{DEFAULT[0]}.bytes_down_per_entry"] = round(down, 4)
        figures[f"{name}.seconds"] = round(outcome.seconds, 2)
        figures[f"{name}.cpu_seconds"] = round(outcome.cpu_seconds, 2)
    figures |= peak_ratio(figures)
    print(harness.table(HEADS, rows), phase_table(outcomes), sep="\n\n")
    harness.publish("round", figures, save=options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
