"""Rounds on k-regular graphs: whatever goes wrong, the exact sum or a clean abort.

Small cohorts show the mechanics. Their graphs are too weak for any plan (docs/graphs.md), so they pass by its checks;
one round is on a graph that a plan may have.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import stack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.protocol.round import CoordinatorRound
from participant.protocol.round import Masked
from privacy.errors import Phase, RoundAborted
from privacy.secagg.graph import MaskingGraph, masking_graph
from privacy.secagg.layout import Layout, Words
from privacy.secagg.masks import MaskTerm
from privacy.secagg.messages import HolderShares
from tests.worlds.expect import expect
from tests.worlds.federation import Fault, FaultKind, Federation
from tests.worlds.plans import STRONG, names

PHASES = [Phase.ADVERTISE_KEYS, Phase.SHARE_KEYS, Phase.COLLECT_MASKED, Phase.AGREE_SURVIVORS, Phase.UNMASK]


def world(n: int = 20, f: int = 1, *, k: int = 8, t: int = 5, seed: int = 3, **overrides: Any) -> Federation:
    return Federation(n, f, seed=seed, k_regular=(k, t), **{"min_survivors": n - n // 3, **overrides})


# --- faults ---


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Federation, list[Fault]]:
    n = draw(st.sampled_from((20, 20, 24, 24, 31, 60)))
    k = draw(st.sampled_from((6, 8, 10)))
    federation = world(
        n,
        draw(st.sampled_from((0, 1, 3))),
        k=k,
        t=draw(st.integers(2, k // 2 + 2)),
        seed=draw(st.integers(0, 2**20)),
        suite=draw(st.sampled_from((1, 1, 2))) if n < 60 else 1,
    )
    fault = st.builds(
        Fault,
        participant=st.sampled_from(names(n)),
        phase=st.sampled_from(PHASES),
        kind=st.sampled_from(FaultKind),
        attempt=st.integers(1, 2),
    )
    return federation, draw(st.lists(fault, max_size=8))


@settings(max_examples=20, deadline=None)
@given(worlds(), st.booleans())
def test_any_schedule_of_faults_gives_the_survivors_exact_sum_or_a_clean_abort(
    scheduled: tuple[Federation, list[Fault]], crash: bool
) -> None:
    federation, faults = scheduled
    plan = federation.plan.plan
    try:
        result = federation.run_round(faults, crash_coordinator=crash)
    except RoundAborted:
        assert not federation.completed
        return
    assert len(result.survivors) >= plan.min_survivors
    assert (result.total() == federation.one_hot(result.survivors)).all()
    for participant in federation.participants.values():
        if participant.present:
            assert participant.journal.memory.transcript == federation.transcript


def test_a_graph_that_plans_accept_gives_the_exact_sum_without_two_of_sixty_and_no_key_stream_serves_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    added: list[tuple[bytes, int]] = []

    mask = Layout.mask

    def noted(layout: Layout, words: Words, terms: Callable[[str], list[MaskTerm]], **named: int) -> None:
        if any(frame.function == "mask" for frame in stack()[1:3]):  # a participant's, not the coordinator's
            added.extend((term.key.reveal(), term.sign) for stream, _ in layout.streams for term in terms(stream))
        mask(layout, words, terms, **named)

    monkeypatch.setattr(Layout, "mask", noted)
    federation = Federation(**STRONG, entries=60)
    lost = [Fault("p007", Phase.COLLECT_MASKED, FaultKind.LOST), Fault("p044", Phase.SHARE_KEYS, FaultKind.LOST)]
    result = federation.run_round(lost)
    assert result.dropouts == ("p007", "p044")
    assert (result.total() == federation.one_hot(result.survivors)).all()
    u2 = set(names(60)) - {"p044"}
    ends = sum(len(u2.intersection(graph_of(federation).neighbours(name))) for name in u2)
    assert len(added) == len(set(added)) == 2 * (len(u2) + ends), "in two streams"
    assert len({key for key, _ in added}) == 2 * (len(u2) + ends // 2), "one key per pair, with both signs"


def graph_of(federation: Federation) -> MaskingGraph:
    rules = federation.plan.plan
    return masking_graph(names(rules.n), round_ctx=federation.completed[0].round_ctx, neighbours=rules.graph.neighbours)


@pytest.mark.parametrize("suite", [1, 2])
def test_masks_with_neighbours_alone_are_added_and_removed(suite: int) -> None:
    federation = world(suite=suite)
    result = federation.run_round([Fault("p005", Phase.COLLECT_MASKED, FaultKind.LOST)])
    assert result.dropouts == ("p005",)
    assert (result.total() == federation.one_hot(result.survivors)).all()
    for name, one in federation.participants.items():
        if isinstance(one.state, Masked):
            assert {share.dealer for share in one.state.shares} == set(graph_of(federation).holders(name))


def opened(phase: Phase, **overrides: Any) -> tuple[Federation, CoordinatorRound, MaskingGraph]:
    """Return an honest round driven to a phase, and its graph."""
    federation = world(**overrides)
    offer = federation.offer(1, 1)
    attempt = federation.round = CoordinatorRound(federation.plan, offer)
    while attempt.phase is not phase:
        federation.collect({}, [])
        attempt.close()
    state: Any = attempt._state
    return federation, attempt, getattr(state, "agreeing", state).members.graph


def test_only_neighbours_see_each_others_shares_and_everybody_sees_u2() -> None:
    _, attempt, graph = opened(Phase.COLLECT_MASKED)
    for name in names(20):
        told = expect(HolderShares, attempt.outbox(name))
        assert told.named_u2 == names(20)
        assert tuple(share.dealer for share in told.shares) == graph.neighbours(name)
        assert {share.leaf.recipient for share in told.shares} == {name}


def test_the_coordinator_waits_until_everybodys_secrets_have_holders_enough() -> None:
    """A quorum's shares are not enough on a k-regular graph: each owner counts its own holders."""
    federation, attempt, graph = opened(Phase.UNMASK)
    last = graph.holders("p005")
    order = [*(name for name in names(20) if name not in last), *last]
    told = {name: federation.participants[name].hear(attempt.outbox(name))[0] for name in order}
    waited = False
    for count, name in enumerate(order):
        enough = all(len(set(order[:count]).intersection(graph.holders(one))) >= 5 for one in names(20))
        assert attempt.can_close() == attempt.settled() == enough
        if count >= federation.plan.plan.quorum and not enough:
            waited = True
            with pytest.raises(RoundAborted, match=r"of the 5 shares of p\d+ are missing in UNMASK"):
                attempt.close()
        attempt.receive(told[name])
    assert waited
    attempt.close()
    assert (attempt.result.total() == federation.one_hot(names(20))).all()


