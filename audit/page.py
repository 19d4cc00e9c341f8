"""What a report's page says, section by section: headings, paragraphs, lists and tables, before any layout.

Guarantees: plain words first, then figures, then how to check them; the HTML page and the PDF are made from this one
value, so they have the same words; long tables are cut with a line that says so, because the page is for reading and
the JSON is the report.
Leaves to others: layout (``html``, ``pdf``), sentences (``wording``), whether the report is genuine (``verify``).
Source: docs/privacy-accounting.md section 9.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, TypeVar

from audit import wording
from audit.measurement import measured_figures
from audit.plots import Plot, line_plot
from audit.statements import maker_statements
from audit.verify import VerifiedReport
from host.fingerprints import fingerprint
from privacy.claims import (
    CHARGING,
    EARLIER_RUNS,
    NO_NOISE,
    NO_PRIVACY,
    SIMULATION,
    not_protected,
    numbers_sentence,
    relation_sentence,
    two_units_sentence,
    unnoised_runs_sentence,
)
from privacy.notice import HEADING, NOT_STATED, notice_rows
from privacy.plan import Plan
from privacy.report_model import Claim, LedgerPart, Report, RoundEntry

_T = TypeVar("_T")

MOST_ROWS: Final = 10  # of a table on the page; four printed pages in all


@dataclass(frozen=True, slots=True)
class Span:
    """A run of text: plain, strong, or a code (a hash, a key, a command)."""

    text: str
    kind: Literal["plain", "strong", "code"] = "plain"


Text = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of level 2 or 3."""

    text: str
    level: Literal[2, 3]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph; a soft one is a note beside what matters."""

    text: Text
    soft: bool = False


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list."""

    items: tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows whose first cell names the row; no heads where rows are facts by name."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Text, ...], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """The plot of spend, with its caption and a label for who cannot see it; a table with its numbers follows."""

    plot: Plot
    label: str
    caption: str
    x_title: str
    y_title: str


Block = Heading | Paragraph | Bullets | Table | Figure


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page. ``key_figure`` and ``summary`` stand in a panel of their own, in the colour of a warning if so."""

    title: str
    origin: str
    made_at: int
    purpose: str
    key_figure: str
    summary: tuple[Text, ...]
    warns: bool
    blocks: tuple[Block, ...]


