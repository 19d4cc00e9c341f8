"""Canonical JSON: one value, one byte string, so that a hash or a signature means one document.

Guarantees: RFC 8785 output for the subset that onlysum's documents use (objects, arrays, strings, booleans, null
and integers up to 2^53 - 1; never a float), and a parser that accepts exactly that output and nothing else.
Leaves to others: what the fields mean. Source: RFC 8785 sections 3.2.2 and 3.2.3, RFC 7493 section 2.2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NoReturn

MAX_INTEGER = 2**53 - 1  # RFC 7493: the integers that every JSON reader agrees on
MAX_DEPTH = 64  # of nested arrays and objects: a bound of our own, so that no answer depends on a reader's stack

Json = Mapping[str, "Json"] | Sequence["Json"] | str | int | bool | None


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be")  # RFC 8785 3.2.3 sorts by UTF-16 code units


def _ordered(value: Json, depth: int = 0) -> Json:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    match value:
        case None | bool() | str():
            return value
        case int():
            if abs(value) > MAX_INTEGER:
                raise ValueError(f"integer {value} is beyond 2^53 - 1; write it as a decimal string")
            return value
        case Mapping():
            if any(not isinstance(key, str) for key in value):
                raise ValueError("object keys must be strings")
            return {key: _ordered(value[key], depth + 1) for key in sorted(value, key=_utf16)}
        case Sequence() if not isinstance(value, bytes | bytearray):
            return [_ordered(item, depth + 1) for item in value]
        case _:
            raise ValueError(f"{type(value).__name__} has no canonical form; use integers and decimal strings")


def encode(value: Json) -> bytes:
    """Return the canonical UTF-8 bytes of ``value``.

    Raises:
        ValueError: a float, a too large integer, bytes, a key that is not a string, or deep nesting.
    """
    return json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"number {text} is not an integer; write it as a decimal string")


def _no_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object repeats a key")
    return value


def decode(data: bytes) -> Json:
    """Parse canonical bytes.

    Raises:
        ValueError: not JSON, not UTF-8, a float, a repeated key, nested deeply, or not in canonical form.
    """
    try:
        value: Json = json.loads(
            data.decode(), parse_float=_no_float, parse_constant=_no_float, object_pairs_hook=_no_duplicates
        )
    except RecursionError as error:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from error
    if encode(value) != data:
        raise ValueError("not in canonical form (RFC 8785)")
    return value
