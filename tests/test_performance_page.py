"""The page on performance shows what the kept results say, the missed marks too."""

from __future__ import annotations

import pytest

from docs import build_performance, performance_chart

TEXT = build_performance.TEXT.read_text()


def test_the_page_and_its_chart_are_what_the_results_say() -> None:
    say = "run `python -m docs.build_performance`"
    assert build_performance.rebuilt(TEXT) == TEXT, say
    assert build_performance.chart() == build_performance.CHART.read_text(), say


@pytest.mark.parametrize(
    ("bounds", "met"),
    [({"least": 2.0}, "met"), ({"least": 2.1}, "**missed**"), ({"most": 2.0}, "met"), ({"most": 1.9}, "**missed**")],
)
def test_a_missed_mark_is_said_to_be_missed(bounds: dict[str, float], met: str) -> None:
    assert build_performance._mark("a ratio", 2.0, **bounds)[-1] == met


def test_the_parts_of_a_bar_make_up_its_floor() -> None:
    for bar in performance_chart.bars(build_performance.results("flower")[1]):
        assert sum(bar.parts.values()) == pytest.approx(bar.floor, abs=0.02)  # each part is rounded
