"""What the coordinator verifies before it takes a message in: one function per message.

Guarantees: a function returns only if the message keeps every rule; otherwise it raises a ``PeerError`` that names the
sender, and changes nothing.
Leaves to others: repeats, lateness and who takes part in a phase (``round``).
Source: docs/protocol.md sections 5 and 8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Set as AbstractSet

from coordinator.protocol.bundles import DealerCommitments
from coordinator.protocol.phases import Agreeing, Collecting, Sharing, Unmasking
from privacy.errors import PeerError, Phase
from privacy.secagg import hashes, keys, messages
from privacy.secagg.messages import (
    SEALED_BYTES,
    Advertisement,
    AttemptOffer,
    Complaint,
    Receipt,
    RoundCertificate,
    ShareBundle,
    SurvivorSignature,
    UnmaskShares,
)
from privacy.secagg.parameters import Parameters
from privacy.secagg.suites import HYBRID, check_public_key, public_parts


def _check_signature(parameters: Parameters, phase: Phase, sender: str, signature: bytes, signed: bytes) -> None:
    if not keys.verify(parameters.member(sender).identity_key, signature, signed):
        raise PeerError.by_participant(
            sender, "E-ROUND-SIGNATURE", phase, "the message is not signed by its identity key"
        )


def check_known_round(parameters: Parameters, certificate: RoundCertificate, *, sender: str) -> None:
    """A quorum signed the survivors of a round, so an honest participant took part in it (section 6)."""
    phase, survivors = Phase.RESULT, certificate.survivors
    at, listed = certificate.position, set(survivors.ids)
    if (
        list(survivors.ids) != sorted(listed)
        or not listed <= set(parameters.ids)
        or len(listed) < parameters.min_survivors
    ):
        raise PeerError.by_participant(sender, "E-ROUND-SET", phase, "the certificate names no possible survivors")
    valid = {
        signature.sender
        for signature in certificate.signatures
        if signature.position == at
        and signature.sender in listed
        and keys.verify(
            parameters.member(signature.sender).identity_key,
            signature.signature,
            survivors.signed_bytes(parameters.protocol_version, at, signature.sender, certificate.round_ctx),
        )
    }
    if len(valid) < parameters.quorum:
        rule = f"{len(valid)} of the {parameters.quorum} signatures that the plan asks for are valid"
        raise PeerError.by_participant(sender, "E-ROUND-QUORUM", phase, rule)


def check_advertisement(
    parameters: Parameters, offer: AttemptOffer, message: Advertisement, *, known: AbstractSet[bytes]
) -> AbstractSet[bytes]:
    """It answers the offer, is signed, and brings keys that are new and not of low order; return their parts."""
    phase, sender = Phase.ADVERTISE_KEYS, message.sender
    if message.offer != offer:
        raise PeerError.by_participant(sender, "E-ROUND-CONTEXT", phase, "it was offered another adapter or history")
    _check_signature(parameters, phase, sender, message.signature, message.signed_bytes(parameters.protocol_version))
    advertised = (message.masking_key, message.channel_key)
    try:
        parts = [part for key in advertised for part in public_parts(parameters.suite, key)]
        for key in advertised:
            check_public_key(key)
    except ValueError:
        raise PeerError.by_participant(
            sender, "E-ROUND-KEYS", phase, "it advertises a key of low order, or none of the suite"
        ) from None
    if known & set(parts) or len(set(parts)) < len(parts):
        raise PeerError.by_participant(sender, "E-ROUND-KEYS", phase, "it advertises a key that appears twice")
    return set(parts)


def check_bundle(parameters: Parameters, state: Sharing, message: ShareBundle) -> None:
    """Its shares are for exactly its holders, of the right length, the ones that its leaves commit to, and signed."""
    phase, dealer = Phase.SHARE_KEYS, message.sender
    recipients = tuple(leaf.recipient for leaf in message.leaves)
    if recipients != state.members.graph.holders(dealer) or len(message.sealed) != len(recipients):
        raise PeerError.by_participant(dealer, "E-ROUND-SET", phase, "its shares are not for exactly its holders in U1")
    if len(message.sealed_pairs) != (len(recipients) if parameters.suite == HYBRID else 0):
        raise PeerError.by_participant(
            dealer, "E-ROUND-SET", phase, "its pair secrets are not those of the plan's suite"
        )
    for index, (leaf, sealed) in enumerate(zip(message.leaves, message.sealed, strict=True)):
        pair = message.pair_at(index)
        length = 0 if leaf.recipient == dealer else SEALED_BYTES[parameters.suite]
        if len(sealed) != length or not pair.fits(parameters.suite, dealer, leaf.recipient):
            raise PeerError.by_participant(
                dealer, "E-ROUND-SHARE", phase, f"the share for {leaf.recipient} has a wrong length"
            )
        if messages.ciphertext_hash(sealed, pair.sealed) != leaf.ciphertext_hash:
            raise PeerError.by_participant(
                dealer, "E-ROUND-SHARE", phase, f"the share for {leaf.recipient} is not the signed one"
            )
    signed = message.signed_bytes(parameters.protocol_version, state.members.round_ctx)
    _check_signature(parameters, phase, dealer, message.signature, signed)


def check_complaint(parameters: Parameters, state: Collecting, message: Complaint) -> None:
    """It is about and by neighbours in U2, of whom the sender has not uploaded, and signed."""
    phase, sender = Phase.COLLECT_MASKED, message.sender
    if sender not in state.bundles or message.dealer not in state.bundles or sender in state.received:
        raise PeerError.by_participant(sender, "E-ROUND-SET", phase, "it complains outside U2, or after its own upload")
    if message.dealer not in state.members.graph.neighbours(sender):
        raise PeerError.by_participant(sender, "E-ROUND-SET", phase, "it complains about somebody who dealt it nothing")
    signed = message.signed_bytes(parameters.protocol_version, state.members.round_ctx)
    _check_signature(parameters, phase, sender, message.signature, signed)


def check_upload(
    parameters: Parameters, state: Collecting, receipt: Receipt, masked: bytes | bytearray | memoryview
) -> None:
    """The receipt is for this U2 and this vector's length, signed, and says what the upload is."""
    phase, sender = Phase.COLLECT_MASKED, receipt.sender
    if receipt.u2_hash != state.u2_hash:
        raise PeerError.by_participant(sender, "E-ROUND-SET", phase, "it masked with another U2")
    if receipt.length != state.layout.bytes or receipt.length != len(masked):
        raise PeerError.by_participant(sender, "E-ROUND-UPLOAD", phase, "the upload has a wrong length")
    signed = receipt.signed_bytes(parameters.protocol_version, state.members.round_ctx)
    _check_signature(parameters, phase, sender, receipt.signature, signed)
    if hashlib.sha256(masked).digest() != receipt.masked_hash:
        raise PeerError.by_participant(sender, "E-ROUND-UPLOAD", phase, "the upload is not what its receipt says")


