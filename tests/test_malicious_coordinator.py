"""The catalogue of lying coordinators: each sentence is an attack, and no honest participant sends anything in answer.

One row for each attack of docs/protocol.md section 10. A row starts from an honest round, changes what one participant
is told, and expects the typed refusal, silence, and unchanged state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from participant.protocol.member import Participant
from participant.protocol.memory import RunMemory, RunRefused
from participant.protocol.round import hear
from participant.protocol.states import Advertised, Idle, Masked, Released, Shared, Signed
from privacy.errors import PeerError, Phase, PlanError
from privacy.plan import PROTOCOL_VERSION, VerifiedPlan
from privacy.secagg import hashes, keys, merkle
from privacy.secagg.messages import (
    AdvertisementSet,
    AttemptOffer,
    MaskedUpload,
    Position,
    SurvivorProposal,
    SurvivorSignature,
    UnmaskRequest,
)
from tests.worlds.expect import expect
from tests.worlds.federation import ADAPTER_HASH, Fault, FaultKind, Federation, SeededSource
from tests.worlds.lying_coordinator import (
    HISTORIES,
    OFFERS,
    REQUESTS,
    SETS_1,
    SETS_2,
    SETS_S,
    SIGNED_HISTORIES,
    VICTIM,
    WITHOUT_EFFECT,
    Stage,
    as_told,
    before_the_result,
    certificate_of,
    completed,
    resigned,
    shrunk,
    survivor_set,
    with_receipt,
    with_survivors,
)
from tests.worlds.plans import OPERATOR, make_plan, sign_plan, signing_key, verified

# --- ADVERTISE_KEYS ---


@pytest.mark.parametrize("sentence", OFFERS)
def test_malicious_offers_are_refused(sentence: str) -> None:
    change, code = OFFERS[sentence]
    stage = Stage(Phase.ADVERTISE_KEYS)
    assert stage.lie(change(stage.offer)).code == code


def test_the_last_round_and_the_last_attempt_of_the_plan_are_answered() -> None:
    federation = Federation(5, 1)
    rounds, attempts = federation.plan.plan.recipe.rounds, federation.plan.plan.max_attempts
    for _ in range(rounds - 1):
        federation.run_round()
    assert federation.participants[VICTIM].hear(federation.offer(rounds, attempts))


def test_malicious_replay_of_an_attempt_is_refused() -> None:
    stage = Stage(Phase.ADVERTISE_KEYS)
    assert stage.victim.hear(stage.offer)
    assert stage.lie(stage.offer).code == "E-ROUND-CONTEXT"


def test_malicious_earlier_attempt_is_closed_once_a_later_one_was_advertised() -> None:
    stage = Stage(Phase.ADVERTISE_KEYS)
    assert stage.victim.hear(stage.federation.offer(1, 2))
    assert stage.lie(stage.federation.offer(1, 1)).code == "E-ROUND-CONTEXT"


def test_malicious_retry_with_another_adapter_is_refused() -> None:
    stage = Stage(Phase.AGREE_SURVIVORS)
    other = replace(stage.federation.offer(1, 2), adapter_hash=b"\3" * 32)
    assert stage.lie(other).code == "E-ROUND-CONTEXT"


def test_malicious_retry_after_the_survivors_were_signed_is_refused() -> None:
    stage = Stage(Phase.UNMASK)
    assert stage.lie(stage.federation.offer(1, 2)).code == "E-ROUND-COMMITTED"


def test_malicious_offer_in_a_refused_run_is_refused() -> None:
    stage = Stage(Phase.ADVERTISE_KEYS)
    stage.victim.journal.append(RunRefused("E-ROUND-TRANSCRIPT"))
    assert stage.lie(stage.offer).code == "E-ROUND-TRANSCRIPT"


@pytest.mark.parametrize("phase", [Phase.AGREE_SURVIVORS, Phase.UNMASK])
def test_malicious_survivors_and_requests_in_a_refused_run_are_refused(phase: Phase) -> None:
    stage = Stage(phase)
    told = stage.told
    stage.victim.journal.append(RunRefused("E-LEDGER-ROLLBACK"))
    refusal = stage.lie(told)
    assert refusal.code == "E-ROUND-TRANSCRIPT"
    assert "refused before (E-LEDGER-ROLLBACK)" in refusal.rule


# --- SHARE_KEYS: what is wrong with U1 ---


@pytest.mark.parametrize("sentence", SETS_1)
def test_malicious_advertisement_sets_are_refused(sentence: str) -> None:
    change, code = SETS_1[sentence]
    stage = Stage(Phase.SHARE_KEYS)
    assert stage.lie(change(stage.told)).code == code


def test_malicious_u1_that_could_rebuild_secrets_and_is_smaller_than_the_plan_asks_is_refused() -> None:
    """Four shares rebuild a secret, and all five must survive."""
    stage = Stage(Phase.SHARE_KEYS, min_survivors=5)
    assert stage.federation.plan.plan.shamir_threshold == 4
    assert stage.lie(stage.told[:4]).code == "E-ROUND-SET"


def test_ones_own_advertisement_is_compared_with_ones_own_and_its_signature_not_verified() -> None:
    stage = Stage(Phase.SHARE_KEYS)
    told = tuple(replace(one, signature=b"\0" * 64) if one.sender == VICTIM else one for one in stage.told)
    assert stage.victim.hear(as_told(told))


# --- COLLECT_MASKED: what is wrong with U2 ---


@pytest.mark.parametrize("sentence", SETS_2)
def test_malicious_share_sets_are_refused(sentence: str) -> None:
    change, code = SETS_2[sentence]
    stage = Stage(Phase.COLLECT_MASKED)
    assert stage.lie(change(stage.told)).code == code


@pytest.mark.parametrize("sentence", WITHOUT_EFFECT)
def test_malicious_words_about_the_signature_of_shares_that_open_change_nothing(sentence: str) -> None:
    honest, lied_to = Stage(Phase.COLLECT_MASKED), Stage(Phase.COLLECT_MASKED)
    lie = WITHOUT_EFFECT[sentence](lied_to.told)
    assert lie != honest.told
    (answer,) = lied_to.victim.hear(as_told(lie))
    assert [answer] == honest.victim.hear(as_told(honest.told))
    assert lied_to.round.receive(expect(MaskedUpload, answer))


def test_malicious_share_that_names_another_holder_at_the_victims_place_is_refused_if_it_does_not_open() -> None:
    """A colluding dealer signs a root over leaves of which the victim's says "carol", and blames nobody with it."""
    stage = Stage(Phase.COLLECT_MASKED)
    state, dealt = stage.victim.state, stage.told
    assert isinstance(state, Shared)
    leaf = replace(dealt[3].leaf, recipient="carol")
    tree = merkle.MerkleTree.over([leaf.hash] * len(state.u1))
    lie = replace(dealt[3], sealed=b"\0" * 94, leaf=leaf, proof=tree.proof(state.u1.index(VICTIM)), root=tree.root)
    signature = signing_key(lie.dealer).sign(lie.signed_bytes(PROTOCOL_VERSION, state.round_ctx))
    assert stage.lie((*dealt[:3], replace(lie, signature=signature))).code == "E-ROUND-CONTEXT"


