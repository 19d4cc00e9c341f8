"""The messages of a round, between ``privacy.secagg.messages`` and ``round.proto``.

Guarantees: a ``read_*`` makes a well-formed frozen value (lengths, names, order as ``messages`` documents them) or
raises :class:`~protos.codec_fields.Malformed`; a ``write_*`` of that value gives the same protobuf message again.
Leaves to others: bytes and blame (``codec``), and every rule of the protocol (``round``).
Source: docs/protocol.md sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from privacy.plan import MAX_ROSTER
from privacy.secagg import shamir
from privacy.secagg.hashes import HASH_BYTES
from privacy.secagg.keys import SIGNATURE_BYTES
from privacy.secagg.messages import (
    ADVERTISE_NONCE_BYTES,
    SEALED_BYTES,
    Advertisement,
    AttemptOffer,
    Complaint,
    DealtShare,
    Position,
    Receipt,
    ReleasedShare,
    RoundCertificate,
    SealedPair,
    ShareBundle,
    ShareLeaf,
    SurvivorProposal,
    SurvivorSet,
    SurvivorSignature,
    UnmaskRequest,
    UnmaskShares,
    VoidedRound,
)
from privacy.secagg.shamir import SHARE_BYTES
from privacy.secagg.suites import PUBLIC_KEY_BYTES
from protos import round_pb2 as pb
from protos.codec_fields import Malformed, ascending, count, each, exact, name, part, some, text
from protos.envelope import MAX_CONTENT_BYTES

MAX_PROOF: Final = (MAX_ROSTER - 1).bit_length()  # siblings between a leaf and its root


def write_position(value: Position) -> pb.Position:
    """Return the message of a position."""
    return pb.Position(plan_hash=value.plan_hash, round=value.round, attempt=value.attempt)


def read_position(message: pb.Position) -> Position:
    """Return a position; rounds and attempts count from 1."""
    return Position(
        plan_hash=exact(message.plan_hash, HASH_BYTES, "plan_hash"),
        round=count(message.round, "round", least=1),
        attempt=count(message.attempt, "attempt", least=1),
    )


def write_offer(value: AttemptOffer) -> pb.AttemptOffer:
    """Return the message of an offered attempt."""
    return pb.AttemptOffer(
        position=write_position(value.position),
        previous_transcript=value.previous_transcript,
        adapter_hash=value.adapter_hash,
    )


def read_offer(message: pb.AttemptOffer) -> AttemptOffer:
    """Return an offered attempt."""
    return AttemptOffer(
        position=part(message, "position", read_position),
        previous_transcript=exact(message.previous_transcript, HASH_BYTES, "previous_transcript"),
        adapter_hash=exact(message.adapter_hash, HASH_BYTES, "adapter_hash"),
    )


def write_advertisement(value: Advertisement) -> pb.Advertisement:
    """Return the message of an advertisement."""
    return pb.Advertisement(
        offer=write_offer(value.offer),
        sender=value.sender,
        masking_key=value.masking_key,
        channel_key=value.channel_key,
        nonce=value.nonce,
        signature=value.signature,
    )


def read_advertisement(message: pb.Advertisement) -> Advertisement:
    """Return an advertisement; its keys are as long as one suite's."""
    suite = _suite_of(message.masking_key, PUBLIC_KEY_BYTES, "masking_key")
    return Advertisement(
        offer=part(message, "offer", read_offer),
        sender=name(message.sender, "sender"),
        masking_key=message.masking_key,
        channel_key=exact(message.channel_key, PUBLIC_KEY_BYTES[suite], "channel_key"),
        nonce=exact(message.nonce, ADVERTISE_NONCE_BYTES, "nonce"),
        signature=_signature(message.signature),
    )


def _suite_of(value: bytes, lengths: Mapping[int, int], field: str) -> int:
    """Return the suite to which the length of a field belongs."""
    exact(value, lengths.values(), field)
    return next(suite for suite, length in lengths.items() if length == len(value))


def _signature(value: bytes) -> bytes:
    return exact(value, SIGNATURE_BYTES, "signature")


def write_leaf(value: ShareLeaf) -> pb.ShareLeaf:
    """Return the message of a leaf."""
    return pb.ShareLeaf(
        recipient=value.recipient,
        ciphertext_hash=value.ciphertext_hash,
        masking_share_hash=value.masking_share_hash,
        seed_share_hash=value.seed_share_hash,
        pair_commitment=value.pair_commitment,
    )


def read_leaf(message: pb.ShareLeaf) -> ShareLeaf:
    """Return a leaf."""
    return ShareLeaf(
        recipient=name(message.recipient, "recipient"),
        ciphertext_hash=exact(message.ciphertext_hash, HASH_BYTES, "ciphertext_hash"),
        masking_share_hash=exact(message.masking_share_hash, HASH_BYTES, "masking_share_hash"),
        seed_share_hash=exact(message.seed_share_hash, HASH_BYTES, "seed_share_hash"),
        pair_commitment=exact(message.pair_commitment, (0, HASH_BYTES), "pair_commitment"),
    )


