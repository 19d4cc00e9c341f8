"""A report as an entry of the OpenDP Deployments Registry (YAML), as a draft for its curator.

Guarantees: an entry holds nothing that the report does not; what the report cannot know (the region) says so; text that
people wrote is escaped, because the registry renders strings as Markdown; runs without a claim are refused, because the
registry lists deployments of differential privacy.
Leaves to others: submitting it. Needs the extra ``report``.
Source: https://registry.opendp.org, ``deployments-schema.yaml`` of opendp/dp-deployments-registry-data.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

import yaml

from audit import wording
from audit.verify import VerifiedReport
from host.fingerprints import fingerprint
from privacy.claims import (
    EARLIER_RUNS,
    METADATA,
    UNIT_WORDS,
    departing_sentence,
    difference_sentence,
    epsilons_sentence,
    exchanged_sentence,
    relation_sentence,
    sum_sentence,
    two_units_sentence,
)
from privacy.errors import RefusedError
from privacy.plan import Plan
from privacy.report_model import Claim, Report

TIER: Final = 3  # every field of the third tier is filled in
UNKNOWN: Final = "Not part of the report; to be filled in by the curator."
Entry = dict[str, object]

_MARKDOWN: Final = re.compile(r"([\\`*_{}\[\]()<>#+!|$~&])")
_SLUG: Final = re.compile(r"[^a-z0-9]+")
_WIDTH: Final = 100


def render(verified: VerifiedReport) -> str:
    """Return the registry's YAML of a verified report.

    Raises:
        RefusedError: ``E-REPORT-NO-CLAIM``, the run had no differential privacy, or was a simulation.
    """
    return yaml.safe_dump(entry(verified), sort_keys=False, allow_unicode=True, width=_WIDTH)


def entry(verified: VerifiedReport) -> Entry:
    """Return the entry as a value; errors as :func:`render`."""
    report = verified.report
    if not isinstance(report.privacy, Claim):
        raise RefusedError("E-REPORT-NO-CLAIM", f"run {report.plan.run_id} had no differential privacy")
    if report.simulation:
        raise RefusedError("E-REPORT-NO-CLAIM", f"run {report.plan.run_id} was a simulation, which is not private")
    plan, claim = report.plan, report.privacy
    return {
        "url_slug": _SLUG.sub("-", f"onlysum-{plan.federation}-{plan.run_id[:12]}".lower()).strip("-"),
        "status": "Draft",
        "tier": TIER,
        "deployment": {
            "basic": _basic(report),
            "dp_variant": _variant(report),
            "privacy_loss": _loss(plan, claim),
            "deployment_model": _model(report),
            "accounting": _accounting(plan),
            "implementation": _implementation(report, claim),
            "administrative": _administrative(verified),
        },
    }


def _basic(report: Report) -> Entry:
    plan, recipe = report.plan, report.plan.recipe
    return {
        "name": plain(recipe.title or plan.run_id),
        "data_curators": [plain(member.id) for member in plan.roster],
        "intended_use": plain(recipe.purpose) or UNKNOWN,
        "data_product_type": "Summary statistics" if recipe.measured else "Machine learning model",
        "data_product_region": UNKNOWN,
        "description": plain(
            f"{'Measurements' if recipe.measured else 'An adapter'} of the foundation model {recipe.base.name}, by "
            f"{recipe.adapter.method}. {wording.what_this_does(report)}"
        ),
        "publication_date": datetime.fromtimestamp(report.made_at, UTC).date().isoformat(),
    }


def _variant(report: Report) -> Entry:
    plan = report.plan
    return {
        "variant_name": "Approximate DP",
        "data_domain": (
            f"Datasets of {plan.n} organisations for the task {plan.recipe.task.kind}, of public sizes"
            f" {', '.join(str(member.units) for member in plan.roster)}."
        ),
        "unprotected_quantities": METADATA,
    }


def _epsilons(plan: Plan, claim: Claim) -> str:
    return epsilons_sentence(
        plan,
        outsiders=float(claim.outsiders.epsilon),
        charged=float(claim.charged.epsilon),
        all_others=float(claim.all_others.epsilon),
    )


def _loss(plan: Plan, claim: Claim) -> Entry:
    return {
        "privacy_unit": UNIT_WORDS[claim.unit],
        "privacy_unit_details": (
            f"{relation_sentence(claim.unit)} {exchanged_sentence(claim.unit, float(claim.replace_one))}"
            f" {two_units_sentence(claim.unit, float(claim.group_of_two))}"
        ),
        "privacy_parameters": {"epsilon": float(claim.charged.epsilon), "delta": float(claim.delta)},
        "privacy_parameters_details": (
            f"For this run alone, after {wording.charged(plan, claim.charged_rounds)}. {_epsilons(plan, claim)}"
        ),
    }


def _model(report: Report) -> Entry:
    plan = report.plan
    return {
        "model_name": "Federated",
        "model_name_details": (
            f"Each participant clips and noises on its own machine (mode {plan.privacy.mode})."
            f" {departing_sentence(plan)} {sum_sentence(plan)} {difference_sentence(plan)}"
        ),
        "actors": " ".join(wording.what_we_rely_on(report)),
        "release_type": "One release",
        "release_type_details": (
            "The sum of the measurement, released to the roster and charged."
            if plan.recipe.measured
            else f"One adapter, after {plan.recipe.rounds} planned rounds; the sum of every round is released to the"
            " roster and charged."
        ),
        "data_source_type": "Static",
        "access_type": "Non-interactive",
    }


def _accounting(plan: Plan) -> Entry:
    return {
        "post_processing": (
            "Figures with standard errors, computed from the noisy sum."
            if plan.recipe.measured
            else f"The coordinator's optimizer ({plan.recipe.optimizer.name}) on the noisy sums, and the adapter's"
            " export."
        ),
        "composition": (
            "Privacy loss distributions of all rounds composed, with parameters fixed in advance; cross-checked by"
            " Renyi accounting and by a general bound for Poisson-sampled mechanisms. Across runs: a Renyi filter over"
            " each owner's ledger."
        ),
    }


def _implementation(report: Report, claim: Claim) -> Entry:
    rows = "\n".join(f"- {name}: {value}" for name, value in wording.method_rows(report.plan))
    software = ", ".join(f"{library.name} {library.version}" for library in report.software)
    earlier = "The coordinator's report does not list earlier runs; each owner's ledger does."
    if report.ledger:
        earlier = (
            f"Runs on this population so far, this one included: {len(report.ledger.runs)}, all of them on the owner's"
            f" ledger. {EARLIER_RUNS}"
        )
    return {
        "preprocessing_and_hyperparameter_tuning": earlier,
        "mechanisms": (
            f"Discrete Gaussian noise on integers, drawn exactly; no floating point takes part.\n\n{plain(rows)}\n\n"
            f"Randomness: {report.randomness}. Software: {plain(software)}."
        ),
        "justification": (
            "docs/privacy-accounting.md of onlysum has the lemma that bounds discrete by continuous noise, its proof"
            f" and its tests. The noise was calibrated for epsilon {report.plan.privacy.epsilon} at delta"
            f" {claim.delta}."
        ),
    }


def _administrative(verified: VerifiedReport) -> Entry:
    report = verified.report
    return {
        "notes": (
            f"Made from a signed report that verified. Plan SHA-256 {report.plan_sha256}; run {report.plan.run_id};"
            f" roster {report.roster}; signing key {fingerprint(verified.key)}. Check the report with"
            " `onlysum audit verify FILE`."
        ),
        "registry_authors": [plain(report.made_by.name)],
    }


def plain(text: str) -> str:
    """Return text in which Markdown sees no marks."""
    return _MARKDOWN.sub(r"\\\1", text)
