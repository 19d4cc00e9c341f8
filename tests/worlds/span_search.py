"""Courses of events that a lying coordinator can bring about: every view, every survivor set, every order that matters.

Actions of different honest participants commute, and signing before releasing is never worse for the coordinator; so
within an attempt all signatures come first, then all releases, each participant in turn. A second attempt may be opened
after any of that, for any part of the cohort; more of the first may follow. Views that differ only in the names of the
honest participants, or of a colluder's advertisements, are one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations, product
from typing import Any

from privacy.secagg.messages import SurvivorSignature
from tests.worlds.span import NEXT_ROUND, LyingCoordinator, Release, Shown, View, name_of
from tests.worlds.span_rows import violates

Survivors = tuple[str, ...]
Choice = tuple[int, Survivors]  # an attempt, and survivors to sign or to release along


# --- views ---


def views(world: LyingCoordinator, *, smallest: int, advertisements: int = 2) -> Iterator[View]:
    """Yield what can be shown in an attempt: to each honest participant its own U1 and U2, or nothing.

    Args:
        world: who takes part.
        smallest: the least size of U1 and U2 worth showing.
        advertisements: how many different ones each colluder makes.
    """
    each = [[None, *_shown_to(world, name, smallest, advertisements)] for name in world.honest]
    for chosen in product(*each):
        view = tuple(one for one in chosen if one is not None)
        if view:
            yield view


def _shown_to(world: LyingCoordinator, name: str, smallest: int, advertisements: int) -> Iterator[Shown]:
    others = [one for one in world.honest if one != name]
    said = [[None, *(colluder + "'" * mark for mark in range(advertisements))] for colluder in world.colluders]
    for peers in _subsets(others, 0):
        for colluding in product(*said):
            u1 = tuple(sorted((name, *peers, *(one for one in colluding if one is not None))))
            members = tuple(name_of(one) for one in u1)
            yield from (Shown(name, u1, u2) for u2 in _subsets(members, smallest) if name in u2)


def _subsets(members: Sequence[str], smallest: int) -> Iterator[tuple[str, ...]]:
    return (one for size in range(smallest, len(members) + 1) for one in combinations(members, size))


def uploads(world: LyingCoordinator, number: int) -> View:
    """Return what was shown to those who uploaded: all that matters of an attempt from then on."""
    return tuple(one.shown for _, one in sorted(world.attempts[number].uploads.items()))


def representative(world: LyingCoordinator, several: tuple[View, ...]) -> Any:
    """Return the same value for views that differ only in honest names and in the marks of advertisements."""
    return min(repr([_renamed(view, of) for view in several]) for of in _renamings(world))


def _renamings(world: LyingCoordinator) -> Iterator[dict[str, str]]:
    return (dict(zip(world.honest, order, strict=True)) for order in permutations(world.honest))


def _renamed(view: View, of: Mapping[str, str]) -> View:
    marks: dict[str, str] = {}

    def actor(one: str) -> str:
        if one in of:
            return of[one]
        return marks.setdefault(one, name_of(one) + "'" * len(marks))

    renamed = [
        replace(
            one,
            to=of[one.to],
            u1=tuple(sorted(map(actor, one.u1))),
            u2=tuple(sorted(of.get(name, name) for name in one.u2)),
        )
        for one in sorted(view, key=lambda one: of[one.to])
    ]
    return tuple(renamed)


# --- what participants would do ---


def survivor_sets(world: LyingCoordinator) -> list[Survivors]:
    """Return every set of participants."""
    return list(_subsets(world.everyone, 1))


def candidates(world: LyingCoordinator, number: int, sets: Sequence[Survivors]) -> dict[str, list[Choice]]:
    """Return, for each honest participant, the sets that it may sign or release along, were nothing committed yet."""
    world = world.fork()
    world.memories = {name: replace(one, signed=None, released=None) for name, one in world.memories.items()}
    found: dict[str, list[Choice]] = {name: [] for name in world.honest}
    for survivors in sets:
        signatures = {name: world.fork().sign(number, survivors, name) for name in world.attempts[number].uploads}
        quorum = [one for one in signatures.values() if one is not None]
        for name, signature in signatures.items():
            if signature is not None or world.fork().release(number, survivors, name, quorum) is not None:
                found[name].append((number, survivors))
    return found


def may_release(world: LyingCoordinator, number: int, sets: Sequence[Survivors]) -> bool:
    """Return whether any honest participant could release anything in this attempt."""
    choices = candidates(world, number, sets)
    for survivors in {of for mine in choices.values() for _, of in mine}:
        fork = world.fork()
        quorum = [one for peer in world.honest if (one := fork.sign(number, survivors, peer)) is not None]
        asked = (name for name, mine in choices.items() if (number, survivors) in mine)
        if any(fork.fork().release(number, survivors, name, quorum) is not None for name in asked):
            return True
    return False


# --- courses of events ---


@dataclass(frozen=True)
class Play:
    """A course of events so far: the world, signatures by choice, and releases."""

    world: LyingCoordinator
    signatures: tuple[tuple[Choice, SurvivorSignature], ...] = ()
    releases: frozenset[Release] = frozenset()

    def signing(self, name: str, choices: Sequence[Choice]) -> Iterator[Play]:
        """Yield the plays in which the participant signs sets that it is willing to sign, most first; then this one."""
        for index, choice in enumerate(choices):
            after = self.world.fork()
            signature = after.sign(*choice, name)
            if signature is not None:
                signed = Play(after, (*self.signatures, (choice, signature)), self.releases)
                yield from signed.signing(name, (*choices[:index], *choices[index + 1 :]))
        yield self

    def releasing(self, name: str, choices: Sequence[Choice], *, last: bool) -> Iterator[Play]:
        """Yield the plays in which the participant releases along sets for which it is willing to; then this one.

        ``last``: nothing can follow, so holding back a release that could be had is never better.
        """
        willing = False
        for index, choice in enumerate(choices):
            after = self.world.fork()
            number, survivors = choice
            quorum = [signature for (of, _), signature in self.signatures if of == number]
            release = after.release(number, survivors, name, quorum)
            if release is not None:
                willing = True
                released = Play(after, self.signatures, self.releases | {release})
                yield from released.releasing(name, (*choices[:index], *choices[index + 1 :]), last=last)
        if not (last and willing):
            yield self

    @property
    def key(self) -> Any:
        """What distinguishes this play from others that have come to the same point."""
        done = tuple((number, uploads(self.world, number)) for number in sorted(self.world.attempts))
        committed = tuple((one.signed, one.released) for one in self.world.memories.values())
        return frozenset((of, one.sender) for of, one in self.signatures), self.releases, done, committed


Step = Callable[[Play], Iterator[Play]]


def _steps(choices: Mapping[str, Sequence[Choice]], *, last: bool) -> list[Step]:
    """All signatures, then all releases, of each participant in turn."""

    def sign(name: str) -> Step:
        return lambda play: play.signing(name, choices[name])

    def release(name: str) -> Step:
        return lambda play: play.releasing(name, choices[name], last=last)

    return [*map(sign, choices), *map(release, choices)]


def _courses(play: Play, steps: Sequence[Step], seen: set[Any]) -> Iterator[Play]:
    """Yield the ends of all courses of these steps, depth first; ``seen`` has the points that need no second visit."""
    if not steps:
        yield play
        return
    for after in steps[0](play):
        point = (len(steps), after.key)
        if point not in seen:
            seen.add(point)
            yield from _courses(after, steps[1:], seen)


def explore(world: LyingCoordinator, sets: Sequence[Survivors], second: View | None = None) -> Iterator[bool]:
    """Yield, for every different outcome of an opened attempt in which anything was released, whether it violates.

    Args:
        world: with attempt 1 opened.
        sets: the survivors that are proposed.
        second: attempt 2 is opened under this view after any signatures and releases in the first.
    """
    first = candidates(world, 1, sets)
    ends = _courses(Play(world), _steps(first, last=second is None), set())
    if second is not None:
        ends = _continued(ends, first, second, sets)
    found = set()
    for play in ends:
        if play.releases and play.releases not in found:
            found.add(play.releases)
            yield violates(play.world.learned(play.releases), least_honest=world.least_honest)


def _continued(
    plays: Iterable[Play], first: Mapping[str, list[Choice]], second: View, sets: Sequence[Survivors]
) -> Iterator[Play]:
    """Open the second attempt in each play in which it can lead to a release, and let both attempts go on."""
    choices: dict[View, Mapping[str, list[Choice]]] = {}
    seen: set[Any] = set()
    for play in plays:
        after = play.world.fork()
        after.open(2, second)
        uploaded = uploads(after, 2)
        if uploaded not in choices:
            later = candidates(after, 2, sets) if may_release(after, 2, sets) else {}
            choices[uploaded] = {name: [*first[name], *mine] for name, mine in later.items()}
        both = Play(after, play.signatures, play.releases)
        yield from _courses(both, _steps(choices[uploaded], last=True), seen)


def explore_voided(world: LyingCoordinator, sets: Sequence[Survivors]) -> Iterator[bool]:
    """Yield whether each outcome violates, where some are told that round 1 is voided after anything in its attempt.

    Those go on, with the colluders, in an attempt at round 2; all that can be had of either attempt is asked for.
    """
    first, number = candidates(world, 1, sets), NEXT_ROUND + 1
    later: dict[View, Mapping[str, list[Choice]]] = {}
    seen: set[Any] = set()
    found: set[Any] = set()
    for play, told in product(_courses(Play(world), _steps(first, last=False), set()), _subsets(world.honest, 1)):
        after, together = play.world.fork(), tuple(sorted((*told, *world.colluders)))
        for name in told:
            after.void(name)
        after.open(number, tuple(Shown(name, together, together) for name in told))
        uploaded = uploads(after, number)
        if uploaded not in later:
            later[uploaded] = candidates(after, number, sets) if may_release(after, number, sets) else {}
        choices = {name: [*mine, *later[uploaded].get(name, [])] for name, mine in first.items()}
        both = Play(after, play.signatures, play.releases)
        for end in _courses(both, _steps(choices, last=True), seen):
            if (end.releases, uploaded) not in found:
                found.add((end.releases, uploaded))
                yield end.world.violated(end.releases)


# --- whole searches ---


@dataclass(frozen=True)
class Space:
    """What is searched: a roster, what is shown in one attempt or two, and which survivors are proposed."""

    n: int
    f: int
    first: Sequence[View]
    second: Sequence[View] = ()
    sets: Sequence[Survivors] = ()
    min_survivors: int = 0  # of the plan; 0: as many as plans have by default

    def world(self) -> LyingCoordinator:
        """Return a world in which nothing has happened."""
        overrides: dict[str, Any] = {"min_survivors": self.min_survivors} if self.min_survivors else {}
        return LyingCoordinator(self.n, self.f, **overrides)

    def outcomes(self) -> Iterator[bool]:
        """Yield whether each outcome violates the claim: single attempts first, then pairs of attempts."""
        empty = self.world()
        sets = self.sets or survivor_sets(empty)
        alone = self._fruitful(empty, self.first, sets)
        for world in alone:
            yield from explore(world, sets)
        later = {
            _renamed(uploads(one, 1), of)
            for one in self._fruitful(empty, self.second, sets)
            for of in _renamings(empty)
        }
        seen = set()
        for world, second in product(alone, sorted(later, key=repr)):
            key = representative(world, (uploads(world, 1), second))
            if key not in seen:
                seen.add(key)
                yield from explore(world, sets, second)

    @staticmethod
    def _fruitful(empty: LyingCoordinator, shown: Sequence[View], sets: Sequence[Survivors]) -> list[LyingCoordinator]:
        """Open an attempt under each view; keep those in which anything can be released, one of each outcome."""
        found: dict[Any, LyingCoordinator] = {}
        tried = set()
        for view in shown:
            if (likeness := representative(empty, (view,))) in tried:
                continue
            tried.add(likeness)
            world = empty.fork()
            world.open(1, view)
            outcome = representative(world, (uploads(world, 1),))
            if outcome not in found and world.attempts[1].uploads and may_release(world, 1, sets):
                found[outcome] = world
        return list(found.values())
