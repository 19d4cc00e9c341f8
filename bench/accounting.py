"""What accountants say about published cases, whether it is an upper bound, and how long it takes.

Every case is a Poisson-sampled Gaussian composed T times. ``pld``, ``rdp`` and ``general`` are onlysum's; the others
are Opacus' own. The truth lies between an optimistic PLD (``lower``) and a pessimistic one, so ``X_over_lower`` below 1
proves that X is no upper bound. ``pld_over_fine`` compares the grid that onlysum chooses with 1e-4.
The optimistic one rounds each step's loss down, which adds up: the more steps, the finer its grid.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Final

from dp_accounting.pld import privacy_loss_distribution as pld
from opacus.accountants import GaussianAccountant, PRVAccountant, RDPAccountant

from bench import harness
from privacy.dp import accountants
from privacy.dp.events import Composed, PoissonSampled
from privacy.dp.events import Gaussian as Noised

DELTA: Final = 1e-5
FINE_GRID: Final = 1e-4
MARK_FINE: Final = 1.01
MOST_ROUNDING: Final = 0.1  # of the optimistic bound, over all steps
LOG_TAIL: Final = -50.0  # of the mass that a truncated tail may have
PACKAGES: Final = ("dp-accounting", "opacus", "scipy", "numpy")


@dataclass(frozen=True, slots=True)
class Case:
    """Sampling rate, steps and noise multiplier; ``published`` is the epsilon that the source printed, if any."""

    rate: float
    steps: int
    multiplier: float
    source: str
    published: float | None = None


CASES: Final = {
    "q0.1_T100_z1.12": Case(0.1, 100, 1.12, "docs/privacy-accounting.md section 6"),
    "q0.01_T10000_z1": Case(0.01, 10_000, 1.0, "docs/privacy-accounting.md section 6"),
    "q0.01_T1000_z0.6": Case(0.01, 1_000, 0.6, "where the central limit is furthest off"),
    "q0.01_T10000_z4": Case(0.01, 10_000, 4.0, "Abadi et al. 2016, section 3.2 (moments accountant)", 1.26),
    "mnist_T14063_z1.12": Case(256 / 60_000, 14_063, 1.12, "TensorFlow Privacy, tutorial (RDP of 2019)", 2.92),
    "q1_T100_z20": Case(1.0, 100, 20.0, "no sampling: exact by Balle and Wang 2018"),
}
_UPPER_BOUNDS: Final = ("pld", "rdp", "general", "opacus_rdp", "opacus_prv", "opacus_gdp")


def measure(case: Case) -> dict[str, float]:
    """Return every accountant's epsilon of a case at delta 1e-5, the bounds on the truth, and seconds."""
    event = Composed(PoissonSampled(case.rate, Noised(case.multiplier)), case.steps)
    began = time.perf_counter()
    chosen = accountants.epsilon(event, DELTA)
    seconds = time.perf_counter() - began
    checks = accountants.cross_checked(event, DELTA)
    epsilons = {"pld": chosen, "rdp": checks.rdp, "general": checks.general, **_opacus(case)}
    lower, fine = _lower(case), _fine(case)
    over = {f"{name}_over_lower": epsilons[name] / lower for name in _UPPER_BOUNDS if name in epsilons}
    exact = {"exact": exact_epsilon(case)} if case.rate == 1 else {}
    return {**epsilons, **exact, "lower": lower, **over, "pld_over_fine": chosen / fine, "seconds": seconds}


def exact_epsilon(case: Case) -> float:
    """Return the exact epsilon without sampling: T releases are one with noise multiplier z/sqrt(T)."""
    mu = math.sqrt(case.steps) / case.multiplier

    def delta(epsilon: float) -> float:
        return _normal(mu / 2 - epsilon / mu) - math.exp(epsilon) * _normal(-mu / 2 - epsilon / mu)

    low, high = 0.0, 100.0
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (middle, high) if delta(middle) > DELTA else (low, middle)
    return high


