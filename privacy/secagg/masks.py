"""Masks: key streams that are added to a participant's ring words and cancel in the sum.

Guarantees: the stream of a key is AES-256-CTR in chunks of ``MASK_CHUNK`` bytes, chunk i under the 12-byte big-endian
nonce i with the block counter from 2, the last chunk truncated: the bytes that AES-256-GCM gives over zeros, without
its tag. Both ways of computing it are offered; one is used only after it has given the known answers. Streams are
seekable, so any chunk-aligned slice of a vector can be masked by itself.
Leaves to others: which keys with which signs (``keys``, ``round``); that a key serves one stream of one round.
Source: docs/protocol.md section 7; NIST SP 800-38A (CTR), SP 800-38D (GCM); bench/masking.py for the speed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Final, Literal, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from privacy.errors import LocalError
from privacy.interfaces import Clock
from privacy.secagg.keys import NONCE_BYTES, TAG_BYTES
from privacy.secret import SecretBytes

MASK_CHUNK: Final = 262_144  # bytes; a constant of the protocol, independent of chunks on the wire
_FIRST_COUNTER: Final = (2).to_bytes(4, "big")  # GCM keeps block 1 for its tag
_ZEROS: Final = memoryview(bytes(MASK_CHUNK))
_ALIGNMENT: Final = 64  # bytes of a cache line and of the widest vector register
_ROUNDS_TIMED: Final = 8  # chunks per measurement in `choose`
THREAD_BYTES: Final = 2**27  # of key stream: about 10 ms; a thread with less to do costs more than it saves


class MaskStream(Protocol):
    """The key stream of one key, written chunk by chunk."""

    def write(self, nonce: bytes, zeros: memoryview, scratch: memoryview) -> None:
        """Write ``len(zeros)`` bytes of the chunk of ``nonce`` to ``scratch``, which is TAG_BYTES longer.

        The tail of ``scratch`` may be overwritten: with the tag, or not at all.
        """
        ...


class Backend(Protocol):
    """A way of computing mask streams; all ways give the same bytes."""

    name: ClassVar[str]

    def stream(self, key: SecretBytes) -> MaskStream:
        """Return the stream of a 32-byte key."""
        ...


@dataclass(frozen=True, slots=True)
class MaskTerm:
    """A mask to be added (sign 1: towards a higher id, and the self-mask) or subtracted (-1)."""

    key: SecretBytes
    sign: Literal[1, -1]


class _GcmStream:
    __slots__ = ("_cipher",)

    def __init__(self, key: SecretBytes) -> None:
        self._cipher = AESGCM(key.reveal())

    def write(self, nonce: bytes, zeros: memoryview, scratch: memoryview) -> None:
        self._cipher.encrypt_into(nonce, zeros, None, scratch)


class _CtrStream:
    __slots__ = ("_cipher",)

    def __init__(self, key: SecretBytes) -> None:
        self._cipher = Cipher(AES256(key.reveal()), CTR(bytes(NONCE_BYTES) + _FIRST_COUNTER)).encryptor()

    def write(self, nonce: bytes, zeros: memoryview, scratch: memoryview) -> None:
        self._cipher.reset_nonce(nonce + _FIRST_COUNTER)
        self._cipher.update_into(zeros, scratch)


class GcmBackend:
    """AES-256-GCM over zeros: fastest where the processor has wide AES and carry-less multiplication."""

    name: ClassVar[str] = "aes-256-gcm"

    def stream(self, key: SecretBytes) -> MaskStream:
        """Return the stream of a 32-byte key."""
        return _GcmStream(key)


class CtrBackend:
    """AES-256-CTR over zeros: no tag is computed."""

    name: ClassVar[str] = "aes-256-ctr"

    def stream(self, key: SecretBytes) -> MaskStream:
        """Return the stream of a 32-byte key."""
        return _CtrStream(key)


BACKENDS: Final[tuple[Backend, ...]] = (GcmBackend(), CtrBackend())  # in the order of preference where not measured

# Known answers under the key 00 01 .. 1f: SHA-256 of (chunk index, bytes of the chunk), from the block-by-block
# reference in tests/privacy/test_secagg_masks.py.
_KNOWN_KEY: Final = SecretBytes(bytes(range(32)))
_KNOWN_ANSWERS: Final = (
    (0, MASK_CHUNK, "c4877c729bcc237decd7463f15999bb25c80e6e573be999a2dfde78f71fe7ced"),
    (1, MASK_CHUNK, "c6446286acaec238e55f329a14101178955b6de82c3235d2afbe92ea13cc9c4c"),
    (2**32, MASK_CHUNK, "9723ce09a8f35bbc3aa86c093f3ba35d650fe71934edcaf9ba3a52d91c834a76"),
    (2, 1_001, "99e5e017d81e08a5b14a79c9e94977267ee91ef433ddbd8eb859d108a76d06a6"),
)


def check(candidate: Backend) -> None:
    """Compare a backend with the known answers: chunks 0, 1, 2^32 and a truncated one.

    Raises:
        LocalError: ``E-MASK-STREAM``; masks from this backend would not cancel those of others.
    """
    stream = candidate.stream(_KNOWN_KEY)
    for index, size, expected in _KNOWN_ANSWERS:
        zeros, scratch = _buffers(size)
        stream.write(_nonce(index), zeros, scratch.data)
        if hashlib.sha256(scratch.data[:size]).hexdigest() != expected:
            raise LocalError("E-MASK-STREAM", f"{candidate.name} gives a wrong key stream in chunk {index}")


@cache
def _checked() -> tuple[Backend, ...]:
    for candidate in BACKENDS:
        check(candidate)
    return BACKENDS


_chosen: list[Backend] = []  # at most one: what `choose` measured to be the fastest


def choose(clock: Clock) -> Backend:
    """Measure the backends, once in a process, and use the fastest from here on.

    Raises:
        LocalError: ``E-MASK-STREAM``.
    """
    if not _chosen:
        _chosen.append(min(_checked(), key=lambda candidate: _seconds(candidate, clock)))
    return _chosen[0]


def backend() -> Backend:
    """Return the backend in use: the one that :func:`choose` found, otherwise the first, known answers checked.

    Raises:
        LocalError: ``E-MASK-STREAM``.
    """
    return _chosen[0] if _chosen else _checked()[0]


def apply_masks(words: NDArray[Any], terms: Sequence[MaskTerm], *, first_byte: int = 0, threads: int = 1) -> None:
    """Add the masks of ``terms`` to ring words in place, modulo 2^32 or 2^64.

    Chunk by chunk, all terms of a chunk while its words are in the cache; nothing is allocated per term.

    Args:
        words: contiguous, writable, little-endian uint32 or uint64: a stream's words from ``first_byte`` on.
        terms: keys of this stream, with signs.
        first_byte: where in the stream ``words`` begins, a multiple of ``MASK_CHUNK``.
        threads: over how many threads at most the chunks are spread, each with at least ``THREAD_BYTES`` of key stream;
            ``cryptography`` and numpy release the interpreter's lock.

    Raises:
        ValueError: the type, layout or position of ``words`` is wrong.
        LocalError: ``E-MASK-STREAM``.
    """
    if words.dtype not in (np.dtype("<u4"), np.dtype("<u8")) or words.ndim != 1 or not words.flags.c_contiguous:
        raise ValueError("ring words are a contiguous vector of little-endian uint32 or uint64")
    if first_byte % MASK_CHUNK or first_byte < 0:
        raise ValueError(f"a slice begins at a multiple of {MASK_CHUNK} bytes, not at {first_byte}")
    first, chunks = first_byte // MASK_CHUNK, -(-words.nbytes // MASK_CHUNK)
    threads = min(threads, chunks, words.nbytes * len(terms) // THREAD_BYTES)
    if threads < 2:
        _mask_chunks(words, terms, first)
        return
    step = -(-chunks // threads)
    width = MASK_CHUNK // words.itemsize
    with ThreadPoolExecutor(threads) as pool:
        shards = [
            pool.submit(_mask_chunks, words[at * width : (at + step) * width], terms, first + at)
            for at in range(0, chunks, step)
        ]
    for shard in shards:
        shard.result()


def _mask_chunks(words: NDArray[Any], terms: Sequence[MaskTerm], first: int) -> None:
    source = backend()
    streams = [(source.stream(term.key).write, np.add if term.sign == 1 else np.subtract) for term in terms]
    width = MASK_CHUNK // words.itemsize
    zeros, scratch = _buffers(min(MASK_CHUNK, words.nbytes))
    for index, start in enumerate(range(0, words.size, width), first):
        chunk = words[start : start + width]
        if chunk.nbytes != len(zeros):  # the last one: backends want buffers of the exact length
            zeros, scratch = zeros[: chunk.nbytes], scratch[: chunk.nbytes + TAG_BYTES]
        mask, target = scratch[: chunk.nbytes].view(words.dtype), scratch.data
        nonce = _nonce(index)
        for write, combine in streams:
            write(nonce, zeros, target)
            combine(chunk, mask, chunk)


def _nonce(index: int) -> bytes:
    return index.to_bytes(NONCE_BYTES, "big")  # exactly 12 bytes: the library takes 16 and gives another stream


def _buffers(size: int) -> tuple[memoryview, NDArray[np.uint8]]:
    """Return zeros to be encrypted and scratch space, aligned, with room for the tag that is thrown away."""
    memory = np.empty(size + TAG_BYTES + _ALIGNMENT, dtype=np.uint8)
    offset = -memory.ctypes.data % _ALIGNMENT
    return _ZEROS[:size], memory[offset : offset + size + TAG_BYTES]


def _seconds(candidate: Backend, clock: Clock) -> float:
    stream = candidate.stream(_KNOWN_KEY)
    zeros, scratch = _buffers(MASK_CHUNK)
    target = scratch.data
    best = float("inf")
    for index in range(_ROUNDS_TIMED):
        started = clock.monotonic()
        stream.write(_nonce(index), zeros, target)
        best = min(best, clock.monotonic() - started)
    return best
