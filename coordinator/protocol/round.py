"""The coordinator's side of one attempt: messages in by one entrance, what each participant should be told out.

Guarantees: it holds a running modular sum and participant sets, and no field that could hold one participant's
un-masked update. It is deterministic: the same calls in the same order give the same state, so a restarted
coordinator replays its journal. A message that breaks a rule raises a ``PeerError`` that names its sender and changes
nothing.
Leaves to others: the rules of each message (``checks``), making each accepted message and each
:meth:`CoordinatorRound.close` durable before anything that follows from it leaves (``store``), deadlines and liveness
(``runner``).
Source: docs/protocol.md sections 5 and 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import assert_never

import numpy as np

from coordinator.protocol.absences import Absences
from coordinator.protocol.bundles import KeptBundle
from coordinator.protocol.checks import (
    check_advertisement,
    check_bundle,
    check_complaint,
    check_released,
    check_survivor_signature,
    check_upload,
)
from coordinator.protocol.phases import (
    Advertising,
    Agreeing,
    Collecting,
    Members,
    RoundResult,
    Sharing,
    State,
    Unmasking,
)
from coordinator.protocol.transitions import check_following
from coordinator.protocol.unmasking import rebuild_secrets, remove_masks
from privacy.errors import PeerError, Phase, RoundAborted
from privacy.plan import VerifiedPlan, largest_sum
from privacy.secagg import hashes, messages
from privacy.secagg.graph import masking_graph
from privacy.secagg.layout import Words
from privacy.secagg.messages import (
    Advertisement,
    AdvertisementSet,
    AttemptOffer,
    Complaint,
    HolderShares,
    MaskedUpload,
    RoundCertificate,
    ShareBundle,
    SurvivorProposal,
    SurvivorSignature,
    UnmaskRequest,
    UnmaskShares,
)
from privacy.secagg.suites import HYBRID

__all__ = ["CoordinatorRound", "Message", "Outgoing", "RoundResult"]

Message = Advertisement | ShareBundle | Complaint | SurvivorSignature | UnmaskShares
# What participants are told, one type per phase.
Outgoing = AttemptOffer | AdvertisementSet | HolderShares | SurvivorProposal | UnmaskRequest | RoundCertificate


class CoordinatorRound:
    """One attempt at a round."""

    def __init__(
        self,
        plan: VerifiedPlan,
        offer: AttemptOffer,
        *,
        disputed: frozenset[str] = frozenset(),
        excluded: frozenset[str] = frozenset(),
    ) -> None:
        """Open an attempt.

        Args:
            plan: the run's plan.
            offer: what the roster was offered.
            disputed: whom complaints in earlier attempts of the round are by or about; they are left out of this one.
            excluded: whom the operator leaves out.
        """
        self.parameters = plan.plan.parameters()
        self.layout = plan.plan.layout(offer.position.round)
        self.largest_sum = largest_sum(plan.plan)
        self.offer = offer
        self.absences = Absences(disputed, excluded)
        self._state: State = Advertising(
            frozenset(member.id for member in self.parameters.roster) - self.absences.left_out
        )

    @property
    def disputed(self) -> frozenset[str]:
        """Who complained in this attempt and about whom: no evidence decides between them (section 5.3)."""
        complaints = self.absences.complaints
        return frozenset({*complaints, *complaints.values()})

    @property
    def phase(self) -> Phase:
        """What is collected now."""
        return self._state.phase

    @property
    def result(self) -> RoundResult:
        """The sum and its certificate; only in phase RESULT."""
        if not isinstance(self._state, RoundResult):
            raise PeerError.by_coordinator("E-ROUND-PHASE", self.phase, "there is no result yet")
        return self._state

    # --- who must still answer ---

    def expected(self) -> frozenset[str]:
        """Return everyone from whom this phase takes a message."""
        return self._state.expected

    def answered(self) -> frozenset[str]:
        """Return who has answered in this phase."""
        return frozenset() if isinstance(self._state, RoundResult) else frozenset(self._state.received)

    def awaited(self) -> frozenset[str]:
        """Return who may still answer: expected, not answered, not abstaining."""
        return self.expected() - self.answered() - self.absences.abstained.keys()

    def can_close(self) -> bool:
        """Return whether enough have answered to go on: m for the sets, T signatures, enough shares of everybody."""
        if isinstance(self._state, Unmasking):
            return not self._state.lacking
        return not isinstance(self._state, RoundResult) and len(self.answered()) >= self._needed()

    def _needed(self) -> int:
        return self.parameters.quorum if isinstance(self._state, Agreeing) else self.parameters.min_survivors

    def _shortfall(self) -> str:
        if isinstance(self._state, Unmasking):
            owner, missing = max(self._state.lacking.items(), key=lambda item: item[1])
            needed = self.parameters.share_threshold
            shortfall = f"{missing} of the {needed} shares of {owner} are missing in {self.phase.name}"
        else:
            shortfall = f"{len(self.answered())} of the {self._needed()} needed answered in {self.phase.name}"
        missing_members = sorted(self.awaited())
        awaited = [f"no answer from {', '.join(missing_members)}"] if missing_members else []
        return "; ".join([shortfall, *awaited, *self.absences.reasons()])

    def settled(self) -> bool:
        """Return whether waiting on brings nothing: all have answered, or a quorum of signatures or shares is there."""
        if isinstance(self._state, Agreeing | Unmasking) and self.can_close():
            return True
        return not isinstance(self._state, RoundResult) and not self.awaited()

    def abstain(self, participant: str, because: str = "") -> None:
        """Wait no longer for a participant in this attempt."""
        self.absences.abstained[participant] = because

    # --- messages in ---

    def receive(self, message: Message | MaskedUpload) -> bool:
        """Take a message; return ``False`` if it is a repeat or comes after its phase and changes nothing.

        A masked upload is checked against its receipt and added to the running sum; its bytes are not kept, and a
        repeat of its receipt is known without them.

        Raises:
            PeerError: it breaks a rule; nothing has changed.
        """
        if message.position != self.offer.position:
            raise PeerError.by_participant(
                message.sender, "E-ROUND-CONTEXT", self.phase, "the message is of another plan, round or attempt"
            )
        match message:
            case Advertisement():
                return self._on_advertisement(message)
            case ShareBundle():
                return self._on_bundle(message)
            case Complaint():
                return self._on_complaint(message)
            case MaskedUpload():
                return self._on_upload(message)
            case SurvivorSignature():
                return self._on_signature(message)
            case UnmaskShares():
                return self._on_shares(message)
            case _ as never:
                assert_never(never)

    def _on_advertisement(self, message: Advertisement) -> bool:
        state = self._state
        if not isinstance(state, Advertising) or self._repeated(state.received, message.sender, message):
            return False
        state.key_parts |= check_advertisement(self.parameters, self.offer, message, known=state.key_parts)
        state.received[message.sender] = message
        return True

    def _on_bundle(self, message: ShareBundle) -> bool:
        state = self._state
        if isinstance(state, Advertising):
            raise self._early(message.sender)
        if not isinstance(state, Sharing):
            return False
        kept = KeptBundle.of(message)
        if self._repeated(state.received, message.sender, kept):
            return False
        check_bundle(self.parameters, state, message)
        state.received[message.sender] = kept
        return True

    def _on_complaint(self, message: Complaint) -> bool:
        state = self._state
        if not isinstance(state, Collecting) or self.absences.complaints.get(message.sender) == message.dealer:
            return False
        check_complaint(self.parameters, state, message)
        if message.sender in self.absences.complaints:
            raise PeerError.by_participant(
                message.sender, "E-ROUND-PHASE", self.phase, "it already complained about somebody else in this attempt"
            )
        self.absences.complaints[message.sender] = message.dealer
        self.abstain(message.sender)  # what it complains about says why
        return True

    def _on_upload(self, message: MaskedUpload) -> bool:
        state, receipt = self._state, message.receipt
        if isinstance(state, Advertising | Sharing):
            raise self._early(message.sender)
        if not isinstance(state, Collecting) or self._repeated(state.received, message.sender, receipt):
            return False
        if message.sender in self.absences.complaints:
            raise PeerError.by_participant(
                message.sender, "E-ROUND-UPLOAD", self.phase, "it complained and cannot upload as well"
            )
        check_upload(self.parameters, state, receipt, message.masked)
        ring = self.layout.ring
        ring.add_into(state.total, ring.from_bytes(message.masked, self.layout.words))
        state.received[message.sender] = receipt
        return True

    def _on_signature(self, message: SurvivorSignature) -> bool:
        state = self._state
        if isinstance(state, Advertising | Sharing | Collecting):
            raise self._early(message.sender)
        if not isinstance(state, Agreeing) or self._repeated(state.received, message.sender, message):
            return False
        check_survivor_signature(self.parameters, state, message)
        state.received[message.sender] = message
        return True

    def _on_shares(self, message: UnmaskShares) -> bool:
        state = self._state
        if not isinstance(state, Unmasking | RoundResult):
            raise self._early(message.sender)
        if isinstance(state, RoundResult) or self._repeated(state.received, message.sender, message):
            return False
        check_released(state, message)
        state.take(message)
        return True

    def _repeated(self, received: Mapping[str, object], sender: str, message: object) -> bool:
        """Return whether the same message is there already; refuse strangers and second thoughts."""
        if sender not in self.expected():
            raise PeerError.by_participant(sender, "E-ROUND-SET", self.phase, "it takes no part in this phase")
        earlier = received.get(sender)
        if earlier is not None and earlier != message:
            raise PeerError.by_participant(
                sender, "E-ROUND-PHASE", self.phase, "it already said something else in this phase"
            )
        return earlier is not None

    def _early(self, sender: str) -> PeerError:
        return PeerError.by_participant(sender, "E-ROUND-PHASE", self.phase, "the message comes before its phase")

    # --- from phase to phase ---

    def close(self, *, threads: int = 1) -> None:
        """Fix what this phase collected and go on to the next.

        In UNMASK this rebuilds the secrets and removes the masks, which takes the time of the key streams.

        Raises:
            RoundAborted: too few have answered, or a dealer's shares rebuild to something else than it committed to.
        """
        if not self.can_close():
            raise RoundAborted("E-ROUND-TOO-FEW", self._shortfall())
        following = self._following(threads)
        check_following(self.phase, following.phase)
        self._state = following

    def _following(self, threads: int) -> State:
        """Return the state after this one, made of what this phase has collected."""
        match self._state:
            case Advertising(received=received):
                return Sharing(self._drawn(tuple(received[name] for name in sorted(received))))
            case Sharing(received=received) as sharing:
                self._check_holders(sharing.members, received, received.keys())
                total = np.zeros(self.layout.words, dtype=self.layout.ring.dtype)
                return Collecting(sharing.members, dict(received), self.layout, total)
            case Collecting(received=received) as collecting:
                self._check_accused(collecting)
                self._check_holders(collecting.members, collecting.u2, received.keys())
                return self._propose(collecting)
            case Agreeing(received=received) as agreeing:
                signatures = tuple(received[name] for name in sorted(received))
                request = UnmaskRequest(agreeing.proposal, signatures)
                return Unmasking(agreeing, request, self.parameters.share_threshold)
            case Unmasking() as unmasking:
                return self._unmask(unmasking, threads)
            case RoundResult():
                raise PeerError.by_coordinator("E-ROUND-PHASE", self.phase, "the round is over")
            case _ as never:
                assert_never(never)

    def _drawn(self, u1: tuple[Advertisement, ...]) -> Members:
        """Return U1 with its context and its graph."""
        ids, round_ctx = [advertisement.sender for advertisement in u1], messages.round_context(self.offer, u1)
        graph = masking_graph(ids, round_ctx=round_ctx, neighbours=self.parameters.neighbours)
        members = Members(u1, round_ctx, graph)
        self._check_holders(members, ids, frozenset(ids))
        return members

    def _check_holders(self, members: Members, owners: Iterable[str], there: AbstractSet[str]) -> None:
        """End the attempt while a retry is open if somebody's secrets have lost too many holders (section 9)."""
        threshold = self.parameters.share_threshold
        if (name := members.short_of_holders(owners, there, threshold)) is not None:
            raise RoundAborted("E-ROUND-TOO-FEW", f"fewer than {threshold} holders of the shares of {name} are left")

    def _check_accused(self, state: Collecting) -> None:
        """End the attempt while a retry is open if, in suite 2, an accused dealer would be a survivor.

        Its mask with a dropout could then not be rebuilt: from the dropout's side that takes what the dealer sealed.
        """
        accused = sorted(set(self.absences.complaints.values()) & set(state.received))
        if self.parameters.suite == HYBRID and accused:
            raise RoundAborted("E-ROUND-SHARE", "; ".join(self.absences.disputes()))

    def _propose(self, state: Collecting) -> Agreeing:
        receipts = tuple(state.received[name] for name in sorted(state.received))
        return Agreeing(
            members=state.members,
            u2=state.u2,
            commitments={dealer: bundle.commitments for dealer, bundle in state.bundles.items()},
            total=state.total,
            proposal=SurvivorProposal(self.offer.position, receipts),
        )

    def _unmask(self, state: Unmasking, threads: int) -> RoundResult:
        survivors, round_ctx = state.agreeing.survivors, state.agreeing.members.round_ctx
        advertised = {of.sender: of.masking_key for of in state.agreeing.members.u1}
        released = tuple(state.received.values())
        graph = state.agreeing.members.graph
        secrets = rebuild_secrets(self.parameters, graph, round_ctx, released, state.agreeing.commitments, advertised)
        check_following(self.phase, Phase.RESULT)  # before the sum is given away: a copy would double what is held
        words = state.agreeing.take_total()
        remove_masks(self.layout, words, round_ctx, secrets, threads=threads)
        self._check_sum(words)
        certificate = RoundCertificate(
            position=self.offer.position,
            round_ctx=round_ctx,
            survivors=survivors,
            sum_hash=hashes.sum_hash(words.data),
            signatures=state.request.signatures,
        )
        dropouts = tuple(member.id for member in self.parameters.roster if member.id not in state.expected)
        return RoundResult(self.layout, words, certificate, survivors.ids, dropouts)

    def _check_sum(self, words: Words) -> None:
        """End the round if no updates within the plan's clamp have this sum: somebody uploaded something else.

        Who it was, nobody can see. Honest noise is beyond the bound in no coordinate of a whole run, but with a
        probability of at most 2^-40 (section 7).
        """
        beyond, stray = self.layout.count_beyond(words, self.largest_sum), self.layout.count_stray(words)
        if beyond or stray:
            entries = self.layout.entries
            rule = f"{beyond} of the {entries} coordinates of the sum are beyond what the plan's updates can sum to"
            rule = rule if beyond else f"{stray} words of the sum have bits beyond their lanes"
            raise RoundAborted("E-ROUND-SUM", f"{rule}: a participant uploaded something else than an update")

    # --- what each participant should be told ---

    def outbox(self, participant: str) -> Outgoing | None:
        """Return what this participant should be told in this phase, or ``None`` if it takes no part in it."""
        state = self._state
        if isinstance(state, RoundResult):
            return state.certificate
        if participant not in self.expected():
            return None
        match state:
            case Advertising():
                return self.offer
            case Sharing():
                return AdvertisementSet(state.members.u1)
            case Collecting():
                return state.dealt_to(participant)
            case Agreeing():
                return state.proposal
            case Unmasking():
                return state.request
            case _ as never:
                assert_never(never)
