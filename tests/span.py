"""The span oracle: what a lying coordinator could compute from all that it holds.

Everything it holds is written as linear rows over unknown updates, self masks and pairwise masks; the masks are
row-reduced away; the rows left over the updates are what it learned. The claim of docs/protocol.md section 1 is that
they are one sum over enough honest survivors, or nothing. Messages pass through the real participant machines; the
colluder's are made here with its own keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, permutations, product
from typing import Any

import numpy as np

from participant import round as honest_code
from participant.phase import RunMemory, UpdateEncoded
from privacy.errors import PeerError
from privacy.secagg import messages
from privacy.secagg.messages import (
    AttemptOffer,
    DealtShare,
    MerkleTree,
    Position,
    Receipt,
    SurvivorProposal,
    SurvivorSignature,
    UnmaskRequest,
)
from tests.federation import ADAPTER_HASH, SeededSource
from tests.plans import make_plan, names, signing_key, verified

FIELD = (1 << 61) - 1  # rows are reduced modulo a prime large enough that no small integer relation is lost

Row = dict[tuple[Any, ...], int]  # unknown -> coefficient


def learned(rows: Sequence[Row]) -> list[dict[str, int]]:
    """Return a basis of the combinations of rows in which no mask is left, as coefficients of updates."""
    masks = sorted({unknown for row in rows for unknown in row if unknown[0] != "update"}, key=repr)
    pending = [dict(row) for row in rows]
    for mask in masks:
        pivot = next((row for row in pending if row.get(mask, 0)), None)
        if pivot is None:
            continue
        pending.remove(pivot)
        inverse = pow(pivot[mask], -1, FIELD)
        for row in pending:
            factor = row.get(mask, 0) * inverse % FIELD
            if factor:
                for unknown, value in pivot.items():
                    row[unknown] = (row.get(unknown, 0) - factor * value) % FIELD
    over_updates = [{unknown[1]: value for unknown, value in row.items() if value} for row in pending]
    return _independent([row for row in over_updates if row])


def _independent(rows: list[dict[str, int]]) -> list[dict[str, int]]:
    basis: list[dict[str, int]] = []
    for row in rows:
        rest = dict(row)
        for known in basis:
            lead = min(known)
            factor = rest.get(lead, 0) * pow(known[lead], -1, FIELD) % FIELD
            rest = {
                name: value
                for name in {*rest, *known}
                if (value := (rest.get(name, 0) - factor * known.get(name, 0)) % FIELD)
            }
        if rest:
            basis.append(rest)
    return basis


def violates(basis: Sequence[Mapping[str, int]], *, least_honest: int) -> bool:
    """Say whether this is more than one sum, with equal coefficients, over at least so many honest participants."""
    if not basis:
        return False
    (first, *others) = basis
    return bool(others) or len(first) < least_honest or len(set(first.values())) != 1


@dataclass(frozen=True)
class View:
    """What the coordinator shows in one attempt: who is in U1, and which U2 each honest participant is dealt."""

    u1: tuple[str, ...]
    u2: tuple[tuple[str, tuple[str, ...]], ...]  # of those who are told; nobody else goes on


@dataclass
class Attempt:
    """An attempt after its masked uploads: honest states, and what the coordinator can quote from it."""

    number: int
    position: Position
    round_ctx: bytes
    u2: dict[str, tuple[str, ...]]
    states: dict[str, Any] = field(default_factory=dict)
    receipts: dict[str, Receipt] = field(default_factory=dict)

    def rows(self, honest: Iterable[str]) -> list[Row]:
        """Each honest upload as a row: update, self mask, and a signed pairwise mask a peer."""
        rows: list[Row] = []
        for name in honest:
            if name not in self.receipts:
                continue
            row: Row = {("update", name): 1, ("self", self.number, name): 1}
            for peer in self.u2[name]:
                if peer != name:
                    pair = tuple(sorted((name, peer)))
                    row["pair", self.number, *pair] = 1 if name < peer else -1
            rows.append(row)
        return rows


@dataclass(frozen=True)
class Release:
    """An honest holder's release in an attempt."""

    attempt: int
    holder: str
    seeds: frozenset[str]
    masking: frozenset[str]


