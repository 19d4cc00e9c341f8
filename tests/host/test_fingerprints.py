"""What two people compare by telephone is the same everywhere, and a pin names one key."""

from __future__ import annotations

import hashlib

import pytest

from host.fingerprints import fingerprint, matches


def test_a_fingerprint_has_128_bits_in_groups_that_can_be_read_aloud() -> None:
    shown = fingerprint(b"k" * 32)
    groups = shown.split(" ")
    assert [len(group) for group in groups] == [4] * 8
    assert int("".join(groups), 16) < 2**128
    assert shown != fingerprint(b"l" * 32)


def test_a_fingerprint_never_changes_between_versions() -> None:
    assert fingerprint(bytes(range(32))) == "630d cd29 66c4 3366 9112 5448 bbb2 5b4f"


@pytest.mark.parametrize("digits", [32, 48, 64])
def test_every_digit_of_a_pin_counts(digits: int) -> None:
    key = bytes(range(32))
    pin = hashlib.sha256(key).hexdigest()[:digits]
    other = pin[:-1] + ("0" if pin[-1] != "0" else "1")
    assert matches(key, pin)
    assert matches(key, fingerprint(key).replace(" ", ""))
    assert not matches(key, other)
