"""The catalogue of lying coordinators: each sentence is an attack, and no honest participant sends anything in answer.

One row for each attack of docs/protocol.md section 10. A row starts from an honest round, changes what one participant
is told, and expects the typed refusal, silence, and unchanged state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from coordinator.phase import Phase
from coordinator.round import CoordinatorRound
from participant.round import Masked, Party, complete
from privacy.errors import PeerError
from privacy.plan import VerifiedPlan
from privacy.secagg import keys, messages
from privacy.secagg.messages import (
    Advertisement,
    AttemptOffer,
    Position,
    SurvivorProposal,
    SurvivorSignature,
    UnmaskRequest,
)
from tests.federation import ADAPTER_HASH, Fault, FaultKind, Federation, SeededSource
from tests.plans import OPERATOR, make_plan, sign_plan, signing_key, verified

VICTIM = "bob"


class Stage:
    """An honest five-party round driven to a phase, so that a lie can be told in it."""

    def __init__(self, phase: Phase, *, faults: tuple[Fault, ...] = ()) -> None:
        self.federation = Federation(5, 1, seed=3)
        self.offer = self.federation.offer(1, 1)
        self.round = self.federation.round = CoordinatorRound(self.federation.plan, self.offer)
        due = {(fault.participant, fault.phase): fault.kind for fault in faults}
        while self.round.phase is not phase:
            self.federation._collect(self.offer, due, [])
            self.round.close()
        self.victim = self.federation.participants[VICTIM]

    @property
    def told(self) -> Any:
        """What an honest coordinator would tell the victim now."""
        return self.offer if self.round.phase is Phase.ADVERTISE_KEYS else self.round.outbox(VICTIM)

    def lie(self, told: object) -> PeerError:
        """Tell the victim; return its refusal after checking that it sent nothing and forgot nothing."""
        before = (self.victim.state, list(self.victim.journal.records))
        sent = self.victim.hear(told)
        assert sent == [], "an honest participant answered a lie"
        assert (self.victim.state, self.victim.journal.records) == before, "a refused message changed the state"
        assert self.victim.refusals, "nothing was refused"
        return self.victim.refusals[-1]


def forged(one: Advertisement, **changes: Any) -> Advertisement:
    """An advertisement changed by someone without its sender's key."""
    return replace(one, **changes)


def signed_by(name: str, unsigned: Advertisement) -> Advertisement:
    return replace(unsigned, signature=signing_key(name).sign(unsigned.signed_bytes(1)))


# --- ADVERTISE_KEYS ---

OFFERS: dict[str, tuple[Callable[[AttemptOffer], AttemptOffer], str]] = {
    "an offer of another plan": (
        lambda o: replace(o, position=replace(o.position, plan_hash=b"\1" * 32)),
        "E-ROUND-CONTEXT",
    ),
    "a round beyond the plan": (lambda o: replace(o, position=replace(o.position, round=4)), "E-ROUND-CONTEXT"),
    "round zero": (lambda o: replace(o, position=replace(o.position, round=0)), "E-ROUND-CONTEXT"),
    "an attempt beyond the plan": (lambda o: replace(o, position=replace(o.position, attempt=4)), "E-ROUND-CONTEXT"),
    "attempt zero": (lambda o: replace(o, position=replace(o.position, attempt=0)), "E-ROUND-CONTEXT"),
    "a round that skips one": (lambda o: replace(o, position=replace(o.position, round=2)), "E-ROUND-TRANSCRIPT"),
    "another history": (lambda o: replace(o, previous_transcript=b"\2" * 32), "E-ROUND-TRANSCRIPT"),
}


@pytest.mark.parametrize("sentence", OFFERS)
def test_malicious_offers_are_refused(sentence: str) -> None:
    change, code = OFFERS[sentence]
    stage = Stage(Phase.ADVERTISE_KEYS)
    assert stage.lie(change(stage.offer)).code == code


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
    from participant.phase import RunRefused

    stage = Stage(Phase.ADVERTISE_KEYS)
    stage.victim.journal.append(RunRefused("E-ROUND-TRANSCRIPT"))
    assert stage.lie(stage.offer).code == "E-ROUND-TRANSCRIPT"


