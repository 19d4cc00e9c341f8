"""Any threshold of shares rebuilds a secret; fewer say nothing; wrong shares are refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secagg.shamir import FIELD, SHARE_BYTES, combine, lagrange_at_zero, split
from privacy.secret import SecretBytes
from tests.worlds.seeded import SeededRandom

SECRET = SecretBytes(bytes(range(32)))
secrets = st.binary(min_size=32, max_size=32)


def dealt(secret: bytes, threshold: int, points: list[int], seed: object = 0) -> dict[int, bytes]:
    shares = split(SecretBytes(secret), threshold=threshold, points=points, random=SeededRandom(str(seed)))
    return {x: share.reveal() for x, share in shares.items()}


def rebuilt(shares: dict[int, bytes], points: list[int]) -> bytes:
    return combine([shares[x] for x in points], lagrange_at_zero(points)).reveal()


class _Fixed:
    """A random source that hands out prepared bytes."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def token_bytes(self, count: int) -> bytes:
        piece = self.pieces.pop(0)
        assert len(piece) == count
        return piece


def test_the_field_is_the_smallest_prime_above_two_to_the_256() -> None:
    assert FIELD == 2**256 + 297
    for base in range(2, 40):  # Miller and Rabin: FIELD - 1 is 2^3 times an odd number
        witness = pow(base, (FIELD - 1) >> 3, FIELD)
        assert witness == 1 or FIELD - 1 in (witness, witness**2 % FIELD, witness**4 % FIELD)
    # By Fermat to base 3: 2^256 + 1 is a Fermat number, which passes to base 2 although it is composite.
    assert all(pow(3, number - 1, number) != 1 for number in range(2**256 + 1, FIELD))


def test_shares_lie_on_the_polynomial_with_the_drawn_coefficients() -> None:
    secret, first, second = 5, 7, 2**256 + 11  # coefficients: the second needs the 257th bit
    source = _Fixed(second.to_bytes(33, "big") + first.to_bytes(33, "big"))
    shares = split(SecretBytes(secret.to_bytes(32, "big")), threshold=3, points=[1, 2, 9], random=source)
    for x, share in shares.items():
        assert int.from_bytes(share.reveal(), "big") == (secret + first * x + second * x * x) % FIELD


def test_candidates_outside_the_field_are_drawn_again() -> None:
    outside, taken = FIELD.to_bytes(33, "big"), (3).to_bytes(33, "big")
    source = _Fixed(outside, b"\x01" + b"\xff" * 32, taken)
    shares = split(SecretBytes(bytes(32)), threshold=2, points=[1, 2], random=source)
    assert [int.from_bytes(share.reveal(), "big") for share in shares.values()] == [3, 6]
    assert not source.pieces


def test_the_upper_seven_bits_of_a_candidate_are_not_used() -> None:
    source = _Fixed(b"\xfe" + (3).to_bytes(32, "big"))
    shares = split(SecretBytes(bytes(32)), threshold=2, points=[1, 2], random=source)
    assert int.from_bytes(shares[1].reveal(), "big") == 3


@settings(max_examples=60, deadline=None)
@given(data=st.data(), secret=secrets, n=st.integers(2, 14), seed=st.integers())
def test_any_threshold_of_shares_rebuilds_the_secret(data: st.DataObject, secret: bytes, n: int, seed: int) -> None:
    threshold = data.draw(st.integers(2, n))
    points = data.draw(st.lists(st.integers(1, 4096), min_size=n, max_size=n, unique=True))
    shares = dealt(secret, threshold, points, seed)
    responders = data.draw(st.permutations(points))[: data.draw(st.integers(threshold, n))]
    assert rebuilt(shares, responders) == secret


@settings(max_examples=60, deadline=None)
@given(secret=secrets, threshold=st.integers(3, 10), seed=st.integers())
def test_one_share_too_few_does_not_rebuild_it(secret: bytes, threshold: int, seed: int) -> None:
    points = list(range(1, threshold + 1))
    shares = dealt(secret, threshold, points, seed)
    try:
        assert rebuilt(shares, points[:-1]) != secret
    except ValueError as refused:
        assert "no 32-byte secret" in str(refused)  # noqa: PT017  # either outcome is right


