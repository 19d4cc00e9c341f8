"""A coordinator and participants, all of them real daemons on disk, in one thread; any of them may die at any step.

Guarantees: what a side finds after its death is what it had made durable; nothing else is carried over. Every message
passes through the same code as over the network, but the network itself. Time is virtual.
Leaves to others: which step (``durable_steps``), what is tried (``tests.crash_matrix``).
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from unittest.mock import patch

import numpy as np

from coordinator.config import Durations
from coordinator.database.run_rows import RunState
from coordinator.database.store import Store
from host import durable
from methods.global_adapter import unit
from participant.daemon.runner import Runner
from participant.link.delivery import Backoff, Sender
from participant.runs.journal import Journal
from privacy.errors import LocalError, NetworkError, OnlysumError
from privacy.ledger_entries import Charge
from privacy.plan_parts import Mode
from privacy.secagg.fixed_point import Buffer
from privacy.secagg.messages import Advertisement, Position, Receipt, ShareBundle, SurvivorSignature, UnmaskShares
from protos import codec
from protos.envelope import (
    ContentRef,
    Hello,
    MessageWithHeads,
    NumberedTask,
    Submission,
    UploadAnnounced,
    Welcome,
)
from tests.worlds.coordinator import RUN_ID, World
from tests.worlds.durable_steps import DurableSteps, Kill
from tests.worlds.owner import Killed, OwnerDirectory, policy_text

T = TypeVar("T")
Once = Advertisement | ShareBundle | Receipt | SurvivorSignature | UnmaskShares
COORDINATOR: Final = "coordinator"
UNITS: Final = 100  # of each participant in the tests' plans
IDLE_SECONDS: Final = 30.0  # by which time leaps when nobody has anything to do
TURNS: Final = 300  # after which a run counts as hung: one without a fault takes fewer than 60
DURATIONS: Final = Durations(phase_seconds=60, update_seconds=120, gather_seconds=20, evaluation_seconds=20)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was not as it must be, in words."""

    wrong_sums: list[str]
    counted_twice: list[str]
    hung: list[str]
    others: list[str]

    def __str__(self) -> str:
        return "; ".join([*self.wrong_sums, *self.counted_twice, *self.hung, *self.others])


@dataclass
class Said:
    """What all participants have sent in rounds, whether or not it arrived, by what may be said once."""

    messages: dict[tuple[str, str, tuple[int, ...]], set[bytes]] = field(default_factory=lambda: defaultdict(set))

    def note(self, message: Submission) -> None:
        """Take note of a message."""
        match message:
            case MessageWithHeads():
                self.note(message.message)
            case SurvivorSignature() | UnmaskShares():  # once in a round, whatever the attempt
                self._note(message, (message.position.round,))
            case Advertisement() | ShareBundle() | Receipt():
                self._note(message, message.position.order)

    def _note(self, message: Once, place: tuple[int, ...]) -> None:
        self.messages[message.sender, type(message).__name__, place].add(codec.encode_submission(message))

    def twice(self) -> list[str]:
        """Return who said two different things where one may be said."""
        return [f"{key}: {len(said)}" for key, said in self.messages.items() if len(said) > 1]


