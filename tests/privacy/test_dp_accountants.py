"""Published figures, orderings that must hold, and the lemma against exact divergences of discrete Gaussians."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy.dp import accountants, rdp
from privacy.dp.accountants import cross_checked, epsilon, group_of_two, run_epsilon, spend_curve, trust_epsilons
from privacy.dp.events import Composed, Gaussian, PoissonSampled, derived_multiplier, steps
from privacy.errors import LocalError
from tests.worlds.plans import make_plan

DELTA = 1e-5


def run(rate: float, multiplier: float, count: int) -> Composed:
    return Composed(PoissonSampled(rate, Gaussian(multiplier)), count)


@pytest.mark.parametrize(
    ("rate", "count", "multiplier", "pld", "renyi", "general"),
    [(0.1, 100, 1.12, 5.73, 6.41, 7.94), (0.01, 10_000, 1.0, 6.19, 6.71, 7.28)],
)
def test_three_accountants_give_the_figures_of_the_documentation(
    rate: float, count: int, multiplier: float, pld: float, renyi: float, general: float
) -> None:
    checks = cross_checked(run(rate, multiplier, count), DELTA)
    assert (round(checks.pld, 2), round(checks.rdp, 2), round(checks.general, 2)) == (pld, renyi, general)


@pytest.mark.parametrize(("multiplier", "target"), [(0.936, 8), (2.248, 2), (3.942, 1)])
def test_the_documented_noise_gives_its_epsilon(multiplier: float, target: float) -> None:
    assert epsilon(run(0.1, multiplier, 100), DELTA) == pytest.approx(target, abs=1e-3)


@pytest.mark.parametrize(("multiplier", "target"), [(1.114, 8), (8.33, 2), (16.0, 1)])
def test_the_general_bound_needs_the_documented_noise(multiplier: float, target: float) -> None:
    counted = steps(run(0.1, multiplier, 100)).items()
    assert rdp.least_of(counted, DELTA, rdp.general_bound) == pytest.approx(target, abs=0.01)


@pytest.mark.parametrize(("multiplier", "pair"), [(0.936, 18.5), (2.248, 4.4), (3.942, 2.16)])
def test_a_group_of_two_has_the_documented_epsilon(multiplier: float, pair: float) -> None:
    assert group_of_two(run(0.1, multiplier, 100), DELTA) == pytest.approx(pair, abs=0.03)


def test_without_sampling_a_group_of_two_has_half_the_noise() -> None:
    assert group_of_two(Gaussian(4.0), DELTA) == pytest.approx(epsilon(Gaussian(2.0), DELTA), rel=1e-3)


def test_replace_one_is_another_number() -> None:
    assert epsilon(run(0.1, 0.936, 100), DELTA, relation="replace-one") == pytest.approx(11.6, abs=0.01)


def test_the_chosen_grid_is_within_one_percent_of_a_fine_one() -> None:
    for rate, multiplier, count in ((0.1, 1.12, 100), (0.01, 1.0, 10_000), (0.5, 3.128, 100), (1.0, 50.0, 400)):
        fine = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-4)
        fine.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(multiplier)), count)
        assert epsilon(run(rate, multiplier, count), DELTA) == pytest.approx(fine.get_epsilon(DELTA), rel=0.01)


def test_our_integer_orders_agree_with_the_library() -> None:
    from dp_accounting.rdp import RdpAccountant

    orders = [2, 3, 8, 32]
    for rate, multiplier in ((0.1, 1.12), (0.01, 1.0), (0.5, 3.0), (1.0, 2.0)):
        library = RdpAccountant(orders=orders)
        library.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(multiplier)), 7)
        ours = [rdp.composed(run(rate, multiplier, 7), order) for order in orders]
        assert ours == pytest.approx(list(library._rdp), rel=1e-9)


def test_nothing_costs_nothing() -> None:
    assert epsilon([], DELTA) == group_of_two([], DELTA) == cross_checked([], DELTA).rdp == 0.0


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_that_is_none_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta"):
        epsilon(Gaussian(1.0), delta)


@settings(max_examples=15, deadline=None)
@given(
    rate=st.sampled_from([0.01, 0.1, 0.5, 1.0]),
    multiplier=st.floats(0.7, 6.0),
    count=st.integers(1, 300),
    delta=st.sampled_from([1e-3, 1e-5, 1e-8]),
)
def test_every_bound_holds_and_more_of_anything_costs_more(
    rate: float, multiplier: float, count: int, delta: float
) -> None:
    spent = cross_checked(run(rate, multiplier, count), delta)
    assert 0 <= spent.pld <= spent.rdp * (1 + 1e-6) + 1e-9
    assert spent.pld <= spent.general * (1 + 1e-6) + 1e-9
    slack = 1.002  # the grid follows epsilon
    assert spent.pld <= epsilon(run(rate, multiplier, count + 10), delta) * slack
    assert spent.pld <= epsilon(run(rate, multiplier / 1.1, count), delta) * slack
    assert spent.pld <= epsilon(run(rate, multiplier, count), delta, relation="replace-one") * slack
    assert spent.pld <= group_of_two(run(rate, multiplier, count), delta) * slack


def test_spend_never_falls_from_round_to_round() -> None:
    curve = spend_curve(PoissonSampled(0.5, Gaussian(3.128)), 100, DELTA)
    assert [rounds for rounds, _ in curve] == sorted({rounds for rounds, _ in curve})
    assert (curve[0][0], curve[-1][0]) == (1, 100)
    assert [value for _, value in curve] == sorted(value for _, value in curve)
    assert curve[-1][1] == pytest.approx(7.96, abs=0.01)
    assert spend_curve(Gaussian(1.0), 0, DELTA) == ()
    assert len(spend_curve(Gaussian(1.0), 1, DELTA)) == 1


@pytest.mark.parametrize("rate", [1e-9, 0.5, 1.0])
@pytest.mark.parametrize(("multiplier", "count"), [(1e-6, 1), (0.01, 2**53 - 1), (1.0, 2**53 - 1), (1e9, 2**53 - 1)])
def test_no_plan_can_ask_for_endless_accounting(rate: float, multiplier: float, count: int) -> None:
    extreme = run(rate, multiplier, count)
    checks = cross_checked(extreme, DELTA)
    assert 0 <= checks.pld <= checks.general * (1 + 1e-6) + 1e-9
    assert math.isfinite(checks.pld)
    assert group_of_two(extreme, DELTA) >= checks.pld
    assert epsilon(extreme, DELTA, relation="replace-one") >= checks.pld


def test_a_tiny_delta_has_a_finite_epsilon() -> None:
    assert epsilon(run(0.5, 100.0, 10_000), 1e-5) < epsilon(run(0.5, 100.0, 10_000), 1e-15) < 10


def test_a_figure_above_a_valid_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accountants, "_cross_checks", lambda *_: accountants.CrossChecks(9.0, 6.0, 12.0))
    with pytest.raises(LocalError) as caught:
        cross_checked(Gaussian(1.0), DELTA)
    assert caught.value.code == "E-ACCOUNTANT-DISAGREE"


def test_the_three_epsilons_rely_on_less_and_less_noise() -> None:
    plan, _ = make_plan(mode="distributed", n=10, f=3)
    trust = trust_epsilons(plan)
    assert trust is not None
    assert trust.outsiders < trust.charged < trust.all_others
    assert (trust.outsiders_noise, trust.charged_noise, trust.all_others_noise) == (plan.min_survivors, 6, 1)
    assert run_epsilon(plan) == trust.charged


def test_in_mode_local_nobody_elses_noise_is_relied_on() -> None:
    trust = trust_epsilons(make_plan(mode="local")[0])
    assert trust is not None
    assert trust.outsiders == trust.charged == trust.all_others


def test_mode_none_has_no_epsilon() -> None:
    plan, _ = make_plan(mode="none")
    assert trust_epsilons(plan) is None
    assert run_epsilon(plan) is None


# --- the lemma, exactly, in one dimension ---


def discrete_gaussian(sigma: float, reach: int) -> NDArray[np.float64]:
    at = np.arange(-reach, reach + 1)
    mass = np.exp(-(at**2) / (2 * sigma**2))
    normalised: NDArray[np.float64] = mass / mass.sum()
    return normalised


def noise_of_the_sum(exponent: int, honest: int) -> NDArray[np.float64]:
    """Return the exact distribution of the sum of ``honest`` discrete Gaussians of variance 2**exponent."""
    sigma = 2.0 ** (exponent / 2)
    one = discrete_gaussian(sigma, math.ceil(14 * sigma))
    total = one
    for _ in range(honest - 1):
        total = np.convolve(total, one)
    return total


def shifted(mass: NDArray[np.float64], by: int) -> NDArray[np.float64]:
    moved = np.zeros_like(mass)
    moved[by:] = mass[: len(mass) - by]
    return moved


def hockey_stick(p: NDArray[np.float64], q: NDArray[np.float64], epsilon_: float) -> float:
    return float(np.maximum(p - math.exp(epsilon_) * q, 0).sum())


def pair(rate: float, exponent: int, honest: int, shift: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the exact outputs of a round with and without one record, on a line long enough for both."""
    noise = np.pad(noise_of_the_sum(exponent, honest), (0, shift))
    return (1 - rate) * noise + rate * shifted(noise, shift), noise


