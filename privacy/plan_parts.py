"""The parts of a plan, each with the rules that it keeps by itself.

Guarantees: a part is frozen, has the types and bounds of its fields and no other field, and is consistent in itself.
Leaves to others: rules between parts (``privacy.plan``), and what a researcher writes (``privacy.draft``).
Source: ``docs/protocol.md`` section 2.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal
from itertools import pairwise
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from privacy import canonical, patterns
from privacy.printable import first_unprintable, printable

MIN_VARIANCE_EXPONENT = 6  # sigma_i >= 8: the lemma's error is below 1e-65 (docs/privacy-accounting.md)
MAX_VARIANCE_EXPONENT = 50  # the sampler's gamma stays within int64

# Within these bounds every accountant gives a finite figure in seconds; beyond them no run makes sense.
MIN_SAMPLING_RATE = Decimal("0.000001")
MIN_DELTA, MAX_DELTA = Decimal("1e-15"), Decimal("0.1")
MIN_MULTIPLIER, MAX_MULTIPLIER = 0.01, 1e4  # of noise: epsilons of a step from about 10 000 down to 1e-4
MAX_STEPS = 1_000_000  # of a run: rounds times local steps
# Beyond these a step is lost in the rounding of float32, and charged for, or leaps out of its range.
LEAST_RATE, MOST_RATE = Decimal("1e-9"), Decimal(10_000)
LEAST_SCALE, MOST_SCALE = Decimal("1e-6"), Decimal(1_000_000)  # of what is multiplied, divided by or clipped to
MOST_BAND = 4096  # finer ratios of bands than this gain nothing
MOST_MICRO_BATCH = 4096  # rows whose gradients are in memory at a time

Name = Annotated[str, StringConstraints(pattern=patterns.NAME)]
Hex128 = Annotated[str, StringConstraints(pattern=patterns.HEX_128)]
Hex256 = Annotated[str, StringConstraints(pattern=patterns.HEX_256)]
DecimalString = Annotated[str, StringConstraints(pattern=patterns.DECIMAL)]


def _one_line(text: str) -> str:
    return _require_printable(text, first_unprintable(text))


def _lines(text: str) -> str:
    return _require_printable(text, first_unprintable(text, line_breaks=True))


def _require_printable(text: str, character: str | None) -> str:
    if character is not None:
        raise PydanticCustomError("unprintable", "has a character that cannot be shown, {at}", {"at": character})
    return text


def _rate(text: str) -> str:
    return _require_within(text, LEAST_RATE, MOST_RATE)


def _rate_or_none(text: str) -> str:
    return text if text == "0" else _rate(text)


def _scale(text: str) -> str:
    return _require_within(text, LEAST_SCALE, MOST_SCALE)


def _require_within(text: str, least: Decimal, most: Decimal) -> str:
    if not least <= Decimal(text) <= most:
        bounds = {"least": f"{least.normalize():f}", "most": f"{most:,f}"}
        raise PydanticCustomError("bounds", "it must be from {least} to {most}", bounds)
    return text


Rate = Annotated[DecimalString, AfterValidator(_rate)]
RateOrNone = Annotated[DecimalString, AfterValidator(_rate_or_none)]  # 0 where nothing trains
Scale = Annotated[DecimalString, AfterValidator(_scale)]
MicroBatch = Annotated[int, Field(ge=1, le=MOST_MICRO_BATCH)]
Text = Annotated[str, StringConstraints(min_length=0, max_length=4000), AfterValidator(_one_line)]
# As Text, but with line feeds.
Paragraphs = Annotated[str, StringConstraints(min_length=0, max_length=4000), AfterValidator(_lines)]
Count = Annotated[int, Field(ge=0, le=canonical.MAX_INTEGER)]
Positive = Annotated[int, Field(ge=1, le=canonical.MAX_INTEGER)]
Moment = Annotated[int, Field(ge=0, le=253_402_300_799)]  # seconds since the Unix epoch, to the end of the year 9999
Attempts = Annotated[int, Field(ge=1, le=100)]  # at a round, whatever ends them; keys and masks are new in each
ATTEMPTS: Final = 10  # by default: three may fail (coordinator.runs.lifecycle), the others are there for restarts

_EXACT: Final = Context(prec=1000)  # of products of what a plan says: longer than any of its decimals

Mode = Literal["local", "distributed", "distributed-participant", "none"]
Unit = Literal["example", "user", "participant", "none"]


class BrokenRuleError(ValueError):
    """A rule of plans with an entry of its own in the registry of errors."""

    def __init__(self, code: str, rule: str) -> None:
        super().__init__(rule)
        self.code = code


def first_problem(error: ValidationError, whole: str) -> tuple[str, str, BrokenRuleError | ValueError | None]:
    """Return where a document first breaks its form, what is expected there, and the rule's own error if it is one.

    Nothing of what the document says is repeated, and its unknown keys are printable.

    Args:
        error: of the document.
        whole: its name, where the fault is of no single field.
    """
    first = error.errors(include_url=False, include_input=False)[0]
    context = first.get("ctx", {})
    where = ".".join(printable(str(part)) for part in first["loc"]) or whole
    if first["type"] == "union_tag_invalid":  # its own words would repeat the tag
        return where, f"{context['discriminator']} must be one of {context['expected_tags']}", None
    broken = context.get("error")
    return where, str(broken or patterns.in_words(first)), broken if isinstance(broken, ValueError) else None


class PlanModel(BaseModel):
    """Base of every part of a plan: frozen, strict, and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class MemberOptions(PlanModel):
    """What a participant trains less than others, publicly; a recipe's ``counts`` says whether it may."""

    rank: Count = 0  # of its factors; 0: the adapter's own
    layers: tuple[Count, ...] = ()  # which of the adapter's layers; empty: all


