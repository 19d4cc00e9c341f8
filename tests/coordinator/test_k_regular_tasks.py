"""What members are told on a k-regular graph: as tasks, over the wire, and into the participant's round."""

from __future__ import annotations

from coordinator.database.run_rows import RunState
from coordinator.protocol.round import CoordinatorRound
from coordinator.runs.tasks import RunView, roster_tasks
from participant.protocol.transitions import Told
from privacy.errors import Phase
from privacy.secagg.messages import AdvertisementSet, HolderShares
from protos import codec
from protos.envelope import AttemptOpened, ContentRef, KeysAdvertised, SharesDealt, SurvivorsProposed, UnmaskRequested
from tests.worlds.federation import Federation
from tests.worlds.plans import STRONG, sign_plan

NOTHING = ContentRef(b"\0" * 32, 1)


def told(world: Federation, machine: CoordinatorRound, member: str) -> Told:
    """Return what a member's round is told, as its daemon reads it from the wire."""
    plan = world.plan.plan
    view = RunView(
        plan=plan,
        plan_bytes=plan.to_bytes(),
        signature=sign_plan(plan),
        initial_adapter=NOTHING,
        state=RunState.RUNNING,
        code="",
        closed=(),
        machine=machine,
        sums=(),
        adapter=None,
        aborted=None,
        excluded={},
    )
    (due,) = roster_tasks(view, member, answered_plan=True, knows=0)
    task = due.numbered()
    assert task is not None
    match codec.decode_task(codec.encode_task(task)).task:
        case AttemptOpened(offer=offer):
            return offer
        case KeysAdvertised(advertisements=advertisements):
            return AdvertisementSet(advertisements)
        case SharesDealt(shares=shares, u2=u2):
            assert u2
            return HolderShares(shares, u2)
        case SurvivorsProposed(proposal=proposal):
            return proposal
        case UnmaskRequested(request=request):
            return request
        case other:
            raise AssertionError(f"nobody is told {type(other).__name__} now")


def test_a_whole_round_on_a_k_regular_graph_passes_over_the_wire() -> None:
    world = Federation(**STRONG)
    machine = world.round = CoordinatorRound(world.plan, world.offer(1, 1))
    while machine.phase is not Phase.RESULT:
        for name in sorted(machine.awaited()):
            for answer in world.participants[name].hear(told(world, machine, name)):
                assert machine.receive(answer)
        machine.close()
    assert (machine.result.total() == world.one_hot(world.participants)).all()
    assert not [participant.refusals for participant in world.participants.values() if participant.refusals]
