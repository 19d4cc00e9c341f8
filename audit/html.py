"""A report, or a plan before it is one, as one self-contained page without scripts.

Guarantees: no script, no request to anywhere, system fonts; every text from the report is escaped; light and dark.
Leaves to others: what it says (``page``), whether the report is genuine (``verify``).
Source: docs/privacy-accounting.md section 9; Okabe and Ito 2008 (colours); WCAG 2.2 (contrast, headings, tables).
"""

from __future__ import annotations

import jinja2

from audit.page import Page, make_page
from audit.verify import VerifiedReport


def render(verified: VerifiedReport) -> str:
    """Return the page of a verified report."""
    return render_page(make_page(verified))


def render_page(page: Page) -> str:
    """Return any page of headings and blocks in the same layout: a report's, or a plan's before a run."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("audit"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["kind"] = _kind
    return environment.get_template("report.html.j2").render(page=page)


def _kind(block: object) -> str:
    return type(block).__name__
