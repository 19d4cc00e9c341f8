"""A participant's side of a round: message in, next state and what to send out.

Guarantees: every rule of the phase table is checked before anything is sent; a message that breaks one raises a
``PeerError`` and leaves everything as it was. At most one survivor set is signed and one release made in a round,
whatever the attempt. A state holds its secrets only as long as the phase needs them.
Leaves to others: fsync of ``Step.record`` before ``Step.message`` leaves (``journal``, ``runner``), training and
charging, time, the network.
Source: docs/protocol.md sections 5 and 6 (sections are cited at each check).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from participant.phase import (
    AttemptAdvertised,
    HeldShare,
    Phase,
    Record,
    RoundCompleted,
    RunMemory,
    SharesReleased,
    SurvivorsSigned,
    UpdateMasked,
)
from privacy.errors import PeerError
from privacy.plan import Plan, VerifiedPlan
from privacy.seams import RandomSource
from privacy.secagg import keys, messages, shamir
from privacy.secagg.fixed_point import Ring
from privacy.secagg.keys import AgreementKey, SigningKey
from privacy.secagg.masks import MaskTerm
from privacy.secagg.messages import (
    ADVERTISE_NONCE_BYTES,
    SEALED_PLAINTEXT_BYTES,
    SHARE_BYTES,
    Advertisement,
    AttemptOffer,
    Complaint,
    DealtShare,
    Position,
    Receipt,
    ReleasedShare,
    RoundCertificate,
    ShareBundle,
    ShareLeaf,
    SurvivorProposal,
    SurvivorSet,
    SurvivorSignature,
    UnmaskRequest,
    UnmaskShares,
)
from privacy.secagg.vector import encode_update, mask_in_place
from privacy.secret import SecretBytes

COORDINATOR = "coordinator"

StateT = TypeVar("StateT", covariant=True)  # noqa: PLC0105  # "StateT" reads better at each use
Message = Advertisement | ShareBundle | Complaint | Receipt | SurvivorSignature | UnmaskShares


@dataclass(frozen=True, slots=True)
class Step(Generic[StateT]):
    """The next state and what the caller must do, in this order: make ``record`` durable, then send ``message``.

    Either may be ``None``. A repeated message gives the same bytes again and no record.
    """

    state: StateT
    record: Record | None
    message: Message | None


@dataclass(frozen=True, slots=True)
class Party:
    """Who takes part, in what: an approved plan, this participant's place in it and its identity key."""

    plan: VerifiedPlan
    me: str
    identity: SigningKey

    @property
    def rules(self) -> Plan:
        """The plan's fields."""
        return self.plan.plan

    def signed_by(self, sender: str, signature: bytes, signed: bytes) -> bool:
        """Say whether a member of the roster signed these bytes."""
        return keys.verify(bytes.fromhex(self.rules.member(sender).identity_key), signature, signed)


def _refuse(code: str, phase: Phase, rule: str, *, by: str = COORDINATOR) -> PeerError:
    return PeerError(code, participant=by, phase=phase.name, rule=rule)


def _check_set(members: Sequence[str], *, within: Iterable[str], least: int, phase: Phase) -> None:
    """Sorted, unique, known, and at least as large as the plan says (section 5)."""
    if list(members) != sorted(set(members)):
        raise _refuse("E-ROUND-SET", phase, "a participant set must be sorted and name nobody twice")
    if strangers := sorted(set(members) - set(within)):
        raise _refuse("E-ROUND-SET", phase, f"the set names {strangers[0]}, who does not belong to it")
    if len(members) < least:
        raise _refuse("E-ROUND-SET", phase, f"the set has {len(members)} members, the plan asks for at least {least}")


# --- ADVERTISE_KEYS ---


def advertise(party: Party, offer: AttemptOffer, memory: RunMemory, random: RandomSource) -> Step[Advertised]:
    """Answer an offered attempt with two fresh public keys (section 5.1).

    Raises:
        PeerError: the offer does not follow from the plan and this participant's own history.
    """
    _check_offer(party, offer, memory)
    masking_secret = SecretBytes(random.token_bytes(keys.KEY_BYTES))
    masking = AgreementKey.for_masking(masking_secret)
    channel = AgreementKey(SecretBytes(random.token_bytes(keys.KEY_BYTES)))
    unsigned = Advertisement(
        offer=offer,
        sender=party.me,
        masking_key=masking.public,
        channel_key=channel.public,
        nonce=random.token_bytes(ADVERTISE_NONCE_BYTES),
    )
    own = replace(unsigned, signature=party.identity.sign(unsigned.signed_bytes(party.rules.protocol_version)))
    state = Advertised(party=party, own=own, masking_secret=masking_secret, masking=masking, channel=channel)
    return Step(state, AttemptAdvertised(offer.position.round, offer.position.attempt), own)