def _normal(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def _fine(case: Case) -> float:
    """Return the pessimistic PLD's epsilon at grid 1e-4."""
    distribution = pld.from_gaussian_mechanism(
        case.multiplier,
        sampling_prob=case.rate,
        value_discretization_interval=FINE_GRID,
        log_mass_truncation_bound=LOG_TAIL,
    )
    return float(distribution.self_compose(case.steps).get_epsilon_for_delta(DELTA))


def _lower(case: Case) -> float:
    """Return a lower bound on the true epsilon: a PLD that rounds every loss down."""
    distribution = pld.from_gaussian_mechanism(
        case.multiplier,
        pessimistic_estimate=False,
        sampling_prob=case.rate,
        value_discretization_interval=min(FINE_GRID, MOST_ROUNDING / case.steps),
        log_mass_truncation_bound=LOG_TAIL,
        use_connect_dots=False,
    )
    return float(distribution.self_compose(case.steps).get_epsilon_for_delta(DELTA))


def _opacus(case: Case) -> dict[str, float]:
    epsilons = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the best order is the last one; that gdp is experimental
        known = {"opacus_rdp": RDPAccountant(), "opacus_prv": PRVAccountant(), "opacus_gdp": GaussianAccountant()}
        for name, accountant in known.items():
            if name == "opacus_prv" and case.rate == 1:
                continue  # it divides by 1 - q
            accountant.history = [(case.multiplier, case.rate, case.steps)]
            epsilons[name] = float(accountant.get_epsilon(DELTA))
    return epsilons


def main() -> int:
    """Measure, print the tables and the JSON line."""
    options = harness.parser(__doc__).parse_args()
    measured = {name: measure(case) for name, case in CASES.items()}
    heads = ["case", "truth from", "pld", "rdp", "general", "opacus rdp", "opacus prv", "opacus gdp", "published"]
    rows = [
        [name, *(f"{figure[key]:.3f}" if key in figure else "" for key in ("lower", *_UPPER_BOUNDS)), _published(name)]
        for name, figure in measured.items()
    ]
    print(f"epsilon at delta {DELTA:g}\n{harness.table(heads, rows)}\n")
    low = [
        f"{key} in {name}"
        for name, figure in measured.items()
        for key in _UPPER_BOUNDS
        if figure.get(key, math.inf) < figure["lower"]
    ]
    print(f"below the truth, so no upper bound: {', '.join(low) or 'none'}\n")
    heads = ["case", "pld/lower", "pld/fine grid", "seconds", "source"]
    rows = [
        [
            name,
            f"{figure['pld_over_lower']:.4f}",
            f"{figure['pld_over_fine']:.4f}",
            f"{figure['seconds']:.2f}",
            CASES[name].source,
        ]
        for name, figure in measured.items()
    ]
    print(harness.table(heads, rows))
    figures = {f"{name}.{key}": round(value, 5) for name, figure in measured.items() for key, value in figure.items()}
    ours = [figure[f"{key}_over_lower"] for figure in measured.values() for key in ("pld", "rdp", "general")]
    figures["least_over_lower"] = round(min(ours), 5)
    figures["largest_pld_over_fine"] = round(max(figure["pld_over_fine"] for figure in measured.values()), 5)
    bounds, fine = figures["least_over_lower"] >= 1, figures["largest_pld_over_fine"] <= MARK_FINE
    print(f"\npld, rdp, general are upper bounds: {'met' if bounds else 'MISSED'}")
    print(f"largest_pld_over_fine {figures['largest_pld_over_fine']}, mark {MARK_FINE}: {'met' if fine else 'MISSED'}")
    harness.publish("accounting", figures, packages=PACKAGES, save=options.save)
    return 0


def _published(name: str) -> str:
    published = CASES[name].published
    return "" if published is None else f"{published:g}"


if __name__ == "__main__":
    sys.exit(main())
