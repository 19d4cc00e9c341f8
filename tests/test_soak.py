"""A short soak; ``make soak MINUTES=10`` is a long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak import GROWTH_MIB, WARM_SECONDS, Figures, Soak, Watched


@pytest.mark.slow
def test_daemons_that_are_killed_and_cut_every_few_seconds_count_everybody_once(tmp_path: Path) -> None:
    soak = Soak(tmp_path, seed=3)
    with soak.running():
        figures = soak.run(20, every=6)
    assert not figures.bad, str(figures)
    assert figures.kills + figures.cuts >= 2


@pytest.mark.parametrize(
    "figures",
    [
        Figures(rounds=1, wrong_sums=1),
        Figures(rounds=1, double_counts=1),
        Figures(rounds=1, hung=1),
        Figures(rounds=1, grew=["coordinator grew by 99 MiB and 0 descriptors"]),
        Figures(rounds=0),
    ],
    ids=str,
)
def test_a_soak_is_bad_if_anything_is_wrong_or_nothing_was_done(figures: Figures) -> None:
    assert figures.bad
    assert not Figures(rounds=1).bad


@pytest.mark.parametrize(
    ("memory", "descriptors", "grew"), [(GROWTH_MIB + 1, 0, True), (0, 100, True), (1.0, 2, False)]
)
def test_a_process_that_grows_is_named(memory: float, descriptors: int, grew: bool) -> None:
    watched = Watched("coordinator", process=None, since=-WARM_SECONDS)  # type: ignore[arg-type]  # it is not looked at
    watched.first, watched.last = (50.0, 20), (50.0 + memory, 20 + descriptors)
    assert bool(watched.grew) is grew
