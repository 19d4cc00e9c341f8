"""What a participant verifies before it sends anything: one function a rule, grouped by phase.

Guarantees: a function returns only if its rule holds; otherwise it raises a ``PeerError``, and as nothing here changes
any state, a refused message leaves everything as it was.
Leaves to others: what is sent when all rules hold (``round``), opening what a dealer sealed (``dealing``).
Source: docs/protocol.md sections 5 and 6 (cited at each check).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from participant.protocol.member import Participant
from participant.protocol.memory import RunMemory, UpdateMasked
from privacy.errors import PeerError, Phase
from privacy.secagg import merkle, messages
from privacy.secagg.graph import MaskingGraph
from privacy.secagg.messages import (
    SEALED_BYTES,
    Advertisement,
    AttemptOffer,
    DealtShare,
    HolderShares,
    Position,
    Receipt,
    RoundCertificate,
    SurvivorProposal,
    SurvivorSet,
    SurvivorSignature,
    UnmaskRequest,
    VoidedRound,
)
from privacy.secagg.suites import Suite, public_parts


def check_set(members: Sequence[str], *, within: Iterable[str], least: int, phase: Phase) -> None:
    """Sorted, unique, known, and at least as large as the plan says (section 5)."""
    if list(members) != sorted(set(members)):
        raise PeerError.by_coordinator("E-ROUND-SET", phase, "a participant set must be sorted and name nobody twice")
    if strangers := sorted(set(members) - set(within)):
        raise PeerError.by_coordinator("E-ROUND-SET", phase, f"the set names {strangers[0]}, who does not belong to it")
    if len(members) < least:
        raise PeerError.by_coordinator(
            "E-ROUND-SET", phase, f"the set has {len(members)} members, the plan asks for at least {least}"
        )


# --- ADVERTISE_KEYS ---


def check_offer(participant: Participant, offer: AttemptOffer, memory: RunMemory) -> None:
    """An offer follows from the plan and this participant's own history (section 5.1)."""
    phase, at, parameters = Phase.ADVERTISE_KEYS, offer.position, participant.parameters
    _check_not_refused(memory, phase)
    if at.plan_hash != participant.plan.hash:
        raise PeerError.by_coordinator("E-ROUND-CONTEXT", phase, "the offer belongs to another plan")
    if not (1 <= at.round <= parameters.rounds and 1 <= at.attempt <= parameters.max_attempts):
        raise PeerError.by_coordinator(
            "E-ROUND-CONTEXT", phase, f"round {at.round}, attempt {at.attempt} is outside the plan's limits"
        )
    if at.order <= memory.highest:
        raise PeerError.by_coordinator(
            "E-ROUND-CONTEXT", phase, f"round {at.round}, attempt {at.attempt} is closed: {memory.highest}"
        )
    if at.round != memory.completed + 1 or offer.previous_transcript != memory.transcript:
        raise PeerError.by_coordinator(
            "E-ROUND-TRANSCRIPT", phase, "the offer does not continue the history that this participant knows"
        )
    if memory.signed_in(at.round):
        raise PeerError.by_coordinator(
            "E-ROUND-COMMITTED", phase, "this round's survivor set is signed: no other attempt may complete"
        )
    encoded = memory.encoded_in(at.round)
    if encoded and (encoded.adapter_hash, encoded.previous_transcript) != (
        offer.adapter_hash,
        offer.previous_transcript,
    ):
        raise PeerError.by_coordinator("E-ROUND-CONTEXT", phase, "a retry must start from the same adapter and history")


def _check_not_refused(memory: RunMemory, phase: Phase) -> None:
    """A run that was refused once is refused in every phase, also after a restart (section 6)."""
    if memory.refused:
        raise PeerError.by_coordinator("E-ROUND-TRANSCRIPT", phase, f"this run was refused before ({memory.refused})")


# --- SHARE_KEYS: U1 ---


def check_advertisements(participant: Participant, own: Advertisement, advertisements: Sequence[Advertisement]) -> None:
    """U1: known, enough, the own body among them, all for the same offer, signed, no key twice (section 5.2)."""
    phase, parameters = Phase.SHARE_KEYS, participant.parameters
    check_set(
        [advertisement.sender for advertisement in advertisements],
        within=parameters.ids,
        least=parameters.min_survivors,
        phase=phase,
    )
    returned = next((advertisement for advertisement in advertisements if advertisement.sender == participant.me), None)
    if returned is None or returned.body != own.body:
        raise PeerError.by_coordinator(
            "E-ROUND-CONTEXT", phase, "this participant's own advertisement is missing or changed"
        )
    for advertisement in advertisements:
        if advertisement.sender != participant.me:
            _check_advertisement(participant, own.offer, advertisement)
    _check_distinct_keys(parameters.suite, advertisements)