class Member(PlanModel):
    """A participant on the roster.

    ``units`` is its public number of privacy units (the relation is zero-out, so sizes are public); ``weight`` is the
    public integer by which its update is multiplied before masking (always 1 in the distributed modes).
    """

    id: Name
    identity_key: Hex256
    units: Positive
    weight: Positive = 1
    with_operator: bool = False  # its organisation also runs the coordinator: it counts in f
    options: MemberOptions = MemberOptions()


class Evaluator(PlanModel):
    """An enrolled evaluator: measures released adapters on public data, never masks."""

    id: Name
    identity_key: Hex256


class Evaluation(PlanModel):
    """Who measures the released adapters, on which public data of theirs, and how often."""

    data: Name
    every: Positive = 1
    evaluators: tuple[Evaluator, ...] = ()


class Graph(PlanModel):
    """Who masks with whom. The k-regular kind carries its own, weaker sentence of claim (docs/graphs.md)."""

    kind: Literal["complete", "k-regular"] = "complete"
    neighbours: Count = 0  # k: of each participant at most; 0 for the complete graph
    share_threshold: Count = 0  # t: how many of a participant's holders rebuild its secrets; 0 for the complete graph
    max_dropouts: Count = 0  # D: n - min_survivors; 0 for the complete graph

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "complete" and (self.neighbours, self.share_threshold, self.max_dropouts) != (0, 0, 0):
            raise ValueError("the complete graph has no neighbours, share_threshold or max_dropouts")
        if self.kind == "k-regular" and not (self.neighbours >= 2 and self.neighbours % 2 == 0):
            raise ValueError("a k-regular graph needs an even number of neighbours of at least 2")
        return self


class Encoding(PlanModel):
    """Fixed point in the ring Z_2^b, signed two's complement (docs/protocol.md section 7).

    An update is multiplied by ``2**scale_exponent`` and rounded; in the distributed modes it consists of integers
    already and the exponent is 0. Every coordinate is clamped to +-``clamp`` before noise, never refused.
    """

    ring_bits: Literal[32, 64]
    lane_bits: Count = 0  # L of packed lanes in 64-bit words; 0: one entry per word
    scale_exponent: Annotated[int, Field(ge=0, le=50)]
    clamp: Positive
    down_bits: Literal[32] = 32  # of an entry of the state that travels down

    @property
    def bits(self) -> int:
        """The modulus of one entry is 2**bits."""
        return self.lane_bits or self.ring_bits

    @property
    def lanes(self) -> int:
        """Entries per word."""
        return self.ring_bits // self.bits

    @model_validator(mode="after")
    def _lanes(self) -> Self:
        if self.lane_bits and (self.ring_bits != 64 or not 8 <= self.lane_bits <= 32):
            raise ValueError("packed lanes are 8 to 32 bits wide in a 64-bit ring")
        return self


