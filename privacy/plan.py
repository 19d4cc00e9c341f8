"""The plan: the signed document that all parties approve, and the only source of rules in a run.

It fixes what is trained, how, with whom and at what privacy. No message of a coordinator ever sets one of its fields.

Guarantees: a :class:`Plan` in memory is complete and keeps the arithmetic rules of ``docs/protocol.md`` (threshold,
quorum, least survivors, ring) and ``docs/privacy-accounting.md`` (noise, sensitivity, honest noise); a
:class:`VerifiedPlan` was also signed by the pinned operator.
Leaves to others: what a part keeps by itself (``privacy.plan_parts``, ``privacy.draft``), whether an owner's policy
allows it (``participant.owner.policy``), and calibration (``privacy.dp``).
Source: ``docs/protocol.md`` section 2.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from privacy import canonical
from privacy.draft import Recipe, require_bandable
from privacy.errors import PlanError
from privacy.measure_parts import grid_step, norm_bound
from privacy.plan_parts import (
    ATTEMPTS,
    MAX_MULTIPLIER,
    MIN_MULTIPLIER,
    Attempts,
    BrokenRuleError,
    Count,
    Encoding,
    Evaluation,
    Evaluator,
    Graph,
    Hex128,
    Member,
    Moment,
    Name,
    PlanModel,
    Positive,
    Privacy,
    Text,
    first_problem,
)
from privacy.secagg import graph_bounds, keys
from privacy.secagg.parameters import Parameters, RosterMember

if TYPE_CHECKING:
    from privacy.adapter_parts import Turn
    from privacy.secagg.layout import Layout

PROTOCOL_VERSION: Final = 2
PLAN_SIGNATURE_LABEL = b"onlysum/1/plan"
APPROVAL_LABEL = b"onlysum/1/approval"
MAX_ROSTER = 4096  # x-coordinates and messages stay small
COMPLETE_GRAPH_MAX = 512
WRAP_SIGMAS = 10.5  # P(any wrap) < 2^-40 while entries x rounds <= WRAP_EVENTS (docs/protocol.md section 7)
WRAP_EVENTS = 3.9e11
LEAST_GRID_STEP = 1000  # of the integers that stand for 1 in a measurement: a loss is rounded to a thousandth
LEAST_REGULAR_DELTA = 1e-9  # a thousand times the 2^-40 that a k-regular graph takes off it
_id: Final = attrgetter("id")


class Plan(PlanModel):
    """Everything that binds the parties of a run. See the module's docstring."""

    protocol_version: Literal[2] = PROTOCOL_VERSION
    suite: Literal[1, 2] = 1
    federation: Name
    operator: Text
    operator_contact: Text = ""  # whom to call about the coordinator; empty is shown as missing
    run_id: Hex128
    created_at: Moment
    expires_at: Moment
    recipe: Recipe
    privacy: Privacy
    encoding: Encoding
    weight_rule: Literal["equal", "units"] = "equal"
    evaluation: Evaluation
    roster: Annotated[tuple[Member, ...], Field(min_length=3, max_length=MAX_ROSTER)]
    f: Count
    shamir_threshold: Positive
    quorum: Positive
    min_survivors: Positive
    graph: Graph
    max_attempts: Attempts = ATTEMPTS

    @property
    def n(self) -> int:
        """Size of the roster, which is the cohort of every round in protocol version 2."""
        return len(self.roster)

    @property
    def charges(self) -> int:
        """As how many events a whole run is charged: one a round, or with bands one for as many rounds."""
        return self.privacy.charges(self.recipe.rounds)

    @property
    def share_threshold(self) -> int:
        """How many shares rebuild a participant's secrets: T, or t of its holders in a k-regular graph."""
        return self.graph.share_threshold or self.shamir_threshold

    def parameters(self) -> Parameters:
        """Return what secure aggregation has to know of this plan."""
        return Parameters(
            protocol_version=self.protocol_version,
            suite=self.suite,
            roster=tuple(
                RosterMember(member.id, bytes.fromhex(member.identity_key), member.weight) for member in self.roster
            ),
            share_threshold=self.share_threshold,
            quorum=self.quorum,
            min_survivors=self.min_survivors,
            neighbours=self.graph.neighbours,
            rounds=self.recipe.rounds,
            max_attempts=self.max_attempts,
        )

    def layout(self, round_number: int) -> Layout:
        """Return what is summed in a round, in ring words."""
        return self._layout_of(self.recipe.turn(round_number))

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """What is summed in each kind of round that the plan has, the shortest first."""
        kinds = (self._layout_of(self.recipe.turns[place]) for place in self.recipe.schedule.turns)
        return tuple(sorted(kinds, key=lambda layout: layout.entries))

    def _layout_of(self, turn: Turn) -> Layout:
        from privacy.secagg.fixed_point import Ring  # these import numpy, which help does without
        from privacy.secagg.layout import Layout

        ring = Ring(bits=self.encoding.ring_bits, lane_bits=self.encoding.lane_bits)
        return Layout(ring, tuple((stream.name, stream.length) for stream in turn.sums))

    def to_bytes(self) -> bytes:
        """Return the canonical JSON that is hashed and signed."""
        return canonical.encode(self.model_dump(mode="json"))

    @property
    def hash(self) -> bytes:
        """SHA-256 over :meth:`to_bytes` (32 bytes)."""
        return hashlib.sha256(self.to_bytes()).digest()

    def index(self, participant: str) -> int:
        """Return a participant's position on the roster, from 0; its Shamir x-coordinate is one more.

        Raises:
            KeyError: it is not on the roster.
        """
        position = bisect_left(self.roster, participant, key=_id)  # the roster is sorted
        if position == self.n or self.roster[position].id != participant:
            raise KeyError(participant)
        return position

    def member(self, participant: str) -> Member:
        """Return the roster's entry of a participant, or raise ``KeyError``."""
        return self.roster[self.index(participant)]

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse and check a plan.

        Raises:
            PlanError: ``E-PLAN-MALFORMED``, or ``E-PLAN-RING``, ``E-PLAN-NOISE`` or ``E-PLAN-RULE``, naming the first
                rule that it breaks.
        """
        try:
            canonical.decode(data)
            plan = cls.model_validate_json(data)
        except ValidationError as error:
            where, expected, broken = first_problem(error, "plan")
            code = "E-PLAN-MALFORMED" if broken is None else getattr(broken, "code", "E-PLAN-RULE")
            raise PlanError(code, f"{where}: {expected}") from None
        except ValueError as error:
            raise PlanError("E-PLAN-MALFORMED", str(error)) from None
        if plan.to_bytes() != data:  # a field left to its default: the same plan would have two hashes
            raise PlanError(
                "E-PLAN-MALFORMED", "plan: every field must be written out, in the form that it is written in"
            )
        return plan

    @model_validator(mode="after")
    def _roster(self) -> Self:
        ids = [member.id for member in self.roster]
        if ids != sorted(set(ids)):
            raise ValueError("the roster must be sorted and name nobody twice")
        everyone: tuple[Member | Evaluator, ...] = (*self.roster, *self.evaluation.evaluators)
        if len({member.identity_key for member in everyone}) != len(everyone):
            raise ValueError("two members have the same identity key")
        for member in everyone:
            if not keys.is_safe_identity_key(bytes.fromhex(member.identity_key)):
                raise ValueError(f"the identity key of {member.id} is of small order or no point")
        if {member.id for member in self.evaluation.evaluators} & set(ids):
            raise ValueError("an evaluator is not a participant")
        if self.f < sum(member.with_operator for member in self.roster):
            raise ValueError("f must count every participant whose organisation also runs the coordinator")
        return self

    @model_validator(mode="after")
    def _thresholds(self) -> Self:
        if self.f >= self.n:
            raise ValueError("f must be below the number of participants")
        if not self.shamir_threshold == self.quorum == threshold(self.n, self.f):
            raise ValueError(f"shamir_threshold and quorum must be floor((n+f)/2)+1 = {threshold(self.n, self.f)}")
        least = least_survivors(self.n, self.f)
        if not least <= self.min_survivors <= self.n:
            raise ValueError(f"min_survivors must be from {least} to n = {self.n}")
        if self.graph.kind == "complete" and self.n > COMPLETE_GRAPH_MAX:
            raise ValueError(f"the complete graph serves at most {COMPLETE_GRAPH_MAX} participants")
        if self.expires_at <= self.created_at:
            raise ValueError("the plan expires before it is made")
        return self

    @model_validator(mode="after")
    def _graph(self) -> Self:
        graph = self.graph
        if graph.kind == "complete":
            return self
        if graph.max_dropouts != self.n - self.min_survivors:
            raise ValueError(f"max_dropouts must be n - min_survivors = {self.n - self.min_survivors}")
        cohort = graph_bounds.Cohort(self.n, self.f, graph.max_dropouts, self.recipe.rounds, self.max_attempts)
        graph_bounds.check(cohort, neighbours=graph.neighbours, share_threshold=graph.share_threshold)
        return self

    @model_validator(mode="after")
    def _weights(self) -> Self:
        weights = [member.weight for member in self.roster]
        if self.privacy.mode.startswith("distributed") and self.weight_rule != "equal":
            raise ValueError("a weight w would make the sensitivity w*D: the distributed modes have none")
        if self.weight_rule == "equal" and set(weights) != {1}:
            raise ValueError("weights must be 1 under the equal rule")
        return self

    @model_validator(mode="after")
    def _options(self) -> Self:
        for member in self.roster:
            allowed = {"all": member.options.rank == 0 and not member.options.layers}
            allowed |= {"rank": not member.options.layers, "layers": member.options.rank == 0}
            if not allowed[self.recipe.counts]:
                raise ValueError(f"the options of {member.id} are none that this recipe counts by")
            if member.options.rank > self.recipe.adapter.rank:
                raise ValueError(f"{member.id} has rank {member.options.rank}, above the adapter's")
        return self

    @model_validator(mode="after")
    def _mechanism(self) -> Self:
        privacy = self.privacy
        privacy.require_countable(self.recipe.rounds)
        require_bandable(self.recipe, privacy)
        if not privacy.noised:
            return self
        if not MIN_MULTIPLIER <= privacy.noise_multiplier <= MAX_MULTIPLIER:
            rule = f"the noise multiplier must be from {MIN_MULTIPLIER:g} to {MAX_MULTIPLIER:,.0f}"
            raise BrokenRuleError("E-PLAN-NOISE", rule)
        entries, bound = self.recipe.clipped_entries, privacy.sensitivity
        if bound * bound <= entries / 12 + 4 * bound:
            rule = f"sensitivity D={bound} is too small for d={entries}: D^2 must exceed d/12 + 4D"
            raise BrokenRuleError("E-PLAN-NOISE", rule)
        if self.graph.kind == "k-regular" and float(privacy.delta) < LEAST_REGULAR_DELTA:
            raise ValueError("on a k-regular graph delta must be at least 1e-9: its masks fail with probability 2^-40")
        if privacy.mode != "local" and privacy.honest_noise != self.min_survivors - max(self.f, 1):
            raise ValueError("honest_noise must be min_survivors - max(f, 1)")
        return self

    @model_validator(mode="after")
    def _measurement(self) -> Self:
        """A measurement's mechanism follows from its metrics, and no count of it is clamped."""
        if self.recipe.measured is None:
            return self
        privacy, streams = self.privacy, self.recipe.turns[0].sums
        if privacy.mode == "distributed-participant" or privacy.local_steps != 1:
            raise ValueError("a measurement is one step in mode distributed, local or none")
        if privacy.clip_norm != (bound := norm_bound(streams)):
            raise ValueError(f"the clip_norm of {len(streams)} measured streams is {bound}")
        if self.weight_rule != "equal" or self.evaluation.evaluators:
            raise ValueError("a measurement has equal weights and no evaluators")
        if privacy.mode == "local" and self.encoding.scale_exponent:
            raise BrokenRuleError("E-PLAN-RING", "a noised measurement sums whole numbers: scale_exponent is 0")
        step = measured_step(privacy, self.encoding, self.recipe.entries)
        if step < LEAST_GRID_STEP:
            raise BrokenRuleError("E-PLAN-NOISE", f"1 is {step} steps of the grid, at least {LEAST_GRID_STEP}")
        largest = max(member.units for member in self.roster) * (privacy.sensitivity or step)
        if self.encoding.clamp < largest:
            raise BrokenRuleError("E-PLAN-RING", f"a count may reach {largest:,}, the clamp is {self.encoding.clamp:,}")
        if largest_sum(self) > canonical.MAX_INTEGER:
            raise BrokenRuleError("E-PLAN-RING", "the sum of a measurement must fit its report")
        return self

    @model_validator(mode="after")
    def _ring(self) -> Self:
        if self.privacy.mode.startswith("distributed") and self.encoding.scale_exponent:
            raise BrokenRuleError("E-PLAN-RING", "the distributed modes sum whole numbers: scale_exponent is 0")
        largest, half = largest_sum(self), 1 << (self.encoding.bits - 1)
        if largest >= half:
            rule = f"the sum may reach {largest:.4g}, the ring of {self.encoding.bits} bits holds {half:.4g}"
            raise BrokenRuleError("E-PLAN-RING", rule)
        return self