@pytest.mark.parametrize(
    ("rate", "exponent", "honest", "sensitivity"),
    [
        (1.0, 6, 1, 8),
        (0.1, 6, 1, 8),
        (0.5, 6, 3, 9),
        (0.1, 7, 2, 16),
        (0.1, 8, 2, 20),
        (0.01, 6, 2, 11),
        (0.3, 9, 1, 13),
    ],
)
def test_an_exact_round_on_integers_stays_within_its_event(
    rate: float, exponent: int, honest: int, sensitivity: int
) -> None:
    event = PoissonSampled(rate, Gaussian(derived_multiplier(exponent, sensitivity, honest)))
    for delta in (1e-2, 1e-4, 1e-6):
        claimed = epsilon(event, delta)
        for shift in (1, sensitivity // 2, sensitivity):
            p, q = pair(rate, exponent, honest, shift)
            assert hockey_stick(p, q, claimed) <= delta
            assert hockey_stick(q, p, claimed) <= delta
        p, q = pair(rate, exponent, honest, sensitivity)
        looser = claimed * 0.8 - 0.02
        assert looser < 0 or max(hockey_stick(p, q, looser), hockey_stick(q, p, looser)) > delta


@pytest.mark.parametrize(("rate", "exponent", "honest", "sensitivity"), [(0.1, 6, 1, 8), (0.5, 7, 2, 11)])
def test_two_exact_rounds_stay_within_two_events(rate: float, exponent: int, honest: int, sensitivity: int) -> None:
    event = Composed(PoissonSampled(rate, Gaussian(derived_multiplier(exponent, sensitivity, honest))), 2)
    p, q = (np.outer(one, one) for one in pair(rate, exponent, honest, sensitivity))
    for delta in (1e-3, 1e-5):
        claimed = epsilon(event, delta)
        assert max(hockey_stick(p, q, claimed), hockey_stick(q, p, claimed)) <= delta


def test_two_records_of_an_exact_round_stay_within_the_group_of_two() -> None:
    rate, exponent, honest, sensitivity = 0.2, 6, 2, 6
    event = PoissonSampled(rate, Gaussian(derived_multiplier(exponent, sensitivity, honest)))
    noise = np.pad(noise_of_the_sum(exponent, honest), (0, 2 * sensitivity))
    both = (
        (1 - rate) ** 2 * noise
        + 2 * rate * (1 - rate) * shifted(noise, sensitivity)
        + rate**2 * shifted(noise, 2 * sensitivity)
    )
    for delta in (1e-2, 1e-5):
        claimed = group_of_two(event, delta)
        assert max(hockey_stick(both, noise, claimed), hockey_stick(noise, both, claimed)) <= delta


def test_without_the_lemmas_nine_the_claim_would_not_be_proved_but_noise_below_eight_is_refused_anyway() -> None:
    smaller, larger = derived_multiplier(6, 8, 1), math.sqrt(64) / 8
    assert smaller < larger
    assert smaller == pytest.approx(math.sqrt(55) / 8, abs=1e-9)


def test_the_sum_of_discrete_gaussians_is_one_discrete_gaussian_up_to_nothing_at_sigma_eight() -> None:
    for honest in (2, 3):
        total = noise_of_the_sum(6, honest)
        reach = len(total) // 2
        single = discrete_gaussian(8 * math.sqrt(honest), reach)
        middle = slice(reach - 100, reach + 101)
        assert np.allclose(total[middle], single[middle], rtol=1e-11, atol=0)


def test_the_filter_order_buys_at_least_as_many_releases_as_its_neighbours() -> None:
    for budget, delta in itertools.product((1.0, 8.0, 20.0), (1e-5, 1e-8)):
        best = rdp.filter_order(budget, delta)
        value = rdp.to_divergence(budget, best, delta) / best
        assert all(value >= rdp.to_divergence(budget, order, delta) / order for order in rdp.ORDERS)


def test_a_budget_and_its_divergence_are_the_same_statement() -> None:
    for order, delta, budget in itertools.product((2, 8, 64), (1e-5, 1e-8), (8.0, 20.0)):
        divergence = rdp.to_divergence(budget, order, delta)
        if divergence > 0:
            assert rdp.to_epsilon(divergence, order, delta) == pytest.approx(budget, rel=1e-12)