def test_malicious_shares_of_another_holder_are_refused() -> None:
    stage = Stage(Phase.COLLECT_MASKED)
    assert stage.lie(stage.round.outbox("carol")).code == "E-ROUND-SET"


# --- AGREE_SURVIVORS: what is wrong with S ---


def _signed_receipt(stage: Stage, name: str, **changes: Any) -> SurvivorProposal:
    """A colluder signs a receipt that suits the coordinator."""
    told: SurvivorProposal = stage.told
    masked = stage.victim.state
    assert isinstance(masked, Masked)

    def sign(one: Any) -> Any:
        changed = replace(one, **changes)
        return replace(
            changed, signature=signing_key(name).sign(changed.signed_bytes(PROTOCOL_VERSION, masked.record.round_ctx))
        )

    return replace(
        told, receipts=tuple(sign(receipt) if receipt.sender == name else receipt for receipt in told.receipts)
    )


@pytest.mark.parametrize("sentence", SETS_S)
def test_malicious_survivor_sets_are_refused(sentence: str) -> None:
    change, code = SETS_S[sentence]
    stage = Stage(Phase.AGREE_SURVIVORS)
    assert stage.lie(change(stage.told)).code == code


def test_malicious_split_of_u2_shows_in_a_signed_receipt() -> None:
    stage = Stage(Phase.AGREE_SURVIVORS)
    assert stage.lie(_signed_receipt(stage, "erin", u2_hash=b"\1" * 32)).code == "E-ROUND-SET"


