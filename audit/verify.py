"""Checking a report offline, from its bytes alone.

Guarantees: nothing that a report states is believed that can be computed: the plan's hash and signature, every
epsilon, the history of rounds, the figures of the owner's ledger; changing any byte of the file makes it fail.
Leaves to others: that the signing key is whose the reader thinks it is (compare the fingerprint, or pass the key).
Source: docs/privacy-accounting.md section 9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import ValidationError

from audit import history, measurement, wording
from host.fingerprints import fingerprint
from privacy import canonical
from privacy.canonical import Json
from privacy.dp.events import round_event
from privacy.errors import OnlysumError, VerificationError
from privacy.ledger import LifetimeBudget, RunSpend, Spent
from privacy.plan import signed_plan_bytes
from privacy.report import LedgerFacts, claim, ledger_part, signed_report_bytes
from privacy.report_model import Claim, LedgerPart, Report, SignedReport
from privacy.secagg.keys import verify

# Between versions of the accounting library grids and truncation differ; a figure may be looser, but hardly smaller.
MOST_ABOVE: Final = (0.005, 0.002)  # relative, absolute
MOST_BELOW: Final = (0.001, 0.0002)
_COMPUTED: Final = frozenset(
    {"epsilon", "planned_epsilon", "round_epsilon", "lifetime_epsilon", "group_of_two", "replace_one", "rdp", "general"}
)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Check:
    """A check that passed, in words for the reader."""

    name: str
    outcome: str


@dataclass(frozen=True, slots=True)
class VerifiedReport:
    """A report that passed every check; made by :func:`verify_report` alone."""

    report: Report
    key: bytes
    key_was_expected: bool  # False: the reader must still compare the fingerprint
    checks: tuple[Check, ...]


def verify_report(data: bytes, *, expected_key: bytes | None = None) -> VerifiedReport:
    """Check a report's file.

    Args:
        data: the file's bytes.
        expected_key: the Ed25519 key that should have signed it, if the reader knows it.

    Raises:
        VerificationError: ``E-REPORT-MALFORMED``, ``E-REPORT-SIGNATURE``, ``E-REPORT-KEY``, ``E-REPORT-PLAN``,
            ``E-REPORT-RECOMPUTE``, ``E-REPORT-TRANSCRIPT`` or ``E-REPORT-EVALUATION``.
    """
    signed = parse_report(data)
    report, key = signed.body, bytes.fromhex(signed.key)
    if expected_key is not None and key != expected_key:
        detail = f"signed by {fingerprint(key)}, expected {fingerprint(expected_key)}"
        raise VerificationError("E-REPORT-KEY", detail)
    if not verify(key, bytes.fromhex(signed.signature), signed_report_bytes(report)):
        raise VerificationError("E-REPORT-SIGNATURE", "the signature does not fit the report's bytes")
    if report.made_by.identity_key != signed.key:
        raise VerificationError("E-REPORT-SIGNATURE", "another key signed the report than the one it names")
    first = Check("signature", f"every byte of the report is signed by key {fingerprint(key)}")
    found = (Check(name, check(report)) for name, check in _CHECKS.items())
    return VerifiedReport(report, key, expected_key is not None, (first, *(check for check in found if check.outcome)))


def parse_report(data: bytes) -> SignedReport:
    """Parse a report's file without believing it.

    Raises:
        VerificationError: ``E-REPORT-MALFORMED``.
    """
    try:
        canonical.decode(data)
        return SignedReport.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise VerificationError("E-REPORT-MALFORMED", f"{where}: {first['msg']}") from None
    except ValueError as error:
        raise VerificationError("E-REPORT-MALFORMED", str(error)) from None


def _check_plan(report: Report) -> str:
    plan, operator = report.plan, bytes.fromhex(report.operator_key)
    if plan.hash.hex() != report.plan_sha256:
        raise VerificationError("E-REPORT-PLAN", "the plan does not have the hash that the report names")
    if not verify(operator, bytes.fromhex(report.operator_signature), signed_plan_bytes(plan.to_bytes())):
        raise VerificationError("E-REPORT-PLAN", "the plan is not signed by the operator's key in the report")
    return f"plan {report.plan_sha256[:16]} is signed by operator key {fingerprint(operator)}"


def _check_maker(report: Report) -> str:
    maker = report.made_by
    if maker.role == "coordinator":
        known = dict.fromkeys((report.plan.operator, report.plan.federation), report.operator_key)
    else:
        known = {member.id: member.identity_key for member in report.plan.roster}
    if known.get(maker.name) != maker.identity_key:
        raise VerificationError("E-REPORT-PLAN", f"the plan knows no {maker.role} {maker.name} with this key")
    return f"made by {maker.role} {maker.name}, whose key the plan names"


def _check_privacy(report: Report) -> str:
    stated = report.privacy
    charged = stated.charged_rounds if isinstance(stated, Claim) else 0
    if charged != _charged_rounds(report) or charged > report.plan.charges:
        raise VerificationError("E-REPORT-RECOMPUTE", "the charged rounds are not those of the rounds or the ledger")
    trained = len({report.plan.privacy.charged_as(number) for number in _rounds_with_maker(report)})
    if isinstance(stated, Claim) and charged < trained:
        words = wording.charges(report.plan, trained)
        detail = f"its maker is among the survivors of {words} and was charged for {charged}"
        raise VerificationError("E-REPORT-RECOMPUTE", detail)
    computed = _recomputed(lambda: claim(report.plan, charged_rounds=charged))
    _compare(stated.model_dump(mode="json"), computed.model_dump(mode="json"), "privacy")
    if not isinstance(computed, Claim):
        return "the plan makes no claim: no differential privacy"
    return (
        f"epsilon {computed.charged.epsilon} at delta {computed.delta} per {computed.unit} for"
        f" {wording.charged(report.plan, charged)} follows from the plan; RDP gives {computed.checks.rdp}, the general"
        f" bound {computed.checks.general}"
    )


def _charged_rounds(report: Report) -> int:
    if not report.plan.privacy.noised:
        return 0
    if report.ledger is None:
        return report.plan.privacy.charges(len(report.rounds))
    return sum(run.rounds for run in report.ledger.runs if run.plan_sha256 == report.plan_sha256)


def _rounds_with_maker(report: Report) -> tuple[int, ...]:
    """Return the certified rounds in which the report's maker, if a participant, is among the survivors."""
    if report.made_by.role != "participant":
        return ()
    certified = ((entry.round, entry.certificate) for entry in report.rounds if entry.certificate is not None)
    return tuple(
        number for number, stated in certified if any(one.id == report.made_by.name for one in stated.survivors)
    )


