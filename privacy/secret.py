"""Bytes that do not leak by accident.

Guarantees: no ``str``, ``repr``, ``bytes``, ``hash``, ``==``, pickle or ordering shows or compares the value;
``reveal`` is the one word to grep for. Leaves to others: erasure (Python cannot promise it).
Source: nucypher/pyUmbral ``SecretBox``.
"""

from __future__ import annotations

import hmac
from typing import NoReturn, final


@final
class SecretBytes:
    """A byte string that only :meth:`reveal` gives out."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """Return the secret itself; the caller must not log, store or compare it."""
        return self._value

    def matches(self, other: SecretBytes) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self._value, other._value)

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return f"SecretBytes(<{len(self._value)} bytes>)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError("a SecretBytes has no such operation; call reveal() where the value is needed")

    __bytes__ = _refuse
    __eq__ = _refuse  # == on secrets is a timing leak and always a mistake
    __ne__ = _refuse  # same reason
    __hash__ = _refuse  # a secret is never a dictionary key
    __reduce__ = _refuse
    __reduce_ex__ = _refuse  # pickling would copy the secret
    __iter__ = _refuse
    __getitem__ = _refuse