def test_malicious_upload_of_another_length_is_refused() -> None:
    stage = Stage(Phase.AGREE_SURVIVORS)
    assert stage.lie(_signed_receipt(stage, "erin", length=8)).code == "E-ROUND-UPLOAD"


def test_malicious_receipt_in_the_victims_own_name_is_refused() -> None:
    stage = Stage(Phase.AGREE_SURVIVORS)
    assert stage.lie(_signed_receipt(stage, VICTIM, masked_hash=b"\1" * 32)).code == "E-ROUND-UPLOAD"


def test_malicious_second_survivor_set_is_refused() -> None:
    stage = Stage(Phase.AGREE_SURVIVORS)
    assert stage.victim.hear(stage.told)
    assert stage.lie(with_survivors("alice", "bob", "carol", "dave")(stage.told)).code == "E-ROUND-COMMITTED"


def test_the_same_survivor_set_again_gets_the_same_signature_and_no_second_record() -> None:
    stage = Stage(Phase.AGREE_SURVIVORS)
    first = stage.victim.hear(stage.told)
    records = len(stage.victim.journal.records)
    assert stage.victim.hear(stage.told) == first
    assert len(stage.victim.journal.records) == records


def test_a_signer_asked_again_after_its_release_gives_the_same_signature() -> None:
    stage = Stage(Phase.AGREE_SURVIVORS)
    told = stage.told
    first = stage.victim.hear(told)
    stage.federation.collect({}, [])
    stage.round.close()
    assert stage.victim.hear(stage.told)
    assert stage.victim.hear(told) == first


def test_malicious_survivors_of_a_completed_round_are_refused() -> None:
    stage = Stage(Phase.AGREE_SURVIVORS)
    proposal = stage.told
    for _ in range(2):
        stage.federation.collect({}, [])
        request = stage.told
        stage.round.close()
    assert stage.victim.hear(stage.round.result.certificate) == []
    assert stage.victim.hear(proposal) == stage.victim.hear(request) == []
    stage.victim.state = stage.victim.before  # as if it still held the attempt
    assert stage.lie(proposal).code == "E-ROUND-COMMITTED"
    assert stage.lie(request).code == "E-ROUND-COMMITTED"


def test_malicious_survivors_of_an_attempt_that_a_later_one_closed_are_refused() -> None:
    stage = Stage(Phase.AGREE_SURVIVORS)
    told, masked = stage.told, stage.victim.state
    assert stage.victim.hear(stage.federation.offer(1, 2))
    stage.victim.state = masked  # as if it still held the earlier attempt
    assert stage.lie(told).code == "E-ROUND-COMMITTED"


# --- UNMASK: what is wrong with the request ---


@pytest.mark.parametrize("sentence", REQUESTS)
def test_malicious_unmask_requests_are_refused(sentence: str) -> None:
    change, code = REQUESTS[sentence]
    stage = Stage(Phase.UNMASK)
    assert stage.lie(change(stage.told)).code == code


def _quorum(told: UnmaskRequest, signers: Sequence[str], context: bytes) -> UnmaskRequest:
    """The request with valid signatures over its own S, whoever would have to lie for them."""
    at, survivors = told.proposal.position, told.proposal.survivors
    signed = [
        SurvivorSignature(at, name, signing_key(name).sign(survivors.signed_bytes(PROTOCOL_VERSION, at, name, context)))
        for name in signers
    ]
    return replace(told, signatures=tuple(signed))


def test_malicious_signatures_by_others_than_the_survivors_do_not_count() -> None:
    stage = Stage(Phase.UNMASK)
    masked = stage.victim.state
    assert isinstance(masked, Masked)
    stage.victim.journal.memory = replace(stage.victim.journal.memory, signed=None)
    smaller = shrunk(stage.told)
    told = _quorum(smaller, ("alice", "bob", "carol", "erin"), masked.record.round_ctx)
    assert stage.lie(told).code == "E-ROUND-QUORUM"


