"""The price of a round: what this participant adds to a sum is charged, trained, stored and recorded, in this order.

Guarantees: nothing is trained before its charge is on the ledger's disk; nothing is returned, and so nothing masked,
before its bytes and the record of their hash are durable; a round whose update was recorded is not trained again, and
each attempt at it masks the same bytes. If they are lost, nothing is masked in this round any more. What stays at home
is durable before the update that goes with it, and a round starts from what the last one left whose sum has this
participant's update: so home and sum tell one history. So it is with sums that later rounds mask again.
Leaves to others: when a round may be charged at all (``consent``), what training is (``round_training``), masking, and
erasing the bytes when the round closes.
Source: docs/protocol.md sections 5.3 and 6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from methods.global_adapter import VECTOR_TYPE, iterate_bytes
from participant.protocol.memory import PartKept, SumKept, UpdateEncoded, encoded_name, kept_name, summed_name
from participant.runs.journal import Journal
from participant.training.trainer import Sums
from privacy.errors import LocalError
from privacy.plan import Plan
from privacy.secagg.layout import Words
from privacy.secagg.messages import AttemptOffer

Train = Callable[[int], NDArray[np.int64]]  # returns the update of a round
Encode = Callable[[int, NDArray[np.int64]], Words]  # returns the ring words of a round's update, weight included


class Budget(Protocol):
    """What a round is charged to."""

    def charge(self, number: int) -> None:
        """Make a round's charge durable, or raise; a round that was charged before is not charged again."""
        ...


class OwnSums(Protocol):
    """A participant's own clamped sums: before a training those of earlier rounds, after it that of the round."""

    earlier: Sums

    @property
    def summed(self) -> NDArray[np.int64] | None:
        """Of the round that was trained last."""
        ...


@dataclass(frozen=True, slots=True)
class KeptSums:
    """How sums are kept where noise is correlated over rounds.

    Attributes:
        of: where they come from, and go to.
        bands: in how many rounds each counts, its own included.
        word: type of an entry on disk.
    """

    of: OwnSums
    bands: int
    word: np.dtype[Any]

    @classmethod
    def of_plan(cls, plan: Plan, own: OwnSums) -> KeptSums | None:
        """Return how a plan's sums are kept; ``None``: each counts in its own round alone."""
        if not plan.privacy.banded:
            return None
        narrow = plan.encoding.clamp < 2**31
        return cls(own, len(plan.privacy.bands), np.dtype("<i4" if narrow else "<i8"))


class HomePart(Protocol):
    """What stays at home: before a training what the last round left, after it what is new."""

    kept: NDArray[np.float32] | None


class RoundUpdate:
    """The encoded updates of one run, each made once.

    Args:
        journal: of the run.
        budget: charged before each training.
        encode: the plan's; an update is stored as the ring words that are masked, and takes no more room than they do.
        word: type of a ring word.
        me: this participant, where something of what it trains stays here.
        home: the part that stays at home.
        sums: the sums that later rounds mask again.
    """

    def __init__(
        self,
        journal: Journal,
        budget: Budget,
        encode: Encode,
        word: np.dtype[Any],
        *,
        me: str = "",
        home: HomePart | None = None,
        sums: KeptSums | None = None,
    ) -> None:
        self._journal = journal
        self._me = me
        self._home = home
        self._sums = sums
        self._budget = budget
        self._encode = encode
        self._word = word
        self._not_stored: tuple[int, Words] | None = None

    def encoded(self, offer: AttemptOffer, train: Train) -> Words:
        """Return the encoded update of the round that an attempt is of; it is durable, and the caller's to change.

        Raises:
            RefusedError: the budget does not allow the round; nothing is trained.
            LocalError: ``E-STATE-DAMAGED``, the update of an earlier attempt is lost; ``E-DISK-FULL``, it can be asked
                for again and is not trained again; or what training raises.
        """
        number = offer.position.round
        known = self._journal.memory.encoded_in(number)
        if known is not None:
            return self._stored(known)
        earlier = self._earlier(number)
        self._budget.charge(number)
        words = self._trained(number, train, earlier)
        self._keep(number)
        self._journal.store(encoded_name(number), words.data.cast("B"))
        sha256 = hashlib.sha256(words.data).digest()
        self._journal.append(UpdateEncoded(number, sha256, offer.adapter_hash, offer.previous_transcript))
        self._not_stored = None
        return words

    def forget(self) -> None:
        """Let go of an update that could not be stored: its round is over."""
        self._not_stored = None

    def _trained(self, number: int, train: Train, earlier: Sums) -> Words:
        if self._not_stored is None or self._not_stored[0] != number:
            if self._home is not None:
                self._home.kept = self._left_before()
            if self._sums is not None:
                self._sums.of.earlier = earlier
            self._not_stored = number, self._encode(number, train(number))
        return self._not_stored[1]

    def _left_before(self) -> NDArray[np.float32] | None:
        """Return what stays at home, as the last round left it whose sum has this participant's update."""
        record = self._journal.memory.kept
        if record is None:
            return None
        data = self._journal.load(kept_name(record.round), record.sha256)
        if data is None:
            raise LocalError("E-STATE-DAMAGED", f"what round {record.round} left at home is lost: abstaining")
        return np.frombuffer(data, dtype=VECTOR_TYPE).astype(np.float32)

    def _keep(self, number: int) -> None:
        """Make what the round leaves here durable, before the update that belongs to it."""
        if self._sums is not None:
            self._keep_sum(number, self._sums)
        if self._home is None or self._home.kept is None:
            return
        data = iterate_bytes(self._home.kept)
        self._journal.store(kept_name(number), data)
        self._journal.append(PartKept(number, self._me, hashlib.sha256(data).digest()))

    def _keep_sum(self, number: int, sums: KeptSums) -> None:
        if sums.of.summed is None:
            raise LocalError("E-BUG", "a round that later ones count left no sum")
        data = np.ascontiguousarray(sums.of.summed, dtype=sums.word).data.cast("B")
        self._journal.store(summed_name(number), data)
        self._journal.append(SumKept(number, self._me, hashlib.sha256(data).digest(), number + sums.bands - 1))

    def _earlier(self, number: int) -> Sums:
        """Return the kept sums that a round adds to its own, one read at a time; all of them are there.

        Raises:
            LocalError: ``E-STATE-DAMAGED``, one is lost: without it a round would not be what its peers decode.
        """
        if self._sums is None:
            return ()
        word = self._sums.word
        records = [record for record in self._journal.memory.sums if record.round < number <= record.last]
        for record in records:
            self._kept_sum(record)
        return ((one.round, np.frombuffer(self._kept_sum(one), dtype=word).astype(np.int64)) for one in records)

    def _kept_sum(self, record: SumKept) -> bytes:
        data = self._journal.load(summed_name(record.round), record.sha256)
        if data is None:
            detail = f"this participant's own sum of round {record.round} is lost: abstaining until round {record.last}"
            raise LocalError("E-STATE-DAMAGED", detail)
        return data

    def _stored(self, record: UpdateEncoded) -> Words:
        data = self._journal.load(encoded_name(record.round), record.sha256)
        if data is None:
            raise LocalError("E-STATE-DAMAGED", f"the encoded update of round {record.round} is lost: abstaining")
        return np.frombuffer(data, dtype=self._word).copy()