class DirectLink:
    """A participant's connection without a network: the coordinator's death is one of the connection."""

    def __init__(self, crashing: CrashingFederation, name: str) -> None:
        self._world = crashing
        self._name = name

    def handshake(self, hello: Hello) -> Welcome:
        """Say the first words."""
        return self._world.call(lambda: self._world.runner.handshake(self._name, hello))

    def poll(
        self, seen: frozenset[bytes], wait_seconds: float, most: Callable[[], int] = lambda: 0
    ) -> Generator[NumberedTask, None, None]:
        """Yield a task, if there is one."""
        task = self._world.call(lambda: self._world.runner.next_task(self._name, seen, 0))
        if task is not None:
            yield task

    def submit(self, submission: Submission) -> None:
        """Send a message."""
        self._world.said.note(submission)
        data = codec.encode_submission(submission)
        read = codec.decode_submission(data, sender=self._name)
        self._world.call(lambda: self._world.runner.submit(self._name, read, data))

    def upload(self, upload: UploadAnnounced, masked: Buffer) -> None:
        """Send a masked update in two chunks, from where the coordinator says."""
        data, half = bytes(masked), len(masked) // 2
        at = (upload.run_id, upload.position, upload.sha256)
        offset = self._world.call(lambda: self._world.runner.upload_offset(self._name, *at, len(data)))
        while offset < len(data):
            chunk = (offset, data[offset : half if offset < half else None])
            offset = self._world.call(partial(self._write, at, chunk))

    async def _write(self, at: tuple[str, Position, bytes], chunk: tuple[int, bytes]) -> int:
        return await self._world.runner.write_chunk(self._name, *at, *chunk)

    def download_bytes(self, ref: ContentRef) -> bytes:
        """Return some content."""

        async def whole() -> bytes:
            return b"".join([data async for data in self._world.runner.read_content(self._name, ref.sha256, 0)])

        return self._world.call(whole)

    def download(self, ref: ContentRef, destination: Path) -> None:
        """Bring some content into a file."""
        part = destination.with_name(f"{destination.name}.part")
        part.write_bytes(self.download_bytes(ref))
        durable.adopt(part, destination)

    def close(self) -> None:
        """Nothing to close."""


class CrashingOwner:
    """A data owner's daemon, started again from its disk after each death."""

    def __init__(self, crashing: CrashingFederation, name: str) -> None:
        self._world = crashing
        self.name = name
        others = [other for other in crashing.world.keys if other != name]
        path = crashing.directory / name
        self.owner = OwnerDirectory(path, name=name, plan=crashing.world.plan, policy=policy_text(roster=others))
        self.owner.clock = crashing.world.clock
        self.owner.link = DirectLink(crashing, name)  # type: ignore[assignment]  # its daemon sees a Link
        self.present = True
        self.hangs = False  # it is connected, and takes no task
        self._daemon: Runner | None = None
        self._greeted = False  # the coordinator, since either was started
        self._polls = ExitStack()  # holds the poll that is in flight, as it is nearly always

    def poll(self) -> None:
        """Let the long poll begin of a daemon that runs, in place of the one before: time may leap meanwhile."""
        self._polls.close()
        if self.present and self._daemon is not None and self._greeted:
            self._polls.enter_context(self._world.runner.liveness.poll(self.name))

    def step(self) -> bool:
        """Take the next task; return whether there was one. A daemon that dies is started again with the next step."""
        if not self.present or self.hangs:
            return False
        try:
            return self._step()
        except Killed:
            self._end()
            self._world.steps.revive(self.name)
            return True
        except NetworkError:  # the coordinator died: what the poller does with a broken connection
            self._greeted = False
            return True

    def _step(self) -> bool:
        if self._daemon is None:
            self._start()
        daemon = self._daemon
        assert daemon is not None
        if not self._greeted:
            hello = daemon._poller._hello(daemon._work.review.offers())
            daemon._compare(daemon._link.handshake(hello))
            self._greeted = True
        daemon._reconsider()
        daemon._sweep_if_due()
        task = next(daemon._link.poll(daemon._inbox.seen(), 0), None)
        if task is None:
            return False
        self._world.on_task(self.name, task)
        if not self.present or self.hangs:
            return True
        daemon._inbox.put(task)
        assert daemon._inbox.get(0) is task
        daemon._take(task)
        return True

    def _start(self) -> None:
        self._daemon, self._greeted = self.owner.daemon(), False
        self._daemon._sweep()
        self._daemon._runs.prepare_all()

    def _end(self) -> None:
        if self._daemon is not None:
            self._daemon._work.ledger.close()
            self._daemon._work.review._ledger.close()
        self._daemon = None

    def close(self) -> None:
        """Close what a process's end would close."""
        self._end()

    def troubles(self) -> list[str]:
        """Return what a participant may not be left with: a run or budget that it gave up, or files of no use."""
        daemon, found = self._daemon, []
        if daemon is not None and daemon._runs.rolled_back is not None:
            found.append(f"takes part in nothing: {daemon._runs.rolled_back}")
        memory = Journal.open(self.owner.home.runs / RUN_ID, self._world.world.plan.hash).memory
        if memory.refused:
            found.append(f"refused the run: {memory.refused}")
        if left := sorted(path.name for path in (self.owner.home.runs / RUN_ID).glob("*-*")):
            found.append(f"has files of no use: {left}")
        return found

    def records(self) -> set[str]:
        """Return the kinds of the records in its journal."""
        journal = self.owner.home.runs / RUN_ID / "journal"
        lines = journal.read_bytes().splitlines() if journal.exists() else []  # it may never have taken part
        return {str(json.loads(line)["record"]["kind"]) for line in lines}

    def charged(self) -> list[int]:
        """Return the rounds that its ledger was charged for."""
        ledger = self.owner.ledger()
        try:
            return [record.entry.round for record in ledger.rows() if isinstance(record.entry, Charge)]
        finally:
            ledger.close()


