"""What a method leaves at home goes with the sums, is erased by its owner's word, and by its owner alone exported."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from methods.vectors import home_tensors
from participant.home import Home
from participant.owner.own_adapter import OWN_FILE, erase_own, export_own
from participant.owner.plan_store import Ended
from participant.protocol.memory import (
    PartKept,
    RoundClosed,
    RunRefused,
    UpdateEncoded,
    kept_name,
    record_from_json,
    record_to_json,
)
from participant.runs.context import DaemonContext, TrainingJob
from participant.runs.erasure import sweep
from participant.runs.journal import Journal
from participant.runs.round_training import RoundTraining
from participant.runs.round_update import RoundUpdate
from participant.training.trainer import Sums
from privacy.errors import LocalError
from privacy.plan import VerifiedPlan
from privacy.secagg.layout import Words
from privacy.secagg.messages import AttemptOffer, Position
from tests.worlds.plans import make_plan
from tests.worlds.recipes import FACTOR_A as A
from tests.worlds.recipes import FACTOR_B as B
from tests.worlds.recipes import HEAD, SHAPES, recipe_of
from tests.worlds.rehearsal import ME, Rehearsal

PLAN = b"\7" * 32


class Killed(Exception):
    """The process ends here."""


@dataclass
class Trainer:
    """Trains one step at a time: what stays at home counts the rounds that led to it."""

    kept: NDArray[np.float32] | None = None
    trained: list[int] = field(default_factory=list)

    def charge(self, number: int) -> None:
        """Nothing to charge."""

    def train(self, number: int) -> NDArray[np.int64]:
        """Return an update, and add the round to what is kept."""
        before = np.zeros(1, dtype=np.float32) if self.kept is None else self.kept
        self.kept = before + np.float32(10**number)
        self.trained.append(number)
        return np.zeros(3, dtype=np.int64)


def words(number: int, update: NDArray[np.int64]) -> Words:
    """Encode an update in words as wide as the ring."""
    return update.astype("<u4")


@dataclass
class Member:
    """A member's run on disk."""

    path: Path
    trainer: Trainer = field(default_factory=Trainer)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start a process on the disk as it is."""
        self.trainer.kept = None
        self.journal = Journal.open(self.path, PLAN)
        self.update = RoundUpdate(self.journal, self.trainer, words, np.dtype("<u4"), me="ann", home=self.trainer)

    def round(self, number: int, survivors: tuple[str, ...], attempt: int = 1) -> float:
        """Train a round and close it; return what was trained to stay at home."""
        offer = AttemptOffer(Position(PLAN, number, attempt), b"\1" * 32, b"\2" * 32)
        self.update.encoded(offer, self.trainer.train)
        assert self.trainer.kept is not None
        left = float(self.trainer.kept[0])
        self.journal.append(RoundClosed(number, attempt if survivors else 0, b"\3" * 32, survivors, alarm=False))
        return left


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member(tmp_path / "run")


def test_a_round_starts_from_what_the_last_one_left_whose_sum_has_this_members_update(member: Member) -> None:
    assert member.round(1, ("ann", "ben")) == 10
    assert member.round(2, ("ben",)) == 110, "its update was lost"
    assert member.round(3, ("ann", "ben")) == 1010, "so round 3 starts where round 1 ended"
    assert member.round(4, ()) == 11010, "a voided round"
    member.start()
    assert member.round(5, ("ann",)) == 101010
    assert member.journal.memory.at_home == {"kept-5"}
    member.journal.append(RunRefused("E-ROUND-CONTEXT"))
    assert member.journal.memory.at_home == frozenset(), "who has refused its run keeps nothing of it"


def test_what_stays_at_home_is_durable_before_the_update_that_goes_with_it(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    member.round(1, ("ann",))
    append = Journal.append

    def killed_at_the_update(journal: Journal, record: object) -> None:
        if isinstance(record, UpdateEncoded):
            raise Killed
        append(journal, record)  # type: ignore[arg-type]  # a record

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", killed_at_the_update)
        with pytest.raises(Killed):
            member.round(2, ("ann",))
    member.start()
    assert member.journal.memory.files == {"kept-1", "kept-2"}
    assert member.round(2, ("ann",)) == 110, "trained again, from what round 1 left"
    assert member.trainer.trained == [1, 2, 2]


def test_a_retry_trains_nothing_and_leaves_what_it_left_before(member: Member) -> None:
    offers = [AttemptOffer(Position(PLAN, 1, attempt), b"\1" * 32, b"\2" * 32) for attempt in (1, 2)]
    for offer in offers:
        member.update.encoded(offer, member.trainer.train)
    assert member.trainer.trained == [1]
    assert sorted(path.name for path in member.path.glob("*-*")) == ["encoded-1", "kept-1"]


def test_a_part_that_is_lost_is_no_reason_to_begin_anew(member: Member) -> None:
    member.round(1, ("ann",))
    (member.path / "kept-1").unlink()
    with pytest.raises(LocalError, match="round 1 left at home is lost: abstaining") as info:
        member.round(2, ("ann",))
    assert info.value.code == "E-STATE-DAMAGED"
    assert member.trainer.trained == [1]


def test_the_record_comes_back_from_the_journal() -> None:
    record = PartKept(3, "ann", b"\5" * 32)
    assert record_from_json(record_to_json(record)) == record


class StubTrainer(Trainer):
    """A trainer that a daemon makes."""

    earlier: Sums = ()
    summed: NDArray[np.int64] | None = None

    def prepare(self) -> None:
        """Nothing to load."""


def test_a_round_hands_to_its_trainer_what_stays_at_home_and_takes_it_back_once_there_is_one() -> None:
    trainer = StubTrainer()
    work, job = SimpleNamespace(make_trainer=lambda _: trainer), SimpleNamespace()
    training = RoundTraining(cast("DaemonContext", work), cast("TrainingJob", job))
    training.kept = np.ones(1, dtype=np.float32)
    assert training.kept is None
    training.prepare()
    assert training.kept is None
    training.kept = np.ones(1, dtype=np.float32)
    assert training.kept is trainer.kept is not None


def test_a_round_hands_kept_sums_to_its_trainer_and_takes_its_own_back_once_there_is_one() -> None:
    trainer, before = StubTrainer(), [(1, np.ones(2, dtype=np.int64))]
    work, job = SimpleNamespace(make_trainer=lambda _: trainer), SimpleNamespace()
    training = RoundTraining(cast("DaemonContext", work), cast("TrainingJob", job))
    training.earlier = before
    assert not list(training.earlier)
    assert training.summed is None
    training.prepare()
    training.earlier, trainer.summed = before, np.ones(2, dtype=np.int64)
    assert training.earlier is trainer.earlier is before
    assert training.summed is trainer.summed


# --- erasing ---


@pytest.fixture
def left(tmp_path: Path) -> Rehearsal:
    """A daemon of which round 1 has left something at home, and round 2, not closed yet, too."""
    made = Rehearsal(tmp_path / ME)
    made.propose()
    journal = Journal.open(run_of(made), made.world.plan.hash)
    for number in (1, 2):
        data = np.full(4, number, dtype="<f4").tobytes()
        journal.store(kept_name(number), data)
        journal.append(PartKept(number, ME, hashlib.sha256(data).digest()))
        if number == 1:
            journal.append(RoundClosed(1, 1, b"\3" * 32, (ME, "bob"), alarm=False))
    return made


def run_of(made: Rehearsal) -> Path:
    return made.me.home.runs / made.plan.run_id


def swept(made: Rehearsal) -> list[str]:
    sweep(made.me.home, made.me.review().plans, now=made.me.clock.now())
    return sorted(path.name for path in run_of(made).glob("kept-*"))


def test_both_parts_are_of_use_while_the_run_goes_on(left: Rehearsal) -> None:
    assert swept(left) == ["kept-1", "kept-2"]


def test_after_the_run_what_counts_stays_its_owners_until_it_is_erased(left: Rehearsal) -> None:
    plans = left.me.review().plans
    with pytest.raises(LocalError, match="goes on") as info:
        erase_own(left.me.home, plans, left.plan.run_id)
    assert info.value.code == "E-STATE-BUSY"
    plans.end(left.plan.run_id, Ended(state="completed", code="", at=0))
    assert swept(left) == ["kept-1"]
    assert erase_own(left.me.home, plans, left.plan.run_id)
    assert swept(left) == []
    assert not erase_own(left.me.home, plans, left.plan.run_id)


def test_after_the_run_a_disk_that_cannot_be_read_now_takes_nothing_from_its_owner(
    left: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    left.me.review().plans.end(left.plan.run_id, Ended(state="completed", code="", at=0))

    def broken(*_: object) -> Journal:
        raise LocalError("E-DISK-FAILED", "journal: input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "open", broken)
        with pytest.raises(LocalError, match="E-DISK-FAILED"):
            swept(left)
    assert swept(left) == ["kept-1"]


def test_an_owner_who_refuses_the_run_keeps_nothing_of_it(left: Rehearsal) -> None:
    left.me.review().refuse(left.plan.run_id, because="not any more", who="Anna Meier")
    assert swept(left) == []


def test_an_owner_who_leaves_keeps_nothing(left: Rehearsal) -> None:
    left.me.home.left_mark.touch()
    assert swept(left) == []


# --- exporting ---


@dataclass
class Ran:
    """A run of some method that has left something at one owner's, and what it released."""

    home: Home
    plan: VerifiedPlan
    released: Path
    mine: dict[str, NDArray[np.float32]]


