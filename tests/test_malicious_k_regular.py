"""Lies about neighbours on a k-regular graph: each is refused, and isolating somebody reveals nothing about it.

The graphs of these small cohorts are too weak for any plan (docs/graphs.md); what is refused does not depend on that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from coordinator.protocol.round import CoordinatorRound
from participant.protocol.states import Advertised, Masked
from participant.protocol.transitions import Told
from privacy.errors import PeerError, Phase
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg import merkle
from privacy.secagg.graph import MaskingGraph
from privacy.secagg.messages import (
    Complaint,
    HolderShares,
    MaskedUpload,
    ShareBundle,
    ShareLeaf,
    SurvivorProposal,
    SurvivorSignature,
    UnmaskRequest,
    UnmaskShares,
)
from tests.worlds.expect import expect
from tests.worlds.federation import FaultKind, Federation
from tests.worlds.plans import names, signing_key


class Stage:
    """An honest round driven to a phase, so that a lie can be told in it to somebody with eight neighbours."""

    def __init__(self, phase: Phase, *, n: int = 20, lost: str = "", in_phase: Phase = Phase.COLLECT_MASKED) -> None:
        for seed in count(3):  # edges may coincide: on some graphs nobody beside the lost one has eight neighbours
            self._drive(phase, n, seed, {(lost, in_phase): FaultKind.LOST})
            around = self.graph.neighbours(lost) if lost else names(n)
            full = [name for name in around if len(self.graph.holders(name)) == 9]
            if full:
                break
        self.name = full[0]
        self.stranger = next(name for name in names(n) if name not in self.graph.holders(self.name))
        self.victim = self.federation.participants[self.name]
        self.told: Any = self.round.outbox(self.name)

    def _drive(self, phase: Phase, n: int, seed: int, faults: dict[tuple[str, Phase], FaultKind]) -> None:
        self.federation = Federation(n, 1, seed=seed, k_regular=(8, 5), min_survivors=14)
        self.offer = self.federation.offer(1, 1)
        self.round = self.federation.round = CoordinatorRound(self.federation.plan, self.offer)
        while self.round.phase is not phase:
            self.federation.collect(faults, [])
            self.round.close()
        state: Any = self.round._state
        self.graph: MaskingGraph = getattr(state, "agreeing", state).members.graph

    @property
    def context(self) -> bytes:
        """The attempt's."""
        state: Any = self.victim.state
        context: bytes = state.record.round_ctx if isinstance(state, Masked) else state.round_ctx
        return context

    def refusal(self, told: Told) -> PeerError:
        """Tell the victim; return its refusal after checking that it sent nothing and forgot nothing."""
        before = (self.victim.state, list(self.victim.journal.records))
        assert self.victim.hear(told) == [], "an honest participant answered a lie"
        assert (self.victim.state, self.victim.journal.records) == before, "a refused message changed the state"
        return self.victim.refusals[-1]


def _without(told: HolderShares, *names_of: str) -> HolderShares:
    return HolderShares(
        tuple(share for share in told.shares if share.dealer not in names_of),
        tuple(name for name in told.named_u2 if name not in names_of),
    )


def _from_a_stranger(stage: Stage) -> Any:
    """What somebody who is no neighbour of the victim dealt to a neighbour of its own."""
    dealt: Any = stage.round.outbox(stage.graph.neighbours(stage.stranger)[0])
    return next(share for share in dealt.shares if share.dealer == stage.stranger)


def _tree_over_all(stage: Stage) -> Any:
    """A colluding neighbour signs a root over a leaf for everybody, with the victim's where all of U1 would have it."""
    first = stage.told.shares[0]
    tree = merkle.MerkleTree.over([replace(first.leaf, recipient=name).hash for name in names(20)])
    lie = replace(
        first, sealed=b"\0" * len(first.sealed), proof=tree.proof(names(20).index(stage.name)), root=tree.root
    )
    signature = signing_key(first.dealer).sign(lie.signed_bytes(PROTOCOL_VERSION, stage.context))
    return replace(stage.told, shares=(replace(lie, signature=signature), *stage.told.shares[1:]))