def test_fewer_shares_than_the_threshold_fit_every_secret() -> None:
    """For T-1 shares and any other secret there is a last share that rebuilds it: they say nothing."""
    threshold, points = 4, [1, 2, 3, 4]
    shares = dealt(SECRET.reveal(), threshold, points)
    coefficients = lagrange_at_zero(points)
    known = sum(int.from_bytes(shares[x], "big") * c for x, c in zip(points[:3], coefficients, strict=False))
    for other in (0, 1, 2**256 - 1, int.from_bytes(b"some other secret".ljust(32), "big")):
        last = (other - known) * pow(coefficients[3], -1, FIELD) % FIELD
        forged = {**shares, 4: last.to_bytes(SHARE_BYTES, "big")}
        assert int.from_bytes(rebuilt(forged, points), "big") == other


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, b"\x00" * 31 + b"\x01"], ids=["zero", "largest", "one"])
def test_extreme_secrets_survive(secret: bytes) -> None:
    assert rebuilt(dealt(secret, 3, [1, 2, 3, 4, 5]), [5, 1, 3]) == secret


def test_shares_are_33_bytes_and_differ_between_holders_and_dealings() -> None:
    one, other = (dealt(SECRET.reveal(), 3, [1, 2, 3, 4, 5], seed) for seed in (1, 2))
    assert all(len(share) == SHARE_BYTES for share in one.values())
    assert len({*one.values(), *other.values()}) == 10


def test_shamir_coefficients_are_those_of_the_textbook() -> None:
    points = [3, 1, 7, 4096]
    for i, coefficient in enumerate(lagrange_at_zero(points)):
        expected = 1
        for j, other in enumerate(points):
            if j != i:
                expected = expected * other * pow(other - points[i], -1, FIELD) % FIELD
        assert coefficient == expected


def test_a_wrong_share_rebuilds_something_else() -> None:
    shares = dealt(SECRET.reveal(), 3, [1, 2, 3])
    shares[2] = (int.from_bytes(shares[2], "big") ^ 1).to_bytes(SHARE_BYTES, "big")
    try:
        assert rebuilt(shares, [1, 2, 3]) != SECRET.reveal()
    except ValueError as refused:
        assert "no 32-byte secret" in str(refused)  # noqa: PT017  # either outcome is right


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (b"", "33 bytes"),
        (bytes(32), "33 bytes"),
        (bytes(34), "33 bytes"),
        (FIELD.to_bytes(33, "big"), "element of the field"),
        (b"\xff" * 33, "element of the field"),
    ],
    ids=["empty", "short", "long", "the field's size", "far beyond the field"],
)
def test_shares_out_of_form_are_refused(share: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        combine([bytes(33), share], lagrange_at_zero([1, 2]))


@pytest.mark.parametrize("value", [2**256, FIELD - 1])
def test_a_rebuilt_value_beyond_256_bits_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="no 32-byte secret"):
        combine([value.to_bytes(33, "big")] * 2, lagrange_at_zero([1, 2]))


def test_as_many_shares_as_coefficients_are_needed() -> None:
    with pytest.raises(ValueError, match="need 3 shares"):
        combine([bytes(33)] * 2, lagrange_at_zero([1, 2, 3]))
    with pytest.raises(ValueError, match="field"):
        combine([], [])


def test_one_point_alone_has_the_whole_polynomial_of_degree_zero() -> None:
    assert lagrange_at_zero([5]) == (1,)


@pytest.mark.parametrize("points", [[], [0, 1], [-1, 2], [1, 1], [1, FIELD]])
def test_points_out_of_range_are_refused(points: list[int]) -> None:
    with pytest.raises(ValueError, match="points must be distinct"):
        lagrange_at_zero(points)
    with pytest.raises(ValueError, match="points must be distinct"):
        split(SECRET, threshold=2, points=points, random=SeededRandom())


@pytest.mark.parametrize("threshold", [-1, 0, 1, 4])
def test_thresholds_out_of_range_are_refused(threshold: int) -> None:
    with pytest.raises(ValueError, match="threshold"):
        split(SECRET, threshold=threshold, points=[1, 2, 3], random=SeededRandom())


@pytest.mark.parametrize("size", [0, 31, 33])
def test_secrets_of_another_length_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        split(SecretBytes(bytes(size)), threshold=2, points=[1, 2], random=SeededRandom())


def test_a_hundred_secrets_rebuild_in_milliseconds_once_the_coefficients_are_known() -> None:
    points = list(range(1, 68))
    shares = dealt(SECRET.reveal(), 67, points)
    ordered, coefficients = [shares[x] for x in points], lagrange_at_zero(points)
    started = time.perf_counter()
    for _ in range(100):
        combine(ordered, coefficients)
    assert time.perf_counter() - started < 0.05  # about 1.5 ms; the naive way takes 100
