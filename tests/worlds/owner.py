"""A data owner in tests: a directory on disk with identity, policy, ledger and a dataset, and a link that records."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from host.state_format import write_format
from participant.config import FORMAT, Settings, settings_template
from participant.daemon.runner import Runner
from participant.home import Home
from participant.link.delivery import Sender, TaskQueue
from participant.owner.approval import Owner, PlanReview
from participant.owner.ledger import Ledger
from participant.owner.plan_store import PlanStore
from participant.owner.registry import DatasetEntry, ModelEntry, Registry
from participant.runs.context import DaemonContext
from participant.runs.evaluator import Measured
from participant.training.trainer import OneHotTrainer, Progress, Sums
from privacy.evaluation import Metric
from privacy.plan import Plan
from privacy.secagg.fixed_point import Buffer
from privacy.secagg.keys import SigningKey
from protos.envelope import (
    ContentRef,
    HeadsShown,
    Hello,
    LedgerHead,
    MessageWithHeads,
    NumberedTask,
    Role,
    Submission,
    Task,
    UploadAnnounced,
    Welcome,
)
from tests.worlds.coordinator import initial_adapter
from tests.worlds.federation import SeededSource, VirtualClock
from tests.worlds.plans import CREATED_AT, OPERATOR, make_plan, names, signing_key

AUTHORITY = "ab" * 32
INITIAL_ADAPTER = initial_adapter(12)
OTHERS = names(5)[1:]
NO_HEAD = LedgerHead(0, bytes(32))


def content(data: bytes) -> ContentRef:
    """Return the reference under which some bytes are downloaded."""
    return ContentRef(hashlib.sha256(data).digest(), len(data))


def owned_plan(*, recipe: dict[str, Any] | None = None, **overrides: Any) -> Plan:
    """Return a plan whose initial adapter can be downloaded."""
    adapter = {"initial_hash": hashlib.sha256(INITIAL_ADAPTER).hexdigest()}
    return make_plan(recipe={"adapter": adapter} | (recipe or {}), **overrides)[0]


def pins(others: Iterable[str], length: int = 32) -> str:
    """Return the lines of a policy that pin these members."""
    return "\n".join(
        f'{member} = "{hashlib.sha256(signing_key(member).public).hexdigest()[:length]}"' for member in others
    )


def policy_text(
    *, approval: str = "by-policy", roster: Iterable[str] = OTHERS, base: str = "", more: str = "", wards: str = ""
) -> str:
    """Return a policy that allows the tests' plans."""
    return f"""
[approval]
mode = "{approval}"
{more}
[coordinator]
ca_fingerprint = "{AUTHORITY}"
[coordinator.roster]
{pins(roster)}
[population.patients]
unit = "example"
lifetime_epsilon = 40
lifetime_delta = 1e-6
per_run_epsilon = 30
per_run_delta = 1e-5
[dataset.digits]
population = "patients"
modes = ["distributed", "none"]
bases = ["{base or make_plan()[0].recipe.base.hash}"]
methods = ["ffa-lora"]
{wards}
"""


class Killed(BaseException):
    """kill -9: nothing after it runs."""


@dataclass
class RecordingLink:
    """A connection that keeps what is sent, serves what may be downloaded, and can be cut, refused or killed."""

    contents: dict[bytes, bytes] = field(default_factory=dict)
    sent: list[Submission] = field(default_factory=list)
    uploads: list[tuple[UploadAnnounced, bytes]] = field(default_factory=list)
    heads: list[HeadsShown] = field(default_factory=list)  # apart from the messages that they announce
    before: Callable[[str], None] = lambda what: None
    after: Callable[[str], None] = lambda what: None
    welcome_head: LedgerHead = NO_HEAD

    def handshake(self, hello: Hello) -> Welcome:
        """Answer with what the test has seen."""
        return self.welcome()

    def welcome(self) -> Welcome:
        """Return what a handshake is answered with."""
        return Welcome(1, "0", "test-federation", self.welcome_head, (), ())

    def poll(
        self, seen: frozenset[bytes], wait_seconds: float, most: Callable[[], int] = lambda: 0
    ) -> Generator[NumberedTask, None, None]:
        """Nothing to do."""
        yield from ()

    def submit(self, submission: Submission) -> None:
        """Keep a message, and the heads that come with it: both, or neither."""
        parts = (submission.heads, submission.message) if isinstance(submission, MessageWithHeads) else (submission,)
        for part in parts:
            self.before(type(part).__name__)
        for part in parts:
            if isinstance(part, HeadsShown):
                self.heads.append(part)
            else:
                self.sent.append(part)
        for part in parts:
            self.after(type(part).__name__)

    def upload(self, upload: UploadAnnounced, masked: Buffer) -> None:
        """Keep an upload."""
        self.before("upload")
        self.uploads.append((upload, bytes(masked)))
        self.after("upload")

    def download_bytes(self, ref: ContentRef) -> bytes:
        """Serve some content."""
        self.before("download")
        return self.contents[ref.sha256]

    def download(self, ref: ContentRef, destination: Path) -> None:
        """Serve some content into a file."""
        destination.write_bytes(self.download_bytes(ref))

    def close(self) -> None:
        """Nothing to close."""

    def take(self) -> list[Submission]:
        """Return what was sent since the last call."""
        sent, self.sent = self.sent, []
        return sent