def _check_offer(party: Party, offer: AttemptOffer, memory: RunMemory) -> None:
    phase, at, rules = Phase.ADVERTISE_KEYS, offer.position, party.rules
    if memory.refused:
        raise _refuse("E-ROUND-TRANSCRIPT", phase, f"this run was refused before ({memory.refused})")
    if at.plan_hash != party.plan.hash:
        raise _refuse("E-ROUND-CONTEXT", phase, "the offer belongs to another plan")
    if not (1 <= at.round <= rules.recipe.rounds and 1 <= at.attempt <= rules.max_attempts):
        raise _refuse("E-ROUND-CONTEXT", phase, f"round {at.round}, attempt {at.attempt} is outside the plan's limits")
    if at.order <= memory.highest:
        raise _refuse("E-ROUND-CONTEXT", phase, f"round {at.round}, attempt {at.attempt} is closed: {memory.highest}")
    if at.round != memory.completed + 1 or offer.previous_transcript != memory.transcript:
        raise _refuse(
            "E-ROUND-TRANSCRIPT", phase, "the offer does not continue the history that this participant knows"
        )
    if memory.signed_in(at.round):
        raise _refuse("E-ROUND-COMMITTED", phase, "this round's survivor set is signed: no other attempt may complete")
    encoded = memory.encoded_in(at.round)
    if encoded and (encoded.adapter_hash, encoded.previous_transcript) != (
        offer.adapter_hash,
        offer.previous_transcript,
    ):
        raise _refuse("E-ROUND-CONTEXT", phase, "a retry must start from the same adapter and history")


# --- SHARE_KEYS ---


@dataclass(frozen=True, slots=True)
class Advertised:
    """Waits for U1, the verified set of advertisements."""

    party: Party
    own: Advertisement
    masking_secret: SecretBytes
    masking: AgreementKey
    channel: AgreementKey

    def on_advertisements(self, advertisements: Sequence[Advertisement], random: RandomSource) -> Step[Shared]:
        """Check U1, derive the round's context and deal shares to every member (section 5.2)."""
        self._check(advertisements)
        round_ctx = messages.round_context(self.own.offer, advertisements)
        peers = {one.sender: one for one in advertisements if one.sender != self.party.me}
        channel = {name: self._agree(self.channel, one.channel_key, name) for name, one in peers.items()}
        masking = {name: self._agree(self.masking, one.masking_key, name) for name, one in peers.items()}
        seed = SecretBytes(random.token_bytes(keys.KEY_BYTES))
        dealer = _Dealer(self.party, self.own.offer.position, round_ctx, channel, random)
        bundle, kept = dealer.deal(self.masking_secret, seed, sorted([*peers, self.party.me]))
        state = Shared(
            party=self.party,
            offer=self.own.offer,
            round_ctx=round_ctx,
            u1=tuple(one.sender for one in advertisements),
            kept=kept,
            seed=seed,
            channel=channel,
            masking=masking,
        )
        return Step(state, None, bundle)

    def _check(self, advertisements: Sequence[Advertisement]) -> None:
        phase, party, rules = Phase.SHARE_KEYS, self.party, self.party.rules
        roster = [member.id for member in rules.roster]
        _check_set([one.sender for one in advertisements], within=roster, least=rules.m, phase=phase)
        own = next((one for one in advertisements if one.sender == party.me), None)
        if own is None or own.body != self.own.body:
            raise _refuse("E-ROUND-CONTEXT", phase, "this participant's own advertisement is missing or changed")
        seen: set[bytes] = set()
        for one in advertisements:
            if one.offer.previous_transcript != self.own.offer.previous_transcript:
                raise _refuse("E-ROUND-TRANSCRIPT", phase, f"split view: {one.sender} was shown another history")
            if one.offer != self.own.offer:
                raise _refuse("E-ROUND-CONTEXT", phase, f"{one.sender} was offered another round, attempt or adapter")
            if not party.signed_by(one.sender, one.signature, one.signed_bytes(rules.protocol_version)):
                raise _refuse("E-ROUND-SIGNATURE", phase, f"the advertisement of {one.sender} is not signed by it")
            for key in (one.masking_key, one.channel_key):
                if keys.canonical_x25519(key) in seen:
                    raise _refuse("E-ROUND-KEYS", phase, f"{one.sender} advertises a key that appears twice")
                seen.add(keys.canonical_x25519(key))

    def _agree(self, mine: AgreementKey, theirs: bytes, name: str) -> SecretBytes:
        try:
            return mine.agree(theirs)
        except ValueError:
            raise _refuse("E-ROUND-KEYS", Phase.SHARE_KEYS, f"the key of {name} is of low order") from None


