"""Mask streams are the protocol's bytes, whichever backend computes them, and cancel in the sum."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, count
from typing import Any, ClassVar

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy.errors import LocalError
from privacy.secagg import masks
from privacy.secagg.masks import BACKENDS, MASK_CHUNK, Backend, MaskStream, MaskTerm, apply_masks
from privacy.secret import SecretBytes
from tests.reference import slow_masks

KEY = SecretBytes(bytes(range(32)))
each_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda one: one.name)


def key(name: object) -> SecretBytes:
    return SecretBytes(hashlib.sha256(str(name).encode()).digest())


def written(backend: Backend, index: int, size: int) -> bytes:
    scratch = np.full(size + 16, 0xEE, dtype=np.uint8)
    backend.stream(KEY).write(index.to_bytes(12, "big"), memoryview(bytes(size)), scratch.data)
    return scratch[:size].tobytes()


@pytest.fixture
def using(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda backend: monkeypatch.setattr(masks, "_chosen", [backend])


@each_backend
@pytest.mark.parametrize(
    ("index", "size"), [(0, MASK_CHUNK), (1, MASK_CHUNK), (2**32, MASK_CHUNK), (2, 1_001), (7, 1), (7, 16), (2**95, 48)]
)
def test_a_chunk_is_aes_ctr_from_counter_two_as_the_slow_reference_has_it(
    backend: Backend, index: int, size: int
) -> None:
    assert written(backend, index, size) == slow_masks.chunk_bytes(KEY.reveal(), index, size)


def test_a_chunk_is_aes_gcm_over_zeros_without_its_tag() -> None:
    sealed = AESGCM(KEY.reveal()).encrypt((3).to_bytes(12, "big"), bytes(1_000), None)
    assert slow_masks.chunk_bytes(KEY.reveal(), 3, 1_000) == sealed[:-16]


@each_backend
def test_every_backend_gives_the_known_answers(backend: Backend) -> None:
    masks.check(backend)


def test_the_known_answers_are_those_of_the_slow_reference() -> None:
    for index, size, expected in masks._KNOWN_ANSWERS:
        assert hashlib.sha256(slow_masks.chunk_bytes(KEY.reveal(), index, size)).hexdigest() == expected


class _CounterFromOne:
    """A plausible mistake: plain CTR from the first block."""

    name: ClassVar[str] = "counter-from-one"

    def stream(self, key: SecretBytes) -> MaskStream:
        made = BACKENDS[1].stream(key)

        class Shifted:
            def write(self, nonce: bytes, zeros: memoryview, scratch: memoryview) -> None:
                made.write((int.from_bytes(nonce, "big") + 1).to_bytes(12, "big"), zeros, scratch)

        return Shifted()


def test_a_backend_with_a_wrong_stream_is_this_machines_fault() -> None:
    with pytest.raises(LocalError, match="E-MASK-STREAM: counter-from-one gives a wrong key stream in chunk 0"):
        masks.check(_CounterFromOne())


def test_no_backend_is_used_before_its_known_answers_were_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "BACKENDS", (_CounterFromOne(),))
    monkeypatch.setattr(masks, "_chosen", [])
    masks._checked.cache_clear()
    with pytest.raises(LocalError, match="E-MASK-STREAM"):
        apply_masks(np.zeros(4, dtype="<u4"), [MaskTerm(KEY, 1)])


class _Clock:
    """Ticks faster and faster, so that what is measured last seems the fastest."""

    def __init__(self) -> None:
        self._tick, self._time = count(1), 0.0

    def now(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        self._time += 1 / next(self._tick)
        return self._time


def test_the_backend_that_the_clock_finds_fastest_is_chosen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "_chosen", [])
    assert masks.choose(_Clock()) is BACKENDS[-1]
    assert masks.backend() is BACKENDS[-1]
    assert masks.choose(_Clock()) is BACKENDS[-1]


def test_without_a_measurement_the_preferred_backend_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "_chosen", [])
    assert masks.backend() is BACKENDS[0]


@each_backend
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("words", [1, 3, 1_000])
def test_masks_equal_the_integer_reference(backend: Backend, bits: int, words: int, using: Any) -> None:
    using(backend)
    start = np.arange(words, dtype=f"<u{bits // 8}") - np.array(5, dtype=f"<u{bits // 8}")
    terms = [(key(i).reveal(), 1 if i % 3 else -1) for i in range(5)]
    got = start.copy()
    apply_masks(got, [MaskTerm(SecretBytes(secret), 1 if sign == 1 else -1) for secret, sign in terms])
    assert got.tolist() == slow_masks.masked(start.tolist(), bits=bits, terms=terms)


@each_backend
def test_masks_over_several_chunks_and_a_truncated_last_one_equal_the_reference(backend: Backend, using: Any) -> None:
    using(backend)
    got = np.zeros(MASK_CHUNK // 8 + 5, dtype="<u8")  # one whole chunk, and 40 bytes of the next
    apply_masks(got, [MaskTerm(KEY, 1)])
    assert got.tobytes() == slow_masks.stream(KEY.reveal(), 0, MASK_CHUNK + 40)


def test_the_tag_never_lands_in_the_next_chunk() -> None:
    words = np.zeros(3 * MASK_CHUNK // 4, dtype="<u4")
    apply_masks(words[: MASK_CHUNK // 4], [MaskTerm(KEY, 1)])
    assert not words[MASK_CHUNK // 4 :].any()


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_change_nothing(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "THREAD_BYTES", 1)
    terms = [MaskTerm(key(i), 1 if i % 2 else -1) for i in range(3)]
    alone, together = (np.arange(5 * MASK_CHUNK // 4 + 7, dtype="<u4") for _ in range(2))
    apply_masks(alone, terms)
    apply_masks(together, terms, threads=threads)
    assert (alone == together).all()


@pytest.mark.parametrize(("terms", "started"), [(3, []), (4, [2]), (9, [4]), (90, [5])])
def test_threads_are_started_for_enough_work_alone(
    terms: int, started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, threads: int) -> None:
            pools.append(threads)
            super().__init__(threads)

    monkeypatch.setattr(masks, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(masks, "THREAD_BYTES", 10 * MASK_CHUNK)
    words = np.zeros(5 * MASK_CHUNK // 4, dtype="<u4")
    apply_masks(words, [MaskTerm(key(i), 1) for i in range(terms)], threads=8)
    assert pools == started  # a thread for each two terms over five chunks, and no more threads than chunks


def test_slices_on_chunk_boundaries_are_masked_by_themselves() -> None:
    terms = [MaskTerm(key(i), -1) for i in range(2)]
    whole = np.zeros(3 * MASK_CHUNK // 8 + 9, dtype="<u8")
    shards, cut = whole.copy(), 2 * MASK_CHUNK // 8
    apply_masks(whole, terms)
    apply_masks(shards[:cut], terms)
    apply_masks(shards[cut:], terms, first_byte=2 * MASK_CHUNK)
    assert (whole == shards).all()


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 7), words=st.integers(1, 200), seed=st.integers(0, 10**6))
def test_pairwise_masks_cancel_in_the_sum_and_self_masks_can_be_taken_off(n: int, words: int, seed: int) -> None:
    updates = np.random.default_rng(seed).integers(-(2**20), 2**20, size=(n, words))
    total = np.zeros(words, dtype="<u4")
    uploads = []
    for me in range(n):
        upload = updates[me].astype("<u4")
        peers = [MaskTerm(key(tuple(sorted((me, it)))), 1 if me < it else -1) for it in range(n) if it != me]
        apply_masks(upload, [*peers, MaskTerm(key(("self", me)), 1)])
        uploads.append(upload)
        total += upload
    assert len({upload.tobytes() for upload in uploads}) == n
    apply_masks(total, [MaskTerm(key(("self", me)), -1) for me in range(n)])
    assert (total.view("<i4") == updates.sum(axis=0)).all()


def test_a_masked_update_looks_nothing_like_the_update() -> None:
    words = np.zeros(10_000, dtype="<u4")
    apply_masks(words, [MaskTerm(KEY, 1)])
    ones = np.unpackbits(words.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 0.005
    assert len(set(words.tolist())) > 9_900


def test_no_key_or_chunk_repeats_a_stream() -> None:
    chunks = [written(BACKENDS[0], index, 64) for index in range(4)]
    others = [slow_masks.chunk_bytes(key(i).reveal(), 0, 64) for i in range(4)]
    assert not any(one == other for one, other in combinations(chunks + others, 2))


def test_no_words_and_no_terms_change_nothing() -> None:
    apply_masks(np.zeros(0, dtype="<u4"), [MaskTerm(KEY, 1)])
    words = np.arange(4, dtype="<u4")
    apply_masks(words, [])
    assert words.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "words",
    [
        np.zeros(4, dtype=np.int64),
        np.zeros(4, dtype=">u4"),
        np.zeros(4, dtype=np.float32),
        np.zeros((2, 2), dtype="<u4"),
        np.zeros(8, dtype="<u4")[::2],
    ],
    ids=["signed", "big-endian", "float", "matrix", "strided"],
)
def test_words_that_are_not_a_ring_vector_are_refused(words: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="ring words"):
        apply_masks(words, [MaskTerm(KEY, 1)])


@pytest.mark.parametrize("first_byte", [-MASK_CHUNK, 4, MASK_CHUNK - 1])
def test_slices_off_the_chunk_boundary_are_refused(first_byte: int) -> None:
    with pytest.raises(ValueError, match="multiple of 262144"):
        apply_masks(np.zeros(4, dtype="<u4"), [MaskTerm(KEY, 1)], first_byte=first_byte)


def test_read_only_words_are_refused_and_unchanged() -> None:
    words = np.frombuffer(bytes(16), dtype="<u4")
    with pytest.raises(ValueError, match="read-only"):
        apply_masks(words, [MaskTerm(KEY, 1)])
    assert not words.any()


def test_a_term_shows_no_key() -> None:
    assert "000102" not in repr(MaskTerm(KEY, 1))