def check_survivor_signature(parameters: Parameters, state: Agreeing, message: SurvivorSignature) -> None:
    """It signs the survivors that were proposed."""
    round_ctx = state.members.round_ctx
    signed = state.survivors.signed_bytes(parameters.protocol_version, message.position, message.sender, round_ctx)
    _check_signature(parameters, Phase.AGREE_SURVIVORS, message.sender, message.signature, signed)


def check_released(state: Unmasking, message: UnmaskShares) -> None:
    """It releases exactly the shares asked for, each the one that was dealt to it: nobody else knows those."""
    phase, holder, round_ctx = Phase.UNMASK, message.sender, state.agreeing.members.round_ctx
    survivors, dropped = state.owners(holder)
    lists = (
        (b"seed", message.seed_shares, survivors, DealerCommitments.seed_share_hash),
        (b"masking", message.masking_shares, dropped, DealerCommitments.masking_share_hash),
    )
    for kind, shares, owners, hash_at in lists:
        if [share.owner for share in shares] != owners:
            raise PeerError.by_participant(
                holder, "E-ROUND-SHARE", phase, "it released shares of others than were asked for"
            )
        for share in shares:
            dealt = state.agreeing.commitments[share.owner]
            committed = hash_at(dealt, dealt.place(holder))
            if hashes.share_hash(kind, round_ctx, share.owner, holder, share.share) != committed:
                rule = f"its share of {share.owner} is not the one that was dealt"
                raise PeerError.by_participant(holder, "E-ROUND-SHARE", phase, rule)