@dataclass(frozen=True, slots=True)
class _Dealer:
    """Splits this participant's two secrets and seals a pair of shares for each peer."""

    party: Party
    position: Position
    round_ctx: bytes
    channel: dict[str, SecretBytes]
    random: RandomSource

    def deal(
        self, masking_secret: SecretBytes, seed: SecretBytes, members: Sequence[str]
    ) -> tuple[ShareBundle, HeldShare]:
        """Return the signed bundle, and the pair of shares that the dealer itself holds."""
        rules, me = self.party.rules, self.party.me
        points = {name: rules.index(name) + 1 for name in members}
        split = [
            shamir.split(secret, threshold=rules.shamir_threshold, points=list(points.values()), random=self.random)
            for secret in (masking_secret, seed)
        ]
        held = {name: HeldShare(me, *(shares[x].reveal() for shares in split)) for name, x in points.items()}
        sealed = tuple(b"" if name == me else self._seal(name, held[name]) for name in members)
        unsigned = ShareBundle(
            position=self.position,
            sender=me,
            leaves=tuple(self._leaf(name, held[name], box) for name, box in zip(members, sealed, strict=True)),
            sealed=sealed,
            seed_commitment=messages.seed_commitment(self.round_ctx, me, seed.reveal()),
        )
        signed = unsigned.signed_bytes(rules.protocol_version, self.round_ctx)
        return replace(unsigned, signature=self.party.identity.sign(signed)), held[me]

    def _seal(self, recipient: str, held: HeldShare) -> bytes:
        key = keys.channel_key(
            self.channel[recipient], round_ctx=self.round_ctx, sender=self.party.me, recipient=recipient
        )
        aad = seal_context(self.round_ctx, self.party.me, recipient)
        nonce = self.random.token_bytes(keys.NONCE_BYTES)
        return keys.seal(key, nonce, held.masking_share + held.seed_share, aad)

    def _leaf(self, recipient: str, held: HeldShare, sealed: bytes) -> ShareLeaf:
        masking, seed = share_hashes(self.round_ctx, recipient, held)
        return ShareLeaf(recipient, hashlib.sha256(sealed).digest(), masking, seed)


def seal_context(round_ctx: bytes, dealer: str, holder: str) -> bytes:
    """Return the associated data of a sealed share: label, round_ctx, from, to."""
    return keys.framed(messages.LABEL_SEAL, round_ctx, dealer.encode(), holder.encode())


def share_hashes(round_ctx: bytes, holder: str, held: HeldShare) -> tuple[bytes, bytes]:
    """Return the hashes of a pair of shares (masking secret, seed) as they stand in the dealer's leaf."""
    return (
        messages.share_hash(b"masking", round_ctx, held.dealer, holder, held.masking_share),
        messages.share_hash(b"seed", round_ctx, held.dealer, holder, held.seed_share),
    )


# --- COLLECT_MASKED ---


@dataclass(frozen=True, slots=True)
class Complained:
    """A dealer's bundle was bad: this participant abstains from the attempt."""

    dealer: str


