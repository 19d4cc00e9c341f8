"""The rules that fields on the wire keep: lengths, names, numbers, order, one canonical form.

Guarantees: :func:`read` gives back what a reader made of bytes that are the message's one canonical form, or raises
``PeerError(E-WIRE-MALFORMED)`` that names the field and why; nothing else escapes it, whatever the bytes.
Leaves to others: which fields a message has (``codec_round``, ``codec``).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from typing import Final, TypeVar, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, EncodeError, Message

from privacy.canonical import MAX_INTEGER
from privacy.errors import LocalError, PeerError, Phase
from privacy.plan import MAX_ROSTER
from privacy.printable import first_unprintable

COORDINATOR: Final = "coordinator"  # who is to blame for what comes from there
MAX_TEXT: Final = 4000  # characters, as plan_parts.Text
MAX_LIST: Final = MAX_ROSTER  # members of any set; lists that are not sets name their own bound
MAX_HISTORY: Final = 2**16  # rounds
LIST_LIMITS: Final = {  # of those that may be longer
    "onlysum.federation.v1.AttemptOpened.history": MAX_HISTORY,
    "onlysum.federation.v1.AttemptOpened.sums": MAX_HISTORY,
    "onlysum.federation.v1.AttemptOpened.voided": MAX_HISTORY,
}
LEAST_ITEM_BYTES: Final = 32  # that an item of a long list has on average: all have a hash, a key, a share or more
SHORT_BYTES: Final = 2 * MAX_LIST  # an item has two bytes at least: so few have no list that is too long
_LENGTH_DELIMITED: Final = 2
_FIELD_1: Final = b"\x08"  # the key of a number in field 1
_NOT_CANONICAL: Final = "has an unknown or repeated field, or is not in canonical form"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")  # plan_parts.Name
_RUN_ID: Final = re.compile(r"[0-9a-f]{32}")  # plan_parts.Hex128
_CODE: Final = re.compile(r"E-[A-Z0-9]+(-[A-Z0-9]+){0,5}")

M = TypeVar("M", bound=Message)
V = TypeVar("V")
W = TypeVar("W")


class Malformed(Exception):
    """A field and why it is refused; never leaves the codec."""


def read(kind: type[M], data: bytes, reader: Callable[[M], V], *, sender: str, most: int) -> V:
    """Parse bytes and make a domain value of them.

    Args:
        kind: the protobuf message.
        data: what came in.
        reader: makes the value; raises :class:`Malformed`.
        sender: who is to blame.
        most: the largest number of bytes that such a message may have.

    Raises:
        PeerError: ``E-WIRE-MALFORMED``.
    """
    try:
        return reader(parse(kind, data, most))
    except Malformed as error:
        rule = f"{kind.DESCRIPTOR.name}: {error}"
        raise PeerError.by_participant(sender, "E-WIRE-MALFORMED", Phase.WIRE, rule) from None


def parse(kind: type[M], data: bytes, most: int) -> M:
    """Parse bytes that are the canonical form of a message, or raise :class:`Malformed`."""
    if len(data) > most:
        raise Malformed(f"has {len(data)} bytes, at most {most} are allowed")
    message = kind()
    if len(data) > SHORT_BYTES:
        check_counts(cast("Descriptor", message.DESCRIPTOR), memoryview(data))
    _parsed(message, data)
    # Unknown fields survive parsing and would be written out again, so they are dropped before the comparison, which
    # also catches fields given twice, defaults written out, and long forms of numbers.
    message.DiscardUnknownFields()
    if message.SerializeToString(deterministic=True) != data:
        raise Malformed(_NOT_CANONICAL)
    return message


def _parsed(message: Message, data: bytes) -> None:
    try:
        message.ParseFromString(data)
    except (DecodeError, RecursionError):
        raise Malformed("is no such message") from None


def check_counts(kind: Descriptor, data: memoryview) -> int:
    """Refuse a message with more items in a list than any list may have, before any of them is made an object.

    An empty item has two bytes, and becomes an object of a hundred; so all lists together, nested ones too, must also
    have items of some length on average. Return how many items there are.
    """
    fields, seen, offset, items_in_all = kind.fields_by_number, dict[int, int](), 0, 0
    while offset < len(data):
        key, offset = _varint(data, offset)
        number, wire_type = key >> 3, key & 7
        seen[number] = items = seen.get(number, 0) + 1
        field = fields.get(number)
        if field is None or (items > 1 and not field.is_repeated):
            raise Malformed(_NOT_CANONICAL)
        if items > (most := LIST_LIMITS.get(field.full_name, MAX_LIST)):
            raise Malformed(f"{field.name} has {items} items, at most {most} are allowed")
        start, offset = _skip(data, offset, wire_type)
        if wire_type != _LENGTH_DELIMITED or field.message_type is None:
            continue
        items_in_all += 1
        if _has_lists(field.message_type):
            items_in_all += check_counts(field.message_type, data[start:offset])
    if items_in_all > MAX_LIST + len(data) // LEAST_ITEM_BYTES:
        raise Malformed(f"has {items_in_all} items in {len(data)} bytes")
    return items_in_all


def leading_number(data: bytes) -> int:
    """Return the number in field 1, if that comes first, or 0; raises :class:`Malformed`."""
    if data[:1] != _FIELD_1:
        return 0
    return _varint(memoryview(data), 1)[0]


def _skip(data: memoryview, offset: int, wire_type: int) -> tuple[int, int]:
    """Return where a field's content begins and ends."""
    match wire_type:
        case 0:
            return offset, _varint(data, offset)[1]
        case 2:
            length, start = _varint(data, offset)
            return start, start + length
        case _:
            raise Malformed("is no such message")  # no field of ours has another type


