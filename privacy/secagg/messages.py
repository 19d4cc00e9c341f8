"""What is said in a round, as frozen values, with the exact bytes that are signed and hashed.

Guarantees: a value here is well-formed (the codec checks lengths and order); ``signed_bytes`` here and the hashes of
``privacy.secagg.hashes`` are the only place where the protocol's byte strings are built.
Leaves to others: whether a message is allowed now (``round``), and its form on the wire (``protos.codec``).
Source: docs/protocol.md sections 4 and 5.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Final

from privacy.secagg.hashes import (
    HASH_BYTES,
    LABEL_ADVERTISE,
    LABEL_ADVERTISE_CONTEXT,
    LABEL_AGREE,
    LABEL_COLLECT,
    LABEL_COMPLAIN,
    LABEL_LEAF,
    LABEL_ROUND_CONTEXT,
    LABEL_SHARE,
    LABEL_SURVIVORS,
    LABEL_TRANSCRIPT,
    digest,
    genesis_transcript,
    voided_transcript,
)
from privacy.secagg.keys import framed, length_prefix, number
from privacy.secagg.merkle import MerkleTree
from privacy.secagg.shamir import SHARE_BYTES
from privacy.secagg.suites import CLASSICAL, HYBRID, PAIR_SECRET_BYTES, SEALING_BYTES

ADVERTISE_NONCE_BYTES: Final = 16
SEALED_PLAINTEXT_BYTES: Final = 2 * SHARE_BYTES  # share of the masking secret, then of the self-mask seed
SEALED_BYTES: Final = {suite: size + SEALED_PLAINTEXT_BYTES for suite, size in SEALING_BYTES.items()}
SEALED_PAIR_BYTES: Final = {CLASSICAL: 0, HYBRID: SEALING_BYTES[HYBRID] + PAIR_SECRET_BYTES}
PAIR_COMMITMENT_BYTES: Final = {CLASSICAL: 0, HYBRID: HASH_BYTES}


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a run a message belongs; rounds and attempts count from 1."""

    plan_hash: bytes
    round: int
    attempt: int

    @property
    def order(self) -> tuple[int, int]:
        """The lexicographic order in which later attempts close earlier ones."""
        return (self.round, self.attempt)

    @property
    def fields(self) -> tuple[bytes, ...]:
        """The position as fields of a framed string."""
        return (self.plan_hash, number(self.round), number(self.attempt))


@dataclass(frozen=True, slots=True)
class AttemptOffer:
    """The coordinator opens an attempt; the participant compares each field with what it knows itself."""

    position: Position
    previous_transcript: bytes
    adapter_hash: bytes

    @property
    def context(self) -> bytes:
        """adv_ctx."""
        return digest(LABEL_ADVERTISE_CONTEXT, *self.position.fields, self.previous_transcript, self.adapter_hash)


@dataclass(frozen=True)  # no slots: the body is kept, since it is signed, compared and hashed
class Advertisement:
    """A participant's two fresh public keys of an attempt, with the inputs of its adv_ctx."""

    offer: AttemptOffer
    sender: str
    masking_key: bytes
    channel_key: bytes
    nonce: bytes
    signature: bytes = b""

    @property
    def position(self) -> Position:
        """Where in the run it belongs."""
        return self.offer.position

    @cached_property
    def body(self) -> bytes:
        """The body that is signed and enters round_ctx (bodies, not signature bytes)."""
        return framed(
            *self.offer.position.fields,
            self.offer.previous_transcript,
            self.offer.adapter_hash,
            self.sender.encode(),
            self.masking_key,
            self.channel_key,
            self.nonce,
        )

    def signed_bytes(self, version: int) -> bytes:
        """The string that the sender's identity key signs; there is no round_ctx yet."""
        return _signed(LABEL_ADVERTISE, version, self.offer.position, self.sender, b"", self.body)


@dataclass(frozen=True, slots=True)
class AdvertisementSet:
    """U1: what the coordinator shows to each participant that advertised."""

    advertisements: tuple[Advertisement, ...]


def round_context(offer: AttemptOffer, advertisements: Iterable[Advertisement]) -> bytes:
    """Return round_ctx = H(label, adv_ctx, sorted (id, H(advertisement body)))."""
    members = sorted(
        (advertisement.sender, hashlib.sha256(advertisement.body).digest()) for advertisement in advertisements
    )
    return digest(
        LABEL_ROUND_CONTEXT, offer.context, *(field for name, body in members for field in (name.encode(), body))
    )


def _signed(label: bytes, version: int, at: Position, sender: str, round_ctx: bytes, body: bytes) -> bytes:
    fields = _signed_by_all(label, version, at), framed(sender.encode(), round_ctx), length_prefix(len(body)), body
    return b"".join(fields)  # the bodies of large cohorts are long: one copy


@lru_cache(maxsize=64)
def _signed_by_all(label: bytes, version: int, at: Position) -> bytes:
    """Return the fields with which everybody's string of a phase begins."""
    return framed(label, number(version), *at.fields)


