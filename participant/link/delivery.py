"""Brings messages to the coordinator over a network that fails, and tasks back.

Guarantees: a message is repeated, byte for byte, until it is accepted, refused, or no longer wanted; trouble on the
network is logged once per class, with the next step, and never ends the daemon; a task is handed out once unless it is
put back.
Leaves to others: the connection itself (``channel``), what tasks mean (``participation``).
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from pathlib import Path
from secrets import SystemRandom
from typing import Final, Protocol, TypeVar

from host import durable
from host.logs import get_logger
from privacy.errors import NetworkError, OnlysumError, PeerError, Phase
from privacy.secagg.fixed_point import Buffer
from privacy.secagg.messages import Position
from protos.envelope import (
    AttemptAborted,
    AttemptOpened,
    ContentRef,
    Hello,
    NumberedTask,
    RoundCompleted,
    RoundVoided,
    RunEnded,
    Submission,
    Task,
    UploadAnnounced,
    Welcome,
)

FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 30.0
REMEMBERED_TASKS: Final = 512  # more than can be current at a time; a forgotten one is merely looked at again
CURRENT_TASKS: Final = 4  # of a run whose next attempt is open: its offer, and how the last round and attempt ended
_FOREVER: Final = (2**63, 0)  # later than any (round, attempt)

T = TypeVar("T")
_log = get_logger("onlysum.participant")


class Link(Protocol):
    """A connection to the coordinator; ``participant.link.channel`` is the one over gRPC. Two threads call it."""

    def handshake(self, hello: Hello) -> Welcome:
        """Say who this is and learn what was last seen of it."""
        ...

    def poll(
        self, seen: frozenset[bytes], wait_seconds: float, most: Callable[[], int] = ...
    ) -> Generator[NumberedTask, None, None]:
        """Yield current tasks that are not among the seen ones, and those that come in the given time."""
        ...

    def submit(self, submission: Submission) -> None:
        """Send a message; it is durable at the coordinator when this returns."""
        ...

    def upload(self, upload: UploadAnnounced, masked: Buffer) -> None:
        """Send a masked update, from where an earlier try broke off."""
        ...

    def download_bytes(self, ref: ContentRef) -> bytes:
        """Return some content whose hash and length are as announced."""
        ...

    def download(self, ref: ContentRef, destination: Path) -> None:
        """Bring such content into a file, durably, holding little of it in memory."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


class Stopping(Exception):
    """The daemon was asked to stop while something waited."""


class Superseded(Exception):
    """What was to be sent is no longer wanted: its attempt has closed."""


class Backoff:
    """Pauses that double, with jitter, and end early when the daemon stops."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._next = FIRST_PAUSE_SECONDS
        self._jitter = SystemRandom()

    def reset(self) -> None:
        """Begin again with the shortest pause."""
        self._next = FIRST_PAUSE_SECONDS

    def lengthen(self) -> None:
        """Let the next pause be the longest."""
        self._next = LONGEST_PAUSE_SECONDS

    def wait(self) -> None:
        """Pause, or raise :class:`Stopping`."""
        pause = self._next * self._jitter.uniform(0.5, 1.0)
        self._next = min(LONGEST_PAUSE_SECONDS, self._next * 2)
        if self._stop.wait(pause):
            raise Stopping


class OutageLog:
    """Logs what is wrong with the network once, and that it is over."""

    def __init__(self) -> None:
        self.code: str | None = None

    def met(self, error: OnlysumError) -> None:
        """Log a class of trouble unless it was the last one logged."""
        if error.code != self.code:
            self.code = error.code
            _log.warning("not connected", code=error.code, detail=error.detail, next=error.explanation.next_step)

    def over(self) -> None:
        """Log that the coordinator answers again."""
        if self.code is not None:
            _log.info("connected again")
        self.code = None


class TaskQueue:
    """Tasks on their way from the polling thread to the working one."""

    def __init__(self) -> None:
        # A coordinator that tells more than can be current is not heard until these are worked off.
        self._queue: queue.Queue[NumberedTask | Welcome] = queue.Queue(REMEMBERED_TASKS)
        self._seen: OrderedDict[bytes, str] = OrderedDict()  # runs, by the ids of their tasks
        self._closed: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._asked_again = False

    def put(self, item: NumberedTask | Welcome) -> None:
        """Take a task, or the answer to a handshake, which must be looked at before the tasks after it."""
        if isinstance(item, NumberedTask):
            with self._lock:
                self._seen[item.id] = item.task.run_id
                if isinstance(item.task, AttemptOpened):
                    self._forget_before(item.task.run_id)
                while len(self._seen) > REMEMBERED_TASKS:
                    self._seen.popitem(last=False)
                self._note_closed(item.task)
        self._queue.put(item)

    def _forget_before(self, run_id: str) -> None:
        """Forget a run's tasks before its newest ones: they do not come again, and every poll names what was seen."""
        of_run = [task for task, run in self._seen.items() if run == run_id]
        for task in of_run[:-CURRENT_TASKS]:
            del self._seen[task]

    def get(self, timeout: float) -> NumberedTask | Welcome | None:
        """Return the next item, or ``None`` after a while."""
        try:
            return self._queue.get(timeout=timeout)
        except queue.Empty:
            return None

    def put_back(self, task: NumberedTask) -> None:
        """Let the coordinator ask again, if the task is still current."""
        with self._lock:
            self._seen.pop(task.id, None)
            self._asked_again = True

    def seen(self) -> frozenset[bytes]:
        """Return the ids of the tasks that were handed in: what a new poll names."""
        with self._lock:
            self._asked_again = False
            return frozenset(self._seen)

    @property
    def outdated(self) -> bool:
        """Whether a task was put back since the last poll began, which only another poll brings again."""
        return self._asked_again

    def is_open(self, run_id: str, position: Position) -> bool:
        """Return whether no task has come that closes an attempt: asked before long work, so that none is wasted."""
        with self._lock:
            return self._closed.get(run_id, (0, 0)) < position.order

    def _note_closed(self, task: Task) -> None:
        match task:
            case RunEnded():
                closed = _FOREVER
            case RoundCompleted():
                closed = (task.certificate.position.round + 1, 0)
            case RoundVoided():
                closed = (task.voided.round + 1, 0)
            case AttemptAborted():
                closed = task.position.order
            case AttemptOpened():
                closed = (task.offer.position.round, task.offer.position.attempt - 1)
            case _:
                return
        self._closed[task.run_id] = max(closed, self._closed.get(task.run_id, (0, 0)))


