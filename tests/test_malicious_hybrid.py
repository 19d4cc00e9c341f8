"""The catalogue for suite 2: lies about KEM keys, ciphertexts and pair secrets, by coordinator and by participants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from participant.protocol.round import hear
from participant.protocol.states import Idle, Ready, Shared
from participant.protocol.step import Message
from participant.protocol.transitions import Told
from privacy.errors import Phase, RoundAborted
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg import merkle
from privacy.secagg.messages import (
    SEALED_BYTES,
    SEALED_PAIR_BYTES,
    Advertisement,
    Complaint,
    DealtShare,
    HolderShares,
    ShareBundle,
)
from privacy.secagg.pairing import Pairing
from privacy.secret import SecretBytes
from tests.worlds import lying_coordinator, lying_participant
from tests.worlds.expect import expect
from tests.worlds.federation import Fault, FaultKind, Federation, SeededSource
from tests.worlds.lying_dealer import LIES, consistent, dealing, flipped
from tests.worlds.lying_participant import OFFENDER, signed
from tests.worlds.plans import signing_key

VICTIM = lying_coordinator.VICTIM  # bob: between alice, of a lower id, and carol, of a higher
X25519 = 32


# --- ADVERTISE_KEYS: keys ---


def with_parts(one: Advertisement, field: str, *, x25519: bytes = b"", kem: bytes = b"") -> Advertisement:
    """Return an advertisement with a part of a key in another's place."""
    key = getattr(one, field)
    changes: dict[str, Any] = {field: (x25519 or key[:X25519]) + (kem or key[X25519:])}
    return replace(one, **changes)


KEYS: dict[str, Callable[[Advertisement], Advertisement]] = {
    "a masking key whose X25519 part is of low order": lambda a: with_parts(a, "masking_key", x25519=bytes(32)),
    "a channel key whose X25519 part is of low order": lambda a: with_parts(a, "channel_key", x25519=bytes(32)),
    "a masking key whose ML-KEM part is not reduced": lambda a: with_parts(a, "masking_key", kem=b"\xff" * 1184),
    "a channel key whose ML-KEM part is not reduced": lambda a: with_parts(a, "channel_key", kem=b"\xff" * 1184),
    "one ML-KEM part for masking and channel": lambda a: with_parts(a, "masking_key", kem=a.channel_key[X25519:]),
    "one X25519 part for masking and channel": lambda a: with_parts(a, "masking_key", x25519=a.channel_key[:X25519]),
    "a masking key of suite 1": lambda a: replace(a, masking_key=a.masking_key[:X25519]),
    "a channel key of suite 1": lambda a: replace(a, channel_key=a.channel_key[:X25519]),
    "a masking key that is a byte short": lambda a: replace(a, masking_key=a.masking_key[:-1]),
    "a channel key that is a byte long": lambda a: replace(a, channel_key=a.channel_key + b"\0"),
}


@pytest.mark.parametrize("sentence", KEYS)
def test_malicious_hybrid_keys_are_refused_by_the_coordinator(sentence: str) -> None:
    stage = lying_participant.Stage(Phase.ADVERTISE_KEYS, suite=2)
    assert stage.refusal(signed(KEYS[sentence](stage.honest))).code == "E-ROUND-KEYS"
    stage.others_go_on()


@pytest.mark.parametrize("sentence", KEYS)
def test_malicious_hybrid_keys_of_a_colluder_are_refused_by_participants(sentence: str) -> None:
    stage = lying_coordinator.Stage(Phase.SHARE_KEYS, suite=2)
    *honest, erin = stage.told
    refusal = stage.lie((*honest, lying_coordinator.signed_by("erin", KEYS[sentence](erin))))
    assert refusal.code == "E-ROUND-KEYS"
    assert ("of erin is" if "order" in sentence or "reduced" in sentence else "erin advertises") in refusal.rule
    assert ("another suite" in refusal.rule) == any(word in sentence for word in ("suite 1", "short", "long"))