# --- SHARE_KEYS: what is wrong with U1 ---

Advertisements = tuple[Advertisement, ...]


def _without(name: str) -> Callable[[Advertisements], Advertisements]:
    return lambda u1: tuple(one for one in u1 if one.sender != name)


def _changed(name: str, **changes: Any) -> Callable[[Advertisements], Advertisements]:
    return lambda u1: tuple(forged(one, **changes) if one.sender == name else one for one in u1)


def _resigned(name: str, **changes: Any) -> Callable[[Advertisements], Advertisements]:
    """A colluder signs what the coordinator asks it to."""
    return lambda u1: tuple(signed_by(name, replace(one, **changes)) if one.sender == name else one for one in u1)


def _stranger(u1: Advertisements) -> Advertisements:
    return tuple(sorted((*u1, signed_by("mallory", replace(u1[0], sender="mallory"))), key=lambda one: one.sender))


def _other_view(u1: Advertisements) -> Advertisements:
    offer = replace(u1[3].offer, adapter_hash=b"\4" * 32)
    return (*u1[:3], signed_by(u1[3].sender, replace(u1[3], offer=offer)), *u1[4:])


def _other_history(u1: Advertisements) -> Advertisements:
    offer = replace(u1[3].offer, previous_transcript=b"\5" * 32)
    return (*u1[:3], signed_by(u1[3].sender, replace(u1[3], offer=offer)), *u1[4:])


def _copied_key(u1: Advertisements, flip_top_bit: bool = False) -> Advertisements:
    key = bytearray(u1[0].masking_key)
    key[31] ^= 0x80 if flip_top_bit else 0
    return (*u1[:4], signed_by(u1[4].sender, replace(u1[4], masking_key=bytes(key))))


SETS_1: dict[str, tuple[Callable[[Advertisements], Advertisements], str]] = {
    "an invented participant": (_stranger, "E-ROUND-SET"),
    "substituted keys of a peer": (_changed("dave", masking_key=b"\x09" * 32), "E-ROUND-SIGNATURE"),
    "substituted keys of the victim itself": (_changed(VICTIM, masking_key=b"\x09" * 32), "E-ROUND-CONTEXT"),
    "the victim left out": (_without(VICTIM), "E-ROUND-CONTEXT"),
    "too few participants": (lambda u1: u1[:3], "E-ROUND-SET"),
    "a participant named twice": (lambda u1: (u1[0], *u1), "E-ROUND-SET"),
    "an unsorted set": (lambda u1: (u1[1], u1[0], *u1[2:]), "E-ROUND-SET"),
    "a peer that was offered another model": (_other_view, "E-ROUND-CONTEXT"),
    "a peer that was shown another history": (_other_history, "E-ROUND-TRANSCRIPT"),
    "a low-order masking key": (_resigned("erin", masking_key=b"\0" * 32), "E-ROUND-KEYS"),
    "a low-order channel key": (_resigned("erin", channel_key=b"\1" + b"\0" * 31), "E-ROUND-KEYS"),
    "one key for two participants": (_copied_key, "E-ROUND-KEYS"),
    "one key for two participants, top bit flipped": (lambda u1: _copied_key(u1, True), "E-ROUND-KEYS"),
    "one key for masking and channel": (
        lambda u1: _resigned("erin", masking_key=u1[4].channel_key)(u1),
        "E-ROUND-KEYS",
    ),
}


@pytest.mark.parametrize("sentence", SETS_1)
def test_malicious_advertisement_sets_are_refused(sentence: str) -> None:
    change, code = SETS_1[sentence]
    stage = Stage(Phase.SHARE_KEYS)
    assert stage.lie(change(stage.told)).code == code


# --- COLLECT_MASKED: what is wrong with U2 ---


def _bad_share(index: int, **changes: Any) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    return lambda dealt: tuple(
        replace(one, **changes) if position == index else one for position, one in enumerate(dealt)
    )


