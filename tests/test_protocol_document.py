"""The normative text keeps step with the code: generated parts, cited sections, named tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import build_protocol

ROOT = Path(__file__).parent.parent
TEXT = build_protocol.TEXT.read_text()
HEADING = re.compile(r"^(#{2,3}) (\d+(?:\.\d+)?)[. ]", re.MULTILINE)


def test_the_diagram_and_the_worked_example_are_what_the_code_does() -> None:
    assert build_protocol.rebuilt(TEXT) == TEXT, "run `python -m docs.build_protocol`"


def attacks() -> list[tuple[str, list[str]]]:
    """The rows of the table of attacks, with the tests that each names."""
    table = TEXT[TEXT.index("| attack | closed by | test |") : TEXT.index("**Each rule is needed.**")]
    rows = [line for line in table.splitlines()[2:] if line.startswith("|")]
    return [(row, re.findall(r"`(test_\w+)`", row)) for row in rows]


def test_every_attack_names_a_test_that_exists_or_says_that_it_is_not_closed() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"def (test_\w+)\(", sources))
    assert len(attacks()) > 30
    assert [row for row, named in attacks() if bool(named) == ("not closed" in row)] == []
    assert {name for _, named in attacks() for name in named} - defined == set()


def test_every_section_that_code_cites_exists() -> None:
    sections = set(re.findall(r"^#{2,3} (\d+(?:\.\d+)?)", TEXT, flags=re.MULTILINE))
    packages = ("privacy", "coordinator", "participant", "protos")
    cited = {
        (path.name, number)
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        for phrase in re.findall(r"docs/protocol\.md sections? ([\d., and]+)", path.read_text())
        for number in re.findall(r"\d+(?:\.\d+)?", phrase)
    }
    assert cited
    assert {one for one in cited if one[1] not in sections} == set()


# What a module is about, in the words of the section that it names as its source.
SUBJECTS = {
    "privacy/secagg/shamir.py": "**Shamir**",
    "privacy/secagg/masks.py": "**Mask stream:**",
    "privacy/secagg/fixed_point.py": "two's complement",
    "privacy/secagg/layout.py": "Packed lanes",
    "privacy/secagg/pairing.py": "pair secret",
    "privacy/secagg/kem.py": "ML-KEM-768",
    "privacy/secagg/merkle.py": "Merkle",
    "privacy/secagg/hashes.py": "hashed",
    "privacy/secagg/messages.py": "signed string",
    "privacy/plan.py": "The plan is the only source of rules",
    "participant/protocol/checks.py": "Checks of S",
    "participant/runs/journal.py": "journal",
    "coordinator/protocol/unmasking.py": "shares of seeds",
    "coordinator/protocol/checks.py": "It refuses a message that breaks",
    "audit/history.py": "T distinct valid",
}


@pytest.mark.parametrize("module", SUBJECTS)
def test_the_section_that_a_module_names_as_its_source_is_about_what_it_does(module: str) -> None:
    (named,) = re.findall(
        r"docs/protocol\.md`{0,2} sections? ([\d., and]*\d)", (ROOT / module).read_text().split('"""')[1]
    )
    bodies = [section(number) for number in re.findall(r"\d+(?:\.\d+)?", named)]
    assert any(SUBJECTS[module] in body for body in bodies)


def section(number: str) -> str:
    """A section with its subsections."""
    (level, start) = next((m[1], m.start()) for m in HEADING.finditer(TEXT) if m[2] == number)
    ends = [m.start() for m in HEADING.finditer(TEXT) if m.start() > start and len(m[1]) <= len(level)]
    return TEXT[start : min(ends, default=len(TEXT))]


def test_every_check_cites_the_section_of_its_phase() -> None:
    """In round machine and checks of the participant, "(section 5.4)" and the like name sections that exist."""
    sections = {m[2] for m in HEADING.finditer(TEXT)}
    cited = {
        number
        for name in ("round", "checks")
        for phrase in re.findall(
            r"\(sections? ([\d., and]+)\)", (ROOT / "participant" / "protocol" / f"{name}.py").read_text()
        )
        for number in re.findall(r"\d+(?:\.\d+)?", phrase)
    }
    assert {"5.1", "5.2", "5.3", "5.4", "5.5", "5.6"} <= cited <= sections
