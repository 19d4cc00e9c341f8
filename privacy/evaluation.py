"""An evaluator's signed measurement of a released adapter on public data.

Guarantees: the signature covers the plan, the round, the adapter's bytes, the data's bytes, and every figure; figures
have names of a closed set and are decimal numbers.
Leaves to others: who the evaluators of a plan are (``plan``), measuring (``participant.training.evaluation``).
Source: docs/protocol.md section 2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal, get_args

from pydantic import StringConstraints

from privacy import patterns
from privacy.plan import Plan
from privacy.secagg.keys import SigningKey, framed, number, verify

LABEL_EVALUATION: Final = b"onlysum/2/evaluation"
MetricName = Literal[
    "accuracy", "exact-match", "f1", "loss", "mean-absolute-error", "perplexity", "r2", "rouge-l", "spearman"
]
METRICS: Final[tuple[str, ...]] = get_args(MetricName)
SHARES: Final = frozenset({"accuracy", "exact-match"})  # parts of a whole, from 0 to 1
DECIMALS: Final = 6
LARGEST: Final = 1e12  # whatever is above says nothing
MetricValue = Annotated[str, StringConstraints(pattern=patterns.SIGNED_DECIMAL)]


@dataclass(frozen=True, slots=True, order=True)
class Metric:
    """A figure of merit: its name, and its value in decimals."""

    name: str
    value: str

    @classmethod
    def of(cls, name: str, value: float) -> Metric | None:
        """Return a figure, or nothing where it is not a number or beyond all measure."""
        if not math.isfinite(value) or abs(value) > LARGEST:
            return None
        return cls(name, f"{value + 0.0:.{DECIMALS}f}")

    @property
    def sound(self) -> bool:
        """Whether the name is known, and the value one that it may have."""
        if self.name not in METRICS or re.fullmatch(patterns.SIGNED_DECIMAL, self.value) is None:
            return False
        return self.name not in SHARES or 0 <= float(self.value) <= 1

    def __str__(self) -> str:
        return f"{self.name} {float(self.value):.4g}"


def metrics_words(metrics: Sequence[Metric]) -> str:
    """Return figures in words, and that there are none where there are none."""
    return ", ".join(str(metric) for metric in metrics) or "no figure that is a number"


def are_sound(metrics: Sequence[Metric]) -> bool:
    """Return whether figures are in order, each once and sound."""
    names = [metric.name for metric in metrics]
    return names == sorted(set(names)) and all(metric.sound for metric in metrics)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedEvaluation:
    """Figures over ``examples`` public examples, of the adapter after a round (0: the starting one), sorted by name."""

    plan_hash: bytes
    evaluator: str
    round: int
    adapter_sha256: bytes
    data_sha256: bytes
    examples: int
    metrics: tuple[Metric, ...]
    signature: bytes = b""

    def signed_bytes(self) -> bytes:
        """The string that the evaluator's identity key signs."""
        return framed(
            LABEL_EVALUATION,
            self.plan_hash,
            self.evaluator.encode(),
            number(self.round),
            self.adapter_sha256,
            self.data_sha256,
            number(self.examples),
            *(text.encode() for metric in self.metrics for text in (metric.name, metric.value)),
        )

    def signed(self, key: SigningKey) -> SignedEvaluation:
        """Return the same measurement with a signature."""
        return replace(self, signature=key.sign(self.signed_bytes()))

    def verifies(self, plan: Plan) -> bool:
        """Return whether one of the plan's evaluators signed this for this very plan, with figures that make sense."""
        keys = [evaluator.identity_key for evaluator in plan.evaluation.evaluators if evaluator.id == self.evaluator]
        return (
            self.plan_hash == plan.hash
            and self.examples > 0
            and are_sound(self.metrics)
            and 0 <= self.round <= plan.recipe.rounds
            and any(verify(bytes.fromhex(key), self.signature, self.signed_bytes()) for key in keys)
        )