class CrashingFederation:
    """A coordinator and its participants, one of whom dies once.

    Args:
        directory: of all of them.
        database: URL of the coordinator's, which is empty.
        kill: who dies where, or nobody.
        mode: of privacy.
        members: of the roster.
        rounds: of the run.
    """

    def __init__(
        self,
        directory: Path,
        database: str,
        kill: Kill | None = None,
        *,
        mode: Mode = "distributed",
        members: int = 4,
        rounds: int = 2,
    ) -> None:
        self.directory = directory
        self.said = Said()
        (directory / COORDINATOR).mkdir()
        self._loop = asyncio.new_event_loop()
        self.world = World(
            directory / COORDINATOR,
            n=members,
            rounds=rounds,
            mode=mode,
            database=database,
            evaluated=True,
            durations=DURATIONS,
        )
        self.runner = self.world.runner
        self.owners = {name: CrashingOwner(self, name) for name in sorted(self.world.keys)}
        roots = {name: directory / name for name in (COORDINATOR, *self.owners)}
        self.steps = DurableSteps(roots, databases=COORDINATOR, kill=kill)
        self.on_task: Callable[[str, NumberedTask], None] = lambda name, task: None
        self.on_turn: Callable[[], None] = lambda: None

    # --- the coordinator ---

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Call the coordinator; if it dies of it, it is started again and the connection is broken."""
        try:
            return self._loop.run_until_complete(make())
        except Killed:
            self._restart_coordinator()
            raise NetworkError("E-NET-LOST", "the coordinator died") from None
        except LocalError as error:
            raise NetworkError("E-NET-FAILED", str(error)) from error

    def _restart_coordinator(self) -> None:
        self._forget_memory()
        self.steps.revive(COORDINATOR)
        self.world.store = Store.open(self.world.settings.database_url(self.world.home))
        self.runner = self.world.runner = self.world.daemon()
        self._loop = asyncio.new_event_loop()

    def _forget_memory(self) -> None:
        """Let what the process had under way come to nothing: whatever it tries to make durable kills it again."""
        for task in (tasks := asyncio.all_tasks(self._loop)):
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        self.world.store.close()

    def tick(self) -> None:
        """Move the coordinator on."""
        with suppress(NetworkError):
            self.call(self._tick)

    async def _tick(self) -> None:
        await self.runner.tick()
        await self.world.evaluate()

    def order(self, command: Callable[[], object]) -> None:
        """Give an order as its operator would: again, if the machine died of it, or its disk refused it.

        One that came too late is none.
        """
        for _ in range(2):
            try:
                command()
            except Killed:
                self._restart_coordinator()
            except OnlysumError as error:
                if not error.code.startswith("E-DISK-"):
                    return
            else:
                return

    # --- all of it ---

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the steps, and let nobody wait in real time, while the block runs."""

        def pause(*_: object) -> None:
            self.world.clock.seconds += 1.0
            self.tick()

        with ExitStack() as stack:
            stack.enter_context(self.steps.watching())
            stack.enter_context(patch.object(Backoff, "wait", pause))
            stack.enter_context(patch.object(Sender, "pause", pause))
            stack.callback(self.close)
            yield

    def run(self) -> None:
        """Let everybody act until the run has ended and everybody knows it; a run that hangs is left as it is."""
        idle = 0
        for _ in range(TURNS):
            self.on_turn()
            for owner in self.owners.values():
                owner.poll()
            self.tick()
            busy = [owner.step() for owner in self.owners.values()]
            idle = 0 if any(busy) else idle + 1
            if idle:
                if self.ended and idle > 3:  # by then whoever could not erase something has tried again
                    return
                self.world.clock.seconds += IDLE_SECONDS

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.world.state().state.ended

    def close(self) -> None:
        """Close what the end of all processes would close."""
        for owner in self.owners.values():
            owner.close()
        self._forget_memory()

    # --- what must be so ---

    def counted(self) -> dict[int, dict[str, float]]:
        """Return how often each participant was counted in each round's sum, from the adapters before and after it."""
        plan, before, found = self.world.plan, self.world.adapter(0), {}
        for done in self.world.rounds():
            after = self.world.adapter(done.round)
            step = unit(plan, done.round) / (float(plan.privacy.sampling_rate) * UNITS * max(1, done.survivors))
            move = (before - after).astype(np.float64) / step  # the optimizer goes against the sum of gradients
            found[done.round] = {name: round(float(move[plan.index(name)]), 2) for name in self.owners}
            before = after
        return found

    def survivors(self) -> dict[int, tuple[str, ...]]:
        """Return who is in each round's certificate; nobody where a round was voided."""
        return {
            done.round: () if done.voided else codec.decode_certificate(done.certificate, sender="c").survivors.ids
            for done in self.world.rounds()
        }

    def verdict(self, state: RunState, *, rounds: int, voided: int) -> Verdict:
        """Compare how it ended with how it must end.

        Args:
            state: of the run.
            rounds: that are over.
            voided: how many of them have no sum.
        """
        ended, survivors = self.world.state(), self.survivors()
        self.found = survivors
        self.attempts = [(at.round, at.attempt, at.state) for at in self.world.attempts()]
        self.records = {kind for owner in self.owners.values() for kind in owner.records()}
        said = self.said.twice()
        twice = [f"{name} was charged for {rounds}" for name, rounds in self._charged().items() if _repeats(rounds)]
        wrong = []
        for number, times in self.counted().items():
            if times != {name: float(name in survivors[number]) for name in self.owners}:
                wrong.append(f"round {number} has {times}, and its certificate {survivors[number]}")
            twice += [f"round {number} has {name} {often} times" for name, often in times.items() if often > 1]
        others = [] if len(survivors) == rounds else [f"{len(survivors)} rounds are over, and not {rounds}"]
        if (without := list(survivors.values()).count(())) != voided:
            others.append(f"{without} rounds have no sum, and not {voided}")
        if ended.state is not state:
            others.append(f"the run ended as {ended.state.value}: {ended.code} {ended.reason}")
        for owner in self.owners.values():
            others += [f"{owner.name}: {trouble}" for trouble in owner.troubles()]
        if any((self.world.settings.spool_path(self.world.home)).glob("*/*/*")):
            others.append("uploads are left in the spool")
        return Verdict(
            wrong_sums=wrong,
            counted_twice=twice + said,
            hung=[] if ended.state.ended else ["the run has not ended"],
            others=others if ended.state.ended else [],
        )

    def _charged(self) -> dict[str, list[int]]:
        return {name: owner.charged() for name, owner in self.owners.items()}


def _repeats(rounds: Sequence[int]) -> bool:
    return len(set(rounds)) < len(rounds)
