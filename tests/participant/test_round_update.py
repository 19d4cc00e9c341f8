"""The price of a round, killed between any two of its steps: charge, train, store, record, and only then mask."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from participant.owner.ledger import Ledger
from participant.protocol import masking
from participant.protocol.memory import RunMemory, UpdateEncoded, UpdateMasked, encoded_name
from participant.protocol.transitions import EncodedUpdate
from participant.runs.journal import Journal
from participant.runs.round_training import RoundTraining
from participant.runs.round_update import RoundUpdate
from privacy.errors import LocalError, RefusedError
from privacy.secagg.fixed_point import Buffer
from privacy.secagg.layout import Words
from privacy.secagg.messages import AttemptOffer, Position
from tests.worlds.expect import expect
from tests.worlds.owner import Killed
from tests.worlds.rehearsal import ME, Rehearsal, exact

PLAN = b"\7" * 32
STEPS = ("charge", "train", "store", "record")
ENTRIES = 5


def offer(number: int = 1, attempt: int = 1) -> AttemptOffer:
    return AttemptOffer(Position(PLAN, number, attempt), b"\1" * 32, b"\2" * 32)


class Counter:
    """Notes the steps of a participant's process, in order; a test may kill it at one of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: list[str] = []
        self.kill: Callable[[str, str], None] = lambda step, when: None
        self.start()

    def start(self) -> None:
        """Start a process on the disk as it is."""
        journal = WatchedJournal.open(self.path, PLAN)
        expect(WatchedJournal, journal).counter = self
        self.journal = journal
        self.update = RoundUpdate(journal, self, lambda _, update: update.astype("<u4"), np.dtype("<u4"))

    def note(self, step: str, act: Callable[[], Any]) -> Any:
        """Take a step."""
        self.kill(step, "before")
        result = act()
        self.steps.append(step)
        self.kill(step, "after")
        return result

    def charge(self, number: int) -> None:
        """Charge a round once, in a file."""
        self.note("charge", (self.path / f"charged-{number}").touch)

    def train(self, number: int) -> NDArray[np.int64]:
        """Return another update each time."""
        assert (self.path / f"charged-{number}").exists(), "trained without a charge on disk"
        made: NDArray[np.int64] = self.note("train", lambda: np.full(ENTRIES, -len(self.steps), dtype=np.int64))
        return made

    def ask(self, *, attempt: int = 1, number: int = 1) -> Words:
        """Return the encoded update; it must be durable, as another process would find it."""
        update = self.update.encoded(offer(number, attempt), self.train)
        self.assert_durable(number, update)
        return update

    def assert_durable(self, number: int, update: Words) -> None:
        """Look at the disk alone."""
        again = Journal.open(self.path, PLAN)
        record = again.memory.encoded_in(number)
        assert record is not None, "returned, and so masked, before it was recorded"
        assert again.load(encoded_name(number), record.sha256) == update.tobytes()


class WatchedJournal(Journal):
    """A journal on disk whose steps are noted."""

    counter: Counter | None = None

    def store(self, name: str, data: Buffer) -> Path:
        """Note it."""
        assert self.counter is not None
        return expect(Path, self.counter.note("store", lambda: super(WatchedJournal, self).store(name, data)))

    def append(self, record: Any) -> None:
        """Note it."""
        assert self.counter is not None
        self.counter.note("record", lambda: super(WatchedJournal, self).append(record))


@pytest.fixture
def counter(tmp_path: Path) -> Counter:
    return Counter(tmp_path)