def test_malicious_copy_of_a_peers_ml_kem_key_is_refused_by_both_sides() -> None:
    stage = lying_participant.Stage(Phase.ADVERTISE_KEYS, suite=2)
    alice = expect(Advertisement, stage.answers["alice"][0])
    stage.round.receive(alice)
    lie = signed(with_parts(stage.honest, "channel_key", kem=alice.masking_key[X25519:]))
    assert stage.refusal(lie).code == "E-ROUND-KEYS"
    told = lying_coordinator.Stage(Phase.SHARE_KEYS, suite=2)
    *honest, erin = told.told
    copied = with_parts(erin, "masking_key", kem=honest[0].masking_key[X25519:])
    assert told.lie((*honest, lying_coordinator.signed_by("erin", copied))).code == "E-ROUND-KEYS"


def test_malicious_swap_of_ml_kem_parts_by_the_coordinator_breaks_the_signature() -> None:
    stage = lying_coordinator.Stage(Phase.SHARE_KEYS, suite=2)
    alice, *others = stage.told
    swapped = with_parts(alice, "masking_key", kem=others[-1].masking_key[X25519:])
    assert stage.lie((swapped, *others)).code == "E-ROUND-SIGNATURE"


# --- SHARE_KEYS: what the coordinator notices in a bundle ---


def _pairs(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[ShareBundle], ShareBundle]:
    return lambda bundle: replace(bundle, sealed_pairs=tuple(change(list(bundle.sealed_pairs))))


PAIR = b"p" * SEALED_PAIR_BYTES[2]
BUNDLES: dict[str, tuple[Callable[[ShareBundle], ShareBundle], str]] = {  # by carol: alice 0, carol 2, erin 4
    "no pair secrets at all": (_pairs(lambda _: []), "E-ROUND-SET"),
    "a pair secret too few": (_pairs(lambda pairs: pairs[:-1]), "E-ROUND-SET"),
    "another pair secret than was committed to": (_pairs(lambda pairs: [*pairs[:-1], PAIR]), "E-ROUND-SHARE"),
    "a pair secret that is a byte short": (consistent(4, pair=PAIR[:-1]), "E-ROUND-SHARE"),
    "a pair secret left out": (consistent(4, pair=b""), "E-ROUND-SHARE"),
    "a pair secret for a lower id": (consistent(0, pair=PAIR, commitment=b"c" * 32), "E-ROUND-SHARE"),
    "a commitment to a pair secret with a lower id": (consistent(0, commitment=b"c" * 32), "E-ROUND-SHARE"),
    "no commitment to a pair secret": (consistent(4, commitment=b""), "E-ROUND-SHARE"),
    "a sealed share of suite 1": (consistent(4, sealed=b"s" * SEALED_BYTES[1]), "E-ROUND-SHARE"),
}


@pytest.mark.parametrize("sentence", BUNDLES)
def test_malicious_hybrid_bundles_are_refused_and_the_others_go_on(sentence: str) -> None:
    change, code = BUNDLES[sentence]
    stage = lying_participant.Stage(Phase.SHARE_KEYS, suite=2)
    assert stage.refusal(signed(change(stage.honest), stage.context)).code == code
    stage.others_go_on()


def test_malicious_pair_secrets_in_suite_1_are_refused() -> None:
    stage = lying_participant.Stage(Phase.SHARE_KEYS)
    lie = replace(stage.honest, sealed_pairs=(b"",) * 5)
    assert stage.refusal(signed(lie, stage.context)).code == "E-ROUND-SET"


# --- COLLECT_MASKED: what a participant notices ---


def _dealt(index: int, **changes: Any) -> Callable[[tuple[DealtShare, ...]], tuple[DealtShare, ...]]:
    return lambda dealt: (*dealt[:index], replace(dealt[index], **changes), *dealt[index + 1 :])


def _shifted(dealt: tuple[DealtShare, ...]) -> tuple[DealtShare, ...]:
    """The same bytes, cut elsewhere: the hash over both is unchanged."""
    whole = dealt[0].sealed + dealt[0].sealed_pair
    return _dealt(0, sealed=whole[:-1], sealed_pair=whole[-1:])(dealt)


def _uncommitted(dealt: tuple[DealtShare, ...]) -> tuple[DealtShare, ...]:
    return _dealt(0, leaf=replace(dealt[0].leaf, pair_commitment=b"\1" * 32))(dealt)


