"""A secret gives itself out by one word only."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from privacy.secret import SecretBytes

SECRET = SecretBytes(b"a very secret key")

LEAKS: dict[str, Callable[[Any], object]] = {
    "bytes()": bytes,
    "hash()": hash,
    "==": lambda secret: secret == SECRET,
    "!=": lambda secret: secret != SECRET,
    "== with bytes": lambda secret: secret == b"a very secret key",
    "bytes ==": lambda secret: b"a very secret key" == secret,
    "<": lambda secret: secret < SECRET,
    "a set": lambda secret: {secret},
    "a dictionary key": lambda secret: {secret: 1},
    "in": lambda secret: 97 in secret,
    "a loop": list,
    "an index": lambda secret: secret[0],
    "a slice": lambda secret: secret[:4],
    "+": lambda secret: secret + b"",
    "joining": lambda secret: b"".join([secret]),
    "pickle": pickle.dumps,
    "copy": copy.copy,
    "deep copy": copy.deepcopy,
    "JSON": json.dumps,
    "memoryview": memoryview,
    "an integer": int,
    "vars": vars,
}


@pytest.mark.parametrize("how", LEAKS.values(), ids=LEAKS.keys())
def test_there_is_no_other_way_to_the_value(how: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError):
        how(SECRET)


@pytest.mark.parametrize(
    "shown",
    [repr(SECRET), str(SECRET), f"{SECRET}", f"{SECRET!r:>60}", f"{SECRET:>60}", "%s" % SECRET, f"{[SECRET]}"],  # noqa: UP031
)
def test_what_is_shown_is_the_length(shown: str) -> None:
    assert "SecretBytes(<17 bytes>)" in shown
    assert "secret key" not in shown


def test_reveal_is_the_word() -> None:
    assert SECRET.reveal() == b"a very secret key"
    assert len(SECRET) == 17


def test_secrets_are_compared_in_constant_time_by_name() -> None:
    assert SECRET.matches(SecretBytes(b"a very secret key"))
    assert not SECRET.matches(SecretBytes(b"another"))


def test_a_secret_has_a_copy_of_its_own() -> None:
    source = bytearray(b"key")
    secret = SecretBytes(source)  # type: ignore[arg-type]  # what a careless caller may do
    source[0] = 0
    assert secret.reveal() == b"key"