@dataclass(frozen=True, slots=True)
class SealedPair:
    """What a dealer gives a peer of higher id beside its shares in suite 2: their pair secret, for the masking key.

    It is empty towards lower ids, and in suite 1.
    """

    sealed: bytes = b""
    commitment: bytes = b""

    @staticmethod
    def lengths(suite: int, dealer: str, holder: str) -> tuple[int, int]:
        """Return how long both must be between these two."""
        return (SEALED_PAIR_BYTES[suite], PAIR_COMMITMENT_BYTES[suite]) if dealer < holder else (0, 0)

    def fits(self, suite: int, dealer: str, holder: str) -> bool:
        """Return whether it is as long as it must be."""
        return (len(self.sealed), len(self.commitment)) == self.lengths(suite, dealer, holder)


def ciphertext_hash(sealed: bytes, sealed_pair: bytes) -> bytes:
    """Return the hash over what is sealed for one recipient; the suite and both ids fix both lengths."""
    return hashlib.sha256(sealed + sealed_pair).digest()


@dataclass(frozen=True, slots=True)
class ShareLeaf:
    """What a dealer commits to about the shares of one recipient (itself included, with no ciphertext)."""

    recipient: str
    ciphertext_hash: bytes
    masking_share_hash: bytes
    seed_share_hash: bytes
    pair_commitment: bytes = b""  # suite 2, towards higher ids

    @property
    def hash(self) -> bytes:
        """The Merkle leaf."""
        pair = (self.pair_commitment,) if self.pair_commitment else ()
        return digest(
            LABEL_LEAF,
            self.recipient.encode(),
            self.ciphertext_hash,
            self.masking_share_hash,
            self.seed_share_hash,
            *pair,
        )


def _share_body(root: bytes, commitment: bytes) -> bytes:
    return framed(root, commitment)


@dataclass(frozen=True)  # no slots: the tree is kept once it is built
class ShareBundle:
    """A dealer's message to the coordinator: one leaf per holder in sorted order, one sealed share per peer.

    ``sealed[i]`` belongs to ``leaves[i].recipient`` and is empty for the dealer itself. So does ``sealed_pairs[i]``,
    which is empty for lower ids too; in suite 1 there are none.
    """

    position: Position
    sender: str
    leaves: tuple[ShareLeaf, ...]
    sealed: tuple[bytes, ...]
    seed_commitment: bytes
    signature: bytes = b""
    sealed_pairs: tuple[bytes, ...] = ()

    def pair_at(self, index: int) -> SealedPair:
        """Return what goes with the leaf of an index."""
        sealed = self.sealed_pairs[index] if self.sealed_pairs else b""
        return SealedPair(sealed, self.leaves[index].pair_commitment)

    def pair_for(self, recipient: str) -> SealedPair:
        """Return what goes with the leaf of a recipient, who is a holder."""
        return self.pair_at(bisect_left(self.leaves, recipient, key=lambda leaf: leaf.recipient))

    @cached_property
    def tree(self) -> MerkleTree:
        """The Merkle tree over the leaves."""
        return MerkleTree.over([leaf.hash for leaf in self.leaves])

    @property
    def root(self) -> bytes:
        """The Merkle root over the leaves."""
        return self.tree.root

    def signed_bytes(self, version: int, round_ctx: bytes) -> bytes:
        """The string that the dealer's identity key signs."""
        body = _share_body(self.root, self.seed_commitment)
        return _signed(LABEL_SHARE, version, self.position, self.sender, round_ctx, body)


@dataclass(frozen=True, slots=True)
class DealtShare:
    """One dealer's shares for one holder, as the coordinator passes them on."""

    position: Position
    dealer: str
    leaf: ShareLeaf
    proof: tuple[bytes, ...]
    sealed: bytes
    root: bytes
    seed_commitment: bytes
    signature: bytes
    sealed_pair: bytes = b""

    @property
    def pair(self) -> SealedPair:
        """What came beside the shares."""
        return SealedPair(self.sealed_pair, self.leaf.pair_commitment)

    def signed_bytes(self, version: int, round_ctx: bytes) -> bytes:
        """The string that the dealer signed: the same as of its :class:`ShareBundle`."""
        body = _share_body(self.root, self.seed_commitment)
        return _signed(LABEL_SHARE, version, self.position, self.dealer, round_ctx, body)


@dataclass(frozen=True, slots=True)
class HolderShares:
    """What the coordinator passes on to one holder: the shares that were dealt to it, and who is in U2."""

    shares: tuple[DealtShare, ...]
    named_u2: tuple[str, ...] = ()  # empty in the complete graph, where the shares alone show it

    def u2(self, holder: str) -> tuple[str, ...]:
        """Return the ids of U2, as the coordinator named them, or as this holder's shares show them."""
        return self.named_u2 or tuple(sorted([holder, *(share.dealer for share in self.shares)]))


@dataclass(frozen=True, slots=True)
class Complaint:
    """A holder says that a dealer's bundle is bad; both are left out of the next attempts at the round."""

    position: Position
    sender: str
    dealer: str
    rule: str
    signature: bytes = b""

    def signed_bytes(self, version: int, round_ctx: bytes) -> bytes:
        """The string that the holder signs."""
        body = framed(self.dealer.encode(), self.rule.encode())
        return _signed(LABEL_COMPLAIN, version, self.position, self.sender, round_ctx, body)