class Sender:
    """Sends over whichever link stands, and waits while none does."""

    def __init__(self, link: Link, stop: threading.Event, queue: TaskQueue) -> None:
        self._link = link
        self._stop = stop
        self._inbox = queue
        self._trouble = OutageLog()

    def submit(self, submission: Submission, *, of: tuple[str, Position] | None = None) -> None:
        """Send a message until it is accepted.

        Args:
            submission: the message.
            of: the run and attempt that it belongs to, after whose end it is no longer wanted.

        Raises:
            OnlysumError: the coordinator refused it.
            Superseded: the attempt has closed.
            Stopping: the daemon stops.
        """
        self._until_done(lambda: self._link.submit(submission), of)

    def upload(self, upload: UploadAnnounced, masked: Buffer) -> None:
        """Send a masked update until all of it is there; raises as :meth:`submit`."""
        self._until_done(lambda: self._link.upload(upload, masked), (upload.run_id, upload.position))

    def download(self, content: ContentRef, *, of: tuple[str, Position] | None = None) -> bytes:
        """Return some content, checked again here against hash and length; raises as :meth:`submit`."""
        data = self._until_done(lambda: self._link.download_bytes(content), of)
        if len(data) != content.length or hashlib.sha256(data).digest() != content.sha256:
            raise _another_content(content)
        return data

    def download_file(self, content: ContentRef, path: Path) -> None:
        """Bring some content into a file, durable when this returns; long content is never in memory whole.

        Raises:
            PeerError: ``E-WIRE-CHUNK``, it is not what its hash announced; there is no file then.
            OnlysumError: as :meth:`submit`.
        """
        self._until_done(lambda: self._link.download(content, path), None)
        if path.stat().st_size != content.length or durable.sha256(path) != content.sha256:
            path.unlink()
            raise _another_content(content)

    def pause(self, seconds: float) -> None:
        """Wait, or raise :class:`Stopping`."""
        if self._stop.wait(max(0.0, seconds)):
            raise Stopping

    def still_wanted(self, run_id: str, position: Position) -> None:
        """Raise :class:`Superseded` if a task that closes this attempt has come."""
        if not self._inbox.is_open(run_id, position):
            raise Superseded

    def _until_done(self, call: Callable[[], T], of: tuple[str, Position] | None) -> T:
        backoff = Backoff(self._stop)
        while True:
            if self._stop.is_set():
                raise Stopping
            if of is not None:
                self.still_wanted(*of)
            try:
                result = call()
            except NetworkError as error:
                self._trouble.met(error)
                backoff.wait()
                continue
            self._trouble.over()
            return result


def _another_content(content: ContentRef) -> PeerError:
    rule = f"content of {content.length} bytes is not what its hash announced"
    return PeerError.by_coordinator("E-WIRE-CHUNK", Phase.DOWNLOAD, rule)
