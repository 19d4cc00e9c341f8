"""Making and signing the audit report: a value from the plan, the rounds and the ledger.

Guarantees: pure; every epsilon is computed here from the plan's events by the checked accountants and rounded up; the
signature covers every byte of the body; mode ``none`` says "no differential privacy" where an epsilon would stand.
Leaves to others: collecting the facts (``coordinator.daemon.runner``, ``participant.daemon.runner``), checking
(``audit.verify``).
Source: docs/privacy-accounting.md section 9.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Final, Literal

from privacy import canonical
from privacy.claims import not_protected
from privacy.dp import accountants
from privacy.dp.events import Composed, Event, decimal, round_event
from privacy.errors import LocalError
from privacy.evaluation import SignedEvaluation
from privacy.ledger import LifetimeBudget, RunSpend, Spent
from privacy.plan import Plan
from privacy.report_model import (
    Budget,
    Certificate,
    ChargedRun,
    Checks,
    Claim,
    CurvePoint,
    EvaluationEntry,
    LedgerPart,
    MetricEntry,
    NoClaim,
    Report,
    RoundEntry,
    SignedReport,
    Signer,
    Software,
    SurvivorSignatureEntry,
    Trust,
    UploadDigest,
)
from privacy.secagg.keys import SigningKey, framed
from privacy.secagg.messages import RoundCertificate, chained

LABEL_REPORT: Final = b"onlysum/1/report"
EPSILON_DECIMALS: Final = Decimal("0.0001")  # epsilons are rounded up to these
SYSTEM_RANDOMNESS: Final = (
    "keys, sampling coins and noise come from the operating system of each participant; no seed is kept"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFacts:
    """A round that was started, as a daemon remembers it; without a certificate it has no sum.

    It was voided if a later one completed, and else it is one of those with which the run ended.
    """

    round: int
    attempts: int
    certificate: RoundCertificate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerFacts:
    """Where an owner's ledger stands, and what this run's population has spent."""

    sequence: int
    head: bytes
    key: bytes  # the ledger's own
    spent: Spent
    budget: LifetimeBudget | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """Everything that a report is made from.

    ``rounds`` are consecutive from 1. ``roster_verified`` says whether the maker's owner compared every member's
    fingerprint. ``software`` maps names to versions. A participant passes its ``ledger``; a coordinator has none.
    """

    plan: Plan
    operator_key: bytes
    operator_signature: bytes
    role: Literal["coordinator", "participant"]
    name: str
    identity_key: bytes
    made_at: int
    software: Mapping[str, str]
    roster_verified: bool
    rounds: Sequence[RoundFacts]
    evaluations: Sequence[SignedEvaluation] = ()
    measured: Sequence[int] = ()  # the integers of a measurement's sum
    ledger: LedgerFacts | None = None
    randomness: str = SYSTEM_RANDOMNESS
    simulation: bool = False


def build_report(facts: ReportFacts) -> Report:
    """Return the report of a run, finished or not.

    Raises:
        LocalError: ``E-ACCOUNTANT-DISAGREE``, the accountants contradict each other or find no finite epsilon.
    """
    plan = facts.plan
    return Report(
        made_at=facts.made_at,
        made_by=Signer(role=facts.role, name=facts.name, identity_key=facts.identity_key.hex()),
        software=tuple(Software(name=name, version=version) for name, version in sorted(facts.software.items())),
        plan=plan,
        plan_sha256=plan.hash.hex(),
        operator_key=facts.operator_key.hex(),
        operator_signature=facts.operator_signature.hex(),
        roster="verified" if facts.roster_verified else "unverified",
        randomness=facts.randomness,
        simulation=facts.simulation,
        privacy=claim(plan, charged_rounds=_charged_rounds(facts)),
        rounds=tuple(_round_entry(plan, entry) for entry in facts.rounds),
        transcript_sha256=_transcript(plan, facts.rounds).hex(),
        evaluations=tuple(
            _evaluation_entry(evaluation) for evaluation in sorted(facts.evaluations, key=_evaluation_order)
        ),
        ledger=None if facts.ledger is None else ledger_part(facts.ledger),
        not_protected=not_protected(plan),
        measured=tuple(facts.measured),
    )


def sign_report(report: Report, key: SigningKey) -> bytes:
    """Return the report's file: canonical JSON of body, key and signature.

    Raises:
        LocalError: ``E-BUG``, the report names another key.
    """
    if report.made_by.identity_key != key.public.hex():
        raise LocalError("E-BUG", "the report names another key than the one that signs it")
    signature = key.sign(signed_report_bytes(report))
    signed = SignedReport(body=report, key=key.public.hex(), signature=signature.hex())
    return canonical.encode(signed.model_dump(mode="json"))


def signed_report_bytes(report: Report) -> bytes:
    """Return the string that is signed: label and SHA-256 of the body's canonical bytes."""
    body = canonical.encode(report.model_dump(mode="json"))
    return framed(LABEL_REPORT, hashlib.sha256(body).digest())