def write_bundle(value: ShareBundle) -> pb.ShareBundle:
    """Return the message of a dealer's bundle."""
    return pb.ShareBundle(
        position=write_position(value.position),
        sender=value.sender,
        leaves=[write_leaf(leaf) for leaf in value.leaves],
        sealed=value.sealed,
        seed_commitment=value.seed_commitment,
        signature=value.signature,
        sealed_pairs=value.sealed_pairs,
    )


def read_bundle(message: pb.ShareBundle) -> ShareBundle:
    """Return a dealer's bundle: leaves sorted by recipient, the dealer's own among them and alone without a box."""
    dealer = name(message.sender, "sender")
    leaves = each(message.leaves, "leaves", read_leaf)
    ascending((leaf.recipient for leaf in leaves), "leaves")
    if dealer not in {leaf.recipient for leaf in leaves}:
        raise Malformed("leaves lack the dealer's own")
    if len(message.sealed) != len(leaves):
        raise Malformed(f"sealed has {len(message.sealed)} items for {len(leaves)} leaves")
    suite = 2 if message.sealed_pairs else 1
    pairs = message.sealed_pairs or [b""] * len(leaves)
    if len(pairs) != len(leaves):
        raise Malformed(f"sealed_pairs has {len(pairs)} items for {len(leaves)} leaves")
    for leaf, box, pair in zip(leaves, message.sealed, pairs, strict=True):
        exact(box, 0 if leaf.recipient == dealer else SEALED_BYTES[suite], "sealed")
        _check_pair(SealedPair(pair, leaf.pair_commitment), suite, dealer, leaf.recipient)
    return ShareBundle(
        position=part(message, "position", read_position),
        sender=dealer,
        leaves=leaves,
        sealed=tuple(message.sealed),
        seed_commitment=exact(message.seed_commitment, HASH_BYTES, "seed_commitment"),
        sealed_pairs=tuple(message.sealed_pairs),
        signature=_signature(message.signature),
    )


def _check_pair(pair: SealedPair, suite: int, dealer: str, holder: str) -> None:
    sealed, commitment = SealedPair.lengths(suite, dealer, holder)
    exact(pair.sealed, sealed, "sealed_pair")
    exact(pair.commitment, commitment, "pair_commitment")


def write_dealt(value: DealtShare) -> pb.DealtShare:
    """Return the message of a dealt share."""
    return pb.DealtShare(
        position=write_position(value.position),
        dealer=value.dealer,
        leaf=write_leaf(value.leaf),
        proof=value.proof,
        sealed=value.sealed,
        root=value.root,
        seed_commitment=value.seed_commitment,
        signature=value.signature,
        sealed_pair=value.sealed_pair,
    )


def read_dealt(message: pb.DealtShare) -> DealtShare:
    """Return a dealt share; all in it is as long as one suite's."""
    dealer, leaf = name(message.dealer, "dealer"), part(message, "leaf", read_leaf)
    suite = _suite_of(message.sealed, SEALED_BYTES, "sealed")
    _check_pair(SealedPair(message.sealed_pair, leaf.pair_commitment), suite, dealer, leaf.recipient)
    return DealtShare(
        position=part(message, "position", read_position),
        dealer=dealer,
        leaf=leaf,
        proof=each(message.proof, "proof", lambda node: exact(node, (0, HASH_BYTES), "node"), most=MAX_PROOF),
        sealed=message.sealed,
        root=exact(message.root, HASH_BYTES, "root"),
        seed_commitment=exact(message.seed_commitment, HASH_BYTES, "seed_commitment"),
        signature=_signature(message.signature),
        sealed_pair=message.sealed_pair,
    )


def write_complaint(value: Complaint) -> pb.Complaint:
    """Return the message of a complaint."""
    return pb.Complaint(
        position=write_position(value.position),
        sender=value.sender,
        dealer=value.dealer,
        rule=value.rule,
        signature=value.signature,
    )


def read_complaint(message: pb.Complaint) -> Complaint:
    """Return a complaint."""
    return Complaint(
        position=part(message, "position", read_position),
        sender=name(message.sender, "sender"),
        dealer=name(message.dealer, "dealer"),
        rule=text(message.rule, "rule"),
        signature=_signature(message.signature),
    )


def write_receipt(value: Receipt) -> pb.Receipt:
    """Return the message of a receipt."""
    return pb.Receipt(
        position=write_position(value.position),
        sender=value.sender,
        u2_hash=value.u2_hash,
        masked_hash=value.masked_hash,
        length=value.length,
        signature=value.signature,
    )


def read_receipt(message: pb.Receipt) -> Receipt:
    """Return a receipt."""
    return Receipt(
        position=part(message, "position", read_position),
        sender=name(message.sender, "sender"),
        u2_hash=exact(message.u2_hash, HASH_BYTES, "u2_hash"),
        masked_hash=exact(message.masked_hash, HASH_BYTES, "masked_hash"),
        length=count(message.length, "length", least=1, most=MAX_CONTENT_BYTES),
        signature=_signature(message.signature),
    )


