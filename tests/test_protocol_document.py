"""The normative text keeps step with the code: generated parts, cited sections, named tests."""

from __future__ import annotations

import re
from pathlib import Path

from docs import build_protocol

ROOT = Path(__file__).parent.parent
TEXT = build_protocol.TEXT.read_text()


def test_the_diagram_and_the_worked_example_are_what_the_code_does() -> None:
    assert build_protocol.rebuilt(TEXT) == TEXT, "run `python -m docs.build_protocol`"


def test_every_test_that_closes_an_attack_exists() -> None:
    table = TEXT[TEXT.index("## 10.") : TEXT.index("## 11.")]
    source = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", table)
    assert len(named) > 10
    assert [name for name in named if f"def {name}(" not in source] == []


def test_every_section_that_code_cites_exists() -> None:
    sections = set(re.findall(r"^#{2,3} (\d+(?:\.\d+)?)", TEXT, flags=re.MULTILINE))
    rooms = ("privacy", "coordinator", "participant", "protos")
    cited = {
        (path.name, number)
        for room in rooms
        for path in (ROOT / room).rglob("*.py")
        for phrase in re.findall(r"docs/protocol\.md sections? ([\d., and]+)", path.read_text())
        for number in re.findall(r"\d+(?:\.\d+)?", phrase)
    }
    assert cited
    assert {one for one in cited if one[1] not in sections} == set()