@dataclass(frozen=True, slots=True)
class Shared:
    """Waits for U2, the dealers' shares."""

    party: Party
    offer: AttemptOffer
    round_ctx: bytes
    u1: tuple[str, ...]
    kept: HeldShare
    seed: SecretBytes
    channel: dict[str, SecretBytes]
    masking: dict[str, SecretBytes]

    def on_shares(self, dealt: Sequence[DealtShare]) -> Step[Ready] | Step[Complained]:
        """Check U2 and open every member's shares (section 5.3); a lying dealer is named in a signed complaint."""
        phase, rules, me = Phase.COLLECT_MASKED, self.party.rules, self.party.me
        dealers = [one.dealer for one in dealt]
        if dealers != sorted(dealers) or me in dealers:
            raise _refuse("E-ROUND-SET", phase, "dealers must be sorted and exclude this participant")
        u2 = tuple(sorted([*dealers, me]))
        _check_set(u2, within=self.u1, least=rules.m, phase=phase)
        for one in dealt:
            self._check_passed_on(one)
        held = {me: self.kept}
        for one in dealt:
            opened = self._open(one)
            if opened is None:
                return self._complain(one.dealer)
            held[one.dealer] = opened
        masking = {name: self.masking[name] for name in dealers}
        shares = tuple(held[name] for name in u2)
        return Step(Ready(self.party, self.offer, self.round_ctx, u2, shares, self.seed, masking), None, None)

    def _check_passed_on(self, one: DealtShare) -> None:
        """What the coordinator alone can have broken: position, signature, proof and ciphertext."""
        phase, rules, me = Phase.COLLECT_MASKED, self.party.rules, self.party.me
        if one.position != self.offer.position or one.leaf.recipient != me:
            raise _refuse("E-ROUND-CONTEXT", phase, f"the share of {one.dealer} is for another attempt or holder")
        if not self.party.signed_by(
            one.dealer, one.signature, one.signed_bytes(rules.protocol_version, self.round_ctx)
        ):
            raise _refuse("E-ROUND-SIGNATURE", phase, f"the shares of {one.dealer} are not signed by it")
        if not messages.merkle_verify(one.leaf.hash, self.u1.index(me), len(self.u1), one.proof, one.root):
            raise _refuse("E-ROUND-SHARE", phase, f"the share of {one.dealer} is not under the root that it signed")
        if hashlib.sha256(one.sealed).digest() != one.leaf.ciphertext_hash:
            raise _refuse("E-ROUND-SHARE", phase, f"the sealed share of {one.dealer} was changed on the way")

    def _open(self, one: DealtShare) -> HeldShare | None:
        """Return the opened pair of shares, or ``None`` if the dealer signed something that is no pair of shares."""
        key = keys.channel_key(
            self.channel[one.dealer], round_ctx=self.round_ctx, sender=one.dealer, recipient=self.party.me
        )
        try:
            opened = keys.unseal(key, one.sealed, seal_context(self.round_ctx, one.dealer, self.party.me)).reveal()
        except ValueError:
            return None
        if len(opened) != SEALED_PLAINTEXT_BYTES:
            return None
        held = HeldShare(one.dealer, opened[:SHARE_BYTES], opened[SHARE_BYTES:])
        below_p = all(int.from_bytes(x, "big") < shamir.FIELD for x in (held.masking_share, held.seed_share))
        committed = (one.leaf.masking_share_hash, one.leaf.seed_share_hash)
        return held if below_p and share_hashes(self.round_ctx, self.party.me, held) == committed else None

    def _complain(self, dealer: str) -> Step[Complained]:
        rule = "the sealed shares do not open to what the dealer signed"
        unsigned = Complaint(position=self.offer.position, sender=self.party.me, dealer=dealer, rule=rule)
        signed = unsigned.signed_bytes(self.party.rules.protocol_version, self.round_ctx)
        return Step(Complained(dealer), None, replace(unsigned, signature=self.party.identity.sign(signed)))


@dataclass(frozen=True, slots=True)
class Ready:
    """U2 is verified: train, charge, then mask."""

    party: Party
    offer: AttemptOffer
    round_ctx: bytes
    u2: tuple[str, ...]
    shares: tuple[HeldShare, ...]
    seed: SecretBytes
    masking: dict[str, SecretBytes]

    def mask(self, update: NDArray[np.int64], *, threads: int = 1) -> tuple[Step[Masked], bytes]:
        """Return the step and the masked bytes, which must be fsynced before the record is (section 5.3).

        Args:
            update: the round's encoded update, ``plan.recipe.entries`` integers within the plan's clamp.
            threads: of the mask streams; 1 where participants share a machine.
        """
        party, rules = self.party, self.party.rules
        words = encode_update(rules, update, rules.member(party.me).weight)
        mask_in_place(rules, words, self._terms, threads=threads)
        masked = Ring.of(rules.encoding).to_bytes(words)
        unsigned = Receipt(
            position=self.offer.position,
            sender=party.me,
            u2_hash=messages.set_hash(self.u2),
            masked_hash=hashlib.sha256(masked).digest(),
            length=len(masked),
        )
        signed = unsigned.signed_bytes(rules.protocol_version, self.round_ctx)
        receipt = replace(unsigned, signature=party.identity.sign(signed))
        record = UpdateMasked(self.offer, self.round_ctx, self.u2, receipt, self.shares)
        return Step(Masked(party, record), record, receipt), masked

    def _terms(self, stream: str) -> list[MaskTerm]:
        me, ctx = self.party.me, self.round_ctx
        own = MaskTerm(keys.self_stream_key(self.seed, round_ctx=ctx, participant=me, stream=stream), 1)
        pairwise = [
            MaskTerm(
                keys.pairwise_stream_key(agreed, round_ctx=ctx, pair=(me, peer), stream=stream),
                1 if me < peer else -1,  # plus for the lower id
            )
            for peer, agreed in self.masking.items()
        ]
        return [own, *pairwise]


