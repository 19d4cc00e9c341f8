"""Keys agree with the published vectors, and the dangerous ones are refused."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from privacy.secagg import keys
from privacy.secagg.keys import AgreementKey, SigningKey
from privacy.secret import SecretBytes
from tests.reference import slow_masks
from tests.worlds.plans import signing_key

VECTORS = Path(cryptography_vectors.__file__).parent
P = 2**255 - 19
SECRET = SecretBytes(bytes(range(32)))


def records(path: str) -> Iterator[dict[str, str]]:
    """Yield the blocks of a NIST-style vector file that begin with COUNT."""
    record: dict[str, str] = {}
    for line in (VECTORS / path).read_text().splitlines():
        name, equals, value = (part.strip() for part in line.partition("="))
        if name == "COUNT" and record:
            yield record
            record = {}
        if equals and not line.startswith("#"):
            record[name] = value
    yield record


# --- HKDF ---


def hkdf(ikm: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 by its text, from HMAC alone."""
    prk = hmac.digest(salt or bytes(32), ikm, "sha256")
    okm, last = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        last = hmac.digest(prk, last + info + bytes([counter]), "sha256")
        okm += last
    return okm[:length]


@pytest.mark.parametrize(
    "vector", list(records("KDF/rfc-5869-HKDF-SHA256.txt")), ids=lambda one: f"case {one['COUNT']}"
)
def test_the_reference_hkdf_gives_the_vectors_of_rfc_5869(vector: dict[str, str]) -> None:
    ikm, salt, info, okm = (bytes.fromhex(vector[name]) for name in ("IKM", "salt", "info", "OKM"))
    assert hkdf(ikm, salt, info, int(vector["L"])) == okm


@given(secret=st.binary(min_size=1, max_size=80), salt=st.binary(max_size=40), parts=st.lists(st.binary(max_size=9)))
def test_derivation_is_hkdf_over_framed_label_and_parts(secret: bytes, salt: bytes, parts: list[bytes]) -> None:
    found = keys.derive(SecretBytes(secret), salt=salt, label=b"label", parts=tuple(parts))
    assert found.reveal() == hkdf(secret, salt, keys.framed(b"label", *parts), 32)


def test_no_two_derivations_from_one_secret_give_the_same_key() -> None:
    derived = [keys.derive(SECRET, salt=b"", label=keys.LABEL_MASKING_KEY)]
    for ctx, stream in product((b"1" * 32, b"2" * 32), ("adapter", "head")):
        derived += [
            keys.pairwise_stream_key(SECRET, round_ctx=ctx, pair=pair, stream=stream)
            for pair in (("alice", "bob"), ("alice", "carol"), ("bob", "carol"))
        ]
        derived += [keys.self_stream_key(SECRET, round_ctx=ctx, participant=one, stream=stream) for one in ("a", "b")]
    for ctx in (b"1" * 32, b"2" * 32):
        derived += [
            keys.channel_key(SECRET, round_ctx=ctx, sender=sender, recipient=recipient)
            for sender, recipient in (("alice", "bob"), ("bob", "alice"), ("alic", "ebob"))
        ]
    assert len({key.reveal() for key in derived}) == len(derived)


def test_both_ends_of_a_pair_derive_the_same_mask_key() -> None:
    one, other = (
        keys.pairwise_stream_key(SECRET, round_ctx=b"ctx", pair=pair, stream="head")
        for pair in (("alice", "bob"), ("bob", "alice"))
    )
    assert one.matches(other)


def test_names_that_run_together_do_not_share_a_mask_key() -> None:
    one = keys.pairwise_stream_key(SECRET, round_ctx=b"", pair=("ab", "c"), stream="d")
    other = keys.pairwise_stream_key(SECRET, round_ctx=b"", pair=("a", "bc"), stream="d")
    assert not one.matches(other)


# --- X25519 ---


@pytest.mark.parametrize(
    "vector", list(records("asymmetric/X25519/rfc7748.txt")), ids=lambda one: f"case {one['COUNT']}"
)
def test_agreement_gives_the_vectors_of_rfc_7748(vector: dict[str, str]) -> None:
    scalar, u, expected = (bytes.fromhex(vector[name]) for name in ("INPUT_SCALAR", "INPUT_U", "OUTPUT_U"))
    assert AgreementKey(SecretBytes(scalar)).agree(u).reveal() == expected


