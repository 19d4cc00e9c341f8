"""Narrow a value to the type that a test expects of it; anything else fails the test and is shown."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def expect(kind: type[T], value: object) -> T:
    """Return a value that must be of this type."""
    assert isinstance(value, kind), f"not a {kind.__name__}: {value!r}"
    return value


def expect_all(kind: type[T], values: object) -> tuple[T, ...]:
    """Return a tuple all of whose values must be of this type."""
    return tuple(expect(kind, value) for value in expect(tuple, values))