SHARES: dict[str, tuple[Callable[[Stage], Any], str, str]] = {
    "a share of somebody who is no neighbour": (
        lambda s: replace(
            s.told, shares=tuple(sorted((*s.told.shares, _from_a_stranger(s)), key=lambda share: share.dealer))
        ),
        "E-ROUND-SET",
        "this participant's neighbours in U2",
    ),
    "a neighbour's share kept back": (
        lambda s: replace(s.told, shares=s.told.shares[1:]),
        "E-ROUND-SET",
        "this participant's neighbours in U2",
    ),
    "a neighbour's share in place of another's": (
        lambda s: replace(s.told, shares=(s.told.shares[1], *s.told.shares[1:])),
        "E-ROUND-SET",
        "this participant's neighbours in U2",
    ),
    "shares in another order": (
        lambda s: replace(s.told, shares=s.told.shares[::-1]),
        "E-ROUND-SET",
        "this participant's neighbours in U2",
    ),
    "a U2 without the one that is told": (
        lambda s: replace(s.told, named_u2=tuple(name for name in s.told.named_u2 if name != s.name)),
        "E-ROUND-SET",
        "this participant is not in U2",
    ),
    "a U2 with a stranger": (lambda s: replace(s.told, named_u2=(*s.told.named_u2, "zoe")), "E-ROUND-SET", "names zoe"),
    "a U2 out of order": (lambda s: replace(s.told, named_u2=s.told.named_u2[::-1]), "E-ROUND-SET", "must be sorted"),
    "a U2 that is too small": (
        lambda s: _without(s.told, *[name for name in s.told.named_u2 if name not in s.graph.holders(s.name)][:7]),
        "E-ROUND-SET",
        "the set has 13 members",
    ),
    "neighbours alone, as if the graph were complete": (
        lambda s: HolderShares(s.told.shares),
        "E-ROUND-SET",
        "the set has 9 members, the plan asks for at least 14",
    ),
    "so many neighbours declared dropped that too few hold its shares": (
        lambda s: _without(s.told, *s.graph.neighbours(s.name)[:5]),
        "E-ROUND-SET",
        "this participant's shares would have 4 holders, 5 rebuild it",
    ),
    "the shares of another holder": (
        lambda s: s.round.outbox(s.stranger),
        "E-ROUND-SET",
        "this participant's neighbours in U2",
    ),
    "an unopened share of a neighbour's leaf under a tree over all of U1": (
        _tree_over_all,
        "E-ROUND-SHARE",
        "not under the root",
    ),
}


@pytest.mark.parametrize("sentence", SHARES)
def test_malicious_shares_and_sets_on_a_k_regular_graph_are_refused(sentence: str) -> None:
    change, code, says = SHARES[sentence]
    stage = Stage(Phase.COLLECT_MASKED)
    refused = stage.refusal(change(stage))
    assert refused.code == code
    assert says in refused.rule


def test_a_neighbourhood_smaller_than_the_threshold_is_refused_before_anything_is_dealt() -> None:
    """The coordinator of this test goes on with a graph in which edges coincide; a participant does not."""
    stage = Stage(Phase.SHARE_KEYS)
    rules = stage.federation.plan.plan
    strict = rules.model_copy(update={"graph": rules.graph.model_copy(update={"share_threshold": 9})})
    small = {name for name in names(20) if len(stage.graph.holders(name)) < 9}
    assert small, "this seed has an edge in two cycles"
    for name, one in stage.federation.participants.items():
        plan = replace(one.participant.plan, plan=strict)
        one.state = replace(expect(Advertised, one.state), participant=replace(one.participant, plan=plan))
        assert bool(one.hear(stage.round.outbox(name))) == (name not in small)
        assert isinstance(one.state, Advertised) == (name in small)
        assert [error.code for error in one.refusals] == ["E-ROUND-SET"] * (name in small)


def test_isolating_somebody_by_declaring_its_neighbours_dropped_reveals_nothing_about_it() -> None:
    """All neighbours of the victim are left out of S with their uploads in hand; nobody outside S releases anything.

    With eight neighbours and six tolerated dropouts this weak graph is cut; a plan's could not be.
    """
    stage = Stage(Phase.COLLECT_MASKED, n=24)
    everyone = stage.federation.participants
    uploads = {name: expect(MaskedUpload, one.hear(stage.round.outbox(name))[0]) for name, one in everyone.items()}
    around = stage.graph.neighbours(stage.name)
    survivors = [name for name in everyone if name not in around]
    proposal = SurvivorProposal(stage.offer.position, tuple(uploads[name].receipt for name in survivors))
    signatures = tuple(expect(SurvivorSignature, everyone[name].hear(proposal)[0]) for name in survivors)
    request = UnmaskRequest(proposal, signatures)
    released = [expect(UnmaskShares, everyone[name].hear(request)[0]) for name in survivors]
    about = [
        share for told in released for share in (*told.seed_shares, *told.masking_shares) if share.owner == stage.name
    ]
    assert len(about) == 1, "its own share of its own seed, where five rebuild it"
    for name in around:  # they hold the others
        assert everyone[name].hear(request) == []
        assert everyone[name].refusals[-1].rule == "this participant is not among the survivors"
        assert everyone[name].journal.memory.released is None


