"""A round without a sum: who may be told so, what is never done in it again, and what the next round follows from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.protocol.round import CoordinatorRound
from participant.protocol.memory import RunMemory
from participant.protocol.round import hear
from participant.protocol.states import Idle, Masked, Released, Signed
from privacy.errors import LocalError, PeerError, Phase
from privacy.secagg.messages import (
    Advertisement,
    AdvertisementSet,
    AttemptOffer,
    Position,
    SurvivorProposal,
    UnmaskRequest,
    VoidedRound,
    chained,
)
from tests.worlds.expect import expect
from tests.worlds.federation import ADAPTER_HASH, Federation, SimulatedParticipant


def noised(**overrides: Any) -> Federation:
    return Federation(n=5, f=1, mode="local", **overrides)


def played(world: Federation, until: Phase) -> CoordinatorRound:
    """Play round 1 up to a phase, and let everybody hear what is asked in it."""
    machine = world.round = CoordinatorRound(world.plan, world.offer(1, 1))
    while machine.phase is not until:
        world.collect({}, [])
        machine.close()
    return machine


def voided(world: Federation, number: int = 1) -> VoidedRound:
    return VoidedRound(world.plan.hash, number)


def refusal(world: Federation, told: VoidedRound, *, memory: RunMemory | None = None) -> PeerError:
    alice = world.participants["alice"]
    with pytest.raises(PeerError) as refused:
        hear(alice.state, told, memory or alice.journal.memory, alice.source)
    return refused.value


def following(world: Federation, number: int = 2) -> AttemptOffer:
    """Return the offer of a round that follows from voided ones alone."""
    transcript = RunMemory.empty(world.plan.hash).transcript
    for before in range(1, number):
        transcript = voided(world, before).transcript(transcript)
    return AttemptOffer(Position(world.plan.hash, number, 1), transcript, ADAPTER_HASH)


def test_after_a_voided_round_the_next_one_completes_with_the_exact_sum_of_updates_of_its_own() -> None:
    world = noised()
    played(world, Phase.UNMASK)
    for participant in world.participants.values():
        participant.hear(voided(world))
        assert isinstance(participant.state, Idle)
        assert participant.journal.memory.completed == 1
    machine = world.round = CoordinatorRound(world.plan, following(world))
    while machine.phase is not Phase.RESULT:
        world.collect({}, [])
        machine.close()
    assert machine.result.certificate.position.round == 2
    assert machine.result.total().tolist() == world.one_hot(world.keys).tolist()
    for participant in world.participants.values():
        participant.hear(machine.result.certificate)
    transcripts = {participant.journal.memory.transcript for participant in world.participants.values()}
    assert transcripts == {chained(world.plan.hash, [None, machine.result.certificate])}


@pytest.mark.parametrize("until", [Phase.AGREE_SURVIVORS, Phase.UNMASK])
def test_malicious_request_to_sign_or_release_in_a_voided_round_is_refused_whatever_was_done_before(
    until: Phase,
) -> None:
    """Before the next round is advertised too: then the round's close alone stands between two survivor sets."""
    world = noised()
    machine = played(world, until)
    alice = world.participants["alice"]
    told = machine.outbox("alice")
    assert isinstance(told, SurvivorProposal | UnmaskRequest)
    before = expect(Masked, alice.state)
    alice.hear(voided(world))
    for state in (before, Masked(before.participant, before.record, before.shares)):  # or after a restart
        with pytest.raises(PeerError) as refused:
            hear(state, told, alice.journal.memory, alice.source)
        assert (refused.value.code, refused.value.phase) == ("E-ROUND-COMMITTED", until)
    with pytest.raises(LocalError, match="E-ROUND-PHASE"):
        hear(alice.state, told, alice.journal.memory, alice.source)


@pytest.mark.parametrize("state", [Signed, Released])
def test_who_signed_or_released_can_leave_a_voided_round(state: type[Masked]) -> None:
    world = noised()
    machine = played(world, Phase.AGREE_SURVIVORS if state is Signed else Phase.UNMASK)
    alice = world.participants["alice"]
    alice.hear(machine.outbox("alice"))
    assert type(alice.state) is state
    alice.hear(voided(world))
    assert alice.journal.memory.resumable is None, "nor does a restart go on in it"
    step = hear(alice.state, following(world), alice.journal.memory, alice.source)
    assert step.message is not None


def test_malicious_void_in_a_plan_without_noise_is_refused_and_the_round_goes_on() -> None:
    world = Federation(n=5, f=1)
    played(world, Phase.AGREE_SURVIVORS)
    state = world.participants["alice"].state
    assert refusal(world, voided(world)).code == "E-ROUND-VOID"
    assert world.participants["alice"].state is state


def test_malicious_void_of_another_round_or_plan_or_of_the_last_round_is_refused() -> None:
    world = noised(recipe={"rounds": 2})
    for other in (voided(world, 2), replace(voided(world), plan_hash=b"\1" * 32)):
        assert refusal(world, other).rule == "what was voided is not the next round of this plan"
    alice = world.participants["alice"]
    alice.hear(voided(world))
    assert refusal(world, voided(world)).rule == "what was voided is not the next round of this plan", "once is enough"
    assert refusal(world, voided(world, 2)).rule == "no round follows in which to go on"


def test_a_run_that_was_refused_hears_of_no_voided_rounds() -> None:
    world = noised()
    memory = replace(world.participants["alice"].journal.memory, refused="E-LEDGER-ROLLBACK")
    assert refusal(world, voided(world), memory=memory).code == "E-ROUND-TRANSCRIPT"


def test_malicious_void_of_a_round_that_completed_is_refused() -> None:
    world = noised()
    world.run_round()
    assert refusal(world, voided(world)).code == "E-ROUND-CONTEXT"


def test_malicious_certificate_of_a_voided_round_is_refused_and_its_sum_enters_no_history() -> None:
    world = noised()
    machine = played(world, Phase.UNMASK)
    alice = world.participants["alice"]
    alice.hear(voided(world))
    world.collect({}, [])
    machine.close()
    with pytest.raises(PeerError, match="the certificate is not of the next round"):
        hear(alice.state, machine.result.certificate, alice.journal.memory, alice.source)


def test_malicious_void_for_some_and_a_sum_for_others_shows_as_a_split_view_in_the_next_round() -> None:
    world = noised()
    certificate = world.run_round().certificate
    assert certificate.position.round == 1
    others = noised(seed=1)
    for participant in others.participants.values():
        participant.hear(voided(others))
    sums, voids = world.offer(2, 1), following(others)
    assert sums.previous_transcript != voids.previous_transcript
    said = [advertised(world.participants[name], sums) for name in ("alice", "bob", "carol")]
    said += [advertised(others.participants[name], voids) for name in ("dave", "erin")]
    alice = world.participants["alice"]
    with pytest.raises(PeerError, match="split view: dave was shown another history"):
        hear(alice.state, AdvertisementSet(tuple(said)), alice.journal.memory, alice.source)


def advertised(participant: SimulatedParticipant, offer: AttemptOffer) -> Advertisement:
    (message,) = participant.hear(offer)
    return expect(Advertisement, message)


def test_the_history_of_voided_rounds_counts_only_those_that_a_completed_one_follows() -> None:
    world = noised()
    certificate = world.run_round().certificate
    after = certificate.transcript(RunMemory.empty(world.plan.hash).transcript)
    assert chained(world.plan.hash, [certificate, None, None]) == after
    assert chained(world.plan.hash, [None, certificate]) != after
    assert chained(world.plan.hash, [None]) == chained(world.plan.hash, [])
