"""What an empirical audit is about, as values: its size and claim, the faults that can be planted, what it found.

Guarantees: no torch, so that the command's help is quick; a verdict never holds a bound without claim and ceiling.
Leaves to others: making one (``audit``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class AuditedMode(StrEnum):
    """The modes whose rounds are audited; the others train with the same code and are another claim."""

    DISTRIBUTED = "distributed"
    LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The synthetic plan. The claim is at most 2: beyond, a test of this size could not tell noise from none.

    Attributes:
        mode: who adds how much noise.
        canaries: how many, spread evenly over the participants.
        participants: how many add noise.
        rounds: of one step each.
        halfway: the round before which every trainer checks itself again and is restarted.
        sampling_rate: q.
        epsilon: what the plan claims at ``delta``.
        delta: of the claim.
    """

    mode: AuditedMode = AuditedMode.DISTRIBUTED
    canaries: int = 400
    participants: int = 10
    rounds: int = 100
    halfway: int = 51
    sampling_rate: str = "0.1"
    epsilon: str = "2"
    delta: str = "0.00001"

    @property
    def guessed(self) -> int:
        """How many canaries the attack guesses about; fixed beforehand, as the bound asks for."""
        return self.canaries // 2


class Fault(StrEnum):
    """What can be planted; each names the check that has to catch it in :data:`CAUGHT_BY`."""

    NO_NOISE = "no-noise"
    MISSING_SHARE = "missing-share"
    QUIET_DATA = "quiet-data"
    QUIET_PEAKS = "quiet-peaks"
    LAPLACE_NOISE = "laplace-noise"
    COARSE_NOISE = "coarse-noise"
    REPEATED_NOISE = "repeated-noise"
    REPEATED_ONCE = "repeated-once"
    RESTARTED_SEED = "restarted-seed"
    SHARED_NOISE = "shared-noise"
    TILED_NOISE = "tiled-noise"
    BARE_MOMENTUM = "bare-momentum"
    NO_CLIP = "no-clip"
    TENSOR_CLIP = "tensor-clip"
    BATCH_AS_ONE = "batch-as-one"
    DOUBLE_Q = "double-q"
    FIXED_BATCHES = "fixed-batches"
    SHARED_COINS = "shared-coins"
    SITTING_OUT = "sitting-out"
    EXACT_METRICS = "exact-metrics"


CAUGHT_BY: Final = {
    Fault.NO_NOISE: "canaries",
    Fault.MISSING_SHARE: "noise",
    Fault.QUIET_DATA: "noise",
    Fault.QUIET_PEAKS: "noise",
    Fault.LAPLACE_NOISE: "shape",
    Fault.COARSE_NOISE: "shape",
    Fault.REPEATED_NOISE: "freshness",
    Fault.REPEATED_ONCE: "freshness",
    Fault.RESTARTED_SEED: "freshness",
    Fault.SHARED_NOISE: "freshness",
    Fault.TILED_NOISE: "freshness",
    Fault.BARE_MOMENTUM: "freshness",
    Fault.NO_CLIP: "canaries",
    Fault.TENSOR_CLIP: "midway",
    Fault.BATCH_AS_ONE: "self-check",
    Fault.DOUBLE_Q: "sampler",
    Fault.FIXED_BATCHES: "sampler",
    Fault.SHARED_COINS: "sampler",
    Fault.SITTING_OUT: "sampler",
    Fault.EXACT_METRICS: "plan",
}


@dataclass(frozen=True, slots=True)
class Check:
    """A check by name, whether it passed, and what it found."""

    name: str
    passed: bool
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an audit found. ``claim`` and ``bound`` are epsilons at the plan's delta; without a run they are None.

    Attributes:
        setting: what was run.
        checks: in the order in which they were made; those after a refusal to train are missing.
        claim: what the accounting claims.
        bound: at least this was spent, with 95% confidence.
        ceiling: the largest bound that this test could have shown.
    """

    setting: Setting
    checks: tuple[Check, ...]
    claim: float | None = None
    bound: float | None = None
    ceiling: float | None = None

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that contradict the claim."""
        return tuple(check for check in self.checks if not check.passed)