def _bad_leaf(dealt: tuple[Any, ...]) -> tuple[Any, ...]:
    return (replace(dealt[0], leaf=replace(dealt[0].leaf, seed_share_hash=b"\6" * 32)), *dealt[1:])


SETS_2: dict[str, tuple[Callable[[tuple[Any, ...]], tuple[Any, ...]], str]] = {
    "too few dealers": (lambda dealt: dealt[:2], "E-ROUND-SET"),
    "a dealer named twice": (lambda dealt: (dealt[0], *dealt), "E-ROUND-SET"),
    "unsorted dealers": (lambda dealt: (dealt[1], dealt[0], *dealt[2:]), "E-ROUND-SET"),
    "a dealer outside U1": (_bad_share(3, dealer="zoe"), "E-ROUND-SET"),
    "a share with another dealer's name": (
        lambda dealt: (replace(dealt[1], dealer=dealt[0].dealer), *dealt[1:]),
        "E-ROUND-SIGNATURE",
    ),
    "a share of another attempt": (_bad_share(0, position=Position(b"\7" * 32, 1, 1)), "E-ROUND-CONTEXT"),
    "a share with a changed signature": (_bad_share(0, signature=b"\0" * 64), "E-ROUND-SIGNATURE"),
    "a share with another root": (_bad_share(0, root=b"\0" * 32), "E-ROUND-SIGNATURE"),
    "a share with another commitment": (_bad_share(0, seed_commitment=b"\0" * 32), "E-ROUND-SIGNATURE"),
    "a share with a wrong proof": (_bad_share(0, proof=(b"\0" * 32,) * 3), "E-ROUND-SHARE"),
    "a share with a changed hash": (_bad_leaf, "E-ROUND-SHARE"),
    "a changed ciphertext": (_bad_share(0, sealed=b"\0" * 94), "E-ROUND-SHARE"),
}


@pytest.mark.parametrize("sentence", SETS_2)
def test_malicious_share_sets_are_refused(sentence: str) -> None:
    change, code = SETS_2[sentence]
    stage = Stage(Phase.COLLECT_MASKED)
    assert stage.lie(change(stage.told)).code == code


def test_malicious_shares_of_another_holder_are_refused() -> None:
    stage = Stage(Phase.COLLECT_MASKED)
    assert stage.lie(stage.round.outbox("carol")).code == "E-ROUND-SET"


# --- AGREE_SURVIVORS: what is wrong with S ---


def _members(*kept: str) -> Callable[[SurvivorProposal], SurvivorProposal]:
    return lambda told: replace(told, receipts=tuple(one for one in told.receipts if one.sender in kept))


def _receipt(name: str, **changes: Any) -> Callable[[SurvivorProposal], SurvivorProposal]:
    return lambda told: replace(
        told,
        receipts=tuple(replace(one, **changes) if one.sender == name else one for one in told.receipts),
    )


def _signed_receipt(stage: Stage, name: str, **changes: Any) -> SurvivorProposal:
    """A colluder signs a receipt that suits the coordinator."""
    told: SurvivorProposal = stage.told
    masked = stage.victim.state
    assert isinstance(masked, Masked)

    def sign(one: Any) -> Any:
        changed = replace(one, **changes)
        return replace(changed, signature=signing_key(name).sign(changed.signed_bytes(1, masked.record.round_ctx)))

    return replace(told, receipts=tuple(sign(one) if one.sender == name else one for one in told.receipts))


