"""One value, one byte string."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy import canonical
from tests.worlds.expect import expect

scalars = st.none() | st.booleans() | st.integers(-canonical.MAX_INTEGER, canonical.MAX_INTEGER) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(values)
def test_what_is_encoded_comes_back(value: Any) -> None:
    data = canonical.encode(value)
    assert canonical.decode(data) == value
    assert canonical.encode(canonical.decode(data)) == data


@given(st.dictionaries(st.text(), st.integers(0, 9)))
def test_the_order_of_insertion_does_not_matter(value: dict[str, int]) -> None:
    assert canonical.encode(value) == canonical.encode(dict(reversed(value.items())))


def test_the_output_is_that_of_rfc_8785() -> None:
    # Section 3.2.3: keys sort by UTF-16 code units, so that the emoji (a surrogate pair) comes before U+FB33.
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    ordered = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(expect(dict, canonical.decode(canonical.encode(dict.fromkeys(keys, 0))))) == ordered
    # Section 3.2.2.2: only what must be escaped is, in the shortest form, with lower-case digits.
    text = "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u007f/"
    assert canonical.encode([text]) == b'["\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"\x7f/"]'
    assert canonical.encode({"b": [True, False, None], "a": -7}) == b'{"a":-7,"b":[true,false,null]}'
    assert canonical.encode([]) == b"[]"


REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "more after the end": b"[][]",
    "a space": b'{"a": 1}',
    "a newline at the end": b"[]\n",
    "a byte order mark": b"\xef\xbb\xbf[]",
    "keys out of order": b'{"b":1,"a":1}',
    "a repeated key": b'{"a":1,"a":1}',
    "a repeated key deep inside": b'[{"x":{"a":1,"a":2}}]',
    "a float": b"[1.5]",
    "a whole float": b"[1.0]",
    "an exponent": b"[1e5]",
    "not a number": b"[NaN]",
    "infinity": b"[-Infinity]",
    "a leading zero": b"[01]",
    "negative zero": b"[-0]",
    "a plus sign": b"[+1]",
    "an integer beyond 2^53 - 1": b"[9007199254740992]",
    "an integer below -(2^53 - 1)": b"[-9007199254740992]",
    "an integer of very many digits": b"[" + b"9" * 5000 + b"]",
    "an escape that is not needed": rb'["\u0041"]',
    "an escaped slash": rb'["\/"]',
    "upper-case digits in an escape": rb'["\u000F"]',
    "a raw control character": b'["\x01"]',
    "half of a surrogate pair": rb'["\ud800"]',
    "half of a surrogate pair in a key": rb'{"\ud800":1}',
    "bytes that are not UTF-8": b'["\xff"]',
    "an overlong encoding": b'["\xc0\x80"]',
    "UTF-16": "[]".encode("utf-16"),
    "a trailing comma": b"[1,]",
    "a comment": b"[1]//",
    "single quotes": b"['a']",
    "nesting beyond reason": b"[" * 100_000 + b"]" * 100_000,
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_everything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the reason is the reader's own
        canonical.decode(data)


def test_a_repeated_key_is_refused_as_such() -> None:
    with pytest.raises(ValueError, match="repeats a key"):
        canonical.decode(b'{"a":1,"a":1}')


def test_nesting_is_read_to_its_bound() -> None:
    data = b"[" * canonical.MAX_DEPTH + b"]" * canonical.MAX_DEPTH
    assert canonical.encode(canonical.decode(data)) == data


@pytest.mark.parametrize("depth", [canonical.MAX_DEPTH + 2, 300, 480, 600, 900, 1_000, 2_000, 100_000])
def test_nesting_beyond_the_bound_is_refused_whatever_the_stack(depth: int) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        with pytest.raises(ValueError, match="nested more than 64 deep"):
            canonical.decode(opening * depth + b"0" + closing * depth)


@pytest.mark.parametrize(
    "value",
    [1.5, float("nan"), b"bytes", bytearray(b"x"), {1, 2}, {1: 2}, {None: 1}, [object()], 2**53, -(2**53), "\ud800"],
    ids=lambda value: type(value).__name__,  # a name that is the same in every worker
)
def test_values_without_a_canonical_form_are_refused(value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # several reasons
        canonical.encode(value)


def test_tuples_are_arrays_and_booleans_are_no_numbers() -> None:
    assert canonical.encode((1, (True,))) == b"[1,[true]]"
