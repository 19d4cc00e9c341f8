"""A report as a PDF for the file: PDF/A-2a and PDF/UA-1, by typst.

Guarantees: the same words as the HTML page, in the same order; text of a report is data to the template and never typst
code; no font or package is fetched, and the same report gives the same bytes with the same typst.
Leaves to others: what it says (``page``). Needs the extra ``report``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from typing import Final

import typst

from audit.page import Page, make_page
from audit.verify import VerifiedReport

STANDARDS: Final[list[typst.PDFStandard]] = ["a-2a", "ua-1"]  # made for archives, and readable by screen readers


def render(verified: VerifiedReport) -> bytes:
    """Return the PDF of a verified report."""
    page = make_page(verified)
    done = compiler(page).compile(format="pdf", pdf_standards=STANDARDS, timestamp=page.made_at)
    if not isinstance(done, bytes):
        raise TypeError("typst gave several files for one PDF")
    return done


def compiler(page: Page) -> typst.Compiler:
    """Return typst with the template and a page's words, and with its own fonts alone."""
    template = (files("audit") / "templates" / "report.typ").read_bytes()
    return typst.Compiler(input=template, ignore_system_fonts=True, sys_inputs={"page": json.dumps(as_values(page))})


def as_values(page: Page) -> dict[str, object]:
    """Return a page as the template reads it: each block names its kind."""
    made = datetime.fromtimestamp(page.made_at, UTC)
    blocks = [{"kind": type(block).__name__, **asdict(block)} for block in page.blocks]
    date = {"year": made.year, "month": made.month, "day": made.day}
    return {**asdict(page), "blocks": blocks, "author": "onlysum", "date": date}