def measured_step(privacy: Privacy, encoding: Encoding, entries: int) -> int:
    """Return what 1 of a measured stream is in integers; exact for counts, whatever the mode.

    Args:
        privacy: of the plan.
        encoding: of the plan.
        entries: of the vector.
    """
    if not privacy.noised:
        return 1 << encoding.scale_exponent
    radius = math.sqrt(max(0.0, privacy.sensitivity**2 - entries / 12 - 4 * privacy.sensitivity))
    return grid_step(radius, float(privacy.clip_norm))


def threshold(n: int, f: int) -> int:
    """Return T = floor((n+f)/2)+1, Shamir threshold and quorum: two T-sets share more than f members."""
    return (n + f) // 2 + 1


def least_survivors(n: int, f: int) -> int:
    """Return the smallest min_survivors that a plan may name."""
    return max(threshold(n, f), f + 2, 3)


def default_f(n: int, with_operator: int) -> int:
    """Return how many colluding participants a plan tolerates by default.

    A third of the roster, rounded down, at least one, and at least everybody whose organisation runs the coordinator:
    (n, f) = (3, 1), (5, 1), (10, 3), (100, 33).
    """
    return max(1, (n - 1) // 3, with_operator)


def default_survivors(n: int, f: int) -> int:
    """Return the min_survivors that leaves about a tenth of the roster, at least one, to drop out."""
    return min(n, max(least_survivors(n, f), n - max(1, n // 10)))


def largest_sum(plan: Plan) -> float:
    """Return the bound of docs/protocol.md section 7 on the absolute value of a summed coordinate.

    With bands a participant sums as many clamped sums of its own, each times its band.
    """
    privacy = plan.privacy
    if not privacy.mode.startswith("distributed"):
        return float(sum(member.weight for member in plan.roster) * (plan.encoding.clamp + 1))
    sigmas = wrap_sigmas(plan.recipe.entries * plan.recipe.rounds)
    return plan.n * sum(privacy.bands) * plan.encoding.clamp + sigmas * math.sqrt(plan.n) * privacy.sigma


def wrap_sigmas(events: int) -> float:
    """Return how many standard deviations of its noise none of so many sums exceeds but with a chance of 2^-40."""
    return WRAP_SIGMAS if events <= WRAP_EVENTS else math.sqrt(2 * math.log(2.0**41 * events))


def signed_plan_bytes(data: bytes) -> bytes:
    """Return the string that the operator signs: length-prefixed label and plan hash."""
    return keys.framed(PLAN_SIGNATURE_LABEL, hashlib.sha256(data).digest())


def signed_approval_bytes(plan_hash: bytes, participant: str) -> bytes:
    """Return the string that an owner's identity key signs to approve a plan."""
    return keys.framed(APPROVAL_LABEL, plan_hash, participant.encode())


@dataclass(frozen=True, slots=True)
class VerifiedPlan:
    """A plan whose signature by the pinned operator was verified; made by :meth:`verify` alone."""

    plan: Plan
    hash: bytes

    @classmethod
    def verify(cls, data: bytes, signature: bytes, operator_key: bytes) -> VerifiedPlan:
        """Verify the operator's Ed25519 signature over the plan's exact bytes, then parse it.

        Raises:
            PlanError: ``E-PLAN-SIGNATURE``, or as :meth:`Plan.from_bytes`.
        """
        if not keys.verify(operator_key, signature, signed_plan_bytes(data)):
            raise PlanError("E-PLAN-SIGNATURE", "the signature is not by the operator key pinned at joining")
        return cls(plan=Plan.from_bytes(data), hash=hashlib.sha256(data).digest())
