"""AGREE_SURVIVORS, UNMASK and RESULT: what a participant does once its masked update is out.

Guarantees: at most one survivor set is signed and one release made in a round, whatever the attempt; a repeated answer
is the same, byte for byte. All of this goes on after a restart, from the journal's record and the file of shares.
Leaves to others: when this may happen (``round``, which alone calls this module), the checks (``checks``).
Source: docs/protocol.md sections 5.4 to 5.6.
"""

from __future__ import annotations

from participant.protocol.checks import check_certificate, check_proposal, check_request, check_voided, uploaded_to
from participant.protocol.memory import RoundClosed, RunMemory, SharesReleased, SurvivorsSigned
from participant.protocol.states import Idle, Masked, Released, Signed, State
from participant.protocol.step import Step
from privacy.secagg.messages import (
    ReleasedShare,
    RoundCertificate,
    SurvivorProposal,
    SurvivorSignature,
    UnmaskRequest,
    UnmaskShares,
    VoidedRound,
)


def sign(state: Masked, proposal: SurvivorProposal, memory: RunMemory) -> Step[Masked]:
    """Sign S: the commit point of the round (section 5.4)."""
    participant, record = state.participant, state.record
    check_proposal(participant, record, proposal, memory)
    survivors, version = proposal.survivors, participant.parameters.protocol_version
    signed = survivors.signed_bytes(version, state.position, participant.me, record.round_ctx)
    message = SurvivorSignature(state.position, participant.me, participant.identity.sign(signed))
    committed = SurvivorsSigned(record.round, record.attempt, survivors)
    return Step(
        state if isinstance(state, Released) else Signed(participant, record, state.shares),
        None if memory.signed_in(record.round) else committed,
        message,
    )


def release(state: Masked, request: UnmaskRequest, memory: RunMemory) -> Step[Released]:
    """Release, for neighbours in S, shares of seeds and, for those in U2 without S, of masking secrets (5.5)."""
    quorum = check_request(state.participant, state.record, request, memory)
    survivors, record = request.proposal.survivors, state.record
    committed = SharesReleased(record.round, record.attempt, survivors)
    return Step(
        Released(state.participant, record, state.shares, quorum),
        None if memory.released_in(record.round) else committed,
        _release(state, set(survivors.ids)),
    )


def _release(state: Masked, survivors: set[str]) -> UnmaskShares:
    shares = state.shares
    seeds = (ReleasedShare(held.dealer, held.seed_share) for held in shares if held.dealer in survivors)
    masking = (ReleasedShare(held.dealer, held.masking_share) for held in shares if held.dealer not in survivors)
    return UnmaskShares(
        position=state.position,
        sender=state.participant.me,
        seed_shares=tuple(seeds),
        masking_shares=tuple(masking),
    )


def complete(state: State, certificate: RoundCertificate, memory: RunMemory) -> Step[Idle]:
    """Verify a round's certificate; its record extends the transcript (section 5.6).

    The signatures of the quorum for which shares were released are not verified twice. The refusal of a certificate
    that the journal contradicts, ``E-ROUND-TRANSCRIPT``, is to end this participant's part in the run: its journal was
    rolled back.
    """
    participant = state.participant
    verified = state.quorum if isinstance(state, Released) else None
    check_certificate(participant, certificate, memory, verified=verified)
    survivors = certificate.survivors.ids
    record = RoundClosed(
        round=certificate.position.round,
        attempt=certificate.position.attempt,
        transcript=certificate.transcript(memory.transcript),
        survivors=survivors,
        alarm=uploaded_to(certificate, memory) is not None and participant.me not in survivors,
    )
    return Step(Idle(participant), record)


def void(state: State, voided: VoidedRound, memory: RunMemory) -> Step[Idle]:
    """Close a round that has no sum: nothing is signed or released in it any more, whatever was before (section 6)."""
    participant = state.participant
    check_voided(participant, voided, memory)
    transcript = voided.transcript(memory.transcript)
    return Step(Idle(participant), RoundClosed(voided.round, 0, transcript, survivors=(), alarm=False))
