"""The coordinator's side of one attempt: messages in, what each participant should be told out.

Guarantees: it holds a running modular sum and participant sets, and no field that could hold one participant's
un-masked update. It is deterministic: the same calls in the same order give the same state, so a restarted
coordinator replays its journal. A message that breaks a rule raises a ``PeerError`` that names its sender and changes
nothing.
Leaves to others: making each accepted message and each :meth:`CoordinatorRound.close` durable before anything that
follows from it leaves (``store``), deadlines and liveness (``runner``).
Source: docs/protocol.md sections 5 and 8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, assert_never

import numpy as np
from numpy.typing import NDArray

from coordinator.phase import Phase
from coordinator.unmasking import rebuild_secrets, remove_masks
from privacy.errors import PeerError, RoundAborted
from privacy.plan import Plan, VerifiedPlan
from privacy.secagg import keys, messages
from privacy.secagg.fixed_point import Ring
from privacy.secagg.keys import AgreementKey
from privacy.secagg.messages import (
    SEALED_BYTES,
    Advertisement,
    AttemptOffer,
    Complaint,
    DealtShare,
    Receipt,
    ReleasedShare,
    RoundCertificate,
    ShareBundle,
    SurvivorProposal,
    SurvivorSet,
    SurvivorSignature,
    UnmaskRequest,
    UnmaskShares,
)
from privacy.secagg.vector import Words, decode_total, masked_length, word_count
from privacy.secret import SecretBytes

Message = Advertisement | ShareBundle | Complaint | SurvivorSignature | UnmaskShares
Outgoing = tuple[Advertisement, ...] | tuple[DealtShare, ...] | SurvivorProposal | UnmaskRequest | RoundCertificate

_PROBE: Final = AgreementKey(SecretBytes(b"onlysum/1/low-order-probe".ljust(32)))  # agreeing with it shows a low order


@dataclass(slots=True)
class _Advertising:
    received: dict[str, Advertisement] = field(default_factory=dict)


@dataclass(slots=True)
class _Sharing:
    u1: tuple[Advertisement, ...]
    round_ctx: bytes
    received: dict[str, ShareBundle] = field(default_factory=dict)

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(one.sender for one in self.u1)


@dataclass(slots=True)
class _Collecting:
    sharing: _Sharing
    bundles: dict[str, ShareBundle]  # of U2
    total: Words
    levels: dict[str, messages.MerkleTree] = field(default_factory=dict)
    received: dict[str, Receipt] = field(default_factory=dict)

    @property
    def u2(self) -> tuple[str, ...]:
        return tuple(sorted(self.bundles))


@dataclass(slots=True)
class _Agreeing:
    collecting: _Collecting
    proposal: SurvivorProposal
    received: dict[str, SurvivorSignature] = field(default_factory=dict)

    @property
    def survivors(self) -> SurvivorSet:
        return self.proposal.survivors


@dataclass(slots=True)
class _Unmasking:
    agreeing: _Agreeing
    request: UnmaskRequest
    received: dict[str, UnmaskShares] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RoundResult:
    """A completed round: the sum in ring words, and the certificate that goes to the whole roster."""

    words: Words
    certificate: RoundCertificate
    survivors: tuple[str, ...]
    dropouts: tuple[str, ...]  # of the roster

    def total(self, plan: Plan) -> NDArray[np.int64]:
        """Return the sum's integers in the order of the layout."""
        return decode_total(plan, self.words)


_State = _Advertising | _Sharing | _Collecting | _Agreeing | _Unmasking | RoundResult


