"""What suite 2 costs beside suite 1: the same round, once with X25519 alone and once with ML-KEM-768 beside it.

``client_ms`` and ``coordinator_ms`` are as in ``bench.round``; ``up_kib`` and ``down_kib`` are what the median
participant sends and is told up to UNMASK: with the masked update, without adapter and certificate.
"""

from __future__ import annotations

import sys
from statistics import median
from typing import Final

from bench import harness
from bench.players import Case, Player, Stage, Witness
from coordinator.protocol.round import Outgoing
from privacy.secagg.messages import (
    AdvertisementSet,
    AttemptOffer,
    HolderShares,
    RoundCertificate,
    SurvivorProposal,
    UnmaskRequest,
)
from protos import codec
from protos.envelope import KeysAdvertised, NumberedTask, SharesDealt, SurvivorsProposed, Task, UnmaskRequested

CASES: Final = ("n10_d1e5_k9_drop1", "n50_d1e5_k49_drop5")
KIB: Final = 1024
HEADS: Final = ("case", "client ms", "coordinator ms", "up KiB", "down KiB", "bytes/entry")


class Weighed(Stage):
    """A round that also weighs what each participant is told."""

    def __init__(self, case: Case, witness: Witness | None = None) -> None:
        super().__init__(case, witness)
        self.told_bytes: dict[str, int] = dict.fromkeys(self.players, 0)

    def told(self) -> float:
        """Return how many bytes the median measured participant was told."""
        return median(size for size in self.told_bytes.values() if size)

    def _told(self, player: Player) -> Outgoing:
        told = super()._told(player)
        task = self._task(told)
        if player.measured and task is not None:
            self.told_bytes[player.name] += len(codec.encode_task(NumberedTask(bytes(16), task)))
        return told

    def _task(self, told: Outgoing) -> Task | None:
        """Return the task that says this, or ``None`` for what travels beside an adapter."""
        run_id = self.plan.plan.run_id
        match told:
            case AdvertisementSet(advertisements):
                return KeysAdvertised(run_id, advertisements)
            case HolderShares(shares, u2):
                return SharesDealt(run_id, self.offer.position, shares, u2)
            case SurvivorProposal():
                return SurvivorsProposed(run_id, told)
            case UnmaskRequest():
                return UnmaskRequested(run_id, told)
            case AttemptOffer() | RoundCertificate():
                return None


def measure(name: str, *, repeats: int) -> tuple[dict[str, float], list[str]]:
    """Return a case's figures and its row of the table."""
    case = Case.parse(name)
    stage = Weighed(case)
    best = stage.play()
    for _ in range(repeats - 1):
        best = best.least(Stage(case).play())
    figures = {
        "client_ms": round(best.client_ms, 2),
        "coordinator_ms": round(best.coordinator_ms, 2),
        "up_kib": round(best.bytes_per_entry * case.entries / KIB, 1),
        "down_kib": round(stage.told() / KIB, 1),
        "bytes_per_entry": round(best.bytes_per_entry, 4),
    }
    return {f"{name}.{key}": value for key, value in figures.items()}, [name, *map(str, figures.values())]


def main() -> int:
    """Measure both suites, print the table and the JSON line."""
    parser = harness.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="of which the least times are taken")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    rows = []
    for name in CASES:
        for suffix in ("", "_suite2"):
            measured, row = measure(name + suffix, repeats=options.repeats)
            figures |= measured
            rows.append(row)
    print(harness.table(HEADS, rows))
    harness.publish("suites", figures, save=options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
