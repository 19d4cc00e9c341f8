"""An evaluator's signed measurement of a released adapter on public data.

Guarantees: the signature covers the plan, the round, the adapter's bytes, the data's bytes and both counts.
Leaves to others: who the evaluators of a plan are (``plan``), measuring (``participant.training.evaluation``).
Source: docs/protocol.md section 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from privacy.plan import Plan
from privacy.secagg.keys import SigningKey, framed, number, verify

LABEL_EVALUATION: Final = b"onlysum/1/evaluation"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedEvaluation:
    """``correct`` of ``examples`` public examples, by the adapter after a round (0: the starting one)."""

    plan_hash: bytes
    evaluator: str
    round: int
    adapter_sha256: bytes
    data_sha256: bytes
    correct: int
    examples: int
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
            number(self.correct),
            number(self.examples),
        )

    def signed(self, key: SigningKey) -> SignedEvaluation:
        """Return the same measurement with a signature."""
        return replace(self, signature=key.sign(self.signed_bytes()))

    def verifies(self, plan: Plan) -> bool:
        """Return whether one of the plan's evaluators signed this for this very plan, with counts that make sense."""
        keys = [evaluator.identity_key for evaluator in plan.evaluation.evaluators if evaluator.id == self.evaluator]
        return (
            self.plan_hash == plan.hash
            and 0 <= self.correct <= self.examples
            and 0 <= self.round <= plan.recipe.rounds
            and any(verify(bytes.fromhex(key), self.signature, self.signed_bytes()) for key in keys)
        )