def test_an_attempt_that_lost_too_many_holders_of_somebody_ends_before_the_commit_point() -> None:
    _, _, graph = opened(Phase.COLLECT_MASKED)
    lost = {(name, Phase.COLLECT_MASKED): FaultKind.LOST for name in graph.neighbours("p005")[3:]}
    federation = world()
    with pytest.raises(RoundAborted, match="fewer than 5 holders of the shares of") as aborted:
        federation.run_attempt(1, 1, frozenset(), lost, crash_coordinator=False)
    assert aborted.value.code == "E-ROUND-TOO-FEW"
    assert all(not participant.journal.memory.signed for participant in federation.participants.values())


def test_bundles_of_too_few_holders_end_the_attempt_and_the_next_graph_serves() -> None:
    _, _, graph = opened(Phase.SHARE_KEYS)
    late = [Fault(name, Phase.SHARE_KEYS, FaultKind.LATE) for name in graph.neighbours("p005")[3:]]
    result = world().run_round(late)
    assert result.certificate.position.attempt == 2
    assert len(result.survivors) == 20


def test_bundles_of_too_few_holders_end_the_attempt_before_anybody_trains() -> None:
    _, _, graph = opened(Phase.SHARE_KEYS)
    lost = {(name, Phase.SHARE_KEYS): FaultKind.LOST for name in graph.neighbours("p005")[3:]}
    federation = world()
    with pytest.raises(RoundAborted, match="fewer than 5 holders of the shares of"):
        federation.run_attempt(1, 1, frozenset(), lost, crash_coordinator=False)
    assert all(not participant.journal.memory.encoded for participant in federation.participants.values())


def test_a_graph_in_which_somebody_has_too_few_holders_ends_the_attempt_before_anything_is_dealt() -> None:
    federation = world(t=9)
    with pytest.raises(RoundAborted, match="fewer than 9 holders of the shares of"):
        federation.run_round()
    assert all(
        participant.state is None or not hasattr(participant.state, "bundle")
        for participant in federation.participants.values()
    )


def test_both_sides_resume_a_round_on_a_k_regular_graph() -> None:
    plain, restored = world(seed=7), world(seed=7)
    faults = [
        Fault("p003", Phase.COLLECT_MASKED, FaultKind.LOST),
        Fault("p004", Phase.COLLECT_MASKED, FaultKind.CRASH_AFTER_SEND),
    ]
    one, other = plain.run_round(faults), restored.run_round(faults, crash_coordinator=True)
    assert one.certificate == other.certificate
    assert "p004" in one.survivors
