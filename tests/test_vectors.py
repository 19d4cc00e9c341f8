"""This project's own vectors: written anew byte for byte, and checked against the code and against a slow reference."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.errors import PeerError, Phase
from privacy.secagg import keys, shamir
from privacy.secagg.fixed_point import Ring
from privacy.secagg.keys import AgreementKey, SigningKey
from privacy.secagg.merkle import merkle_verify
from privacy.secagg.messages import MaskedUpload, Receipt
from privacy.secret import SecretBytes
from tests.reference import slow_round
from tests.reference.slow_hybrid import HybridRound
from tests.reference.slow_primitives import ed25519_sign, gcm_seal, hkdf, x25519, x25519_public
from tests.reference.slow_round import Round
from tests.vectors import generate
from tests.vectors.bad import Staged, replayed
from tests.vectors.form import restored
from tests.vectors.rounds import ROUNDS, ReplaySource, said_in
from tests.worlds.lying_coordinator import as_told, before_the_result, completed
from tests.worlds.seeded import SeededRandom

HERE = Path(generate.__file__).parent


@cache
def vector(name: str) -> Any:
    return json.loads((HERE / f"{name}.json").read_text())


def cases(name: str, *, good: bool | None = None) -> list[Any]:
    found = [one for one in vector(name)["cases"] if good is None or one["case"].startswith("_bad_") != good]
    return [pytest.param(one, id=one["case"]) for one in found]


def test_the_generator_writes_the_same_bytes_again() -> None:
    for name, text in generate.files():
        assert (HERE / f"{name}.json").read_text() == text, f"{name}: run `make vectors`, or find out what has changed"


# --- rounds ---


@pytest.mark.parametrize("name", ROUNDS)
def test_a_round_is_played_again_from_what_was_drawn(name: str) -> None:
    said = said_in(replayed(vector(name)), ROUNDS[name][1])
    assert {key: vector(name)[key] for key in said} == said


@pytest.mark.parametrize("name", ROUNDS)
def test_a_round_is_what_the_slow_reference_computes(name: str) -> None:
    reference = HybridRound if vector(name)["plan"]["suite"] == 2 else Round
    said = reference(vector(name)).played()
    for key, value in said.items():
        assert vector(name)[key] == value, key


@pytest.mark.parametrize("name", ROUNDS)
def test_the_sum_of_a_round_is_the_sum_of_its_survivors(name: str) -> None:
    updates = [vector(name)["participants"][one]["update"] for one in vector(name)["survivors"]]
    assert vector(name)["sum"] == [sum(entries) for entries in zip(*updates, strict=True)]


# --- lies ---


@pytest.mark.parametrize("case", cases("round_bad_told_to_bob"))
def test_bob_answers_a_lie_with_its_error_and_with_nothing_else(case: Any) -> None:
    lie = vector("round_bad_told_to_bob")
    stage = Staged(vector(lie["transcript"]), Phase[case["phase"]])
    bob = stage.federation.participants[lie["to"]]
    if case["phase"] == "RESULT":
        bob.hear(stage.round.result.certificate)
        with pytest.raises(PeerError) as refusal:
            completed(bob.participant, restored(case["told"]), before_the_result(stage.federation))
        assert refusal.value.code == case["error"]
        return
    assert bob.hear(as_told(restored(case["told"]))) == []
    assert bob.refusals[-1].code == case["error"]
    assert bob.hear(stage.round.outbox(lie["to"])), "it goes on as if the lie had not been told"


@pytest.mark.parametrize("case", cases("round_bad_said_by_carol"))
def test_the_coordinator_answers_a_lie_with_its_error_and_takes_nothing_in(case: Any) -> None:
    lie = vector("round_bad_said_by_carol")
    stage = Staged(vector(lie["transcript"]), Phase[case["phase"]])
    said = restored(case["said"])
    message = MaskedUpload(said, bytes.fromhex(case["masked"])) if isinstance(said, Receipt) else said
    with pytest.raises(PeerError) as refusal:
        stage.round.receive(message)
    assert refusal.value.code == case["error"]
    assert lie["from"] not in stage.round.answered()


# --- parts ---


@pytest.mark.parametrize("case", cases("shares", good=True))
def test_shares_are_dealt_and_rebuilt(case: Any) -> None:
    secret, dealt = bytes.fromhex(case["secret"]), {int(x): bytes.fromhex(y) for x, y in case["shares"].items()}
    threshold = int(case["case"].split()[0])
    found = shamir.split(
        SecretBytes(secret), threshold=threshold, points=list(dealt), random=ReplaySource(bytes.fromhex(case["drawn"]))
    )
    assert {x: share.reveal() for x, share in found.items()} == dealt
    drawn = slow_round.Drawn(bytes.fromhex(case["drawn"]))
    assert slow_round.split(secret, threshold, list(dealt), drawn) == dealt
    some = dict(list(dealt.items())[:threshold])
    assert slow_round.combine(some) == secret
    assert shamir.combine(list(some.values()), shamir.lagrange_at_zero(list(some))).reveal() == secret


@pytest.mark.parametrize("case", cases("shares", good=False))
def test_bad_shares_do_not_rebuild(case: Any) -> None:
    found = {int(x): bytes.fromhex(y) for x, y in case["shares"].items()}
    with pytest.raises(ValueError, match=r"share|points|secret"):
        shamir.combine(list(found.values()), shamir.lagrange_at_zero(list(found)))


@pytest.mark.parametrize("case", cases("proofs"))
def test_a_proof_verifies_exactly_if_it_is_good(case: Any) -> None:
    proof = [bytes.fromhex(one) for one in case["proof"]]
    verified = merkle_verify(
        bytes.fromhex(case["leaf"]), case["index"], case["size"], proof, bytes.fromhex(case["root"])
    )
    assert verified == (not case["case"].startswith("_bad_"))


@pytest.mark.parametrize("case", cases("lanes"))
def test_words_hold_their_entries_and_nothing_else_exactly_if_they_are_good(case: Any) -> None:
    ring, entries = Ring(bits=64, lane_bits=case["lane_bits"]), case["entries"]
    words = np.frombuffer(bytes.fromhex(case["words"]), dtype="<u8")
    good = not case["case"].startswith("_bad_")
    assert (ring.count_stray(words, len(entries)) == 0) == good
    packed = slow_round.packed(entries, case["lane_bits"])
    assert ([int(word) for word in words] == packed) == good
    assert ring.decode(words, len(entries)).tolist() == entries or "behind the last" in case["case"]


@pytest.mark.parametrize("case", cases("keys_bad"))
def test_a_bad_key_is_refused(case: Any) -> None:
    if "identity_key" in case:
        assert not keys.is_safe_identity_key(bytes.fromhex(case["identity_key"]))
        return
    with pytest.raises(ValueError, match="computing shared key"):
        AgreementKey(SecretBytes(b"\1" * 32)).agree(bytes.fromhex(case["agreement_key"]))


# --- the reference's own primitives ---


@pytest.mark.parametrize("number", range(3))
def test_the_references_primitives_agree_with_the_library_which_has_the_rfcs_vectors(number: int) -> None:
    """Those vectors are in tests/privacy/test_secagg_keys.py."""
    one, other, nonce = (SeededRandom(f"{number}").token_bytes(count) for count in (32, 32, 12))
    mine = AgreementKey(SecretBytes(one))
    assert x25519_public(one) == mine.public
    assert x25519(one, x25519_public(other)) == mine.agree(x25519_public(other)).reveal()
    message = bytes(number * 20)
    assert ed25519_sign(one, message) == SigningKey(SecretBytes(one)).sign(message)
    label, parts = b"a label", (b"x", b"")
    info = keys.framed(label, *parts)
    for length in (32, 64):
        expected = keys.derive(SecretBytes(one), salt=other, label=label, parts=parts, length=length).reveal()
        assert hkdf(one, salt=other, info=info, length=length) == expected
    assert gcm_seal(one, nonce, message, other) == AESGCM(one).encrypt(nonce, message, other)
