"""Suite 2: both parts are needed, either masking secret rebuilds a pairwise seed, and nothing changed is taken."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cryptography_vectors
import pytest

from privacy.secagg import hashes, kem, keys, suites
from privacy.secagg.kem import KemKey, KemPublicKey
from privacy.secagg.keys import AgreementKey
from privacy.secagg.messages import SealedPair
from privacy.secagg.pairing import Pairing
from privacy.secagg.suites import ClassicalLink, HybridKeys, HybridLink, channel_keys, masking_keys, public_parts
from privacy.secret import SecretBytes
from tests.reference import hybrid_vectors
from tests.reference.hybrid_vectors import ROUND_CTX, channel, opened_pair, opened_share, pairing, secret
from tests.worlds.federation import SeededSource

KATS = Path(cryptography_vectors.__file__).parent / "asymmetric" / "MLKEM" / "kat_MLKEM_768.rsp"
VECTORS = hybrid_vectors.read()
LOW_ORDER = bytes(32)


def kats() -> Iterator[dict[str, bytes]]:
    record: dict[str, bytes] = {}
    with KATS.open() as lines:
        for line in lines:
            name, equals, value = line.strip().partition(" = ")
            if name == "ss":
                yield {**record, name: bytes.fromhex(value)}
                record = {}
            elif equals and name != "count":
                record[name] = bytes.fromhex(value)


def fresh(seed: str = "x") -> SeededSource:
    return SeededSource(seed)


def hybrid(name: str) -> HybridKeys:
    made = masking_keys(2, secret(f"masking {name}"))
    assert isinstance(made, HybridKeys)
    return made


# --- ML-KEM-768 ---


@pytest.mark.parametrize("kat", list(islice(kats(), 5)), ids=range(5))
def test_ml_kem_gives_the_known_answers_also_for_a_ciphertext_that_it_rejects_silently(kat: dict[str, bytes]) -> None:
    key = KemKey(SecretBytes(kat["d"] + kat["z"]))
    assert key.public == kat["pk"]
    assert key.decapsulate(kat["ct"]).reveal() == kat["ss"]
    assert key.decapsulate(kat["ct_n"]).reveal() == kat["ss_n"]


def test_a_kem_key_shows_nothing_of_its_private_part() -> None:
    key = KemKey(SecretBytes(b"\x5a" * 64))
    assert "5a5a" not in repr(key)
    assert len(key.public) == kem.PUBLIC_BYTES


# --- vectors ---


def test_the_committed_vectors_open() -> None:
    for name in ("alice", "bob"):
        for kind, make in (("masking", masking_keys), ("channel", channel_keys)):
            assert make(2, SecretBytes(VECTORS[f"{name}_{kind}_secret"])).public == VECTORS[f"{name}_{kind}_public"]
    assert opened_pair(VECTORS["sealed_pair"], VECTORS["pair_commitment"]) == VECTORS["pairwise_seed"]
    assert opened_share(VECTORS["sealed_share"]) == VECTORS["share"]


@pytest.mark.parametrize("name", [name for name in VECTORS if name.startswith("_bad_")])
def test_the_bad_vectors_are_refused(name: str) -> None:
    changed = {**VECTORS, name.removeprefix("_bad_").rpartition("_")[0]: VECTORS[name]}
    if name == "_bad_pair_commitment":
        changed["pair_commitment"] = VECTORS[name]
    with pytest.raises(ValueError):  # noqa: PT011  # whichever part notices
        _open_all(changed)


def _open_all(vectors: dict[str, bytes]) -> None:
    opened_pair(vectors["sealed_pair"], vectors["pair_commitment"])
    opened_share(vectors["sealed_share"])


# --- the pairwise seed ---


def test_both_sides_and_whoever_rebuilds_either_masking_secret_get_the_same_seed() -> None:
    alice, bob = pairing("alice", "bob"), pairing("bob", "alice")
    given = alice.seal_for("bob", fresh())
    assert bob.seal_for("alice", fresh()) == SealedPair(), "the higher id gives nothing"
    seed = alice.seed("bob", given)
    assert seed.matches(bob.seed("alice", given))


def test_a_pairwise_seed_changes_with_either_component() -> None:
    """An attacker who knows all of X25519, or all of ML-KEM, is left with an unknown input."""
    given = pairing("alice", "bob").seal_for("bob", fresh())
    seed = pairing("alice", "bob").seed("bob", given)
    link = pairing("alice", "bob").links["bob"]
    assert isinstance(link, HybridLink)
    other_x25519 = HybridLink(
        AgreementKey(secret("another")).agree(hybrid("bob").agreement.public), link.mine, link.theirs
    )
    assert not seed.matches(_with_link("alice", "bob", other_x25519).seed("bob", given))
    other = Pairing("alice", ROUND_CTX, secret("another"), {"bob": link})  # the same X25519, another pair secret
    assert not seed.matches(other.seed("bob", other.seal_for("bob", fresh())))


def _with_link(me: str, peer: str, link: suites.Link) -> Pairing:
    return Pairing(me, ROUND_CTX, secret(f"masking {me}"), {peer: link})


def test_a_pair_secret_opens_only_with_both_private_parts() -> None:
    given = pairing("alice", "bob").seal_for("bob", fresh())
    link = pairing("bob", "alice").links["alice"]
    assert isinstance(link, HybridLink)
    without_kem = HybridLink(link.agreed, KemKey(SecretBytes(b"\0" * 64)), link.theirs)
    without_x25519 = HybridLink(SecretBytes(bytes(32)), link.mine, link.theirs)
    for crippled in (without_kem, without_x25519):
        with pytest.raises(ValueError, match="authenticate"):
            _with_link("bob", "alice", crippled).seed("alice", given)


def test_a_lower_id_that_seals_another_pair_secret_than_its_own_is_found_out_from_its_side() -> None:
    """The higher id cannot know; who rebuilds the lower's masking secret does, and removes no wrong mask."""
    honest = pairing("alice", "bob")
    liar = Pairing("alice", ROUND_CTX, secret("another"), honest.links)
    given = liar.seal_for("bob", fresh())
    assert pairing("bob", "alice").seed("alice", given)
    with pytest.raises(ValueError, match="committed to"):
        honest.seed("bob", given)


