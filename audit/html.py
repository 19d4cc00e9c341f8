"""A report, or a plan before it is one, as one self-contained page without scripts.

Guarantees: no script, no request to anywhere, system fonts; every text from the report is escaped; light and dark.
Leaves to others: what it says (``page``), whether the report is genuine (``verify``).
Source: docs/privacy-accounting.md section 9; Okabe and Ito 2008 (colours); WCAG 2.2 (contrast, headings, tables).
"""

from __future__ import annotations

from typing import Final

import jinja2

from audit.page import Page, Text, make_page
from audit.verify import VerifiedReport

LONG_WORD: Final = 20  # characters; a number with its sign, and every word of these pages, is shorter


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
    environment.filters["breaks"] = _breaks
    return environment.get_template("report.html.j2").render(page=page)


def _kind(block: object) -> str:
    return type(block).__name__


def _breaks(text: Text) -> bool:
    """Return whether a cell holds a word that a narrow screen must break: a long name, never an ordinary word."""
    return any(len(word) > LONG_WORD for span in text for word in span.text.split())
