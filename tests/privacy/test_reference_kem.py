"""The slow ML-KEM of these tests agrees with the known answers and with the library, also where it rejects silently."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

from tests.reference import slow_kem

KATS = Path(cryptography_vectors.__file__).parent / "asymmetric" / "MLKEM" / "kat_MLKEM_768.rsp"


def known_answers() -> Iterator[dict[str, bytes]]:
    record: dict[str, bytes] = {}
    with KATS.open() as lines:
        for line in lines:
            name, equals, value = line.strip().partition(" = ")
            if name == "ss":
                yield {**record, name: bytes.fromhex(value)}
                record = {}
            elif equals and name != "count":
                record[name] = bytes.fromhex(value)


def some_bytes(count: int, *what: object) -> bytes:
    return hashlib.shake_256(repr(what).encode()).digest(count)


@pytest.mark.parametrize("known", list(islice(known_answers(), 0, 1000, 100)), ids=lambda _: "")
def test_it_gives_the_known_answers(known: dict[str, bytes]) -> None:
    seed = known["d"] + known["z"]
    assert slow_kem.public_key(seed) == known["pk"]
    assert slow_kem.encapsulated(known["pk"], known["msg"]) == (known["ss"], known["ct"])
    assert slow_kem.decapsulated(seed, known["ct"]) == known["ss"]
    assert slow_kem.decapsulated(seed, known["ct_n"]) == known["ss_n"]


@pytest.mark.parametrize("number", range(5))
def test_it_agrees_with_the_library_in_both_directions(number: int) -> None:
    seed = some_bytes(64, "seed", number)
    private = MLKEM768PrivateKey.from_seed_bytes(seed)
    public = private.public_key().public_bytes_raw()
    assert slow_kem.public_key(seed) == public
    shared, ciphertext = slow_kem.encapsulated(public, some_bytes(32, "message", number))
    assert private.decapsulate(ciphertext) == shared
    shared, ciphertext = private.public_key().encapsulate()
    assert len(ciphertext) == slow_kem.CIPHERTEXT_BYTES
    assert slow_kem.decapsulated(seed, ciphertext) == shared


@pytest.mark.parametrize("at", [0, 500, 959, 960, 1087])
def test_it_rejects_a_changed_ciphertext_with_the_same_unrelated_secret_as_the_library(at: int) -> None:
    seed = some_bytes(64, "seed", "changed")
    private = MLKEM768PrivateKey.from_seed_bytes(seed)
    shared, ciphertext = slow_kem.encapsulated(slow_kem.public_key(seed), bytes(32))
    changed = bytearray(ciphertext)
    changed[at] ^= 1
    found = slow_kem.decapsulated(seed, bytes(changed))
    assert found != shared
    assert found == private.decapsulate(bytes(changed))


def test_random_bytes_of_a_ciphertexts_length_give_the_librarys_secret_too() -> None:
    seed = some_bytes(64, "seed", "random")
    private = MLKEM768PrivateKey.from_seed_bytes(seed)
    for number in range(3):
        noise = some_bytes(slow_kem.CIPHERTEXT_BYTES, "ciphertext", number)
        assert slow_kem.decapsulated(seed, noise) == private.decapsulate(noise)


def test_parts_of_it_are_what_the_standard_says() -> None:
    ones = [1, *[0] * 255]
    values = list(range(256))
    assert slow_kem.inverted(slow_kem.transformed(values)) == values
    assert slow_kem.product(slow_kem.transformed(ones), values) == values, "one is one"
    for bits in (1, 4, 10):
        every = [value * 2**bits // 256 for value in range(256)]
        assert slow_kem.decoded(slow_kem.encoded(every, bits), bits) == every
        assert slow_kem.compressed(slow_kem.decompressed(every, bits), bits) == every