def ran(tmp_path: Path, name: str, shapes: dict[str, tuple[int, ...]]) -> Ran:
    recipe, random = recipe_of(name, shapes=shapes), np.random.default_rng(1)
    plan = make_plan(entries=12)[0].model_copy(update={"recipe": recipe})
    verified = VerifiedPlan(plan=plan, hash=b"\4" * 32)
    mine = {one.key: random.normal(size=one.shape).astype(np.float32) for one in home_tensors(recipe)}
    data = np.concatenate([value.reshape(-1) for value in mine.values()]).tobytes()
    home = Home(tmp_path / "home")
    home.make()
    journal = Journal.open(home.runs / plan.run_id, verified.hash)
    journal.store(kept_name(1), data)
    journal.append(PartKept(1, "alice", hashlib.sha256(data).digest()))
    journal.append(RoundClosed(1, 1, b"\3" * 32, ("alice", "bob"), alarm=False))
    released = tmp_path / "released"
    released.mkdir()
    public = {key: random.normal(size=shape).astype(np.float32) for key, shape in shapes.items() if "home" not in key}
    save_file(public, released / "adapter_model.safetensors")
    (released / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    return Ran(home, verified, released, mine)


HOME_A, HOME_B = A.replace("lora_A", "lora_A.home"), B.replace("lora_B", "lora_B.home")
SECOND: dict[str, tuple[int, ...]] = {**SHAPES, HOME_A: SHAPES[A], HOME_B: SHAPES[B]}


def test_an_owner_exports_its_own_factor_with_the_released_others(tmp_path: Path) -> None:
    run = ran(tmp_path, "fedsa-lora", SHAPES)
    assert export_own(run.home, run.plan, run.released, tmp_path / "own") == 1
    found, public = (load_file(path / "adapter_model.safetensors") for path in (tmp_path / "own", run.released))
    assert np.array_equal(found[B], run.mine[B])
    assert np.array_equal(found[A], public[A])
    assert np.array_equal(found[HEAD], public[HEAD])
    assert (tmp_path / "own").stat().st_mode & 0o077 == 0
    assert "Treat this folder like the data." in (tmp_path / "own" / "README.md").read_text()


def test_an_owner_exports_both_loras_as_one(tmp_path: Path) -> None:
    run = ran(tmp_path, "feddpa", SECOND)
    export_own(run.home, run.plan, run.released, tmp_path / "own")
    found, public = (load_file(path / "adapter_model.safetensors") for path in (tmp_path / "own", run.released))
    expected = public[B] @ public[A] + run.mine[HOME_B] @ run.mine[HOME_A]
    assert np.allclose(found[B] @ found[A], expected, atol=1e-5)
    assert json.loads((tmp_path / "own" / "adapter_config.json").read_text())["r"] == 4


def test_a_mixer_leaves_in_a_file_of_its_own(tmp_path: Path) -> None:
    mixer = A.replace("lora_A", "lora_mixer.home")
    run = ran(tmp_path, "fedalt", {**SECOND, mixer: (2, 8), mixer.replace("weight", "bias"): (2,)})
    export_own(run.home, run.plan, run.released, tmp_path / "own")
    assert load_file(tmp_path / "own" / OWN_FILE).keys() >= {A, B, HOME_A, HOME_B}
    assert not (tmp_path / "own" / "adapter_config.json").exists()


def test_nothing_is_exported_where_nothing_stays_or_the_release_is_another_runs(tmp_path: Path) -> None:
    run = ran(tmp_path, "fedsa-lora", SHAPES)
    plain = VerifiedPlan(plan=run.plan.plan.model_copy(update={"recipe": recipe_of("fedit")}), hash=run.plan.hash)
    (tmp_path / "empty").mkdir()
    (tmp_path / "there").mkdir()
    other = tmp_path / "other"
    other.mkdir()
    save_file({A: np.zeros((4, 8), dtype=np.float32)}, other / "adapter_model.safetensors")
    for plan, released, out, code in (
        (plain, run.released, "own", "E-METHOD-REFUSED"),
        (run.plan, tmp_path / "empty", "own", "E-NOT-FOUND"),
        (run.plan, other, "own", "E-PLAN-RULE"),
        (run.plan, run.released, "there", "E-EXISTS"),
    ):
        with pytest.raises(LocalError) as info:
            export_own(run.home, plan, released, tmp_path / out)
        assert info.value.code == code
    (run.home.runs / run.plan.plan.run_id / "kept-1").unlink()
    with pytest.raises(LocalError, match="it was erased"):
        export_own(run.home, run.plan, run.released, tmp_path / "own")
    assert not (tmp_path / "own").exists()