def _check_ledger(report: Report) -> str:
    part = report.ledger
    if part is None:
        if _rounds_with_maker(report):
            raise VerificationError("E-REPORT-RECOMPUTE", "a participant that took part has a ledger, and left it out")
        return "no ledger is in the report: every round that started counts as charged"
    _check_own_run(report, part)
    computed = _recomputed(lambda: ledger_part(_ledger_facts(part)))
    _compare(part.model_dump(mode="json"), computed.model_dump(mode="json"), "ledger")
    runs = "1 run" if len(part.runs) == 1 else f"{len(part.runs)} runs"
    return f"the spend of {runs} on population {part.population} follows from their events"


def _check_own_run(report: Report, part: LedgerPart) -> None:
    """Compare the ledger's row of the report's own run, and the unit of the budget, with the plan."""
    plan = report.plan
    own = [run for run in part.runs if report.plan_sha256 == run.plan_sha256 or plan.run_id == run.run_id]
    if len(own) > 1:
        raise VerificationError("E-REPORT-RECOMPUTE", "the ledger has two rows for this run")
    if not own and _rounds_with_maker(report):
        raise VerificationError("E-REPORT-RECOMPUTE", "the ledger does not know a run that its owner took part in")
    for run in own:
        if run.event != round_event(plan):
            rule = "the ledger charged this run as another event than the plan's"
            raise VerificationError("E-REPORT-RECOMPUTE", rule)
        delta = plan.privacy.delta if plan.privacy.noised else "0"
        if (run.run_id, run.plan_sha256, run.delta) != (plan.run_id, report.plan_sha256, delta):
            rule = "the ledger has this run under another id, plan or delta than the plan's"
            raise VerificationError("E-REPORT-RECOMPUTE", rule)
    if plan.privacy.noised and part.budget is not None and part.budget.unit != plan.privacy.unit:
        detail = f"the budget is per {part.budget.unit}, the plan's claim per {plan.privacy.unit}"
        raise VerificationError("E-REPORT-RECOMPUTE", detail)


def _ledger_facts(part: LedgerPart) -> LedgerFacts:
    runs = tuple(
        RunSpend(run.run_id, bytes.fromhex(run.plan_sha256), run.event, run.rounds, run.delta) for run in part.runs
    )
    kept = part.budget
    budget = None if kept is None else LifetimeBudget(kept.unit, float(kept.epsilon), float(kept.delta), kept.order)
    return LedgerFacts(
        sequence=part.sequence,
        head=bytes.fromhex(part.head_sha256),
        key=bytes.fromhex(part.key),
        spent=Spent(part.population, "", "", runs),
        budget=budget,
    )


def _recomputed(compute: Callable[[], _T]) -> _T:
    try:
        return compute()
    except (OnlysumError, ValueError, ArithmeticError) as error:
        raise VerificationError("E-REPORT-RECOMPUTE", f"its figures cannot be computed: {error}") from None


def _compare(stated: Json, computed: Json, where: str) -> None:
    """Compare two JSON values: computed figures within the tolerances, everything else exactly."""
    match stated, computed:
        case dict(), dict() if stated.keys() == computed.keys():
            for name in stated:
                _compare(stated[name], computed[name], f"{where}.{name}")
        case list(), list() if len(stated) == len(computed):
            for place, (left, right) in enumerate(zip(stated, computed, strict=True)):
                _compare(left, right, f"{where}.{place}")
        case str(), str() if where.rpartition(".")[2] in _COMPUTED and _close(float(stated), float(computed)):
            return
        case _ if stated == computed:
            return
        case _:
            raise VerificationError("E-REPORT-RECOMPUTE", f"{where}: the report says {stated}, computed is {computed}")


def _close(stated: float, computed: float) -> bool:
    relative, absolute = MOST_ABOVE if stated > computed else MOST_BELOW
    return abs(stated - computed) <= absolute + relative * computed


_CHECKS: Final[dict[str, Callable[[Report], str]]] = {
    "plan": _check_plan,
    "maker": _check_maker,
    "privacy": _check_privacy,
    "ledger": _check_ledger,
    "rounds": history.check_rounds,
    "evaluations": history.check_evaluations,
    "measurement": measurement.check_measurement,
}
