"""Many light participants over gRPC, and daemons far away: what a round costs in calls, and that it is exact."""

from __future__ import annotations

import asyncio
import hashlib
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from bench import links, scale
from bench.players import Case
from coordinator.daemon.service import MEMBER_OPTIONS
from coordinator.runs import creation
from coordinator.runs.thresholds import Requested
from host.system import SystemRandom
from participant.link.channel import _Connection
from protos import transport
from protos.envelope import Role
from simulation.ports import HOST
from tests.worlds.coordinator import initial_adapter
from tests.worlds.daemons import Member, Service, draft, enrol, until
from tests.worlds.plans import make_plan, names

# What a participant waits for, one call after the other, from an offer to the round's end: docs/wire.md.
FIRST_ROUND = ["Submit", "Submit", "Submit", "Upload", "Submit", "Submit", "Submit"]
MOST_KEPT_MIB = 0.5  # of a round that is over; its uploads and sum alone have 0.4
LATER_ROUND = ["Download", *FIRST_ROUND]
CONNECTIONS = 40
HELD_UP_SECONDS = 3.0  # in which all calls come


@pytest.mark.parametrize("graph", ["complete", pytest.param("k-regular", marks=pytest.mark.slow)])
def test_light_participants_in_processes_of_their_own_complete_every_round(tmp_path: Path, graph: Any) -> None:
    n = 8 if graph == "complete" else 40
    measured = scale.measure(tmp_path, n, 500, 2, graph)
    assert measured.survivors == [n, n]
    assert (measured.plan.n, measured.plan.graph.kind) == (n, graph)
    spent = [usage.cpu for usage in measured.after]
    assert len(spent) == 3
    assert spent == sorted(spent)
    assert spent[-1] > measured.before.cpu, "rounds may be over before they are looked at, making the run is not"


@pytest.mark.parametrize("neighbours", [39, 12])
def test_a_round_in_memory_costs_processor_time_on_either_graph(neighbours: int) -> None:
    plan, _ = Case(40, 500, neighbours, 0, 1).plan()
    assert scale.memory_seconds(plan.plan, 500) > 0


@pytest.mark.slow
def test_the_coordinators_memory_is_flat_over_twenty_rounds(tmp_path: Path) -> None:
    """Early rounds fill caches and the allocator's pools; after them a round keeps little but its certificate."""
    measured = scale.measure(tmp_path, 8, 20_000, 20, "complete")
    resident = [usage.resident for usage in measured.after]
    assert len(resident) == 21
    assert resident[-1] - resident[5] <= 15 * MOST_KEPT_MIB, resident


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path / "coordinator")
    yield running
    running.stop()


def test_a_round_takes_eight_round_trips_of_a_participant(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, call, stream = dict[int, list[str]](), _Connection.call, _Connection.stream
    lock = threading.Lock()

    def noted(connection: _Connection, name: str) -> None:
        with lock:
            if name not in ("Poll", "Handshake", "Enrol"):
                made.setdefault(id(connection), []).append(name)

    def counted_call(connection: _Connection, method: Any, *args: Any, **kwargs: Any) -> bytes:
        noted(connection, method.name)
        return call(connection, method, *args, **kwargs)

    def counted_stream(connection: _Connection, method: Any, *args: Any, **kwargs: Any) -> Any:
        noted(connection, method.name)
        return stream(connection, method, *args, **kwargs)

    monkeypatch.setattr(_Connection, "call", counted_call)
    monkeypatch.setattr(_Connection, "stream", counted_stream)
    initial = initial_adapter(12)
    changed: Any = {"adapter": {"initial_hash": hashlib.sha256(initial).hexdigest()}, "rounds": 3}
    recipe = make_plan(entries=12, recipe=changed)[0].recipe
    members = {name: enrol(service, tmp_path / name, name, Role.PARTICIPANT, recipe) for name in names(3)}
    for member in members.values():
        member.start()
    until(lambda: service.live() == frozenset(members), "everybody polls")
    plan = _create(service, draft(tmp_path / "draft", recipe, initial), tuple(members))
    until(lambda: service.state(plan.run_id) == "completed", "the run completes")
    for member in members.values():
        _ended(member)
    proposal = ["Download", "Submit"]  # the initial adapter, and the answer to the plan
    assert list(made.values()) == [[*proposal, *FIRST_ROUND, *LATER_ROUND, *LATER_ROUND]] * 3
    assert len(LATER_ROUND) == links.ROUND_TRIPS


def _create(service: Service, directory: Path, members: tuple[str, ...]) -> Any:
    now = int(time.time())
    request = creation.RunRequest(members=members, tolerance=Requested(f=1), created_at=now, expires_at=now + 3600)
    plan = creation.make_plan(
        service.store, service.settings, creation.read_draft(directory), request, random=SystemRandom()
    )
    creation.register(service.store, service.home, service.authority.operator, plan, directory)
    return plan


def _ended(member: Member) -> None:
    member.stop.set()
    member.end()


@pytest.mark.slow
def test_a_round_over_a_bad_link_takes_little_more_than_its_bytes_and_eight_round_trips() -> None:
    """Half a megabyte a second and a fifth of a second, so that round trips count as much as bytes do."""
    seconds, vectors, carried = links.round_seconds(500_000, 3, round_trip=0.2, rate=5e5)
    assert seconds <= links.MOST * vectors / 5e5 + links.ROUND_TRIPS * 0.2
    assert carried <= 1.1 * vectors


def test_calls_of_thousands_wait_their_turn_while_the_event_loop_is_busy() -> None:
    """By its own limits gRPC cancels some of more than a thousand that wait, by chance."""
    ports, over = queue.SimpleQueue[int](), threading.Event()

    def answered(request: bytes) -> bytes:
        if request == b"hold up":
            time.sleep(HELD_UP_SECONDS)  # on the event loop, as a long computation would
        return request

    async def answer(request: bytes, _context: Any) -> bytes:
        return answered(request)

    async def serve() -> None:
        server = grpc.aio.server(options=MEMBER_OPTIONS)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test", {"Call": grpc.unary_unary_rpc_method_handler(answer)}),)
        )
        ports.put(server.add_insecure_port(f"{HOST}:0"))
        await server.start()
        await asyncio.to_thread(over.wait)
        await server.stop(None)

    serving = threading.Thread(target=asyncio.run, args=(serve(),))
    serving.start()
    address = f"{HOST}:{ports.get(timeout=10)}"
    own_connection = (("grpc.use_local_subchannel_pool", 1),)
    with ExitStack() as stack:
        stack.callback(serving.join)
        stack.callback(over.set)
        dialled = [stack.enter_context(grpc.insecure_channel(address, own_connection)) for _ in range(CONNECTIONS)]
        calls = [channel.unary_unary("/test/Call", None, None) for channel in dialled]
        for call in calls:
            call(b"first", timeout=10)
        waiting = [calls[0].future(b"hold up", timeout=60)]
        waiting += [call.future(b"later", timeout=60) for call in calls for _ in range(transport.MAX_STREAMS - 1)]
        assert len(waiting) > 2000
        assert {future.code() for future in waiting} == {grpc.StatusCode.OK}
