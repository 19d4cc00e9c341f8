"""The page of a report: self-contained, small, honest, and readable without colours or scripts."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from audit import wording
from audit.html import render
from audit.page import MOST_ROWS, Heading, Page, Table, make_page
from audit.plots import HEIGHT, WIDTH, line_plot
from audit.text import rendered
from audit.verify import VerifiedReport, verify_report
from audit.wording import UNANSWERED
from host.fingerprints import fingerprint
from privacy.notice import NOT_STATED
from privacy.plan_parts import Mode
from privacy.report import RoundFacts, build_report, sign_report
from tests.worlds.plans import OPERATOR, STRONG
from tests.worlds.reports import (
    certificate,
    coordinator_facts,
    coordinator_report,
    large_report,
    participant_facts,
    participant_report,
    reported_plan,
    text_of,
)

MODES: tuple[Mode, ...] = ("distributed", "local", "distributed-participant", "none")
VOID = {"meta", "link", "br", "line", "circle", "polyline", "hr", "img", "input"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += " " + data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    reader.text = " ".join(reader.text.split())
    return reader


@pytest.fixture(scope="module")
def page() -> str:
    return render(verify_report(participant_report()[1]))


@pytest.mark.parametrize("mode", MODES)
def test_a_page_of_every_mode_has_no_script_and_asks_no_other_host(mode: Mode) -> None:
    text = render(verify_report(coordinator_report(mode)[1]))
    reader = read(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(reader.tags)
    assert not {"src", "href", "style", "action"} & {name for name, _ in reader.attributes}
    assert not any(name.startswith("on") for name, _ in reader.attributes)
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_a_page_is_small_even_for_many_rounds_and_participants() -> None:
    text = render(verify_report(large_report()))
    assert len(text.encode()) < 100_000
    assert text.count("<tr>") < 8 * (MOST_ROWS + 3)
    assert "more such rounds, in the report file" in text


def sections_of(page: Page) -> list[str]:
    return [block.text for block in page.blocks if isinstance(block, Heading)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("maker", ["coordinator", "participant"])
def test_the_guideline_table_names_only_sections_that_the_report_has(mode: Mode, maker: str) -> None:
    made = make_page(verify_report((coordinator_report if maker == "coordinator" else participant_report)(mode)[1]))
    tables = [block for block in made.blocks if isinstance(block, Table)]
    (table,) = [table for table in tables if table.heads[-1:] == ("section of this page",)]
    named = {name for row in table.rows for name in row[1][0].text.split("; ")} - {UNANSWERED}
    assert named <= set(sections_of(made))
    assert ("The owner's ledger" in named) == (maker == "participant")
    assert ("Spend by round" in named) == (mode != "none")


def test_a_key_stands_in_one_form_wherever_the_page_shows_it() -> None:
    verified = verify_report(participant_report()[1])
    text = " ".join(text_of(make_page(verified)))
    keys = [verified.report.operator_key, *(member.identity_key for member in verified.report.plan.roster)]
    assert not [key for key in keys if key in text]
    assert text.count(fingerprint(verified.key)) >= 3  # to compare, on the roster, and as who signed


def test_the_spend_of_all_runs_stands_in_the_panel_where_a_ledger_is_known() -> None:
    shown = {
        maker: " ".join("".join(span.text for span in text) for text in make_page(verify_report(report)).summary)
        for maker, report in (("participant", participant_report()[1]), ("coordinator", coordinator_report()[1]))
    }
    assert "Over all runs of patients: epsilon " in shown["participant"]
    assert "Over all runs" not in shown["coordinator"]


def test_whom_to_ask_stands_out_where_the_plan_leaves_it_empty() -> None:
    assert render(verify_report(participant_report()[1])).count(f"<strong>{NOT_STATED}</strong>") == 5


def test_rounds_that_went_the_same_way_share_a_row_and_the_lifetime_figure_is_explained() -> None:
    plan, keys = reported_plan(recipe={"rounds": 6})
    missing: dict[int, tuple[str, ...]] = {2: ("carol",), 3: ("carol",), 4: ("carol",), 6: ("bob",)}
    rounds = [
        RoundFacts(round=i, attempts=1, certificate=certificate(plan, keys, i, missing=missing.get(i, ())))
        for i in range(1, 7)
    ]
    report = build_report(replace(participant_facts(plan, keys, charged=6), rounds=rounds))
    text = " ".join(text_of(make_page(verify_report(sign_report(report, keys["alice"])))))
    assert "2 to 4 1 completed carol 6 1 completed bob" in text
    assert "none needed more than one attempt, and in 4 somebody dropped out" in text
    assert "is for delta, paid once with the first charge" in text


def test_a_page_has_a_language_a_title_and_one_first_heading(page: str) -> None:
    reader = read(page)
    assert page.startswith("<!doctype html>")
    assert ("lang", "en") in reader.attributes
    assert reader.tags.count("h1") == reader.tags.count("title") == reader.tags.count("main") == 1


def test_the_plot_has_a_label_and_a_table_with_its_numbers(page: str) -> None:
    reader = read(page)
    assert reader.tags.count("svg") == 1
    assert ("role", "img") in reader.attributes
    after_plot = page.split("</svg>")[1]
    assert after_plot.index("<table>") < after_plot.index("<h2>")


def test_plain_words_come_before_figures(page: str) -> None:
    text = read(page).text
    order = ["In plain words", "What this does", "What limits what the sum reveals", "What we rely on",
             "What is not protected", "Check it yourself", "The figures", "Versions and hashes"]  # fmt: skip
    assert [text.index(title) for title in order] == sorted(text.index(title) for title in order)


def test_a_page_says_whom_the_three_epsilons_are_against_and_what_two_units_cost(page: str) -> None:
    text = read(page).text
    for words in (
        "outsiders, who see only what is released",
        "the coordinator together with 1 participant (this is charged)",
        "everybody else together",
        "a person who is two units of privacy (group of two)",
        "replace-one relation",
        "Roster: verified",
        "3 charged rounds",
    ):
        assert words in text


def test_a_page_asks_to_compare_the_fingerprint_unless_the_key_was_expected(page: str) -> None:
    report, data = participant_report()
    assert "by telephone" in page
    expected = render(verify_report(data, expected_key=bytes.fromhex(report.made_by.identity_key)))
    assert "by telephone" not in expected


def test_a_run_without_noise_reads_no_differential_privacy_and_shows_no_epsilon() -> None:
    text = read(render(verify_report(coordinator_report("none")[1]))).text
    assert "No differential privacy" in text
    assert "epsilon" not in text.lower()


def test_earlier_runs_without_noise_are_pointed_out(page: str) -> None:
    assert "1 of these runs had no differential privacy" in read(page).text


@pytest.mark.parametrize("mode", MODES)
def test_no_page_promises_what_it_cannot_keep(mode: Mode) -> None:
    text = read(render(verify_report(participant_report(mode)[1]))).text.lower()
    for word in ("anonym", "complian", "guaranteed", "impossible", "measured epsilon"):
        assert word not in text


def test_text_from_the_plan_is_escaped() -> None:
    _, data = coordinator_report(recipe={"title": "<script>alert(1)</script>", "purpose": '"><img src=x>'})
    text = render(verify_report(data))
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text


def test_a_simulation_is_labelled_not_private() -> None:
    plan, keys = reported_plan()
    report = build_report(replace(coordinator_facts(plan, keys), simulation=True))
    assert "Simulation, not private" in read(render(verify_report(sign_report(report, OPERATOR)))).text


def test_a_run_without_a_started_round_has_no_plot_and_says_that_nothing_was_charged() -> None:
    plan, keys = reported_plan()
    facts = replace(coordinator_facts(plan, keys), rounds=(), evaluations=())
    text = render(verify_report(sign_report(build_report(facts), OPERATOR)))
    assert "<svg" not in text
    assert "No round has started" in text


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
        channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_contrast_in_light_dark_and_print(page: str) -> None:
    palettes = re.findall(r":root \{([^}]*)\}", page)
    assert len(palettes) == 3
    for palette in palettes:
        colours = dict(re.findall(r"--(\w+): #(\w+);", palette))
        for ground in ("paper", "panel"):
            for ink in ("ink", "soft", "blue", "warn"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground, palette)


def test_a_plot_stays_inside_its_picture_and_never_falls() -> None:
    for values in ([(1.0, 3.5)], [(float(i), i**0.5) for i in range(1, 500)], [(1.0, 0.0)], [(3.0, 14433.5)]):
        plot = line_plot([(0.0, 0.0), *values])
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in plot.points)
        assert [y for _, y in plot.points] == sorted((y for _, y in plot.points), reverse=True)
        assert 2 <= len(plot.y_ticks) <= 7
        assert len({tick.label for tick in plot.x_ticks}) == len(plot.x_ticks) <= 7


@pytest.mark.parametrize(
    ("epsilon", "shown"), [("5.7789", "5.78"), ("5.77", "5.77"), ("0.0001", "0.01"), ("14433.482", "14,434")]
)
def test_epsilons_are_rounded_up_for_reading(epsilon: str, shown: str) -> None:
    assert wording.short(epsilon) == shown


def test_a_large_epsilon_is_not_talked_up() -> None:
    report, _ = coordinator_report(recipe={"rounds": 3}, privacy={"sampling_rate": "1", "sensitivity": 400})
    words = " ".join(wording.what_limits_the_sum(report))
    assert "promises little" in words
    assert "sure" not in words


def test_a_page_is_made_only_from_a_verified_report(page: str) -> None:
    assert render.__annotations__["verified"] == VerifiedReport.__name__


@pytest.mark.parametrize(
    ("plan", "words", "never"),
    [
        ({}, ("suite 1: X25519", "Harvest now, decrypt later", "graph complete: everybody"), ("2^-40",)),
        ({"suite": 2}, ("suite 2: X25519 and ML-KEM-768", "X25519 or ML-KEM-768, Ed25519"), ("Harvest now",)),
        (STRONG, ("graph k-regular: at most 28 neighbours", "a probability of at most 2^-40"), ()),
    ],
    ids=["suite 1", "suite 2", "k-regular"],
)
def test_suite_graph_and_roster_are_named_with_what_they_leave_open(
    plan: dict[str, Any], words: tuple[str, ...], never: tuple[str, ...]
) -> None:
    facts = replace(coordinator_facts(*reported_plan("none", **plan)), roster_verified=True)
    verified = verify_report(sign_report(build_report(facts), OPERATOR))
    page, terminal = read(render(verified)).text, " ".join(rendered(verified.report).replace(":", "").split())
    for word in (*words, "roster verified"):
        assert word in page
        assert word.replace(":", "") in terminal
    for word in never:
        assert word not in page
        assert word not in terminal
    assert "roster unverified" in read(render(verify_report(coordinator_report("none", **plan)[1]))).text


def test_a_participant_that_missed_every_round_is_not_told_that_nothing_was_released() -> None:
    plan, keys = reported_plan()
    facts = participant_facts(plan, keys)
    assert facts.ledger is not None
    spent = replace(facts.ledger.spent, runs=facts.ledger.spent.runs[:-1])
    rounds = (RoundFacts(round=1, attempts=1, certificate=certificate(plan, keys, 1, missing=("alice",))),)
    report = build_report(replace(facts, rounds=rounds, ledger=replace(facts.ledger, spent=spent)))
    text = " ".join(text_of(make_page(verify_report(sign_report(report, keys["alice"])))))
    assert "No row of alice was used, and nothing was charged: it was in none of the 1 completed rounds." in text
    assert "nothing was released" not in text


def test_a_participants_figures_are_said_to_be_about_its_own_rows() -> None:
    text = " ".join(text_of(make_page(verify_report(participant_report()[1]))))
    assert "What follows is about the rows of alice, which was charged for 3 rounds." in text
