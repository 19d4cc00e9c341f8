"""A charge as a ledger takes it: round 1 of a run in which a tenth of the examples is sampled per step."""

from __future__ import annotations

from privacy.dp.events import Gaussian, PoissonSampled
from privacy.ledger_entries import Charge

CHARGE = Charge(
    run_id="00" * 16,
    plan_hash=b"p" * 32,
    round=1,
    population="patients",
    unit="example",
    relation="zero-out",
    event=PoissonSampled(0.1, Gaussian(2.0)),
    delta="0.00001",
)