def test_malicious_release_in_an_attempt_that_a_later_one_closed_is_refused() -> None:
    stage = Stage(Phase.UNMASK)
    signed = expect(Signed, stage.victim.state)
    masked = stage.victim.state = Masked(signed.participant, signed.record, signed.shares)  # it never signed
    stage.victim.journal.memory = replace(stage.victim.journal.memory, signed=None)
    assert stage.victim.hear(stage.federation.offer(1, 2))
    stage.victim.state = masked  # as if it still held the earlier attempt
    assert stage.lie(stage.told).code == "E-ROUND-COMMITTED"


def test_malicious_release_for_another_round_is_refused() -> None:
    stage = Stage(Phase.UNMASK)
    proposal = replace(stage.told.proposal, position=replace(stage.told.proposal.position, round=2))
    assert stage.lie(replace(stage.told, proposal=proposal)).code == "E-ROUND-CONTEXT"


@pytest.mark.parametrize("name", ["alice", VICTIM, "carol", "dave"])
def test_a_receipt_whose_sender_signed_the_survivors_need_not_be_signed_as_well(name: str) -> None:
    stage = Stage(Phase.UNMASK)
    assert [one.sender for one in stage.told.signatures][:4] == ["alice", "bob", "carol", "dave"]
    proposal = with_receipt(name, signature=b"\0" * 64)(stage.told.proposal)
    assert stage.victim.hear(replace(stage.told, proposal=proposal))


def test_ones_own_receipt_is_compared_with_ones_own_and_its_signature_not_verified() -> None:
    stage = Stage(Phase.UNMASK)
    others = tuple(one for one in stage.told.signatures if one.sender != VICTIM)
    proposal = with_receipt(VICTIM, signature=b"\0" * 64)(stage.told.proposal)
    assert stage.victim.hear(replace(stage.told, proposal=proposal, signatures=others))


def test_malicious_receipts_of_survivors_that_were_signed_unseen_release_nothing() -> None:
    """Survivors are signed as they are said; before a share leaves, each of them must have signed what it uploaded."""
    stage = Stage(Phase.AGREE_SURVIVORS)
    lie = with_receipt("erin", masked_hash=b"\0" * 32)(stage.told)
    assert stage.victim.hear(lie)
    context = expect(Signed, stage.victim.state).record.round_ctx
    told = _quorum(UnmaskRequest(lie, ()), ("alice", "bob", "carol", "dave"), context)
    assert stage.lie(told).code == "E-ROUND-SIGNATURE"


def test_malicious_second_release_is_refused_also_for_one_who_never_signed() -> None:
    """A victim that did not sign S releases along it once; a smaller S with honest signatures gets nothing."""
    stage = Stage(Phase.UNMASK, faults=())
    memory = stage.victim.journal.memory
    assert memory.signed is not None
    stage.victim.journal.memory = replace(memory, signed=None)
    assert stage.victim.hear(stage.told)
    smaller = shrunk(stage.told)
    masked = stage.victim.state
    assert isinstance(masked, Masked)
    forged_quorum = _quorum(smaller, ("alice", "bob", "carol", "dave"), masked.record.round_ctx)
    assert stage.lie(forged_quorum).code == "E-ROUND-COMMITTED"
    assert stage.lie(smaller.proposal).code == "E-ROUND-COMMITTED"


def test_malicious_release_along_forged_receipts_is_refused_by_one_who_never_signed() -> None:
    stage = Stage(Phase.UNMASK)
    memory = stage.victim.journal.memory
    stage.victim.journal.memory = replace(memory, signed=None)
    forged = with_receipt("erin", masked_hash=b"\0" * 32)(stage.told.proposal)
    assert stage.lie(replace(stage.told, proposal=forged)).code == "E-ROUND-QUORUM"
    unsigned = with_receipt("erin", signature=b"\0" * 64)(stage.told.proposal)
    assert stage.lie(replace(stage.told, proposal=unsigned)).code == "E-ROUND-SIGNATURE"


LYING_RECEIPTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "is of another attempt": ("alice", {"position": Position(b"\1" * 32, 1, 1)}, "E-ROUND-CONTEXT"),
    "is over another U2": ("alice", {"u2_hash": b"\1" * 32}, "E-ROUND-SET"),
    "has another length": ("alice", {"length": 44}, "E-ROUND-UPLOAD"),
    "names another upload of the victim": (VICTIM, {"masked_hash": b"\0" * 32}, "E-ROUND-UPLOAD"),
}


