"""Write this project's own vectors: ``python -m tests.vectors.generate [--check]``. The same code, the same bytes.

With ``--check`` nothing is written; the exit status is 1 if a file is not what this script makes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from tests.reference import hybrid_vectors
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
    yield "lanes", written(parts.lanes())
    yield "keys_bad", written(parts.refused_keys())
    yield "hybrid", written(hybrid_vectors.made())


def main() -> int:
    """Write the files, or with ``--check`` name those that are not current."""
    if "--check" not in sys.argv:
        for name, text in files():
            (HERE / f"{name}.json").write_text(text)
        return 0
    changed = [name for name, text in files() if (HERE / f"{name}.json").read_text() != text]
    for name in changed:
        print(f"tests/vectors/{name}.json is not what `make vectors` writes")
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main())