def make_page(verified: VerifiedReport) -> Page:
    """Return what the page of a verified report says."""
    report, plan = verified.report, verified.report.plan
    claim = report.privacy if isinstance(report.privacy, Claim) else None
    made_on = datetime.fromtimestamp(report.made_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    maker = f"{report.made_by.role} {report.made_by.name}"
    blocks = (
        *_plain_words(verified, claim),
        *_measured(report),
        *(_figures(report, claim) if claim else ()),
        *_execution(report),
        *_rounds(report),
        *(_ledger(report, report.ledger) if report.ledger else ()),
        *_measurements(report),
        *_roster(report),
        Heading(HEADING, 2),
        _table(("question", "answer"), tuple(_notice(plan))),
        *_hashes(report),
    )
    return Page(
        title=plan.recipe.title or plan.run_id,
        origin=f"Privacy report, {plan.federation}, made {made_on} by {maker}",
        made_at=report.made_at,
        purpose=plan.recipe.purpose,
        key_figure=f"epsilon {wording.short(claim.charged.epsilon)}" if claim else NO_PRIVACY,
        summary=tuple(_summary(report, claim)),
        warns=claim is None or report.simulation,
        blocks=(
            *blocks,
            Heading("Where NIST SP 800-226 is answered", 2),
            _table(
                ("topic", "section of this page"),
                wording.nist_rows({block.text for block in blocks if isinstance(block, Heading)}),
            ),
        ),
    )


def _text(*parts: str | Span) -> Text:
    return tuple(Span(part) if isinstance(part, str) else part for part in parts if part)


def _strong(text: str) -> Span:
    return Span(text, "strong")


def _code(text: str) -> Span:
    return Span(text, "code")


def _key(public: str) -> Span:
    """Return a public key in the one form that people compare."""
    return _code(fingerprint(bytes.fromhex(public)))


def _led(sentence: str) -> Text:
    """Return a sentence whose words up to the colon are strong."""
    words, colon, rest = sentence.partition(":")
    return _text(_strong(words + colon), rest)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    cells = tuple(tuple(_text(cell) if isinstance(cell, str) else cell for cell in row) for row in rows)
    return Table(tuple(heads), cells)


def _more(count: int, what: str) -> tuple[Paragraph, ...]:
    return (Paragraph(_text(f"and {count} {what}, in the report file."), soft=True),) if count > 0 else ()


def _thinned(rows: tuple[_T, ...]) -> tuple[_T, ...]:
    """Return at most MOST_ROWS rows, evenly from the first to the last."""
    if len(rows) <= MOST_ROWS:
        return rows
    return tuple(rows[round(i * (len(rows) - 1) / (MOST_ROWS - 1))] for i in range(MOST_ROWS))


def _notice(plan: Plan) -> list[tuple[str, Text]]:
    """Return whom to ask; what the plan leaves empty stands out."""
    return [(label, _text(_strong(words) if words == NOT_STATED else words)) for label, words in notice_rows(plan)]


# --- the sections, in the order of the page ---


def _summary(report: Report, claim: Claim | None) -> Iterator[Text]:
    if claim:
        yield _text(
            f"at delta {claim.delta}, per {claim.unit}, after {wording.charged(report.plan, claim.charged_rounds)};"
            f" planned for all {report.plan.recipe.rounds} rounds: {wording.short(claim.planned_epsilon)}."
        )
    else:
        yield _text(NO_NOISE)
    if total := wording.total_spend(report):
        yield _led(total)
    if report.simulation:
        yield _led(SIMULATION)
    yield _text("Roster: ", _strong(report.roster), f". {wording.rounds_summary(report)}")


def _plain_words(verified: VerifiedReport, claim: Claim | None) -> Iterator[Block]:
    report = verified.report
    yield Heading("In plain words", 2)
    yield Heading("What this does", 3)
    yield Paragraph(_text(wording.what_this_does(report)))
    yield Heading("What limits what the sum reveals", 3)
    yield from (Paragraph(_text(sentence)) for sentence in wording.what_limits_the_sum(report))
    if claim and claim.charged_rounds:
        yield Paragraph(_text(two_units_sentence(claim.unit, float(claim.group_of_two))))
    yield Heading("What we rely on", 3)
    yield Bullets(tuple(map(_text, wording.what_we_rely_on(report))))
    yield Heading("What is not protected", 3)
    yield Bullets(tuple(map(_text, not_protected(report.plan))))
    yield Heading(wording.MAKERS_STATEMENT, 3)
    yield Bullets(tuple(map(_text, maker_statements(report))))
    yield Heading("Check it yourself", 3)
    yield Paragraph(
        _text(
            "This page was made from a signed report file after every check below passed. Get the file, install"
            " onlysum and run ",
            _code("onlysum audit verify FILE"),
            "; it needs no network and computes every figure again. ",
            "The signing key is the one that the reader expected. "
            if verified.key_was_expected
            else _strong(
                "Compare the fingerprint of the signing key with its owner by telephone; a signature alone does not say"
                " whose it is: "
            ),
            _code(fingerprint(verified.key)),
        )
    )
    yield Bullets(tuple(_text(f"{check.name}: {check.outcome}") for check in verified.checks))


def _measured(report: Report) -> Iterator[Block]:
    found = measured_figures(report)
    if not found:
        return
    yield Heading(wording.MEASURED, 2)
    yield Paragraph(_text(wording.MEASURED_NOTE), soft=True)
    rows = [
        (
            ", answered ".join(figure.of) or "all",
            figure.metric,
            "unknown: too few units" if figure.interval is None else f"{figure.value:.4g}",
            "" if figure.interval is None else f"{figure.interval[0]:.4g} to {figure.interval[1]:.4g}",
        )
        for figure in found[:MOST_ROWS]
    ]
    yield _table(("of", "metric", "value", "95% interval"), rows)
    yield from _more(len(found) - MOST_ROWS, "more figures")


def _figures(report: Report, claim: Claim) -> Iterator[Block]:
    yield Heading("The figures", 2)
    yield Paragraph(
        _text(
            f"Unit of privacy: {claim.unit}. {relation_sentence(claim.unit)} All at delta"
            f" {claim.delta}, after {wording.charged(report.plan, claim.charged_rounds)}, this run alone."
        ),
        soft=True,
    )
    yield _table(("against", "epsilon", "noises relied on"), wording.trust_rows(report))
    yield _table(
        ("also", "epsilon"),
        (
            ("a person who is two units of privacy (group of two)", wording.short(claim.group_of_two)),
            ("replace-one relation (a unit exchanged for another)", wording.short(claim.replace_one)),
            (
                "one charge alone" if report.plan.privacy.banded else "one round alone",
                wording.short(claim.round_epsilon),
            ),
            ("cross-check: Renyi accountant (valid and looser)", wording.short(claim.checks.rdp)),
            ("cross-check: general bound for sampled mechanisms", wording.short(claim.checks.general)),
        ),
    )
    if claim.curve:
        yield from _spend(claim, wording.charge_words(report.plan))


def _spend(claim: Claim, counted: str) -> Iterator[Block]:
    points = [(0.0, 0.0), *((float(point.rounds), float(point.epsilon)) for point in claim.curve)]
    yield Heading("Spend by round", 2)
    yield Figure(
        plot=line_plot(points),
        label="Cumulative epsilon by charged round; the table below has the numbers",
        caption=f"Cumulative epsilon. {CHARGING}",
        x_title=counted,
        y_title="epsilon",
    )
    rows = [(str(point.rounds), wording.short(point.epsilon)) for point in _thinned(claim.curve)]
    yield _table((counted, "epsilon"), rows)


def _execution(report: Report) -> Iterator[Block]:
    yield Heading("How sampling, clipping and noise were executed", 2)
    yield _table(("parameter", "value"), wording.method_rows(report.plan))
    yield Paragraph(_text(f"Randomness, as the maker states: {report.randomness}."), soft=True)


def _rounds(report: Report) -> Iterator[Block]:
    absences = Counter(name for entry in report.rounds for name in entry.dropouts).most_common(5)
    missing = ", ".join(f"{name} ({count})" for name, count in absences)
    yield Heading("Rounds and dropouts", 2)
    yield Paragraph(_text(wording.rounds_summary(report), f" Missing most often: {missing}." if missing else ""))
    notable = [entry for entry in report.rounds if entry.dropouts or entry.attempts > 1 or entry.certificate is None]
    stretches = _alike(notable)
    if stretches:
        shown = [
            (str(first) if first == last else f"{first} to {last}", *facts)
            for first, last, facts in stretches[:MOST_ROWS]
        ]
        yield _table(("rounds", "attempts", "outcome", "dropouts"), shown)
    yield from _more(sum(last - first + 1 for first, last, _ in stretches[MOST_ROWS:]), "more such rounds")
    yield Paragraph(_text("Transcript after the last completed round: ", _code(report.transcript_sha256)), soft=True)


def _alike(entries: Sequence[RoundEntry]) -> list[tuple[int, int, tuple[str, ...]]]:
    """Return the stretches of rounds that went the same way: first, last, and how."""
    stretches: list[tuple[int, int, tuple[str, ...]]] = []
    for entry in entries:
        facts = _round_facts(entry)
        if stretches and stretches[-1][1:] == (entry.round - 1, facts):
            stretches[-1] = (stretches[-1][0], entry.round, facts)
        else:
            stretches.append((entry.round, entry.round, facts))
    return stretches


def _round_facts(entry: RoundEntry) -> tuple[str, ...]:
    more = len(entry.dropouts) - MOST_ROWS
    names = ", ".join(entry.dropouts[:MOST_ROWS]) or "nobody"
    outcome = "completed" if entry.certificate else "not completed"
    return str(entry.attempts), outcome, f"{names} and {more} more" if more > 0 else names


def _ledger(report: Report, part: LedgerPart) -> Iterator[Block]:
    spent = ""
    if kept := part.budget:
        spent = (
            f" Spent over all runs: epsilon {wording.short(part.lifetime_epsilon)} of {kept.epsilon} at delta"
            f" {kept.delta}, per {kept.unit}. {wording.why_lifetime_is_more(part)}"
        )
    yield Heading("The owner's ledger", 2)
    yield Paragraph(
        _text(
            "Population ",
            _strong(part.population),
            f", ledger record {part.sequence}, head ",
            _code(part.head_sha256),
            ", signed by ",
            _key(part.key),
            f".{spent} {EARLIER_RUNS}",
        )
    )
    if unprotected := sum(run.event is None for run in part.runs):
        yield Paragraph(_led(unnoised_runs_sentence(unprotected)))
    rows = [
        (
            _text(_code(run.run_id[:12]), " (this run)" if run.plan_sha256 == report.plan_sha256 else ""),
            str(run.rounds) if run.event else "",
            wording.short(run.epsilon) if run.event else NO_PRIVACY.lower(),
            run.delta if run.event else "",
        )
        for run in part.runs[-MOST_ROWS:]
    ]
    yield _table(("run", "charged rounds", "epsilon, this run alone", "delta"), rows)
    yield from _more(len(part.runs) - MOST_ROWS, "earlier runs")


def _measurements(report: Report) -> Iterator[Block]:
    some = _thinned(report.evaluations)
    if not some:
        return
    names = sorted({metric.name for entry in some for metric in entry.metrics})
    yield Heading("Measurements on public data", 2)
    rows = [
        (
            str(entry.round),
            *(shown.get(name, "") for name in names),
            str(entry.examples),
            entry.evaluator,
        )
        for entry, shown in (
            (entry, {metric.name: f"{float(metric.value):.4g}" for metric in entry.metrics}) for entry in some
        )
    ]
    yield _table(("after round", *names, "examples", "evaluator"), rows)
    if len(report.evaluations) > len(some):
        words = f"{len(some)} of {len(report.evaluations)} measurements; all are in the report file."
        yield Paragraph(_text(words), soft=True)


def _roster(report: Report) -> Iterator[Block]:
    plan = report.plan
    yield Heading("With whom", 2)
    yield Paragraph(_text(numbers_sentence(plan)))
    yield _table((), wording.mask_rows(report))
    rows = [
        (
            member.id + (" (runs the coordinator too)" if member.with_operator else ""),
            str(member.units),
            _text(_key(member.identity_key)),
        )
        for member in plan.roster[:MOST_ROWS]
    ]
    yield _table(("participant", "units", "identity fingerprint"), rows)
    yield from _more(plan.n - MOST_ROWS, "more")


def _hashes(report: Report) -> Iterator[Block]:
    plan, recipe, maker = report.plan, report.plan.recipe, report.made_by
    yield Heading("Versions and hashes", 2)
    rows = (
        ("run", _text(_code(plan.run_id))),
        ("plan (SHA-256)", _text(_code(report.plan_sha256))),
        (
            "operator's key (fingerprint)",
            _text(f"{plan.operator} ", _key(report.operator_key)),
        ),
        ("base model", _text(f"{recipe.base.name} ", _code(recipe.base.hash))),
        ("method", _text(f"{recipe.adapter.method}, initial adapter ", _code(recipe.adapter.initial_hash))),
        ("software", _text(", ".join(f"{library.name} {library.version}" for library in report.software))),
        (
            "signed by (fingerprint)",
            _text(f"{maker.role} {maker.name} ", _key(maker.identity_key)),
        ),
    )
    yield _table((), rows)
