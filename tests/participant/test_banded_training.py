"""A trainer whose noise is correlated over rounds: which units have their turn, and what leaves it in each round."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from methods.vectors import joined
from participant.training.adapters.adapted import read_initial
from participant.training.torch_trainer import TorchTrainer
from privacy.dp import sampling
from privacy.dp.fast_noise import discrete_gaussian
from privacy.interfaces import RandomSource
from tests.worlds.seeded import SeededRandom
from tests.worlds.torch_world import ROWS, World, make_world

pytestmark = pytest.mark.torch

BANDS = 3


def silent(done: int, of: int) -> None:
    assert 0 < done <= of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("banded"), mode="distributed", bands=BANDS, sampling_rate=0.3)


def start(world: World) -> NDArray[np.float32]:
    return joined(world.plan.recipe, read_initial(world.initial, world.plan.recipe.adapter))


class Watching(TorchTrainer):
    """Keeps which rows each round drew."""

    drawn: list[set[int]]

    def _batch(self) -> list[NDArray[np.int64]]:
        batch = super()._batch()
        self.drawn.append({int(row) for unit in batch for row in unit})
        return batch


def watching(world: World, random: RandomSource) -> Watching:
    trainer = world.trainer(random)
    trainer.__class__ = Watching
    assert isinstance(trainer, Watching)
    trainer.drawn = []
    return trainer


def test_what_leaves_is_every_sum_times_its_band_and_fresh_noise(world: World) -> None:
    prepared, plan = world.trainer(SeededRandom("coins")), world.plan
    me, bands, kept = plan.roster[0].id, plan.privacy.bands, list[tuple[int, NDArray[np.int64]]]()
    for number in (1, 2, 3):
        again, source = SeededRandom(f"round {number}"), SeededRandom(f"round {number}")
        trainer = prepared.of_participant(me, np.arange(ROWS), source)
        trainer.earlier = iter(kept)
        update = trainer.train(number, start(world), silent)
        noise = discrete_gaussian(plan.recipe.entries, plan.privacy.variance_exponent, again)
        assert trainer.summed is not None
        assert trainer.summed.any()
        assert np.abs(trainer.summed).max() <= plan.encoding.clamp
        wanted = sum(bands[number - at] * one for at, one in [*kept, (number, trainer.summed)])
        assert np.array_equal(update - noise, wanted)
        kept.append((number, trainer.summed))


def test_each_unit_has_its_turn_in_every_third_round_alone_also_after_a_restart(world: World) -> None:
    turns: dict[int, set[int]] = {}
    for life in range(4):
        trainer = watching(world, SeededRandom(f"life {life}"))
        for number in range(1, 10):
            trainer.train(number, start(world), silent)
        for number, rows in enumerate(trainer.drawn, start=1):
            for row in rows:
                turns.setdefault(row, set()).add(number % BANDS)
    assert turns.keys() == set(range(ROWS))
    assert {len(bins) for bins in turns.values()} == {1}
    sizes = [sum(bins == {one} for bins in turns.values()) for one in range(BANDS)]
    assert max(sizes) - min(sizes) <= 1


def test_units_are_drawn_at_the_rate_of_their_bin(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str]] = []

    def sample(units: int, rate: str, random: RandomSource) -> NDArray[np.int64]:
        asked.append((units, rate))
        return sampling.poisson_sample(units, rate, random)

    monkeypatch.setattr("participant.training.torch_trainer.poisson_sample", sample)
    trainer = world.trainer(SeededRandom("coins"))
    trainer.train(1, start(world), silent)
    assert asked == [(ROWS // BANDS, "0.9")]


@pytest.mark.parametrize(("units", "bins"), [(24, 3), (25, 3), (2, 3), (0, 2), (100, 8)])
def test_units_are_dealt_evenly_and_by_plan_and_participant_alone(units: int, bins: int) -> None:
    first, again, other = (sampling.dealt(units, bins, seed) for seed in (b"a", b"a", b"b"))
    assert sorted(int(unit) for one in first for unit in one) == list(range(units))
    assert max(map(len, first)) - min(map(len, first)) <= 1
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    if units > 20:
        assert any(not np.array_equal(one, two) for one, two in zip(first, other, strict=True))


def test_a_single_bin_has_all_units() -> None:
    assert [one.tolist() for one in sampling.dealt(4, 1, b"any")] == [[0, 1, 2, 3]]
