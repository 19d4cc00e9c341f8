"""From a privacy target to the integers of the mechanism and of the ring, in words as narrow as the sum allows.

Guarantees: the integers keep the target under the very accountant that the ledger and the report use (the noise
multiplier is derived from them and rounded against us), ``D^2 > d/12 + 4D``, and the ring rule of the plan.
Leaves to others: rules of a plan (``privacy.plan`` checks them again), what whole numbers cost (``signal``), the
mechanism itself (``clipping``, ``noise``).
Source: docs/privacy-accounting.md section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Final, Literal

from privacy import canonical
from privacy.dp import bands
from privacy.dp.accountants import epsilon
from privacy.dp.clipping import MAX_SENSITIVITY, clip_radius
from privacy.dp.events import Composed, Event, Gaussian, PoissonSampled, band_norm, derived_multiplier
from privacy.dp.signal import Setting, least_clamp, noise_of_difference, share_lost
from privacy.draft import PrivacyTarget
from privacy.errors import LocalError
from privacy.measure_parts import grid_step
from privacy.plan import LEAST_GRID_STEP, wrap_sigmas
from privacy.plan_parts import MAX_VARIANCE_EXPONENT, MIN_VARIANCE_EXPONENT, Encoding, Privacy

ENTRY_BITS: Final = (8, 9, 10, 12, 16, 21, 32, 64)  # narrowest first; below 32 as many as fill a 64-bit word
MOST_LOST: Final = 0.01  # share of the signal that narrow words may cost
LITTLE_LOST: Final = 0.001  # a share that finer grids need not save
LEAST_MULTIPLIER: Final = 0.05  # less noise than this has no meaningful epsilon
MOST_MULTIPLIER: Final = 2.0**20
PRECISION: Final = 1e-4  # relative, of the bisection; the final check is on the integers
MAX_SCALE_EXPONENT: Final = 24  # the precision of a float32 mantissa
LEAST_SCALE_EXPONENT: Final = 16  # of differences without noise: coarser fixed point than 1.5e-5 would show
LEAST_STEPS: Final = 2**10  # of such a difference's bound
# Of a draft: a grid about as fine as a plan's, so that rounding hides nothing from its self-check.
ASSUMED_SENSITIVITY: Final = 2000
ASSUMED_SQUARE: Final = 100  # of the sensitivity, per entry that is clipped


def calibrate(target: PrivacyTarget, setting: Setting, *, entry_bits: int | None = None) -> tuple[Privacy, Encoding]:
    """Return the mechanism's integers and the ring for a target once roster, f and min_survivors are known.

    They are chosen together: the narrowest words that hold the sum and cost at most :data:`MOST_LOST` of the signal.

    Args:
        target: what the draft asks for.
        setting: whom and what it is for.
        entry_bits: one of :data:`ENTRY_BITS`, whatever it costs; ``None`` to choose.

    Raises:
        LocalError: ``E-PLAN-NOISE``, no noise that the lemma covers reaches the target; ``E-PLAN-RING``, these words,
            or none, hold the sum; ``E-USAGE``, there are no words of so many bits.
    """
    if entry_bits is not None and entry_bits not in ENTRY_BITS:
        raise LocalError("E-USAGE", f"an entry has one of {', '.join(map(str, ENTRY_BITS))} bits")
    mechanisms = list(_mechanisms(target, setting))
    for bits in ENTRY_BITS if entry_bits is None else (entry_bits,):
        encodings = [(privacy, _encoding(privacy, target, setting, bits)) for privacy in mechanisms]
        costs = [
            (share_lost(privacy, encoding, setting), privacy, encoding)
            for privacy, encoding in encodings
            if encoding is not None
        ]
        least, most = min((cost for cost, _, _ in costs), default=1.0), MOST_LOST if entry_bits is None else 1.0
        if least > most:
            continue
        for cost, privacy, encoding in costs:  # the coarsest grid about as good as the finest
            if cost <= min(least + LITTLE_LOST, most):
                return _within_target(privacy, target, setting), encoding
    words = "no words hold" if entry_bits is None else f"words of {entry_bits} bits do not hold"
    raise LocalError("E-PLAN-RING", f"{words} a sum of {setting.n} updates of {setting.entries} entries")


def _mechanisms(target: PrivacyTarget, setting: Setting) -> Iterator[Privacy]:
    """Yield what reaches the target, from the least noise that the lemma covers; in mode ``none`` what has none."""
    if target.mode == "none":
        yield _without_noise(target)
        return
    if not max(setting.f, 1) < setting.min_survivors <= setting.n:
        rule = f"min_survivors {setting.min_survivors} leaves no honest noise beside f = {setting.f}"
        raise LocalError("E-PLAN-NOISE", rule)
    honest = 1 if target.mode == "local" else setting.min_survivors - max(setting.f, 1)
    needed, known = needed_multiplier(target, rounds=setting.rounds), False
    for exponent in range(MIN_VARIANCE_EXPONENT, MAX_VARIANCE_EXPONENT + 1):
        sensitivity = largest_sensitivity(needed, honest=honest, exponent=exponent, bands=target.bands)
        fits = sensitivity**2 > setting.clipped / 12 + 4 * sensitivity and sensitivity <= MAX_SENSITIVITY
        if fits and _is_fine(target, setting, sensitivity):
            known = True
            yield _with_noise(target, exponent, sensitivity, honest)
    if not known:
        detail = f"noise multiplier {needed:.4g} over {setting.clipped} entries needs a variance of more than 2^50"
        raise LocalError("E-PLAN-NOISE", detail)


def _is_fine(target: PrivacyTarget, setting: Setting, sensitivity: int) -> bool:
    """Return whether a grid tells shares of what is measured apart; what trains is content with any."""
    radius = clip_radius(sensitivity, setting.clipped)
    spare = LEAST_GRID_STEP // 100  # D is lowered a little where the accountant wants it
    return not setting.measures or grid_step(radius, float(target.clip_norm)) >= LEAST_GRID_STEP + spare


def assumed(target: PrivacyTarget, *, clipped: int) -> Privacy:
    """Return a mechanism for the self-check of a draft, which has no roster yet.

    Args:
        target: what the draft asks for.
        clipped: entries of the longest vector that is clipped.
    """
    if target.mode == "none":
        return _without_noise(target)
    sensitivity = min(MAX_SENSITIVITY, max(ASSUMED_SENSITIVITY, math.isqrt(ASSUMED_SQUARE * clipped) + 1))
    return _with_noise(target, MAX_VARIANCE_EXPONENT, sensitivity, honest=1)


def _with_noise(target: PrivacyTarget, exponent: int, sensitivity: int, honest: int) -> Privacy:
    return Privacy(
        mode=target.mode,
        unit=target.unit,
        relation="zero-out",
        epsilon=target.epsilon,
        delta=target.delta,
        sampling_rate=target.sampling_rate,
        local_steps=target.local_steps,
        clip_norm=target.clip_norm,
        variance_exponent=exponent,
        sensitivity=sensitivity,
        honest_noise=honest,
        max_rows_per_user=target.max_rows_per_user,
        upload_after_ms=target.upload_after_ms,
        bands=target.bands,
    )


def _within_target(privacy: Privacy, target: PrivacyTarget, setting: Setting) -> Privacy:
    """Return the mechanism with D lowered until the accountant agrees: its grid may have moved since the bisection."""
    if not privacy.noised:
        return privacy
    exponent, sensitivity, honest = privacy.variance_exponent, privacy.sensitivity, privacy.honest_noise
    events = _run(target, setting.rounds)
    wanted, delta = float(target.epsilon), float(target.delta)
    while epsilon(events(derived_multiplier(exponent, sensitivity, honest, target.bands)), delta) > wanted:
        sensitivity -= 1
    return _with_noise(target, exponent, sensitivity, honest)


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
    rate = float(target.bin_rate)
    count = target.charges(rounds) * (target.local_steps if target.mode == "local" else 1)

    def events(multiplier: float) -> Event:
        noised = Gaussian(multiplier)
        return Composed(noised if target.mode == "distributed-participant" else PoissonSampled(rate, noised), count)

    return events


def best_bands(target: PrivacyTarget, *, rounds: int) -> tuple[int, ...]:
    """Return the bands of least error at a target, [1] where none are worth their place at home.

    Compared is the noise in the sum of all decoded sums so far (``bands.error``) at the least multiplier for so many
    bands: the more there are, the less sampling hides and the more of the noise cancels.

    Raises:
        LocalError: ``E-PLAN-NOISE``, the target is out of reach.
    """

    def error_of(banded: PrivacyTarget) -> float:
        return needed_multiplier(banded, rounds=rounds) * bands.error(banded.bands, rounds)

    single = target.model_copy(update={"bands": (1,)})
    best, least = single.bands, error_of(single) * bands.WORTH
    for count in bands.COUNTS:
        if count > rounds or count * Decimal(target.sampling_rate) > 1:
            break
        banded = target.model_copy(update={"bands": bands.chosen(count, rounds)})
        if (found := error_of(banded)) < least:
            best, least = banded.bands, found
    return best


def largest_sensitivity(needed: float, *, honest: int, exponent: int, bands: Sequence[int] = (1,)) -> int:
    """Return the largest D with sqrt(h*2^j - 9)/(|c|*D), rounded down as the accountant does, at least ``needed``."""
    sensitivity = int(Decimal(honest * 2**exponent - 9).sqrt() / (Decimal(needed) * band_norm(bands)))
    while sensitivity and derived_multiplier(exponent, sensitivity, honest, bands) < needed:
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


def _encoding(privacy: Privacy, target: PrivacyTarget, setting: Setting, bits: int) -> Encoding | None:
    """Return the fixed point with the plan's ring rule in words of so many bits, or None if there is none."""
    if privacy.mode.startswith("distributed"):
        return _of_noisy_sums(privacy, setting, bits)
    if not setting.measures:
        return _of_differences(privacy, Decimal(target.update_bound), setting, bits)
    if not privacy.noised:
        return _of_differences(privacy, Decimal(setting.units), setting, bits)
    return _of_noisy_counts(privacy, setting, bits)