def test_a_round_is_charged_trained_stored_and_recorded_in_this_order_and_once(counter: Counter) -> None:
    first = counter.ask()
    assert counter.steps == list(STEPS)
    assert np.array_equal(counter.ask(attempt=2), first)
    counter.start()
    assert np.array_equal(counter.ask(attempt=3), first), "the bytes on disk, in another process too"
    assert counter.steps == list(STEPS)
    counter.ask(number=2)
    assert counter.steps == [*STEPS, *STEPS]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_a_round_is_charged_before_it_is_trained_and_has_one_update(
    counter: Counter, step: str, when: str
) -> None:
    def kill(at: str, moment: str) -> None:
        if (at, moment) == (step, when):
            raise Killed

    counter.kill = kill
    with pytest.raises(Killed):
        counter.ask()
    counter.kill = lambda *_: None
    counter.start()
    first = counter.ask(attempt=2)
    recorded = (step, when) == ("record", "after")
    trained_before = (step, when) in {("train", "after"), ("store", "before"), ("store", "after"), ("record", "before")}
    assert counter.steps.count("record") == 1, "one update of the round, whatever happened"
    assert counter.steps.count("train") == 1 + trained_before, "what nobody recorded nobody saw: it is drawn anew"
    assert counter.steps[-4:] == list(STEPS) or recorded
    steps = list(counter.steps)
    counter.start()
    assert np.array_equal(counter.ask(attempt=3), first)
    assert counter.steps == steps


@pytest.mark.parametrize("step", ["store", "record"])
def test_a_full_disk_keeps_the_update_in_memory_and_does_not_train_again(counter: Counter, step: str) -> None:
    full = True

    def fail(at: str, moment: str) -> None:
        if full and (at, moment) == (step, "before"):
            raise LocalError("E-DISK-FULL", "no space left")

    counter.kill = fail
    for _ in range(2):
        with pytest.raises(LocalError, match="E-DISK-FULL"):
            counter.ask()
    full = False
    counter.ask()
    assert counter.steps.count("train") == 1


def test_an_update_that_could_not_be_stored_is_no_other_rounds_and_may_be_forgotten(counter: Counter) -> None:
    def fail(at: str, moment: str) -> None:
        if (at, moment) == ("store", "before"):
            raise LocalError("E-DISK-FULL", "no space left")

    counter.kill = fail
    with pytest.raises(LocalError, match="E-DISK-FULL"):
        counter.ask(number=1)
    counter.kill = lambda *_: None
    counter.ask(number=2)
    assert counter.steps.count("train") == 2
    counter.kill = fail
    with pytest.raises(LocalError, match="E-DISK-FULL"):
        counter.ask(number=3)
    counter.kill = lambda *_: None
    counter.update.forget()
    counter.ask(number=3)
    assert counter.steps.count("train") == 4


def test_nothing_is_trained_for_a_round_that_the_budget_does_not_allow(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(number: int) -> None:
        raise RefusedError("E-POLICY-BUDGET", "spent")

    monkeypatch.setattr(counter, "charge", refuse)
    with pytest.raises(RefusedError, match="E-POLICY-BUDGET"):
        counter.ask()
    assert counter.steps == []


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(bytes(4 * ENTRIES))])
def test_a_lost_or_changed_update_is_not_made_again(counter: Counter, damage: Callable[[Path], object]) -> None:
    counter.ask()
    damage(counter.path / encoded_name(1))
    with pytest.raises(LocalError, match="E-STATE-DAMAGED"):
        counter.ask(attempt=2)
    assert counter.steps == list(STEPS)


# --- the same in a daemon, through to the mask ---

Where = tuple[type | object, str, Callable[..., bool]]
PLACES: dict[str, Where] = {  # where a daemon can be killed, between any two of them
    "charge": (Ledger, "charge", lambda *_, **__: True),
    "train": (RoundTraining, "train", lambda *_: True),
    "store the encoded update": (Journal, "store", lambda _, name, __: name.startswith("encoded-")),
    "record the encoded update": (Journal, "append", lambda _, record: isinstance(record, UpdateEncoded)),
    "mask": (masking, "mask", lambda ready, *_: ready.participant.me == ME),
    "store the masked update": (Journal, "store", lambda _, name, __: name.startswith("masked-")),
    "store the shares": (Journal, "store", lambda _, name, __: name.startswith("shares-")),
    "record the masked update": (Journal, "append", lambda _, record: isinstance(record, UpdateMasked)),
}


