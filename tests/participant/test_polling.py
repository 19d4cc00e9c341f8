"""A poll brings many tasks, and is left where another has to name other things."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from protos.envelope import NumberedTask, RunEnded
from tests.worlds.owner import OwnerDirectory, RecordingLink, owned_plan


def ended(number: int) -> NumberedTask:
    return NumberedTask(bytes([number]) * 16, RunEnded(f"{number:032x}", "completed", ""))


@dataclass
class Polled(RecordingLink):
    """A coordinator that has tasks; it notes what each poll names, how many tasks it took, and whether it was left."""

    tasks: tuple[NumberedTask, ...] = ()
    polls: list[frozenset[bytes]] = field(default_factory=list)
    taken: list[NumberedTask] = field(default_factory=list)
    left: int = 0
    then: Callable[[], object] = lambda: None  # after the first task of a poll

    def poll(
        self, seen: frozenset[bytes], wait_seconds: float, most: Callable[[], int] = lambda: 0
    ) -> Generator[NumberedTask, None, None]:
        self.polls.append(seen)
        try:
            for task in self.tasks:
                if task.id not in seen:
                    self.taken.append(task)
                    yield task
                    self.then()
        except GeneratorExit:
            self.left += 1
            raise


@pytest.fixture
def owner(tmp_path: Path) -> OwnerDirectory:
    return OwnerDirectory(tmp_path / "alice", plan=owned_plan(mode="distributed"))


def test_one_poll_hands_on_every_task_that_it_brings(owner: OwnerDirectory) -> None:
    owner.link = link = Polled(tasks=(ended(1), ended(2), ended(3)))
    poller = owner.daemon()._poller
    poller._poll()
    assert [poller._inbox.get(0) for _ in range(4)] == [ended(1), ended(2), ended(3), None]
    assert (link.polls, link.left) == ([frozenset()], 0)


def test_a_task_that_is_put_back_ends_the_poll_and_the_next_one_brings_it_again(owner: OwnerDirectory) -> None:
    owner.link = link = Polled(tasks=(ended(1), ended(2), ended(3)))
    poller = owner.daemon()._poller
    inbox, tasks = poller._inbox, iter(link.tasks)

    def put_back_once() -> None:
        if next(tasks, None) == ended(1):
            inbox.put_back(ended(1))

    link.then = put_back_once
    poller._poll()
    assert link.taken == [ended(1), ended(2)], "what came when it was put back was taken, and no more"
    assert link.left == 1
    poller._poll()
    assert link.polls == [frozenset(), frozenset({ended(2).id})]
    assert link.taken[2:] == [ended(1), ended(3)]
    assert not inbox.outdated


@pytest.mark.parametrize("why", ["rests", "stops"])
def test_a_participant_that_rests_or_stops_leaves_its_poll(
    owner: OwnerDirectory, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    owner.link = link = Polled(tasks=(ended(1), ended(2)))
    poller = owner.daemon()._poller
    if why == "rests":
        monkeypatch.setattr(poller, "_resting", lambda: True)
    else:
        poller._stop_event.set()
    poller._poll()
    assert (link.taken, link.left) == ([ended(1)], 1)
