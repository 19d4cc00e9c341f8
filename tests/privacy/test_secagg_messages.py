"""The byte strings that are signed and hashed mean one thing each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.secagg import hashes, merkle
from privacy.secagg import messages as m
from privacy.secagg.keys import framed, number
from privacy.secagg.suites import PUBLIC_KEY_BYTES

AT = m.Position(plan_hash=b"p" * 32, round=3, attempt=2)
OFFER = m.AttemptOffer(AT, previous_transcript=b"t" * 32, adapter_hash=b"a" * 32)
CTX = b"c" * 32


def leaf_hashes(count: int) -> list[bytes]:
    return [hashlib.sha256(b"leaf %d" % i).digest() for i in range(count)]


def root_of(leaves: list[bytes]) -> bytes:
    return merkle.MerkleTree.over(leaves).root


def advertisement(sender: str) -> m.Advertisement:
    return m.Advertisement(OFFER, sender, b"m" * 32, b"k" * 32, b"n" * 16)


# --- framing ---


def unframed(data: bytes) -> Iterator[bytes]:
    while data:
        length = int.from_bytes(data[:4], "big")
        yield data[4 : 4 + length]
        data = data[4 + length :]


@given(st.lists(st.binary(max_size=20)))
def test_a_framed_string_can_be_taken_apart_in_one_way(fields: list[bytes]) -> None:
    assert list(unframed(framed(*fields))) == fields


@given(st.lists(st.binary(max_size=6)), st.lists(st.binary(max_size=6)))
def test_two_lists_have_the_same_frame_only_if_they_are_the_same(one: list[bytes], other: list[bytes]) -> None:
    assert (framed(*one) == framed(*other)) == (one == other)


def test_fields_that_run_together_are_told_apart() -> None:
    lists = [(), (b"",), (b"", b""), (b"ab", b"c"), (b"a", b"bc"), (b"abc",), (framed(b"abc"),)]
    assert len({framed(*fields) for fields in lists}) == len(lists)


@pytest.mark.parametrize("value", [-1, 2**64])
def test_numbers_that_do_not_fit_eight_bytes_are_refused(value: int) -> None:
    with pytest.raises(OverflowError):
        number(value)


# --- sets and contexts ---


def test_the_hash_of_a_set_does_not_depend_on_its_order() -> None:
    assert hashes.set_hash(["bob", "alice"]) == hashes.set_hash(("alice", "bob"))
    sets = [[], ["alice"], ["alice", "bob"], ["alicebob"], ["alice", "bob", "carol"]]
    assert len({hashes.set_hash(one) for one in sets}) == len(sets)


def test_every_input_of_an_attempt_changes_its_context() -> None:
    offers = [
        OFFER,
        replace(OFFER, position=replace(AT, plan_hash=b"q" * 32)),
        replace(OFFER, position=replace(AT, round=4)),
        replace(OFFER, position=replace(AT, attempt=3)),
        replace(OFFER, position=replace(AT, round=2, attempt=3)),
        replace(OFFER, previous_transcript=b"u" * 32),
        replace(OFFER, adapter_hash=b"b" * 32),
    ]
    assert len({offer.context for offer in offers}) == len(offers)


def test_the_round_context_is_that_of_the_set_of_bodies_not_of_their_order_or_signatures() -> None:
    alice, bob = advertisement("alice"), advertisement("bob")
    context = m.round_context(OFFER, [alice, bob])
    assert context == m.round_context(OFFER, [replace(bob, signature=b"s" * 64), alice])


def test_anything_else_changes_the_round_context() -> None:
    alice, bob, carol = (advertisement(name) for name in ("alice", "bob", "carol"))
    lists = [
        (OFFER, [alice, bob]),
        (OFFER, [alice, bob, carol]),
        (OFFER, [alice, carol]),
        (OFFER, [alice, replace(bob, masking_key=b"x" * 32)]),
        (OFFER, [alice, replace(bob, channel_key=b"x" * 32)]),
        (OFFER, [alice, replace(bob, nonce=b"x" * 16)]),
        (replace(OFFER, adapter_hash=b"x" * 32), [alice, bob]),
    ]
    assert len({m.round_context(offer, bodies) for offer, bodies in lists}) == len(lists)


# --- signed strings ---

RECEIPT = m.Receipt(AT, "alice", u2_hash=b"u" * 32, masked_hash=b"h" * 32, length=400)
COMPLAINT = m.Complaint(AT, "alice", dealer="bob", rule="a bundle does not open")
LEAVES = tuple(m.ShareLeaf(name, b"c" * 32, b"1" * 32, b"2" * 32) for name in ("alice", "bob"))
BUNDLE = m.ShareBundle(AT, "alice", LEAVES, (b"", b"sealed"), b"d" * 32)
SURVIVORS = m.SurvivorSet(b"u" * 32, (("alice", b"h" * 32), ("bob", b"i" * 32)))


def bundle_with(leaf: m.ShareLeaf) -> m.ShareBundle:
    return replace(BUNDLE, leaves=(LEAVES[0], leaf))


VARIANTS: dict[str, list[Callable[[], bytes]]] = {
    "receipt": [
        lambda: RECEIPT.signed_bytes(1, CTX),
        lambda: RECEIPT.signed_bytes(2, CTX),
        lambda: RECEIPT.signed_bytes(1, b"d" * 32),
        lambda: replace(RECEIPT, position=replace(AT, round=4)).signed_bytes(1, CTX),
        lambda: replace(RECEIPT, position=replace(AT, attempt=3)).signed_bytes(1, CTX),
        lambda: replace(RECEIPT, position=replace(AT, plan_hash=b"q" * 32)).signed_bytes(1, CTX),
        lambda: replace(RECEIPT, sender="bob").signed_bytes(1, CTX),
        lambda: replace(RECEIPT, u2_hash=b"v" * 32).signed_bytes(1, CTX),
        lambda: replace(RECEIPT, masked_hash=b"v" * 32).signed_bytes(1, CTX),
        lambda: replace(RECEIPT, length=401).signed_bytes(1, CTX),
    ],
    "complaint": [
        lambda: COMPLAINT.signed_bytes(1, CTX),
        lambda: replace(COMPLAINT, dealer="carol").signed_bytes(1, CTX),
        lambda: replace(COMPLAINT, rule="another").signed_bytes(1, CTX),
    ],
    "share bundle": [
        lambda: BUNDLE.signed_bytes(1, CTX),
        lambda: replace(BUNDLE, seed_commitment=b"e" * 32).signed_bytes(1, CTX),
        lambda: replace(BUNDLE, leaves=LEAVES[::-1]).signed_bytes(1, CTX),
        lambda: bundle_with(replace(LEAVES[1], ciphertext_hash=b"x" * 32)).signed_bytes(1, CTX),
        lambda: bundle_with(replace(LEAVES[1], masking_share_hash=b"x" * 32)).signed_bytes(1, CTX),
        lambda: bundle_with(replace(LEAVES[1], seed_share_hash=b"x" * 32)).signed_bytes(1, CTX),
        lambda: bundle_with(replace(LEAVES[1], recipient="carol")).signed_bytes(1, CTX),
    ],
    "survivors": [
        lambda: SURVIVORS.signed_bytes(1, AT, "alice", CTX),
        lambda: SURVIVORS.signed_bytes(1, AT, "bob", CTX),
        lambda: SURVIVORS.signed_bytes(1, replace(AT, attempt=3), "alice", CTX),
        lambda: SURVIVORS.signed_bytes(1, AT, "alice", b"d" * 32),
        lambda: replace(SURVIVORS, u2_hash=b"v" * 32).signed_bytes(1, AT, "alice", CTX),
        lambda: replace(SURVIVORS, members=SURVIVORS.members[:1]).signed_bytes(1, AT, "alice", CTX),
        lambda: replace(SURVIVORS, members=(("alice", b"i" * 32), ("bob", b"h" * 32))).signed_bytes(
            1, AT, "alice", CTX
        ),
    ],
    "advertisement": [
        lambda: advertisement("alice").signed_bytes(1),
        lambda: advertisement("bob").signed_bytes(1),
        lambda: replace(advertisement("alice"), masking_key=b"k" * 32, channel_key=b"m" * 32).signed_bytes(1),
        lambda: replace(advertisement("alice"), nonce=b"o" * 16).signed_bytes(1),
        lambda: replace(advertisement("alice"), offer=replace(OFFER, adapter_hash=b"x" * 32)).signed_bytes(1),
        lambda: replace(advertisement("alice"), offer=replace(OFFER, previous_transcript=b"x" * 32)).signed_bytes(1),
    ],
}


def test_no_two_different_messages_have_the_same_signed_bytes() -> None:
    signed = [variant() for variants in VARIANTS.values() for variant in variants]
    assert len(set(signed)) == len(signed)


def test_signed_bytes_never_include_the_signature() -> None:
    assert replace(RECEIPT, signature=b"s" * 64).signed_bytes(1, CTX) == RECEIPT.signed_bytes(1, CTX)
    assert replace(advertisement("alice"), signature=b"s" * 64).body == advertisement("alice").body


def test_every_label_is_used_for_one_thing() -> None:
    labels = [value for name, value in vars(hashes).items() if name.startswith("LABEL_")]
    assert len(labels) == len(set(labels)) >= 18
    assert all(label.startswith(b"onlysum/1/") for label in labels)


# --- hashes of shares and seeds ---


def test_a_share_hash_names_its_kind_round_dealer_holder_and_share() -> None:
    found = {
        hashes.share_hash(kind, ctx, dealer, holder, share)
        for kind in (b"masking", b"seed")
        for ctx in (CTX, b"d" * 32)
        for dealer, holder in (("alice", "bob"), ("bob", "alice"), ("aliceb", "ob"))
        for share in (b"1" * 33, b"2" * 33)
    }
    assert len(found) == 2 * 2 * 3 * 2


def test_a_seed_commitment_names_its_round_participant_and_seed() -> None:
    found = {hashes.seed_commitment(ctx, who, seed) for ctx in (b"1", b"2") for who in "ab" for seed in (b"x", b"y")}
    assert len(found) == 8


# --- Merkle trees ---


@pytest.mark.parametrize("size", range(1, 34))
def test_every_leaf_proves_its_place(size: int) -> None:
    leaves = leaf_hashes(size)
    root = root_of(leaves)
    for index in range(size):
        assert merkle.merkle_verify(leaves[index], index, size, merkle.MerkleTree.over(leaves).proof(index), root)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13])
def test_a_leaf_proves_no_other_place_and_no_other_size(size: int) -> None:
    leaves = leaf_hashes(size)
    root = root_of(leaves)
    for index in range(size):
        proof = merkle.MerkleTree.over(leaves).proof(index)
        accepted = [
            (place, total)
            for total in range(1, 20)
            for place in range(total)
            if merkle.merkle_verify(leaves[index], place, total, proof, root)
        ]
        assert (index, size) in accepted
        assert {place for place, total in accepted if total == size} == {index}


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 11])
def test_tampering_with_leaf_proof_or_root_fails(size: int) -> None:
    leaves, other = leaf_hashes(size), b"x" * 32
    root = root_of(leaves)
    for index in range(size):
        proof = merkle.MerkleTree.over(leaves).proof(index)
        assert not merkle.merkle_verify(other, index, size, proof, root)
        assert not merkle.merkle_verify(leaves[index], index, size, proof, other)
        assert not merkle.merkle_verify(leaves[index], index, size, (*proof, other), root)
        assert not merkle.merkle_verify(leaves[index], index, size, (*proof, b""), root)
        for i in range(len(proof)):
            changed = [*proof[:i], b"" if proof[i] else other, *proof[i + 1 :]]
            assert not merkle.merkle_verify(leaves[index], index, size, changed, root)
            assert not merkle.merkle_verify(leaves[index], index, size, [*proof[:i], other, *proof[i + 1 :]], root)
            assert not merkle.merkle_verify(leaves[index], index, size, [*proof[:i], *proof[i + 1 :]], root)


MISSHAPEN: dict[str, tuple[int, int, tuple[bytes, ...]]] = {  # index, size, proof
    "no sibling where there is one, on the left": (0, 2, (b"",)),
    "no sibling where there is one, on the right": (1, 2, (b"",)),
    "a proof that ends too early": (0, 2, ()),
    "a place beyond the tree": (1, 1, ()),
    "a place far beyond the tree": (6, 4, (b"", b"")),
    "a tree without leaves": (0, 0, ()),
}


@pytest.mark.parametrize(("index", "size", "proof"), MISSHAPEN.values(), ids=MISSHAPEN.keys())
def test_a_dealer_cannot_pass_a_leaf_off_as_the_root_with(index: int, size: int, proof: tuple[bytes, ...]) -> None:
    leaf = leaf_hashes(1)[0]
    assert not merkle.merkle_verify(leaf, index, size, proof, leaf)


def test_an_odd_node_has_no_sibling() -> None:
    leaf, invented, left = leaf_hashes(3)
    root = hashes.digest(hashes.LABEL_NODE, left, hashes.digest(hashes.LABEL_NODE, leaf, invented))
    assert not merkle.merkle_verify(leaf, 2, 3, (invented, left), root)
    assert merkle.merkle_verify(leaf, 2, 4, (invented, left), root)


def test_an_inner_node_is_no_leaf() -> None:
    leaves = leaf_hashes(4)
    inner = root_of(leaves[:2])
    pair = m.ShareLeaf("alice", *leaves[:3]).hash
    assert inner != hashes.digest(leaves[0], leaves[1])
    assert pair not in {inner, root_of(leaves[:3])}


def test_roots_of_different_lists_differ() -> None:
    lists = [leaf_hashes(size) for size in range(1, 10)] + [leaf_hashes(4)[::-1], [*leaf_hashes(3), leaf_hashes(3)[2]]]
    assert not any(root_of(one) == root_of(other) for one, other in combinations(lists, 2))


def test_a_bundles_root_is_over_its_leaves_in_order() -> None:
    assert BUNDLE.root == root_of([leaf.hash for leaf in LEAVES])
    dealt = m.DealtShare(AT, "alice", LEAVES[1], (LEAVES[0].hash,), b"sealed", BUNDLE.root, b"d" * 32, b"")
    assert dealt.signed_bytes(1, CTX) == BUNDLE.signed_bytes(1, CTX)


# --- transcripts ---


def test_the_transcript_follows_from_everything_that_was_agreed() -> None:
    certificate = m.RoundCertificate(AT, CTX, SURVIVORS, b"s" * 32, ())
    genesis = hashes.genesis_transcript(b"p" * 32)
    found = {
        certificate.transcript(genesis),
        certificate.transcript(hashes.genesis_transcript(b"q" * 32)),
        certificate.transcript(certificate.transcript(genesis)),
        replace(certificate, round_ctx=b"d" * 32).transcript(genesis),
        replace(certificate, sum_hash=b"t" * 32).transcript(genesis),
        replace(certificate, survivors=replace(SURVIVORS, u2_hash=b"v" * 32)).transcript(genesis),
        replace(certificate, survivors=replace(SURVIVORS, members=SURVIVORS.members[:1])).transcript(genesis),
    }
    assert len(found) == 7


def test_the_sealed_size_is_nonce_two_shares_and_tag() -> None:
    assert m.SEALED_BYTES == {1: 12 + 2 * 33 + 16, 2: 1088 + 12 + 2 * 33 + 16}
    assert PUBLIC_KEY_BYTES == {1: 32, 2: 32 + 1184}
    assert m.SEALED_PAIR_BYTES == {1: 0, 2: 1088 + 12 + 32 + 16}