SETS_S: dict[str, tuple[Callable[[SurvivorProposal], SurvivorProposal], str]] = {
    "the asked participant is not in S": (_members("alice", "carol", "dave", "erin"), "E-ROUND-SET"),
    "too few survivors": (_members("alice", "bob", "carol"), "E-ROUND-SET"),
    "a survivor named twice": (lambda told: replace(told, receipts=(told.receipts[0], *told.receipts)), "E-ROUND-SET"),
    "unsorted survivors": (lambda told: replace(told, receipts=told.receipts[::-1]), "E-ROUND-SET"),
    "a survivor outside U2": (_receipt("erin", sender="zoe"), "E-ROUND-SET"),
    "a survivor that never uploaded": (_receipt("erin", masked_hash=b"\0" * 32), "E-ROUND-SIGNATURE"),
    "another digest for the victim's own upload": (_receipt(VICTIM, masked_hash=b"\0" * 32), "E-ROUND-SIGNATURE"),
    "the receipts of another round": (
        lambda told: replace(told, position=replace(told.position, round=2)),
        "E-ROUND-CONTEXT",
    ),
    "one receipt of another attempt": (
        lambda told: _receipt("erin", position=replace(told.position, attempt=2))(told),
        "E-ROUND-CONTEXT",
    ),
    "all masked with another U2": (
        lambda told: replace(told, receipts=tuple(replace(one, u2_hash=b"\1" * 32) for one in told.receipts)),
        "E-ROUND-SET",
    ),
}


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
    assert stage.lie(_members("alice", "bob", "carol", "dave")(stage.told)).code == "E-ROUND-COMMITTED"


def test_the_same_survivor_set_again_gets_the_same_signature_and_no_second_record() -> None:
    stage = Stage(Phase.AGREE_SURVIVORS)
    first = stage.victim.hear(stage.told)
    records = len(stage.victim.journal.records)
    assert stage.victim.hear(stage.told) == first
    assert len(stage.victim.journal.records) == records


def test_malicious_survivors_of_an_attempt_that_a_later_one_closed_are_refused() -> None:
    stage = Stage(Phase.AGREE_SURVIVORS)
    told, masked = stage.told, stage.victim.state
    assert stage.victim.hear(stage.federation.offer(1, 2))
    stage.victim.state = masked  # as if it still held the earlier attempt
    assert stage.lie(told).code == "E-ROUND-COMMITTED"


# --- UNMASK: what is wrong with the request ---


def _signatures(change: Callable[[tuple[SurvivorSignature, ...]], Any]) -> Callable[[UnmaskRequest], UnmaskRequest]:
    return lambda told: replace(told, signatures=tuple(change(told.signatures)))


def _shrunk(told: UnmaskRequest) -> UnmaskRequest:
    return replace(told, proposal=_members("alice", "bob", "carol", "dave")(told.proposal))


REQUESTS: dict[str, tuple[Callable[[UnmaskRequest], UnmaskRequest], str]] = {
    "a threshold downgrade: one signature short": (_signatures(lambda all_: all_[:3]), "E-ROUND-QUORUM"),
    "one signature repeated": (_signatures(lambda all_: (*all_[:3], all_[0], all_[1])), "E-ROUND-QUORUM"),
    "forged signatures": (
        _signatures(lambda all_: [replace(one, signature=b"\0" * 64) for one in all_]),
        "E-ROUND-QUORUM",
    ),
    "signatures under swapped names": (
        _signatures(lambda all_: [replace(one, signature=all_[i - 1].signature) for i, one in enumerate(all_)]),
        "E-ROUND-QUORUM",
    ),
    "signatures of another attempt": (
        _signatures(lambda all_: [replace(one, position=replace(one.position, attempt=2)) for one in all_]),
        "E-ROUND-QUORUM",
    ),
    "another S than was signed": (_shrunk, "E-ROUND-COMMITTED"),
    "an S without the asked participant": (
        lambda told: replace(told, proposal=_members("alice", "carol", "dave", "erin")(told.proposal)),
        "E-ROUND-SET",
    ),
    "an S that is too small": (
        lambda told: replace(told, proposal=_members("alice", "bob", "carol")(told.proposal)),
        "E-ROUND-SET",
    ),
    "an S with a stranger": (
        lambda told: replace(told, proposal=_receipt("erin", sender="zoe")(told.proposal)),
        "E-ROUND-SET",
    ),
}


