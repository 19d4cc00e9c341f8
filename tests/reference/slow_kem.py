"""ML-KEM-768, slow, in Python integers, from the text of FIPS 203: with it encapsulation can be given its randomness.

The library draws that itself, so that vectors with ciphertexts could not be made again. Nothing here is constant time,
nothing comes from ``privacy`` or from the library; the hashes are ``hashlib``'s (FIPS 202).
Source: FIPS 203; algorithms are cited by number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

Q = 3329
N = 256  # coefficients of a polynomial
K = 3  # polynomials of a vector; this and what follows are of ML-KEM-768 (section 8, table 2)
ETA = 2  # of both noises
DU, DV = 10, 4  # bits a coefficient of a ciphertext keeps
COEFFICIENT_BITS = 12
POLYNOMIAL_BYTES = N * COEFFICIENT_BITS // 8
PUBLIC_BYTES = K * POLYNOMIAL_BYTES + 32
CIPHERTEXT_BYTES = (DU * K + DV) * N // 8

Polynomial = list[int]
Vector = list[Polynomial]


def _reversed(i: int) -> int:
    return int(f"{i:07b}"[::-1], 2)


ZETAS = [pow(17, _reversed(i), Q) for i in range(128)]  # appendix A
GAMMAS = [pow(17, 2 * _reversed(i) + 1, Q) for i in range(128)]


# --- bytes and coefficients (section 4.2) ---


def encoded(polynomial: Sequence[int], bits: int) -> bytes:
    """ByteEncode (algorithm 5)."""
    return sum(value << (bits * i) for i, value in enumerate(polynomial)).to_bytes(N * bits // 8, "little")


def decoded(data: bytes, bits: int) -> Polynomial:
    """ByteDecode (algorithm 6)."""
    whole, modulus = int.from_bytes(data, "little"), Q if bits == COEFFICIENT_BITS else 1 << bits
    return [(whole >> (bits * i)) % (1 << bits) % modulus for i in range(N)]


def compressed(polynomial: Sequence[int], bits: int) -> Polynomial:
    """Compress (4.7): round(2^bits / q x) mod 2^bits, halves up."""
    return [(2 * value * 2**bits + Q) // (2 * Q) % 2**bits for value in polynomial]


def decompressed(polynomial: Sequence[int], bits: int) -> Polynomial:
    """Decompress (4.8)."""
    return [(2 * value * Q + 2**bits) // 2 ** (bits + 1) for value in polynomial]


def uniform(seed: bytes) -> Polynomial:
    """SampleNTT (algorithm 7) of 34 bytes."""
    found: Polynomial = []
    stream = hashlib.shake_128(seed).digest(3 * 2 * N)  # about 473 bytes are needed; the assert would show a lack
    for at in range(0, len(stream), 3):
        triple = int.from_bytes(stream[at : at + 3], "little")
        found += [value for value in (triple % 4096, triple >> 12) if value < Q]
    assert len(found) >= N
    return found[:N]


def binomial(secret: bytes, nonce: int) -> Polynomial:
    """SamplePolyCBD (algorithm 8) of PRF(secret, nonce)."""
    bits = int.from_bytes(hashlib.shake_256(secret + bytes([nonce])).digest(64 * ETA), "little")
    two = [(bits >> (2 * i) & 1) + (bits >> (2 * i + 1) & 1) for i in range(2 * N)]
    return [(two[2 * i] - two[2 * i + 1]) % Q for i in range(N)]


# --- the number-theoretic transform (section 4.3) ---


def transformed(polynomial: Sequence[int]) -> Polynomial:
    """NTT (algorithm 9)."""
    f, zetas, length = list(polynomial), iter(ZETAS[1:]), N // 2
    while length >= 2:
        for start in range(0, N, 2 * length):
            zeta = next(zetas)
            for j in range(start, start + length):
                t = zeta * f[j + length]
                f[j], f[j + length] = (f[j] + t) % Q, (f[j] - t) % Q
        length //= 2
    return f


def inverted(polynomial: Sequence[int]) -> Polynomial:
    """NTT^-1 (algorithm 10)."""
    f, zetas, length = list(polynomial), iter(ZETAS[:0:-1]), 2
    while length <= N // 2:
        for start in range(0, N, 2 * length):
            zeta = next(zetas)
            for j in range(start, start + length):
                f[j], f[j + length] = (f[j] + f[j + length]) % Q, zeta * (f[j + length] - f[j]) % Q
        length *= 2
    return [value * pow(N // 2, -1, Q) % Q for value in f]


def product(one: Sequence[int], other: Sequence[int]) -> Polynomial:
    """MultiplyNTTs (algorithms 11 and 12)."""
    found: Polynomial = []
    for i, gamma in enumerate(GAMMAS):
        (a, b), (c, d) = one[2 * i : 2 * i + 2], other[2 * i : 2 * i + 2]
        found += [(a * c + b * d * gamma) % Q, (a * d + b * c) % Q]
    return found


def added(*polynomials: Sequence[int]) -> Polynomial:
    """The sum, coefficient by coefficient."""
    return [sum(values) % Q for values in zip(*polynomials, strict=True)]


def inner(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> Polynomial:
    """The inner product of vectors of transformed polynomials."""
    return added(*(product(a, b) for a, b in zip(one, other, strict=True)))


# --- K-PKE (section 5) ---


def _matrix(rho: bytes) -> list[Vector]:
    return [[uniform(rho + bytes([j, i])) for j in range(K)] for i in range(K)]


def _noises(secret: bytes, first: int) -> Vector:
    return [binomial(secret, first + i) for i in range(K)]


def _polynomials(data: bytes, bits: int) -> Iterator[Polynomial]:
    size = N * bits // 8
    return (decoded(data[at : at + size], bits) for at in range(0, len(data), size))


def _pke_keys(d: bytes) -> tuple[bytes, Vector]:
    """K-PKE.KeyGen (algorithm 13): the public key and the transformed secret."""
    seeds = hashlib.sha3_512(d + bytes([K])).digest()
    rho, sigma = seeds[:32], seeds[32:]
    secret = [transformed(noise) for noise in _noises(sigma, 0)]
    errors = [transformed(noise) for noise in _noises(sigma, K)]
    public = [added(inner(row, secret), error) for row, error in zip(_matrix(rho), errors, strict=True)]
    return b"".join(encoded(one, COEFFICIENT_BITS) for one in public) + rho, secret


def _encrypted(public: bytes, message: bytes, randomness: bytes) -> bytes:
    """K-PKE.Encrypt (algorithm 14)."""
    t, rho = list(_polynomials(public[:-32], COEFFICIENT_BITS)), public[-32:]
    y = [transformed(noise) for noise in _noises(randomness, 0)]
    columns = list(zip(*_matrix(rho), strict=True))
    u = [
        added(inverted(inner(column, y)), error) for column, error in zip(columns, _noises(randomness, K), strict=True)
    ]
    v = added(inverted(inner(t, y)), binomial(randomness, 2 * K), decompressed(decoded(message, 1), 1))
    return b"".join(encoded(compressed(one, DU), DU) for one in u) + encoded(compressed(v, DV), DV)


def _decrypted(secret: Vector, ciphertext: bytes) -> bytes:
    """K-PKE.Decrypt (algorithm 15)."""
    cut = DU * K * N // 8
    u = [transformed(decompressed(polynomial, DU)) for polynomial in _polynomials(ciphertext[:cut], DU)]
    v = decompressed(decoded(ciphertext[cut:], DV), DV)
    w = [(a - b) % Q for a, b in zip(v, inverted(inner(secret, u)), strict=True)]
    return encoded(compressed(w, 1), 1)


# --- ML-KEM (section 6) ---


def public_key(seed: bytes) -> bytes:
    """ML-KEM.KeyGen_internal (algorithm 16): the encapsulation key of d, then z."""
    return _pke_keys(seed[:32])[0]


def encapsulated(public: bytes, message: bytes) -> tuple[bytes, bytes]:
    """ML-KEM.Encaps_internal (algorithm 17): the shared secret and the ciphertext of 32 random bytes."""
    halves = hashlib.sha3_512(message + hashlib.sha3_256(public).digest()).digest()
    return halves[:32], _encrypted(public, message, halves[32:])


def decapsulated(seed: bytes, ciphertext: bytes) -> bytes:
    """ML-KEM.Decaps_internal (algorithm 18); of a ciphertext that nobody made so, a secret that follows from z."""
    public, secret = _pke_keys(seed[:32])
    message = _decrypted(secret, ciphertext)
    shared, again = encapsulated(public, message)
    rejected = hashlib.shake_256(seed[32:] + ciphertext).digest(32)
    return shared if again == ciphertext else rejected
