"""A participant's side of a round: message in, next state and what to send out.

Guarantees: every rule of the phase table is checked before anything is sent; a message that breaks one raises a
``PeerError`` and leaves everything as it was. At most one survivor set is signed and one release made in a round,
whatever the attempt. A state holds its secrets only as long as the phase needs them.
Leaves to others: the checks themselves (``checks``), fsync of ``Step.record`` before ``Step.message`` leaves
(``journal``, ``runner``), training and charging, time, the network.
Source: docs/protocol.md sections 5 and 6 (sections are cited at each phase).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from participant.protocol.checks import (
    Quorum,
    check_advertisements,
    check_certificate,
    check_dealers,
    check_holders,
    check_offer,
    check_passed_on,
    check_proposal,
    check_request,
    uploaded_to,
)
from participant.protocol.member import Participant
from participant.protocol.memory import (
    AttemptAdvertised,
    Record,
    RoundCompleted,
    RunMemory,
    SharesReleased,
    SurvivorsSigned,
    UpdateMasked,
    shares_to_bytes,
)
from privacy.errors import PeerError, Phase
from privacy.interfaces import RandomSource
from privacy.secagg import hashes, keys, messages
from privacy.secagg.dealing import Channels, Dealer, HeldShare, open_dealt
from privacy.secagg.graph import MaskingGraph, masking_graph
from privacy.secagg.masks import MaskTerm
from privacy.secagg.messages import (
    ADVERTISE_NONCE_BYTES,
    Advertisement,
    AttemptOffer,
    Complaint,
    DealtShare,
    NeighbourShares,
    Position,
    Receipt,
    ReleasedShare,
    RoundCertificate,
    SealedPair,
    ShareBundle,
    SurvivorProposal,
    SurvivorSignature,
    UnmaskRequest,
    UnmaskShares,
)
from privacy.secagg.pairing import Pairing
from privacy.secagg.suites import Link, SuiteKeys, channel_keys, masking_keys
from privacy.secret import SecretBytes

__all__ = [
    "Advertised",
    "Complained",
    "Masked",
    "Message",
    "Participant",
    "Ready",
    "Shared",
    "Step",
    "advertise",
    "complete",
]

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


# --- ADVERTISE_KEYS ---


def advertise(party: Participant, offer: AttemptOffer, memory: RunMemory, random: RandomSource) -> Step[Advertised]:
    """Answer an offered attempt with two fresh public keys (section 5.1).

    Raises:
        PeerError: the offer does not follow from the plan and this participant's own history.
    """
    check_offer(party, offer, memory)
    suite = party.parameters.suite
    masking_secret = SecretBytes(random.token_bytes(keys.KEY_BYTES))
    masking = masking_keys(suite, masking_secret)
    channel = channel_keys(suite, SecretBytes(random.token_bytes(keys.KEY_BYTES)))
    unsigned = Advertisement(
        offer=offer,
        sender=party.me,
        masking_key=masking.public,
        channel_key=channel.public,
        nonce=random.token_bytes(ADVERTISE_NONCE_BYTES),
    )
    own = replace(unsigned, signature=party.identity.sign(unsigned.signed_bytes(party.parameters.protocol_version)))
    state = Advertised(party=party, own=own, masking_secret=masking_secret, masking=masking, channel=channel)
    return Step(state, AttemptAdvertised(offer.position.round, offer.position.attempt), own)


# --- SHARE_KEYS ---


@dataclass(frozen=True, slots=True)
class Advertised:
    """Waits for U1, the verified set of advertisements."""

    party: Participant
    own: Advertisement
    masking_secret: SecretBytes
    masking: SuiteKeys
    channel: SuiteKeys

    def on_advertisements(self, advertisements: Sequence[Advertisement], random: RandomSource) -> Step[Shared]:
        """Check U1, derive the round's context and graph, and deal shares to every holder (sections 5.2 and 9)."""
        check_advertisements(self.party, self.own, advertisements)
        round_ctx = messages.round_context(self.own.offer, advertisements)
        by_sender = {one.sender: one for one in advertisements}
        graph = masking_graph([*by_sender], round_ctx=round_ctx, neighbours=self.party.parameters.neighbours)
        holders = graph.holders(self.party.me)
        check_holders(self.party, holders, Phase.SHARE_KEYS)
        peers = {name: by_sender[name] for name in holders if name != self.party.me}
        channel = {name: self._link(self.channel, one.channel_key, name) for name, one in peers.items()}
        masking = {name: self._link(self.masking, one.masking_key, name) for name, one in peers.items()}
        seed = SecretBytes(random.token_bytes(keys.KEY_BYTES))
        channels = Channels(self.party.me, round_ctx, channel)
        pairing = Pairing(self.party.me, round_ctx, self.masking_secret, masking)
        dealer = Dealer(self.party.parameters, self.own.offer.position, channels, pairing, random)
        unsigned, kept = dealer.deal(seed, holders)
        signed = unsigned.signed_bytes(self.party.parameters.protocol_version, round_ctx)
        bundle = replace(unsigned, signature=self.party.identity.sign(signed))
        state = Shared(
            party=self.party,
            offer=self.own.offer,
            channels=channels,
            pairing=pairing,
            graph=graph,
            bundle=bundle,
            kept=kept,
            seed=seed,
        )
        return Step(state, None, bundle)

    def _link(self, mine: SuiteKeys, theirs: bytes, name: str) -> Link:
        try:
            return mine.link(theirs)
        except ValueError:
            raise PeerError.by_coordinator(
                "E-ROUND-KEYS", Phase.SHARE_KEYS, f"the key of {name} is of low order or no key"
            ) from None


