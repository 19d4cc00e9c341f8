"""Coordinators' processes on one PostgreSQL database, with one directory of runs and uploads; members in threads.

Guarantees: each coordinator is a process of its own (`onlysum coordinator start`) with a directory of its own, made as
an operator makes it; members are the real daemons, with one-hot trainers.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import pytest

from coordinator.config import load_settings
from coordinator.database import attempt_rows, lease_rows, run_rows
from coordinator.database.attempt_rows import EventRecord
from coordinator.database.lease_rows import LeaseRecord
from coordinator.database.store import Store
from coordinator.home import Home
from coordinator.opened import open_content
from coordinator.runs.global_adapter import RunFiles
from coordinator.storage.configured import Storage
from participant.link.channel import Channel
from participant.link.identity import load_identity
from participant.opened import open_home
from privacy.errors import Phase
from privacy.secagg.messages import Advertisement, Position, Receipt, ShareBundle, SurvivorSignature, UnmaskShares
from protos.envelope import MessageWithHeads, Submission
from simulation.ports import free_ports
from tests.worlds.around_coordinators import check_sums, create_run, members_in_threads, onlysum
from tests.worlds.daemons import until

HELD_SECONDS = 300.0


# What a participant sends in each phase.
SENT: Final[dict[Phase, type]] = {
    Phase.ADVERTISE_KEYS: Advertisement,
    Phase.SHARE_KEYS: ShareBundle,
    Phase.COLLECT_MASKED: Receipt,
    Phase.AGREE_SURVIVORS: SurvivorSignature,
    Phase.UNMASK: UnmaskShares,
}


class HeldBack:
    """Holds one participant's message of a phase back, so that the phase cannot close; all others go their way."""

    def __init__(self, member: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._member = member
        self._held: tuple[int, Phase] | None = None
        self._waits, self._free = threading.Event(), threading.Event()
        submit = Channel.submit

        def held_back(channel: Channel, submission: Submission) -> None:
            message = submission.message if isinstance(submission, MessageWithHeads) else submission
            if self._is_held(message):
                self._waits.set()
                assert self._free.wait(HELD_SECONDS)
            submit(channel, submission)

        monkeypatch.setattr(Channel, "submit", held_back)

    def _is_held(self, message: object) -> bool:
        if self._held is None or not isinstance(message, SENT[self._held[1]]):
            return False
        position, sender = getattr(message, "position", None), getattr(message, "sender", None)
        return isinstance(position, Position) and (position.round, sender) == (self._held[0], self._member)

    def hold(self, number: int, phase: Phase) -> None:
        """Hold the message of a phase of a round back from now on."""
        self._waits.clear()
        self._free.clear()
        self._held = number, phase

    def arrived(self) -> bool:
        """Return whether the message is there and waits."""
        return self._waits.is_set()

    def let_go(self) -> None:
        """Let it go."""
        self._held = None
        self._free.set()


class Replica:
    """One coordinator: its directory, and its process while it runs."""

    def __init__(self, directory: Path, address: str) -> None:
        self.directory = directory
        self.address = address
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the process and wait until it listens."""
        command = [sys.executable, "-m", "onlysum", "coordinator", "start", "--config", str(self.directory)]
        log = (self.directory / "log").open("a")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("Ready")

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End the process at once, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def said(self) -> str:
        """Return its log."""
        return (self.directory / "log").read_text()


class Replicas:
    """Two coordinators of one federation."""

    def __init__(self, place: Path, database: str, storage: Storage | None = None) -> None:
        self.place = place
        self.shared = place / "shared"
        self.shared.mkdir()
        ports = free_ports(6)
        self.addresses = [f"127.0.0.1:{port}" for port in ports[:2]]
        enrolment = [f"127.0.0.1:{port}" for port in ports[2:4]]
        admin = [f"127.0.0.1:{port}" for port in ports[4:]]
        first, second = place / "first", place / "second"
        words = ["--name", "clinics", "--operator", "I", "--database", database]
        words += ["--address", self.addresses[0], "--enrolment-address", enrolment[0], "--admin", admin[0]]
        self.made = onlysum("init", str(first), *words)
        shutil.copytree(first, second)
        for mine, directory in enumerate((first, second)):
            file, other = directory / "coordinator.toml", 1 - mine
            text = file.read_text().replace(f'"{self.addresses[0]}"', f'"{self.addresses[mine]}"')
            text = text.replace(f'"{enrolment[0]}"', f'"{enrolment[mine]}"').replace(admin[0], admin[mine])
            shared = f'directory = "{self.shared}"\n' if storage is None else ""
            section = (
                f'[replicas]\n{shared}addresses = ["{self.addresses[other]}"]\n'
                f'enrolment_addresses = ["{enrolment[other]}"]\n\n{_storage_section(storage)}[durations]'
            )
            file.write_text(text.replace("[durations]", section, 1))
        self.both = [Replica(first, self.addresses[0]), Replica(second, self.addresses[1])]
        self.settings = load_settings(Home(first))
        self.store = Store.create(database)

    @property
    def where(self) -> list[str]:
        """Name the first directory to a command."""
        return ["--config", str(self.both[0].directory)]

    def leader(self, run: str) -> Replica | None:
        """Return who leads a run now."""
        record = self.lease(run)
        if record is None or not record.valid:
            return None
        return next(one for one in self.both if one.address == record.address)

    def lease(self, run: str) -> LeaseRecord | None:
        """Return the run's lease."""
        with self.store.read() as connection:
            return lease_rows.list_leases(connection).get(run)

    def attempts(self, run: str) -> tuple[attempt_rows.AttemptRecord, ...]:
        """Return all attempts."""
        with self.store.read() as connection:
            return attempt_rows.list_attempts(connection, run)

    def events(self, run: str, kind: str) -> list[tuple[Position, EventRecord]]:
        """Return the events of a kind in all attempts of a run."""
        found: list[tuple[Position, EventRecord]] = []
        with self.store.read() as connection:
            plan = run_rows.find_run(connection, run).parsed()
            for attempt in attempt_rows.list_attempts(connection, run):
                at = Position(plan.hash, attempt.round, attempt.attempt)
                found += [(at, event) for event in attempt_rows.list_events(connection, run, at) if event.kind == kind]
        return found

    def at(self, run: str) -> tuple[int, str]:
        """Return the round and the phase that a run is in."""
        last = self.attempts(run)[-1]
        return last.round, last.phase

    def state(self, run: str) -> str:
        """Return a run's state."""
        with self.store.read() as connection:
            return run_rows.find_run(connection, run).state.value

    def rounds(self, run: str) -> tuple[run_rows.RoundRecord, ...]:
        """Return the rounds that are over."""
        with self.store.read() as connection:
            return run_rows.list_rounds(connection, run)

    def files(self, run: str) -> RunFiles:
        """Return the run's files."""
        home = self.settings.placed(Home(self.both[0].directory))
        content = open_content(home, self.settings, self.store)
        return RunFiles(home.run(run), content.of(run) if content else None)

    def check_sums(self, run: str, roster: tuple[str, ...]) -> None:
        """Compare each round's step with the exact sum of the survivors that its certificate names."""
        check_sums(self.store, self.files(run), run, roster)

    def check_all_know_both(self, roster: tuple[str, ...]) -> None:
        """Look whether members have heard the addresses of both from the operator, not only in their invitation."""
        for name in roster:
            identity = load_identity(open_home(self.place / name).home.identity)
            assert {*identity.addresses} == {*self.addresses}
            assert identity.said_at > 0

    def members(self, names: tuple[str, ...]) -> AbstractContextManager[None]:
        """Enrol members, and run their daemons in threads while the block runs."""
        return members_in_threads(self.place, names, self.where, self.made["authority_fingerprint"])

    def create_run(self, names: tuple[str, ...], *, rounds: int) -> str:
        """Create a run of everybody and return its id."""
        return create_run(self.place / "draft", names, self.where, rounds=rounds)

    def await_leader(self, run: str, *, other_than: Replica | None = None) -> Replica:
        """Wait until somebody leads a run, or somebody else."""
        until(lambda: self.leader(run) not in (None, other_than), "somebody leads the run")
        found = self.leader(run)
        assert found is not None
        return found

    def close(self) -> None:
        """End both."""
        for one in self.both:
            one.kill()
        self.store.close()


def _storage_section(storage: Storage | None) -> str:
    if storage is None:
        return ""
    keys = ("url", "endpoint", "credentials")
    lines = [f'{key} = "{value}"' for key in keys if (value := getattr(storage, key))]
    return "\n".join(["[storage]", *lines, "", ""])
