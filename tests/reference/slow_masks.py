"""An independent, slow reference of masking: one AES block at a time, Python integers, nothing from ``privacy``.

AES itself is the library's in ECB mode, which has its own vectors in tests/privacy/test_secagg_keys.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

CHUNK = 262_144
BLOCK = 16


def block(key: bytes, chunk: int, number: int) -> bytes:
    """Return block ``number`` (from 0) of a chunk: AES-256(nonce of 12 bytes, counter of 4 bytes from 2)."""
    counter = chunk.to_bytes(12, "big") + (number + 2).to_bytes(4, "big")
    return Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(counter)


def chunk_bytes(key: bytes, chunk: int, size: int) -> bytes:
    """Return the first ``size`` bytes of a chunk."""
    return b"".join(block(key, chunk, number) for number in range(-(-size // BLOCK)))[:size]


def stream(key: bytes, start: int, size: int) -> bytes:
    """Return bytes ``start`` to ``start + size`` of the key stream; ``start`` lies on a chunk's boundary."""
    first = start // CHUNK
    found = b"".join(chunk_bytes(key, first + at // CHUNK, min(CHUNK, size - at)) for at in range(0, size, CHUNK))
    assert len(found) == size
    return found


def masked(words: Iterable[int], *, bits: int, terms: Iterable[tuple[bytes, int]], start: int = 0) -> list[int]:
    """Return words plus or minus each key's stream, modulo 2^bits, in Python integers."""
    result, width = list(words), bits // 8
    for key, sign in terms:
        mask = stream(key, start, len(result) * width)
        for i in range(len(result)):
            lane = int.from_bytes(mask[i * width : (i + 1) * width], "little")
            result[i] = (result[i] + sign * lane) % 2**bits
    return result
