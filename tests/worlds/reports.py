"""A small signed report of every kind: what the tests of the audit package start from, and what its page says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from audit.page import Bullets, Figure, Heading, Page, Paragraph, Table, Text
from audit.verify import verify_report
from privacy import canonical
from privacy.canonical import Json
from privacy.dp.events import Gaussian, PoissonSampled, round_event
from privacy.errors import VerificationError
from privacy.evaluation import Metric, SignedEvaluation
from privacy.ledger import LifetimeBudget, RunSpend, Spent
from privacy.plan import Plan
from privacy.plan_parts import Mode
from privacy.report import LedgerFacts, ReportFacts, RoundFacts, build_report, sign_report, signed_report_bytes
from privacy.report_model import Report
from privacy.secagg.keys import SigningKey
from privacy.secagg.messages import Position, RoundCertificate, SurvivorSet, SurvivorSignature
from tests.worlds.plans import CREATED_AT, OPERATOR, make_plan, sign_plan, signing_key

MEASURER = signing_key("the evaluator")
BUDGET = LifetimeBudget(unit="example", epsilon=50.0, delta=1e-6, order=4)


def digest(*words: object) -> bytes:
    return hashlib.sha256(repr(words).encode()).digest()


def reported_plan(mode: Mode = "distributed", **overrides: Any) -> tuple[Plan, dict[str, SigningKey]]:
    evaluators: Json = [{"id": "measurer", "identity_key": MEASURER.public.hex()}]
    evaluation: Json = {"data": "public-digits", "every": 1, "evaluators": evaluators}
    return make_plan(mode=mode, evaluation=evaluation, **overrides)


def certificate(
    plan: Plan, keys: dict[str, SigningKey], number: int, *, attempt: int = 1, missing: tuple[str, ...] = ()
) -> RoundCertificate:
    ids = [member.id for member in plan.roster if member.id not in missing]
    at, round_ctx = Position(plan.hash, number, attempt), digest("context", number, attempt)
    survivors = SurvivorSet(digest("u2", number), tuple((name, digest(name, number)) for name in ids))
    signatures = tuple(
        SurvivorSignature(at, name, keys[name].sign(survivors.signed_bytes(plan.protocol_version, at, name, round_ctx)))
        for name in ids[: plan.quorum]
    )
    return RoundCertificate(at, round_ctx, survivors, digest("sum", number), signatures)


def measured(plan: Plan, number: int, correct: int) -> SignedEvaluation:
    return SignedEvaluation(
        plan_hash=plan.hash,
        evaluator="measurer",
        round=number,
        adapter_sha256=digest("adapter", number),
        data_sha256=digest("data"),
        examples=334,
        metrics=tuple(filter(None, [Metric.of("accuracy", correct / 334), Metric.of("loss", 2 - correct / 334)])),
    ).signed(MEASURER)


def coordinator_facts(plan: Plan, keys: dict[str, SigningKey]) -> ReportFacts:
    rounds = (
        RoundFacts(round=1, attempts=1, certificate=certificate(plan, keys, 1)),
        RoundFacts(round=2, attempts=2, certificate=certificate(plan, keys, 2, attempt=2, missing=("carol",))),
        RoundFacts(round=3, attempts=plan.max_attempts, certificate=None),
    )
    return ReportFacts(
        plan=plan,
        operator_key=OPERATOR.public,
        operator_signature=sign_plan(plan),
        role="coordinator",
        name=plan.operator,
        identity_key=OPERATOR.public,
        made_at=CREATED_AT + 3600,
        software={"onlysum": "0.1.0", "dp-accounting": "0.6.0"},
        roster_verified=False,
        rounds=rounds,
        evaluations=tuple(measured(plan, number, 200 + 20 * number) for number in range(3)),
    )


def participant_facts(plan: Plan, keys: dict[str, SigningKey], *, charged: int = 3) -> ReportFacts:
    event = round_event(plan)
    earlier = RunSpend("11" * 16, b"e" * 32, PoissonSampled(0.1, Gaussian(2.0)), 40, "0.00001")
    bare = RunSpend("22" * 16, b"n" * 32, None, 0, "0")
    budget = replace(BUDGET, unit=plan.privacy.unit) if plan.privacy.noised else BUDGET
    rounds, delta = (0, "0") if event is None else (charged, plan.privacy.delta)
    own = RunSpend(plan.run_id, plan.hash, event, rounds, delta)
    spent = Spent("patients", plan.privacy.unit, plan.privacy.relation, (earlier, bare, own))
    return replace(
        coordinator_facts(plan, keys),
        role="participant",
        name="alice",
        identity_key=keys["alice"].public,
        roster_verified=True,
        ledger=LedgerFacts(sequence=45, head=digest("head"), key=OPERATOR.public, spent=spent, budget=budget),
    )


def coordinator_report(mode: Mode = "distributed", **overrides: Any) -> tuple[Report, bytes]:
    report = build_report(coordinator_facts(*reported_plan(mode, **overrides)))
    return report, sign_report(report, OPERATOR)


def participant_report(mode: Mode = "distributed", **overrides: Any) -> tuple[Report, bytes]:
    plan, keys = reported_plan(mode, **overrides)
    report = build_report(participant_facts(plan, keys))
    return report, sign_report(report, keys["alice"])


def report_of_rounds(count: int, *, by_coordinator: bool = False) -> bytes:
    """Return the report of a run of so many rounds, in some of which carol dropped out."""
    plan, keys = reported_plan(recipe={"rounds": count})
    facts = coordinator_facts(plan, keys) if by_coordinator else participant_facts(plan, keys, charged=count)
    rounds = [
        RoundFacts(
            round=number,
            attempts=1,
            certificate=certificate(plan, keys, number, missing=("carol",) if number % 7 == 3 else ()),
        )
        for number in range(1, count + 1)
    ]
    return sign_report(build_report(replace(facts, rounds=rounds)), OPERATOR if by_coordinator else keys["alice"])


def large_report() -> bytes:
    """Return the coordinator's report of a run of 40 participants and 200 rounds, none of them smooth."""
    plan, keys = reported_plan(n=40, f=4, recipe={"rounds": 200})
    rounds = [
        RoundFacts(round=i, attempts=1 + i % 2, certificate=certificate(plan, keys, i, missing=("p007", "p011")))
        for i in range(1, 201)
    ]
    facts = coordinator_facts(plan, keys)
    facts = replace(facts, rounds=rounds, evaluations=[measured(plan, i, i) for i in range(201)])
    return sign_report(build_report(facts), OPERATOR)


def code_of(data: bytes, key: bytes | None = None) -> str:
    """Return the code with which a report is refused."""
    with pytest.raises(VerificationError) as caught:
        verify_report(data, expected_key=key)
    return caught.value.code


def resigned(data: bytes, change: Callable[[dict[str, Any]], object], key: SigningKey = OPERATOR) -> bytes:
    """Return a report that was changed and then signed again by whoever holds the key."""
    document = json.loads(data)
    change(document["body"])
    report = Report.model_validate_json(canonical.encode(document["body"]))
    document["signature"] = key.sign(signed_report_bytes(report)).hex()
    return canonical.encode(document)


def text_of(page: Page) -> Iterator[str]:
    """Yield every text of a page in reading order."""
    yield from (page.origin, page.title, page.purpose, page.key_figure)
    yield from map(_joined, page.summary)
    for block in page.blocks:
        match block:
            case Heading(text, _):
                yield text
            case Paragraph(spans, _):
                yield _joined(spans)
            case Bullets(items):
                yield from map(_joined, items)
            case Table(heads, rows):
                yield from heads
                yield from (_joined(cell) for row in rows for cell in row)
            case Figure():
                yield block.caption


def _joined(text: Text) -> str:
    return "".join(span.text for span in text)
