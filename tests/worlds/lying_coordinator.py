"""What a coordinator may lie about, phase by phase: each sentence is a lie, with the code of the refusal that it meets.

A lie changes what an honest coordinator would tell one participant, :data:`VICTIM`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from coordinator.protocol.round import CoordinatorRound, Outgoing
from participant.protocol.member import Participant
from participant.protocol.memory import RoundClosed, RunMemory
from participant.protocol.round import hear
from participant.protocol.states import Idle, State
from participant.protocol.transitions import Told
from privacy.errors import PeerError, Phase
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg.messages import (
    Advertisement,
    AdvertisementSet,
    AttemptOffer,
    DealtShare,
    HolderShares,
    Position,
    RoundCertificate,
    SurvivorProposal,
    SurvivorSet,
    SurvivorSignature,
    UnmaskRequest,
)
from tests.worlds.expect import expect
from tests.worlds.federation import Fault, Federation, SeededSource
from tests.worlds.plans import signing_key

VICTIM = "bob"
OTHER_POSITION = Position(b"\7" * 32, 1, 1)


class Stage:
    """An honest five-party round driven to a phase, so that a lie can be told in it."""

    def __init__(self, phase: Phase, *, faults: tuple[Fault, ...] = (), **overrides: Any) -> None:
        self.federation = Federation(5, 1, seed=3, **overrides)
        self.offer = self.federation.offer(1, 1)
        self.round = self.federation.round = CoordinatorRound(self.federation.plan, self.offer)
        due = {(fault.participant, fault.phase): fault.kind for fault in faults}
        while self.round.phase is not phase:
            self.federation.collect(due, [])
            self.round.close()
        self.victim = self.federation.participants[VICTIM]

    @property
    def told(self) -> Any:
        """What an honest coordinator would tell the victim now: of sets the members, which lies change."""
        return members_of(self.round.outbox(VICTIM))

    def lie(self, told: object) -> PeerError:
        """Tell the victim; return its refusal, which names who lied and when, once it sent and forgot nothing."""
        before = (self.victim.state, list(self.victim.journal.records), self.victim.journal.memory)
        refused = len(self.victim.refusals)
        sent = self.victim.hear(as_told(told))
        assert sent == [], "an honest participant answered a lie"
        after = (self.victim.state, self.victim.journal.records, self.victim.journal.memory)
        assert after == before, "a refused message changed the state"
        assert len(self.victim.refusals) == refused + 1, "nothing was refused"
        refusal = self.victim.refusals[-1]
        assert (refusal.participant, refusal.phase) == ("coordinator", _phase_of(told).name)
        assert refusal.rule
        return refusal


def members_of(told: Outgoing | None) -> Any:
    """Return what a set that is told is made of, or what is told as it is."""
    match told:
        case AdvertisementSet(advertisements):
            return advertisements
        case HolderShares(shares, ()):
            return shares
    return told


def as_told(lie: Any) -> Told:
    """Return a lie as it is told: a set, if it is the members of one."""
    match lie:
        case (Advertisement(), *_):
            return AdvertisementSet(lie)
        case (DealtShare(), *_):
            return HolderShares(lie)
    told: Told = lie
    return told


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
    """Return an advertisement under somebody's signature."""
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


# --- COLLECT_MASKED: what is wrong with U2 ---


def _bad_share(index: int, **changes: Any) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    return lambda dealt: tuple(
        replace(one, **changes) if position == index else one for position, one in enumerate(dealt)
    )


def _unopened(index: int, **changes: Any) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """A share that does not open, so that it is asked what its dealer signed."""
    return _bad_share(index, sealed=b"\0" * 94, **changes)


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
    "an unopened share of another attempt": (_unopened(0, position=OTHER_POSITION), "E-ROUND-CONTEXT"),
    "an unopened share with a changed signature": (_unopened(0, signature=b"\0" * 64), "E-ROUND-SIGNATURE"),
    "an unopened share with another root": (_unopened(0, root=b"\0" * 32), "E-ROUND-SIGNATURE"),
    "an unopened share with another commitment": (_unopened(0, seed_commitment=b"\0" * 32), "E-ROUND-SIGNATURE"),
    "an unopened share with a wrong proof": (_unopened(0, proof=(b"\0" * 32,) * 3), "E-ROUND-SHARE"),
    "a share with a changed hash": (_bad_leaf, "E-ROUND-SHARE"),
    "a changed ciphertext": (_unopened(0), "E-ROUND-SHARE"),
    "a longer ciphertext": (lambda dealt: _bad_share(0, sealed=dealt[0].sealed + b"\0")(dealt), "E-ROUND-SHARE"),
}
# Beside shares that open: what opens is what the dealer sealed, whatever is said of its signature.
WITHOUT_EFFECT: dict[str, Callable[[tuple[Any, ...]], tuple[Any, ...]]] = {
    "another attempt": _bad_share(0, position=OTHER_POSITION),
    "a changed signature": _bad_share(0, signature=b"\0" * 64),
    "another root": _bad_share(0, root=b"\0" * 32),
    "another commitment": _bad_share(0, seed_commitment=b"\0" * 32),
    "a wrong proof": _bad_share(0, proof=(b"\0" * 32,) * 3),
    "another holder's name": lambda dealt: _bad_share(0, leaf=replace(dealt[0].leaf, recipient="carol"))(dealt),
}


# --- AGREE_SURVIVORS: what is wrong with S ---