@dataclass(frozen=True, slots=True)
class Receipt:
    """A participant's signed statement of what it uploaded and with whom it masked."""

    position: Position
    sender: str
    u2_hash: bytes
    masked_hash: bytes
    length: int  # bytes of the masked update
    signature: bytes = b""

    def signed_bytes(self, version: int, round_ctx: bytes) -> bytes:
        """The string that the sender signs."""
        body = framed(self.u2_hash, self.masked_hash, number(self.length))
        return _signed(LABEL_COLLECT, version, self.position, self.sender, round_ctx, body)


@dataclass(frozen=True, slots=True)
class MaskedUpload:
    """What a participant sends once it has masked: the masked update, and the receipt that it signed for it."""

    receipt: Receipt
    masked: bytes | bytearray | memoryview = field(repr=False)

    @property
    def position(self) -> Position:
        """Where in the run it belongs."""
        return self.receipt.position

    @property
    def sender(self) -> str:
        """Whose update it is."""
        return self.receipt.sender


@dataclass(frozen=True)  # no slots: what is asked for once a signature is kept
class SurvivorSet:
    """S with the digest of each member's upload, sorted by id."""

    u2_hash: bytes
    members: tuple[tuple[str, bytes], ...]

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids of S."""
        return tuple(name for name, _ in self.members)

    @cached_property
    def hash(self) -> bytes:
        """H(label, H(U2), sorted (id, upload digest) of S): what stands for them where they are signed or hashed."""
        members = (field for name, value in self.members for field in (name.encode(), value))
        return digest(LABEL_SURVIVORS, self.u2_hash, *members)

    def signed_bytes(self, version: int, at: Position, sender: str, round_ctx: bytes) -> bytes:
        """The string that a member of S signs in AGREE_SURVIVORS: the commit point of the round."""
        return _signed(LABEL_AGREE, version, at, sender, round_ctx, self.hash)


@dataclass(frozen=True)  # no slots: S is kept once it is asked for
class SurvivorProposal:
    """S as the receipts of its members, sorted by sender."""

    position: Position
    receipts: tuple[Receipt, ...]

    @cached_property
    def survivors(self) -> SurvivorSet:
        """The set that is signed, taking H(U2) from the first receipt."""
        return SurvivorSet(
            self.receipts[0].u2_hash, tuple((receipt.sender, receipt.masked_hash) for receipt in self.receipts)
        )


@dataclass(frozen=True, slots=True)
class SurvivorSignature:
    """A member of S commits to it."""

    position: Position
    sender: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class UnmaskRequest:
    """S, its receipts and a quorum of signatures: nothing else, so that each holder computes both lists itself."""

    proposal: SurvivorProposal
    signatures: tuple[SurvivorSignature, ...]


@dataclass(frozen=True, slots=True)
class ReleasedShare:
    """A share that its holder gives out, by the id of its owner."""

    owner: str
    share: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class UnmaskShares:
    """Shares of self-mask seeds of S and of masking secrets of U2 minus S, each list sorted by owner.

    Nobody signs them: only who was dealt a share knows what its dealer's signed hash of it is of.
    """

    position: Position
    sender: str
    seed_shares: tuple[ReleasedShare, ...]
    masking_shares: tuple[ReleasedShare, ...]


@dataclass(frozen=True, slots=True)
class RoundCertificate:
    """What proves a completed round to anyone with the plan: the result, and the history of who missed rounds."""

    position: Position
    round_ctx: bytes
    survivors: SurvivorSet
    sum_hash: bytes
    signatures: tuple[SurvivorSignature, ...]

    def transcript(self, previous: bytes) -> bytes:
        """Return transcript_r = H(label, transcript_{r-1}, round_ctx, S with digests, H(sum))."""
        return digest(LABEL_TRANSCRIPT, previous, self.round_ctx, self.survivors.hash, self.sum_hash)


@dataclass(frozen=True, slots=True)
class VoidedRound:
    """What says that a round has no sum and never will; the next round starts from the adapter before it.

    Nobody signs it: the advertisements of the next round do, whose transcript follows from it (section 6).
    """

    plan_hash: bytes
    round: int

    @property
    def position(self) -> Position:
        """The round's first attempt, which stands for all of them."""
        return Position(self.plan_hash, self.round, 1)

    def transcript(self, previous: bytes) -> bytes:
        """Return transcript_r = H(label, transcript_{r-1}, r)."""
        return voided_transcript(previous, self.round)


def chained(plan_hash: bytes, closed: Sequence[RoundCertificate | None]) -> bytes:
    """Return the transcript after the last completed round.

    Args:
        plan_hash: where the history begins.
        closed: of each round, from the first on, its certificate; ``None`` if it has no sum: it counts as voided if a
            completed one follows.
    """
    transcript = last = genesis_transcript(plan_hash)
    for number_of_round, certificate in enumerate(closed, start=1):
        if certificate is None:
            transcript = VoidedRound(plan_hash, number_of_round).transcript(transcript)
        else:
            transcript = last = certificate.transcript(transcript)
    return last
