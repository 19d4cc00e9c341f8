"""Own sums that later rounds mask again: kept with their updates for as long as a band counts them, and then erased."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from participant.owner.plan_store import Ended
from participant.protocol.memory import (
    PartKept,
    RoundClosed,
    RunMemory,
    SumKept,
    UpdateEncoded,
    record_from_json,
    record_to_json,
)
from participant.runs.erasure import sweep
from participant.runs.journal import Journal
from participant.runs.round_update import KeptSums, RoundUpdate
from participant.training.trainer import Sums
from privacy.dp.bands import banded
from privacy.dp.events import Gaussian, PoissonSampled, derived_multiplier
from privacy.errors import LocalError
from privacy.plan import Plan
from privacy.secagg.layout import Words
from privacy.secagg.messages import AttemptOffer, Position
from protos.envelope import RoundVoided
from tests.worlds.owner import Killed, give
from tests.worlds.plans import make_plan
from tests.worlds.rehearsal import ME, Rehearsal

PLAN = b"\7" * 32
BANDS = (7, 3, 2)


@dataclass
class Trainer:
    """Its sum of a round is ten to the power of the round's number, and another each time that it trains."""

    earlier: Sums = ()
    summed: NDArray[np.int64] | None = None
    trained: list[int] = field(default_factory=list)
    charged: list[int] = field(default_factory=list)

    def charge(self, number: int) -> None:
        self.charged.append(number)

    def train(self, number: int) -> NDArray[np.int64]:
        self.trained.append(number)
        self.summed = np.full(2, 10**number + self.trained.count(number) - 1, dtype=np.int64)
        return banded(BANDS, number, self.summed, self.earlier)


def words(number: int, update: NDArray[np.int64]) -> Words:
    """Encode an update in words as wide as the ring."""
    return update.astype("<u8")


