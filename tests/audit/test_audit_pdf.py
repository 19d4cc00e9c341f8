"""The PDF of a report: an archive's PDF/A, the words of the page, and nothing of a report ever run as code."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from audit import pdf
from audit.page import make_page
from audit.verify import VerifiedReport, verify_report
from privacy.plan_parts import Mode
from tests.worlds.reports import coordinator_report, participant_report, text_of

MODES: tuple[Mode, ...] = ("distributed", "local", "distributed-participant", "none")


class Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def handle_data(self, data: str) -> None:
        self.text += data


def squeezed(text: str) -> str:
    """Return text without spaces, which layouts set as they like."""
    return re.sub(r"[\s\u200b]+", "", text)


def words_of(verified: VerifiedReport) -> str:
    """Return the words of the typst document, by typst's own HTML export."""
    made = pdf.compiler(make_page(verified)).compile(format="html")
    assert isinstance(made, bytes)
    reader = Words()
    reader.feed(made.decode())
    return squeezed(reader.text)


@pytest.fixture(scope="module")
def verified() -> VerifiedReport:
    return verify_report(participant_report()[1])


@pytest.mark.parametrize("mode", MODES)
def test_the_pdf_has_every_word_of_the_page(mode: Mode) -> None:
    verified = verify_report(participant_report(mode)[1])
    found, place = words_of(verified), 0
    for text in map(squeezed, text_of(make_page(verified))):
        place = found.index(text, place)


def test_the_pdf_is_pdf_a_and_for_screen_readers(verified: VerifiedReport) -> None:
    made = pdf.render(verified)
    assert made.startswith(b"%PDF-1.7")
    metadata = made[made.index(b"<x:xmpmeta") : made.index(b"</x:xmpmeta>")].decode()
    assert "<pdfaid:part>2</pdfaid:part>" in metadata
    assert "<pdfaid:conformance>A</pdfaid:conformance>" in metadata
    assert "<pdfuaid:part>1</pdfuaid:part>" in metadata


def test_the_pdf_of_a_report_is_the_same_bytes_each_time_and_small(verified: VerifiedReport) -> None:
    made = pdf.render(verified)
    assert made == pdf.render(verified)
    assert len(made) < 300_000


def test_the_pdf_has_at_most_four_pages(verified: VerifiedReport) -> None:
    pages = pdf.compiler(make_page(verified)).compile(format="svg")
    assert isinstance(pages, list)
    assert 1 < len(pages) <= 4


def test_text_that_people_wrote_is_never_typst_code() -> None:
    title, purpose = '#panic("run") *x*', '$x$ #read("/etc/passwd") @y <z> \\ `code` = h'
    verified = verify_report(coordinator_report(recipe={"title": title, "purpose": purpose})[1])
    assert pdf.render(verified)
    words = words_of(verified)
    assert squeezed(title) in words
    assert squeezed(purpose) in words
