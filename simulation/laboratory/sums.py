"""The sum of a round: under real masks, or computed directly with the same outcome.

Guarantees: both count the same participants, add in the same ring and end the same attempts, because what they refuse
by are the plan's thresholds; how often a round is tried and when it is voided follow the coordinator's rules.
Leaves to others: who is lost (``absences``), updates (``engines``), what becomes of a sum (``methods.global_adapter``).
Without masks no graph is drawn: that a k-regular graph tears, which it does with probability 2^-40 within its plan's
dropouts, is not simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from coordinator.protocol.round import RoundResult
from coordinator.runs.lifecycle import FAILURES
from privacy.errors import Phase, RoundAborted
from privacy.plan import Plan, VerifiedPlan, largest_sum
from privacy.secagg.fixed_point import Buffer
from privacy.secagg.keys import SigningKey
from privacy.secagg.layout import Words
from simulation.cohort import Cohort, Train
from simulation.seeded import SeededSource

BEFORE_UPLOAD: Final = (Phase.ADVERTISE_KEYS, Phase.SHARE_KEYS, Phase.COLLECT_MASKED)
Lost = Callable[[int], Mapping[str, Phase]]  # who is lost in an attempt, by its number


@dataclass(frozen=True, slots=True)
class Sum:
    """What a round came to.

    Attributes:
        words: of the ring, in the order of the layout.
        survivors: whose updates are in it.
        attempts: how many it took.
    """

    words: Words
    survivors: tuple[str, ...]
    attempts: int


class Sums(Protocol):
    """Sums the updates of one attempt."""

    @property
    def transcript(self) -> bytes:
        """The hash chain over the rounds so far; empty without masks."""
        ...

    @property
    def sent(self) -> int:
        """Bytes that the coordinator received."""
        ...

    def attempt(self, number: int, attempt: int, adapter: Buffer, train: Train, lost: Mapping[str, Phase]) -> Sum:
        """Run an attempt, or raise ``RoundAborted``."""
        ...

    def committed(self, number: int) -> frozenset[str]:
        """Return who can take part in no other attempt at a round."""
        ...

    def void(self, number: int) -> None:
        """Close a round that has no sum."""
        ...


def run_round(
    sums: Sums, plan: Plan, number: int, adapter: Buffer, train: Train, lost: Lost, *, after_void: bool
) -> Sum | None:
    """Return a round's sum, or ``None`` where it is voided.

    Args:
        sums: with masks or without.
        plan: its rules.
        number: of the round.
        adapter: that it starts from.
        train: returns updates.
        lost: who is lost in each attempt.
        after_void: whether the round before was voided, after which this one may not be.

    Raises:
        RoundAborted: the run ends here, as it would at a coordinator.
    """
    failure = RoundAborted("E-ROUND-TOO-FEW", "no attempt was made")
    hopeless = False
    for attempt in range(1, min(FAILURES, plan.max_attempts) + 1):
        try:
            return sums.attempt(number, attempt, adapter, train, lost(attempt))
        except RoundAborted as aborted:
            failure = aborted
        if hopeless := plan.n - len(sums.committed(number)) < plan.min_survivors:
            break
    if not (hopeless and plan.privacy.noised and number < plan.recipe.rounds and not after_void):
        raise failure
    sums.void(number)
    return None


class MaskedSums:
    """Sums as daemons do, with keys, masks, signatures and shares.

    Args:
        plan: signed.
        keys: the roster's.
        seed: of everybody's secrets.
        completed: rounds that are over.
        transcript: after them.
    """

    def __init__(
        self, plan: VerifiedPlan, keys: Mapping[str, SigningKey], seed: int, *, completed: int, transcript: bytes
    ) -> None:
        source = SeededSource(f"onlysum simulation {seed} secrets after round {completed}")
        self._cohort = Cohort(plan, keys, source, completed=completed, transcript=transcript)

    @property
    def transcript(self) -> bytes:
        """The hash chain over the rounds so far."""
        return self._cohort.transcript

    @property
    def sent(self) -> int:
        """Bytes of everybody's messages."""
        return self._cohort.sent

    def attempt(self, number: int, attempt: int, adapter: Buffer, train: Train, lost: Mapping[str, Phase]) -> Sum:
        """Run an attempt as :class:`Sums` says."""
        result: RoundResult = self._cohort.run_round(number, adapter, train, attempt=attempt, lost=lost)
        return Sum(result.words, result.survivors, attempt)

    def committed(self, number: int) -> frozenset[str]:
        """Return who has signed the round's survivors."""
        return self._cohort.committed(number)

    def void(self, number: int) -> None:
        """Tell everybody."""
        self._cohort.void(number)


class DirectSums:
    """Adds updates up in the ring, without masks: what a real round's sum is, at a fraction of its work."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._committed: tuple[int, frozenset[str]] = (0, frozenset())
        self.transcript = b""
        self.sent = 0

    def attempt(self, number: int, attempt: int, adapter: Buffer, train: Train, lost: Mapping[str, Phase]) -> Sum:
        """Run an attempt as :class:`Sums` says."""
        plan, there = self._plan, [member.id for member in self._plan.roster]
        there = [name for name in there if name not in self.committed(number)]
        for phase in BEFORE_UPLOAD:
            there = [name for name in there if lost.get(name) is not phase]
            _require(len(there), plan.min_survivors, phase)
        words = self._add(number, there, train)
        signers = [name for name in there if lost.get(name) is not Phase.AGREE_SURVIVORS]
        self._committed = number, self.committed(number) | frozenset(signers)
        _require(len(signers), plan.quorum, Phase.AGREE_SURVIVORS)
        sharers = [name for name in signers if lost.get(name) is not Phase.UNMASK]
        _require(len(sharers), plan.share_threshold, Phase.UNMASK)
        return Sum(words, tuple(there), attempt)

    def committed(self, number: int) -> frozenset[str]:
        """Return who would have signed the round's survivors."""
        return self._committed[1] if self._committed[0] == number else frozenset()

    def void(self, number: int) -> None:
        """There is no transcript to extend."""

    def _add(self, number: int, names: Sequence[str], train: Train) -> Words:
        plan, layout = self._plan, self._plan.layout(number)
        words = np.zeros(layout.words, dtype=layout.ring.dtype)
        for name, update in zip(names, train(names), strict=True):
            encoded = layout.encode(update, plan.member(name).weight)
            layout.ring.add_into(words, encoded)
            self.sent += encoded.nbytes
        if layout.count_beyond(words, largest_sum(plan)):
            raise RoundAborted("E-ROUND-SUM", "the sum is beyond what the plan's updates can sum to")
        return words


def _require(count: int, needed: int, phase: Phase) -> None:
    if count < needed:
        raise RoundAborted("E-ROUND-TOO-FEW", f"{count} of the {needed} needed answered in {phase.name}")