def with_survivors(*kept: str) -> Callable[[SurvivorProposal], SurvivorProposal]:
    return lambda told: replace(told, receipts=tuple(receipt for receipt in told.receipts if receipt.sender in kept))


def with_receipt(name: str, **changes: Any) -> Callable[[SurvivorProposal], SurvivorProposal]:
    return lambda told: replace(
        told,
        receipts=tuple(replace(receipt, **changes) if receipt.sender == name else receipt for receipt in told.receipts),
    )


SETS_S: dict[str, tuple[Callable[[SurvivorProposal], SurvivorProposal], str]] = {
    "the asked participant is not in S": (with_survivors("alice", "carol", "dave", "erin"), "E-ROUND-SET"),
    "too few survivors": (with_survivors("alice", "bob", "carol"), "E-ROUND-SET"),
    "a survivor named twice": (lambda told: replace(told, receipts=(told.receipts[0], *told.receipts)), "E-ROUND-SET"),
    "unsorted survivors": (lambda told: replace(told, receipts=told.receipts[::-1]), "E-ROUND-SET"),
    "a survivor outside U2": (with_receipt("erin", sender="zoe"), "E-ROUND-SET"),
    "another digest for the victim's own upload": (with_receipt(VICTIM, masked_hash=b"\0" * 32), "E-ROUND-UPLOAD"),
    "the receipts of another round": (
        lambda told: replace(told, position=replace(told.position, round=2)),
        "E-ROUND-CONTEXT",
    ),
    "one receipt of another attempt": (
        lambda told: with_receipt("erin", position=replace(told.position, attempt=2))(told),
        "E-ROUND-CONTEXT",
    ),
    "all masked with another U2": (
        lambda told: replace(told, receipts=tuple(replace(receipt, u2_hash=b"\1" * 32) for receipt in told.receipts)),
        "E-ROUND-SET",
    ),
}


# --- UNMASK: what is wrong with the request ---


def _signatures(change: Callable[[tuple[SurvivorSignature, ...]], Any]) -> Callable[[UnmaskRequest], UnmaskRequest]:
    return lambda told: replace(told, signatures=tuple(change(told.signatures)))


def shrunk(told: UnmaskRequest) -> UnmaskRequest:
    return replace(told, proposal=with_survivors("alice", "bob", "carol", "dave")(told.proposal))


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
    "another S than was signed": (shrunk, "E-ROUND-COMMITTED"),
    "an S without the asked participant": (
        lambda told: replace(told, proposal=with_survivors("alice", "carol", "dave", "erin")(told.proposal)),
        "E-ROUND-SET",
    ),
    "an S that is too small": (
        lambda told: replace(told, proposal=with_survivors("alice", "bob", "carol")(told.proposal)),
        "E-ROUND-SET",
    ),
    "a survivor outside the quorum whose receipt it did not sign": (
        lambda told: replace(told, proposal=with_receipt("erin", signature=b"\0" * 64)(told.proposal)),
        "E-ROUND-SIGNATURE",
    ),
    "an S with a stranger": (
        lambda told: replace(told, proposal=with_receipt("erin", sender="zoe")(told.proposal)),
        "E-ROUND-SET",
    ),
}


def certificate_of(federation: Federation) -> Any:
    return federation.run_round().certificate


# --- RESULT and history ---


def completed(
    participant: Participant, certificate: RoundCertificate, memory: RunMemory, *, state: State | None = None
) -> RoundClosed:
    """Tell a certificate to somebody with this memory, in this state or just restarted; return the record of it."""
    step = hear(state or Idle(participant), certificate, memory, SeededSource("draws nothing"))
    return expect(RoundClosed, step.record)


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
        lambda c: replace(c, signatures=tuple(replace(signature, signature=bytes(64)) for signature in c.signatures)),
        "E-ROUND-QUORUM",
    ),
    "a certificate with the right signatures under wrong names": (
        lambda c: replace(c, signatures=tuple(replace(signature, sender=VICTIM) for signature in c.signatures)),
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


def survivor_set(certificate: RoundCertificate, *members: tuple[str, bytes]) -> SurvivorSet:
    return replace(certificate.survivors, members=members)


def _other_digest(certificate: RoundCertificate) -> SurvivorSet:
    return survivor_set(
        certificate,
        *((name, b"\0" * 32 if name == VICTIM else digest) for name, digest in certificate.survivors.members),
    )


SIGNED_HISTORIES: dict[str, tuple[Callable[[RoundCertificate], RoundCertificate], str]] = {
    "other survivors than the victim signed": (
        lambda c: resigned(c, survivors=survivor_set(c, *c.survivors.members[:4])),
        "E-ROUND-TRANSCRIPT",
    ),
    "another upload of the victim": (lambda c: resigned(c, survivors=_other_digest(c)), "E-ROUND-TRANSCRIPT"),
    "another attempt than the victim uploaded to": (
        lambda c: resigned(c, position=replace(c.position, attempt=2)),
        "E-ROUND-TRANSCRIPT",
    ),
    "another context than the victim uploaded in": (lambda c: resigned(c, round_ctx=b"\1" * 32), "E-ROUND-TRANSCRIPT"),
    "a survivor who is not on the roster": (
        lambda c: resigned(c, survivors=survivor_set(c, *c.survivors.members, ("zoe", b"\2" * 32))),
        "E-ROUND-SET",
    ),
    "attempt zero": (lambda c: resigned(c, position=replace(c.position, attempt=0)), "E-ROUND-CONTEXT"),
}