class LyingCoordinator:
    """A coordinator with ``f`` colluders that shows honest participants whatever it likes, through the real code."""

    def __init__(self, n: int, f: int, *, code: Any = honest_code, seed: str = "span") -> None:
        plan, self.keys = make_plan(n=n, f=f, entries=max(12, n))
        self.plan, self.code, self.f = verified(plan), code, f
        everyone = names(n)
        self.honest, self.colluders = everyone[: n - f], everyone[n - f :]
        self.parties = {name: code.Party(self.plan, name, self.keys[name]) for name in everyone}
        self.memories = {name: RunMemory.empty(self.plan.hash) for name in self.honest}
        self.attempts: dict[int, Attempt] = {}
        self.seed = seed

    @property
    def rules(self) -> Any:
        """The plan."""
        return self.plan.plan

    def fork(self) -> LyingCoordinator:
        """Return an independent copy; states and memories are immutable."""
        copy = object.__new__(LyingCoordinator)
        copy.__dict__.update(self.__dict__)
        copy.memories = dict(self.memories)
        copy.attempts = {
            number: replace(one, states=dict(one.states), receipts=dict(one.receipts))
            for number, one in self.attempts.items()
        }
        return copy

    # --- an attempt up to the uploads ---

    def open(self, number: int, view: View) -> None:
        """Run an attempt to the uploads under a view; who refuses anything uploads nothing."""
        at = Position(self.plan.hash, 1, number)
        offer = AttemptOffer(at, messages.genesis_transcript(self.plan.hash), ADAPTER_HASH)
        source = SeededSource(f"{self.seed}/{number}")
        advertised = self._advertise(offer, view.u1, source)
        u1 = tuple(advertised[name].own for name in view.u1 if name in advertised)
        attempt = Attempt(number, at, messages.round_context(offer, u1), dict(view.u2))
        self.attempts[number] = attempt
        dealt = self._deal(advertised, u1, source, told={*dict(view.u2), *self.colluders})
        for name, u2 in view.u2:
            if name in dealt:
                self._mask(attempt, name, u2, dealt, offer)

    def _advertise(self, offer: AttemptOffer, u1: Sequence[str], source: SeededSource) -> dict[str, Any]:
        advertised: dict[str, Any] = {}
        for name in u1:
            memory = self.memories.get(name, RunMemory.empty(self.plan.hash))
            try:
                step = self.code.advertise(self.parties[name], offer, memory, source)
            except PeerError:
                continue
            if name in self.memories:
                self.memories[name] = memory.apply(step.record)
            advertised[name] = step.state
        return advertised

    def _deal(
        self, advertised: dict[str, Any], u1: Any, source: SeededSource, *, told: set[str]
    ) -> dict[str, tuple[Any, Any]]:
        dealt: dict[str, tuple[Any, Any]] = {}
        for name, state in advertised.items():
            if name in told:
                try:
                    step = state.on_advertisements(u1, source)
                except PeerError:
                    continue
                dealt[name] = (step.state, step.message)
        return dealt

    def _mask(self, attempt: Attempt, name: str, u2: Sequence[str], dealt: dict[str, Any], offer: AttemptOffer) -> None:
        shared = dealt[name][0]
        passed = tuple(self._dealt_share(dealt[peer][1], name) for peer in u2 if peer != name and peer in dealt)
        try:
            ready = shared.on_shares(passed).state
        except PeerError:
            return
        step, _ = ready.mask(np.zeros(self.rules.recipe.entries, dtype=np.int64))
        encoded = UpdateEncoded(1, b"\0" * 32, offer.adapter_hash, offer.previous_transcript)
        self.memories[name] = self.memories[name].apply(encoded).apply(step.record)
        attempt.u2[name] = ready.u2
        attempt.states[name] = step.state
        attempt.receipts[name] = step.message

    @staticmethod
    def _dealt_share(bundle: Any, holder: str) -> DealtShare:
        recipients = [leaf.recipient for leaf in bundle.leaves]
        index = recipients.index(holder)
        tree = MerkleTree.over([leaf.hash for leaf in bundle.leaves])
        return DealtShare(
            position=bundle.position,
            dealer=bundle.sender,
            leaf=bundle.leaves[index],
            proof=tree.proof(index),
            sealed=bundle.sealed[index],
            root=tree.root,
            seed_commitment=bundle.seed_commitment,
            signature=bundle.signature,
        )

    # --- survivors ---

    def proposal(self, attempt: Attempt, survivors: Sequence[str], asked: str) -> SurvivorProposal | None:
        """Return S as receipts: honest ones as signed, colluders' signed to suit the one asked."""
        if asked not in attempt.receipts:
            return None
        receipts = []
        for name in survivors:
            if name in self.colluders:
                own = attempt.receipts[asked]
                lie = replace(own, sender=name, masked_hash=b"\7" * 32)
                signature = signing_key(name).sign(lie.signed_bytes(1, attempt.round_ctx))
                receipts.append(replace(lie, signature=signature))
            elif name in attempt.receipts:
                receipts.append(attempt.receipts[name])
            else:
                return None
        return SurvivorProposal(attempt.position, tuple(receipts))

    def sign(self, number: int, survivors: Sequence[str], asked: str) -> SurvivorSignature | None:
        """Ask an honest participant to sign S; return its signature, or ``None`` if it refuses."""
        attempt = self.attempts[number]
        proposal = self.proposal(attempt, survivors, asked)
        if proposal is None or asked not in attempt.states:
            return None
        try:
            step = attempt.states[asked].on_survivors(proposal, self.memories[asked])
        except PeerError:
            return None
        if step.record is not None:
            self.memories[asked] = self.memories[asked].apply(step.record)
        signature: SurvivorSignature = step.message
        return signature

    def release(
        self, number: int, survivors: Sequence[str], asked: str, signatures: Sequence[SurvivorSignature]
    ) -> Release | None:
        """Ask an honest participant to release along S, with all signatures there are and the colluders' own."""
        attempt = self.attempts[number]
        proposal = self.proposal(attempt, survivors, asked)
        if proposal is None or asked not in attempt.states:
            return None
        own = [self._colluding_signature(proposal, name, attempt) for name in self.colluders]
        try:
            step = attempt.states[asked].on_unmask(UnmaskRequest(proposal, (*signatures, *own)), self.memories[asked])
        except PeerError:
            return None
        if step.record is not None:
            self.memories[asked] = self.memories[asked].apply(step.record)
        return Release(
            number,
            asked,
            frozenset(one.owner for one in step.message.seed_shares),
            frozenset(one.owner for one in step.message.masking_shares),
        )

    def _colluding_signature(self, proposal: SurvivorProposal, name: str, attempt: Attempt) -> SurvivorSignature:
        signed = proposal.survivors.signed_bytes(1, attempt.position, name, attempt.round_ctx)
        return SurvivorSignature(attempt.position, name, signing_key(name).sign(signed))

    # --- what it learned ---

    def learned(self, releases: Iterable[Release]) -> list[dict[str, int]]:
        """Return the basis of what the coordinator can compute about the honest updates."""
        known = self._known_masks(list(releases))
        rows = [
            {unknown: value for unknown, value in row.items() if unknown not in known}
            for attempt in self.attempts.values()
            for row in attempt.rows(self.honest)
        ]
        return learned(rows)

    def _known_masks(self, releases: Sequence[Release]) -> set[tuple[Any, ...]]:
        needed = self.rules.shamir_threshold - self.f  # the colluders hold a share of everything
        known: set[tuple[Any, ...]] = set()
        for number in self.attempts:
            mine = [one for one in releases if one.attempt == number]
            for owner in (*self.honest, *self.colluders):
                if owner in self.colluders or sum(owner in one.masking for one in mine) >= needed:
                    known |= {
                        ("pair", number, *sorted((owner, peer)))
                        for peer in (*self.honest, *self.colluders)
                        if peer != owner
                    }
                if sum(owner in one.seeds for one in mine) >= needed:
                    known.add(("self", number, owner))
        return known


