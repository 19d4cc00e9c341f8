"""Rounds over a bad link: real daemons, each behind a link of 200 ms of round trip and 100 kB/s in each direction.

``over_bound`` divides the seconds of a round by the bound: 1.25 times what its vectors take at the link's rate, up and
down, and :data:`ROUND_TRIPS` round trips. ``bytes_over_vectors`` divides all that the links carried, handshakes
and TLS included, by the vectors alone.
"""

from __future__ import annotations

import logging
import sys
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import structlog

from bench import harness
from bench.daemons import Daemons
from bench.proxy import SlowLink

PARTICIPANTS: Final = 3
ROUND_TRIPS: Final = 8  # of a round (docs/wire.md)
MOST: Final = 1.25  # times the vectors' bytes
ROUND_TRIP_SECONDS: Final = 0.2
RATE: Final = 100_000.0  # bytes a second
ADAPTER_BYTES: Final = 4  # of an entry of the initial adapter


def round_seconds(entries: int, rounds: int, *, round_trip: float, rate: float) -> tuple[float, int, float]:
    """Return the seconds of a round over links, the bytes of its vectors up and down, and all that a round carried.

    The first round starts from an adapter of 4 bytes an entry in place of a sum; it is counted as a sum would be.
    """
    with TemporaryDirectory(prefix="onlysum-bench-", ignore_cleanup_errors=True) as directory:
        daemons = Daemons(Path(directory), PARTICIPANTS, entries)
        with SlowLink(lambda: daemons.coordination.settings.participants.bind, round_trip, rate) as link:
            daemons.advertised = link.address
            with daemons:
                before = link.carried
                plan = daemons.run(rounds)
                vector = plan.layout(1).bytes
                carried = ((link.carried - before) / PARTICIPANTS - (ADAPTER_BYTES * entries - vector)) / rounds
        starts = [daemons.started[number] for number in sorted(daemons.started)]
    return min(later - earlier for earlier, later in pairwise(starts)), 2 * vector, carried


def main() -> int:
    """Measure, print the table and the JSON line."""
    parser = harness.parser(__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    seconds, vectors, carried = round_seconds(options.entries, options.rounds, round_trip=ROUND_TRIP_SECONDS, rate=RATE)
    bound = MOST * vectors / RATE + ROUND_TRIPS * ROUND_TRIP_SECONDS
    name = f"n{PARTICIPANTS}_d1e{len(str(options.entries)) - 1}"
    figures = {
        f"{name}.round_seconds": round(seconds, 2),
        f"{name}.bound_seconds": round(bound, 2),
        f"{name}.over_bound": round(seconds / bound, 3),
        f"{name}.bytes_over_vectors": round(carried / vectors, 3),
    }
    print(harness.table(["what", name], [[key.partition(".")[2], f"{value:g}"] for key, value in figures.items()]))
    harness.publish("links", figures, packages=("cryptography", "grpcio", "numpy"), save=options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