# --- COLLECT_MASKED ---


@dataclass(frozen=True, slots=True)
class Complained:
    """A dealer's bundle was bad: this participant abstains from the attempt."""

    dealer: str


@dataclass(frozen=True, slots=True)
class Shared:
    """Waits for U2, the dealers' shares."""

    party: Participant
    offer: AttemptOffer
    channels: Channels
    pairing: Pairing
    graph: MaskingGraph
    bundle: ShareBundle
    kept: HeldShare
    seed: SecretBytes

    @property
    def round_ctx(self) -> bytes:
        """The context that U1 fixes."""
        return self.channels.round_ctx

    @property
    def u1(self) -> tuple[str, ...]:
        """The verified members of the attempt, sorted."""
        return self.graph.members

    def on_shares(self, told: Sequence[DealtShare] | NeighbourShares) -> Step[Ready] | Step[Complained]:
        """Check U2 and open every neighbour's shares (section 5.3); a lying dealer is named in a signed complaint."""
        given = told if isinstance(told, NeighbourShares) else NeighbourShares.of_all(self.party.me, told)
        check_dealers(self.party, self.graph, given)
        for one in given.shares:
            holders = self.graph.holders(one.dealer)
            check_passed_on(self.party, self.offer.position, one, round_ctx=self.round_ctx, holders=holders)
        held, masking = {self.party.me: self.kept}, dict[str, SecretBytes]()
        for one in given.shares:
            try:
                held[one.dealer] = open_dealt(self.channels, one)
                masking[one.dealer] = self.pairing.seed(one.dealer, self._pair_with(one))
            except ValueError:
                return self._complain(one.dealer)
        shares = tuple(held[name] for name in sorted(held))
        return Step(Ready(self.party, self.offer, self.round_ctx, given.u2, shares, self.seed, masking), None, None)

    def _pair_with(self, one: DealtShare) -> SealedPair:
        """Return what the lower id of this participant and a dealer gave the higher."""
        return one.pair if one.dealer < self.party.me else self.bundle.pair_for(one.dealer)

    def _complain(self, dealer: str) -> Step[Complained]:
        rule = "the sealed shares do not open to what the dealer signed"
        unsigned = Complaint(position=self.offer.position, sender=self.party.me, dealer=dealer, rule=rule)
        signed = unsigned.signed_bytes(self.party.parameters.protocol_version, self.round_ctx)
        return Step(Complained(dealer), None, replace(unsigned, signature=self.party.identity.sign(signed)))