def _of_noisy_sums(privacy: Privacy, setting: Setting, bits: int) -> Encoding | None:
    """The clamp is as large as the ring allows beside the noise: it should never bite."""
    sigmas = wrap_sigmas(setting.entries * setting.rounds)
    noise = math.ceil(sigmas * math.sqrt(setting.n) * privacy.sigma) + 1
    clamp = min((2 ** (bits - 1) - 1 - noise) // (setting.n * sum(privacy.bands)), canonical.MAX_INTEGER)
    return _words(bits, 0, clamp) if clamp >= max(1.0, least_clamp(privacy, setting)) else None


def _of_noisy_counts(privacy: Privacy, setting: Setting, bits: int) -> Encoding | None:
    """In mode ``local`` a participant's own sum is clamped with all of its noise, which should never bite."""
    noise = math.ceil(wrap_sigmas(setting.entries * setting.n) * privacy.sigma) + 1
    clamp = math.ceil(least_clamp(privacy, setting)) + noise
    fits = clamp <= canonical.MAX_INTEGER and setting.n * (clamp + 1) < 2 ** (bits - 1)
    return _words(bits, 0, clamp) if fits else None


def _of_differences(privacy: Privacy, bound: Decimal, setting: Setting, bits: int) -> Encoding | None:
    """The scale is as fine as the ring allows; how fine it must be depends on the noise, or on nothing known."""
    known = privacy.noised and noise_of_difference(privacy, setting) > 0
    coarsest, least = (0, 1) if known else (LEAST_SCALE_EXPONENT, min(LEAST_STEPS, int(bound * 2**MAX_SCALE_EXPONENT)))
    for exponent in range(MAX_SCALE_EXPONENT, coarsest - 1, -1):
        clamp = int(bound * 2**exponent)
        if max(least, 1) <= clamp <= canonical.MAX_INTEGER and setting.weights * (clamp + 1) < 2 ** (bits - 1):
            return _words(bits, exponent, clamp)
    return None


def _words(bits: int, exponent: int, clamp: int) -> Encoding:
    ring: Literal[32, 64] = 32 if bits == 32 else 64
    return Encoding(ring_bits=ring, lane_bits=bits if bits < 32 else 0, scale_exponent=exponent, clamp=clamp)
