"""A report as one self-contained page: plain words first, then figures, then how to check them.

Guarantees: no script, no request to anywhere, system fonts; every text from the report is escaped; long tables are cut
with a line that says so, because the page is for reading and the JSON is the report.
Leaves to others: whether the report is genuine (``verify``); the page says what was checked and what was not.
Source: docs/privacy-accounting.md section 9; Okabe and Ito 2008 (colours).
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Final, TypeVar

import jinja2

from audit import wording
from audit.plots import Plot, line_plot
from audit.verify import VerifiedReport, fingerprint
from privacy.report_model import Claim, EvaluationEntry, Report, RoundEntry

_T = TypeVar("_T")

MOST_ROWS: Final = 10  # of a table on the page; four printed pages in all

NIST_ROWS: Final = (
    ("privacy parameters, unit of privacy", "What limits what the sum reveals; The figures"),
    ("mechanism, sampling, clipping", "How sampling, clipping and noise were executed"),
    ("privacy accounting, composition", "Spend by round; The owner's ledger"),
    ("trust model", "What we rely on; The figures"),
    ("utility", "Measurements on public data"),
    ("security, side channels, limits", "What is not protected"),
)


def render(verified: VerifiedReport) -> str:
    """Return the page of a verified report."""
    report = verified.report
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("audit"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(
        report=report,
        plan=report.plan,
        claim=report.privacy if isinstance(report.privacy, Claim) else None,
        verified=verified,
        words=wording,
        key_fingerprint=fingerprint(verified.key),
        made_on=_day(report.made_at),
        plot=spend_plot(report),
        curve=_thinned(report.privacy.curve) if isinstance(report.privacy, Claim) else (),
        events=_notable(report),
        absences=_absences(report),
        unprotected=sum(run.event is None for run in report.ledger.runs) if report.ledger else 0,
        measurements=_thinned(report.evaluations),
        accuracy=_accuracy,
        fingerprint=fingerprint,
        most_rows=MOST_ROWS,
        nist=NIST_ROWS,
    )


def spend_plot(report: Report) -> Plot | None:
    """Return the plot of cumulative spend by charged round, or None without any."""
    stated = report.privacy
    if not isinstance(stated, Claim) or not stated.curve:
        return None
    return line_plot([(0.0, 0.0), *((float(one.rounds), float(one.epsilon)) for one in stated.curve)])


def _thinned(rows: tuple[_T, ...]) -> tuple[_T, ...]:
    """Return at most MOST_ROWS rows, evenly from the first to the last."""
    if len(rows) <= MOST_ROWS:
        return rows
    return tuple(rows[round(i * (len(rows) - 1) / (MOST_ROWS - 1))] for i in range(MOST_ROWS))


def _notable(report: Report) -> tuple[RoundEntry, ...]:
    """Return the rounds that did not go through at once with everybody."""
    return tuple(one for one in report.rounds if one.dropouts or one.attempts > 1 or one.certificate is None)


def _absences(report: Report) -> Counter[str]:
    return Counter(name for one in report.rounds for name in one.dropouts)


def _accuracy(entry: EvaluationEntry) -> str:
    return f"{100 * entry.correct / entry.examples:.1f}%"


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
