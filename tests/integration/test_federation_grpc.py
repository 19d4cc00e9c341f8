"""A whole federation over gRPC with mutual TLS: enrolment, approval, rounds, a loss and a return; no torch."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

import onlysum
from coordinator import authority as ca
from coordinator import creation, membership, runbook
from coordinator.config import Durations, Home, Listener, Settings
from coordinator.global_adapter import RunFiles
from coordinator.membership import TokenRecord
from coordinator.runner import Runner, SystemClock
from coordinator.service import Credentials, serve
from coordinator.store import Store
from coordinator.tolerance import Wanted
from participant import daemon
from participant.evaluator import Measured
from participant.joining import join
from participant.plans import Decision
from participant.registry import DatasetEntry, ModelEntry, Registry
from participant.trainer import OneHotTrainer
from privacy.draft import Draft, PrivacyTarget, Recipe
from privacy.ledger_entries import Unprotected
from protos import codec
from protos.credentials import SystemRandom
from protos.envelope import Role
from protos.invitation import encode_invitation, token_hash
from tests.coordinator.world import initial_adapter
from tests.plans import make_plan, names

HOST = "127.0.0.1"
ENTRIES = 12
PATIENCE_SECONDS = 60.0
POLICY = """
[approval]
mode = "by-policy"
unverified_roster = true
[coordinator]
ca_fingerprint = "{authority}"
[population.patients]
unit = "example"
lifetime_epsilon = 10
lifetime_delta = 1e-6
per_run_epsilon = 8
per_run_delta = 1e-5
[dataset.digits]
population = "patients"
modes = ["none", "local"]
bases = ["{base}"]
methods = ["ffa-lora"]
"""


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: it did not happen"
        time.sleep(0.02)


class Service:
    """The coordinator's daemon, in a thread of its own."""

    def __init__(self, directory):
        self.home = Home(directory)
        directory.mkdir()
        self.authority = ca.create_authority(
            federation="test-federation", hosts=[HOST], random=SystemRandom(), now=time.time()
        )
        self.settings = Settings(
            federation="test-federation",
            operator="Test Operator",
            participants=Listener(address=f"{HOST}:1"),
            enrolment=Listener(address=f"{HOST}:2"),
            durations=Durations(phase_seconds=20, update_seconds=40, gather_seconds=20, evaluation_seconds=20),
        )
        self.store = Store.create(self.home.database_url(self.settings))
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.call(self._start())

    async def _start(self):
        self.runner = Runner(
            self.store, self.home, self.settings, self.authority, clock=SystemClock(), random=SystemRandom()
        )
        self.runner.discover()
        credentials = Credentials(
            self.authority.ca_certificate, self.authority.server_certificate, self.authority.server_key
        )
        self.listeners = await serve(
            self.runner, credentials=credentials, address=f"{HOST}:0", enrolment_address=f"{HOST}:0"
        )
        self.serving = asyncio.create_task(self.runner.serve())

    def call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def stop(self):
        async def end():
            await self.listeners.stop()
            self.serving.cancel()
            await asyncio.gather(self.serving, return_exceptions=True)

        self.call(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.store.close()

    def invite(self, name, role):
        made = ca.invite(
            self.authority,
            federation="test-federation",
            name=name,
            role=role,
            enrolment_addresses=[self.listeners.enrolment_address],
            addresses=[self.listeners.address],
            random=SystemRandom(),
            until=int(time.time()) + 3600,
        )
        token = TokenRecord(
            token_id=made.token_id,
            secret_hash=token_hash(made.token_id, made.secret),
            name=name,
            role=role,
            labels="",
            made_at=int(time.time()),
            expires_at=made.expires_at,
        )
        with self.store.begin() as connection:
            membership.add_token(connection, token)
        return encode_invitation(made)

    def live(self):
        return self.runner.liveness.all_live()

    def state(self, run_id):
        with self.store.read() as connection:
            return runbook.find_run(connection, run_id).state.value

    def rounds(self, run_id):
        with self.store.read() as connection:
            return runbook.list_rounds(connection, run_id)

    def measured(self, run_id):
        with self.store.read() as connection:
            return runbook.list_evaluations(connection, run_id)


@dataclass
class Member:
    """A daemon on its own directory, in a thread."""

    directory: object
    on_training: Callable[[int], None] = lambda number: None
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    adapters: dict = field(default_factory=dict)  # what each round of a run started from

    def start(self):
        self.stop = threading.Event()
        runner = daemon.assemble(self.directory, self.stop, make_trainer=self._trainer, measure=_measure)
        self.thread = threading.Thread(target=runner.run, daemon=True)
        self.thread.start()

    def end(self):
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()

    def _trainer(self, assignment):
        member, inner = self, OneHotTrainer(assignment.verified.plan, assignment.me)

        class Watched:
            def prepare(self):
                inner.prepare()

            def train(self, round_number, adapter, progress):
                member.adapters.setdefault(assignment.verified.plan.run_id, []).append(adapter)
                member.on_training(round_number)
                return inner.train(round_number, adapter, progress)

        return Watched()


def _measure(assignment, adapter):
    return Measured(correct=int(np.count_nonzero(adapter)), examples=100, data_sha256=b"\2" * 32)


NO_CLAIM = PrivacyTarget(
    mode="none",
    unit="none",
    epsilon="0",
    delta="0",
    sampling_rate="1",
    local_steps=1,
    clip_norm="1",
    update_bound="1",
)
LOCAL = NO_CLAIM.model_copy(update={"mode": "local", "unit": "example", "epsilon": "6", "delta": "0.00001"})


def draft(directory, recipe, initial, target=NO_CLAIM):
    directory.mkdir()
    made = Draft(recipe=recipe, privacy=target, evaluation_data="public-digits")
    (directory / "draft.json").write_bytes(made.to_bytes())
    (directory / "initial_adapter.safetensors").write_bytes(initial)
    (directory / "adapter_config.json").write_text('{"peft_type":"LORA"}')
    return directory


@pytest.fixture
def recipe() -> Recipe:
    initial = hashlib.sha256(initial_adapter(ENTRIES)).hexdigest()
    return make_plan(entries=ENTRIES, recipe={"adapter": {"initial_hash": initial}})[0].recipe


@pytest.fixture
def service(tmp_path):
    running = Service(tmp_path / "coordinator")
    yield running
    running.stop()


@pytest.fixture
def federation(tmp_path, service, recipe):
    """Five enrolled participants and an evaluator, all polling."""
    members = {}
    roles = {**dict.fromkeys(names(5), Role.PARTICIPANT), "referee": Role.EVALUATOR}
    for name, role in roles.items():
        path = tmp_path / name
        join(service.invite(name, role), path, clock=SystemClock(), random=SystemRandom())
        registry = Registry(daemon.open_home(path).home)
        data = "digits" if role is Role.PARTICIPANT else "public-digits"
        registry.add(DatasetEntry(name=data, path="/data", added_at=0, rows=100))
        registry.add(ModelEntry(name="tiny-vit", path="/models/tiny", added_at=0, files=recipe.base.files))
        (path / "policy.toml").write_text(POLICY.format(authority=service.authority.fingerprint, base=recipe.base.hash))
        members[name] = Member(path)
    for one in members.values():
        one.start()
    until(lambda: service.live() == frozenset(roles), "everybody polls")
    yield members
    for one in members.values():
        one.end()


def create_run(service, draft_directory):
    """Sign the draft for all five, as `run create` does."""
    now = int(time.time())
    wishes = creation.Wishes(members=names(5), tolerance=Wanted(f=1), created_at=now, expires_at=now + 3600)
    plan = creation.make_plan(
        service.store, service.settings, creation.read_draft(draft_directory), wishes, random=SystemRandom()
    )
    creation.register(service.store, service.home, service.authority.operator, plan, draft_directory)
    return plan


def survivors(row):
    return codec.decode_certificate(row.certificate, sender="coordinator").survivors.ids


LOST = {
    "killed while it trains, it forfeits the round": (True, 4),
    "stopped after it trained, it resumes the round": (False, 5),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # killed threads
@pytest.mark.parametrize(("killed", "counted_in_round_2"), LOST.values(), ids=LOST.keys())
def test_three_rounds_over_mutual_tls_with_a_participant_that_is_lost_and_returns(
    tmp_path, service, federation, recipe, killed, counted_in_round_2
):
    erin_is_back, seen = threading.Event(), {}
    erin = federation["erin"]

    def leave(number):
        seen.setdefault("erin", []).append(number)
        if number == 2:
            erin.stop.set()
            if killed:
                raise SystemExit

    def wait_for_erin(number):
        if number == 2:
            erin_is_back.wait(PATIENCE_SECONDS)

    erin.on_training, federation["bob"].on_training = leave, wait_for_erin
    plan = create_run(service, draft(tmp_path / "draft", recipe, initial_adapter(ENTRIES)))
    until(erin.stop.is_set, "erin trains in round 2")
    erin.thread.join(20)
    until(lambda: "erin" not in service.live(), "erin is missed")
    erin.start()
    until(lambda: "erin" in service.live(), "erin is back")
    erin_is_back.set()
    until(lambda: service.state(plan.run_id) == "completed", "the run completes")

    rows = service.rounds(plan.run_id)
    everybody = names(5)
    assert [survivors(row) for row in rows] == [everybody, everybody[:counted_in_round_2], everybody]
    starts = [*federation["alice"].adapters[plan.run_id], last_adapter(service, plan)]
    for row, before, after in zip(rows, starts[:-1], starts[1:], strict=True):
        mean = (after - before) * 2**plan.encoding.scale_exponent * len(survivors(row))
        counted = [name in survivors(row) for name in everybody]
        np.testing.assert_allclose(mean[: len(everybody)], counted, atol=1e-3)  # float32 adapters, integers between
        assert not mean[len(everybody) :].any()
    assert seen["erin"] == [1, 2, 3]
    assert [one.round for one in service.measured(plan.run_id)] == [0, 1, 2, 3]

    for name in everybody:
        home = daemon.open_home(federation[name].directory)
        until(lambda home=home: home.desk.shelf.ended(plan.run_id) is not None, f"{name} hears of the end")
        decision = home.desk.shelf.decision(plan.run_id)
        assert isinstance(decision, Decision)
        assert (decision.verdict, decision.by, decision.roster_verified) == ("approved", "policy", False)
        assert [one.entry.population for one in home.ledger.rows() if isinstance(one.entry, Unprotected)] == [
            "patients"
        ]
        left = {one.name.partition(".")[0] for one in (home.home.runs / plan.run_id).iterdir()}
        assert left == {"journal", "certificate", "report"}

    if not killed:
        second = create_run(service, tmp_path / "draft")
        until(lambda: service.state(second.run_id) == "completed", "a second run completes on the same daemons")


def test_the_reports_of_coordinator_and_participants_of_one_run_tell_one_history(
    tmp_path, service, federation, recipe, capsys
):
    plan = create_run(service, draft(tmp_path / "draft", recipe, initial_adapter(ENTRIES), LOCAL))
    until(lambda: service.state(plan.run_id) == "completed", "the run completes")
    reports = {"coordinator": service.home.run(plan.run_id) / "report.json"}
    for name in ("alice", "bob"):
        home = daemon.open_home(federation[name].directory)
        until(lambda home=home: home.desk.shelf.ended(plan.run_id) is not None, f"{name} hears of the end")
        reports[name] = home.home.runs / plan.run_id / "report.json"
        until(reports[name].exists, f"{name} reports")
    for one, other in (("coordinator", "alice"), ("alice", "coordinator"), ("alice", "bob")):
        code = onlysum.run(["audit", "compare", str(reports[one]), str(reports[other])])
        printed = capsys.readouterr().out
        assert code == 0
        assert "both can be true: one plan, one history" in printed
        assert "  charged rounds      3                            3" in printed
        assert "  transcript" in printed  # no star: the same
    assert onlysum.run(["audit", "verify", str(reports["alice"])]) == 0
    assert "the spend of 1 run on population patients" in " ".join(capsys.readouterr().out.split())


def last_adapter(service, plan):
    files = RunFiles(service.home.run(plan.run_id))
    return np.frombuffer(files.iterate(plan.recipe.rounds).read_bytes(), dtype="<f4")
