"""What a dealer sealed opens to two shares below p that match what it signed, or to nothing at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from privacy.secagg import dealing, shamir
from privacy.secagg.dealing import Channels, Dealer, HeldShare, open_dealt, share_hashes
from privacy.secagg.messages import DealtShare, Position, ShareBundle
from privacy.secagg.pairing import Pairing
from privacy.secagg.shamir import SHARE_BYTES
from privacy.secagg.suites import Link, Suite, SuiteKeys, channel_keys, masking_keys
from tests.reference.hybrid_vectors import ROUND_CTX, secret
from tests.worlds.federation import SeededSource
from tests.worlds.plans import make_plan

NAMES = ("alice", "bob", "carol", "dave", "erin")
P = shamir.FIELD.to_bytes(SHARE_BYTES, "big")
LAST = (shamir.FIELD - 1).to_bytes(SHARE_BYTES, "big")


def links_of(make: Callable[[str], SuiteKeys], me: str) -> dict[str, Link]:
    return {name: make(me).link(make(name).public) for name in NAMES if name != me}


def channels(me: str, suite: Suite = 1) -> Channels:
    return Channels(me, ROUND_CTX, links_of(lambda name: channel_keys(suite, secret(f"channel {name}")), me))


def dealt(suite: Suite = 1) -> tuple[ShareBundle, HeldShare]:
    """Alice deals to all five."""
    plan, _ = make_plan(n=5, f=1, suite=suite)
    masking = links_of(lambda name: masking_keys(suite, secret(f"masking {name}")), "alice")
    pairing = Pairing("alice", ROUND_CTX, secret("masking alice"), masking)
    at = Position(plan.hash, 1, 1)
    dealer = Dealer(plan.parameters(), at, channels("alice", suite), pairing, SeededSource("dealing"))
    return dealer.deal(secret("seed"), NAMES)


def passed_on(bundle: ShareBundle, holder: str) -> DealtShare:
    index = NAMES.index(holder)
    return DealtShare(
        position=bundle.position,
        dealer=bundle.sender,
        leaf=bundle.leaves[index],
        proof=(),
        sealed=bundle.sealed[index],
        root=b"",
        seed_commitment=bundle.seed_commitment,
        signature=b"",
        sealed_pair=bundle.pair_at(index).sealed,
    )


@pytest.mark.parametrize("suite", [1, 2])
def test_any_threshold_of_holders_rebuild_both_secrets_from_what_they_opened(suite: Suite) -> None:
    bundle, kept = dealt(suite)
    opened = [open_dealt(channels(name, suite), passed_on(bundle, name)) for name in ("carol", "dave", "erin")]
    coefficients = shamir.lagrange_at_zero([1, 3, 4, 5])
    held = [kept, *opened]
    assert shamir.combine([one.masking_share for one in held], coefficients).matches(secret("masking alice"))
    assert shamir.combine([one.seed_share for one in held], coefficients).matches(secret("seed"))


def test_a_bundle_has_a_leaf_for_everybody_and_nothing_sealed_for_the_dealer() -> None:
    bundle, kept = dealt(2)
    assert [leaf.recipient for leaf in bundle.leaves] == list(NAMES)
    assert [bool(box) for box in bundle.sealed] == [False, True, True, True, True]
    assert [bool(box) for box in bundle.sealed_pairs] == [False, True, True, True, True]
    assert (bundle.leaves[0].masking_share_hash, bundle.leaves[0].seed_share_hash) == share_hashes(
        ROUND_CTX, "alice", kept
    )
    assert dealt(1)[0].sealed_pairs == ()


def lying(plaintext: bytes, *, committed: tuple[bytes, bytes]) -> DealtShare:
    """Alice seals a plaintext for bob and commits to a pair of shares."""
    bundle, _ = dealt()
    one = passed_on(bundle, "bob")
    hashes = share_hashes(ROUND_CTX, "bob", HeldShare("alice", *committed))
    leaf = replace(one.leaf, masking_share_hash=hashes[0], seed_share_hash=hashes[1])
    return replace(one, leaf=leaf, sealed=channels("alice").seal("bob", plaintext, SeededSource("lie")))


def test_the_largest_share_is_taken() -> None:
    assert open_dealt(channels("bob"), lying(LAST + LAST, committed=(LAST, LAST))).seed_share == LAST


LIES = {
    "a share of the masking secret that equals p": (P + LAST, (P, LAST), "below p"),
    "a share of the seed that equals p": (LAST + P, (LAST, P), "below p"),
    "a byte too few": (LAST + LAST[:-1], (LAST, LAST[:-1]), "no pair of shares"),
    "a byte too many": (LAST + LAST + b"\0", (LAST, LAST + b"\0"), "no pair of shares"),
    "another share of the masking secret than was signed": (bytes(33) + LAST, (LAST, LAST), "committed to"),
    "another share of the seed than was signed": (LAST + bytes(33), (LAST, LAST), "committed to"),
    "both shares in each other's place": (LAST + bytes(33), (bytes(33), LAST), "committed to"),
}


@pytest.mark.parametrize("sentence", LIES)
def test_what_a_dealer_signed_and_is_no_pair_of_shares_does_not_open(sentence: str) -> None:
    plaintext, committed, rule = LIES[sentence]
    with pytest.raises(ValueError, match=rule):
        open_dealt(channels("bob"), lying(plaintext, committed=committed))


@pytest.mark.parametrize("suite", [1, 2])
def test_a_share_opens_for_its_holder_alone(suite: Suite) -> None:
    bundle, _ = dealt(suite)
    with pytest.raises(ValueError, match="authenticate"):
        open_dealt(channels("carol", suite), passed_on(bundle, "bob"))


def test_a_held_share_shows_only_its_dealer() -> None:
    assert repr(dealing.HeldShare("alice", b"\x5a" * 33, b"\x5b" * 33)) == "HeldShare(dealer='alice', <redacted>)"
