"""Small changes to valid inputs, for fuzzing where atheris is not installed."""

from __future__ import annotations

import random

MOST_BYTES = 8192


def changed(data: bytes, other: bytes, source: random.Random) -> bytes:
    """Return the bytes with one to four changes: flipped, inserted, cut, doubled, or mixed with another input."""
    found = bytearray(data)
    for _ in range(source.randint(1, 4)):
        at = source.randint(0, len(found))
        match source.choice(("flip", "insert", "cut", "double", "mix", "number")):
            case "flip" if at < len(found):
                found[at] ^= 1 << source.randint(0, 7)
            case "insert":
                found[at:at] = source.randbytes(source.randint(1, 5))
            case "cut":
                del found[at : at + source.randint(1, 20)]
            case "double":
                found[at:at] = found[at : at + source.randint(1, 40)]
            case "mix":
                found[at:] = other[source.randint(0, len(other)) :]
            case "number" if at < len(found):
                found[at] = source.choice((0, 1, 0x7F, 0x80, 0xFF))
    return bytes(found[:MOST_BYTES])