@pytest.mark.parametrize("sentence", REQUESTS)
def test_malicious_unmask_requests_are_refused(sentence: str) -> None:
    change, code = REQUESTS[sentence]
    stage = Stage(Phase.UNMASK)
    assert stage.lie(change(stage.told)).code == code


def test_malicious_second_release_is_refused_also_for_one_who_never_signed() -> None:
    """A victim that did not sign S releases along it once; a smaller S with honest signatures gets nothing."""
    stage = Stage(Phase.UNMASK, faults=())
    signed = stage.victim.journal.memory
    assert signed.signed is not None
    object.__setattr__(stage.victim.journal, "memory", replace(signed, signed=None))
    assert stage.victim.hear(stage.told)
    smaller = _shrunk(stage.told)
    masked = stage.victim.state
    assert isinstance(masked, Masked)
    at, ctx = smaller.proposal.position, masked.record.round_ctx
    forged_quorum = tuple(
        SurvivorSignature(at, name, signing_key(name).sign(smaller.proposal.survivors.signed_bytes(1, at, name, ctx)))
        for name in ("alice", "bob", "carol", "dave")
    )
    assert stage.lie(replace(smaller, signatures=forged_quorum)).code == "E-ROUND-COMMITTED"
    assert stage.lie(smaller.proposal).code == "E-ROUND-COMMITTED"


def test_malicious_release_along_forged_receipts_is_refused_by_one_who_never_signed() -> None:
    stage = Stage(Phase.UNMASK)
    memory = stage.victim.journal.memory
    stage.victim.journal.memory = replace(memory, signed=None)
    told = replace(stage.told, proposal=_receipt("erin", masked_hash=b"\0" * 32)(stage.told.proposal))
    assert stage.lie(told).code == "E-ROUND-SIGNATURE"


def test_a_participant_declared_dropped_releases_nothing_and_raises_an_alarm() -> None:
    federation = Federation(5, 1)
    late = [Fault(VICTIM, Phase.COLLECT_MASKED, FaultKind.LATE)]
    result = federation.run_round(late)
    victim = federation.participants[VICTIM]
    assert VICTIM not in result.survivors
    assert victim.journal.memory.released is None
    assert victim.journal.memory.history[-1].alarm


# --- RESULT and history ---


def certificate_of(federation: Federation) -> Any:
    return federation.run_round().certificate


HISTORIES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a certificate of another plan": (
        lambda c: replace(c, position=replace(c.position, plan_hash=b"\1" * 32)),
        "E-ROUND-CONTEXT",
    ),
    "a certificate of a later round": (
        lambda c: replace(c, position=replace(c.position, round=2)),
        "E-ROUND-CONTEXT",
    ),
    "a certificate of an attempt beyond the plan": (
        lambda c: replace(c, position=replace(c.position, attempt=9)),
        "E-ROUND-CONTEXT",
    ),
    "a certificate with too few signatures": (lambda c: replace(c, signatures=c.signatures[:3]), "E-ROUND-QUORUM"),
    "a certificate with another context": (lambda c: replace(c, round_ctx=b"\1" * 32), "E-ROUND-QUORUM"),
    "a certificate with fewer survivors": (
        lambda c: replace(c, survivors=replace(c.survivors, members=c.survivors.members[:3])),
        "E-ROUND-SET",
    ),
    "a certificate with unsorted survivors": (
        lambda c: replace(c, survivors=replace(c.survivors, members=c.survivors.members[::-1])),
        "E-ROUND-SET",
    ),
    "a certificate with a changed digest": (
        lambda c: replace(c, survivors=replace(c.survivors, members=(("alice", b"\0" * 32), *c.survivors.members[1:]))),
        "E-ROUND-QUORUM",
    ),
}


@pytest.mark.parametrize("sentence", HISTORIES)
def test_malicious_histories_are_refused(sentence: str) -> None:
    change, code = HISTORIES[sentence]
    federation = Federation(5, 1)
    victim = federation.participants[VICTIM]
    memories = []
    hear = victim.hear
    victim.hear = lambda told: (memories.append(victim.journal.memory), hear(told))[1]  # type: ignore[method-assign]
    certificate = certificate_of(federation)
    before_result = memories[-1]
    with pytest.raises(PeerError) as refusal:
        complete(victim.party, change(certificate), before_result)
    assert refusal.value.code == code