def _check_advertisement(participant: Participant, offer: AttemptOffer, advertisement: Advertisement) -> None:
    phase = Phase.SHARE_KEYS
    if advertisement.offer.previous_transcript != offer.previous_transcript:
        raise PeerError.by_coordinator(
            "E-ROUND-TRANSCRIPT", phase, f"split view: {advertisement.sender} was shown another history"
        )
    if advertisement.offer != offer:
        raise PeerError.by_coordinator(
            "E-ROUND-CONTEXT", phase, f"{advertisement.sender} was offered another round, attempt or adapter"
        )
    if not participant.signed_by(
        advertisement.sender,
        advertisement.signature,
        advertisement.signed_bytes(participant.parameters.protocol_version),
    ):
        raise PeerError.by_coordinator(
            "E-ROUND-SIGNATURE", phase, f"the advertisement of {advertisement.sender} is not signed by it"
        )


def _check_distinct_keys(suite: Suite, advertisements: Sequence[Advertisement]) -> None:
    phase, seen = Phase.SHARE_KEYS, set[bytes]()
    for advertisement in advertisements:
        try:
            parts = [
                part
                for key in (advertisement.masking_key, advertisement.channel_key)
                for part in public_parts(suite, key)
            ]
        except ValueError:
            raise PeerError.by_coordinator(
                "E-ROUND-KEYS", phase, f"{advertisement.sender} advertises a key of another suite"
            ) from None
        if seen & set(parts) or len(set(parts)) < len(parts):
            raise PeerError.by_coordinator(
                "E-ROUND-KEYS", phase, f"{advertisement.sender} advertises a key that appears twice"
            )
        seen.update(parts)


def check_holders(participant: Participant, holders: Sequence[str], phase: Phase) -> None:
    """This participant's secrets have holders enough to be rebuilt: t, itself among them (section 9)."""
    threshold = participant.parameters.share_threshold
    if len(holders) < threshold:
        rule = f"this participant's shares would have {len(holders)} holders, {threshold} rebuild it"
        raise PeerError.by_coordinator("E-ROUND-SET", phase, rule)


# --- COLLECT_MASKED: U2 ---


def check_dealers(participant: Participant, graph: MaskingGraph, dealt: HolderShares) -> None:
    """U2: within U1, enough, this participant in it; the dealers are its neighbours in U2 (sections 5.3 and 9)."""
    phase, u2 = Phase.COLLECT_MASKED, dealt.u2(participant.me)
    check_set(u2, within=graph.members, least=participant.parameters.min_survivors, phase=phase)
    if participant.me not in u2:
        raise PeerError.by_coordinator("E-ROUND-SET", phase, "this participant is not in U2")
    members = set(u2)
    neighbours = [name for name in graph.neighbours(participant.me) if name in members]
    if [share.dealer for share in dealt.shares] != neighbours:
        raise PeerError.by_coordinator(
            "E-ROUND-SET", phase, "shares must come from this participant's neighbours in U2, sorted"
        )
    check_holders(participant, [*neighbours, participant.me], phase)


def check_passed_on(
    participant: Participant, at: Position, share: DealtShare, *, round_ctx: bytes, holders: Sequence[str]
) -> None:
    """Of a share that does not open, what the coordinator alone can have broken (section 5.3)."""
    phase, me = Phase.COLLECT_MASKED, participant.me
    if share.position != at or share.leaf.recipient != me:
        raise PeerError.by_coordinator(
            "E-ROUND-CONTEXT", phase, f"the share of {share.dealer} is for another attempt or holder"
        )
    if not participant.signed_by(
        share.dealer, share.signature, share.signed_bytes(participant.parameters.protocol_version, round_ctx)
    ):
        raise PeerError.by_coordinator("E-ROUND-SIGNATURE", phase, f"the shares of {share.dealer} are not signed by it")
    place = bisect_left(holders, me)  # the dealer's, sorted
    if not merkle.merkle_verify(share.leaf.hash, place, len(holders), share.proof, share.root):
        raise PeerError.by_coordinator(
            "E-ROUND-SHARE", phase, f"the share of {share.dealer} is not under the root that it signed"
        )
    suite = participant.parameters.suite
    if len(share.sealed) != SEALED_BYTES[suite] or not share.pair.fits(suite, share.dealer, me):
        raise PeerError.by_coordinator("E-ROUND-SHARE", phase, f"the sealed share of {share.dealer} has a wrong length")
    if messages.ciphertext_hash(share.sealed, share.sealed_pair) != share.leaf.ciphertext_hash:
        raise PeerError.by_coordinator(
            "E-ROUND-SHARE", phase, f"the sealed share of {share.dealer} was changed on the way"
        )