def test_a_release_names_exactly_the_neighbours_and_never_both_kinds_of_one() -> None:
    stage = Stage(Phase.UNMASK, lost="p011")
    for name, one in stage.federation.participants.items():
        if name != "p011":
            message = expect(UnmaskShares, *one.hear(stage.round.outbox(name)))
            held = set(stage.graph.holders(name))
            assert [share.owner for share in message.seed_shares] == sorted(held - {"p011"})
            assert [share.owner for share in message.masking_shares] == sorted(held & {"p011"})


# --- participants that lie ---


def _signed(message: Any, context: bytes) -> Any:
    return replace(message, signature=signing_key(message.sender).sign(message.signed_bytes(PROTOCOL_VERSION, context)))


def _refused(stage: Stage, lie: Any, rule: str) -> None:
    with pytest.raises(PeerError, match=rule) as refused:
        stage.round.receive(_signed(lie, stage.context))
    assert refused.value.participant == stage.name


def test_malicious_bundles_for_others_than_the_holders_are_refused_by_name() -> None:
    stage = Stage(Phase.SHARE_KEYS)
    honest = expect(ShareBundle, *stage.victim.hear(stage.told))
    foreign = ShareLeaf(stage.stranger, b"\1" * 32, b"\2" * 32, b"\3" * 32)
    leaves = tuple(sorted((*honest.leaves, foreign), key=lambda leaf: leaf.recipient))
    lies = [
        replace(honest, leaves=honest.leaves[1:], sealed=honest.sealed[1:]),
        replace(honest, leaves=leaves, sealed=(*honest.sealed, b"")),
        replace(honest, leaves=(replace(honest.leaves[0], recipient=stage.stranger), *honest.leaves[1:])),
    ]
    for lie in lies:
        _refused(stage, lie, "not for exactly its holders in U1")
    assert stage.round.receive(honest)


def test_malicious_complaints_are_refused_by_name() -> None:
    """About somebody who dealt it nothing, about or by somebody outside U2, unsigned, or after its own upload."""
    stage = Stage(Phase.COLLECT_MASKED, lost="p011", in_phase=Phase.SHARE_KEYS)
    about = Complaint(stage.offer.position, stage.name, stage.graph.neighbours(stage.name)[0], "because")
    for dealer in (stage.stranger, stage.name):
        _refused(stage, replace(about, dealer=dealer), "somebody who dealt it nothing")
    _refused(stage, replace(about, dealer="p011"), "it complains outside U2")
    with pytest.raises(PeerError, match="it complains outside U2"):
        stage.round.receive(_signed(replace(about, sender="p011", dealer=stage.name), stage.context))
    with pytest.raises(PeerError, match="not signed by its identity key"):
        stage.round.receive(about)
    other = next(name for name in stage.graph.neighbours(stage.name) if name != "p011")
    (upload,) = stage.federation.participants[other].hear(stage.round.outbox(other))
    assert stage.round.receive(upload)
    with pytest.raises(PeerError, match="after its own upload"):
        stage.round.receive(_signed(replace(about, sender=other, dealer=stage.name), stage.context))
    assert stage.round.receive(_signed(about, stage.context))


@pytest.mark.parametrize("kind", ["seed_shares", "masking_shares"])
def test_malicious_release_of_shares_of_others_is_refused_by_name(kind: str) -> None:
    stage = Stage(Phase.UNMASK, lost="p011")
    honest = expect(UnmaskShares, *stage.victim.hear(stage.told))
    shares = getattr(honest, kind)
    foreign = replace(shares[0], owner=stage.stranger)
    lies: list[Any] = [shares[1:], (*shares, foreign), (foreign, *shares[1:])]
    for lie in lies:
        with pytest.raises(PeerError, match="shares of others than were asked for"):
            stage.round.receive(replace(honest, **{kind: lie}))
    assert stage.round.receive(honest)