class OwnerDirectory:
    """A participant's directory; every daemon made from it finds what the one before left on disk."""

    def __init__(self, path: Path, *, name: str = "alice", plan: Plan, policy: str | None = None) -> None:
        self.home = Home(path)
        self.home.make()
        self.home.identity.mkdir(mode=0o700)
        self.name = name
        self.identity: SigningKey = signing_key(name)
        self.clock = VirtualClock()
        self.clock.seconds = CREATED_AT + 60.0
        self.link = RecordingLink()
        write_format(self.home.directory, FORMAT)
        self.home.config.write_text(settings_template(name))
        self.write_policy(policy or policy_text())
        self.registry = Registry(self.home)
        base = plan.recipe.base
        units = next((member.units for member in plan.roster if member.id == name), 100)
        self.registry.add(ModelEntry(name=base.name, path="/models/tiny", added_at=0, files=base.files))
        self.registry.add(
            DatasetEntry(name="digits", path="/data/digits.csv", added_at=0, rows=units, population="patients")
        )
        Ledger.create(
            path / "ledger.db", owner=name, key=self.identity, member=self.identity.public, at=CREATED_AT
        ).close()
        self.settings = Settings(name=name)
        self.trained: list[int] = []
        self.on_training: Callable[[int], None] = lambda number: None
        self.on_prepare: Callable[[], None] = lambda: None
        self.starts = 0

    def write_policy(self, text: str) -> None:
        """Replace the policy."""
        self.home.policy.write_text(text)

    def ledger(self) -> Ledger:
        """Open the ledger."""
        return Ledger.open(self.home.directory / "ledger.db", key=self.identity, member=self.identity.public)

    def review(self) -> PlanReview:
        """Return where this owner's plans are decided."""
        owner = Owner(self.name, "test-federation", self.identity, AUTHORITY)
        return PlanReview(self.home, owner, PlanStore(self.home, OPERATOR.public), self.ledger(), self.clock)

    def daemon(self, role: Role = Role.PARTICIPANT) -> Runner:
        """Start a daemon, as after a restart: all it knows is on disk."""
        self.starts += 1
        stop, queue, review = threading.Event(), TaskQueue(), self.review()
        work = DaemonContext(
            home=self.home,
            settings=self.settings,
            owner=Owner(self.name, "test-federation", self.identity, AUTHORITY),
            review=review,
            ledger=self.ledger(),
            sender=Sender(self.link, stop, queue),
            clock=self.clock,
            random=SeededSource(f"{self.name}/{self.starts}"),
            make_trainer=lambda job: _Watched(self, OneHotTrainer(job.verified.plan, job.me)),
            show_progress=lambda run_id, round_number: lambda done, total: None,
        )
        measure = lambda job, adapter: Measured(10, (Metric("accuracy", "0.7"),), b"\2" * 32)  # noqa: E731
        return Runner(work, role, link=self.link, queue=queue, stop=stop, measure=measure)


class _Watched:
    """A one-hot trainer that says when it trains."""

    kept: NDArray[np.float32] | None = None
    earlier: Sums = ()
    summed: NDArray[np.int64] | None = None

    def __init__(self, owner: OwnerDirectory, inner: OneHotTrainer) -> None:
        self._owner = owner
        self._inner = inner

    def prepare(self) -> None:
        self._owner.on_prepare()
        self._inner.prepare()

    def train(self, round_number: int, adapter: NDArray[np.float32], progress: Progress) -> NDArray[np.int64]:
        self._owner.on_training(round_number)
        self._owner.trained.append(round_number)
        self._inner.earlier = self.earlier
        update = self._inner.train(round_number, adapter, progress)
        self.summed = self._inner.summed
        return update


def give(runner: Runner, task: Task) -> None:
    """Hand a task to a daemon as its loop would."""
    numbered = NumberedTask(hashlib.sha256(repr(task).encode()).digest()[:16], task)
    runner._inbox.put(numbered)
    taken = runner._inbox.get(0)
    assert taken is numbered
    runner._take(numbered)
