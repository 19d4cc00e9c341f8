"""Write this project's own vectors: ``python -m tests.vectors.generate``. The same code writes the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.vectors import bad, parts, rounds
from tests.vectors.form import written

HERE = Path(__file__).parent


def files() -> Iterator[tuple[str, str]]:
    """Yield each vector's name and text."""
    for name in rounds.ROUNDS:
        vector = rounds.good(name)
        yield name, written(vector)
        if name == bad.TRANSCRIPT:
            yield "round_bad_told_to_bob", written(bad.told_to_bob(vector))
            yield "round_bad_said_by_carol", written(bad.said_by_carol(vector))
    yield "shares", written(parts.shares())
    yield "proofs", written(parts.proofs())
    yield "keys_bad", written(parts.refused_keys())


if __name__ == "__main__":
    for name, text in files():
        (HERE / f"{name}.json").write_text(text)
