"""The form of messages in vectors: JSON objects that name their kind, bytes in hexadecimal, one JSON line per case.

Guarantees: what is written reads back equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final

from privacy.secagg import messages

_KINDS: Final = {
    name: kind
    for name, kind in vars(messages).items()
    if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == messages.__name__
}


def plain(value: Any) -> Any:
    """Return a message, or several, as JSON."""
    match value:
        case bytes():
            return value.hex()
        case tuple():
            return [plain(item) for item in value]
        case str() | int():
            return value
    of = {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    return {"kind": type(value).__name__, **of}


def restored(value: Any) -> Any:
    """Return the message, or the tuple of them, that JSON stands for."""
    if isinstance(value, Mapping):
        kind = _KINDS[value["kind"]]
        hints = {one.name: str(one.type) for one in fields(kind)}
        return kind(**{name: _field(hints[name], value[name]) for name in hints})
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(restored(item) for item in value)
    return value


def _field(hint: str, value: Any) -> Any:
    match hint:
        case "bytes":
            return bytes.fromhex(value)
        case "tuple[bytes, ...]":
            return tuple(bytes.fromhex(item) for item in value)
        case "tuple[tuple[str, bytes], ...]":
            return tuple((name, bytes.fromhex(item)) for name, item in value)
    return restored(value)


def written(vector: Mapping[str, Any]) -> str:
    """Return a vector as text: a line for each of its members, and for each case of a list of cases."""
    lines = []
    for name, value in vector.items():
        if name == "cases":
            cases = ",\n".join("  " + json.dumps(case) for case in value)
            lines.append(f' "cases": [\n{cases}\n ]')
        else:
            lines.append(f" {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
