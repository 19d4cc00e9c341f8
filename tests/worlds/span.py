"""The span oracle: what a lying coordinator could compute from all that it holds.

Everything it holds is written as linear rows over unknown updates and mask streams (:mod:`tests.worlds.span_rows`); the
rows left without streams are what it learned. The claim of docs/protocol.md section 1 is that they are one sum over
enough honest survivors, or nothing. Honest participants are the real machines; a stream is known if a secret that
derives it is the coordinator's, or T of its shares are.

What the coordinator may do: show each participant another U1 and U2, with colluders who advertise several times
(``dave'``), honest names whose keys it made itself (``alice*``) or whose masking key it replaced (``alice~``); propose
to each asked participant any survivors with receipts that colluders sign to suit it; ask anybody to sign or release, in
any order, in any attempt that it opens for any part of the cohort; tell anybody at any time that a round is voided,
open attempts at the next one and go on in the one before; send every signature that it has, twice, and forged ones.
Deletions of rules (:mod:`tests.worlds.edits`) must be in force before a world is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from coordinator.protocol.bundles import KeptBundle
from participant.protocol.member import Participant
from participant.protocol.memory import RunMemory, UpdateEncoded
from participant.protocol.round import hear
from participant.protocol.states import Advertised, Idle, Masked, Ready, Shared, State
from participant.protocol.step import Step
from participant.protocol.transitions import EncodedUpdate, Told
from privacy.errors import PeerError
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg import hashes
from privacy.secagg.keys import SigningKey
from privacy.secagg.messages import (
    Advertisement,
    AdvertisementSet,
    AttemptOffer,
    DealtShare,
    HolderShares,
    MaskedUpload,
    Position,
    Receipt,
    SurvivorProposal,
    SurvivorSignature,
    UnmaskRequest,
    UnmaskShares,
    VoidedRound,
)
from tests.worlds.expect import expect
from tests.worlds.federation import SeededSource
from tests.worlds.plans import make_plan, names, signing_key, verified
from tests.worlds.span_rows import STREAMS, UPDATE, Row, Sum, learned, violates

Actor = str  # a name, or one with a mark: what the coordinator made or a colluder said besides
Secret = tuple[str, int, Actor]  # masking or seed, attempt, whose
NEXT_ROUND = 100  # attempts at round 1 are numbered from 1, those at round 2 from 101


def round_of(number: int) -> int:
    """Return the round of an attempt."""
    return 1 + number // NEXT_ROUND


def name_of(actor: Actor) -> str:
    """Return the name under which an actor appears."""
    return actor.rstrip("'*~")


@dataclass(frozen=True)
class Shown:
    """What one honest participant is shown in an attempt."""

    to: str
    u1: tuple[Actor, ...]
    u2: tuple[str, ...]  # the dealers whose shares it gets, and itself
    adapter: int = 0  # which of the coordinator's models it was offered


View = tuple[Shown, ...]  # to nobody else goes anything


@dataclass
class Upload:
    """An honest participant after its masked upload."""

    shown: Shown
    state: Masked  # as after a restart: what was signed and released since is in the memory
    receipt: Receipt
    row: Row


@dataclass(frozen=True)
class Proposed:
    """Survivors as one participant is told them, and the signatures over them that the coordinator can make up."""

    proposal: SurvivorProposal
    made_up: tuple[SurvivorSignature, ...]


@dataclass
class Attempt:
    """An attempt after its masked uploads, and what the coordinator can quote from it; not changed any more."""

    number: int
    uploads: dict[str, Upload] = field(default_factory=dict)
    advertised: dict[tuple[Actor, int], Advertised] = field(default_factory=dict)
    dealt: dict[tuple[Actor, tuple[Actor, ...], int], Shared] = field(default_factory=dict)
    openers: dict[bytes, set[Secret]] = field(default_factory=dict)  # of each stream key
    dealers: dict[bytes, Secret] = field(default_factory=dict)  # of each share, by its bytes
    lost: dict[Actor, int] = field(default_factory=dict)  # how many shares of its secrets colluders hold
    # By S, who is asked, and whose receipts are forged.
    proposed: dict[tuple[Sequence[str], str, frozenset[str]], Proposed] = field(default_factory=dict)


@dataclass(frozen=True)
class Release:
    """An honest holder's release: of whose secrets it gave a share."""

    attempt: int
    holder: str
    shares: frozenset[Secret]