def test_agreement_gives_the_diffie_hellman_example_of_rfc_7748_section_6_1() -> None:
    alice = AgreementKey(SecretBytes(bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")))
    bob = AgreementKey(SecretBytes(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")))
    assert alice.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert alice.agree(bob.public).reveal() == bob.agree(alice.public).reveal() == shared


# u-coordinates of small order on curve25519 and its twist (RFC 7748 section 6.1 asks to refuse a zero result), with the
# two that are not canonical; each also with the top bit set, which X25519 ignores.
LOW_ORDER_U = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P - 1,
    P,
    P + 1,
]


@pytest.mark.parametrize("top", [0, 2**255], ids=["top bit clear", "top bit set"])
@pytest.mark.parametrize("u", LOW_ORDER_U)
def test_low_order_x25519_keys_are_refused(u: int, top: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the library's words
        AgreementKey(SECRET).agree((u + top).to_bytes(32, "little"))
    assert keys.is_low_order_x25519((u + top).to_bytes(32, "little"))
    assert not keys.is_low_order_x25519(AgreementKey(SECRET).public)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_x25519_keys_of_another_length_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        AgreementKey(SECRET).agree(bytes([9]) * size)


def test_x25519_keys_that_differ_in_the_ignored_bit_or_by_the_prime_are_the_same() -> None:
    public = AgreementKey(SECRET).public
    again = public[:31] + bytes([public[31] | 0x80])
    assert AgreementKey(SecretBytes(b"7" * 32)).agree(public).matches(AgreementKey(SecretBytes(b"7" * 32)).agree(again))
    assert keys.canonical_x25519((9).to_bytes(32, "little")) == keys.canonical_x25519((9 + P).to_bytes(32, "little"))
    assert keys.canonical_x25519(AgreementKey(SecretBytes(b"7" * 32)).public) != public
    assert keys.canonical_x25519(again) == public


def test_a_key_moved_by_the_point_of_order_2_agrees_on_the_same_secret_and_gives_other_masks() -> None:
    """It is another key, so that looking for copies does not find it; the names in each derivation keep masks apart."""
    alice, bob = (AgreementKey(SecretBytes(bytes([number]) * 32)) for number in (1, 2))
    prime = 2**255 - 19
    moved = pow(int.from_bytes(bob.public, "little"), -1, prime).to_bytes(32, "little")
    assert keys.canonical_x25519(moved) != keys.canonical_x25519(bob.public)
    agreed, copied = alice.agree(bob.public), alice.agree(moved)
    assert agreed.reveal() == copied.reveal()

    def mask_key(pair: tuple[str, str]) -> bytes:
        return keys.pairwise_stream_key(agreed, round_ctx=b"c" * 32, pair=pair, stream="update").reveal()

    assert mask_key(("alice", "bob")) != mask_key(("alice", "mallory"))


def test_the_masking_key_follows_from_the_masking_secret_alone() -> None:
    assert AgreementKey.for_masking(SECRET).public == AgreementKey.for_masking(SecretBytes(bytes(range(32)))).public
    assert AgreementKey.for_masking(SECRET).public != AgreementKey(SECRET).public


# --- Ed25519 ---


def _rfc_8032() -> Iterator[tuple[bytes, bytes, bytes, bytes]]:
    for line in (VECTORS / "asymmetric/Ed25519/sign.input").read_text().splitlines():
        private, public, message, signed, _ = line.split(":")
        yield bytes.fromhex(private)[:32], bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signed)[:64]


def test_signatures_are_the_1024_of_the_vectors_that_rfc_8032_quotes() -> None:
    cases = list(_rfc_8032())
    assert len(cases) == 1024
    for private, public, message, signature in cases:
        key = SigningKey(SecretBytes(private))
        assert key.public == public
        assert key.sign(message) == signature
        assert keys.verify(public, signature, message)
        assert not keys.verify(public, signature, message + b"!")


def test_rfc_8032_test_1_is_among_them() -> None:
    private, public, message, signature = next(_rfc_8032())
    assert private.hex() == "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    assert public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert message == b""
    assert signature.hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155")


@pytest.mark.parametrize("position", range(64))
def test_a_signature_with_one_wrong_byte_does_not_verify(position: int) -> None:
    key = signing_key("alice")
    signature = bytearray(key.sign(b"message"))
    signature[position] ^= 1
    assert not keys.verify(key.public, bytes(signature), b"message")


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_of_another_length_does_not_verify(size: int) -> None:
    key = signing_key("alice")
    assert not keys.verify(key.public, (key.sign(b"message") * 2)[:size], b"message")


def test_another_members_key_does_not_verify() -> None:
    assert not keys.verify(signing_key("bob").public, signing_key("alice").sign(b"message"), b"message")


Point = tuple[int, int]
D = -121665 * pow(121666, -1, P) % P


def add(one: Point, other: Point) -> Point:
    """The addition law of edwards25519, RFC 8032 section 5.1.4, in affine coordinates."""
    (x1, y1), (x2, y2) = one, other
    product_ = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product_, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - product_, -1, P)
    return x % P, y % P


def times(scalar: int, point: Point) -> Point:
    result: Point = (0, 1)
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point, scalar = add(point, point), scalar >> 1
    return result


def recovered(y: int) -> Point | None:
    """A point with this y, or None."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (x, y) if x * x % P == square else None


def small_order_points() -> set[Point]:
    """All points of order 1, 2, 4 and 8: any point times the prime order of the base point is one."""
    prime_order = 2**252 + 27742317777372353535851937790883648493
    found: set[Point] = set()
    y = 2
    while len(found) < 8:
        point = recovered(y)
        if point:
            torsion = times(prime_order, point)
            found |= {times(k, torsion) for k in range(8)}
        y += 1
    assert all(times(8, point) == (0, 1) for point in found)
    return found


def all_encodings(points: set[Point]) -> set[bytes]:
    """Every 32 bytes that some decoder reads as one of the points: y also unreduced, and both signs when x is 0."""
    found = set()
    for x, y in points:
        for unreduced in (y, y + P):
            if unreduced < 2**255:
                for sign in {x & 1} if x else {0, 1}:
                    found.add((unreduced | sign << 255).to_bytes(32, "little"))
    return found


def test_every_encoding_of_a_small_order_point_is_refused_as_identity_key() -> None:
    encodings = all_encodings(small_order_points())
    assert len(encodings) == 14  # eight points; y = 1 and y = -1 with a false sign; y = 0 and 1 plus p, each with both
    for encoding in encodings:
        assert not keys.is_safe_identity_key(encoding), encoding.hex()


def test_a_small_order_key_verifies_any_message_in_the_library_and_none_here() -> None:
    identity = (1).to_bytes(32, "little")
    signature = identity + bytes(32)  # R is the identity, S is 0: S*B = R + h*A whatever h is
    for message in (b"one", b"other"):
        Ed25519PublicKey.from_public_bytes(identity).verify(signature, message)  # does not raise
        assert not keys.verify(identity, signature, message)


@pytest.mark.parametrize("y", range(P, 2**255))
def test_encodings_that_are_not_canonical_are_refused(y: int) -> None:
    for sign in (0, 1):
        assert not keys.is_safe_identity_key((y | sign << 255).to_bytes(32, "little"))


def test_bytes_that_encode_no_point_are_refused() -> None:
    for y in range(2, 40):
        encoding = y.to_bytes(32, "little")
        assert keys.is_safe_identity_key(encoding) == (recovered(y) is not None)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_identity_keys_of_another_length_are_refused(size: int) -> None:
    assert not keys.is_safe_identity_key((signing_key("alice").public * 2)[:size])


def test_honest_identity_keys_are_safe() -> None:
    assert all(keys.is_safe_identity_key(signing_key(f"member {i}").public) for i in range(50))


# --- sealing ---


def test_what_is_sealed_opens_with_the_same_key_and_context_only() -> None:
    sealed = keys.seal(SECRET, b"n" * 12, b"two shares", b"context")
    assert keys.unseal(SECRET, sealed, b"context").reveal() == b"two shares"
    for key, data, context in (
        (SecretBytes(b"x" * 32), sealed, b"context"),
        (SECRET, sealed, b"other context"),
        (SECRET, sealed[:-1], b"context"),
        (SECRET, sealed + b"\0", b"context"),
    ):
        with pytest.raises(ValueError, match="do not authenticate"):
            keys.unseal(key, data, context)


@pytest.mark.parametrize("position", range(12 + 5 + 16))
def test_sealed_bytes_with_one_wrong_byte_do_not_open(position: int) -> None:
    sealed = bytearray(keys.seal(SECRET, b"n" * 12, b"share", b""))
    sealed[position] ^= 0x80
    with pytest.raises(ValueError, match="do not authenticate"):
        keys.unseal(SECRET, bytes(sealed), b"")


@pytest.mark.parametrize("size", [0, 11, 12, 27])
def test_sealed_bytes_that_are_too_short_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="too short"):
        keys.unseal(SECRET, bytes(size), b"")


def test_nothing_sealed_opens_to_nothing() -> None:
    """28 bytes are enough: a nonce and a tag."""
    sealed = keys.seal(SECRET, b"n" * 12, b"", b"context")
    assert len(sealed) == 28
    assert keys.unseal(SECRET, sealed, b"context").reveal() == b""


# --- AES ---

SP_800_38A_KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
SP_800_38A_PLAIN = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
SP_800_38A_ECB = bytes.fromhex(  # F.1.5, ECB-AES256.Encrypt
    "f3eed1bdb5d2a03c064b5a7e3db181f8591ccb10d410ed26dc5ba74a31362870"
    "b6ed21b99ca6f4f9f153e7b1beafed1d23304b7a39f9f3ff067d8d8f9e24ecc7"
)
SP_800_38A_CTR = bytes.fromhex(  # F.5.5, CTR-AES256.Encrypt
    "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
)


def _encrypted(mode: Any) -> bytes:
    return Cipher(algorithms.AES256(SP_800_38A_KEY), mode).encryptor().update(SP_800_38A_PLAIN)


def test_the_library_gives_the_vectors_of_sp_800_38a() -> None:
    assert _encrypted(modes.ECB()) == SP_800_38A_ECB
    assert _encrypted(modes.CTR(bytes(range(0xF0, 0x100)))) == SP_800_38A_CTR


def test_the_first_block_of_the_zero_keys_stream_is_test_case_14_of_the_gcm_specification() -> None:
    assert slow_masks.block(bytes(32), 0, 0).hex() == "cea7403d4d606b6e074ec5d3baf39d18"


# --- nothing secret is shown ---


def test_keys_show_the_start_of_their_public_half_only() -> None:
    private = hashlib.sha256(b"private").digest()
    for key in (SigningKey(SecretBytes(private)), AgreementKey(SecretBytes(private))):
        assert key.public.hex()[:16] in repr(key)
        assert private.hex()[:8] not in repr(key)