class CoordinatorRound:
    """One attempt at a round."""

    def __init__(self, plan: VerifiedPlan, offer: AttemptOffer, *, excluded: frozenset[str] = frozenset()) -> None:
        """Open an attempt.

        Args:
            plan: the run's plan.
            offer: what the roster was offered.
            excluded: dealers that earlier attempts' complaints named; they are left out of this one.
        """
        self.plan = plan
        self.offer = offer
        self.excluded = excluded
        self.complaints: dict[str, str] = {}  # who complained -> about which dealer
        self._abstained: set[str] = set(excluded)
        self._state: _State = _Advertising()

    @property
    def rules(self) -> Plan:
        """The plan's fields."""
        return self.plan.plan

    @property
    def phase(self) -> Phase:
        """What is collected now."""
        match self._state:
            case _Advertising():
                return Phase.ADVERTISE_KEYS
            case _Sharing():
                return Phase.SHARE_KEYS
            case _Collecting():
                return Phase.COLLECT_MASKED
            case _Agreeing():
                return Phase.AGREE_SURVIVORS
            case _Unmasking():
                return Phase.UNMASK
            case RoundResult():
                return Phase.RESULT
            case _ as never:
                assert_never(never)

    @property
    def result(self) -> RoundResult:
        """The sum and its certificate; only in phase RESULT."""
        if not isinstance(self._state, RoundResult):
            raise self._refuse("E-ROUND-PHASE", "coordinator", "there is no result yet")
        return self._state

    # --- who must still answer ---

    def expected(self) -> frozenset[str]:
        """Return everyone from whom this phase takes a message."""
        match self._state:
            case _Advertising():
                return frozenset(member.id for member in self.rules.roster) - self.excluded
            case _Sharing():
                return frozenset(self._state.members)
            case _Collecting():
                return frozenset(self._state.u2)
            case _Agreeing():
                return frozenset(self._state.survivors.ids)
            case _Unmasking():
                return frozenset(self._state.agreeing.survivors.ids)
            case RoundResult():
                return frozenset()
            case _ as never:
                assert_never(never)

    def answered(self) -> frozenset[str]:
        """Return who has answered in this phase."""
        return frozenset() if isinstance(self._state, RoundResult) else frozenset(self._state.received)

    def awaited(self) -> frozenset[str]:
        """Return who may still answer: expected, not answered, not abstaining."""
        return self.expected() - self.answered() - self._abstained

    def can_close(self) -> bool:
        """Say whether enough have answered for the round to go on: m for the sets, T for signatures and shares."""
        late = isinstance(self._state, _Agreeing | _Unmasking)
        return not isinstance(self._state, RoundResult) and len(self.answered()) >= (
            self.rules.quorum if late else self.rules.m
        )

    def settled(self) -> bool:
        """Say whether waiting on brings nothing: all have answered, or a quorum of signatures or shares is there."""
        if isinstance(self._state, _Agreeing | _Unmasking) and self.can_close():
            return True
        return not isinstance(self._state, RoundResult) and not self.awaited()

    def abstain(self, participant: str) -> None:
        """Wait no longer for a participant in this attempt."""
        self._abstained.add(participant)

    # --- messages in ---

    def receive(self, message: Message) -> bool:
        """Take a message; return ``False`` if it is a repeat or comes after its phase and changes nothing.

        Raises:
            PeerError: it breaks a rule; nothing has changed.
        """
        if message.position != self.offer.position:
            raise self._refuse("E-ROUND-CONTEXT", message.sender, "the message is of another plan, round or attempt")
        match message:
            case Advertisement():
                return self._on_advertisement(message)
            case ShareBundle():
                return self._on_bundle(message)
            case Complaint():
                return self._on_complaint(message)
            case SurvivorSignature():
                return self._on_signature(message)
            case UnmaskShares():
                return self._on_shares(message)
            case _ as never:
                assert_never(never)

    def _on_advertisement(self, message: Advertisement) -> bool:
        state = self._state
        if not isinstance(state, _Advertising):
            return False
        if self._repeated(state.received, message):
            return False
        if message.offer != self.offer:
            raise self._refuse("E-ROUND-CONTEXT", message.sender, "it was offered another adapter or history")
        self._check_signature(message.sender, message.signature, message.signed_bytes(self.rules.protocol_version))
        known = {
            keys.canonical_x25519(key) for one in state.received.values() for key in (one.masking_key, one.channel_key)
        }
        for key in (message.masking_key, message.channel_key):
            if keys.canonical_x25519(key) in known:
                raise self._refuse("E-ROUND-KEYS", message.sender, "it advertises a key that appears twice")
            known.add(keys.canonical_x25519(key))
            try:
                _PROBE.agree(key)
            except ValueError:
                raise self._refuse("E-ROUND-KEYS", message.sender, "it advertises a key of low order") from None
        state.received[message.sender] = message
        return True

    def _on_bundle(self, message: ShareBundle) -> bool:
        state = self._state
        if isinstance(state, _Advertising):
            raise self._early(message.sender)
        if not isinstance(state, _Sharing) or self._repeated(state.received, message):
            return False
        recipients = tuple(leaf.recipient for leaf in message.leaves)
        if recipients != state.members or len(message.sealed) != len(recipients):
            raise self._refuse("E-ROUND-SET", message.sender, "its shares are not for exactly U1")
        for leaf, sealed in zip(message.leaves, message.sealed, strict=True):
            if len(sealed) != (0 if leaf.recipient == message.sender else SEALED_BYTES):
                raise self._refuse(
                    "E-ROUND-SHARE", message.sender, f"the share for {leaf.recipient} has a wrong length"
                )
            if hashlib.sha256(sealed).digest() != leaf.ciphertext_hash:
                raise self._refuse(
                    "E-ROUND-SHARE", message.sender, f"the share for {leaf.recipient} is not the signed one"
                )
        signed = message.signed_bytes(self.rules.protocol_version, state.round_ctx)
        self._check_signature(message.sender, message.signature, signed)
        state.received[message.sender] = message
        return True

    def _on_complaint(self, message: Complaint) -> bool:
        state = self._state
        if not isinstance(state, _Collecting):
            return False
        if (
            message.sender not in state.bundles
            or message.dealer not in state.bundles
            or message.sender in state.received
        ):
            raise self._refuse("E-ROUND-SET", message.sender, "it complains outside U2, or after its own upload")
        signed = message.signed_bytes(self.rules.protocol_version, state.sharing.round_ctx)
        self._check_signature(message.sender, message.signature, signed)
        self.complaints[message.sender] = message.dealer
        self._abstained.add(message.sender)
        return True

    def accumulate(self, receipt: Receipt, masked: bytes | bytearray | memoryview) -> bool:
        """Check a complete upload against its signed receipt and add it to the running sum.

        Returns:
            ``False`` if it is a repeat or comes after its phase; nothing has changed then.

        Raises:
            PeerError: it breaks a rule; the sum is unchanged.
        """
        if receipt.position != self.offer.position:
            raise self._refuse("E-ROUND-CONTEXT", receipt.sender, "the upload is of another plan, round or attempt")
        state = self._state
        if isinstance(state, _Advertising | _Sharing):
            raise self._early(receipt.sender)
        if not isinstance(state, _Collecting) or self._repeated(state.received, receipt):
            return False
        if receipt.sender in self.complaints:
            raise self._refuse("E-ROUND-UPLOAD", receipt.sender, "it complained and cannot upload as well")
        if receipt.u2_hash != messages.set_hash(state.u2):
            raise self._refuse("E-ROUND-SET", receipt.sender, "it masked with another U2")
        if receipt.length != masked_length(self.rules) or receipt.length != len(masked):
            raise self._refuse("E-ROUND-UPLOAD", receipt.sender, "the upload has a wrong length")
        signed = receipt.signed_bytes(self.rules.protocol_version, state.sharing.round_ctx)
        self._check_signature(receipt.sender, receipt.signature, signed)
        if hashlib.sha256(masked).digest() != receipt.masked_hash:
            raise self._refuse("E-ROUND-UPLOAD", receipt.sender, "the upload is not what its receipt says")
        ring = Ring.of(self.rules.encoding)
        ring.add_into(state.total, ring.from_bytes(masked, word_count(self.rules)))
        state.received[receipt.sender] = receipt
        return True

    def _on_signature(self, message: SurvivorSignature) -> bool:
        state = self._state
        if isinstance(state, _Advertising | _Sharing | _Collecting):
            raise self._early(message.sender)
        if not isinstance(state, _Agreeing) or self._repeated(state.received, message):
            return False
        at, ctx = self.offer.position, state.collecting.sharing.round_ctx
        signed = state.survivors.signed_bytes(self.rules.protocol_version, at, message.sender, ctx)
        self._check_signature(message.sender, message.signature, signed)
        state.received[message.sender] = message
        return True

    def _on_shares(self, message: UnmaskShares) -> bool:
        state = self._state
        if not isinstance(state, _Unmasking | RoundResult):
            raise self._early(message.sender)
        if isinstance(state, RoundResult) or self._repeated(state.received, message):
            return False
        collecting, survivors = state.agreeing.collecting, state.agreeing.survivors.ids
        dropped = tuple(name for name in collecting.u2 if name not in survivors)
        lists = ((b"seed", message.seed_shares, survivors), (b"masking", message.masking_shares, dropped))
        for kind, shares, owners in lists:
            if tuple(one.owner for one in shares) != owners:
                raise self._refuse("E-ROUND-SHARE", message.sender, "it released shares of others than were asked for")
            for one in shares:
                self._check_share(kind, message.sender, one, collecting)
        signed = message.signed_bytes(self.rules.protocol_version, collecting.sharing.round_ctx)
        self._check_signature(message.sender, message.signature, signed)
        state.received[message.sender] = message
        return True

    def _check_share(self, kind: bytes, holder: str, one: ReleasedShare, collecting: _Collecting) -> None:
        leaf = collecting.bundles[one.owner].leaves[collecting.sharing.members.index(holder)]
        committed = leaf.seed_share_hash if kind == b"seed" else leaf.masking_share_hash
        if messages.share_hash(kind, collecting.sharing.round_ctx, one.owner, holder, one.share) != committed:
            raise self._refuse("E-ROUND-SHARE", holder, f"its share of {one.owner} is not the one that was dealt")

    def _repeated(self, received: Mapping[str, object], message: Message | Receipt) -> bool:
        """Say whether the same message is there already; refuse strangers and second thoughts."""
        if message.sender not in self.expected():
            raise self._refuse("E-ROUND-SET", message.sender, "it takes no part in this phase")
        earlier = received.get(message.sender)
        if earlier is not None and earlier != message:
            raise self._refuse("E-ROUND-PHASE", message.sender, "it already said something else in this phase")
        return earlier is not None

    def _check_signature(self, sender: str, signature: bytes, signed: bytes) -> None:
        if not keys.verify(bytes.fromhex(self.rules.member(sender).identity_key), signature, signed):
            raise self._refuse("E-ROUND-SIGNATURE", sender, "the message is not signed by its identity key")

    def _early(self, sender: str) -> PeerError:
        return self._refuse("E-ROUND-PHASE", sender, "the message comes before its phase")

    def _refuse(self, code: str, sender: str, rule: str) -> PeerError:
        return PeerError(code, participant=sender, phase=self.phase.name, rule=rule)

    # --- from phase to phase ---

    def close(self, *, threads: int = 1) -> None:
        """Fix what this phase collected and go on to the next.

        In UNMASK this rebuilds the secrets and removes the masks, which takes the time of the key streams.

        Raises:
            RoundAborted: too few have answered, or a dealer's shares rebuild to something else than it committed to.
        """
        if not self.can_close():
            needed = self.rules.quorum if isinstance(self._state, _Agreeing | _Unmasking) else self.rules.m
            reason = f"{len(self.answered())} of the {needed} needed answered in {self.phase.name}"
            raise RoundAborted("E-ROUND-TOO-FEW", reason)
        match self._state:
            case _Advertising(received=received):
                u1 = tuple(received[name] for name in sorted(received))
                self._state = _Sharing(u1, messages.round_context(self.offer, u1))
            case _Sharing(received=received) as sharing:
                total = np.zeros(word_count(self.rules), dtype=Ring.of(self.rules.encoding).dtype)
                self._state = _Collecting(sharing, dict(received), total)
            case _Collecting(received=received) as collecting:
                receipts = tuple(received[name] for name in sorted(received))
                self._state = _Agreeing(collecting, SurvivorProposal(self.offer.position, receipts))
            case _Agreeing(received=received) as agreeing:
                signatures = tuple(received[name] for name in sorted(received))
                self._state = _Unmasking(agreeing, UnmaskRequest(agreeing.proposal, signatures))
            case _Unmasking() as unmasking:
                self._state = self._unmask(unmasking, threads)
            case RoundResult():
                raise self._refuse("E-ROUND-PHASE", "coordinator", "the round is over")
            case _ as never:
                assert_never(never)

    def _unmask(self, state: _Unmasking, threads: int) -> RoundResult:
        collecting, survivors = state.agreeing.collecting, state.agreeing.survivors
        advertised = {one.sender: one.masking_key for one in collecting.sharing.u1}
        commitments = {name: bundle.seed_commitment for name, bundle in collecting.bundles.items()}
        secrets = rebuild_secrets(
            self.rules, collecting.sharing.round_ctx, tuple(state.received.values()), commitments, advertised
        )
        words = collecting.total.copy()
        remove_masks(
            self.rules, words, collecting.sharing.round_ctx, secrets, survivors.ids, advertised, threads=threads
        )
        certificate = RoundCertificate(
            position=self.offer.position,
            round_ctx=collecting.sharing.round_ctx,
            survivors=survivors,
            sum_hash=messages.sum_hash(Ring.of(self.rules.encoding).to_bytes(words)),
            signatures=state.request.signatures,
        )
        dropouts = tuple(member.id for member in self.rules.roster if member.id not in survivors.ids)
        return RoundResult(words, certificate, survivors.ids, dropouts)

    # --- what each participant should be told ---

    def outbox(self, participant: str) -> Outgoing | None:
        """Return what this participant should be told in this phase, or ``None`` if it takes no part in it."""
        state = self._state
        if isinstance(state, RoundResult):
            return state.certificate
        if participant not in self.expected():
            return None
        match state:
            case _Advertising():
                return None  # the offer itself
            case _Sharing():
                return state.u1
            case _Collecting():
                return self._dealt(state, participant)
            case _Agreeing():
                return state.proposal
            case _Unmasking():
                return state.request
            case _ as never:
                assert_never(never)

    def _dealt(self, state: _Collecting, holder: str) -> tuple[DealtShare, ...]:
        index = state.sharing.members.index(holder)
        return tuple(self._dealt_by(state, dealer, index) for dealer in state.u2 if dealer != holder)

    def _dealt_by(self, state: _Collecting, dealer: str, index: int) -> DealtShare:
        bundle = state.bundles[dealer]
        if dealer not in state.levels:
            state.levels[dealer] = messages.MerkleTree.over([leaf.hash for leaf in bundle.leaves])
        tree = state.levels[dealer]
        return DealtShare(
            position=self.offer.position,
            dealer=dealer,
            leaf=bundle.leaves[index],
            proof=tree.proof(index),
            sealed=bundle.sealed[index],
            root=tree.root,
            seed_commitment=bundle.seed_commitment,
            signature=bundle.signature,
        )