PASSED_ON: dict[str, Callable[[tuple[DealtShare, ...]], tuple[DealtShare, ...]]] = {  # to bob: alice 0, carol 1
    "a changed KEM ciphertext of a share": lambda d: _dealt(0, sealed=flipped(d[0].sealed, 0))(d),
    "a changed KEM ciphertext of a pair secret": lambda d: _dealt(0, sealed_pair=flipped(d[0].sealed_pair, 0))(d),
    "a pair secret kept back": _dealt(0, sealed_pair=b""),
    "a pair secret of a higher id beside a share that does not open": lambda d: _dealt(
        1, sealed=flipped(d[1].sealed, 0), sealed_pair=PAIR
    )(d),
    "a pair secret cut elsewhere": _shifted,
    "another commitment to a pair secret": _uncommitted,
}


@pytest.mark.parametrize("sentence", PASSED_ON)
def test_malicious_changes_of_pair_secrets_on_the_way_are_refused(sentence: str) -> None:
    stage = lying_coordinator.Stage(Phase.COLLECT_MASKED, suite=2)
    assert stage.lie(PASSED_ON[sentence](stage.told)).code == "E-ROUND-SHARE"


UNOPENED = b"s" * SEALED_BYTES[2]  # what opens leaves nothing to complain about
MISFITS: dict[str, tuple[str, Callable[[ShareBundle], ShareBundle]]] = {
    "no pair secret from a lower id": ("alice", consistent(1, pair=b"", commitment=b"")),
    "no commitment from a lower id": ("alice", consistent(1, commitment=b"")),
    "a pair secret from a higher id": ("carol", consistent(1, pair=PAIR, sealed=UNOPENED)),
    "a commitment from a higher id": ("carol", consistent(1, commitment=b"c" * 32, sealed=UNOPENED)),
    "a sealed share of suite 1": ("alice", consistent(1, sealed=b"s" * SEALED_BYTES[1])),
}


@pytest.mark.parametrize("sentence", MISFITS)
def test_malicious_lengths_that_dealer_and_coordinator_agreed_on_are_refused(sentence: str) -> None:
    """The dealer signs what an honest coordinator would not take, and the coordinator passes it on."""
    dealer, change = MISFITS[sentence]
    stage = lying_coordinator.Stage(Phase.COLLECT_MASKED, suite=2)
    assert isinstance(stage.victim.state, Shared)
    state: Any = stage.federation.participants[dealer].state
    lie = change(state.bundle)
    tree = merkle.MerkleTree.over([leaf.hash for leaf in lie.leaves])
    signature = signing_key(dealer).sign(lie.signed_bytes(PROTOCOL_VERSION, state.round_ctx))
    passed = {
        one.dealer: replace(
            one,
            leaf=lie.leaves[1],
            sealed=lie.sealed[1],
            sealed_pair=lie.sealed_pairs[1],
            proof=tree.proof(1),
            root=tree.root,
            signature=signature,
        )
        if one.dealer == dealer
        else one
        for one in stage.told
    }
    refusal = stage.lie(tuple(passed.values()))
    assert (refusal.code, "wrong length" in refusal.rule) == ("E-ROUND-SHARE", True)


# --- dealers that lie under their own signature ---


@pytest.mark.parametrize("sentence", LIES)
def test_malicious_hybrid_dealer_is_named_before_the_commit_point_and_left_out_of_the_next_attempt(
    sentence: str,
) -> None:
    federation = Federation(7, 1, seed=2, suite=2, min_survivors=5)
    dealing(federation.participants[OFFENDER], LIES[sentence])
    result = federation.run_round()
    dave = federation.participants["dave"]
    assert result.certificate.position.attempt == 2
    assert OFFENDER not in result.survivors
    assert (result.total() == federation.one_hot(result.survivors)).all()
    assert not dave.refusals, "a dealer's lie is answered by a complaint, not by silence"