Choice = tuple[int, tuple[str, ...]]  # an attempt and a survivor set


def candidates(world: LyingCoordinator, number: int) -> dict[str, list[Choice]]:
    """Return, for each honest participant, the sets that it may sign or release along, were nothing committed yet."""
    world = world.fork()
    world.memories = {name: replace(one, signed=None, released=None) for name, one in world.memories.items()}
    everyone = (*world.honest, *world.colluders)
    sets = [one for size in range(1, len(everyone) + 1) for one in combinations(everyone, size)]
    found: dict[str, list[Choice]] = {name: [] for name in world.honest}
    for survivors in sets:
        signatures = {name: world.fork().sign(number, survivors, name) for name in world.attempts[number].states}
        quorum = [one for one in signatures.values() if one is not None]
        for name, signature in signatures.items():
            if signature is not None or world.fork().release(number, survivors, name, quorum) is not None:
                found[name].append((number, survivors))
    return found


def may_release(world: LyingCoordinator, number: int) -> bool:
    """Say whether any honest participant could release anything in this attempt."""
    for name, choices in candidates(world, number).items():
        for _, survivors in choices:
            fork = world.fork()
            quorum = [one for peer in world.honest if (one := fork.sign(number, survivors, peer)) is not None]
            if fork.release(number, survivors, name, quorum) is not None:
                return True
    return False


