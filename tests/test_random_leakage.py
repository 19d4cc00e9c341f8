"""The claim beyond what can be searched exhaustively: random liars, up to twelve participants, both suites."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from privacy.plan import default_survivors, least_survivors
from privacy.plan_parts import Mode
from privacy.secagg.graph_bounds import recommend
from privacy.secagg.messages import SurvivorSignature
from tests.worlds.edits import Instead, Refusal, edited
from tests.worlds.plans import make_plan
from tests.worlds.span import NEXT_ROUND, LyingCoordinator, Release, Shown, View, name_of
from tests.worlds.span_rows import Sum, recorded, violates

REGULAR = [(60, 1, 2), (60, 5, 3)]  # n, f, D
ROSTERS = [(3, 0), (3, 1), (4, 1), (5, 0), (5, 1), (6, 2), (7, 2), (8, 1), (10, 3), (12, 1), (12, 4)]  # n, f


@pytest.fixture(autouse=True)
def _recorded() -> Iterator[None]:
    with recorded():
        yield


def least_regular(n: int, f: int, dropouts: int, *, seed: str) -> LyingCoordinator:
    """Return a world whose plan names the graph that is recommended: the fewest neighbours and shares."""
    rules = make_plan(n, f)[0]
    neighbours, share_threshold = recommend(n, f, dropouts, rules.recipe.rounds, rules.max_attempts)
    graph = {
        "kind": "k-regular",
        "neighbours": neighbours,
        "share_threshold": share_threshold,
        "max_dropouts": dropouts,
    }
    return LyingCoordinator(n, f, seed=seed, min_survivors=n - dropouts, graph=graph)


@dataclass
class Liar:
    """A coordinator that lies at random, but not at each step, so that rounds come to an end."""

    seed: int
    graph: str = "complete"
    mode: Mode = "none"
    world: LyingCoordinator = field(init=False)
    lying: float = field(init=False)  # how often a participant is left out of a set
    signatures: dict[int, list[SurvivorSignature]] = field(default_factory=dict)
    releases: list[Release] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.lying = 0.2 if self.graph == "complete" else 0.01
        if self.graph == "k-regular":
            self.world = least_regular(*REGULAR[self.seed % len(REGULAR)], seed=str(self.seed))
            return
        n, f = self.random.choice(ROSTERS)
        survivors = self.random.choice([least_survivors(n, f), default_survivors(n, f)])
        suite = self.random.choice([1, 1, 1, 2])
        self.world = LyingCoordinator(n, f, seed=str(self.seed), suite=suite, min_survivors=survivors, mode=self.mode)

    def play(self) -> list[Sum]:
        """Open attempts and ask for signatures and releases, now in this one, now in that; return what was learned."""
        for number in range(1, self.random.randint(1, 3) + 1):
            self.world.open(number, self._view())
            for _ in range(2):
                self._ask(self.random.randint(1, number))
        return self.world.learned(self.releases)

    def void(self) -> None:
        """Tell most that the round is voided, open attempts at the next one, and go on in all that there are."""
        for name in self.world.honest:
            if self._honestly():
                self.world.void(name)
        for number in range(1, self.random.randint(1, 2) + 1):
            self.world.open(NEXT_ROUND + number, self._view())
            for _ in range(3):
                self._ask(self.random.choice(list(self.world.attempts)))

    def _view(self) -> View:
        whole = self._subset(self.world.everyone, share=0.5)
        u1 = tuple(name + "'" * (name in self.world.colluders and self.random.random() < 0.2) for name in whole)
        shown = []
        for name in self.world.honest:
            if name in u1 and self._honestly(0.25):
                mine = u1 if self._honestly(0.25) else self._subset(u1, with_=name)
                u2 = mine if self._honestly() else self._subset(mine, with_=name)
                shown.append(Shown(name, mine, tuple(map(name_of, u2))))
        return tuple(shown)

    def _honestly(self, share: float = 1.0) -> bool:
        return self.random.random() >= self.lying * share

    def _subset(self, members: Sequence[str], *, with_: str = "", share: float = 1.0) -> tuple[str, ...]:
        return tuple(sorted(member for member in members if member == with_ or self._honestly(share)))

    def _ask(self, number: int) -> None:
        """Propose a few sets, all in one order of asking: signatures of most, then releases of most."""
        attempt = self.world.attempts[number]
        there = sorted({*attempt.uploads, *self.world.colluders})
        sets = [tuple(there), *(self._subset(there) for _ in range(2)), self._subset(self.world.everyone)]
        asked = [(name, self.random.choice(sets[:3])) for name in attempt.uploads if self._honestly(0.5)]
        self.random.shuffle(asked)
        favourite = self.random.choice(sets)
        for name, survivors in asked:
            chosen = favourite if self._honestly() else survivors
            if chosen and (signature := self.world.sign(number, chosen, name)) is not None:
                self.signatures.setdefault(number, []).append(signature)
        for name, survivors in asked:
            for chosen in (favourite, survivors):
                signatures = self.signatures.get(number, [])
                if chosen and (release := self.world.release(number, chosen, name, signatures)) is not None:
                    self.releases.append(release)


def test_no_random_course_of_lies_reveals_more_than_one_sum() -> None:
    learned = 0
    for seed in range(150):
        liar = Liar(seed)
        basis = liar.play()
        assert not violates(basis, least_honest=liar.world.least_honest), f"seed {seed}"
        learned += bool(basis)
    assert learned > 20, "the liars must get as far as a sum often enough for this to mean anything"


def test_no_random_course_of_lies_reveals_more_than_one_sum_on_a_k_regular_graph() -> None:
    """Sixty participants on the least graphs that a plan may name: one component holds all honest survivors."""
    learned = 0
    for seed in range(6):
        liar = Liar(seed, "k-regular")
        basis = liar.play()
        assert not violates(basis, least_honest=liar.world.least_honest), f"seed {seed}"
        learned += bool(basis)
    assert learned


def test_no_random_course_of_lies_about_voided_rounds_reveals_more_than_one_sum_of_each() -> None:
    learned = 0
    for seed in range(60):
        liar = Liar(seed, mode="local")
        liar.play()
        liar.void()
        assert not liar.world.violated(liar.releases), f"seed {seed}"
        learned += bool(liar.world.learned(liar.releases, of=1)) and bool(liar.world.learned(liar.releases, of=2))
    assert learned, "a liar must get as far as a sum of both rounds for this to mean anything"


def test_random_lies_reveal_more_once_nothing_ties_the_survivors_to_one_u2() -> None:
    checks = (
        Refusal("} masked with another U2"),
        Instead("_check_members", "record.u2", "[one.id for one in participant.parameters.roster]"),
        Instead("check_dealers", "participant.parameters.min_survivors", "0"),
        Instead("check_dealers", "check_holders(participant, [*neighbours, participant.me], phase)", "None"),
    )
    with edited(*checks):
        liars = (Liar(seed) for seed in range(2000))
        assert any(violates(liar.play(), least_honest=liar.world.least_honest) for liar in liars)