def killed_once(monkeypatch: pytest.MonkeyPatch, place: Where, when: str) -> None:
    owner, name, applies = place
    original, due = getattr(owner, name), [True]

    @wraps(original)
    def fatal(*arguments: Any, **named: Any) -> Any:
        kill = due[0] and applies(*arguments, **named)
        if kill and when == "before":
            due[0] = False
            raise Killed
        result = original(*arguments, **named)
        if kill:
            due[0] = False
            raise Killed
        return result

    monkeypatch.setattr(owner, name, fatal)


def watched(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Look at the disk at each training and at each masking; return what is masked, as it comes."""
    rehearsal.me.on_training = lambda number: _assert_charged(rehearsal, number)
    masked: list[bytes] = []
    mask = masking.mask

    def looking(ready: Any, update: EncodedUpdate, memory: RunMemory) -> Any:
        if ready.participant.me != ME:
            return mask(ready, update, memory)
        run = rehearsal.me.home.runs / rehearsal.plan.run_id
        record = Journal.open(run, rehearsal.world.plan.hash).memory.encoded_in(ready.position.round)
        assert record is not None, "masked before the encoded update was recorded"
        stored = (run / encoded_name(record.round)).read_bytes()
        assert hashlib.sha256(stored).digest() == record.sha256
        assert stored == update.words.tobytes(), "masked something else than what lies on disk"
        masked.append(stored)
        return mask(ready, update, memory)

    monkeypatch.setattr(masking, "mask", looking)
    return masked


def _assert_charged(rehearsal: Rehearsal, number: int) -> None:
    assert number in [charge.round for charge in rehearsal.charges()], "trained without a charge on disk"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("place", PLACES)
def test_a_daemon_killed_between_any_two_steps_charges_once_and_masks_only_what_is_on_disk(
    place: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal = Rehearsal(tmp_path / ME)
    rehearsal.propose()
    masked = watched(rehearsal, monkeypatch)
    killed_once(monkeypatch, PLACES[place], when)
    rehearsal.open()
    rehearsal.phase()
    rehearsal.phase()
    rehearsal.ask_me()  # killed, started again, and asked again
    resumed = (place, when) == ("record the masked update", "after")
    assert (ME in rehearsal.machine.answered()) == resumed, "the keys of the attempt lived in memory alone"
    if not resumed:
        rehearsal.open(1, 2)
        rehearsal.phase()
        rehearsal.phase()
        rehearsal.ask_me()
    rehearsal.ask_others()
    rehearsal.machine.close()
    while rehearsal.machine.phase.name != "RESULT":
        rehearsal.phase()
    assert ME in exact(rehearsal, rehearsal.finish())
    assert [charge.round for charge in rehearsal.charges()] == [1]
    assert len(set(masked)) == 1, "each attempt masks the same bytes"
    unrecorded = place in ("train", "store the encoded update") or (place, when) == (
        "record the encoded update",
        "before",
    )
    drawn_twice = unrecorded and (place, when) != ("train", "before")
    assert rehearsal.me.trained == [1] * (1 + drawn_twice)
    assert len({upload.sha256 for upload, _ in rehearsal.me.link.uploads}) == 1, "one masked update has ever left"


def test_a_daemon_that_lost_what_it_encoded_abstains_for_the_rest_of_the_round(tmp_path: Path) -> None:
    rehearsal = Rehearsal(tmp_path / ME)
    rehearsal.propose()
    rehearsal.open()
    rehearsal.phase()
    rehearsal.phase()
    rehearsal.ask_me()
    (rehearsal.me.home.runs / rehearsal.plan.run_id / encoded_name(1)).unlink()
    for attempt in (2, 3):
        rehearsal.restart()
        rehearsal.open(1, attempt)
        rehearsal.phase()
        rehearsal.phase()
        rehearsal.me.link.take()
        rehearsal.ask_me()
        assert ME not in rehearsal.machine.awaited() | rehearsal.machine.answered()
    assert rehearsal.me.trained == [1]
