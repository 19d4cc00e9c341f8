"""The audit report as a document: what it says, field by field, and its published JSON Schema.

Guarantees: frozen, strict and closed to unknown fields; every number that is no integer is a decimal string; the plan
is inside, whole, so that every figure can be recomputed from the report alone.
Leaves to others: making and signing it (``report``), checking it (``audit.verify``), showing it (``audit.html``).
Source: docs/privacy-accounting.md section 9; NIST SP 800-226.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, PlainValidator, StringConstraints, WithJsonSchema

from privacy import patterns
from privacy.dp import events
from privacy.evaluation import Metric, MetricName, MetricValue
from privacy.plan import Plan
from privacy.plan_parts import Count, DecimalString, Hex128, Hex256, Name, PlanModel, Positive, Text

Hex512 = Annotated[str, StringConstraints(pattern=patterns.HEX_512)]


def _read_event(value: Any) -> events.Event:
    if isinstance(value, events.Gaussian | events.PoissonSampled | events.Composed):
        return value
    return events.from_json(value)


EventField = Annotated[
    events.Event,
    PlainValidator(_read_event),
    PlainSerializer(events.to_json, return_type=Any),
    WithJsonSchema(
        {
            "description": "An event of privacy loss. gaussian: noise_multiplier. poisson-sampled: sampling_rate, event"
            " (a gaussian). composed: event, count.",
            "type": "object",
            "required": ["kind"],
            "properties": {
                "kind": {"enum": ["gaussian", "poisson-sampled", "composed"]},
                "noise_multiplier": {"type": "string"},
                "sampling_rate": {"type": "string"},
                "event": {"type": "object"},
                "count": {"type": "integer", "minimum": 1},
            },
            "additionalProperties": False,
        }
    ),
]


class Signer(PlanModel):
    """Whose daemon made the report, and the key that signed it."""

    role: Literal["coordinator", "participant"]
    name: Text
    identity_key: Hex256


class Software(PlanModel):
    """A program or library that took part in the computation, and its version."""

    name: Text
    version: Text


class Trust(PlanModel):
    """An epsilon against somebody, and how many participants' noise it relies on."""

    epsilon: DecimalString
    noise: Positive


class Checks(PlanModel):
    """The same spend by other accountants: valid upper bounds that the claim must not exceed."""

    rdp: DecimalString
    general: DecimalString


class CurvePoint(PlanModel):
    """The cumulative spend after a number of charged rounds."""

    rounds: Positive
    epsilon: DecimalString


class Claim(PlanModel):
    """What differential privacy says about this run. Epsilons are rounded up, at ``delta``.

    All figures but ``planned_epsilon`` are for the rounds that were charged: a round is charged when it starts,
    whether or not it completes.
    """

    kind: Literal["differential-privacy"] = "differential-privacy"
    unit: Literal["example", "user", "participant"]
    relation: Literal["zero-out"]
    delta: DecimalString
    round_event: EventField
    charged_rounds: Count
    planned_epsilon: DecimalString  # all rounds of the plan
    round_epsilon: DecimalString  # one round alone
    outsiders: Trust  # who sees only what is released
    charged: Trust  # the coordinator with max(f, 1) participants: what the ledger charges
    all_others: Trust  # everyone else colludes
    group_of_two: DecimalString  # a person who is two units, e.g. a row at each of two participants
    replace_one: DecimalString  # the same run under the replace-one relation
    checks: Checks
    curve: tuple[CurvePoint, ...]


class NoClaim(PlanModel):
    """A run in mode ``none``."""

    kind: Literal["no-differential-privacy"] = "no-differential-privacy"
    statement: Literal["no differential privacy"] = "no differential privacy"


class UploadDigest(PlanModel):
    """A survivor, and the hash of the masked update that it signed for."""

    id: Name
    sha256: Hex256


class SurvivorSignatureEntry(PlanModel):
    """A survivor's signature over the survivor set."""

    id: Name
    signature: Hex512


class Certificate(PlanModel):
    """What proves a completed round: the survivors, a quorum of their signatures, and the hash of the sum."""

    attempt: Positive
    round_ctx: Hex256
    u2_sha256: Hex256
    survivors: tuple[UploadDigest, ...]
    sum_sha256: Hex256
    signatures: tuple[SurvivorSignatureEntry, ...]


class RoundEntry(PlanModel):
    """A round that was started: how often it was tried, who dropped out, and its certificate if it completed."""

    round: Positive
    attempts: Positive
    dropouts: tuple[Name, ...]  # members of the roster that are not among the survivors; empty if not completed
    certificate: Certificate | None


class MetricEntry(PlanModel):
    """A figure of merit."""

    name: MetricName
    value: MetricValue


class EvaluationEntry(PlanModel):
    """A signed measurement of a released adapter on public data."""

    evaluator: Name
    round: Count
    adapter_sha256: Hex256
    data_sha256: Hex256
    examples: Positive
    metrics: tuple[MetricEntry, ...]  # sorted by name
    signature: Hex512


def figures(entry: EvaluationEntry) -> tuple[Metric, ...]:
    """Return the figures of a measurement in a report."""
    return tuple(Metric(metric.name, metric.value) for metric in entry.metrics)


class Budget(PlanModel):
    """A population's lifetime budget: a Renyi filter at one order that the owner's policy fixes."""

    unit: Text
    epsilon: DecimalString
    delta: DecimalString
    order: Positive


class ChargedRun(PlanModel):
    """A run on the same population, as the ledger has it; without an event it made no claim."""

    run_id: Hex128
    plan_sha256: Hex256
    event: EventField | None
    rounds: Count
    delta: DecimalString
    epsilon: DecimalString  # this run alone, at its own delta; "0" without an event


class LedgerPart(PlanModel):
    """Where the owner's ledger stands, and everything that it charged to this run's population."""

    sequence: Positive
    head_sha256: Hex256
    key: Hex256  # Ed25519, of the ledger itself: signs what `ledger export` writes
    population: Text
    budget: Budget | None
    lifetime_epsilon: DecimalString  # by the budget's measure; "0" without a budget
    runs: tuple[ChargedRun, ...]


class Report(PlanModel):
    """The body of a report. See the module's docstring."""

    report_version: Literal[1] = 1
    made_at: Count  # seconds since the Unix epoch
    made_by: Signer
    software: tuple[Software, ...]
    plan: Plan
    plan_sha256: Hex256
    operator_key: Hex256
    operator_signature: Hex512
    roster: Literal["verified", "unverified"]
    randomness: Text
    simulation: bool  # seeds that reproduce noise or sampling exist: not private
    privacy: Annotated[Claim | NoClaim, Field(discriminator="kind")]
    rounds: tuple[RoundEntry, ...]
    transcript_sha256: Hex256  # after the last completed round
    evaluations: tuple[EvaluationEntry, ...]
    ledger: LedgerPart | None
    not_protected: tuple[Text, ...]
    # The integers of a measurement's sum, of which the certificate has the hash; figures are computed from them.
    measured: Annotated[tuple[int, ...], Field(exclude_if=lambda total: not total)] = ()


class SignedReport(PlanModel):
    """The file: a report, the Ed25519 key that signed it, and the signature over its canonical bytes."""

    body: Report
    key: Hex256
    signature: Hex512
