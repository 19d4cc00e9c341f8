"""The commands of the reader: ``onlysum audit``. They need the base install and no network.

Guarantees: a report is shown, compared or exported only after it was verified; a failure leaves with exit code 6.
Leaves to others: making reports (the daemons write them when a run ends).
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, assert_never

import typer

from host.console import echo, say, show_view
from host.rendering import table
from privacy.errors import LocalError, VerificationError

if TYPE_CHECKING:
    from audit.verify import VerifiedReport

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Write, show, verify and export privacy reports.",
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A report's JSON file.")]
ReportOrLedger = Annotated[Path, typer.Argument(metavar="FILE", help="The JSON file of a report or of a ledger.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Key = Annotated[str, typer.Option("--key", metavar="HEX", help="The key that should have signed it, 64 hex digits.")]


class Maker(StrEnum):
    """Whose directory a report is taken from."""

    COORDINATOR = "coordinator"
    PARTICIPANT = "participant"


class Format(StrEnum):
    """What a report can be exported to."""

    HTML = "html"
    PDF = "pdf"
    REGISTRY = "registry"


EXTRA_PACKAGES: Final = frozenset({"typst", "yaml"})  # of the extra ``report``
SUFFIXES: Final = {Format.HTML: ".html", Format.PDF: ".pdf", Format.REGISTRY: ".registry.yaml"}


@app.command()
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or its beginning.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where to write the report.")],
    source: Annotated[Maker | None, typer.Option("--from", help="Whose report to take.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", envvar="ONLYSUM_HOME", metavar="DIR", help="The daemon's directory.")
    ] = None,
) -> None:
    """Verify a run's report and take it out of a daemon.

    Example: onlysum audit report 3f2a --config alice -o report.json
    """
    from audit import files
    from audit.verify import verify_report
    from host import durable

    path = files.of_run(config, run, source.value if source else None)
    data = files.read(path)
    verified = verify_report(data)
    durable.write_new(output, data)
    say(f"wrote {output}: {_headline(verified)}")
    _say_to_owner(path, verified)


@app.command()
def show(file: File, as_json: AsJson = False) -> None:
    """Verify a report and print what it says.

    In its owner's own directory also how training went, which no report says.

    Example: onlysum audit show report.json
    """
    verified = _verified(file)
    if as_json:
        echo(verified.report.model_dump_json(indent=2))
        return
    from audit import text

    say(text.rendered(verified.report))
    say(_whose_key(verified))
    _say_to_owner(file, verified)


@app.command()
def verify(file: ReportOrLedger, key: Key = "", as_json: AsJson = False) -> None:
    """Check a report or an exported ledger.

    Of a report the signature, the plan, every figure and every round; of a
    ledger, as `onlysum participant ledger export` writes it, every signature
    and the chain of its records.

    Example: onlysum audit verify report.json
    """
    from audit import files
    from audit.ledger_export import is_ledger, verify_ledger
    from audit.verify import verify_report

    data, expected = files.read(file), _key(key)
    if is_ledger(data):
        show_view(verify_ledger(data, expected_key=expected), as_json=as_json)
        return
    verified = verify_report(data, expected_key=expected)
    if as_json:
        echo(json.dumps(_as_values(verified), indent=2))
        return
    from audit import text

    for check in verified.checks:
        say(text.aligned(f"ok  {check.name}", check.outcome))
    say(f"verified: {_headline(verified)}")
    say(_whose_key(verified))
    _say_to_owner(file, verified)


@app.command()
def compare(first: File, second: File, as_json: AsJson = False) -> None:
    """Verify two reports and check whether both can be true.

    Example: onlysum audit compare alice.json bob.json
    """
    from audit import compare as comparing

    comparison = comparing.compare(_verified(first).report, _verified(second).report)
    if as_json:
        values = {
            "same_plan": comparison.same_plan,
            "contradictions": comparison.contradictions,
            "rows": comparison.rows,
        }
        echo(json.dumps(values, indent=2))
    else:
        rows = [(f"{'' if left == right else '* '}{name}", left, right) for name, left, right in comparison.rows]
        say(*table(("", "FIRST", "SECOND"), rows))
    if comparison.contradictions:
        raise VerificationError("E-REPORT-TRANSCRIPT", "; ".join(comparison.contradictions))
    if not as_json:
        say("both can be true: " + ("one plan, one history" if comparison.same_plan else "they are of different runs"))
        if comparison.same_plan and any(left != right for _, left, right in comparison.rows):
            say(
                "* differs: each maker speaks for the fingerprints that it compared, for the rounds that it was "
                "charged for, and for what it had seen by then."
            )


@app.command()
def export(
    file: File,
    to: Annotated[Format, typer.Option("--to", help="The format.")] = Format.HTML,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: beside the report.")
    ] = None,
    key: Key = "",
) -> None:
    """Verify a report and write it for reading or publishing.

    html is one page without scripts, pdf the same words as PDF/A, registry an
    entry for the OpenDP Deployments Registry. The last two need the extra
    `report`. Without -o the file lies beside the report: report.html,
    report.pdf, report.registry.yaml.

    Example: onlysum audit export report.json --to pdf
    """
    from host import durable

    verified = _verified(file, key)
    target = output or file.with_suffix(SUFFIXES[to])
    durable.write_new(target, _exported(verified, to))
    say(f"wrote {target}")
    say(_whose_key(verified))


def _exported(verified: VerifiedReport, to: Format) -> bytes:
    try:
        match to:
            case Format.HTML:
                from audit import html

                return html.render(verified).encode()
            case Format.PDF:
                from audit import pdf

                return pdf.render(verified)
            case Format.REGISTRY:
                from audit import registry

                return registry.render(verified).encode()
            case _:
                assert_never(to)
    except ModuleNotFoundError as missing:
        if missing.name not in EXTRA_PACKAGES:
            raise
        detail = f"{missing.name} is not installed; --to {to.value} needs pip install 'onlysum[report]'"
        raise LocalError("E-EXTRA-MISSING", detail) from None


def _verified(file: Path, key: str = "") -> VerifiedReport:
    from audit import files
    from audit.verify import verify_report

    return verify_report(files.read(file), expected_key=_key(key))


def _key(text: str) -> bytes | None:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b"?"
    if not text:
        return None
    if len(key) != 32:
        raise LocalError("E-USAGE", "--key takes the 64 hex digits of an Ed25519 key")
    return key


def _headline(verified: VerifiedReport) -> str:
    from audit import text

    return text.headline(verified.report)


def _say_to_owner(file: Path, verified: VerifiedReport) -> None:
    """Print what the owner's directory keeps beside a report; it depends on data, so no file that is written has it."""
    from audit.training_record import owners_line

    if line := owners_line(file, verified.report.plan.recipe.rounds):
        say("", line)


def _whose_key(verified: VerifiedReport) -> str:
    from host.fingerprints import fingerprint

    maker, shown = verified.report.made_by, fingerprint(verified.key)
    if verified.key_was_expected:
        return f"signed by the key that you named, of {maker.role} {maker.name}: {shown}"
    return (
        f"signed by a key that calls itself {maker.role} {maker.name}:\n  {shown}\n"
        "Compare this fingerprint with its owner by telephone, or pass --key: a signature alone does not say whose it "
        "is."
    )


def _as_values(verified: VerifiedReport) -> dict[str, object]:
    return {
        "verified": True,
        "key": verified.key.hex(),
        "key_was_expected": verified.key_was_expected,
        "checks": {check.name: check.outcome for check in verified.checks},
    }