class PrivacySpec(PlanModel):
    """The privacy that is asked for: what a draft's target and a calibrated plan have in common."""

    mode: Mode
    unit: Unit
    epsilon: DecimalString  # target at delta; "0" in mode none
    delta: DecimalString
    sampling_rate: DecimalString  # q, of Poisson sampling; what is executed
    local_steps: Positive  # E
    clip_norm: DecimalString  # C, per unit
    max_rows_per_user: Count = 0  # 0 unless the unit is the user
    upload_after_ms: Count = 0  # no upload leaves earlier after the round's start
    # c_0, c_1, ... of noise that is correlated over rounds; (1,): each round's is independent of every other's
    bands: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=256)] = (1,)

    @property
    def noised(self) -> bool:
        """Whether this makes a claim of differential privacy."""
        return self.mode != "none"

    @property
    def banded(self) -> bool:
        """Whether noise is correlated over rounds (docs/privacy-accounting.md section 11)."""
        return len(self.bands) > 1

    @property
    def bin_rate(self) -> str:
        """Probability with which a unit whose bin has its turn is drawn in a round: q times the number of bins."""
        if not self.banded:
            return self.sampling_rate
        rate = _EXACT.multiply(Decimal(self.sampling_rate), Decimal(len(self.bands)))
        return f"{_EXACT.normalize(rate):f}"

    def charges(self, rounds: int) -> int:
        """Return as how many events the first so many rounds of a run are charged, at most."""
        return -(-rounds // len(self.bands))

    def charged_as(self, round_number: int) -> int:
        """Return under which round's number a round, from 1, is charged: that of the first of its charging block."""
        return round_number - (round_number - 1) % len(self.bands)

    @model_validator(mode="after")
    def _bands(self) -> Self:
        if not self.banded:
            if self.bands != (1,):
                raise ValueError("a single band is [1]")
            return self
        if max(self.bands) > MOST_BAND:
            raise ValueError(f"a band is at most {MOST_BAND}")
        if self.mode != "distributed":
            raise ValueError("bands belong to mode distributed: in the others each round's noise is by itself")
        if any(after > before for before, after in pairwise(self.bands)):
            raise ValueError("bands must not rise from one to the next, or sums could not be decoded")
        if Decimal(self.bin_rate) > 1:
            raise ValueError("sampling_rate times the number of bands must be at most 1")
        return self

    @model_validator(mode="after")
    def _rate(self) -> Self:
        if not 0 < Decimal(self.sampling_rate) <= 1:
            raise ValueError("sampling_rate must be above 0 and at most 1")
        return self

    @model_validator(mode="after")
    def _mode(self) -> Self:
        if not self.noised:
            return self
        if self.unit == "none":
            raise ValueError("a noised mode has a unit of privacy")
        if (self.unit == "participant") != (self.mode == "distributed-participant"):
            raise ValueError("the unit is the participant in mode distributed-participant, and only there")
        if (self.unit == "user") != (self.max_rows_per_user > 0):
            raise ValueError("max_rows_per_user belongs to the user unit, and only to it")
        if self.mode == "distributed" and self.local_steps != 1:
            raise ValueError("mode distributed takes one step per round")
        if not (0 < Decimal(self.epsilon) and 0 < Decimal(self.delta) < 1 and Decimal(self.clip_norm) > 0):
            raise ValueError("epsilon, delta and clip_norm must be positive, delta below 1")
        if not LEAST_SCALE <= Decimal(self.clip_norm) <= MOST_SCALE:
            raise ValueError(f"clip_norm must be from {LEAST_SCALE:f} to {MOST_SCALE:,f} in a noised mode")
        if Decimal(self.sampling_rate) < MIN_SAMPLING_RATE:
            raise ValueError(f"sampling_rate must be at least {MIN_SAMPLING_RATE:f} in a noised mode")
        if not MIN_DELTA <= Decimal(self.delta) <= MAX_DELTA:
            raise ValueError(f"delta must be from {MIN_DELTA:e} to {MAX_DELTA}")
        return self

    def require_countable(self, rounds: int) -> None:
        """Refuse more steps than accountants add up, or than any run takes.

        Raises:
            ValueError: there are more than :data:`MAX_STEPS`.
        """
        if rounds * self.local_steps > MAX_STEPS:
            raise ValueError(f"rounds times local_steps must be at most {MAX_STEPS:,}")


class Privacy(PrivacySpec):
    """The mode, its integers, and the target that they were calibrated for.

    ``variance_exponent`` j, ``sensitivity`` D and ``honest_noise`` h are the mechanism: each participant adds discrete
    Gaussian noise of variance 2**j, one unit of privacy moves the integer sum by at most D, and h participants' noise
    is relied on. All three are 0 in mode ``none``. In mode ``local`` h is 1, and each of ``local_steps`` steps is
    noised.
    """

    relation: Literal["zero-out", "none"]
    variance_exponent: Count = 0
    sensitivity: Count = 0
    honest_noise: Count = 0

    @property
    def sigma(self) -> float:
        """Standard deviation of one participant's noise, in integer steps; 0.0 without noise."""
        return math.sqrt(2**self.variance_exponent) if self.noised else 0.0  # a correctly rounded root, unlike a power

    @property
    def noise_multiplier(self) -> float:
        """z' = sqrt(h*2^j - 9)/(|c|*D) of the lemma in docs/privacy-accounting.md; 0.0 without noise."""
        if not self.noised:
            return 0.0
        shift = self.sensitivity * math.sqrt(sum(band * band for band in self.bands))
        return math.sqrt(self.honest_noise * 2**self.variance_exponent - 9) / shift

    @model_validator(mode="after")
    def _mechanism(self) -> Self:
        mechanism = (self.variance_exponent, self.sensitivity, self.honest_noise)
        if not self.noised:
            if mechanism != (0, 0, 0) or self.unit != "none" or self.relation != "none":
                raise ValueError("mode none has no noise, unit or relation")
            return self
        if self.relation != "zero-out":
            raise ValueError("a noised mode has the zero-out relation")
        if not MIN_VARIANCE_EXPONENT <= self.variance_exponent <= MAX_VARIANCE_EXPONENT:
            raise BrokenRuleError(
                "E-PLAN-NOISE", f"variance_exponent must be {MIN_VARIANCE_EXPONENT} to {MAX_VARIANCE_EXPONENT}"
            )
        if self.sensitivity < 1 or self.honest_noise < 1:
            raise ValueError("a noised mode needs a sensitivity and honest noise of at least 1")
        if self.mode == "local" and self.honest_noise != 1:
            raise ValueError("in mode local nobody else's noise is relied on: honest_noise is 1")
        return self
