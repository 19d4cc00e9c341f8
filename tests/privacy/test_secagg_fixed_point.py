"""Encodings add up in the ring, plain or packed, and decoding gives the exact integer sum."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secagg.fixed_point import Ring, fixed, unfixed
from privacy.secagg.layout import BLOCK_WORDS, Layout
from privacy.secagg.masks import MASK_CHUNK, MaskTerm
from privacy.secret import SecretBytes
from tests.worlds.plans import make_plan

RINGS = [Ring(bits=32), Ring(bits=64), *(Ring(bits=64, lane_bits=lane) for lane in (8, 10, 13, 16, 21, 25, 31, 32))]
each_ring = pytest.mark.parametrize("ring", RINGS, ids=lambda ring: f"{ring.bits}-{ring.lane_bits}")


def bound(ring: Ring) -> int:
    """The largest absolute sum that the ring holds."""
    return int(2 ** ((ring.lane_bits or ring.bits) - 1) - 1)


def test_the_ring_of_a_plan_has_its_bits_and_lanes() -> None:
    assert make_plan()[0].layout(1).ring == Ring(bits=32, lane_bits=0)
    packed, _ = make_plan(encoding={"ring_bits": 64, "lane_bits": 21, "clamp": 1000})
    assert packed.layout(1).ring == Ring(bits=64, lane_bits=21)


@pytest.mark.parametrize(
    ("bits", "lane_bits", "entries", "words", "size"),
    [
        (32, 0, 10, 10, 4),
        (64, 0, 10, 10, 8),
        (64, 21, 10, 4, 8),
        (64, 16, 10, 3, 8),
        (64, 21, 9, 3, 8),
        (64, 21, 0, 0, 8),
    ],
)
def test_packed_lanes_take_less_of_the_wire(
    bits: Literal[32, 64], lane_bits: int, entries: int, words: int, size: int
) -> None:
    ring = Ring(bits=bits, lane_bits=lane_bits)
    assert ring.words(entries) == words
    assert ring.dtype.itemsize == size
    assert len(ring.to_bytes(ring.encode(np.ones(entries, dtype=np.int64)))) == words * size


def test_words_are_little_endian_two_s_complement() -> None:
    assert bytes(Ring(bits=32).to_bytes(Ring(bits=32).encode(np.array([1, -2])))) == b"\x01\0\0\0\xfe\xff\xff\xff"
    assert bytes(Ring(bits=64).to_bytes(Ring(bits=64).encode(np.array([-1])))) == b"\xff" * 8


def test_the_lowest_lane_comes_first_and_negative_entries_borrow_from_the_next() -> None:
    ring = Ring(bits=64, lane_bits=16)
    assert ring.encode(np.array([1, 2, 3, 4])).tolist() == [1 + (2 << 16) + (3 << 32) + (4 << 48)]
    assert ring.encode(np.array([-1, 0, 0, 0])).tolist() == [2**64 - 1]
    assert ring.encode(np.array([-1, 1, 0, 0])).tolist() == [0xFFFF]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), ring=st.sampled_from(RINGS), members=st.integers(1, 9), entries=st.integers(1, 40))
def test_decoding_a_sum_of_encodings_gives_the_sum(data: st.DataObject, ring: Ring, members: int, entries: int) -> None:
    largest = min(bound(ring), 2**62) // members
    one = st.integers(-largest, largest) | st.sampled_from([-largest, largest, 0, -1])
    updates = np.array(
        data.draw(st.lists(st.lists(one, min_size=entries, max_size=entries), min_size=members, max_size=members)),
        dtype=np.int64,
    )
    total = np.zeros(ring.words(entries), dtype=ring.dtype)
    for update in updates:
        ring.add_into(total, ring.encode(update))
    assert (ring.decode(total, entries) == updates.sum(axis=0)).all()


@each_ring
def test_the_extremes_of_the_ring_survive(ring: Ring) -> None:
    values = np.array([bound(ring), -bound(ring) - 1, -1, 0, 1, -bound(ring), bound(ring)] * 3, dtype=np.int64)
    assert (ring.decode(ring.encode(values), values.size) == values).all()


@each_ring
def test_masked_words_decode_once_the_mask_is_off(ring: Ring) -> None:
    values = np.arange(-20, 21, dtype=np.int64)
    mask = np.random.default_rng(3).integers(0, 2**63, ring.words(values.size), dtype=np.uint64).astype(ring.dtype)
    words = ring.encode(values)
    ring.add_into(words, mask)
    words -= mask
    assert (ring.decode(words, values.size) == values).all()


@each_ring
def test_bytes_and_words_are_two_forms_of_one_thing(ring: Ring) -> None:
    words = ring.encode(np.arange(-7, 8, dtype=np.int64))
    data = ring.to_bytes(words)
    again = ring.from_bytes(data, words.size)
    assert again.dtype == ring.dtype
    assert (again == words).all()
    assert ring.to_bytes(again) == data


def test_words_from_mutable_bytes_can_be_masked_in_place_and_others_cannot() -> None:
    ring = Ring(bits=32)
    assert ring.from_bytes(bytearray(8), 2).flags.writeable
    assert not ring.from_bytes(bytes(8), 2).flags.writeable


@each_ring
@pytest.mark.parametrize("change", [-8, -1, 1, 8])
def test_bytes_of_another_length_are_refused(ring: Ring, change: int) -> None:
    with pytest.raises(ValueError, match="are not 4 words"):
        ring.from_bytes(bytes(4 * ring.dtype.itemsize + change), 4)


@each_ring
def test_a_number_of_words_that_does_not_fit_the_entries_is_refused(ring: Ring) -> None:
    with pytest.raises(ValueError, match="do not hold"):
        ring.decode(np.zeros(5, dtype=ring.dtype), ring.lanes * 5 + 1)


def test_adding_words_of_another_shape_or_type_is_refused() -> None:
    total = np.zeros(4, dtype="<u4")
    for words in (np.zeros(3, dtype="<u4"), np.zeros(1, dtype="<u4"), np.zeros(4, dtype="<u8"), np.zeros(4)):
        with pytest.raises(ValueError, match="cannot add"):
            Ring(bits=32).add_into(total, words)
    with pytest.raises(ValueError, match="cannot add"):
        Ring(bits=32).add_into(np.zeros(4, dtype="<u8"), total)


@pytest.mark.parametrize("ring", [Ring(bits=32), Ring(bits=64, lane_bits=21)], ids=str)
@pytest.mark.parametrize("change", [-1, 1])
def test_entries_are_not_written_to_more_or_fewer_words_than_they_need(ring: Ring, change: int) -> None:
    values = np.ones(6, dtype=np.int64)
    with pytest.raises(ValueError, match="do not hold"):
        ring.encode_into(np.zeros(ring.words(6) + change, dtype=ring.dtype), values)


def test_decoding_leaves_the_words_alone() -> None:
    ring = Ring(bits=64, lane_bits=21)
    words = ring.encode(np.array([5, -6, 7, -8]))
    before = words.copy()
    ring.decode(words, 4)
    assert (words == before).all()


def test_an_entry_beyond_its_lane_wraps_and_is_never_refused() -> None:
    ring = Ring(bits=64, lane_bits=16)
    assert ring.decode(ring.encode(np.array([40_000, 0, 0, 0])), 4).tolist() == [40_000 - 65_536, 1, 0, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reals_become_the_nearest_multiple_of_the_scale(dtype: type[np.floating]) -> None:
    values = np.array([0, 1, -1, 0.25, -0.375, 0.5], dtype=dtype)
    assert fixed(values, scale_exponent=2, clamp=100).tolist() == [0, 4, -4, 1, -2, 2]
    assert fixed(np.array([0.125, 0.375, -0.125], dtype=dtype), scale_exponent=2, clamp=9).tolist() == [0, 2, 0]


def test_large_values_are_clamped_and_what_is_no_number_becomes_zero() -> None:
    values = np.array([1e300, -1e300, np.inf, -np.inf, np.nan, 7, -7.4, 1e-300])
    with np.errstate(all="raise", under="ignore"):
        assert fixed(values, scale_exponent=50, clamp=7).tolist() == [7, -7, 0, 0, 0, 7, -7, 0]


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(width=32), min_size=1, max_size=20),
    scale=st.integers(0, 50),
    clamp=st.integers(1, 2**53 - 1),
)
def test_encoding_reals_never_refuses_and_never_leaves_the_clamp(values: list[float], scale: int, clamp: int) -> None:
    found = fixed(np.array(values, dtype=np.float32), scale_exponent=scale, clamp=clamp)
    assert found.dtype == np.int64
    assert (np.abs(found) <= clamp).all()


def test_decoding_divides_by_scale_and_weights() -> None:
    assert unfixed(np.array([12, -8, 0]), scale_exponent=2, divisor=4).tolist() == [0.75, -0.5, 0.0]


@settings(max_examples=200, deadline=None)
@given(total=st.integers(-(2**53), 2**53), divisor=st.integers(1, 10**6), scale=st.integers(0, 50))
def test_a_decoded_mean_is_the_float_nearest_to_the_quotient(total: int, divisor: int, scale: int) -> None:
    """Everybody that decodes a sum gets the same bytes: Python rounds a quotient of integers once, too."""
    assert unfixed(np.array([total]), scale_exponent=scale, divisor=divisor)[0] == total / (divisor << scale)


@pytest.mark.parametrize("divisor", [0, -1])
def test_a_divisor_below_one_is_refused(divisor: int) -> None:
    with pytest.raises(ValueError, match="divisor"):
        unfixed(np.array([1]), scale_exponent=0, divisor=divisor)


@settings(max_examples=50, deadline=None)
@given(weights=st.lists(st.integers(1, 5), min_size=1, max_size=6), seed=st.integers(0, 10**6))
def test_a_weighted_mean_survives_the_ring_up_to_rounding(weights: list[int], seed: int) -> None:
    ring, scale = Ring(bits=32), 16
    updates = np.random.default_rng(seed).uniform(-1, 1, size=(len(weights), 17))
    total = np.zeros(ring.words(17), dtype=ring.dtype)
    for weight, update in zip(weights, updates, strict=True):
        ring.add_into(total, ring.encode(weight * fixed(update, scale_exponent=scale, clamp=2**20)))
    mean = unfixed(ring.decode(total, 17), scale_exponent=scale, divisor=sum(weights))
    assert np.abs(mean - np.average(updates, axis=0, weights=weights)).max() <= 2.0 ** -(scale + 1)


@pytest.mark.parametrize("ring", RINGS)
def test_integers_beyond_a_bound_are_counted_in_every_stream_and_block(ring: Ring) -> None:
    length = BLOCK_WORDS * ring.lanes + 5
    layout = Layout(ring, (("first", length), ("second", 7)))
    update = np.zeros(layout.entries, dtype=np.int64)
    update[[0, length - 1]], update[[1, length, -1]] = 100, -101
    words = layout.encode(update, 1)
    assert [layout.count_beyond(words, bound) for bound in (99, 99.5, 100, 100.5, 101, 2.0**62)] == [5, 5, 3, 3, 0, 0]


@pytest.mark.parametrize("ring", RINGS)
def test_decoded_integers_are_their_own_and_not_the_words(ring: Ring) -> None:
    layout = Layout(ring, (("only", 9),))
    words = layout.encode(np.arange(9, dtype=np.int64), 1)
    for found in (layout.decode(words), ring.decode(words, 9), *(entries for _, entries in layout.blocks(words))):
        np.add(found, 1, out=found)
        assert found.dtype == np.int64
    assert np.array_equal(layout.decode(words), np.arange(9))


@pytest.mark.parametrize("ring", RINGS)
def test_bits_where_no_entry_is_are_counted_and_no_sum_of_encodings_has_any(ring: Ring) -> None:
    length = BLOCK_WORDS * ring.lanes + 1  # of the last word's lanes one is used
    layout = Layout(ring, (("first", length), ("second", 2 * ring.lanes)))
    extremes = np.resize(np.array([bound(ring), -bound(ring) - 1, 0, -1], dtype=np.int64), layout.entries)
    words = layout.encode(extremes, 1)
    assert layout.count_stray(words) == 0
    above = ring.bits - ring.lanes * (ring.lane_bits or ring.bits)
    if above:
        words[[0, BLOCK_WORDS - 1, BLOCK_WORDS, -1]] ^= np.uint64(1 << 63)
        assert layout.count_stray(words) == 4
        assert layout.count_beyond(words, bound(ring) + 1) == 0, "no entry shows it"
        words = layout.encode(extremes, 1)
    if ring.lanes > 1:
        words[BLOCK_WORDS] += np.uint64(1 << ring.lane_bits)  # the first stream's last word
        assert layout.count_stray(words) == 1
    assert np.array_equal(layout.decode(words), extremes)


def test_ranges_of_a_vector_are_masked_wherever_they_lie() -> None:
    """Two streams, each of which has more than one chunk of its key stream."""
    layout = Layout(Ring(bits=64, lane_bits=21), (("first", 100_000), ("second", 150_000)))

    def terms(stream: str) -> list[MaskTerm]:
        key = SecretBytes(hashlib.sha256(stream.encode()).digest())
        return [MaskTerm(key, 1), MaskTerm(SecretBytes(bytes(32)), -1)]

    whole = np.zeros(layout.words, dtype=layout.ring.dtype)
    layout.mask(whole, terms)
    chunk, second = MASK_CHUNK // 8, layout.ring.words(100_000)
    parts = []
    for start, stop in pairwise([0, chunk, second, second + chunk, layout.words]):
        part = np.zeros(stop - start, dtype=layout.ring.dtype)
        layout.mask(part, terms, first_word=start)
        parts.append(part)
    assert np.array_equal(np.concatenate(parts), whole)
    across = np.zeros(layout.words - chunk, dtype=layout.ring.dtype)
    layout.mask(across, terms, first_word=chunk)
    assert np.array_equal(across, whole[chunk:])
    with pytest.raises(ValueError, match="multiple of"):
        layout.mask(across[:10], terms, first_word=10)
    with pytest.raises(ValueError, match="are not of a vector"):
        layout.mask(across, terms, first_word=chunk + 1)


def test_no_words_have_no_stray_bits_and_the_number_of_words_is_that_of_the_entries() -> None:
    ring = Ring(bits=64, lane_bits=21)
    assert ring.count_stray(np.zeros(0, dtype="<u8"), 0) == 0
    with pytest.raises(ValueError, match="2 words do not hold 3 entries"):
        ring.count_stray(np.zeros(2, dtype="<u8"), 3)
