"""The catalogue of lying coordinators: each sentence is an attack, and no honest participant sends anything in answer.

One row for each attack of docs/protocol.md section 10. A row starts from an honest round, changes what one participant
is told, and expects the typed refusal, silence, and unchanged state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from coordinator.protocol.round import CoordinatorRound
from participant.protocol.memory import RunMemory, RunRefused
from participant.protocol.round import Masked, Participant, Shared, advertise, complete
from privacy.errors import PeerError, Phase, PlanError
from privacy.plan import PROTOCOL_VERSION, VerifiedPlan
from privacy.secagg import hashes, keys, merkle
from privacy.secagg.messages import (
    Advertisement,
    AttemptOffer,
    Position,
    RoundCertificate,
    SurvivorProposal,
    SurvivorSet,
    SurvivorSignature,
    UnmaskRequest,
)
from tests.worlds.federation import ADAPTER_HASH, Fault, FaultKind, Federation, SeededSource
from tests.worlds.plans import OPERATOR, make_plan, sign_plan, signing_key, verified

VICTIM = "bob"


class Stage:
    """An honest five-party round driven to a phase, so that a lie can be told in it."""

    def __init__(self, phase: Phase, *, faults: tuple[Fault, ...] = (), **overrides: Any) -> None:
        self.federation = Federation(5, 1, seed=3, **overrides)
        self.offer = self.federation.offer(1, 1)
        self.round = self.federation.round = CoordinatorRound(self.federation.plan, self.offer)
        due = {(fault.participant, fault.phase): fault.kind for fault in faults}
        while self.round.phase is not phase:
            self.federation.collect(self.offer, due, [])
            self.round.close()
        self.victim = self.federation.participants[VICTIM]

    @property
    def told(self) -> Any:
        """What an honest coordinator would tell the victim now."""
        return self.offer if self.round.phase is Phase.ADVERTISE_KEYS else self.round.outbox(VICTIM)

    def lie(self, told: object) -> PeerError:
        """Tell the victim; return its refusal, which names who lied and when, once it sent and forgot nothing."""
        before = (self.victim.state, list(self.victim.journal.records), self.victim.journal.memory)
        refused = len(self.victim.refusals)
        sent = self.victim.hear(told)
        assert sent == [], "an honest participant answered a lie"
        after = (self.victim.state, self.victim.journal.records, self.victim.journal.memory)
        assert after == before, "a refused message changed the state"
        assert len(self.victim.refusals) == refused + 1, "nothing was refused"
        refusal = self.victim.refusals[-1]
        assert (refusal.participant, refusal.phase) == ("coordinator", _phase_of(told).name)
        assert refusal.rule
        return refusal


def _phase_of(told: object) -> Phase:
    """In which phase a participant is told such a thing."""
    match told:
        case AttemptOffer():
            return Phase.ADVERTISE_KEYS
        case tuple() as several if isinstance(several[0], Advertisement):
            return Phase.SHARE_KEYS
        case SurvivorProposal():
            return Phase.AGREE_SURVIVORS
        case UnmaskRequest():
            return Phase.UNMASK
    return Phase.COLLECT_MASKED


def forged(one: Advertisement, **changes: Any) -> Advertisement:
    """An advertisement changed by someone without its sender's key."""
    return replace(one, **changes)


def signed_by(name: str, unsigned: Advertisement) -> Advertisement:
    return replace(unsigned, signature=signing_key(name).sign(unsigned.signed_bytes(PROTOCOL_VERSION)))


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
    "a low-order masking key, top bit set": (
        _resigned("erin", masking_key=b"\0" * 31 + b"\x80"),
        "E-ROUND-KEYS",
    ),
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


def test_malicious_u1_that_could_rebuild_secrets_and_is_smaller_than_the_plan_asks_is_refused() -> None:
    """Four shares rebuild a secret, and all five must survive."""
    stage = Stage(Phase.SHARE_KEYS, min_survivors=5)
    assert stage.federation.plan.plan.shamir_threshold == 4
    assert stage.lie(stage.told[:4]).code == "E-ROUND-SET"


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


def test_malicious_share_that_names_another_holder_at_the_victims_place_is_refused() -> None:
    """A colluding dealer signs a root over leaves of which the victim's says "carol"."""
    stage = Stage(Phase.COLLECT_MASKED)
    state, dealt = stage.victim.state, stage.told
    assert isinstance(state, Shared)
    leaf = replace(dealt[3].leaf, recipient="carol")
    tree = merkle.MerkleTree.over([leaf.hash] * len(state.u1))
    lie = replace(dealt[3], leaf=leaf, proof=tree.proof(state.u1.index(VICTIM)), root=tree.root)
    signature = signing_key(lie.dealer).sign(lie.signed_bytes(PROTOCOL_VERSION, state.round_ctx))
    assert stage.lie((*dealt[:3], replace(lie, signature=signature))).code == "E-ROUND-CONTEXT"


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
        return replace(
            changed, signature=signing_key(name).sign(changed.signed_bytes(PROTOCOL_VERSION, masked.record.round_ctx))
        )

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


