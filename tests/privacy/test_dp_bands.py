"""Correlated noise: the claim of section 11 against exact divergences, planted faults against the same, and figures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from privacy.dp import bands, rdp
from privacy.dp.accountants import any_group_of_two, cross_checked, epsilon, group_of_two
from privacy.dp.calibration import best_bands, needed_multiplier
from privacy.dp.events import Composed, Gaussian, PoissonSampled, band_norm, derived_multiplier
from privacy.draft import PrivacyTarget
from tests.worlds.accountant import tilted

Wide = NDArray[np.float64]

EXPONENT, SENSITIVITY, BANDS, RATE = 6, 5, (3, 2), 0.4  # sigma_i = 8; a bin's rate, so q = 0.2
REACH = 96  # of a sum: 9 standard deviations and two shifts
DELTAS = (1e-2, 1e-3, 1e-4)
SUM = np.arange(-REACH, REACH + 1, dtype=np.float64)


def spec(count: int, rate: str = "0.05", target: str = "8", **more: Any) -> PrivacyTarget:
    """Return a target in mode distributed with bands for a hundred rounds."""
    return PrivacyTarget.model_validate(
        {
            "mode": "distributed",
            "unit": "example",
            "epsilon": target,
            "delta": "0.00001",
            "sampling_rate": rate,
            "local_steps": 1,
            "clip_norm": "1",
            "update_bound": "8",
            "bands": bands.chosen(count, 100),
            **more,
        }
    )


def noise(at: Wide) -> Wide:
    """Return the probabilities of the discrete Gaussian at some places."""
    weights = np.exp(-(np.arange(-200, 201) ** 2) / 2.0 ** (EXPONENT + 1))
    return np.asarray(np.exp(-(at**2) / 2.0 ** (EXPONENT + 1)) / weights.sum())


class Adversary:
    """Three rounds, one entry: the coordinator's choices, as functions of the sums that it has seen.

    What is summed without the unit (``base``), the unit's own vector, and whether its participant is in a round's sum,
    may each follow from the sums before.
    """

    def base(self, seen: tuple[Wide, ...]) -> Wide | float:
        """Return what the others add up to, kept sums among them."""
        return 0.0 if len(seen) < 2 else np.rint(seen[1] / 4)  # an iterate that followed from a noisy sum

    def vector(self, seen: tuple[Wide, ...]) -> Wide | float:
        """Return what the unit adds if it is drawn: of norm D at most."""
        return float(SENSITIVITY) if not seen else SENSITIVITY * np.where(sum(seen) > 0, 1.0, -1.0)

    def survives(self, seen: tuple[Wide, ...]) -> Wide | float:
        """Return 1.0 where the participant is in the sum."""
        return 1.0


class Dropper(Adversary):
    """Declares the participant dropped where the first sum looked as if the unit was not in it."""

    def survives(self, seen: tuple[Wide, ...]) -> Wide | float:
        return 1.0 if len(seen) != 1 else (seen[0] > 4).astype(np.float64)


def density(adversary: Adversary, drawn: dict[int, int]) -> Wide:
    """Return the probability of every three sums, given in which rounds (from 0) the unit is drawn: 1 or 0."""
    seen = tuple(np.meshgrid(SUM, SUM, SUM, indexing="ij", sparse=True))
    total: Wide | float = 1.0
    kept: dict[int, Wide | float] = {}
    for number in range(3):
        before = seen[:number]
        own = adversary.vector(before) * drawn.get(number, 0)
        here = adversary.survives(before)
        shift = sum(
            (band * (own if back == 0 else kept.get(number - back, 0.0)) for back, band in enumerate(BANDS)), start=0.0
        )
        total = total * noise(seen[number] - adversary.base(before) - here * shift)
        kept[number] = own * here
    return np.asarray(total)


def mixture(adversary: Adversary, starts: tuple[int, ...]) -> Wide:
    """Return the probability of every three sums with the unit, which is drawn in each of some rounds by a coin."""
    whole: Wide | float = 0.0
    for coins in itertools.product((0, 1), repeat=len(starts)):
        chance = math.prod(RATE if coin else 1 - RATE for coin in coins)
        whole = whole + chance * density(adversary, dict(zip(starts, coins, strict=True)))
    return np.asarray(whole)


def divergence(first: Wide, second: Wide, value: float) -> float:
    return max(float(np.maximum(a - math.exp(value) * b, 0).sum()) for a, b in ((first, second), (second, first)))


def event(chosen: tuple[int, ...] = BANDS) -> PoissonSampled:
    return PoissonSampled(RATE, Gaussian(derived_multiplier(EXPONENT, SENSITIVITY, 1, chosen)))


BINS = {"drawn in rounds 1 and 3": (0, 2), "drawn in round 2": (1,)}


@pytest.mark.parametrize("adversary", [Adversary(), Dropper()], ids=["adaptive", "adaptive, and drops"])
@pytest.mark.parametrize("starts", BINS.values(), ids=BINS.keys())
def test_no_exact_divergence_of_an_adaptive_run_exceeds_the_claim(
    adversary: Adversary, starts: tuple[int, ...]
) -> None:
    without, with_unit = density(adversary, {}), mixture(adversary, starts)
    assert without.sum() == pytest.approx(1, abs=1e-9)
    assert with_unit.sum() == pytest.approx(1, abs=1e-9)
    for delta in DELTAS:
        assert divergence(with_unit, without, epsilon(Composed(event(), 2), delta)) <= delta


def test_but_for_the_nine_of_the_lemma_the_claim_is_met_where_the_coordinator_adapts_to_the_full() -> None:
    without, with_unit = density(Adversary(), {}), mixture(Adversary(), (1,))
    tight = PoissonSampled(RATE, Gaussian(8 / (math.hypot(*BANDS) * SENSITIVITY)))
    assert divergence(with_unit, without, epsilon(tight, 1e-3)) == pytest.approx(1e-3, rel=0.02)
    assert divergence(with_unit, without, epsilon(event(), 1e-3)) < 1e-3


# What the figure would be with each fault; the exact divergence of what then happens must exceed it.
FAULTS: dict[str, Callable[[float], tuple[tuple[int, ...], float]]] = {
    "a bin that is drawn in every round": lambda delta: ((0, 1, 2), epsilon(Composed(event(), 2), delta)),
    "a block counted once too little": lambda delta: ((0, 2), epsilon(event(), delta)),
    "a band that is not in the norm": lambda delta: ((0, 2), epsilon(Composed(event(BANDS[:1]), 2), delta)),
    "sampling at q in the place of bq": lambda delta: (
        (0, 2),
        epsilon(Composed(PoissonSampled(RATE / 2, event().event), 2), delta),
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_planted_fault_shows_in_the_exact_divergence(
    fault: Callable[[float], tuple[tuple[int, ...], float]],
) -> None:
    adversary, delta = Adversary(), 1e-2
    starts, claimed = fault(delta)
    assert divergence(mixture(adversary, starts), density(adversary, {}), claimed) > delta


def test_two_units_in_different_bins_stay_within_the_group_of_two() -> None:
    adversary = Adversary()
    without: Wide = density(adversary, {})
    both: Wide | float = 0.0
    for coins in itertools.product((0, 1), repeat=3):
        chance = math.prod(RATE if coin else 1 - RATE for coin in coins)
        both = both + chance * density(adversary, dict(enumerate(coins)))
    for delta in DELTAS:
        assert divergence(np.asarray(both), without, any_group_of_two(Composed(event(), 2), delta)) <= delta


@pytest.mark.parametrize(("rounds", "count"), [(100, 8), (101, 8), (103, 4), (7, 7)])
def test_the_claim_of_a_banded_run_agrees_with_an_accountant_of_its_own(rounds: int, count: int) -> None:
    target = spec(count)
    run = Composed(PoissonSampled(float(target.bin_rate), Gaussian(1.0)), target.charges(rounds))
    claimed, found = epsilon(run, 1e-5), tilted(0.05 * count, 1.0, math.ceil(rounds / count), 1e-5)
    assert found * (1 - 1e-5) <= claimed <= found * 1.01
    assert cross_checked(run, 1e-5).pld == claimed


def test_a_general_pair_is_a_group_whatever_the_mechanism_and_at_most_its_renyi_bound() -> None:
    run = Composed(PoissonSampled(0.4, Gaussian(1.2)), 13)
    pair = any_group_of_two(run, 1e-5)
    alone = epsilon(run, 1e-5 / (1 + math.exp(pair / 2)))
    assert alone <= pair / 2 <= alone * 1.001
    assert pair > group_of_two(run, 1e-5)
    assert any_group_of_two([], 1e-5) == 0.0


@pytest.mark.parametrize("multiplier", [0.01, 0.05])
def test_a_general_pair_of_hardly_any_noise_is_finite(multiplier: float) -> None:
    run = Composed(PoissonSampled(0.4, Gaussian(multiplier)), 1000)
    pair, order = any_group_of_two(run, 1e-5), 3
    divergence_of_run = rdp.composed(run, order)
    assert math.isfinite(pair)
    assert pair <= 2 * 2 * rdp.to_epsilon(divergence_of_run, order, 0.5e-5)


# --- charging ---


@given(count=st.integers(2, 9), trained=st.sets(st.integers(1, 60)))
def test_wherever_a_run_stops_each_unit_was_charged_for_at_least_its_blocks(count: int, trained: set[int]) -> None:
    target = spec(count)
    charged = {target.charged_as(number) for number in trained}
    drawn = max((sum(number % count == of for number in trained) for of in range(count)), default=0)
    assert drawn <= len(charged) <= target.charges(max(trained, default=0))
    assert all(target.charged_as(number) <= number < target.charged_as(number) + count for number in trained)


def test_a_single_band_is_charged_round_by_round_at_the_rate_of_the_plan() -> None:
    target = spec(1)
    assert (target.bin_rate, target.charges(7), target.charged_as(7)) == ("0.05", 7, 7)


def test_the_norm_is_never_rounded_down_and_one_for_a_single_band() -> None:
    assert band_norm((1,)) == 1
    assert derived_multiplier(20, 700, 7, (1,)) == derived_multiplier(20, 700, 7)
    for chosen in ((3, 2), (16, 11, 9, 9, 8, 7, 7, 6), (1, 1)):
        assert band_norm(chosen) ** 2 >= sum(band * band for band in chosen)
        assert derived_multiplier(20, 700, 7, chosen) <= math.sqrt(7 * 2**20 - 9) / 700 / math.hypot(*chosen)


# --- plans ---


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bands that rise": ({"bands": [3, 4]}, "not rise"),
    "a single band of two": ({"bands": [2]}, "single band"),
    "a mode whose rounds stand alone": ({"bands": [3, 2], "mode": "local", "local_steps": 2}, "mode distributed"),
    "more bins than batches fill": ({"bands": [3, 2], "sampling_rate": "0.51"}, "at most 1"),
    "a band of nothing": ({"bands": [3, 0]}, "greater than or equal to 1"),
    "a band out of bounds": ({"bands": [5000, 1]}, "4096"),
    "no bands": ({"bands": []}, "at least 1"),
}


@pytest.mark.parametrize(("wrong", "because"), REFUSED.values(), ids=REFUSED.keys())
def test_bands_that_could_not_be_accounted_or_decoded_are_refused(wrong: dict[str, Any], because: str) -> None:
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in wrong.items()}
    with pytest.raises(ValidationError, match=because):
        spec(1, **given)


def test_the_rate_of_a_bin_is_exact_however_many_digits_the_rate_has() -> None:
    assert spec(8, "0.012345678912345678").bin_rate == "0.098765431298765424"
    assert spec(8, "0.125").bin_rate == "1"


# --- choice ---


def dense(chosen: tuple[int, ...], rounds: int) -> Wide:
    matrix = np.zeros((rounds, rounds))
    for back, band in enumerate(chosen):
        matrix += band * np.eye(rounds, k=-back)
    return matrix


@pytest.mark.parametrize("chosen", [(1,), (16, 10), (16, 9, 7, 6)])
def test_the_error_is_that_of_the_matrices_written_out(chosen: tuple[int, ...]) -> None:
    rounds = 30
    inverse = np.linalg.inv(dense(chosen, rounds))
    assert bands.inverse(chosen, rounds) == pytest.approx(inverse[:, 0])
    sums = np.tri(rounds) @ inverse
    wanted = math.hypot(*chosen) * math.sqrt((sums**2).sum(axis=1).mean())
    assert bands.error(chosen, rounds) == pytest.approx(wanted)


@pytest.mark.parametrize("rounds", [20, 100])
@pytest.mark.parametrize("count", [2, 5, 8, 16])
def test_chosen_bands_do_not_rise_and_no_single_step_is_better(count: int, rounds: int) -> None:
    chosen = bands.chosen(count, rounds)
    assert len(chosen) == count
    assert list(chosen) == sorted(chosen, reverse=True)
    least = bands.error(chosen, rounds)
    assert least < bands.error((1,), rounds)
    for tried in neighbours(chosen):
        assert bands.error(tried, rounds) >= least


def neighbours(chosen: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for place, step in itertools.product(range(1, len(chosen)), (-1, 1)):
        tried = (*chosen[:place], chosen[place] + step, *chosen[place + 1 :])
        if min(tried) >= 1 and list(tried) == sorted(tried, reverse=True):
            yield tried


@pytest.mark.parametrize("count", [0, 101])
def test_no_bands_are_made_for_none_or_for_more_than_the_rounds(count: int) -> None:
    with pytest.raises(ValueError, match="as many as it has rounds"):
        bands.chosen(count, 100)


@pytest.mark.parametrize(
    ("rate", "rounds", "target", "count", "ratio"),
    [("0.1", 20, "8", 8, 0.82), ("0.5", 20, "1", 1, 1.0)],
)
def test_bands_are_chosen_by_the_error_at_the_same_epsilon(
    rate: str, rounds: int, target: str, count: int, ratio: float
) -> None:
    single = spec(1, rate, target)
    best = best_bands(single, rounds=rounds)
    assert len(best) == count
    banded = single.model_copy(update={"bands": best})
    errors = [needed_multiplier(one, rounds=rounds) * bands.error(one.bands, rounds) for one in (banded, single)]
    assert errors[0] / errors[1] == pytest.approx(ratio, abs=0.01)
