"""Who is lost when: a coin per participant, phase, round and attempt.

Guarantees: the same seed gives the same losses, whatever was computed before; an attempt's coins are its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from privacy.errors import Phase


def absences(
    rates: Mapping[Phase, float], names: Sequence[str], *, seed: int, number: int, attempt: int
) -> dict[str, Phase]:
    """Return the phase before whose answer each lost participant was lost; who stays is not there.

    Args:
        rates: the chance of each phase, in the order of a round.
        names: of the participants.
        seed: of the simulation.
        number: of the round.
        attempt: at it.
    """
    coins = np.random.default_rng([seed, number, attempt]).random((len(names), len(rates)))
    lost: dict[str, Phase] = {}
    for place, (phase, rate) in enumerate(rates.items()):
        for row in np.flatnonzero(coins[:, place] < rate):
            lost.setdefault(names[int(row)], phase)
    return lost
