"""Write the generated parts of ``docs/methods.md``: the table of the methods, what each one is, and what is refused.

Usage: ``python -m docs.build_methods [--check]``. With ``--check`` nothing is written; the exit status is 1 if the text
is not what this script makes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import methods
from authoring.method_command import described, option_keys
from docs import generated_parts
from methods.method import ALL_MODES, Method

TEXT: Final = Path(__file__).with_name("methods.md")
HEADS: Final = (
    "method",
    "category",
    "PEFT type",
    "`[adapter]`, in brackets what may be left out",
    "sums",
    "size",
    "modes",
)


def table() -> Iterator[str]:
    """Yield a table with one row per method."""
    yield f"| {' | '.join(HEADS)} |"
    yield "|" + "---|" * len(HEADS)
    for method in methods.all_methods():
        yield f"| {' | '.join(_cells(method))} |"


def _cells(method: Method) -> tuple[str, ...]:
    return (
        f"{method.title} (`{method.name}`)",
        method.category,
        f"`{method.peft_type}`",
        ", ".join(f"`{key}`" for key in option_keys(method)),
        method.summed,
        method.size,
        "all" if method.modes == ALL_MODES else ", ".join(f"`{mode}`" for mode in method.modes),
    )


def each() -> Iterator[str]:
    """Yield what each method is, in the words of ``onlysum method show``."""
    for place, method in enumerate(methods.all_methods()):
        yield from [""] * (place > 0)
        yield f"### {method.name}"
        yield ""
        for label, words in described(method):
            yield f"- **{'`[adapter]`' if label == '[adapter]' else label}**: {words}"


def refused() -> Iterator[str]:
    """Yield the methods that no sum can serve, each with the reason."""
    for method in methods.REFUSED.values():
        yield f"- `{method.name}`: {method.title} ({method.source}). {method.reason}."


def rebuilt(text: str) -> str:
    """Return the text with its generated parts made anew."""
    parts = {"table": table(), "each": each(), "refused": refused()}
    return generated_parts.rebuilt(text, parts, "build_methods.py")


def main() -> int:
    """Write the file, or with ``--check`` return whether it is current."""
    return generated_parts.write_or_check(TEXT, rebuilt(TEXT.read_text()))


if __name__ == "__main__":
    sys.exit(main())
