"""The participant's own report of a run: what happened as its journal and its ledger have it, signed by its identity.

Guarantees: every completed round is in it with the certificate that this participant verified; a report that cannot be
made never keeps a run from ending.
Leaves to others: the report's content (``privacy.report``), showing and checking it (``audit``).
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Final

from participant.home import certificate_file, sum_file
from participant.owner.cost import lifetime_budget
from participant.owner.plan_store import Decision
from participant.owner.rules import is_verified_roster
from participant.runs.context import DaemonContext
from privacy.errors import RefusedError
from privacy.ledger_entries import Charge
from privacy.plan import VerifiedPlan
from privacy.report import LedgerFacts, ReportFacts, RoundFacts, build_report, sign_report
from privacy.secagg.messages import RoundCertificate
from protos import codec

REPORT_FILE: Final = "report.json"
LIBRARIES: Final = ("onlysum", "cryptography", "dp-accounting", "numpy")  # that the figures depend on


def make_report(work: DaemonContext, verified: VerifiedPlan, decision: Decision, signature: bytes) -> bytes:
    """Return the signed report of a run.

    Args:
        work: whose report it is.
        verified: the plan.
        decision: the owner's approval.
        signature: the operator's, over the plan.

    Raises:
        OnlysumError: the accountants disagree, or the policy does not parse.
    """
    run, owner = work.home.runs / verified.plan.run_id, work.owner
    facts = ReportFacts(
        plan=verified.plan,
        operator_key=work.review.plans.operator_key,
        operator_signature=signature,
        role="participant",
        name=owner.name,
        identity_key=owner.identity.public,
        made_at=int(work.clock.now()),
        software={**{name: version(name) for name in LIBRARIES}, "python": platform.python_version()},
        roster_verified=is_verified_roster(verified.plan, work.review.policy(), owner.name),
        rounds=_rounds(work, verified, run),
        ledger=_ledger(work, verified, decision),
        measured=_measured(verified, run),
    )
    return sign_report(build_report(facts), owner.identity)


def _measured(verified: VerifiedPlan, run: Path) -> list[int]:
    """Return the integers of a measurement's sum, as far as it is here: checked when it came, and again by readers."""
    path, layout = sum_file(run), verified.plan.layout(1)
    if verified.plan.recipe.measured is None or not path.exists():
        return []
    words = layout.ring.from_bytes(path.read_bytes(), layout.words)
    return [int(entry) for entry in layout.decode(words)]


def _rounds(work: DaemonContext, verified: VerifiedPlan, run: Path) -> list[RoundFacts]:
    charged = [
        row.entry.round
        for row in work.ledger.rows()
        if isinstance(row.entry, Charge) and row.entry.plan_hash == verified.hash
    ]
    paths = [certificate_file(run, number) for number in range(1, verified.plan.recipe.rounds + 1)]
    last = max([*charged, *(number for number, path in enumerate(paths, start=1) if path.exists())], default=0)
    return [_round(number, path) for number, path in enumerate(paths[:last], start=1)]


def _round(number: int, path: Path) -> RoundFacts:
    """Return a round with the certificate that lies there; without one it was voided, or the run ended in it."""
    if not path.exists():
        return RoundFacts(round=number, attempts=1, certificate=None)
    certificate: RoundCertificate = codec.decode_certificate(path.read_bytes(), sender="coordinator")
    return RoundFacts(round=number, attempts=certificate.position.attempt, certificate=certificate)


def _ledger(work: DaemonContext, verified: VerifiedPlan, decision: Decision) -> LedgerFacts | None:
    """Return the ledger's part: of the population that the run was charged to, whatever the policy calls it now.

    Raises:
        RefusedError: ``E-LEDGER-POPULATION``, an older program charged the run to several populations.
    """
    policy, charged_to = work.review.policy(), work.ledger.populations_of_run(verified.hash)
    if len(charged_to) > 1:
        detail = f"run {verified.plan.run_id} was charged to {', '.join(charged_to)}: no report can add that up"
        raise RefusedError("E-LEDGER-POPULATION", detail)
    section = policy.dataset.get(decision.dataset) if decision.dataset else None
    named = charged_to or ((section.population,) if section else ())
    if not named:
        return None
    population, spent, head = policy.population.get(named[0]), work.ledger.spent(named[0]), work.ledger.head()
    # Of another unit since, or with charges that nobody can name: no figure of a budget.
    counted = population is not None and spent.unit in {"", population.unit} and not spent.exhausted
    return LedgerFacts(
        sequence=head.sequence,
        head=head.hash,
        key=work.ledger.key,
        spent=spent,
        budget=lifetime_budget(population) if population is not None and counted else None,
    )
