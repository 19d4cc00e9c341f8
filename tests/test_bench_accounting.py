"""The benchmark of accountants proves what its table says."""

from __future__ import annotations

import pytest

pytest.importorskip("opacus", reason="needs the participant extra")

from bench.accounting import CASES, Case, exact_epsilon, measure

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("name", ["q0.1_T100_z1.12", "q0.01_T1000_z0.6"])
def test_onlysums_accountants_are_upper_bounds_and_near_their_finest_grid(name: str) -> None:
    found = measure(CASES[name])
    assert all(found[f"{one}_over_lower"] >= 1 for one in ("pld", "rdp", "general"))
    assert 0.99 <= found["pld_over_fine"] <= 1.01


def test_the_central_limit_accountant_of_opacus_is_below_the_truth() -> None:
    found = measure(CASES["q0.01_T1000_z0.6"])
    assert round(found["opacus_gdp"], 2) == 5.56
    assert round(found["pld"], 2) == 7.43
    assert found["opacus_gdp"] < 0.76 * found["lower"]


def test_without_sampling_the_claim_is_just_above_the_exact_figure() -> None:
    found = measure(CASES["q1_T100_z20"])
    assert exact_epsilon(CASES["q1_T100_z20"]) == pytest.approx(1.99309, abs=1e-5)
    assert 1 <= found["pld"] / found["exact"] < 1.001


@pytest.mark.parametrize(("name", "case"), CASES.items())
def test_published_figures_are_above_the_claim(name: str, case: Case) -> None:
    from privacy.dp.accountants import epsilon
    from privacy.dp.events import Composed, Gaussian, PoissonSampled

    claimed = epsilon(Composed(PoissonSampled(case.rate, Gaussian(case.multiplier)), case.steps), 1e-5)
    assert case.published is None or claimed < case.published
