"""What a measurement's report says: its figures, computed by the reader from the sum that the survivors signed for.

Guarantees: the integers in a report are those whose hash the round's certificate has, or the report is refused; the
figures are nobody's statement.
Leaves to others: the certificate (``history``), what the integers mean (``privacy.measurement``).
Source: docs/privacy-accounting.md section 12.
"""

from __future__ import annotations

import numpy as np

from privacy.canonical import MAX_INTEGER
from privacy.errors import VerificationError
from privacy.measurement import Figure, figure_words, figures
from privacy.report_model import Report
from privacy.secagg import hashes


def check_measurement(report: Report) -> str:
    """Check that the integers of a measurement are the sum's, and return what was found; nothing of other plans.

    Raises:
        VerificationError: ``E-REPORT-RECOMPUTE``.
    """
    plan, total = report.plan, report.measured
    if plan.recipe.measured is None:
        _require(not total, "it has a measurement, of a plan that measures nothing")
        return ""
    certificate = next((entry.certificate for entry in report.rounds if entry.certificate is not None), None)
    if certificate is None:
        _require(not total, "it has a measurement, and no round of it was completed")
        return "no round was completed, so nothing was measured"
    if not total:
        _require(report.made_by.role == "participant", "the measurement is left out")
        return "the sum is not in this report; the coordinator's has it"
    fits = len(total) == plan.recipe.entries and all(abs(entry) <= MAX_INTEGER for entry in total)
    _require(fits, "the measurement has another length, or a number beyond its words")
    entries = np.array(total, dtype=np.int64)
    words = plan.layout(1).encode(entries, 1)
    _require(np.array_equal(plan.layout(1).decode(words), entries), "a number of the measurement is beyond its words")
    same = hashes.sum_hash(words.data.cast("B")).hex() == certificate.sum_sha256
    _require(same, "the measurement is not the sum that the round's certificate names")
    count = len(certificate.survivors)
    return f"{len(total)} numbers are the sum of {count} participants that the certificate names"


def measured_figures(report: Report) -> tuple[Figure, ...]:
    """Return the figures of a verified report; none where it has no measurement."""
    certificates = [entry.certificate for entry in report.rounds if entry.certificate is not None]
    if not report.measured or not certificates:
        return ()
    return figures(report.plan, report.measured, len(certificates[0].survivors))


def measured_words(report: Report) -> tuple[str, ...]:
    """Return the figures in words."""
    return tuple(figure_words(measured_figures(report)))


def _require(kept: bool, rule: str) -> None:
    if not kept:
        raise VerificationError("E-REPORT-RECOMPUTE", rule)