@pytest.mark.parametrize("sentence", LYING_RECEIPTS)
def test_malicious_release_is_refused_by_one_who_never_signed_if_a_receipt(sentence: str) -> None:
    """A quorum that would sign anything vouches for receipts that this participant can see to be wrong."""
    name, changes, code = LYING_RECEIPTS[sentence]
    stage = Stage(Phase.UNMASK)
    stage.victim.journal.memory = replace(stage.victim.journal.memory, signed=None)
    masked = stage.victim.state
    assert isinstance(masked, Masked)
    lie = replace(stage.told, proposal=with_receipt(name, **changes)(stage.told.proposal))
    assert stage.lie(_quorum(lie, ("alice", "carol", "dave", "erin"), masked.record.round_ctx)).code == code


def test_a_participant_declared_dropped_releases_nothing_and_raises_an_alarm() -> None:
    federation = Federation(5, 1)
    late = [Fault(VICTIM, Phase.COLLECT_MASKED, FaultKind.LATE)]
    result = federation.run_round(late)
    victim = federation.participants[VICTIM]
    assert VICTIM not in result.survivors
    assert victim.journal.memory.released is None
    assert victim.journal.memory.history[-1].alarm


# --- RESULT and history ---


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("sentence", HISTORIES)
def test_malicious_histories_are_refused(sentence: str, restarted: bool) -> None:
    """Also by who remembers the quorum of the real one, since it released shares."""
    change, code = HISTORIES[sentence]
    federation = Federation(5, 1)
    certificate = certificate_of(federation)
    victim = federation.participants[VICTIM]
    state = None if restarted else expect(Released, victim.before)
    with pytest.raises(PeerError) as refusal:
        completed(victim.participant, change(certificate), before_the_result(federation), state=state)
    assert refusal.value.code == code


def test_the_quorum_of_a_release_is_not_verified_again_with_the_result_unless_it_was_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    federation = Federation(5, 1)
    certificate, before = certificate_of(federation), before_the_result(federation)
    victim, seen, verify = federation.participants[VICTIM], list[bytes](), keys.verify

    def noted(public: bytes, signature: bytes, message: bytes) -> bool:
        seen.append(signature)
        return verify(public, signature, message)

    monkeypatch.setattr(keys, "verify", noted)
    released = expect(Released, victim.before)
    remembering = completed(victim.participant, certificate, before, state=released)
    assert seen == []
    restarted = Masked(released.participant, released.record, released.shares)
    assert completed(victim.participant, certificate, before, state=restarted) == remembering
    assert seen == [one.signature for one in certificate.signatures[: federation.plan.plan.quorum]]


def test_no_more_valid_signatures_are_looked_at_than_the_plan_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    federation = Federation(5, 1)
    certificate = certificate_of(federation)
    everybody = resigned(certificate).signatures
    forged = replace(everybody[0], signature=bytes(64))
    seen, verify = list[bytes](), keys.verify

    def noting(public: bytes, signature: bytes, message: bytes) -> bool:
        seen.append(signature)
        return verify(public, signature, message)

    monkeypatch.setattr(keys, "verify", noting)
    given = replace(certificate, signatures=(forged, everybody[1], *everybody))  # one does not count, one counts once
    completed(federation.participants[VICTIM].participant, given, before_the_result(federation))
    assert seen == [one.signature for one in given.signatures[:6]]


def test_a_journal_copied_back_is_noticed_by_a_history_that_it_does_not_know() -> None:
    """Wherever in the round the backup was taken before the upload, the certificate shows the rollback."""
    federation = Federation(5, 1)
    certificate = certificate_of(federation)
    journal = federation.participants[VICTIM].journal
    masked_at = [type(record).__name__ for record in journal.records].index("UpdateMasked")
    for count in range(masked_at + 1):
        with pytest.raises(PeerError) as refusal:
            completed(federation.participants[VICTIM].participant, certificate, journal.rolled_back(count).memory)
        assert refusal.value.code == "E-ROUND-TRANSCRIPT"


@pytest.mark.parametrize("sentence", SIGNED_HISTORIES)
def test_malicious_histories_are_refused_even_if_a_quorum_signed_them(sentence: str) -> None:
    change, code = SIGNED_HISTORIES[sentence]
    federation = Federation(5, 1)
    certificate = certificate_of(federation)
    with pytest.raises(PeerError) as refusal:
        completed(federation.participants[VICTIM].participant, change(certificate), before_the_result(federation))
    assert refusal.value.code == code