# --- AGREE_SURVIVORS and UNMASK: S, and the request to release ---


def check_proposal(
    participant: Participant, record: UpdateMasked, proposal: SurvivorProposal, memory: RunMemory
) -> None:
    """All that must hold before S is signed (section 5.4)."""
    phase = Phase.AGREE_SURVIVORS
    _check_open(record, proposal.position, memory, phase)
    _check_members(participant, record, proposal, phase)
    signed = memory.signed_in(record.round)
    if memory.released_in(record.round) and not signed:
        raise PeerError.by_coordinator("E-ROUND-COMMITTED", phase, "shares were released along a survivor set already")
    if signed and (signed.attempt, signed.survivors) != (record.attempt, proposal.survivors):
        raise PeerError.by_coordinator(
            "E-ROUND-COMMITTED", phase, "another survivor set of this round is signed already"
        )
    _check_receipts(participant, record, proposal, phase)


def check_request(participant: Participant, record: UpdateMasked, request: UnmaskRequest, memory: RunMemory) -> Quorum:
    """All that must hold before shares are released along S (section 5.5); return the quorum that it showed.

    Each of S has signed the U2 that it masked with: in its signature over S, or, if that is not of the quorum, in its
    receipt.
    """
    phase, proposal = Phase.UNMASK, request.proposal
    _check_open(record, proposal.position, memory, phase)
    _check_members(participant, record, proposal, phase)
    signed, released = memory.signed_in(record.round), memory.released_in(record.round)
    for earlier in (signed, released):
        if earlier and (earlier.attempt, earlier.survivors) != (record.attempt, proposal.survivors):
            raise PeerError.by_coordinator(
                "E-ROUND-COMMITTED", phase, "this is not the survivor set signed or released before"
            )
    _check_receipts(participant, record, proposal, phase)
    quorum = Quorum(record.offer.position, record.round_ctx, proposal.survivors, request.signatures)
    signers = check_quorum(participant, quorum, phase)
    for receipt in proposal.receipts:
        if receipt.sender not in signers and receipt.sender != participant.me:
            _check_receipt_signature(participant, record, receipt, phase)
    return quorum


def _check_open(record: UpdateMasked, position: Position, memory: RunMemory, phase: Phase) -> None:
    _check_not_refused(memory, phase)
    if position != record.offer.position:
        raise PeerError.by_coordinator(
            "E-ROUND-CONTEXT", phase, "the survivors belong to another plan, round or attempt"
        )
    if memory.highest != position.order or memory.completed >= position.round:
        raise PeerError.by_coordinator(
            "E-ROUND-COMMITTED", phase, "a later attempt was advertised: this one is closed for ever"
        )


def _check_members(participant: Participant, record: UpdateMasked, proposal: SurvivorProposal, phase: Phase) -> None:
    members = [receipt.sender for receipt in proposal.receipts]
    check_set(members, within=record.u2, least=participant.parameters.min_survivors, phase=phase)
    if participant.me not in members:
        raise PeerError.by_coordinator("E-ROUND-SET", phase, "this participant is not among the survivors")


def _check_receipts(participant: Participant, record: UpdateMasked, proposal: SurvivorProposal, phase: Phase) -> None:
    """All of S uploaded in this attempt, masked with this U2; one's own upload is the one that one made."""
    own = record.receipt
    for receipt in proposal.receipts:
        if receipt.position != record.offer.position:
            raise PeerError.by_coordinator(
                "E-ROUND-CONTEXT", phase, f"the receipt of {receipt.sender} is of another attempt"
            )
        if receipt.u2_hash != own.u2_hash:
            raise PeerError.by_coordinator(
                "E-ROUND-SET", phase, f"{receipt.sender} masked with another U2 than this participant"
            )
        if receipt.length != own.length:
            raise PeerError.by_coordinator(
                "E-ROUND-UPLOAD", phase, f"the upload of {receipt.sender} has another length"
            )
        if receipt.sender == participant.me and receipt.masked_hash != own.masked_hash:
            raise PeerError.by_coordinator(
                "E-ROUND-UPLOAD", phase, "the receipt of this participant names another upload"
            )