# --- AGREE_SURVIVORS and UNMASK: these go on after a restart, from the journal's record alone ---


@dataclass(frozen=True, slots=True)
class Masked:
    """The masked update is out; what is left of the secrets are the shares held for others."""

    party: Party
    record: UpdateMasked

    def on_survivors(self, proposal: SurvivorProposal, memory: RunMemory) -> Step[Masked]:
        """Sign S: the commit point of the round (section 5.4)."""
        phase = Phase.AGREE_SURVIVORS
        self._check_open(proposal.position, memory, phase)
        self._check_members(proposal, phase)
        survivors = proposal.survivors
        signed = memory.signed_in(self.record.round)
        if memory.released_in(self.record.round) and not signed:
            raise _refuse("E-ROUND-COMMITTED", phase, "shares were released along a survivor set already")
        if signed and (signed.attempt, signed.survivors) != (self.record.attempt, survivors):
            raise _refuse("E-ROUND-COMMITTED", phase, "another survivor set of this round is signed already")
        self._check_receipts(proposal, phase)
        signature = self.party.identity.sign(self._agreed(survivors, self.party.me))
        message = SurvivorSignature(position=self._position, sender=self.party.me, signature=signature)
        record = None if signed else SurvivorsSigned(self.record.round, self.record.attempt, survivors)
        return Step(self, record, message)

    def on_unmask(self, request: UnmaskRequest, memory: RunMemory) -> Step[Masked]:
        """Release, for S, shares of seeds and, for U2 minus S, shares of masking secrets (section 5.5)."""
        phase, proposal = Phase.UNMASK, request.proposal
        self._check_open(proposal.position, memory, phase)
        self._check_members(proposal, phase)
        survivors = proposal.survivors
        signed, released = memory.signed_in(self.record.round), memory.released_in(self.record.round)
        for earlier in (signed, released):
            if earlier and (earlier.attempt, earlier.survivors) != (self.record.attempt, survivors):
                raise _refuse("E-ROUND-COMMITTED", phase, "this is not the survivor set signed or released before")
        if not signed:
            self._check_receipts(proposal, phase)
        _check_quorum(self.party, self._position, self.record.round_ctx, survivors, request.signatures, phase=phase)
        record = None if released else SharesReleased(self.record.round, self.record.attempt, survivors)
        return Step(self, record, self._release(set(survivors.ids)))

    @property
    def _position(self) -> Position:
        return self.record.offer.position

    def _agreed(self, survivors: SurvivorSet, sender: str) -> bytes:
        rules = self.party.rules
        return survivors.signed_bytes(rules.protocol_version, self._position, sender, self.record.round_ctx)

    def _check_open(self, position: Position, memory: RunMemory, phase: Phase) -> None:
        if position != self._position:
            raise _refuse("E-ROUND-CONTEXT", phase, "the survivors belong to another plan, round or attempt")
        if memory.highest != position.order or memory.completed >= position.round:
            raise _refuse("E-ROUND-COMMITTED", phase, "a later attempt was advertised: this one is closed for ever")

    def _check_members(self, proposal: SurvivorProposal, phase: Phase) -> None:
        members = [one.sender for one in proposal.receipts]
        _check_set(members, within=self.record.u2, least=self.party.rules.m, phase=phase)
        if self.party.me not in members:
            raise _refuse("E-ROUND-SET", phase, "this participant is not among the survivors")
        if proposal.survivors.u2_hash != self.record.receipt.u2_hash:
            raise _refuse("E-ROUND-SET", phase, "the survivors masked with another U2 than this participant")

    def _check_receipts(self, proposal: SurvivorProposal, phase: Phase) -> None:
        rules, own = self.party.rules, self.record.receipt
        for one in proposal.receipts:
            if one.position != self._position:
                raise _refuse("E-ROUND-CONTEXT", phase, f"the receipt of {one.sender} is of another attempt")
            if one.u2_hash != own.u2_hash:
                raise _refuse("E-ROUND-SET", phase, f"{one.sender} masked with another U2 than this participant")
            if one.length != own.length:
                raise _refuse("E-ROUND-UPLOAD", phase, f"the upload of {one.sender} has another length")
            signed = one.signed_bytes(rules.protocol_version, self.record.round_ctx)
            if not self.party.signed_by(one.sender, one.signature, signed):
                raise _refuse("E-ROUND-SIGNATURE", phase, f"the receipt of {one.sender} is not signed by it")
            if one.sender == self.party.me and one.masked_hash != own.masked_hash:
                raise _refuse("E-ROUND-UPLOAD", phase, "the receipt of this participant names another upload")

    def _release(self, survivors: set[str]) -> UnmaskShares:
        held = {one.dealer: one for one in self.record.shares}
        unsigned = UnmaskShares(
            position=self._position,
            sender=self.party.me,
            seed_shares=tuple(ReleasedShare(u, held[u].seed_share) for u in self.record.u2 if u in survivors),
            masking_shares=tuple(ReleasedShare(u, held[u].masking_share) for u in self.record.u2 if u not in survivors),
        )
        signed = unsigned.signed_bytes(self.party.rules.protocol_version, self.record.round_ctx)
        return replace(unsigned, signature=self.party.identity.sign(signed))


