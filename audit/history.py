"""Checking the rounds of a report: one history, each round signed by a quorum of its survivors.

Guarantees: certificates verify under the keys of the plan's roster and chain from the plan to the transcript that the
report names; measurements are signed by the plan's evaluators.
Leaves to others: the plan's own signature and the figures (``verify``).
Source: docs/protocol.md section 5.6.
"""

from __future__ import annotations

from privacy.errors import VerificationError
from privacy.evaluation import SignedEvaluation
from privacy.plan import Plan
from privacy.report_model import Certificate, EvaluationEntry, Report, RoundEntry, figures
from privacy.secagg.keys import verify
from privacy.secagg.messages import Position, RoundCertificate, SurvivorSet, SurvivorSignature, chained


def check_rounds(report: Report) -> str:
    """Check every certificate and the chain of transcripts, and return what was found.

    Raises:
        VerificationError: ``E-REPORT-TRANSCRIPT``, naming the round and the rule.
    """
    plan, history = report.plan, list[RoundCertificate | None]()
    for place, entry in enumerate(report.rounds, start=1):
        if entry.round != place or place > plan.recipe.rounds or entry.attempts > plan.max_attempts:
            raise _refuse(entry, "out of order, or beyond the plan's rounds or attempts")
        if entry.certificate is None:
            _require(not entry.dropouts, entry, "a round that did not complete has no list of dropouts")
            history.append(None)
            continue
        gap = None in history and not plan.privacy.noised
        _require(not gap, entry, "it completed although a round before it did not, which without noise ends a run")
        certificate = to_certificate(plan, entry, entry.certificate)
        _check_certificate(plan, entry, certificate)
        history.append(certificate)
    if chained(plan.hash, history).hex() != report.transcript_sha256:
        raise VerificationError("E-REPORT-TRANSCRIPT", "the rounds do not end in the transcript that the report names")
    completed = len(history) - history.count(None)
    return f"{completed} of {len(report.rounds)} started rounds completed, each signed by a quorum; one history"


def check_evaluations(report: Report) -> str:
    """Check every measurement's signature, and return what was found.

    Raises:
        VerificationError: ``E-REPORT-EVALUATION``.
    """
    for entry in report.evaluations:
        if not _signed_evaluation(report, entry).verifies(report.plan):
            detail = f"round {entry.round}: not signed by {entry.evaluator} as an evaluator of the plan"
            raise VerificationError("E-REPORT-EVALUATION", detail)
    return f"{len(report.evaluations)} measurements on public data are signed by the plan's evaluators"


def to_certificate(plan: Plan, entry: RoundEntry, stated: Certificate) -> RoundCertificate:
    """Return the protocol's own value of a certificate in a report."""
    at = Position(plan.hash, entry.round, stated.attempt)
    members = tuple((survivor.id, bytes.fromhex(survivor.sha256)) for survivor in stated.survivors)
    return RoundCertificate(
        position=at,
        round_ctx=bytes.fromhex(stated.round_ctx),
        survivors=SurvivorSet(bytes.fromhex(stated.u2_sha256), members),
        sum_hash=bytes.fromhex(stated.sum_sha256),
        signatures=tuple(
            SurvivorSignature(at, signed.id, bytes.fromhex(signed.signature)) for signed in stated.signatures
        ),
    )


def _check_certificate(plan: Plan, entry: RoundEntry, certificate: RoundCertificate) -> None:
    survivors, at = certificate.survivors, certificate.position
    keys = {member.id: bytes.fromhex(member.identity_key) for member in plan.roster}
    ids, signers = list(survivors.ids), [signature.sender for signature in certificate.signatures]
    _require(ids == sorted(set(ids)) and set(ids) <= keys.keys(), entry, "its survivors are not on the roster")
    _require(
        len(ids) >= plan.min_survivors, entry, f"{len(ids)} survivors are fewer than the plan's {plan.min_survivors}"
    )
    _require(
        list(entry.dropouts) == [name for name in keys if name not in ids], entry, "its dropouts are not the others"
    )
    _require(at.attempt <= entry.attempts, entry, "it completed in an attempt that was not made")
    distinct = len(set(signers)) == len(signers) and set(signers) <= set(ids)
    _require(distinct and len(signers) >= plan.quorum, entry, "its signatures are no quorum of the survivors")
    for signature in certificate.signatures:
        message = survivors.signed_bytes(plan.protocol_version, at, signature.sender, certificate.round_ctx)
        valid = verify(keys[signature.sender], signature.signature, message)
        _require(valid, entry, f"the signature of {signature.sender} does not verify")


def _signed_evaluation(report: Report, entry: EvaluationEntry) -> SignedEvaluation:
    return SignedEvaluation(
        plan_hash=bytes.fromhex(report.plan_sha256),
        evaluator=entry.evaluator,
        round=entry.round,
        adapter_sha256=bytes.fromhex(entry.adapter_sha256),
        data_sha256=bytes.fromhex(entry.data_sha256),
        metrics=figures(entry),
        examples=entry.examples,
        signature=bytes.fromhex(entry.signature),
    )


def _require(kept: bool, entry: RoundEntry, rule: str) -> None:
    if not kept:
        raise _refuse(entry, rule)


def _refuse(entry: RoundEntry, rule: str) -> VerificationError:
    return VerificationError("E-REPORT-TRANSCRIPT", f"round {entry.round}: {rule}")
