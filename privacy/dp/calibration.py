"""From a privacy target to the integers of the mechanism and of the ring.

Guarantees: the integers keep the target under the very accountant that the ledger and the report use (the noise
multiplier is derived from them and rounded against us), ``D^2 > d/12 + 4D``, and the ring rule of the plan.
Leaves to others: rules of a plan (``privacy.plan`` checks them again), the mechanism itself (``clipping``, ``noise``).
Source: docs/privacy-accounting.md section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Final

from privacy import canonical
from privacy.dp.accountants import epsilon
from privacy.dp.events import Composed, Event, Gaussian, PoissonSampled, derived_multiplier
from privacy.draft import PrivacyTarget
from privacy.errors import LocalError
from privacy.plan import WRAP_EVENTS, WRAP_SIGMAS
from privacy.plan_parts import MAX_NOISE_EXPONENT, MIN_NOISE_EXPONENT, Encoding, Privacy

ROUNDING_LOSS: Final = 1 / 2500  # share of an example's signal lost to rounding, d/(24 D^2), that k must stay below
LEAST_SENSITIVITY: Final = 2000  # the clip radius sqrt(D^2 - d/12 - 4D) lies about 2 below D: at most 0.1% of it
LEAST_MULTIPLIER: Final = 0.05  # less noise than this has no meaningful epsilon
MOST_MULTIPLIER: Final = 2.0**20
PRECISION: Final = 1e-4  # relative, of the bisection; the final check is on the integers
MAX_SCALE_EXPONENT: Final = 24  # the precision of a float32 mantissa
LEAST_SCALE_EXPONENT: Final = 16  # coarser fixed point than 1.5e-5 would show: take 64 bits instead
LEAST_CLAMP_RECORDS: Final = 16  # aligned records of one participant that a clamp must not touch


def calibrate(target: PrivacyTarget, *, rounds: int, entries: int, n: int, f: int, min_survivors: int) -> Privacy:
    """Return the mechanism's integers for a target once roster, f and min_survivors are known.

    Args:
        target: what the draft asks for.
        rounds: T of the run.
        entries: d, length of the vector.
        n: size of the roster.
        f: colluding participants that the plan tolerates.
        min_survivors: least size of S.

    Raises:
        LocalError: ``E-PLAN-NOISE``, no noise that the lemma covers reaches the target.
    """
    if target.mode == "none":
        return _without_noise(target)
    if not max(f, 1) < min_survivors <= n:
        raise LocalError("E-PLAN-NOISE", f"min_survivors {min_survivors} leaves no honest noise beside f = {f}")
    honest = 1 if target.mode == "local" else min_survivors - max(f, 1)
    needed = needed_multiplier(target, rounds=rounds)
    exponent, sensitivity = _integers(needed, honest=honest, entries=entries)
    while epsilon(_run(target, rounds)(derived_multiplier(exponent, sensitivity, honest)), float(target.delta)) > float(
        target.epsilon
    ):
        sensitivity -= 1  # the accountant's grid is chosen by epsilon and may have moved between the two
    return _with_noise(target, exponent=exponent, sensitivity=sensitivity, honest=honest)


def assumed(target: PrivacyTarget, *, entries: int) -> Privacy:
    """Return a mechanism for the self-check of a draft, which has no roster: the coarsest that a calibrated plan has.

    Args:
        target: what the draft asks for.
        entries: d, length of the vector.
    """
    if target.mode == "none":
        return _without_noise(target)
    sensitivity = max(LEAST_SENSITIVITY, math.isqrt(math.ceil(entries / (24 * ROUNDING_LOSS))) + 1)
    return _with_noise(target, exponent=MAX_NOISE_EXPONENT, sensitivity=sensitivity, honest=1)


def _with_noise(target: PrivacyTarget, *, exponent: int, sensitivity: int, honest: int) -> Privacy:
    return Privacy(
        mode=target.mode,
        unit=target.unit,
        relation="zero-out",
        epsilon=target.epsilon,
        delta=target.delta,
        sampling_rate=target.sampling_rate,
        local_steps=target.local_steps,
        clip_norm=target.clip_norm,
        noise_exponent=exponent,
        sensitivity=sensitivity,
        honest_noise=honest,
        max_rows_per_user=target.max_rows_per_user,
        upload_after_ms=target.upload_after_ms,
    )


def needed_multiplier(target: PrivacyTarget, *, rounds: int) -> float:
    """Return the least noise multiplier (to 1e-4) with which a whole run keeps its target.

    Raises:
        LocalError: ``E-PLAN-NOISE``, the target is out of reach.
    """
    wanted, delta = float(target.epsilon), float(target.delta)
    if wanted <= 0 or not 0 < delta < 1:
        raise LocalError("E-PLAN-NOISE", "epsilon must be positive and delta between 0 and 1")
    events = _run(target, rounds)
    low, high = LEAST_MULTIPLIER, 1.0
    while epsilon(events(high), delta) > wanted:
        low, high = high, 2 * high
        if high > MOST_MULTIPLIER:
            raise LocalError("E-PLAN-NOISE", f"epsilon {target.epsilon} over {rounds} rounds is out of reach")
    while high / low > 1 + PRECISION:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if epsilon(events(middle), delta) <= wanted else (middle, high)
    return high


def _run(target: PrivacyTarget, rounds: int) -> Callable[[float], Event]:
    rate = float(target.sampling_rate)
    count = rounds * (target.local_steps if target.mode == "local" else 1)

    def events(multiplier: float) -> Event:
        noised = Gaussian(multiplier)
        return Composed(noised if target.mode == "distributed-participant" else PoissonSampled(rate, noised), count)

    return events


def _integers(needed: float, *, honest: int, entries: int) -> tuple[int, int]:
    """Return the smallest noise exponent k whose sensitivity D loses little to rounding, and that D."""
    for exponent in range(MIN_NOISE_EXPONENT, MAX_NOISE_EXPONENT + 1):
        sensitivity = largest_sensitivity(needed, honest=honest, exponent=exponent)
        square = sensitivity * sensitivity
        if sensitivity < LEAST_SENSITIVITY or square <= entries / 12 + 4 * sensitivity:
            continue
        if entries / (24 * square) <= ROUNDING_LOSS:
            return exponent, sensitivity
    raise LocalError("E-PLAN-NOISE", f"noise multiplier {needed:.4g} over {entries} entries needs more than 2^25")


def largest_sensitivity(needed: float, *, honest: int, exponent: int) -> int:
    """Return the largest D with sqrt(h*4^k - 9)/D, rounded down as the accountant does, at least ``needed``."""
    sensitivity = int(Decimal(honest * 4**exponent - 9).sqrt() / Decimal(needed))
    while sensitivity and derived_multiplier(exponent, sensitivity, honest) < needed:
        sensitivity -= 1
    return sensitivity


def _without_noise(target: PrivacyTarget) -> Privacy:
    return Privacy(
        mode="none",
        unit="none",
        relation="none",
        epsilon="0",
        delta="0",
        sampling_rate=target.sampling_rate,
        local_steps=target.local_steps,
        clip_norm=target.clip_norm,
        upload_after_ms=target.upload_after_ms,
    )


def choose_encoding(
    privacy: Privacy, *, update_bound: str, entries: int, rounds: int, weights: Sequence[int]
) -> Encoding:
    """Return the fixed point and ring that keep the plan's ring rule, in 32 bits where those serve.

    Args:
        privacy: the calibrated mechanism.
        update_bound: largest absolute coordinate of a difference, as the draft has it (modes ``local``, ``none``).
        entries: d, length of the vector.
        rounds: T of the run.
        weights: the roster's public weights, one per participant.

    Raises:
        LocalError: ``E-PLAN-RING``, not even 64 bits hold the sum.
    """
    if privacy.mode.startswith("distributed"):
        return _for_noisy_sums(privacy, entries=entries, rounds=rounds, n=len(weights))
    return _for_differences(Decimal(update_bound), total=sum(weights))


def _for_noisy_sums(privacy: Privacy, *, entries: int, rounds: int, n: int) -> Encoding:
    """The clamp is as large as the ring allows beside the noise: it should never bite."""
    events = entries * rounds
    sigmas = WRAP_SIGMAS if events <= WRAP_EVENTS else math.sqrt(2 * math.log(2.0**41 * events))
    noise = math.ceil(sigmas * math.sqrt(n) * 2.0**privacy.noise_exponent) + 1
    small = (2**31 - 1 - noise) // n
    if small >= LEAST_CLAMP_RECORDS * privacy.sensitivity:
        return Encoding(ring_bits=32, scale_exponent=0, clamp=small)
    return Encoding(ring_bits=64, scale_exponent=0, clamp=min((2**62 - noise) // n, canonical.MAX_INTEGER))


def _for_differences(bound: Decimal, *, total: int) -> Encoding:
    for exponent in range(MAX_SCALE_EXPONENT, LEAST_SCALE_EXPONENT - 1, -1):
        clamp = int(bound * 2**exponent)
        if clamp >= 1 and total * (clamp + 1) < 2**31:
            return Encoding(ring_bits=32, scale_exponent=exponent, clamp=clamp)
    clamp = int(bound * 2**MAX_SCALE_EXPONENT)
    if clamp < 1 or total * (clamp + 1) >= 2**62 or clamp > canonical.MAX_INTEGER:
        raise LocalError("E-PLAN-RING", f"an update bound of {bound} with weights of {total} in all fits no ring")
    return Encoding(ring_bits=64, scale_exponent=MAX_SCALE_EXPONENT, clamp=clamp)