def _check_quorum(
    party: Party,
    position: Position,
    round_ctx: bytes,
    survivors: SurvivorSet,
    signatures: Sequence[SurvivorSignature],
    *,
    phase: Phase,
) -> None:
    """At least T distinct members of S signed this S over this context."""
    valid = {
        one.sender
        for one in signatures
        if one.position == position
        and one.sender in survivors.ids
        and party.signed_by(
            one.sender,
            one.signature,
            survivors.signed_bytes(party.rules.protocol_version, position, one.sender, round_ctx),
        )
    }
    if len(valid) < party.rules.quorum:
        rule = f"{len(valid)} of the {party.rules.quorum} signatures that the plan asks for are valid"
        raise _refuse("E-ROUND-QUORUM", phase, rule)


# --- RESULT, and catching up ---


def complete(party: Party, certificate: RoundCertificate, memory: RunMemory) -> RoundCompleted:
    """Verify a round's certificate and return the record that extends the transcript (section 5.6).

    Raises:
        PeerError: it does not verify, or it lists this participant's upload where the journal knows of none: then the
            journal was rolled back and the caller must refuse the run.
    """
    phase, at, rules = Phase.RESULT, certificate.position, party.rules
    if at.plan_hash != party.plan.hash or at.round != memory.completed + 1 or not 1 <= at.attempt <= rules.max_attempts:
        raise _refuse("E-ROUND-CONTEXT", phase, "the certificate is not of the next round of this plan")
    survivors = certificate.survivors
    _check_set(survivors.ids, within=[member.id for member in rules.roster], least=rules.m, phase=phase)
    _check_quorum(party, at, certificate.round_ctx, survivors, certificate.signatures, phase=phase)
    masked = memory.masked_in(at.round)
    same_attempt = masked is not None and (masked.attempt, masked.round_ctx) == (at.attempt, certificate.round_ctx)
    listed = dict(survivors.members).get(party.me)
    if listed is not None and not (masked and same_attempt and masked.receipt.masked_hash == listed):
        raise _refuse("E-ROUND-TRANSCRIPT", phase, "the history lists an upload that this journal does not know")
    signed = memory.signed_in(at.round)
    if signed and (signed.attempt, signed.survivors) != (at.attempt, survivors):
        raise _refuse("E-ROUND-TRANSCRIPT", phase, "the history names other survivors than this participant signed")
    return RoundCompleted(
        round=at.round,
        attempt=at.attempt,
        transcript=certificate.transcript(memory.transcript),
        survivors=survivors.ids,
        alarm=same_attempt and listed is None,
    )
