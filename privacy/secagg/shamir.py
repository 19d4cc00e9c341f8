"""Shamir sharing of 32-byte secrets over the field of p = 2^256 + 297 elements.

Guarantees: every 32-byte secret is an element of the field as it stands; any ``threshold`` shares rebuild it and fewer
are independent of it; a rebuilt value that is no 32-byte secret is refused, not truncated.
Leaves to others: whether a share is the one that was dealt (share hashes, seed commitment, public key of the masking
secret), and erasure. Python's integers are not constant time; the threat model says so.
Source: docs/protocol.md section 3; Shamir 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from operator import mul
from typing import Final

from privacy.interfaces import RandomSource
from privacy.secret import SecretBytes

FIELD: Final = 2**256 + 297  # the smallest prime above 2^256, so that no secret has to be redrawn
SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33  # an element of Z_p, p = 2^256 + 297, big-endian
_UNREDUCED: Final = 32  # steps of Horner's rule between two reductions: twice as fast for large cohorts
_TOP_BYTE: Final = 0x01  # a candidate coefficient has 257 bits: the least that cover the field


def split(
    secret: SecretBytes, *, threshold: int, points: Sequence[int], random: RandomSource
) -> dict[int, SecretBytes]:
    """Return one 33-byte big-endian share per point.

    Args:
        secret: 32 bytes.
        threshold: how many shares rebuild the secret, at least 2.
        points: x-coordinates of the holders, distinct, at least 1; at least ``threshold`` of them.
        random: source of the polynomial's coefficients.

    Raises:
        ValueError: the secret's length, the threshold or the points are out of range.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    _check_points(points)
    if not 2 <= threshold <= len(points):
        raise ValueError(f"threshold {threshold} is not from 2 to the {len(points)} points")
    polynomial = [*_coefficients(threshold - 1, random), int.from_bytes(secret.reveal(), "big")]
    return {x: SecretBytes(_value(polynomial, x).to_bytes(SHARE_BYTES, "big")) for x in points}


def lagrange_at_zero(points: Sequence[int]) -> tuple[int, ...]:
    """Return the coefficients that rebuild a secret from the shares at ``points``, in their order.

    They depend on the responders alone: compute them once, then call :func:`combine` for every secret.

    Raises:
        ValueError: no points, a repeated one, or one out of range.
    """
    _check_points(points)
    product = prod(points)
    denominators = [
        x * prod(other - x for other in points[:i]) * prod(other - x for other in points[i + 1 :]) % FIELD
        for i, x in enumerate(points)
    ]
    return tuple(product * inverse % FIELD for inverse in _inverses(denominators))


def combine(shares: Sequence[bytes], coefficients: Sequence[int]) -> SecretBytes:
    """Return the 32-byte secret at zero of the polynomial through ``shares``.

    Args:
        shares: 33 bytes each, in the order of the points given to :func:`lagrange_at_zero`.
        coefficients: what :func:`lagrange_at_zero` returned; as many as there are shares.

    Raises:
        ValueError: a share of the wrong length or not below the field's size, numbers that differ, or a rebuilt value
            of more than 256 bits: some share is not what was dealt.
    """
    if len(shares) != len(coefficients) or any(len(share) != SHARE_BYTES for share in shares):
        raise ValueError(f"need {len(coefficients)} shares of {SHARE_BYTES} bytes")
    values = [int.from_bytes(share, "big") for share in shares]
    if max(values, default=FIELD) >= FIELD:
        raise ValueError("a share is not an element of the field")
    value = sum(map(mul, values, coefficients)) % FIELD
    if value >> (8 * SECRET_BYTES):
        raise ValueError("the shares rebuild no 32-byte secret")
    return SecretBytes(value.to_bytes(SECRET_BYTES, "big"))


def _check_points(points: Sequence[int]) -> None:
    if not points or len(set(points)) != len(points) or not 1 <= min(points) <= max(points) < FIELD:
        raise ValueError("points must be distinct x-coordinates of at least 1")


def _value(polynomial: Sequence[int], x: int) -> int:
    """Evaluate a polynomial, highest coefficient first, by Horner's rule; points are small, so reduce now and then."""
    value = 0
    for start in range(0, len(polynomial), _UNREDUCED):
        for coefficient in polynomial[start : start + _UNREDUCED]:
            value = value * x + coefficient
        value %= FIELD
    return value


def _coefficients(count: int, random: RandomSource) -> list[int]:
    """Draw uniform field elements by rejection; about half of the candidates are taken."""
    taken: list[int] = []
    while len(taken) < count:
        missing = count - len(taken)
        drawn = random.token_bytes(SHARE_BYTES * missing)
        for start in range(0, len(drawn), SHARE_BYTES):
            top, rest = drawn[start] & _TOP_BYTE, drawn[start + 1 : start + SHARE_BYTES]
            candidate = (top << (8 * SECRET_BYTES)) | int.from_bytes(rest, "big")
            if candidate < FIELD:
                taken.append(candidate)
    return taken


def _inverses(values: Sequence[int]) -> list[int]:
    """Invert all values with one modular inversion (Montgomery's trick)."""
    prefix = [1]
    for value in values:
        prefix.append(prefix[-1] * value % FIELD)
    running = pow(prefix[-1], -1, FIELD)
    found = [0] * len(values)
    for i in range(len(values) - 1, -1, -1):
        found[i] = running * prefix[i] % FIELD
        running = running * values[i] % FIELD
    return found