@dataclass(frozen=True, slots=True)
class Ready:
    """U2 is verified: train, charge, then mask."""

    party: Participant
    offer: AttemptOffer
    round_ctx: bytes
    u2: tuple[str, ...]
    shares: tuple[HeldShare, ...]
    seed: SecretBytes
    masking: Mapping[str, SecretBytes]

    def mask(self, update: NDArray[np.int64], *, threads: int = 1) -> tuple[Step[Masked], memoryview]:
        """Return the step and the masked bytes; they and the state's shares must be fsynced before the record (5.3).

        Args:
            update: the round's encoded update, ``layout.entries`` integers within the plan's clamp.
            threads: of the mask streams at most; 1 where participants share a machine.
        """
        party, parameters = self.party, self.party.parameters
        layout = party.plan.plan.layout(self.offer.position.round)
        words = layout.encode(update, parameters.member(party.me).weight)
        layout.mask(words, self._terms, threads=threads)
        masked = layout.ring.to_bytes(words)
        unsigned = Receipt(
            position=self.offer.position,
            sender=party.me,
            u2_hash=hashes.set_hash(self.u2),
            masked_hash=hashlib.sha256(masked).digest(),
            length=len(masked),
        )
        signed = unsigned.signed_bytes(parameters.protocol_version, self.round_ctx)
        receipt = replace(unsigned, signature=party.identity.sign(signed))
        shares_hash = hashlib.sha256(shares_to_bytes(self.shares)).digest()
        record = UpdateMasked(self.offer, self.round_ctx, self.u2, receipt, shares_hash)
        return Step(Masked(party, record, self.shares), record, receipt), masked

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


# --- AGREE_SURVIVORS and UNMASK: these go on after a restart, from the journal's record and the file of shares ---


@dataclass(frozen=True, slots=True)
class Masked:
    """The masked update is out; what is left of the secrets are the shares held for others."""

    party: Participant
    record: UpdateMasked
    shares: tuple[HeldShare, ...]  # of its own neighbours in U2 and its own, by dealer
    quorum: Quorum | None = None  # for which shares were released, verified; a restart forgets it

    def on_survivors(self, proposal: SurvivorProposal, memory: RunMemory) -> Step[Masked]:
        """Sign S: the commit point of the round (section 5.4)."""
        check_proposal(self.party, self.record, proposal, memory)
        survivors, me = proposal.survivors, self.party.me
        signed = survivors.signed_bytes(self._version, self._position, me, self.record.round_ctx)
        message = SurvivorSignature(position=self._position, sender=me, signature=self.party.identity.sign(signed))
        committed = SurvivorsSigned(self.record.round, self.record.attempt, survivors)
        return Step(self, None if memory.signed_in(self.record.round) else committed, message)

    def on_unmask(self, request: UnmaskRequest, memory: RunMemory) -> Step[Masked]:
        """Release, for neighbours in S, shares of seeds and, for those in U2 without S, of masking secrets (5.5)."""
        quorum = check_request(self.party, self.record, request, memory)
        survivors = request.proposal.survivors
        committed = SharesReleased(self.record.round, self.record.attempt, survivors)
        record = None if memory.released_in(self.record.round) else committed
        return Step(replace(self, quorum=quorum), record, self._release(set(survivors.ids)))

    @property
    def _position(self) -> Position:
        return self.record.offer.position

    @property
    def _version(self) -> int:
        return self.party.parameters.protocol_version

    def _release(self, survivors: set[str]) -> UnmaskShares:
        seeds = (ReleasedShare(one.dealer, one.seed_share) for one in self.shares if one.dealer in survivors)
        masking = (ReleasedShare(one.dealer, one.masking_share) for one in self.shares if one.dealer not in survivors)
        unsigned = UnmaskShares(
            position=self._position,
            sender=self.party.me,
            seed_shares=tuple(seeds),
            masking_shares=tuple(masking),
        )
        signed = unsigned.signed_bytes(self._version, self.record.round_ctx)
        return replace(unsigned, signature=self.party.identity.sign(signed))


# --- RESULT, and catching up ---


def complete(
    party: Participant, certificate: RoundCertificate, memory: RunMemory, *, verified: Quorum | None = None
) -> RoundCompleted:
    """Verify a round's certificate and return the record that extends the transcript (section 5.6).

    Args:
        party: this participant.
        certificate: the round's.
        memory: of the run.
        verified: the quorum of :attr:`Masked.quorum`, if there is one: those very signatures are not verified twice.

    Raises:
        PeerError: it does not verify, or it lists this participant's upload where the journal knows of none: then the
            journal was rolled back and the caller must refuse the run.
    """
    check_certificate(party, certificate, memory, verified=verified)
    survivors = certificate.survivors.ids
    return RoundCompleted(
        round=certificate.position.round,
        attempt=certificate.position.attempt,
        transcript=certificate.transcript(memory.transcript),
        survivors=survivors,
        alarm=uploaded_to(certificate, memory) is not None and party.me not in survivors,
    )