def test_a_round_goes_on_when_the_accused_dealer_is_no_survivor() -> None:
    federation = Federation(7, 1, seed=2, suite=2, min_survivors=5)
    dealing(federation.participants[OFFENDER], LIES["a tampered KEM ciphertext of a pair secret"])
    result = federation.run_round([Fault(OFFENDER, Phase.COLLECT_MASKED, FaultKind.LOST)])
    assert result.certificate.position.attempt == 1
    assert set(result.dropouts) == {OFFENDER, "dave"}
    assert (result.total() == federation.one_hot(result.survivors)).all()


def not_its_own(federation: Federation) -> Callable[[ShareBundle], ShareBundle]:
    """Seal for everybody, and commit to, pair secrets that do not follow from the masking secret."""

    def change(bundle: ShareBundle) -> ShareBundle:
        state: Any = federation.participants[OFFENDER].state
        liar = Pairing(OFFENDER, state.round_ctx, SecretBytes(b"\1" * 32), state.pairing.links)
        for index, leaf in enumerate(bundle.leaves):
            if leaf.recipient > OFFENDER:
                given = liar.seal_for(leaf.recipient, SeededSource("lie"))
                bundle = consistent(index, pair=given.sealed, commitment=given.commitment)(bundle)
        return bundle

    return change


def test_malicious_dealer_that_drops_out_cannot_garble_the_sum_with_a_pair_secret_of_another_kind() -> None:
    """Every holder finds what it was given in order; the rebuilt masking secret shows the lie, and no sum comes out."""
    federation = Federation(5, 1, seed=2, suite=2)
    dealing(federation.participants[OFFENDER], not_its_own(federation))
    due = {(OFFENDER, Phase.COLLECT_MASKED): FaultKind.LOST}
    with pytest.raises(RoundAborted, match=f"the shares of {OFFENDER} do not rebuild"):
        federation.run_attempt(1, 1, frozenset(), due, False)


def test_malicious_survivor_whose_pair_secret_a_dropout_never_opened_is_named() -> None:
    federation = Federation(5, 1, seed=2, suite=2)
    dealing(federation.participants[OFFENDER], LIES["a tampered KEM ciphertext of a pair secret"])
    dave = federation.participants["dave"]
    dave.hear = _deaf_from_u2(federation)  # type: ignore[assignment,method-assign]  # of this participant alone
    with pytest.raises(RoundAborted, match=f"the shares of {OFFENDER} do not rebuild"):
        federation.run_attempt(1, 1, frozenset(), {}, False)


def _deaf_from_u2(federation: Federation) -> Callable[[Told | None], list[Message]]:
    hear = federation.participants["dave"].hear
    return lambda told: [] if isinstance(told, HolderShares) else hear(told)


def test_malicious_share_complaint_names_the_dealer_also_when_only_the_pair_secret_is_bad() -> None:
    stage = lying_participant.Stage(Phase.SHARE_KEYS, suite=2)
    stage.answers[OFFENDER] = [signed(LIES["a tampered box of a pair secret"](stage.honest), stage.context)]
    for answers in stage.answers.values():
        assert stage.round.receive(answers[0])
    stage.round.close()
    dave = stage.federation.participants["dave"]
    (complaint,) = dave.hear(stage.round.outbox("dave"))
    assert isinstance(dave.state, Idle), "it abstains from this attempt"
    assert expect(Complaint, complaint).dealer == OFFENDER


# --- what stays hidden ---


def test_pairwise_seeds_of_the_two_ends_are_equal_and_of_different_pairs_are_not() -> None:
    seeds: dict[tuple[str, str], list[bytes]] = {}
    stage = lying_participant.Stage(Phase.SHARE_KEYS, suite=2)
    for answers in stage.answers.values():
        stage.round.receive(answers[0])
    stage.round.close()
    for name, one in stage.federation.participants.items():
        dealt = expect(HolderShares, stage.round.outbox(name))
        ready = expect(Ready, hear(one.state, dealt, one.journal.memory, one.source).state)
        for peer, seed in ready.masking.items():
            lower, higher = sorted((name, peer))
            seeds.setdefault((lower, higher), []).append(seed.reveal())
    assert len(seeds) == 10
    assert all(one == other for one, other in seeds.values())
    assert len({one for one, _ in seeds.values()}) == 10
