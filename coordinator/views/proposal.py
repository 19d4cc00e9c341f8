"""What an operator has just proposed: the roster, the numbers of the protocol, and whom everybody trusts."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from host.rendering import Json
from privacy.claims import NO_PRIVACY, graph_words, suite_words, trust_sentences
from privacy.dp.signal import lost_by
from privacy.measurement import measurement_words
from privacy.plan import Plan


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan that waits for the approval of its roster."""

    plan: Plan

    def to_json(self) -> Json:
        """Return it for programs."""
        plan = self.plan
        return {
            "run": plan.run_id,
            "plan_sha256": plan.hash.hex(),
            "members": [member.id for member in plan.roster],
            "evaluators": [evaluator.id for evaluator in plan.evaluation.evaluators],
            "f": plan.f,
            "threshold": plan.shamir_threshold,
            "min_survivors": plan.min_survivors,
            "graph": plan.graph.model_dump(mode="json"),
            "suite": plan.suite,
            "mode": plan.privacy.mode,
            "variance_exponent": plan.privacy.variance_exponent,
            "sensitivity": plan.privacy.sensitivity,
            "entry_bits": plan.encoding.bits,
            "bytes_per_entry": _bytes_per_entry(plan),
            "signal_lost": lost_by(plan),
            "trust": list(trust_sentences(plan)),
            "warnings": list(self._warnings()),
        }

    def to_lines(self) -> list[str]:
        """Return it for people."""
        plan = self.plan
        return [
            f"Run {plan.run_id}: {plan.recipe.title}",
            f"  roster    {', '.join(f'{member.id} ({member.units})' for member in plan.roster)}",
            f"  evaluator {', '.join(evaluator.id for evaluator in plan.evaluation.evaluators) or 'nobody'}",
            *[f"  measures  {words}" for words in measurement_words(plan.recipe)],
            f"  rounds    {plan.recipe.rounds}, {plan.recipe.entries} entries of {self._words()}",
            f"  privacy   {plan.privacy.mode}: {self._noise()}",
            f"  n={plan.n} f={plan.f} T={plan.shamir_threshold} min_survivors={plan.min_survivors}",
            f"  graph     {graph_words(plan)}",
            f"  suite     {suite_words(plan)}",
            *[f"  - {sentence}" for sentence in trust_sentences(plan)],
            *[f"  warning: {warning}" for warning in self._warnings()],
            f"Waits for the approval of all {plan.n}. Next: onlysum coordinator run watch {plan.run_id[:8]}",
        ]

    def _warnings(self) -> tuple[str, ...]:
        """Return what lets members pay for steps in which most of their batches are empty."""
        rate = Decimal(self.plan.privacy.sampling_rate)
        small = [member.id for member in self.plan.roster if rate * member.units < 1]
        if not small:
            return ()
        batch = f"privacy.sampling_rate {self.plan.privacy.sampling_rate} gives an expected batch below one"
        return (f"{batch} for {', '.join(small)}: most of their steps are noise alone",)

    def _words(self) -> str:
        """Return what an entry takes on the wire, and what whole numbers of this size cost."""
        plan, scale = self.plan, self.plan.encoding.scale_exponent
        wide = f"{plan.encoding.bits} bits ({_bytes_per_entry(plan):.2f} bytes)"
        steps = f"rounded to 2^-{scale} and to at most {plan.encoding.clamp / 2**scale:.4g}"
        cost = f"whole numbers cost {lost_by(plan):.2%} of the signal" if plan.privacy.noised else ""
        return "; ".join([wide, *([steps] if scale else []), *([cost] if cost else [])])

    def _noise(self) -> str:
        privacy = self.plan.privacy
        if not privacy.noised:
            return NO_PRIVACY.lower()
        return (
            f"epsilon {privacy.epsilon} at delta {privacy.delta}, unit {privacy.unit}: noise of variance 2^"
            f"{privacy.variance_exponent}, sensitivity {privacy.sensitivity}, noise of {privacy.honest_noise} relied on"
        )


def _bytes_per_entry(plan: Plan) -> float:
    """Return how many bytes of a long vector's words an entry takes."""
    return plan.encoding.ring_bits / 8 / plan.encoding.lanes