@pytest.mark.parametrize("sentence", [one for one in SIGNED_HISTORIES if "victim signed" not in one])
def test_malicious_histories_are_refused_also_by_one_who_signed_no_survivors(sentence: str) -> None:
    change, code = SIGNED_HISTORIES[sentence]
    federation = Federation(5, 1)
    certificate = certificate_of(federation)
    before = replace(before_the_result(federation), signed=None)
    with pytest.raises(PeerError) as refusal:
        completed(federation.participants[VICTIM].participant, change(certificate), before)
    assert refusal.value.code == code


def test_a_round_completed_in_the_last_attempt_of_the_plan_is_a_history() -> None:
    """Erin knows the round from its certificate alone."""
    federation = Federation(5, 1)
    certificate = certificate_of(federation)
    last = resigned(certificate, position=replace(certificate.position, attempt=federation.plan.plan.max_attempts))
    others = survivor_set(last, *(member for member in last.survivors.members if member[0] != "erin"))
    nothing = RunMemory.empty(federation.plan.hash)
    record = completed(federation.participants["erin"].participant, resigned(last, survivors=others), nothing)
    assert (record.attempt, record.alarm) == (3, False)


def test_a_participant_left_out_of_another_attempt_than_its_own_raises_no_alarm() -> None:
    """It uploaded to attempt 1, which was given up: being absent from attempt 2's survivors is no surprise."""
    federation = Federation(5, 1)
    certificate = certificate_of(federation)
    victim = federation.participants[VICTIM].participant
    others = survivor_set(certificate, *(member for member in certificate.survivors.members if member[0] != VICTIM))
    before = replace(before_the_result(federation), signed=None)
    later = resigned(certificate, survivors=others, position=replace(certificate.position, attempt=2))
    assert not completed(victim, later, before).alarm
    assert completed(victim, resigned(certificate, survivors=others), before).alarm


def test_malicious_split_view_of_the_sum_splits_the_history_for_ever() -> None:
    """Two participants shown different sums disagree about the transcript, and refuse each other's advertisement."""
    federation = Federation(5, 1)
    certificate = certificate_of(federation)
    victim = federation.participants[VICTIM]
    before = victim.journal.rolled_back(len(victim.journal.records) - 1)
    before.append(completed(victim.participant, replace(certificate, sum_hash=b"\1" * 32), before.memory))
    assert before.memory.transcript != federation.transcript


# --- the plan ---


def test_malicious_plan_by_another_operator_is_refused() -> None:
    plan, _ = make_plan()
    with pytest.raises(PlanError, match="E-PLAN-SIGNATURE"):
        VerifiedPlan.verify(plan.to_bytes(), sign_plan(plan, signing_key("mallory")), OPERATOR.public)


def test_malicious_plan_with_one_changed_byte_is_refused() -> None:
    plan, _ = make_plan()
    changed = plan.to_bytes().replace(b'"f":1', b'"f":0')
    assert changed != plan.to_bytes()
    with pytest.raises(PlanError, match="E-PLAN-SIGNATURE"):
        VerifiedPlan.verify(changed, sign_plan(plan), OPERATOR.public)


def test_replayed_messages_of_another_run_do_not_verify() -> None:
    """The same keys, roster and round under another run id: nothing signed in one counts in the other."""
    run = Stage(Phase.SHARE_KEYS)
    plan, identities = make_plan(run_id="ff" * 16)
    victim, memory = Participant(verified(plan), VICTIM, identities[VICTIM]), RunMemory.empty(plan.hash)
    at = Position(plan.hash, 1, 1)
    offer = AttemptOffer(at, hashes.genesis_transcript(plan.hash), ADAPTER_HASH)
    state = expect(Advertised, hear(Idle(victim), offer, memory, SeededSource("x")).state)
    replayed = tuple(state.own if each.sender == VICTIM else each for each in run.told)
    with pytest.raises(PeerError) as refusal:
        hear(state, AdvertisementSet(replayed), memory, SeededSource("y"))
    assert refusal.value.code in {"E-ROUND-CONTEXT", "E-ROUND-TRANSCRIPT"}
    assert keys.verify(identities["alice"].public, run.told[0].signature, run.told[0].signed_bytes(PROTOCOL_VERSION))