def write_survivors(value: SurvivorSet) -> pb.SurvivorSet:
    """Return the message of S."""
    members = [pb.Survivor(participant=member, masked_hash=masked) for member, masked in value.members]
    return pb.SurvivorSet(u2_hash=value.u2_hash, members=members)


def read_survivors(message: pb.SurvivorSet) -> SurvivorSet:
    """Return S, sorted and not empty."""
    members = each(message.members, "members", _read_survivor)
    some(members, "members")
    ascending((participant for participant, _ in members), "members")
    return SurvivorSet(u2_hash=exact(message.u2_hash, HASH_BYTES, "u2_hash"), members=members)


def _read_survivor(message: pb.Survivor) -> tuple[str, bytes]:
    return name(message.participant, "participant"), exact(message.masked_hash, HASH_BYTES, "masked_hash")


def write_proposal(value: SurvivorProposal) -> pb.SurvivorProposal:
    """Return the message of a proposal."""
    return pb.SurvivorProposal(
        position=write_position(value.position), receipts=[write_receipt(receipt) for receipt in value.receipts]
    )


def read_proposal(message: pb.SurvivorProposal) -> SurvivorProposal:
    """Return a proposal: receipts sorted by sender, at least one."""
    receipts = each(message.receipts, "receipts", read_receipt)
    some(receipts, "receipts")
    ascending((receipt.sender for receipt in receipts), "receipts")
    return SurvivorProposal(position=part(message, "position", read_position), receipts=receipts)


def write_survivor_signature(value: SurvivorSignature) -> pb.SurvivorSignature:
    """Return the message of a signature over S."""
    return pb.SurvivorSignature(position=write_position(value.position), sender=value.sender, signature=value.signature)


def read_survivor_signature(message: pb.SurvivorSignature) -> SurvivorSignature:
    """Return a signature over S."""
    return SurvivorSignature(
        position=part(message, "position", read_position),
        sender=name(message.sender, "sender"),
        signature=_signature(message.signature),
    )


def write_unmask_request(value: UnmaskRequest) -> pb.UnmaskRequest:
    """Return the message of a request for shares."""
    return pb.UnmaskRequest(
        proposal=write_proposal(value.proposal),
        signatures=[write_survivor_signature(signature) for signature in value.signatures],
    )


def read_unmask_request(message: pb.UnmaskRequest) -> UnmaskRequest:
    """Return a request for shares."""
    return UnmaskRequest(
        proposal=part(message, "proposal", read_proposal),
        signatures=each(message.signatures, "signatures", read_survivor_signature),
    )


def write_unmask_shares(value: UnmaskShares) -> pb.UnmaskShares:
    """Return the message of released shares."""
    return pb.UnmaskShares(
        position=write_position(value.position),
        sender=value.sender,
        seed_shares=[pb.ReleasedShare(owner=released.owner, share=released.share) for released in value.seed_shares],
        masking_shares=[
            pb.ReleasedShare(owner=released.owner, share=released.share) for released in value.masking_shares
        ],
    )


def read_unmask_shares(message: pb.UnmaskShares) -> UnmaskShares:
    """Return released shares: each list sorted by owner."""
    seeds = each(message.seed_shares, "seed_shares", _read_released)
    masking = each(message.masking_shares, "masking_shares", _read_released)
    ascending((released.owner for released in seeds), "seed_shares")
    ascending((released.owner for released in masking), "masking_shares")
    return UnmaskShares(
        position=part(message, "position", read_position),
        sender=name(message.sender, "sender"),
        seed_shares=seeds,
        masking_shares=masking,
    )


def _read_released(message: pb.ReleasedShare) -> ReleasedShare:
    share = exact(message.share, SHARE_BYTES, "share")
    if int.from_bytes(share, "big") >= shamir.FIELD:
        raise Malformed("share is not below p")
    return ReleasedShare(owner=name(message.owner, "owner"), share=share)


def write_certificate(value: RoundCertificate) -> pb.RoundCertificate:
    """Return the message of a round's certificate."""
    return pb.RoundCertificate(
        position=write_position(value.position),
        round_ctx=value.round_ctx,
        survivors=write_survivors(value.survivors),
        sum_hash=value.sum_hash,
        signatures=[write_survivor_signature(signature) for signature in value.signatures],
    )


def read_certificate(message: pb.RoundCertificate) -> RoundCertificate:
    """Return a round's certificate."""
    return RoundCertificate(
        position=part(message, "position", read_position),
        round_ctx=exact(message.round_ctx, HASH_BYTES, "round_ctx"),
        survivors=part(message, "survivors", read_survivors),
        sum_hash=exact(message.sum_hash, HASH_BYTES, "sum_hash"),
        signatures=each(message.signatures, "signatures", read_survivor_signature),
    )


def write_voided(value: VoidedRound) -> pb.VoidedRound:
    """Return the message of a voided round."""
    return pb.VoidedRound(plan_hash=value.plan_hash, round=value.round)


def read_voided(message: pb.VoidedRound) -> VoidedRound:
    """Return a voided round."""
    return VoidedRound(exact(message.plan_hash, HASH_BYTES, "plan_hash"), count(message.round, "round", least=1))