def test_a_signer_asked_again_after_its_release_gives_the_same_signature() -> None:
    stage = Stage(Phase.AGREE_SURVIVORS)
    told = stage.told
    first = stage.victim.hear(told)
    stage.federation.collect(stage.offer, {}, [])
    stage.round.close()
    assert stage.victim.hear(stage.told)
    assert stage.victim.hear(told) == first


def test_malicious_survivors_of_a_completed_round_are_refused() -> None:
    stage = Stage(Phase.AGREE_SURVIVORS)
    proposal = stage.told
    for _ in range(2):
        stage.federation.collect(stage.offer, {}, [])
        request = stage.told
        stage.round.close()
    assert stage.victim.hear(stage.round.result.certificate) == []
    assert stage.lie(proposal).code == "E-ROUND-COMMITTED"
    assert stage.lie(request).code == "E-ROUND-COMMITTED"


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
    smaller = _shrunk(stage.told)
    told = _quorum(smaller, ("alice", "bob", "carol", "erin"), masked.record.round_ctx)
    assert stage.lie(told).code == "E-ROUND-QUORUM"


def test_malicious_release_in_an_attempt_that_a_later_one_closed_is_refused() -> None:
    stage = Stage(Phase.UNMASK)
    masked = stage.victim.state
    stage.victim.journal.memory = replace(stage.victim.journal.memory, signed=None)  # it never signed
    assert stage.victim.hear(stage.federation.offer(1, 2))
    stage.victim.state = masked  # as if it still held the earlier attempt
    assert stage.lie(stage.told).code == "E-ROUND-COMMITTED"


def test_malicious_release_for_another_round_is_refused() -> None:
    stage = Stage(Phase.UNMASK)
    proposal = replace(stage.told.proposal, position=replace(stage.told.proposal.position, round=2))
    assert stage.lie(replace(stage.told, proposal=proposal)).code == "E-ROUND-CONTEXT"


def test_a_signer_releases_along_what_it_signed_though_a_receipt_lost_its_signature() -> None:
    stage = Stage(Phase.UNMASK)
    proposal = _receipt("erin", signature=b"\0" * 64)(stage.told.proposal)
    assert stage.victim.hear(replace(stage.told, proposal=proposal))


def test_malicious_second_release_is_refused_also_for_one_who_never_signed() -> None:
    """A victim that did not sign S releases along it once; a smaller S with honest signatures gets nothing."""
    stage = Stage(Phase.UNMASK, faults=())
    memory = stage.victim.journal.memory
    assert memory.signed is not None
    stage.victim.journal.memory = replace(memory, signed=None)
    assert stage.victim.hear(stage.told)
    smaller = _shrunk(stage.told)
    masked = stage.victim.state
    assert isinstance(masked, Masked)
    forged_quorum = _quorum(smaller, ("alice", "bob", "carol", "dave"), masked.record.round_ctx)
    assert stage.lie(forged_quorum).code == "E-ROUND-COMMITTED"
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


def before_the_result(federation: Federation) -> RunMemory:
    """What the victim knew when it had released and the certificate had not come yet."""
    records = federation.participants[VICTIM].journal.records
    return federation.participants[VICTIM].journal.rolled_back(len(records) - 1).memory


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
    "a certificate with the right names under wrong signatures": (
        lambda c: replace(c, signatures=tuple(replace(one, signature=bytes(64)) for one in c.signatures)),
        "E-ROUND-QUORUM",
    ),
    "a certificate with the right signatures under wrong names": (
        lambda c: replace(c, signatures=tuple(replace(one, sender=VICTIM) for one in c.signatures)),
        "E-ROUND-QUORUM",
    ),
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


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("sentence", HISTORIES)
def test_malicious_histories_are_refused(sentence: str, restarted: bool) -> None:
    """Also by who remembers the quorum of the real one, since it released shares."""
    change, code = HISTORIES[sentence]
    federation = Federation(5, 1)
    certificate = certificate_of(federation)
    victim = federation.participants[VICTIM]
    verified = None if restarted else victim.state.quorum  # type: ignore[attr-defined]  # a Masked, at the end
    with pytest.raises(PeerError) as refusal:
        complete(victim.party, change(certificate), before_the_result(federation), verified=verified)
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
    remembering = complete(victim.party, certificate, before, verified=victim.state.quorum)  # type: ignore[attr-defined]  # a Masked
    assert seen == []
    victim.crash_and_restart()
    assert complete(victim.party, certificate, before, verified=victim.state.quorum) == remembering  # type: ignore[attr-defined]  # a Masked
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
    complete(federation.participants[VICTIM].party, given, before_the_result(federation))
    assert seen == [one.signature for one in given.signatures[:6]]


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


