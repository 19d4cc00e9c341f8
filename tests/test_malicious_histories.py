"""Lies about the past: different sums for different participants, missed rounds made up, attempts told across."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from coordinator.protocol.round import CoordinatorRound
from participant.protocol.memory import UpdateMasked
from participant.protocol.round import hear
from participant.protocol.states import Advertised, Masked
from privacy.errors import PeerError, Phase
from privacy.secagg.messages import (
    Advertisement,
    AdvertisementSet,
    AttemptOffer,
    Position,
    RoundCertificate,
    SurvivorProposal,
    UnmaskRequest,
)
from tests.worlds.expect import expect
from tests.worlds.federation import ADAPTER_HASH, Fault, FaultKind, Federation
from tests.worlds.lying_coordinator import completed

EVERYBODY = ("alice", "bob", "carol", "dave", "erin")


def before_the_result(federation: Federation) -> None:
    """Play round 1 up to its result, which nobody has been told yet."""
    offer = federation.offer(1, 1)
    federation.round = CoordinatorRound(federation.plan, offer)
    while federation.round.phase is not Phase.RESULT:
        federation.collect({}, [])
        federation.round.close()


def own_offer(federation: Federation, name: str) -> AttemptOffer:
    """What a coordinator that keeps its lies apart offers each participant: its own history."""
    memory = federation.participants[name].journal.memory
    return AttemptOffer(Position(federation.plan.hash, 2, 1), memory.transcript, ADAPTER_HASH)


def test_malicious_sums_that_differ_stop_everybody_in_the_next_round_whomever_it_is_shown() -> None:
    """Bob and carol are told another sum; the coordinator offers to each what it believes, and tries every U1."""
    federation = Federation(5, 1)
    before_the_result(federation)
    assert federation.round is not None
    certificate = federation.round.result.certificate
    for name in EVERYBODY:
        told = replace(certificate, sum_hash=b"\1" * 32) if name in ("bob", "carol") else certificate
        assert federation.participants[name].hear(told) == []
    said = {}
    for name, one in federation.participants.items():
        (answer,) = one.hear(own_offer(federation, name))
        said[name] = expect(Advertisement, answer)
    for size in range(1, 6):
        for shown in combinations(EVERYBODY, size):
            for name in EVERYBODY:
                victim = federation.participants[name]
                assert isinstance(victim.state, Advertised)
                assert victim.hear(AdvertisementSet(tuple(said[peer] for peer in shown))) == []
    codes = {error.code for participant in federation.participants.values() for error in participant.refusals}
    assert codes == {"E-ROUND-SET", "E-ROUND-CONTEXT", "E-ROUND-TRANSCRIPT"}
    alice = federation.participants["alice"]
    alice.refusals.clear()
    alice.hear(AdvertisementSet(tuple(said.values())))
    assert "split view: bob was shown another history" in alice.refusals[-1].rule


# --- who missed rounds ---

Chain = Sequence[RoundCertificate]


def _unsigned(one: RoundCertificate) -> RoundCertificate:
    return replace(one, signatures=tuple(replace(each, signature=b"\0" * 64) for each in one.signatures))


CHAINS: dict[str, tuple[Callable[[Chain], Chain], int, str]] = {
    "the first round is left out": (lambda c: c[1:], 0, "E-ROUND-CONTEXT"),
    "the second round is left out": (lambda c: (c[0], c[2]), 1, "E-ROUND-CONTEXT"),
    "two rounds are swapped": (lambda c: (c[1], c[0], c[2]), 0, "E-ROUND-CONTEXT"),
    "a round comes twice": (lambda c: (c[0], c[0], *c[1:]), 1, "E-ROUND-CONTEXT"),
    "a round has nobody's signatures": (lambda c: (c[0], _unsigned(c[1]), c[2]), 1, "E-ROUND-QUORUM"),
    "a round has the number of another": (
        lambda c: (c[0], replace(c[2], position=c[1].position), c[2]),
        1,
        "E-ROUND-QUORUM",
    ),
    "a round has the signatures of another": (
        lambda c: (c[0], replace(c[1], signatures=c[2].signatures), c[2]),
        1,
        "E-ROUND-QUORUM",
    ),
    "a round has other survivors": (
        lambda c: (c[0], replace(c[1], survivors=c[2].survivors), c[2]),
        1,
        "E-ROUND-QUORUM",
    ),
}


@pytest.fixture(scope="module")
def missed() -> tuple[Federation, Chain]:
    """Erin is lost in the first round, and three rounds go by."""
    federation = Federation(5, 1, recipe={"rounds": 4})
    federation.run_round([Fault("erin", Phase.ADVERTISE_KEYS, FaultKind.LOST)])
    for _ in range(2):
        federation.run_round()
    return federation, tuple(federation.completed)


def caught_up(federation: Federation, chain: Chain) -> Any:
    """Return what erin remembers after a chain of certificates, up to the first that it refuses, and that refusal."""
    erin = federation.participants["erin"]
    memory = erin.journal.memory
    for certificate in chain:
        try:
            memory = memory.apply(completed(erin.participant, certificate, memory))
        except PeerError as refusal:
            return memory, refusal
    return memory, None


def test_who_missed_three_rounds_arrives_at_the_others_history(missed: tuple[Federation, Chain]) -> None:
    federation, chain = missed
    memory, refusal = caught_up(federation, chain)
    assert refusal is None
    assert (memory.completed, memory.transcript) == (3, federation.transcript)
    assert not any(record.alarm for record in memory.history)


@pytest.mark.parametrize("sentence", CHAINS)
def test_malicious_chain_of_missed_rounds_is_refused_where_it_breaks_if(
    sentence: str, missed: tuple[Federation, Chain]
) -> None:
    federation, chain = missed
    change, good, code = CHAINS[sentence]
    memory, refusal = caught_up(federation, change(chain))
    assert refusal is not None
    assert (refusal.code, refusal.participant, refusal.phase) == (code, "coordinator", "RESULT")
    assert memory.completed == good


def test_malicious_sum_in_a_chain_of_missed_rounds_leads_to_a_history_of_ones_own(
    missed: tuple[Federation, Chain],
) -> None:
    """No signature covers the sum; the transcript does, and the others' advertisements do not fit it."""
    federation, chain = missed
    memory, refusal = caught_up(federation, (chain[0], replace(chain[1], sum_hash=b"\2" * 32), chain[2]))
    assert refusal is None
    assert memory.completed == 3
    assert memory.transcript != federation.transcript


