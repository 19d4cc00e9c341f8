"""Make what an example needs: ``python -m examples.prepare KIND -o DIR``.

Writes the recipe, a small base, the rows of one owner and the public rows of an evaluator. The bases have random
weights, for the mechanics alone; ``examples/chat`` trains its own and shows what is learnt.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from examples import bases
from examples.town import DESKS, TAGS, TIMES, Matter, Message, Town, write_rows
from simulation import digits

HERE: Final = Path(__file__).parent
ROWS: Final = 96
PUBLIC_SEED, OWNER_SEED = 1, 2
Row = dict[str, Any]


def _classified(town: Town) -> Row:
    message = town.message()
    return {"text": message.text, "desk": message.desks[0]}


def _several(town: Town) -> Row:
    message = town.message(matters=town.pick((1, 2)))
    return {"text": message.text, "desks": message.desks}


def _numbered(town: Town) -> Row:
    message = town.message()
    return {"text": message.text, "weeks": TIMES[message.time] / 7}


def _tagged(town: Town) -> Row:
    words, tags = town.message().tagged()
    return {"words": words, "tags": tags}


def _written(town: Town) -> Row:
    return {"text": town.news()}


def _completed(town: Town) -> Row:
    turns = town.private_chat(town.pick(DESKS))
    return {"message": turns[0]["content"], "answer": turns[1]["content"]}


def _chatted(town: Town) -> Row:
    return {"messages": town.private_chat(town.pick(DESKS))}


def _paired(town: Town) -> Row:
    """Two messages, as near as they have desk, thing and trouble in common."""
    first = town.matter()
    other = town.matter(town.pick((first.desk, None)))
    second = Matter(first.desk, first.thing, other.trouble) if first.desk == other.desk and town.pick((0, 1)) else other
    shared = sum(getattr(first, name) == getattr(second, name) for name in ("desk", "thing", "trouble"))
    time = town.pick(TIMES)
    texts = [Message("Hello", (matter,), time).text for matter in (first, second)]
    return {"first": texts[0], "second": texts[1], "similarity": round(shared / 3, 3)}


# By the name of the example's folder: how a row is made, and the head of the base that reads it.
TEXTS: Final[dict[str, tuple[Callable[[Town], Row], str, Sequence[str]]]] = {
    "text-classification": (_classified, "SequenceClassification", DESKS),
    "measure": (_classified, "SequenceClassification", DESKS),
    "multi-label": (_several, "SequenceClassification", DESKS),
    "regression": (_numbered, "SequenceClassification", ()),
    "token-classification": (_tagged, "TokenClassification", TAGS),
    "masked-lm": (_written, "MaskedLM", ()),
    "sentence-embedding": (_paired, "Model", ()),
    "causal-lm": (_written, "", ()),
    "completion": (_completed, "", ()),
    "chat": (_chatted, "", ()),
}
KINDS: Final = (*TEXTS, "image-classification")


def prepare(kind: str, out: Path, *, rows: int = ROWS) -> None:
    """Write ``recipe.toml``, ``base/``, the owner's rows and the public ones into a directory.

    Args:
        kind: one of ``KINDS``.
        out: made if it is not there.
        rows: of the owner, and as many public ones.
    """
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / kind / "recipe.toml", out / "recipe.toml")
    if kind == "image-classification":
        _prepare_images(out, rows)
        return
    make, head, labels = TEXTS[kind]
    for name, seed in (("rows", OWNER_SEED), ("public", PUBLIC_SEED)):
        town = Town(seed)
        write_rows(out / f"{name}.jsonl", [{**make(town), "person": f"p{row // 2}"} for row in range(rows)])
    paper = Town(PUBLIC_SEED)
    public = [paper.news() for _ in range(1000)] + [turn["content"] for _ in range(500) for turn in paper.public_chat()]
    tokenizer = bases.write_tokenizer(out / "base", public)
    model = bases.reader(head, tokenizer, labels) if head else bases.writer(tokenizer)
    model.save_pretrained(out / "base")


def _prepare_images(out: Path, rows: int) -> None:
    parts = digits.split(5, OWNER_SEED)
    for name, some in (("rows", parts.participants[0]), ("public", parts.held_out)):
        np.savez(out / f"{name}.npz", image=some.images[:rows], label=some.labels[:rows])
    bases.seer([str(number) for number in range(10)], side=digits.IMAGE_SIZE).save_pretrained(out / "base")


def main() -> int:
    """Prepare one example."""
    parser = argparse.ArgumentParser(prog="python -m examples.prepare", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("-o", "--out", type=Path, required=True, help="directory to write into")
    given = parser.parse_args()
    prepare(given.kind, given.out)
    print(f"Wrote {given.out}/: recipe.toml, base/, rows and public rows")
    print(f"Next: onlysum plan build {given.out}/recipe.toml -o {given.out}/draft")
    return 0


if __name__ == "__main__":
    sys.exit(main())