def claim(plan: Plan, *, charged_rounds: int) -> Claim | NoClaim:
    """Return what differential privacy says about a plan after some charged rounds, or that it says nothing.

    With bands a charge is for a charging block of rounds, and such charges are counted.

    Raises:
        LocalError: ``E-ACCOUNTANT-DISAGREE``.
    """
    event = round_event(plan)
    if event is None or plan.privacy.unit == "none" or plan.privacy.relation == "none":
        return NoClaim()
    delta = accountants.plan_delta(plan)
    charged = (Composed(event, charged_rounds),) if charged_rounds else ()
    checks = accountants.cross_checked(charged, delta)
    trust = accountants.trust_epsilons(plan, charged_rounds)
    planned = accountants.cross_checked((Composed(event, plan.charges),), delta).pld
    assert trust is not None  # only mode none has no epsilons
    return Claim(
        unit=plan.privacy.unit,
        relation=plan.privacy.relation,
        delta=plan.privacy.delta,
        round_event=event,
        charged_rounds=charged_rounds,
        planned_epsilon=rounded_up(planned),
        round_epsilon=rounded_up(accountants.epsilon(event, delta)),
        outsiders=Trust(epsilon=rounded_up(trust.outsiders), noise=trust.outsiders_noise),
        charged=Trust(epsilon=rounded_up(trust.charged), noise=trust.charged_noise),
        all_others=Trust(epsilon=rounded_up(trust.all_others), noise=trust.all_others_noise),
        group_of_two=rounded_up(accountants.pair_epsilon(plan, charged_rounds)),
        replace_one=rounded_up(accountants.epsilon(charged, delta, relation="replace-one")),
        checks=Checks(rdp=rounded_up(checks.rdp), general=rounded_up(checks.general)),
        curve=tuple(
            CurvePoint(rounds=rounds, epsilon=rounded_up(value))
            for rounds, value in accountants.spend_curve(event, charged_rounds, delta)
        ),
    )


def ledger_part(facts: LedgerFacts) -> LedgerPart:
    """Return the ledger's part of a report."""
    spent = facts.spent
    budget = None if facts.budget is None else spent.fixed(facts.budget)
    return LedgerPart(
        sequence=facts.sequence,
        head_sha256=facts.head.hex(),
        key=facts.key.hex(),
        population=spent.population,
        budget=None
        if budget is None
        else Budget(unit=budget.unit, epsilon=decimal(budget.epsilon), delta=decimal(budget.delta), order=budget.order),
        lifetime_epsilon="0" if budget is None else rounded_up(spent.lifetime_epsilon(budget)),
        runs=tuple(_charged_run(run) for run in spent.runs),
    )


def _charged_run(run: RunSpend) -> ChargedRun:
    alone: tuple[Event, ...] = (Composed(run.event, run.rounds),) if run.event is not None and run.rounds else ()
    return ChargedRun(
        run_id=run.run_id,
        plan_sha256=run.plan_hash.hex(),
        event=run.event,
        rounds=run.rounds,
        delta=run.delta,
        epsilon=rounded_up(accountants.epsilon(alone, float(run.delta))) if alone else "0",
    )


def rounded_up(epsilon: float) -> str:
    """Return an epsilon as a decimal string, never smaller than it is.

    Raises:
        LocalError: ``E-ACCOUNTANT-DISAGREE``, it is not finite.
    """
    if not math.isfinite(epsilon):
        raise LocalError("E-ACCOUNTANT-DISAGREE", "no finite epsilon holds at this delta")
    value = Decimal(repr(float(epsilon))).quantize(EPSILON_DECIMALS, rounding=ROUND_CEILING)
    return decimal(float(value))


def _charged_rounds(facts: ReportFacts) -> int:
    """The owner's ledger knows what it charged; for the coordinator every round that started was."""
    if facts.ledger is None:
        return facts.plan.privacy.charges(len(facts.rounds))
    return sum(run.rounds for run in facts.ledger.spent.runs if run.plan_hash == facts.plan.hash)


def _round_entry(plan: Plan, facts: RoundFacts) -> RoundEntry:
    certificate = facts.certificate
    survivors = set() if certificate is None else set(certificate.survivors.ids)
    return RoundEntry(
        round=facts.round,
        attempts=facts.attempts,
        dropouts=()
        if certificate is None
        else tuple(member.id for member in plan.roster if member.id not in survivors),
        certificate=None if certificate is None else _certificate(certificate),
    )


def _certificate(certificate: RoundCertificate) -> Certificate:
    return Certificate(
        attempt=certificate.position.attempt,
        round_ctx=certificate.round_ctx.hex(),
        u2_sha256=certificate.survivors.u2_hash.hex(),
        survivors=tuple(UploadDigest(id=name, sha256=digest.hex()) for name, digest in certificate.survivors.members),
        sum_sha256=certificate.sum_hash.hex(),
        signatures=tuple(
            SurvivorSignatureEntry(id=signature.sender, signature=signature.signature.hex())
            for signature in certificate.signatures
        ),
    )


def _transcript(plan: Plan, rounds: Sequence[RoundFacts]) -> bytes:
    return chained(plan.hash, [entry.certificate for entry in rounds])


def _evaluation_order(evaluation: SignedEvaluation) -> tuple[int, str]:
    return (evaluation.round, evaluation.evaluator)


def _evaluation_entry(evaluation: SignedEvaluation) -> EvaluationEntry:
    return EvaluationEntry(
        evaluator=evaluation.evaluator,
        round=evaluation.round,
        adapter_sha256=evaluation.adapter_sha256.hex(),
        data_sha256=evaluation.data_sha256.hex(),
        examples=evaluation.examples,
        metrics=tuple(
            MetricEntry.model_validate({"name": metric.name, "value": metric.value}) for metric in evaluation.metrics
        ),
        signature=evaluation.signature.hex(),
    )