def test_a_journal_copied_back_is_noticed_by_a_history_that_it_does_not_know() -> None:
    """Wherever in the round the backup was taken before the upload, the certificate shows the rollback."""
    federation = Federation(5, 1)
    certificate = certificate_of(federation)
    journal = federation.participants[VICTIM].journal
    masked_at = [type(record).__name__ for record in journal.records].index("UpdateMasked")
    for count in range(masked_at + 1):
        with pytest.raises(PeerError) as refusal:
            complete(federation.participants[VICTIM].party, certificate, journal.rolled_back(count).memory)
        assert refusal.value.code == "E-ROUND-TRANSCRIPT"


def test_a_history_with_other_survivors_than_were_signed_is_refused() -> None:
    federation = Federation(5, 1)
    certificate = certificate_of(federation)
    victim = federation.participants[VICTIM]
    before = victim.journal.rolled_back(len(victim.journal.records) - 1).memory
    smaller = replace(certificate.survivors, members=certificate.survivors.members[:4])
    at = certificate.position
    quorum = tuple(
        SurvivorSignature(at, name, signing_key(name).sign(smaller.signed_bytes(1, at, name, certificate.round_ctx)))
        for name in smaller.ids
    )
    with pytest.raises(PeerError) as refusal:
        complete(victim.party, replace(certificate, survivors=smaller, signatures=quorum), before)
    assert refusal.value.code == "E-ROUND-TRANSCRIPT"


def test_malicious_split_view_of_the_sum_splits_the_history_for_ever() -> None:
    """Two participants shown different sums disagree about the transcript, and refuse each other's advertisement."""
    federation = Federation(5, 1)
    certificate = certificate_of(federation)
    victim = federation.participants[VICTIM]
    before = victim.journal.rolled_back(len(victim.journal.records) - 1)
    before.append(complete(victim.party, replace(certificate, sum_hash=b"\1" * 32), before.memory))
    assert before.memory.transcript != federation.transcript


# --- the plan ---


def test_malicious_plan_by_another_operator_is_refused() -> None:
    plan, _ = make_plan()
    with pytest.raises(PeerError, match="E-PLAN-SIGNATURE"):
        VerifiedPlan.verify(plan.to_bytes(), sign_plan(plan, signing_key("mallory")), OPERATOR.public)


def test_malicious_plan_with_one_changed_byte_is_refused() -> None:
    plan, _ = make_plan()
    changed = plan.to_bytes().replace(b'"f":1', b'"f":0')
    assert changed != plan.to_bytes()
    with pytest.raises(PeerError, match="E-PLAN-SIGNATURE"):
        VerifiedPlan.verify(changed, sign_plan(plan), OPERATOR.public)


def test_replayed_messages_of_another_run_do_not_verify() -> None:
    """The same keys, roster and round under another run id: nothing signed in one counts in the other."""
    one = Stage(Phase.SHARE_KEYS)
    plan, identities = make_plan(run_id="ff" * 16)
    party = Party(verified(plan), VICTIM, identities[VICTIM])
    at = Position(party.plan.hash, 1, 1)
    offer = AttemptOffer(at, messages.genesis_transcript(party.plan.hash), ADAPTER_HASH)
    from participant.phase import RunMemory
    from participant.round import advertise

    state = advertise(party, offer, RunMemory.empty(party.plan.hash), SeededSource("x")).state
    replayed = tuple(state.own if each.sender == VICTIM else each for each in one.told)
    with pytest.raises(PeerError) as refusal:
        state.on_advertisements(replayed, SeededSource("y"))
    assert refusal.value.code in {"E-ROUND-CONTEXT", "E-ROUND-TRANSCRIPT"}
    assert keys.verify(identities["alice"].public, one.told[0].signature, one.told[0].signed_bytes(1))
