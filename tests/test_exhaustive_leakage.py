"""The claim, searched: no course of events gives a lying coordinator more than one sum, and each rule is needed."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from participant import checks as honest_checks
from participant import round as honest_code
from privacy.secagg import keys
from tests.span import (
    LyingCoordinator,
    View,
    explore,
    learned,
    may_release,
    representatives,
    views,
    violates,
)

LEAST_HONEST = 2  # min_survivors - f for n=4, f=1


@pytest.fixture(autouse=True)
def _remember_verifications(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process plays everybody: the same signature need not be verified twice."""
    monkeypatch.setattr(keys, "verify", lru_cache(maxsize=None)(keys.verify))


def without(*changes: tuple[str, str]) -> Any:
    """Return the participant's round with checks changed; each text must stand there exactly once."""
    source = Path(str(honest_checks.__file__)).read_text()
    for old, new in changes:
        assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in participant/checks.py"
        source = source.replace(old, new)
    checks = _module("participant.checks_with_a_rule_deleted", source)
    code = _module("participant.round_with_a_rule_deleted", Path(str(honest_code.__file__)).read_text())
    code.__dict__.update({name: value for name, value in vars(checks).items() if name.startswith("check_")})
    return code


def _module(name: str, source: str) -> types.ModuleType:
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, name, "exec"), module.__dict__)
    return module


def opened(view: View, code: Any = honest_code) -> LyingCoordinator:
    world = LyingCoordinator(4, 1, code=code)
    world.open(1, view)
    return world


def fruitful(code: Any, *, smallest: int) -> list[View]:
    """The views of an attempt in which anything can be released at all."""
    world = LyingCoordinator(4, 1, code=code)
    outcomes: dict[Any, View] = {}
    for (view,) in representatives(world, ((one,) for one in views(world, smallest=smallest))):
        after = opened(view, code)
        uploads = tuple(sorted((name, after.attempts[1].u2[name]) for name in after.attempts[1].receipts))
        if uploads and (view.u1, uploads) not in outcomes and may_release(after, 1):
            outcomes[view.u1, uploads] = view
    return list(outcomes.values())


def search(code: Any, *, smallest: int = 3, attempts: int = 2) -> Iterator[bool]:
    """Search single attempts, then pairs of interleaved attempts, up to renaming of the honest participants."""
    alone = fruitful(code, smallest=smallest)
    for view in alone:
        yield from explore(opened(view, code), least_honest=LEAST_HONEST)
    if attempts == 1:
        return
    world = LyingCoordinator(4, 1, code=code)
    told = [view for view in views(world, smallest=smallest) if len(view.u2) > 1]
    second = [view for view in told if may_release(opened(view, code), 1)]
    for first, later in representatives(world, ((one, other) for one in alone for other in second)):
        yield from explore(opened(first, code), later, least_honest=LEAST_HONEST)


def test_exhaustive_search_over_split_views_and_two_interleaved_attempts_finds_one_sum_or_nothing() -> None:
    outcomes = list(search(honest_code))
    assert len(outcomes) > 1000
    assert not any(outcomes)


def test_exhaustive_search_finds_a_leak_once_nothing_ties_the_survivors_to_one_u2() -> None:
    code = without(
        ("if proposal.survivors.u2_hash != record.receipt.u2_hash:", "if False:"),
        ("if one.u2_hash != own.u2_hash:", "if False:"),
        ("check_set(members, within=record.u2,", 'check_set(members, within=("alice", "bob", "carol", "dave"),'),
    )
    assert any(search(code, smallest=2, attempts=1))


def test_the_oracle_sees_one_update_in_the_difference_of_two_sums() -> None:
    rows = [
        {("update", "alice"): 1, ("update", "bob"): 1, ("self", 1, "alice"): 1},
        {("update", "alice"): 1, ("self", 1, "alice"): 1},
    ]
    assert violates(learned(rows), least_honest=2)
    assert not violates(learned(rows[:1]), least_honest=2)
    assert not violates(learned([{("update", "alice"): 1, ("update", "bob"): 1}]), least_honest=2)
    assert violates(learned([{("update", "alice"): 1, ("update", "bob"): 2}]), least_honest=2)
