"""Write the generated parts of ``docs/threat-model.md``: the sentences that programs show, for ten participants.

Usage: ``python -m docs.build_claims [--check]``. With ``--check`` nothing is written; the exit status is 1 if the text
is not what this script makes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from docs import generated_parts
from privacy.claims import (
    NO_NOISE,
    WORDS,
    difference_sentence,
    figure_sentences,
    graph_sentences,
    limits,
    noise_sentences,
    suite_sentences,
    sum_sentence,
    trust_sentences,
)
from privacy.plan import Plan
from privacy.plan_parts import Mode
from tests.worlds.plans import STRONG, make_plan

TEXT: Final = Path(__file__).with_name("threat-model.md")
PARTICIPANTS: Final = 10
COLLUDING: Final = 3


def example(mode: Mode) -> Plan:
    """Return the plan whose sentences are shown."""
    return make_plan(PARTICIPANTS, COLLUDING, mode)[0]


def blocks() -> dict[str, tuple[str, ...]]:
    """Return the sentences of each generated part, by its name."""
    noised, bare = example("distributed"), example("none")
    weaker = {*graph_sentences(noised), *suite_sentences(noised)}
    return {
        "trust": tuple(sentence for sentence in trust_sentences(noised) if sentence not in weaker),
        "local": noise_sentences(example("local")),
        "no-noise": (NO_NOISE, sum_sentence(bare), difference_sentence(bare)),
        "suite-1": suite_sentences(noised),
        "k-regular": graph_sentences(make_plan(**STRONG)[0]),
        "limits": limits(noised),
        "words": (WORDS,),
        "figures": figure_sentences(noised),
    }


def _bullets(sentences: Iterable[str]) -> Iterator[str]:
    return (f"- {sentence}" for sentence in sentences)


def rebuilt(text: str) -> str:
    """Return the text with its generated parts made anew."""
    parts = {name: _bullets(sentences) for name, sentences in blocks().items()}
    return generated_parts.rebuilt(text, parts, "build_claims.py")


def main() -> int:
    """Write the file, or with ``--check`` return whether it is current."""
    return generated_parts.write_or_check(TEXT, rebuilt(TEXT.read_text()))


if __name__ == "__main__":
    sys.exit(main())
