"""The page of a report in a browser: accessible in light and dark, on narrow screens and on paper."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.html import render
from audit.verify import verify_report
from privacy.plan_parts import Mode
from tests.worlds import browser
from tests.worlds.reports import large_report, participant_report, report_of_rounds

MODES: tuple[Mode, ...] = ("distributed", "none")
NARROW = 360  # of a telephone


def page_of(mode: Mode) -> str:
    return render(verify_report(participant_report(mode)[1]))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("mode", MODES)
def test_axe_core_finds_nothing_serious_and_the_page_fetches_nothing(mode: Mode, dark: bool, tmp_path: Path) -> None:
    found = browser.examined(page_of(mode), tmp_path, dark=dark)
    assert found.rules > 20
    assert found.dark is dark
    assert found.grave == []
    assert found.fetched == []


def test_axe_core_would_find_a_grave_problem(tmp_path: Path) -> None:
    page = page_of("none").replace("<main>", '<main><img src="data:," ><p style="color:#ccc">pale</p>')
    assert {one[0] for one in browser.examined(page, tmp_path).grave} == {"image-alt", "color-contrast"}


@pytest.mark.parametrize("mode", MODES)
def test_the_page_does_not_scroll_sideways_on_a_telephone(mode: Mode, tmp_path: Path) -> None:
    assert browser.scroll_width(page_of(mode), tmp_path, width=NARROW) <= NARROW


@pytest.mark.parametrize("rounds", [3, 100])
@pytest.mark.parametrize("maker", ["coordinator", "participant"])
def test_many_rounds_and_long_names_do_not_make_a_telephone_scroll(rounds: int, maker: str, tmp_path: Path) -> None:
    page = render(verify_report(report_of_rounds(rounds, by_coordinator=maker == "coordinator")))
    assert browser.scroll_width(page, tmp_path, width=NARROW) <= NARROW


def test_a_page_prints_on_at_most_four_pages_however_large_the_run(tmp_path: Path) -> None:
    assert browser.printed_pages(page_of("distributed"), tmp_path) <= 4
    assert browser.printed_pages(render(verify_report(large_report())), tmp_path) <= 4