@dataclass
class Member:
    """A member's run on disk."""

    path: Path
    trainer: Trainer = field(default_factory=Trainer)
    word: str = "<i4"

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start a process on the disk as it is."""
        self.trainer.earlier, self.trainer.summed = (), None
        self.journal = Journal.open(self.path, PLAN)
        sums = KeptSums(self.trainer, len(BANDS), np.dtype(self.word))
        self.update = RoundUpdate(self.journal, self.trainer, words, np.dtype("<u8"), me="ann", sums=sums)

    def masks(self, number: int, attempt: int = 1) -> int:
        """Return what an attempt at a round masks."""
        offer = AttemptOffer(Position(PLAN, number, attempt), b"\1" * 32, b"\2" * 32)
        return int(self.update.encoded(offer, self.trainer.train)[0])

    def close(self, number: int, *survivors: str) -> None:
        """Close a round; without survivors it is voided."""
        self.journal.append(RoundClosed(number, 1 if survivors else 0, b"\3" * 32, survivors, alarm=False))

    def files(self) -> list[str]:
        """Return the names of the sums that are of use."""
        return sorted(name for name in self.journal.memory.files if name.startswith("summed"))


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member(tmp_path / "run")


def test_each_round_masks_the_sums_of_the_rounds_before_that_have_a_band(member: Member) -> None:
    for number, expected in enumerate([70, 730, 7320, 73200, 732000], start=1):
        assert member.masks(number) == expected
        member.start()
        member.close(number, "ann", "ben")
    assert member.files() == ["summed-4", "summed-5"]


def test_a_sum_counts_only_if_its_update_was_in_a_sum_and_ages_by_the_number_of_the_round(member: Member) -> None:
    assert member.masks(1) == 70
    member.close(1, "ann")
    assert member.masks(2) == 730
    member.close(2, "ben")  # ann was declared dropped
    assert member.masks(3) == 7020
    member.close(3)  # voided
    member.close(4, "ben")  # ann missed it
    assert member.masks(5) == 700_000
    assert member.journal.memory.sums == ()


def test_a_retry_masks_the_same_bytes_and_leaves_the_sum_that_belongs_to_them(member: Member) -> None:
    assert member.masks(1, 1) == member.masks(1, 2) == 70
    member.start()
    assert member.masks(1, 3) == 70
    assert member.trainer.trained == [1]
    assert member.files() == ["summed-1"]


@pytest.mark.parametrize("before", [SumKept, UpdateEncoded])
def test_an_update_and_its_kept_sum_are_of_one_training_wherever_the_process_is_killed(
    before: type, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Journal.append

    def killed(journal: Journal, record: Any) -> None:
        if isinstance(record, before):
            raise Killed
        append(journal, record)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", killed)
        with pytest.raises(Killed):
            member.masks(1)
    member.start()
    assert member.masks(1) == 77, "trained again: another sum"
    member.close(1, "ann")
    assert member.masks(2) == 7 * 100 + 3 * 11, "and that is the one that counts"


def test_a_sum_that_is_lost_or_changed_keeps_its_rounds_from_training_and_from_being_charged(member: Member) -> None:
    member.masks(1)
    member.close(1, "ann")
    for number in (2, 3):
        (member.path / "summed-1").write_bytes(b"another")
        with pytest.raises(LocalError, match="sum of round 1 is lost: abstaining until round 3") as info:
            member.masks(number)
        assert info.value.code == "E-STATE-DAMAGED"
        (member.path / "summed-1").unlink(missing_ok=True)
        with pytest.raises(LocalError, match="abstaining until round 3"):
            member.masks(number)
        member.close(number, "ben")
    assert member.masks(4) == 70_000
    assert member.trainer.charged == member.trainer.trained == [1, 4]


def test_a_trainer_that_leaves_no_sum_is_a_bug_and_nothing_is_masked(member: Member) -> None:
    offer = AttemptOffer(Position(PLAN, 1, 1), b"\1" * 32, b"\2" * 32)
    with pytest.raises(LocalError, match="left no sum"):
        member.update.encoded(offer, lambda number: np.zeros(2, dtype=np.int64))
    assert member.journal.memory.encoded_in(1) is None


@pytest.mark.parametrize(("closed", "survivors"), [(2, ("ann",)), (1, ("ben",))])
def test_only_the_round_that_left_something_and_only_with_its_member_makes_it_count(
    closed: int, survivors: tuple[str, ...]
) -> None:
    memory = RunMemory.empty(PLAN).apply(SumKept(1, "ann", b"\5" * 32, 9)).apply(PartKept(1, "ann", b"\6" * 32))
    after = memory.apply(RoundClosed(closed, 1, b"\3" * 32, survivors, alarm=False))
    assert (after.sums, after.kept) == ((), None)
    counted = memory.apply(RoundClosed(1, 1, b"\3" * 32, ("ann", "ben"), alarm=False))
    assert counted.sums == (SumKept(1, "ann", b"\5" * 32, 9),)
    assert counted.kept == PartKept(1, "ann", b"\6" * 32)


def test_the_record_comes_back_from_the_journal() -> None:
    record = SumKept(3, "ann", b"\5" * 32, 5)
    assert record_from_json(record_to_json(record)) == record


def test_sums_lie_in_words_as_wide_as_the_clamp_asks(member: Member) -> None:
    member.masks(1)
    assert (member.path / "summed-1").stat().st_size == 8
    banded_plan = make_plan(mode="distributed", privacy={"bands": [3, 2]}, encoding={"clamp": 2**20})[0]
    wide = banded_plan.model_copy(
        update={"encoding": banded_plan.encoding.model_copy(update={"clamp": 2**31, "ring_bits": 64})}
    )
    for plan, word in ((banded_plan, "<i4"), (wide, "<i8")):
        sums = KeptSums.of_plan(plan, member.trainer)
        assert sums is not None
        assert (sums.word, sums.bands) == (np.dtype(word), 2)
    assert KeptSums.of_plan(make_plan(mode="distributed")[0], member.trainer) is None


# --- a daemon ---


@pytest.fixture
def running(tmp_path: Path) -> Rehearsal:
    """A daemon in a run of five rounds whose noise is correlated over three."""
    made = Rehearsal(
        tmp_path / ME, recipe={"rounds": 5}, privacy={"bands": [*BANDS], "sampling_rate": "0.25", "sensitivity": 14}
    )
    made.propose()
    return made


def mine(running: Rehearsal, number: int) -> int:
    """Play a round and return what this participant added to the sum."""
    return int(running.round(number).total()[running.plan.index(ME)])


def test_a_daemon_masks_earlier_rounds_again_is_charged_by_blocks_and_keeps_what_counts(running: Rehearsal) -> None:
    assert [mine(running, number) for number in (1, 2, 3, 4)] == [7, 10, 12, 12]
    assert [charge.round for charge in running.charges()] == [1, 4]
    privacy = running.plan.privacy
    multiplier = derived_multiplier(privacy.variance_exponent, privacy.sensitivity, privacy.honest_noise, BANDS)
    assert {charge.event for charge in running.charges()} == {PoissonSampled(0.75, Gaussian(multiplier))}
    assert running.blobs() == ["summed-3", "summed-4"]


def test_a_daemon_that_is_killed_goes_on_with_its_sums_and_never_trains_a_round_twice(running: Rehearsal) -> None:
    assert mine(running, 1) == 7
    running.restart()
    assert mine(running, 2) == 10

    def killed(what: str) -> None:
        if what == "upload":
            raise Killed

    running.me.link.before = killed
    assert mine(running, 3) == 12
    assert running.me.trained == [1, 2, 3]
    assert [charge.round for charge in running.charges()] == [1]


def test_a_block_is_charged_when_its_first_round_trains_whichever_that_is(running: Rehearsal) -> None:
    running.void(1)
    give(running.daemon, RoundVoided(running.plan.run_id, running.voided[0]))
    assert mine(running, 2) == 7
    assert [(charge.round, charge.event) for charge in running.charges()] == [(1, running.charges()[0].event)]
    assert mine(running, 3) == 10
    assert len(running.charges()) == 1


def test_sums_go_when_the_run_ends_when_the_owner_refuses_it_and_when_it_is_left(running: Rehearsal) -> None:
    mine(running, 1)
    home, plans = running.me.home, running.me.review().plans
    assert running.blobs() == ["summed-1"]
    assert sweep(home, plans, now=running.me.clock.now()) == 0
    plans.end(running.plan.run_id, Ended(state="completed", code="", at=0))
    assert sweep(home, plans, now=running.me.clock.now()) >= 1
    assert running.blobs() == []


@pytest.mark.parametrize(("clamp", "word"), [(2**31 - 1, "<i4"), (2**31, "<i8")])
def test_a_kept_sum_takes_as_many_bytes_as_its_clamp_needs(clamp: int, word: str) -> None:
    privacy = SimpleNamespace(banded=True, bands=BANDS)
    plan = SimpleNamespace(privacy=privacy, encoding=SimpleNamespace(clamp=clamp))
    made = KeptSums.of_plan(cast("Plan", plan), Trainer())
    assert made is not None
    assert (made.bands, made.word) == (3, np.dtype(word))