class LyingCoordinator:
    """A coordinator with ``f`` colluders that shows honest participants whatever it likes, through the real code."""

    def __init__(self, n: int, f: int, *, seed: str = "span", **overrides: Any) -> None:
        plan, self.identities = make_plan(n=n, f=f, entries=max(12, n), **overrides)
        self.plan, self.f, self.seed = verified(plan), f, seed
        self.honest, self.colluders = names(n)[: n - f], names(n)[n - f :]
        self.memories = {name: RunMemory.empty(self.plan.hash) for name in self.honest}
        self.attempts: dict[int, Attempt] = {}
        # Steps that any fork has taken: the same question, the same answer.
        self._advertised: dict[Any, Step[State] | None] = {}

    @property
    def everyone(self) -> tuple[str, ...]:
        """The roster."""
        return (*self.honest, *self.colluders)

    @property
    def least_honest(self) -> int:
        """Over how many honest participants the claim says that a revealed sum is."""
        return self.plan.plan.min_survivors - self.f

    def fork(self) -> LyingCoordinator:
        """Return an independent copy; attempts do not change once they are opened."""
        copy = object.__new__(LyingCoordinator)
        copy.__dict__.update(self.__dict__)
        copy.memories, copy.attempts = dict(self.memories), dict(self.attempts)
        return copy

    def _controls(self, actor: Actor) -> bool:
        return actor.endswith("*") or name_of(actor) in self.colluders

    @staticmethod
    @cache
    def _identity(actor: Actor) -> SigningKey:
        return signing_key("the coordinator itself" if actor.endswith("*") else name_of(actor))

    def _source(self, *what: object) -> SeededSource:
        return SeededSource(f"{self.seed}/{what}")

    # --- an attempt up to the uploads ---

    def open(self, number: int, view: View) -> None:
        """Run an attempt to the uploads under a view; who refuses anything uploads nothing."""
        attempt = self.attempts[number] = Attempt(number)
        for shown in view:
            for actor in shown.u1:
                self._advertise(attempt, actor, self._offered(actor, shown, view))
        for shown in view:
            for actor in shown.u1:
                if actor.rstrip("~") == shown.to or self._controls(actor):
                    self._deal(attempt, actor.rstrip("~"), shown, view)
        for shown in view:
            self._mask(attempt, shown, view)

    def _offered(self, actor: Actor, shown: Shown, view: View) -> int:
        """An honest participant answers its own offer; colluders answer the one of the participant they lie to."""
        own = (one.adapter for one in view if one.to == name_of(actor))
        return shown.adapter if self._controls(actor) else next(own, 0)

    def _advertise(self, attempt: Attempt, actor: Actor, adapter: int) -> None:
        if actor.endswith("~"):
            self._advertise(attempt, name_of(actor), adapter)
            self._advertise(attempt, name_of(actor) + "*", adapter)
            return
        if (actor, adapter) in attempt.advertised:
            return
        at = Position(self.plan.hash, round_of(attempt.number), attempt.number % NEXT_ROUND)
        model = hashes.adapter_hash(b"%d" % adapter)
        offer = AttemptOffer(at, self._transcript(at.round), model)
        memory = self.memories.get(actor, self._at_the_beginning_of(at.round))
        asked = (actor, offer, memory)
        if asked not in self._advertised:
            idle = Idle(Participant(self.plan, name_of(actor), self._identity(actor)))
            self._advertised[asked] = self._hear(idle, offer, memory, attempt.number, actor, adapter)
        step = self._advertised[asked]
        if step is None:
            return
        if actor in self.memories and step.record is not None:
            self.memories[actor] = memory.apply(step.record)
        attempt.advertised[actor, adapter] = expect(Advertised, step.state)

    def _transcript(self, number: int) -> bytes:
        """Return the history in which every round before one is voided."""
        transcript = hashes.genesis_transcript(self.plan.hash)
        for voided in range(1, number):
            transcript = VoidedRound(self.plan.hash, voided).transcript(transcript)
        return transcript

    def _at_the_beginning_of(self, number: int) -> RunMemory:
        """Return what a colluder goes by: it takes part in whatever round it is asked to."""
        return replace(RunMemory.empty(self.plan.hash), completed=number - 1, transcript=self._transcript(number))

    def void(self, asked: str) -> None:
        """Tell an honest participant that the round that it is in has no sum."""
        idle = Idle(Participant(self.plan, asked, self._identity(asked)))
        self._committed(idle, VoidedRound(self.plan.hash, self.memories[asked].completed + 1), asked)

    def _hear(self, state: State, told: Told, memory: RunMemory, *what: object) -> Step[State] | None:
        """Tell somebody something; return its step, which draws what this names, or ``None`` if it refuses."""
        try:
            return hear(state, told, memory, self._source(*what))
        except PeerError:
            return None

    def _advertisements(self, attempt: Attempt, shown: Shown, view: View) -> tuple[Advertisement, ...]:
        found = []
        for actor in sorted(shown.u1):
            adapter = self._offered(actor, shown, view)
            state = attempt.advertised[actor.rstrip("~"), adapter]
            if actor.endswith("~"):
                fake = attempt.advertised[name_of(actor) + "*", adapter].own
                found.append(replace(state.own, masking_key=fake.masking_key))
            else:
                found.append(state.own)
        return tuple(found)

    def _deal(self, attempt: Attempt, actor: Actor, shown: Shown, view: View) -> None:
        state = attempt.advertised.get((actor, shown.adapter))
        if state is None or (actor, shown.u1, shown.adapter) in attempt.dealt:
            return
        try:
            u1 = self._advertisements(attempt, shown, view)
        except KeyError:  # somebody did not advertise
            return
        memory = self.memories.get(actor, RunMemory.empty(self.plan.hash))
        step = self._hear(state, AdvertisementSet(u1), memory, attempt.number, actor, shown.u1)
        if step is None:
            return
        shared = attempt.dealt[actor, shown.u1, shown.adapter] = expect(Shared, step.state)
        holders = shared.graph.holders(name_of(actor))
        attempt.lost[actor] = sum(self._controls(other) and name_of(other) in holders for other in shown.u1)

    def _mask(self, attempt: Attempt, shown: Shown, view: View) -> None:
        if (shown.to, shown.u1, shown.adapter) not in attempt.dealt:
            return
        state = attempt.dealt[shown.to, shown.u1, shown.adapter]
        neighbours = set(state.graph.neighbours(shown.to)) & set(shown.u2)
        shares = tuple(self._dealt_by(attempt, shown, view, neighbours))
        step = self._hear(state, HolderShares(shares, shown.u2), self.memories[shown.to])
        if step is not None and isinstance(step.state, Ready):
            self._upload(attempt, shown, step.state)

    def _dealt_by(self, attempt: Attempt, shown: Shown, view: View, dealers: Set[str]) -> Iterator[DealtShare]:
        """What each dealer dealt to a participant in this context; or, for want of that, in another one."""
        views = {one.to: one for one in view}
        for actor in sorted(shown.u1):
            own = shown if self._controls(actor) else views.get(name_of(actor), shown)
            dealt = attempt.dealt.get((actor.rstrip("~"), own.u1, own.adapter))
            if name_of(actor) in dealers and dealt is not None:
                kept = KeptBundle.of(dealt.bundle)
                if shown.to in kept.commitments.recipients:
                    yield kept.dealt_to(shown.to)

    def _upload(self, attempt: Attempt, shown: Shown, ready: Ready) -> None:
        number = round_of(attempt.number)
        encoded = UpdateEncoded(number, b"\0" * 32, ready.offer.adapter_hash, ready.offer.previous_transcript)
        memory = self.memories[shown.to].apply(encoded)
        STREAMS.forget()
        nothing = EncodedUpdate(np.zeros(self.plan.plan.layout(1).words, dtype=self.plan.plan.layout(1).ring.dtype))
        step = hear(ready, nothing, memory, self._source())
        assert step.record is not None
        self.memories[shown.to] = memory.apply(step.record)
        row: Row = {(UPDATE, (shown.to, (number, shown.adapter))): 1}  # each round has an update of its own
        for key, sign in STREAMS.terms:
            row["stream", key] = row.get(("stream", key), 0) + sign
            self._note_openers(attempt, shown, key)
        receipt = expect(MaskedUpload, step.message).receipt
        attempt.uploads[shown.to] = Upload(shown, expect(Masked, step.state), receipt, row)
        seen = {name_of(actor): actor.rstrip("~") for actor in shown.u1}
        for share in ready.shares:
            attempt.dealers[share.masking_share] = ("masking", attempt.number, seen[share.dealer])
            attempt.dealers[share.seed_share] = ("seed", attempt.number, seen[share.dealer])

    @staticmethod
    def _note_openers(attempt: Attempt, shown: Shown, key: bytes) -> None:
        seen = {name_of(actor): actor.replace("~", "*") for actor in shown.u1}
        ends = STREAMS.between[key]
        kind = "seed" if len(ends) == 1 else "masking"
        actors = {shown.to, *(seen[name] for name in ends if name != shown.to)}
        attempt.openers.setdefault(key, set()).update((kind, attempt.number, actor) for actor in actors)

    # --- survivors ---

    def _proposed(
        self, number: int, survivors: Sequence[str], asked: str, forged: frozenset[str] = frozenset()
    ) -> Proposed:
        """Return S as somebody is told it; the receipts of ``forged`` are changed to suit, if they are honest."""
        attempt, key = self.attempts[number], (survivors, asked, forged)
        if key not in attempt.proposed:
            proposal = self._proposal(attempt, survivors, asked, forged)
            made_up = tuple(self._made_up(attempt.uploads[asked], proposal))
            attempt.proposed[key] = Proposed(proposal, made_up)
        return attempt.proposed[key]

    def _proposal(
        self, attempt: Attempt, survivors: Sequence[str], asked: str, forged: frozenset[str]
    ) -> SurvivorProposal:
        """Return S as receipts: honest ones as signed or forged; colluders' that suit who is asked; others made up."""
        upload = attempt.uploads[asked]
        receipts = []
        for name in survivors:
            actor = self._seen(upload, name)
            if name in attempt.uploads and not self._controls(actor):
                honest = attempt.uploads[name].receipt
                receipts.append(replace(honest, u2_hash=upload.receipt.u2_hash) if name in forged else honest)
                continue
            digest = hashlib.sha256(name.encode()).digest()
            lie = replace(upload.receipt, sender=name, masked_hash=digest, signature=b"\0" * 64)
            signed = lie.signed_bytes(PROTOCOL_VERSION, upload.state.record.round_ctx)
            controlled = self._controls(actor)
            receipts.append(replace(lie, signature=self._identity(actor).sign(signed)) if controlled else lie)
        return SurvivorProposal(upload.receipt.position, tuple(receipts))

    def _ways(self, number: int, survivors: Sequence[str], asked: str, signers: Iterable[str]) -> Iterator[Proposed]:
        """Yield S with honest receipts as they are, then changed to suit the one asked: of signers alone, of all."""
        attempt = self.attempts[number]
        u2_hash = attempt.uploads[asked].receipt.u2_hash
        honest = ((name, attempt.uploads[name].receipt) for name in survivors if name in attempt.uploads)
        others = frozenset(name for name, receipt in honest if receipt.u2_hash != u2_hash)
        for forged in dict.fromkeys((frozenset[str](), others & frozenset(signers), others)):
            yield self._proposed(number, survivors, asked, forged)

    @staticmethod
    def _seen(upload: Upload, name: str) -> Actor:
        return next((actor for actor in upload.shown.u1 if name_of(actor) == name), name)

    def sign(self, number: int, survivors: Sequence[str], asked: str) -> SurvivorSignature | None:
        """Ask an honest participant to sign S; return its signature, or ``None`` if it refuses."""
        if asked not in self.attempts[number].uploads:
            return None
        state = self.attempts[number].uploads[asked].state
        for proposed in self._ways(number, survivors, asked, signers=()):
            step = self._committed(state, proposed.proposal, asked)
            if step is not None:
                return expect(SurvivorSignature, step.message)
        return None

    def _committed(self, state: State, told: Told, asked: str) -> Step[State] | None:
        """Tell an honest participant something, and let its memory know what it has committed itself to."""
        step = self._hear(state, told, self.memories[asked])
        if step is not None and step.record is not None:
            self.memories[asked] = self.memories[asked].apply(step.record)
        return step

    def release(
        self, number: int, survivors: Sequence[str], asked: str, signatures: Sequence[SurvivorSignature]
    ) -> Release | None:
        """Ask an honest participant to release along S, with all signatures there are and all that can be made."""
        attempt = self.attempts[number]
        if asked not in attempt.uploads:
            return None
        for proposed in self._ways(number, survivors, asked, signers=[one.sender for one in signatures]):
            request = UnmaskRequest(proposed.proposal, (*signatures, *signatures, *proposed.made_up))
            step = self._committed(attempt.uploads[asked].state, request, asked)
            if step is not None:
                message = expect(UnmaskShares, step.message)
                shares = (*message.seed_shares, *message.masking_shares)
                return Release(number, asked, frozenset(attempt.dealers[released.share] for released in shares))
        return None

    def _made_up(self, upload: Upload, proposal: SurvivorProposal) -> Iterator[SurvivorSignature]:
        at, round_ctx = proposal.position, upload.state.record.round_ctx
        for name in self.everyone:
            actor = self._seen(upload, name)
            signed = proposal.survivors.signed_bytes(PROTOCOL_VERSION, at, name, round_ctx)
            forged = self._identity(actor).sign(signed) if self._controls(actor) else b"\0" * 64
            yield SurvivorSignature(at, name, forged)

    # --- what it learned ---

    def violated(self, releases: Iterable[Release]) -> bool:
        """Return whether the claim fails in a round, or the rounds together tell more than each by itself."""
        done = tuple(releases)
        rounds = [self.learned(done, of=number) for number in sorted({round_of(one) for one in self.attempts})]
        alone = any(violates(basis, least_honest=self.least_honest) for basis in rounds)
        return alone or len(self.learned(done)) > sum(map(len, rounds))

    def learned(self, releases: Iterable[Release], *, of: int | None = None) -> list[Sum]:
        """Return the basis of what the coordinator can compute about the honest updates, of one round or of all."""
        holders: dict[Secret, set[str]] = {}
        for release in releases:
            for secret in release.shares:
                holders.setdefault(secret, set()).add(release.holder)
        openers: dict[bytes, set[Secret]] = {}
        for attempt in self.attempts.values():
            for key, secrets in attempt.openers.items():
                openers.setdefault(key, set()).update(secrets)
        known = {key for key, secrets in openers.items() if any(self._knows(one, holders) for one in secrets)}
        attempts = [one for number, one in self.attempts.items() if of is None or round_of(number) == of]
        uploads = [one for attempt in attempts for one in attempt.uploads.values()]
        return learned([{what: value for what, value in one.row.items() if what[1] not in known} for one in uploads])

    def _knows(self, secret: Secret, holders: Mapping[Secret, set[str]]) -> bool:
        _, number, actor = secret
        shares = self.attempts[number].lost.get(actor, 0) + len(holders.get(secret, ()))
        return self._controls(actor) or shares >= self.plan.plan.share_threshold