def _varint(data: memoryview, offset: int) -> tuple[int, int]:
    """Return a number and where what follows it begins."""
    value = shift = 0
    while offset < len(data) and shift < 64:
        byte = data[offset]
        value, shift, offset = value | (byte & 0x7F) << shift, shift + 7, offset + 1
        if byte < 0x80:
            return value, offset
    raise Malformed("is no such message")


@cache
def _has_lists(kind: Descriptor) -> bool:
    """Return whether a message has a list, or has a message that has one."""
    return any(
        field.is_repeated or (field.message_type is not None and _has_lists(field.message_type))
        for field in kind.fields
    )


def write(message: Message, *, most: int) -> bytes:
    """Return the canonical bytes of a message.

    Raises:
        LocalError: ``E-BUG``, it is larger than a peer would accept.
    """
    try:
        data = message.SerializeToString(deterministic=True)
    except EncodeError as error:
        raise LocalError("E-BUG", f"{message.DESCRIPTOR.name} cannot be encoded") from error
    if len(data) > most:
        raise LocalError("E-BUG", f"{message.DESCRIPTOR.name} has {len(data)} bytes, at most {most} can be sent")
    return data


def exact(value: bytes, lengths: int | Collection[int], field: str) -> bytes:
    """Return bytes of exactly the length, or one of the lengths, that the protocol gives the field."""
    allowed = (lengths,) if isinstance(lengths, int) else lengths
    if len(value) not in allowed:
        raise Malformed(f"{field} has {len(value)} bytes, not {' or '.join(map(str, sorted(allowed)))}")
    return value


def bounded(value: bytes, most: int, field: str) -> bytes:
    """Return bytes of which there are some, but not too many."""
    if not 1 <= len(value) <= most:
        raise Malformed(f"{field} has {len(value)} bytes, not 1 to {most}")
    return value


def name(value: str, field: str) -> str:
    """Return a name of a member, dataset or federation; equal names are one object, since some lists are long."""
    if not _NAME.fullmatch(value):
        raise Malformed(f"{field} is no name: lower-case letters, digits and ._- up to 63 characters")
    return sys.intern(value)


def run_id(value: str, field: str = "run_id") -> str:
    """Return the 32 hex digits of a run's or token's id."""
    if not _RUN_ID.fullmatch(value):
        raise Malformed(f"{field} is not 32 lower-case hex digits")
    return value


def code(value: str) -> str:
    """Return an error's code."""
    if not _CODE.fullmatch(value):
        raise Malformed("code is no error code")
    return value


def text(value: str, field: str, *, most: int = MAX_TEXT) -> str:
    """Return a text of one line that is safe to show on a terminal (``privacy.printable``)."""
    if len(value) > most:
        raise Malformed(f"{field} has {len(value)} characters, at most {most} are allowed")
    if (character := first_unprintable(value)) is not None:
        raise Malformed(f"{field} has a character that cannot be shown, {character}")
    return value


def count(value: int, field: str, *, least: int = 0, most: int = MAX_INTEGER) -> int:
    """Return a number within bounds."""
    if not least <= value <= most:
        raise Malformed(f"{field} is {value}, not {least} to {most}")
    return value


def part(message: Message, field: str, reader: Callable[[M], V]) -> V:
    """Return what the reader makes of a nested message that must be there."""
    if not message.HasField(field):
        raise Malformed(f"{field} is missing")
    try:
        return reader(getattr(message, field))
    except Malformed as error:
        raise Malformed(f"{field}.{error}") from None


def each(values: Sequence[W], field: str, reader: Callable[[W], V], *, most: int = MAX_LIST) -> tuple[V, ...]:
    """Return what the reader makes of every item of a bounded list."""
    if len(values) > most:
        raise Malformed(f"{field} has {len(values)} items, at most {most} are allowed")
    done: list[V] = []
    for index, value in enumerate(values):
        try:
            done.append(reader(value))
        except Malformed as error:
            raise Malformed(f"{field}[{index}].{error}") from None
    return tuple(done)


def some(items: Sequence[object], field: str) -> None:
    """Refuse an empty list."""
    if not items:
        raise Malformed(f"{field} is empty")


def ascending(keys: Iterable[str | bytes], field: str) -> None:
    """Refuse a list that is not sorted or names something twice."""
    given = list(keys)
    if given != sorted(set(given)):
        raise Malformed(f"{field} is not sorted, or names something twice")
