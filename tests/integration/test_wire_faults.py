"""Whatever a network does to a participant's connection, the run goes on, each sum is exact, and it comes back."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinator.config import Durations
from coordinator.database import attempt_rows
from coordinator.runs import creation
from coordinator.runs.global_adapter import RunFiles
from coordinator.runs.thresholds import Requested
from host.system import SystemRandom
from privacy.draft import Recipe
from privacy.plan import Plan
from protos import codec
from protos.envelope import Role
from tests.worlds.coordinator import initial_adapter
from tests.worlds.daemons import Member, Service, draft, enrol, until
from tests.worlds.fault_proxy import FaultProxy
from tests.worlds.plans import make_plan, names

ENTRIES, MEMBERS, ROUNDS = 12, 4, 3
DURATIONS = Durations(phase_seconds=10, update_seconds=20, gather_seconds=10, evaluation_seconds=1)
BEHIND = "alice"  # whose connection goes through the proxy


class FaultyFederation:
    """A coordinator and four participants over mutual TLS, one of them behind a proxy."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.service = Service(directory / "coordinator", DURATIONS)
        self.proxy = FaultProxy(lambda: self.service.listeners.address, record=True)
        self.members: dict[str, Member] = {}
        self.back = threading.Event()
        self.recipe: Recipe = make_plan(
            entries=ENTRIES,
            recipe={
                "rounds": ROUNDS,
                "adapter": {"initial_hash": hashlib.sha256(initial_adapter(ENTRIES)).hexdigest()},
            },
        )[0].recipe

    def start(self) -> None:
        """Enrol all, and wait until everybody polls."""
        self.proxy.__enter__()
        for name in names(MEMBERS):
            address = self.proxy.address if name == BEHIND else ""
            path = self.directory / name
            self.members[name] = enrol(self.service, path, name, Role.PARTICIPANT, self.recipe, address=address)
        for member in self.members.values():
            member.start()
        until(lambda: self.service.live() == frozenset(self.members), "everybody polls")

    def end(self) -> None:
        """End all daemons."""
        self.back.set()
        self.proxy.heal()
        for member in self.members.values():
            member.stop.set()
        self.proxy.cut()
        for member in self.members.values():
            member.join()
        self.proxy.__exit__(None, None, None)
        self.service.stop()

    def run(self, fault: Callable[[FaultProxy], None], *, seconds: float, breaks: bool = False) -> Plan:
        """Run three rounds; the fault comes in the first one's training, and the third waits until it is over.

        Args:
            fault: done to the proxy.
            seconds: until the proxy is healed.
            breaks: whether the connections of before cannot go on, so that another one has to be dialled.
        """
        dialled = self.proxy.accepted

        def strike(number: int) -> None:
            if number == 1:
                fault(self.proxy)

        def wait(number: int) -> None:
            if number == ROUNDS - 1:
                self.back.wait(60)

        self.members[BEHIND].on_training, self.members["bob"].on_training = strike, wait
        plan = self._create()
        until(lambda: bool(self.members[BEHIND].adapters.get(plan.run_id)), "the first round trains")
        time.sleep(seconds)
        self.proxy.heal()
        until(
            lambda: BEHIND in self.service.live() and (not breaks or self.proxy.accepted > dialled),
            "who was cut off is back",
        )
        self.back.set()
        until(lambda: self.service.state(plan.run_id) in ("completed", "aborted"), "the run ends")
        return plan

    def _create(self) -> Plan:
        service, now = self.service, int(time.time())
        directory = draft(self.directory / "draft", self.recipe, initial_adapter(ENTRIES))
        request = creation.RunRequest(
            members=names(MEMBERS), tolerance=Requested(f=1), created_at=now, expires_at=now + 3600
        )
        plan = creation.make_plan(
            service.store, service.settings, creation.read_draft(directory), request, random=SystemRandom()
        )
        creation.register(service.store, service.home, service.authority.operator, plan, directory)
        return plan

    def check(self, plan: Plan) -> list[tuple[str, ...]]:
        """Return the survivors of each round, after comparing each sum with theirs."""
        files, found = RunFiles(self.service.home.run(plan.run_id)), []
        vectors = [np.frombuffer(files.iterate(number).read_bytes(), dtype="<f4") for number in range(ROUNDS + 1)]
        for row in self.service.rounds(plan.run_id):
            survivors = codec.decode_certificate(row.certificate, sender="coordinator").survivors.ids
            move = (vectors[row.round] - vectors[row.round - 1]) * 2**plan.encoding.scale_exponent * len(survivors)
            assert np.rint(move[:MEMBERS]).tolist() == [name in survivors for name in names(MEMBERS)]
            assert np.abs(move - np.rint(move)).max() < 1e-3
            found.append(survivors)
        return found


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[FaultyFederation]:
    made = FaultyFederation(tmp_path)
    made.start()
    yield made
    made.end()


# What is done, for how many seconds, and whether the connection cannot go on afterwards.
FAULTS: dict[str, tuple[Callable[[FaultProxy], None], float, bool]] = {
    "a cut": (FaultProxy.cut, 0.0, True),
    "a connection that is half open": (FaultProxy.half_open, 0.0, True),
    "a stall of three seconds": (FaultProxy.stall, 3.0, False),
    "one byte a second for three seconds": (lambda proxy: proxy.slow(1.0), 3.0, False),
    "bytes in another order": (FaultProxy.reorder, 0.5, True),
    "bytes that come twice": (FaultProxy.duplicate, 0.5, True),
}


@pytest.mark.parametrize("sentence", FAULTS)
def test_a_run_completes_with_exact_sums_through(federation: FaultyFederation, sentence: str) -> None:
    fault, seconds, breaks = FAULTS[sentence]
    plan = federation.run(fault, seconds=seconds, breaks=breaks)
    assert federation.service.state(plan.run_id) == "completed"
    survivors = federation.check(plan)
    assert all(len(each) >= MEMBERS - 1 for each in survivors)
    assert survivors[-1] == names(MEMBERS), "who was cut off takes part again"


def test_replayed_connections_end_in_tls_before_anything_is_called(
    federation: FaultyFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = federation.run(lambda proxy: None, seconds=0.0)
    assert federation.check(plan) == [names(MEMBERS)] * ROUNDS
    for member in federation.members.values():
        member.end()
    called: list[str] = []

    async def admit(member: str, certificate: bytes, session: bytes) -> None:
        called.append(member)

    monkeypatch.setattr(federation.service.runner, "admit", admit)  # what every call of a member begins with
    before = _everything_of(federation, plan)
    assert max(len(flow.recorded) for flow in federation.proxy.up) > 10_000, "there is a whole run to replay"
    answers = federation.proxy.replay()
    assert len(answers) == federation.proxy.accepted
    assert called == []
    assert _everything_of(federation, plan) == before


def _everything_of(federation: FaultyFederation, plan: Plan) -> list[object]:
    kinds = ("Advertisement", "ShareBundle", "Receipt", "SurvivorSignature", "UnmaskShares")
    with federation.service.store.read() as connection:
        attempts = attempt_rows.list_attempts(connection, plan.run_id)
        events = [
            attempt_rows.list_round_events(connection, plan.run_id, number, kind=kind)
            for number in range(1, ROUNDS + 1)
            for kind in kinds
        ]
    return [attempts, events, federation.service.rounds(plan.run_id)]
