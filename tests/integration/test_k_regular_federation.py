"""Thirty-six daemons over gRPC with mutual TLS on a k-regular graph: exact sums without two of them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.config import Durations
from coordinator.database import attempt_rows, run_rows
from coordinator.runs import creation
from coordinator.runs.global_adapter import RunFiles
from coordinator.runs.thresholds import Requested
from host.system import SystemRandom
from participant.opened import open_home
from participant.owner.plan_store import Decision
from privacy.canonical import Json
from privacy.draft import Recipe
from privacy.plan import Plan
from privacy.secagg.graph import masking_graph
from privacy.secagg.messages import Advertisement, Position, RoundCertificate, ShareBundle
from protos import codec
from protos.envelope import Role, Submission
from tests.worlds.coordinator import initial_adapter
from tests.worlds.daemons import POLICY, Member, Service, draft, enrol, until
from tests.worlds.plans import make_plan, names

EVERYBODY = names(36)
ENTRIES, ROUNDS, LOST = 48, 2, ("p007", "p021")
ACCEPTS = POLICY + '[floors]\ngraphs = ["k-regular"]\n'


@pytest.fixture
def recipe() -> Recipe:
    initial = hashlib.sha256(initial_adapter(ENTRIES)).hexdigest()
    changed: Json = {"adapter": {"initial_hash": initial}, "rounds": ROUNDS}
    return make_plan(entries=ENTRIES, recipe=changed)[0].recipe


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    durations = Durations(phase_seconds=30, update_seconds=60, gather_seconds=2, evaluation_seconds=1)
    running = Service(tmp_path / "coordinator", durations)
    yield running
    running.stop()


@pytest.fixture
def federation(tmp_path: Path, service: Service, recipe: Recipe) -> Iterator[dict[str, Member]]:
    """All of them polling, with a policy that approves k-regular graphs by itself."""
    members = {
        name: enrol(service, tmp_path / name, name, Role.PARTICIPANT, recipe, policy=ACCEPTS) for name in EVERYBODY
    }
    for member in members.values():
        member.start()
    until(lambda: service.live() == frozenset(EVERYBODY), "everybody polls")
    yield members
    for member in members.values():
        member.stop.set()
    for member in members.values():
        member.end()


def create_run(service: Service, directory: Path) -> Plan:
    now = int(time.time())
    request = creation.RunRequest(
        members=EVERYBODY,
        tolerance=Requested(f=1, graph="k-regular", max_dropouts=len(LOST)),
        created_at=now,
        expires_at=now + 3600,
    )
    plan = creation.make_plan(
        service.store, service.settings, creation.read_draft(directory), request, random=SystemRandom()
    )
    creation.register(service.store, service.home, service.authority.operator, plan, directory)
    return plan


def messages_of(service: Service, plan: Plan, number: int) -> tuple[RoundCertificate, list[Submission]]:
    """Return what the coordinator received and was handed on in the attempt that completed a round."""
    row = service.rounds(plan.run_id)[number - 1]
    with service.store.read() as connection:
        events = attempt_rows.list_events(connection, plan.run_id, Position(plan.hash, row.round, row.attempt))
    sent = [codec.decode_submission(event.body, sender=event.sender) for event in events if event.sender in EVERYBODY]
    return codec.decode_certificate(row.certificate, sender="coordinator"), sent


def adapter_after(service: Service, plan: Plan, number: int) -> NDArray[np.float32]:
    files = RunFiles(service.home.run(plan.run_id))
    return np.frombuffer(files.iterate(number).read_bytes(), dtype="<f4")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # killed threads
def test_the_sum_is_exact_without_two_that_are_killed_and_everybody_dealt_to_its_neighbours_alone(
    tmp_path: Path, service: Service, federation: dict[str, Member], recipe: Recipe
) -> None:
    def killed(number: int) -> None:
        raise SystemExit

    for name in LOST:
        federation[name].on_training = killed
    plan = create_run(service, draft(tmp_path / "draft", recipe, initial_adapter(ENTRIES)))
    assert (plan.graph.kind, plan.min_survivors) == ("k-regular", 34)
    until(lambda: service.state(plan.run_id) == "completed", "the run completes")

    left = tuple(name for name in EVERYBODY if name not in LOST)
    for number, present in ((1, EVERYBODY), (2, left)):
        certificate, sent = messages_of(service, plan, number)
        assert certificate.survivors.ids == left
        u1 = sorted(one.sender for one in sent if isinstance(one, Advertisement))
        assert tuple(u1) == present, "who is gone before a round is not even in its graph"
        graph = masking_graph(u1, round_ctx=certificate.round_ctx, neighbours=plan.graph.neighbours)
        bundles = {one.sender: one for one in sent if isinstance(one, ShareBundle)}
        assert tuple(sorted(bundles)) == present
        for name, bundle in bundles.items():
            assert tuple(leave.recipient for leave in bundle.leaves) == graph.holders(name)
            assert len(bundle.leaves) < len(u1), "not everybody is a neighbour"
        step = adapter_after(service, plan, number) - adapter_after(service, plan, number - 1)
        summed = step * 2**plan.encoding.scale_exponent * len(left)
        np.testing.assert_allclose(summed[: len(EVERYBODY)], [name in left for name in EVERYBODY], atol=1e-2)
        assert not summed[len(EVERYBODY) :].any()


def test_a_policy_that_does_not_name_k_regular_graphs_refuses_the_run_and_the_operator_reads_the_rule(
    tmp_path: Path, service: Service, federation: dict[str, Member], recipe: Recipe
) -> None:
    directory = federation["p030"].directory
    allows = (directory / "policy.toml").read_text()
    (directory / "policy.toml").write_text(allows.replace('[floors]\ngraphs = ["k-regular"]\n', ""))
    plan = create_run(service, draft(tmp_path / "draft", recipe, initial_adapter(ENTRIES)))
    until(lambda: service.state(plan.run_id) == "refused", "the run is refused")
    with service.store.read() as connection:
        run = run_rows.find_run(connection, plan.run_id)
    assert "refused by policy: floors.graphs" in run.reason
    decision = open_home(directory).review.plans.decision(plan.run_id)
    assert isinstance(decision, Decision)
    assert (decision.verdict, decision.by, decision.because) == (
        "refused",
        "policy",
        "refused by policy: floors.graphs",
    )