def resigned(certificate: RoundCertificate, **changes: Any) -> RoundCertificate:
    """A certificate changed with signatures to match by all of its survivors whose names are known."""
    one = replace(certificate, **changes)
    at = one.position
    signed = [
        SurvivorSignature(
            at, name, signing_key(name).sign(one.survivors.signed_bytes(PROTOCOL_VERSION, at, name, one.round_ctx))
        )
        for name in one.survivors.ids
        if name != "zoe"
    ]
    return replace(one, signatures=tuple(signed))


def _survivors(certificate: RoundCertificate, *members: tuple[str, bytes]) -> SurvivorSet:
    return replace(certificate.survivors, members=members)


def _other_digest(certificate: RoundCertificate) -> SurvivorSet:
    return _survivors(
        certificate,
        *((name, b"\0" * 32 if name == VICTIM else digest) for name, digest in certificate.survivors.members),
    )


SIGNED_HISTORIES: dict[str, tuple[Callable[[RoundCertificate], RoundCertificate], str]] = {
    "other survivors than the victim signed": (
        lambda c: resigned(c, survivors=_survivors(c, *c.survivors.members[:4])),
        "E-ROUND-TRANSCRIPT",
    ),
    "another upload of the victim": (lambda c: resigned(c, survivors=_other_digest(c)), "E-ROUND-TRANSCRIPT"),
    "another attempt than the victim uploaded to": (
        lambda c: resigned(c, position=replace(c.position, attempt=2)),
        "E-ROUND-TRANSCRIPT",
    ),
    "another context than the victim uploaded in": (lambda c: resigned(c, round_ctx=b"\1" * 32), "E-ROUND-TRANSCRIPT"),
    "a survivor who is not on the roster": (
        lambda c: resigned(c, survivors=_survivors(c, *c.survivors.members, ("zoe", b"\2" * 32))),
        "E-ROUND-SET",
    ),
    "attempt zero": (lambda c: resigned(c, position=replace(c.position, attempt=0)), "E-ROUND-CONTEXT"),
}


@pytest.mark.parametrize("sentence", SIGNED_HISTORIES)
def test_malicious_histories_are_refused_even_if_a_quorum_signed_them(sentence: str) -> None:
    change, code = SIGNED_HISTORIES[sentence]
    federation = Federation(5, 1)
    certificate = certificate_of(federation)
    with pytest.raises(PeerError) as refusal:
        complete(federation.participants[VICTIM].party, change(certificate), before_the_result(federation))
    assert refusal.value.code == code


@pytest.mark.parametrize("sentence", [one for one in SIGNED_HISTORIES if "victim signed" not in one])
def test_malicious_histories_are_refused_also_by_one_who_signed_no_survivors(sentence: str) -> None:
    change, code = SIGNED_HISTORIES[sentence]
    federation = Federation(5, 1)
    certificate = certificate_of(federation)
    before = replace(before_the_result(federation), signed=None)
    with pytest.raises(PeerError) as refusal:
        complete(federation.participants[VICTIM].party, change(certificate), before)
    assert refusal.value.code == code


def test_a_round_completed_in_the_last_attempt_of_the_plan_is_a_history() -> None:
    """Erin knows the round from its certificate alone."""
    federation = Federation(5, 1)
    certificate = certificate_of(federation)
    last = resigned(certificate, position=replace(certificate.position, attempt=federation.plan.plan.max_attempts))
    others = _survivors(last, *(one for one in last.survivors.members if one[0] != "erin"))
    nothing = RunMemory.empty(federation.plan.hash)
    record = complete(federation.participants["erin"].party, resigned(last, survivors=others), nothing)
    assert (record.attempt, record.alarm) == (3, False)


def test_a_participant_left_out_of_another_attempt_than_its_own_raises_no_alarm() -> None:
    """It uploaded to attempt 1, which was given up: being absent from attempt 2's survivors is no surprise."""
    federation = Federation(5, 1)
    certificate = certificate_of(federation)
    party = federation.participants[VICTIM].party
    others = _survivors(certificate, *(one for one in certificate.survivors.members if one[0] != VICTIM))
    before = replace(before_the_result(federation), signed=None)
    later = resigned(certificate, survivors=others, position=replace(certificate.position, attempt=2))
    assert not complete(party, later, before).alarm
    assert complete(party, resigned(certificate, survivors=others), before).alarm


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
    one = Stage(Phase.SHARE_KEYS)
    plan, identities = make_plan(run_id="ff" * 16)
    party = Participant(verified(plan), VICTIM, identities[VICTIM])
    at = Position(party.plan.hash, 1, 1)
    offer = AttemptOffer(at, hashes.genesis_transcript(party.plan.hash), ADAPTER_HASH)
    state = advertise(party, offer, RunMemory.empty(party.plan.hash), SeededSource("x")).state
    replayed = tuple(state.own if each.sender == VICTIM else each for each in one.told)
    with pytest.raises(PeerError) as refusal:
        state.on_advertisements(replayed, SeededSource("y"))
    assert refusal.value.code in {"E-ROUND-CONTEXT", "E-ROUND-TRANSCRIPT"}
    assert keys.verify(identities["alice"].public, one.told[0].signature, one.told[0].signed_bytes(PROTOCOL_VERSION))
