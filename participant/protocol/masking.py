"""COLLECT_MASKED: opening what was dealt to a participant, and masking its update.

Guarantees: a dealer whose shares do not open is named in a signed complaint; nothing is masked that the memory does not
know as durable.
Leaves to others: when this may happen (``round``, which alone calls this module), the checks of U2 (``checks``).
Source: docs/protocol.md sections 5.3 and 7.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from participant.protocol.checks import check_dealers, check_passed_on
from participant.protocol.memory import RunMemory, UpdateMasked, masked_name, shares_name, shares_to_bytes
from participant.protocol.states import Idle, Masked, Ready, Shared
from participant.protocol.step import RoundFile, Step
from participant.protocol.transitions import EncodedUpdate
from privacy.errors import LocalError
from privacy.secagg import hashes, keys
from privacy.secagg.dealing import open_dealt
from privacy.secagg.masks import MaskTerm
from privacy.secagg.messages import Complaint, DealtShare, HolderShares, MaskedUpload, Receipt, SealedPair
from privacy.secret import SecretBytes


def open_shares(state: Shared, dealt: HolderShares) -> Step[Ready] | Step[Idle]:
    """Check U2 and open every neighbour's shares (section 5.3); who sealed what does not open is named."""
    participant = state.participant
    check_dealers(participant, state.graph, dealt)
    held, masking = {participant.me: state.kept}, dict[str, SecretBytes]()
    for share in dealt.shares:
        try:
            held[share.dealer] = open_dealt(state.channels, share)
            masking[share.dealer] = state.pairing.seed(share.dealer, _pair_with(state, share))
        except ValueError:  # only now it matters what the dealer signed: what opens, its dealer alone can have sealed
            holders = state.graph.holders(share.dealer)
            check_passed_on(participant, state.position, share, round_ctx=state.round_ctx, holders=holders)
            return _complain(state, share.dealer)
    shares, u2 = tuple(held[name] for name in sorted(held)), dealt.u2(participant.me)
    return Step(Ready(participant, state.offer, state.round_ctx, u2, shares, state.seed, masking))


def _pair_with(state: Shared, share: DealtShare) -> SealedPair:
    """Return what the lower id of this participant and a dealer gave the higher."""
    return share.pair if share.dealer < state.participant.me else state.bundle.pair_for(share.dealer)


def _complain(state: Shared, dealer: str) -> Step[Idle]:
    participant, rule = state.participant, "the sealed shares do not open to what the dealer signed"
    unsigned = Complaint(position=state.position, sender=participant.me, dealer=dealer, rule=rule)
    signed = unsigned.signed_bytes(participant.parameters.protocol_version, state.round_ctx)
    return Step(Idle(participant), message=replace(unsigned, signature=participant.identity.sign(signed)))


def mask(state: Ready, update: EncodedUpdate, memory: RunMemory) -> Step[Masked]:
    """Mask the update in place; from here on the masked bytes and the shares held for others lie in files (5.3)."""
    participant, parameters, at = state.participant, state.participant.parameters, state.position
    if memory.encoded_in(at.round) is None:
        raise LocalError("E-BUG", f"the encoded update of round {at.round} must be durable before it is masked")
    layout = participant.plan.plan.layout(at.round)
    words = update.words
    if words.size != layout.words or words.dtype != layout.ring.dtype:
        raise LocalError("E-BUG", f"{words.size} words of {words.dtype} are no encoded update of round {at.round}")
    layout.mask(words, lambda stream: _terms(state, stream), threads=update.threads)
    masked = layout.ring.to_bytes(words)
    unsigned = Receipt(
        position=at,
        sender=participant.me,
        u2_hash=hashes.set_hash(state.u2),
        masked_hash=hashlib.sha256(masked).digest(),
        length=len(masked),
    )
    signed = unsigned.signed_bytes(parameters.protocol_version, state.round_ctx)
    receipt = replace(unsigned, signature=participant.identity.sign(signed))
    shares = shares_to_bytes(state.shares)
    record = UpdateMasked(state.offer, state.round_ctx, state.u2, receipt, hashlib.sha256(shares).digest())
    files = RoundFile(masked_name(at), masked), RoundFile(shares_name(at), shares)
    return Step(Masked(participant, record, state.shares), record, MaskedUpload(receipt, masked), files)


def _terms(state: Ready, stream: str) -> list[MaskTerm]:
    me, ctx = state.participant.me, state.round_ctx
    own = MaskTerm(keys.self_stream_key(state.seed, round_ctx=ctx, participant=me, stream=stream), 1)
    pairwise = [
        MaskTerm(
            keys.pairwise_stream_key(agreed, round_ctx=ctx, pair=(me, peer), stream=stream),
            1 if me < peer else -1,  # plus for the lower id
        )
        for peer, agreed in state.masking.items()
    ]
    return [own, *pairwise]
