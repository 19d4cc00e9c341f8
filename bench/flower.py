"""The same aggregation by onlysum and by Flower's SecAgg+, in turns: how much more processor time Flower takes.

Both sum float32 vectors of the same length from as many participants on the complete graph with the same Shamir
threshold, and lose as many after shares were dealt; fixed-point encoding and decoding are on both clocks. ``make
bench-flower`` installs Flower into an environment of its own, where ``bench.flower_side`` drives its client mod and its
workflow. The two do not do the same: Flower signs nothing, trusts the server with thresholds and lists, and its
pairwise masks carry 28 bits of entropy (the agreed key, in base64, is folded to the 32-bit seed of a Mersenne
Twister); here masks are AES-256 streams and every message is signed and verified. What that costs at the least is
counted and measured in the same run (``bench.floor``): Flower's time over this floor, the ceiling ratio, is what no
implementation of the protocol can exceed on this machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import IO, Final, Self, cast

from bench import harness
from bench.floor import Floor, Side
from bench.players import Case, Stage

CASES: Final = ("n10_d1e6_k9_drop1", "n50_d1e5_k49_drop5")
REPEATS: Final = {10: 7, 50: 2}  # by participants: the larger case takes Flower half a minute
PYTHON: Final = Path(__file__).parent.parent / ".venv-flower" / "bin" / "python"
SIDES: Final[tuple[Side, ...]] = ("client", "coordinator")
HEADS: Final = ("case", "side", "ours ms", "Flower ms", "ratio", "floor ms", "ceiling ratio", "mark")
MARKS: Final = {  # of the ratio
    ("n10_d1e6_drop1", "client"): 11,
    ("n10_d1e6_drop1", "coordinator"): 11,
    ("n50_d1e5_drop5", "client"): 22,
    ("n50_d1e5_drop5", "coordinator"): 220,
}


class Flower:
    """The process in which Flower runs."""

    def __init__(self, python: Path) -> None:
        script = Path(__file__).with_name("flower_side.py")
        self._process = subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = cast("str", self._read()["flwr"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def measure(self, case: Case, threshold: int) -> dict[str, float]:
        """Return Flower's figures of one round."""
        asked = {
            "participants": case.participants,
            "entries": case.entries,
            "dropouts": case.dropouts,
            "threshold": threshold,
        }
        stdin = cast("IO[str]", self._process.stdin)
        stdin.write(json.dumps(asked) + "\n")
        stdin.flush()
        return cast("dict[str, float]", self._read())

    def _read(self) -> dict[str, object]:
        line = cast("IO[str]", self._process.stdout).readline()
        if not line:
            raise RuntimeError("Flower's side ended; what it printed stands above")
        return cast("dict[str, object]", json.loads(line))


def compare(flower: Flower, name: str) -> dict[str, float]:
    """Return the least figures of both over some rounds in turns, by ``SIDE.ours`` and ``SIDE.flower``."""
    case = Case.parse(name)
    threshold = case.plan()[0].plan.shamir_threshold
    least: dict[str, float] = {}
    for _ in range(REPEATS.get(case.participants, 1)):
        theirs, ours = flower.measure(case, threshold), Stage(case, reals=True).play()
        seen = {
            "client.ours": ours.client_ms,
            "coordinator.ours": ours.coordinator_ms,
            "bytes.ours": ours.bytes_per_entry,
            "client.flower": theirs["client_ms"],
            "coordinator.flower": theirs["coordinator_ms"],
            "bytes.flower": theirs["bytes_per_entry"],
        }
        least = {key: min(value, least.get(key, value)) for key, value in seen.items()}
    return least


def measure(flower: Flower, name: str) -> tuple[dict[str, float], list[list[str]]]:
    """Return a case's figures and its rows of the table; print its floor."""
    n, d, _, drop = name.split("_")
    case, least, floor = f"{n}_{d}_{drop}", compare(flower, name), Floor.of(Case.parse(name))
    print(f"{case}: what the primitives of a round cost", floor.table(), sep="\n", end="\n\n")
    figures: dict[str, float] = {}
    rows = []
    for side in SIDES:
        ours, theirs, bottom = least[f"{side}.ours"], least[f"{side}.flower"], floor.milliseconds(side)
        measured = {
            f"{side}_ratio": round(theirs / ours, 2),
            f"{side}_ms": round(ours, 2),
            f"flower_{side}_ms": round(theirs, 2),
            f"{side}_ceiling_ratio": round(theirs / bottom, 2),
        } | floor.figures(side)
        figures |= {f"{case}.{key}": value for key, value in measured.items()}
        times = [f"{ours:.1f}", f"{theirs:.1f}", f"{theirs / ours:.1f}", f"{bottom:.1f}", f"{theirs / bottom:.1f}"]
        rows.append([case, side, *times, str(MARKS.get((case, side), ""))])
    sent = (least["bytes.ours"], least["bytes.flower"])
    rows.append([case, "bytes/entry", *(f"{count:.3f}" for count in sent), f"{sent[1] / sent[0]:.1f}", "", "", ""])
    return figures, rows


def main() -> int:
    """Measure, print the table and the JSON line."""
    parser = harness.parser(__doc__)
    parser.add_argument("cases", nargs="*", default=CASES, metavar="CASE", help="such as n10_d1e6_k9_drop1")
    parser.add_argument("--python", type=Path, default=PYTHON, help="of the environment that has flwr")
    options = parser.parse_args()
    if not options.python.exists():
        sys.exit(f"{options.python} is not there: run `make bench-flower`")
    figures: dict[str, float] = {}
    rows = []
    with Flower(options.python) as flower:
        for name in options.cases:
            measured, more = measure(flower, name)
            figures |= measured
            rows += more
        print(harness.table(HEADS, rows))
    print(f"flwr {flower.version}. ", end="")
    print("Flower's pairwise masks carry 28 bits, and it signs nothing; see the head of bench/flower.py.")
    harness.publish("flower", figures, packages=("cryptography", "numpy"), save=options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
