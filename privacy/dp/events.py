"""What a release costs, as frozen values: the ledger holds these, and every epsilon is computed from them.

Guarantees: an event has one canonical JSON form and an unknown form is refused; a plan's round has exactly one event,
whatever happens in it (nothing executed ever lowers it).
Leaves to others: adding up (``accountants``), charging (``privacy.ledger``).
Source: docs/privacy-accounting.md sections 2 and 5; google/differential-privacy ``dp_event.py``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Final, Literal, assert_never

from privacy.canonical import Json
from privacy.plan import Plan

Relation = Literal["zero-out", "replace-one"]  # the neighbouring relation is an argument of every accountant

LARGEST_MULTIPLIER: Final = 1e9  # beyond it a release costs nothing that a double could tell
SMALLEST_MULTIPLIER: Final = 1e-6  # below it there is no noise worth the name
MULTIPLIER_DECIMALS: Final = Decimal("1e-12")  # a plan's noise multiplier is rounded down to these


@dataclass(frozen=True, slots=True)
class Gaussian:
    """A Gaussian release: its standard deviation is ``noise_multiplier`` times what one unit of privacy can move."""

    noise_multiplier: float

    def __post_init__(self) -> None:
        if not SMALLEST_MULTIPLIER <= self.noise_multiplier <= LARGEST_MULTIPLIER:
            raise ValueError(f"noise multiplier {self.noise_multiplier} is not from 1e-6 to 1e9")


@dataclass(frozen=True, slots=True)
class PoissonSampled:
    """A release on a batch in which each unit of privacy lies with probability ``sampling_rate``, independently."""

    sampling_rate: float
    event: Gaussian

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"sampling rate {self.sampling_rate} is not above 0 and at most 1")


@dataclass(frozen=True, slots=True)
class Composed:
    """An event that happens ``count`` times, each with fresh coins and noise."""

    event: Event
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("an event is composed at least once")


Event = Gaussian | PoissonSampled | Composed
Step = tuple[float, float]  # sampling rate (1 without sampling) and noise multiplier


def steps(events: Event | Iterable[Event]) -> Counter[Step]:
    """Return how often each elementary step happens in some events; equal steps add up."""
    counted: Counter[Step] = Counter()
    for event in (events,) if isinstance(events, Gaussian | PoissonSampled | Composed) else events:
        step, count = _step(event)
        counted[step] += count
    return counted


def _step(event: Event) -> tuple[Step, int]:
    match event:
        case Gaussian():
            return (1.0, event.noise_multiplier), 1
        case PoissonSampled():
            return (event.sampling_rate, event.event.noise_multiplier), 1
        case Composed():
            step, count = _step(event.event)
            return step, count * event.count
        case _:
            assert_never(event)


def to_json(event: Event) -> Json:
    """Return the JSON value of an event; numbers that are no integers are decimal strings."""
    match event:
        case Gaussian():
            return {"kind": "gaussian", "noise_multiplier": decimal(event.noise_multiplier)}
        case PoissonSampled():
            return {
                "kind": "poisson-sampled",
                "sampling_rate": decimal(event.sampling_rate),
                "event": to_json(event.event),
            }
        case Composed():
            return {"kind": "composed", "event": to_json(event.event), "count": event.count}
        case _:
            assert_never(event)


def from_json(value: Json) -> Event:
    """Read an event.

    Raises:
        ValueError: an unknown event, an unknown, missing or mistyped field, or a number out of range.
    """
    match value:
        case {"kind": "gaussian", "noise_multiplier": str(multiplier), **rest} if not rest:
            return Gaussian(_number(multiplier))
        case {"kind": "poisson-sampled", "sampling_rate": str(rate), "event": Mapping() as inner, **rest} if not rest:
            sampled = from_json(inner)
            if not isinstance(sampled, Gaussian):
                raise ValueError("only a Gaussian release is accounted under Poisson sampling")
            return PoissonSampled(_number(rate), sampled)
        case {"kind": "composed", "event": Mapping() as inner, "count": int(count), **rest} if not rest:
            return Composed(from_json(inner), count)
        case _:
            raise ValueError("an unknown event of privacy loss: it cannot be accounted")


def decimal(value: float) -> str:
    """Return the shortest decimal string that reads back as the same number, never in exponent form."""
    text = format(Decimal(repr(float(value))), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_epsilon_up(epsilon: float, decimals: int = 2) -> str:
    """Return an epsilon for reading, rounded up: what is printed must be an upper bound too."""
    if not math.isfinite(epsilon) or epsilon >= 100:  # only the size matters there
        return f"{math.ceil(epsilon):,}" if math.isfinite(epsilon) else "infinite"
    scale = 10**decimals
    return f"{math.ceil(epsilon * scale - 1e-9) / scale:.{decimals}f}"


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or decimal(value) != text:
        raise ValueError(f"{text!r} is not a number in its shortest decimal form")
    return value


def band_norm(bands: Sequence[int]) -> Decimal:
    """Return |c|, by how much a unit's norm in a block of rounds exceeds that in one; rounded up, and 1 for [1]."""
    square = Decimal(sum(band * band for band in bands))
    root = square.sqrt()
    return root if root * root >= square else root.next_plus()


def derived_multiplier(exponent: int, sensitivity: int, honest_noise: int, bands: Sequence[int] = (1,)) -> float:
    """Return z' = sqrt(h*2^j - 9)/(|c|*D) of the lemma, rounded down."""
    root = Decimal(honest_noise * 2**exponent - 9).sqrt()
    return float((root / (sensitivity * band_norm(bands))).quantize(MULTIPLIER_DECIMALS, rounding=ROUND_FLOOR))


def round_event(plan: Plan, *, honest_noise: int | None = None) -> Event | None:
    """Return what one charge of a plan costs a unit of privacy, or None in mode ``none`` (no claim at all).

    A charge is for a round, or with bands for a charging block of as many rounds (``Privacy.charges``).

    Args:
        plan: the plan.
        honest_noise: how many noises to rely on in the sum; the plan's own h unless other collusion is asked about.
            Mode ``local`` relies on nobody else's, so there it changes nothing.
    """
    privacy = plan.privacy
    relied_on = privacy.honest_noise if honest_noise is None or privacy.mode == "local" else honest_noise
    if privacy.mode == "none":
        return None
    multiplier = derived_multiplier(privacy.variance_exponent, privacy.sensitivity, relied_on, privacy.bands)
    noised = Gaussian(multiplier)
    sampled = PoissonSampled(float(privacy.bin_rate), noised)
    match privacy.mode:
        case "local":
            return sampled if privacy.local_steps == 1 else Composed(sampled, privacy.local_steps)
        case "distributed":
            return sampled
        case "distributed-participant":
            return noised
        case _:
            assert_never(privacy.mode)
