"""Write ``docs/errors.md``: every error code with what failed, why, and what to do next, as ``onlysum explain`` does.

Usage: ``python -m docs.build_errors [--check]``. With ``--check`` nothing is written; the exit status is 1 if the text
is not what this script makes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from docs.generated_parts import write_or_check
from privacy.error_codes import REGISTRY, Explanation, Fault

TEXT: Final = Path(__file__).with_name("errors.md")
HEADING: Final = """# Errors

Every error has a code, says what failed, why, and what to do next; `onlysum explain CODE` prints the same as this page.
A command ends with the number of who is at fault, which its section names. `docs/build_errors.py` writes this page.
"""
AT_FAULT: Final = {
    Fault.USAGE: "What was asked, or what lies on this machine",
    Fault.REFUSED: "Refused by a rule, a policy or a budget",
    Fault.PEER: "Another party, which is named",
    Fault.NETWORK: "The network",
    Fault.VERIFICATION: "What does not verify",
    Fault.BUG: "A fault of onlysum",
}


def page() -> str:
    """Return the whole page."""
    return "\n".join([HEADING, *(line for fault in AT_FAULT for line in _section(fault))])


def _section(fault: Fault) -> Iterator[str]:
    yield f"## {AT_FAULT[fault]} (exit code {fault.value})"
    yield ""
    for code, explanation in sorted(REGISTRY.items()):
        if explanation.fault is fault:
            yield from _entry(code, explanation)


def _entry(code: str, explanation: Explanation) -> Iterator[str]:
    yield f"### {code}"
    yield ""
    yield f"**{_sentence(explanation.what)}**"
    yield ""
    yield f"Why: {explanation.why}."
    yield ""
    yield f"Next: {explanation.next_step}."
    yield ""


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + "."


def main() -> int:
    """Write the page or check it."""
    return write_or_check(TEXT, page())


if __name__ == "__main__":
    sys.exit(main())
