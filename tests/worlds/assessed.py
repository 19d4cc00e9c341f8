"""What the rules of a policy compare a plan with: alice's machine, its dataset, and what a run would cost her."""

from __future__ import annotations

from typing import Final

from participant.owner.rules import Cost, LocalContext, LocalDataset
from tests.worlds.owner import AUTHORITY
from tests.worlds.plans import CREATED_AT, signing_key

COST: Final = Cost(outsiders=3.0, charged=4.0, all_others=9.0, lifetime_before=0.0, lifetime_after=5.0)
DATASET: Final = LocalDataset(name="digits", units=100, rows=100, user_column=None, population="patients")
ALICE: Final = LocalContext(
    me="alice",
    identity_key=signing_key("alice").public,
    federation="test-federation",
    ca_fingerprint=AUTHORITY,
    now=CREATED_AT + 60,
    dataset=DATASET,
    base_registered=True,
    cost=COST,
)
