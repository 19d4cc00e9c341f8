"""Renyi differential privacy at integer orders, in closed form: the lifetime filter and two valid upper bounds.

Guarantees: pure arithmetic without third-party code, cheap enough to run in the ledger's transaction; every figure is
an upper bound. Leaves to others: the tight figure of one run (``accountants``).
Source: Mironov, Talwar, Zhang 2019, section 3.3 (sampled Gaussian); Zhu and Wang 2019, Theorem 5 (any mechanism under
Poisson sampling); Canonne, Kamath, Steinke 2020, Proposition 12 (conversion); Feldman and Zrnic 2021 (filter).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

from privacy.dp.events import Event, Step, steps

ORDERS: Final = tuple(range(2, 65)) + tuple(range(72, 257, 8)) + (320, 384, 448, 512, 768, 1024)
GENERAL_FACTOR: Final = 3.0  # of the terms from the third on (Zhu and Wang 2019, Theorem 5)

Divergence = Callable[[Step, int], float]


@lru_cache(maxsize=65536)
def sampled_gaussian(step: Step, order: int) -> float:
    """Return the Renyi divergence of an integer order of one Poisson-sampled Gaussian step."""
    rate, multiplier = step
    if rate == 1:
        return order / (2 * multiplier**2)
    terms = [
        _log_binomial(order, k, rate) + _log_excess(k * (k - 1) / (2 * multiplier**2), 1.0) for k in range(2, order + 1)
    ]
    return _log_one_and(terms) / (order - 1)


@lru_cache(maxsize=65536)
def general_bound(step: Step, order: int) -> float:
    """Return the bound for an arbitrary mechanism under Poisson sampling, fed with the Gaussian's own divergences."""
    rate, multiplier = step
    if rate == 1:
        return order / (2 * multiplier**2)
    terms = [
        _log_binomial(order, k, rate)
        + _log_excess((k - 1) * k / (2 * multiplier**2), 1.0 if k == 2 else GENERAL_FACTOR)
        for k in range(2, order + 1)
    ]
    return _log_one_and(terms) / (order - 1)


def composed(events: Event | Iterable[Event], order: int, divergence: Divergence = sampled_gaussian) -> float:
    """Return the divergence of all events together at one order: they add up."""
    return math.fsum(count * divergence(step, order) for step, count in steps(events).items())


def to_epsilon(divergence: float, order: int, delta: float) -> float:
    """Return the epsilon that a divergence of an order implies at delta."""
    return max(0.0, divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1))


def to_divergence(epsilon: float, order: int, delta: float) -> float:
    """Return the largest divergence that still implies (epsilon, delta); negative if the order cannot imply it."""
    return epsilon - math.log1p(-1 / order) + math.log(delta * order) / (order - 1)


def least_of(counted: Iterable[tuple[Step, int]], delta: float, divergence: Divergence = sampled_gaussian) -> float:
    """Return the best epsilon over :data:`ORDERS` of steps that happen so often; 0 for none."""
    kept = tuple(counted)
    if not kept:
        return 0.0
    return min(to_epsilon(math.fsum(n * divergence(step, order) for step, n in kept), order, delta) for order in ORDERS)


def filter_order(epsilon: float, delta: float) -> int:
    """Return the order at which a lifetime budget buys most Gaussian releases: what a policy fixes once."""
    return max(ORDERS, key=lambda order: to_divergence(epsilon, order, delta) / order)


def _log_binomial(order: int, k: int, rate: float) -> float:
    choose = math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
    return choose + (order - k) * math.log1p(-rate) + k * math.log(rate)


def _log_excess(exponent: float, factor: float) -> float:
    """Return log(factor * exp(exponent) - 1).

    The binomial weights add up to 1, so a moment is 1 plus the weighted excesses, all positive: no rounding near 1 is
    lost, which counts when a tiny divergence is composed very often.
    """
    return exponent + math.log(factor - 1 - math.expm1(-exponent))


def _log_one_and(terms: list[float]) -> float:
    """Return log(1 + sum of exp(terms))."""
    largest = max(terms)
    total = largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
    return total + math.log1p(math.exp(-total)) if total > 0 else math.log1p(math.exp(total))