@dataclass(frozen=True)
class Play:
    """A course of events so far: the world, signatures by choice, and releases."""

    world: LyingCoordinator
    signatures: tuple[tuple[Choice, SurvivorSignature], ...] = ()
    releases: frozenset[Release] = frozenset()

    def signing(self, name: str, choices: Iterable[Choice]) -> Iterator[Play]:
        """Yield this play, and one in which the participant signs each set that it is willing to sign."""
        yield self
        for choice in choices:
            after = self.world.fork()
            signature = after.sign(*choice, name)
            if signature is not None:
                yield Play(after, (*self.signatures, (choice, signature)), self.releases)

    def releasing(self, name: str, choices: Iterable[Choice], *, last: bool) -> Iterator[Play]:
        """Yield a play in which the participant releases along each set for which it is willing to, and this play.

        ``last``: nothing can follow, so holding back a release that could be had is never better.
        """
        willing = False
        for choice in choices:
            after = self.world.fork()
            quorum = [signature for of, signature in self.signatures if of == choice]
            release = after.release(*choice, name, quorum)
            if release is not None:
                willing = True
                yield Play(after, self.signatures, self.releases | {release})
        if not (last and willing):
            yield self

    @property
    def key(self) -> tuple[Any, ...]:
        """What distinguishes this play from others that have come to the same point."""
        uploads = tuple((at, name) for at, one in sorted(self.world.attempts.items()) for name in sorted(one.receipts))
        return frozenset((of, one.sender) for of, one in self.signatures), self.releases, uploads


def _distinct(plays: Iterable[Play]) -> list[Play]:
    return list({play.key: play for play in plays}.values())


def _stage(plays: list[Play], choices: Mapping[str, list[Choice]], *, last: bool) -> list[Play]:
    """All signatures, then all releases, of each participant in turn.

    Actions of different participants commute, and signing before releasing is never worse for the coordinator, so
    this order loses nothing.
    """
    for name, mine in choices.items():
        plays = _distinct(after for play in plays for after in play.signing(name, mine))
    for name, mine in choices.items():
        plays = _distinct(after for play in plays for after in play.releasing(name, mine, last=last))
    return plays


def explore(world: LyingCoordinator, second: View | None = None, *, least_honest: int) -> Iterator[bool]:
    """Yield, for each course of events, whether what is learned violates the claim.

    Args:
        world: after its first attempt's uploads.
        second: the view of a second attempt, opened after any signatures and releases in the first; more of the
            first may follow.
        least_honest: how many honest participants a revealed sum must span.
    """
    first = candidates(world, 1)
    ends = _stage([Play(world)], first, last=second is None)
    if second is not None:
        ends = _continued(ends, first, second)
    for releases, play in {play.releases: play for play in ends if play.releases}.items():
        yield violates(play.world.learned(releases), least_honest=least_honest)


def _continued(plays: list[Play], first: Mapping[str, list[Choice]], second: View) -> list[Play]:
    """Open the second attempt in each play in which it can lead to a release, and let both attempts go on."""
    pools: dict[tuple[str, ...], list[Play]] = {}
    choices: dict[tuple[str, ...], Mapping[str, list[Choice]]] = {}
    for play in plays:
        after = play.world.fork()
        after.open(2, second)
        uploaded = tuple(sorted(after.attempts[2].receipts))
        if uploaded not in choices:
            later = candidates(after, 2) if may_release(after, 2) else {}
            choices[uploaded] = {name: [*first[name], *mine] for name, mine in later.items()}
        pools.setdefault(uploaded, []).append(Play(after, play.signatures, play.releases))
    return [end for uploaded, pool in pools.items() for end in _stage(pool, choices[uploaded], last=True)]


def views(world: LyingCoordinator, *, smallest: int) -> Iterator[View]:
    """Yield the views of an attempt: every U1, and per honest member of it every U2 from ``smallest`` on, or none."""
    everyone = (*world.honest, *world.colluders)
    for size in range(smallest, len(everyone) + 1):
        for u1 in combinations(everyone, size):
            honest = [name for name in u1 if name in world.honest]
            options = [
                [None, *(u2 for k in range(smallest, len(u1) + 1) for u2 in combinations(u1, k) if name in u2)]
                for name in honest
            ]
            for choice in product(*options):
                told = tuple((name, u2) for name, u2 in zip(honest, choice, strict=True) if u2 is not None)
                if told:
                    yield View(u1, told)


def _renamed(view: View, names_of: Mapping[str, str]) -> View:
    def each(members: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(names_of.get(name, name) for name in members))

    return View(each(view.u1), tuple(sorted((names_of.get(name, name), each(u2)) for name, u2 in view.u2)))


def representatives(world: LyingCoordinator, several: Iterable[tuple[View, ...]]) -> list[tuple[View, ...]]:
    """Return one of each class of views that differ only in the honest participants' names."""
    renamings = [dict(zip(world.honest, order, strict=True)) for order in permutations(world.honest)]
    found: dict[Any, tuple[View, ...]] = {}
    for one in several:
        found.setdefault(min(repr([_renamed(view, names_of) for view in one]) for names_of in renamings), one)
    return list(found.values())