def test_pair_secrets_differ_by_peer_and_round() -> None:
    link = pairing("alice", "bob").links["bob"]
    found = {
        Pairing("alice", round_ctx, secret("masking alice"), {peer: link})._own_secret(peer).reveal()
        for peer in ("bob", "carol")
        for round_ctx in (ROUND_CTX, b"\1" * 32)
    }
    assert len(found) == 4


# --- sealing ---


def test_sealing_twice_gives_other_keys_and_each_opens() -> None:
    route = suites.Route(keys.LABEL_CHANNEL, ROUND_CTX, "alice", "bob")
    link = channel("alice", "bob")
    boxes = [suites.seal(link, route, b"same", hybrid_vectors.FixedNonce()) for _ in range(2)]
    assert boxes[0] != boxes[1], "the encapsulation is fresh, also under one nonce"
    assert [opened_share(box) for box in boxes] == [b"same", b"same"]


def test_a_sealed_share_opens_for_no_other_way_purpose_or_round() -> None:
    box = VECTORS["sealed_share"]
    for other in ({"sender": "bob", "recipient": "alice"}, {"sender": "carol"}, {"label": keys.LABEL_PAIR_CHANNEL}):
        with pytest.raises(ValueError, match="authenticate"):
            opened_share(box, **other)
    with pytest.raises(ValueError, match="authenticate"):
        suites.unseal(channel("bob", "alice"), suites.Route(keys.LABEL_CHANNEL, b"\1" * 32, "alice", "bob"), box)


def test_the_ciphertext_enters_the_key_and_not_only_its_secret() -> None:
    route = suites.Route(keys.LABEL_CHANNEL, ROUND_CTX, "alice", "bob")
    both = SecretBytes(bytes(64))
    assert not route.key(both, b"one").matches(route.key(both, b"two"))


def test_suite_1_seals_as_before_there_was_a_suite_2() -> None:
    agreed = SecretBytes(b"\7" * 32)
    route = suites.Route(keys.LABEL_CHANNEL, ROUND_CTX, "alice", "bob")
    key = keys.channel_key(agreed, round_ctx=ROUND_CTX, sender="alice", recipient="bob")
    aad = keys.framed(hashes.LABEL_SEAL, ROUND_CTX, b"alice", b"bob")
    boxed = suites.seal(ClassicalLink(agreed), route, b"shares", hybrid_vectors.FixedNonce())
    assert boxed == keys.seal(key, bytes(12), b"shares", aad)


# --- keys ---


def test_the_private_parts_come_from_one_secret_and_do_not_show_each_other() -> None:
    for make in (masking_keys, channel_keys):
        made = make(2, secret("one"))
        assert isinstance(made, HybridKeys)
        assert made.agreement.public != AgreementKey(secret("one")).public, "X25519's private key is not the secret"
        assert make(2, secret("one")).public == made.public
        assert len(made.public) == suites.PUBLIC_KEY_BYTES[2]
    assert masking_keys(2, secret("one")).public != channel_keys(2, secret("one")).public
    assert masking_keys(1, secret("one")).public == masking_keys(2, secret("one")).public[:32]


BAD_KEYS = {
    "a low-order X25519 part": LOW_ORDER + hybrid("bob").kem.public,
    "an ML-KEM part with coefficients that are not reduced": hybrid("bob").agreement.public + b"\xff" * 1184,
    "no ML-KEM part": hybrid("bob").agreement.public,
    "a truncated ML-KEM part": hybrid("bob").public[:-1],
    "a key that is too long": hybrid("bob").public + b"\0",
    "an empty key": b"",
}


@pytest.mark.parametrize("sentence", BAD_KEYS)
def test_keys_that_are_refused_in_suite_2(sentence: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the library's wording
        hybrid("alice").link(BAD_KEYS[sentence])


def test_a_key_of_suite_2_is_refused_in_suite_1() -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the library's wording
        masking_keys(1, secret("one")).link(hybrid("bob").public)


def test_equal_parts_of_keys_are_found_equal_by_part() -> None:
    public = hybrid("bob").public
    disguised = public[:31] + bytes([public[31] ^ 0x80]) + public[32:]
    assert public_parts(2, public) == public_parts(2, disguised)
    assert public_parts(1, public[:32]) == public_parts(2, public)[:1]
    for suite, wrong in ((1, public), (2, public[:32]), (2, public[:-1])):
        with pytest.raises(ValueError, match=f"no key of suite {suite}"):
            public_parts(suite, wrong)  # type: ignore[arg-type]  # a literal


def test_a_public_key_must_be_canonical() -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the library's wording
        KemPublicKey(b"\xff" * kem.PUBLIC_BYTES)
