"""What an operator has just proposed: the roster, the numbers of the protocol, and whom everybody trusts."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from host.rendering import Json
from privacy.claims import NO_PRIVACY, graph_words, suite_words, trust_sentences
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
            "noise_exponent": plan.privacy.noise_exponent,
            "sensitivity": plan.privacy.sensitivity,
            "ring_bits": plan.encoding.ring_bits,
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
            f"  rounds    {plan.recipe.rounds}, {plan.recipe.entries} entries of {plan.encoding.ring_bits} bits",
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

    def _noise(self) -> str:
        privacy = self.plan.privacy
        if not privacy.noised:
            return NO_PRIVACY.lower()
        return (
            f"epsilon {privacy.epsilon} at delta {privacy.delta}, unit {privacy.unit}: noise "
            f"2^{privacy.noise_exponent}, sensitivity {privacy.sensitivity}, noise of {privacy.honest_noise} relied on"
        )