def _check_receipt_signature(participant: Participant, record: UpdateMasked, receipt: Receipt, phase: Phase) -> None:
    signed = receipt.signed_bytes(participant.parameters.protocol_version, record.round_ctx)
    if not participant.signed_by(receipt.sender, receipt.signature, signed):
        raise PeerError.by_coordinator(
            "E-ROUND-SIGNATURE", phase, f"the receipt of {receipt.sender} is not signed by it"
        )


@dataclass(frozen=True, slots=True)
class Quorum:
    """Signatures over one S in one context, as they came: equal ones say the same, byte for byte."""

    position: Position
    round_ctx: bytes
    survivors: SurvivorSet
    signatures: tuple[SurvivorSignature, ...]

    def signed_bytes(self, version: int, sender: str) -> bytes:
        """The string that a member of S signed."""
        return self.survivors.signed_bytes(version, self.position, sender, self.round_ctx)


def check_quorum(participant: Participant, quorum: Quorum, phase: Phase) -> set[str]:
    """At least T distinct members of S signed this S over this context; return T of them, and look at no more."""
    version, listed = participant.parameters.protocol_version, set(quorum.survivors.ids)
    signers = (
        signature.sender
        for signature in quorum.signatures
        if signature.position == quorum.position
        and signature.sender in listed
        and participant.signed_by(signature.sender, signature.signature, quorum.signed_bytes(version, signature.sender))
    )
    valid = set[str]()
    for signer in signers:
        valid.add(signer)
        if len(valid) == participant.parameters.quorum:
            break
    if len(valid) < participant.parameters.quorum:
        rule = f"{len(valid)} of the {participant.parameters.quorum} signatures that the plan asks for are valid"
        raise PeerError.by_coordinator("E-ROUND-QUORUM", phase, rule)
    return valid


# --- RESULT, and catching up ---


def check_certificate(
    participant: Participant, certificate: RoundCertificate, memory: RunMemory, *, verified: Quorum | None
) -> None:
    """A certificate is of the next round, signed by a quorum, and agrees with the journal (section 5.6).

    ``verified`` is a quorum that this participant verified before; the very same one is not verified again.
    """
    phase, at, parameters = Phase.RESULT, certificate.position, participant.parameters
    if (
        at.plan_hash != participant.plan.hash
        or at.round != memory.completed + 1
        or not 1 <= at.attempt <= parameters.max_attempts
    ):
        raise PeerError.by_coordinator(
            "E-ROUND-CONTEXT", phase, "the certificate is not of the next round of this plan"
        )
    survivors = certificate.survivors
    check_set(survivors.ids, within=parameters.ids, least=parameters.min_survivors, phase=phase)
    quorum = Quorum(at, certificate.round_ctx, survivors, certificate.signatures)
    if quorum != verified:
        check_quorum(participant, quorum, phase)
    masked = uploaded_to(certificate, memory)
    listed = dict(survivors.members).get(participant.me)
    if listed is not None and not (masked and masked.receipt.masked_hash == listed):
        raise PeerError.by_coordinator(
            "E-ROUND-TRANSCRIPT", phase, "the history lists an upload that this journal does not know"
        )
    signed = memory.signed_in(at.round)
    if signed and (signed.attempt, signed.survivors) != (at.attempt, survivors):
        raise PeerError.by_coordinator(
            "E-ROUND-TRANSCRIPT", phase, "the history names other survivors than this participant signed"
        )


def check_voided(participant: Participant, voided: VoidedRound, memory: RunMemory) -> None:
    """A round may be voided if there is noise in every sum, if it is the next one, and if one follows (section 6)."""
    phase, plan = Phase.RESULT, participant.plan.plan
    _check_not_refused(memory, phase)
    if not plan.privacy.noised:
        raise PeerError.by_coordinator("E-ROUND-VOID", phase, "a round without noise cannot be voided")
    if voided.plan_hash != participant.plan.hash or voided.round != memory.completed + 1:
        raise PeerError.by_coordinator("E-ROUND-CONTEXT", phase, "what was voided is not the next round of this plan")
    if voided.round >= participant.parameters.rounds:
        raise PeerError.by_coordinator("E-ROUND-CONTEXT", phase, "no round follows in which to go on")


def uploaded_to(certificate: RoundCertificate, memory: RunMemory) -> UpdateMasked | None:
    """Return what this participant masked in the very attempt that a certificate completes."""
    at = certificate.position
    masked = memory.masked_in(at.round)
    same = masked is not None and (masked.attempt, masked.round_ctx) == (at.attempt, certificate.round_ctx)
    return masked if same else None