# --- two attempts at once ---


def uploaded_twice() -> tuple[Federation, CoordinatorRound, CoordinatorRound]:
    """Everybody uploads to attempt 1 and then, as if that had failed, to attempt 2; neither has been agreed on."""
    federation = Federation(5, 1)
    first, second = (CoordinatorRound(federation.plan, federation.offer(1, number)) for number in (1, 2))
    for attempt in (first, second):
        for _ in range(3):
            federation.round = attempt
            federation.collect({}, [])
            attempt.close()
    return federation, first, second


def test_malicious_coordinator_cannot_complete_either_of_two_attempts_once_it_asks_across_them() -> None:
    """All signatures and releases of both attempts are asked of everybody, the older attempt's first."""
    federation, first, second = uploaded_twice()
    for participant in federation.participants.values():
        assert isinstance(participant.state, Masked)
        assert participant.state.record.attempt == 2
        assert participant.hear(first.outbox(participant.name)) == []
        assert participant.refusals[-1].code == "E-ROUND-CONTEXT"
    for name in EVERYBODY:
        for answer in federation.participants[name].hear(second.outbox(name)):
            assert second.receive(answer)
    second.close()
    request = second.outbox("alice")
    assert isinstance(request, UnmaskRequest)
    across = replace(request, proposal=expect(SurvivorProposal, first.outbox("alice")))
    for participant in federation.participants.values():
        assert participant.hear(across) == []
        assert participant.refusals[-1].code == "E-ROUND-CONTEXT"
        assert participant.hear(request)


def test_malicious_attempts_told_to_whoever_still_holds_the_older_one_stay_closed() -> None:
    """As if a participant had kept its state of attempt 1 in memory while its journal went on."""
    federation, first, _ = uploaded_twice()
    for name, one in federation.participants.items():
        record = one.journal.records[[type(each).__name__ for each in one.journal.records].index("UpdateMasked")]
        older = replace(expect(Masked, one.state), record=expect(UpdateMasked, record))
        with pytest.raises(PeerError) as refused:
            hear(older, expect(SurvivorProposal, first.outbox(name)), one.journal.memory, one.source)
        assert (refused.value.code, refused.value.phase) == ("E-ROUND-COMMITTED", "AGREE_SURVIVORS")


def test_a_retry_encodes_nothing_anew_and_its_upload_is_another() -> None:
    federation, first, second = uploaded_twice()
    for participant in federation.participants.values():
        kinds = [type(each).__name__ for each in participant.journal.records]
        assert kinds == ["AttemptAdvertised", "UpdateEncoded", "UpdateMasked", "AttemptAdvertised", "UpdateMasked"]
    for name in EVERYBODY:
        proposals = [expect(SurvivorProposal, attempt.outbox(name)) for attempt in (first, second)]
        (older, newer) = (receipt for shown in proposals for receipt in shown.receipts if receipt.sender == name)
        assert older.masked_hash != newer.masked_hash
