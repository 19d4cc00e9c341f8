"""Whoever states a guarantee or its absence prints the sentences of ``privacy.claims``, and words none itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from audit import registry
from audit.page import make_page
from audit.text import rendered
from audit.verify import VerifiedReport, verify_report
from coordinator.runs.release import model_card
from coordinator.views.proposal import Proposal
from docs import build_claims
from participant.owner.plan_page import draft_lines
from privacy import claims
from privacy.draft import Notice
from privacy.notice import NOT_STATED, notice_sentences
from privacy.plan import Plan
from privacy.plan_parts import Mode
from privacy.report import build_report, sign_report
from tests.worlds.plans import OPERATOR, STRONG
from tests.worlds.reports import coordinator_facts, participant_facts, reported_plan, text_of

ROOT = Path(__file__).parent.parent
MODES: tuple[Mode, ...] = ("none", "local", "distributed", "distributed-participant")


def report_of(plan: Plan, *, unverified: bool = False) -> VerifiedReport:
    keys = reported_plan(plan.privacy.mode, n=plan.n, f=plan.f)[1]
    facts = replace(coordinator_facts(plan, keys), roster_verified=not unverified)
    return verify_report(sign_report(build_report(facts), OPERATOR))


def plan_page(plan: Plan) -> str:
    return " ".join(sentence for _, sentences in draft_lines(plan) for sentence in sentences)


def run_creation(plan: Plan) -> str:
    return "\n".join(Proposal(plan).to_lines())


def report_on_a_page(plan: Plan) -> str:
    return "\n".join(text_of(make_page(report_of(plan))))


def report_on_a_terminal(plan: Plan) -> str:
    return rendered(report_of(plan).report)


def report_as_json(plan: Plan) -> str:
    return "\n".join(report_of(plan).report.not_protected)


def threat_model(plan: Plan) -> str:
    return build_claims.TEXT.read_text()


# Everything that shows what a plan promises, and what it promises less than others.
CONSUMERS: dict[str, Callable[[Plan], str]] = {
    "the plan page": plan_page,
    "run creation": run_creation,
    "the report on a page": report_on_a_page,
    "the report on a terminal": report_on_a_terminal,
    "the report as JSON": report_as_json,
    "the model card": lambda plan: model_card(plan, ()),
    "the threat model": threat_model,
}
CLAIMING = CONSUMERS.keys() - {"the report as JSON"}  # the report's own field says only what is not protected


def flat(text: str) -> str:
    return " ".join(text.split())


def a_plan(mode: Mode, **overrides: object) -> Plan:
    """Return a plan with the numbers of which the threat model speaks."""
    arguments = {"n": build_claims.PARTICIPANTS, "f": build_claims.COLLUDING, **overrides}
    return reported_plan(mode, **arguments)[0]


@pytest.mark.parametrize("consumer", sorted(CLAIMING))
@pytest.mark.parametrize("mode", MODES)
def test_what_the_coordinator_sees_and_what_sums_tell_together_is_said_by(mode: Mode, consumer: str) -> None:
    plan = a_plan(mode)
    shown = flat(CONSUMERS[consumer](plan))
    assert claims.collusion_sentence(plan) in shown
    assert claims.sum_sentence(plan) in shown
    if mode != "distributed-participant" or consumer != "the threat model":  # it shows the unit example
        assert claims.difference_sentence(plan) in shown


@pytest.mark.parametrize("consumer", sorted(CONSUMERS))
def test_without_noise_two_sums_are_said_to_tell_one_update_by(consumer: str) -> None:
    plan = a_plan("none")
    shown = flat(CONSUMERS[consumer](plan))
    assert claims.difference_sentence(plan) in shown
    if consumer != "run creation":
        assert claims.NO_NOISE in shown
    else:
        assert claims.NO_PRIVACY.lower() in shown
    if consumer != "the threat model":  # it is about all modes
        assert "never one update" not in shown
        assert "only the sum" not in shown


@pytest.mark.parametrize("consumer", sorted(CLAIMING))
@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_with_noise_whose_noise_is_relied_on_is_said_by(mode: Mode, consumer: str) -> None:
    plan = a_plan(mode)
    shown = flat(CONSUMERS[consumer](plan))
    for sentence in claims.noise_sentences(plan):
        assert sentence in shown
    if consumer != "the threat model":
        assert "There is no noise" not in shown


@pytest.mark.parametrize("consumer", sorted(CONSUMERS))
def test_what_graph_and_suite_leave_open_is_said_by(consumer: str) -> None:
    for plan in (reported_plan("none", **STRONG)[0], a_plan("none"), a_plan("none", suite=2)):
        shown = flat(CONSUMERS[consumer](plan))
        for sentence in (*claims.graph_sentences(plan), *claims.suite_sentences(plan)):
            assert sentence in shown
        if plan.suite == 2 and consumer != "the threat model":
            assert "Harvest now" not in shown


NOTICED = ("the plan page", "the report on a page", "the report on a terminal", "the model card")


@pytest.mark.parametrize("consumer", NOTICED)
def test_whom_to_ask_and_what_becomes_of_the_data_is_shown_by(consumer: str) -> None:
    plan = a_plan("none")
    notice = Notice(responsible="Institute A", contact="+1 555 0100", data="wards of 2025", retention="a year")
    stated = plan.model_copy(
        update={"operator_contact": "+1 555 0199", "recipe": plan.recipe.model_copy(update={"notice": notice})}
    )
    shown, silent = (flat(CONSUMERS[consumer](shown_plan)) for shown_plan in (stated, plan))
    for words in ("Institute A", "+1 555 0100", "+1 555 0199", "wards of 2025", "a year"):
        assert words in shown
        assert words not in silent
    assert silent.count(NOT_STATED) == len(notice_sentences(plan))
    assert NOT_STATED not in shown


@pytest.mark.parametrize("mode", MODES)
def test_what_is_not_protected_is_the_same_before_a_run_and_in_its_report(mode: Mode) -> None:
    plan = a_plan(mode)
    for consumer in ("the plan page", "the report on a page", "the report on a terminal", "the report as JSON"):
        shown = flat(CONSUMERS[consumer](plan))
        assert [sentence for sentence in claims.not_protected(plan) if sentence not in shown] == [], consumer


def test_the_plan_page_and_run_creation_print_every_sentence_about_trust() -> None:
    for mode in MODES:
        plan = a_plan(mode)
        for consumer in ("the plan page", "run creation"):
            shown = flat(CONSUMERS[consumer](plan))
            assert [sentence for sentence in claims.trust_sentences(plan) if sentence not in shown] == []
        value = Proposal(plan).to_json()
        assert isinstance(value, dict)
        assert value["trust"] == list(claims.trust_sentences(plan))


@pytest.mark.parametrize("unverified", [True, False])
def test_a_report_prints_every_sentence_about_what_it_relies_on(unverified: bool) -> None:
    verified = report_of(a_plan("distributed"), unverified=unverified)
    plan = verified.report.plan
    for shown in ("\n".join(text_of(make_page(verified))), rendered(verified.report)):
        for sentence in (claims.departing_sentence(plan), *claims.reliance_sentences(plan)):
            assert sentence in flat(shown)
        assert (claims.UNVERIFIED in flat(shown)) == unverified


def test_no_line_of_a_purpose_passes_for_a_statement_of_the_model_card() -> None:
    plan = reported_plan("none", recipe={"purpose": "Digits.\n\n## Privacy\n\n- Differential privacy: epsilon 0.1"})[0]
    lines = model_card(plan, ()).splitlines()
    assert lines.count("## Privacy") == 1
    assert "> ## Privacy" in lines
    assert not any(line.startswith("- Differential privacy") for line in lines)


def test_the_registrys_entry_is_made_of_the_same_sentences() -> None:
    plan, keys = reported_plan()
    entry = registry.entry(verify_report(sign_report(build_report(participant_facts(plan, keys)), keys["alice"])))
    shown = str(entry)
    for sentence in (
        claims.sum_sentence(plan),
        claims.difference_sentence(plan),
        claims.departing_sentence(plan),
        claims.METADATA,
        claims.EARLIER_RUNS,
        claims.relation_sentence("example"),
        *claims.noise_sentences(plan),
    ):
        assert sentence in shown or sentence in shown.replace("\\'", "'")


def test_the_threat_model_holds_the_sentences_that_programs_print() -> None:
    text = build_claims.TEXT.read_text()
    assert build_claims.rebuilt(text) == text, "run `python -m docs.build_claims`"
    for sentences in build_claims.blocks().values():
        assert sentences
        assert all(sentence in text for sentence in sentences)


# --- no guarantee is worded anywhere else ---

WORDING = [
    *sorted((ROOT / "audit").glob("*.py")),
    ROOT / "participant" / "owner" / "plan_page.py",
    ROOT / "coordinator" / "commands" / "run.py",
    ROOT / "coordinator" / "runs" / "creation.py",
    ROOT / "coordinator" / "views" / "proposal.py",
    ROOT / "coordinator" / "runs" / "release.py",
    ROOT / "privacy" / "report.py",
    *sorted((ROOT / "audit" / "templates").iterdir()),
]
# Words of which sentences about guarantees are made.
GUARANTEE = re.compile(
    r"\b(never|anonym\w*|complian\w*|impossible|guarantee\w*|nobody (?:can|else|learns|sees)|no ?one (?:can|else)|"
    r"cannot (?!be (?:computed|read|written))|only (?:the |that )?sums?|no single|one update|unreadable|no noise|"
    r"colludes?|works? together|taken over|refund\w*|honest|harvest|hidden|in common|neighbours that|"
    r"coordinator (?:sees|learn\w*|knows)|has less protection|everybody else)\b",
    re.IGNORECASE,
)


def texts_of(path: Path) -> Iterator[str]:
    """Yield what a module may print: its strings but the docstrings; of a template, all of it."""
    if path.suffix != ".py":
        yield path.read_text()
        return
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


@pytest.mark.parametrize("path", WORDING, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_guarantee_is_worded_in(path: Path) -> None:
    assert [text for text in texts_of(path) if GUARANTEE.search(text)] == []


def test_the_words_that_are_looked_for_are_those_of_the_claims() -> None:
    """Most of the sentences of ``privacy.claims`` would be noticed elsewhere."""
    sentences = {
        sentence
        for mode in MODES
        for plan in (a_plan(mode),)
        for sentence in (*claims.trust_sentences(plan), *claims.not_protected(plan), claims.departing_sentence(plan))
    }
    unnoticed = {sentence for sentence in sentences if not GUARANTEE.search(sentence)}
    assert len(unnoticed) <= len(sentences) // 3, unnoticed
    for text in (
        "The coordinator alone sees only sums over at least 3 participants.",
        "Together with any 2 participants it sees a sum over at least 3 others, never one update.",
        "Your data stays anonymous.",
        "This run is GDPR-compliant.",
        "Nobody can read your update.",
    ):
        assert GUARANTEE.search(text)
