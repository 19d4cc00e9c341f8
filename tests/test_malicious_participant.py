"""The catalogue of lying participants: the offender is refused by name, nothing changes, and the others go on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.protocol.round import CoordinatorRound
from participant.protocol.states import Idle, Shared
from participant.protocol.step import Message
from participant.protocol.transitions import Told
from privacy.errors import PeerError, Phase, RoundAborted
from privacy.secagg import shamir
from privacy.secagg.messages import Advertisement, Complaint, MaskedUpload, ShareBundle, UnmaskShares
from tests.worlds.expect import expect
from tests.worlds.federation import Federation, SeededSource
from tests.worlds.lying_participant import (
    ADVERTISEMENTS,
    BUNDLES,
    OFFENDER,
    RELEASES,
    UPLOADS,
    Stage,
    rubbish_for,
    signed,
)


@pytest.mark.parametrize("sentence", ADVERTISEMENTS)
def test_malicious_advertisements_are_refused_and_the_others_go_on(sentence: str) -> None:
    change, code = ADVERTISEMENTS[sentence]
    stage = Stage(Phase.ADVERTISE_KEYS)
    assert stage.refusal(change(stage.honest)).code == code
    stage.others_go_on()


def test_malicious_second_advertisement_does_not_replace_the_first() -> None:
    stage = Stage(Phase.ADVERTISE_KEYS)
    assert stage.round.receive(stage.honest)
    assert not stage.round.receive(stage.honest), "a repeat is no offence"
    with pytest.raises(PeerError, match="E-ROUND-PHASE"):
        stage.round.receive(signed(replace(stage.honest, nonce=b"\0" * 16)))


def test_malicious_copy_of_a_peers_key_is_refused() -> None:
    stage = Stage(Phase.ADVERTISE_KEYS)
    alice = expect(Advertisement, stage.answers["alice"][0])
    stage.round.receive(alice)
    lie = signed(replace(stage.honest, channel_key=alice.masking_key))
    assert stage.refusal(lie).code == "E-ROUND-KEYS"


@pytest.mark.parametrize("sentence", BUNDLES)
def test_malicious_bundles_are_refused_and_the_others_go_on(sentence: str) -> None:
    change, code = BUNDLES[sentence]
    stage = Stage(Phase.SHARE_KEYS)
    assert stage.refusal(change(stage.honest)).code == code
    stage.others_go_on()


def test_malicious_dealer_is_named_by_a_complaint_and_left_out_of_the_next_attempt() -> None:
    """Carol seals rubbish for bob, and signs it properly."""
    federation = Federation(5, 1, seed=2)
    carol = federation.participants[OFFENDER]
    hear = carol.hear

    def lying(told: Told | None) -> list[Message]:
        answers = hear(told)
        if answers and isinstance(answers[0], ShareBundle) and answers[0].position.attempt == 1:
            state = carol.state
            assert isinstance(state, Shared)
            return [rubbish_for("bob", answers[0], state.round_ctx)]
        return answers

    carol.hear = lying  # type: ignore[method-assign]  # of this participant alone
    federation.participants["dave"].present = False  # so that without bob too few remain, and a retry is needed
    with pytest.raises(RoundAborted):
        federation.run_round()
    assert federation.round is not None
    assert federation.round.absences.left_out == {OFFENDER, "bob"}, "nothing decides between the two"


def complaint(stage: Stage, dealer: str) -> Complaint:
    """The offender complains about a dealer, and signs it."""
    return signed(Complaint(stage.offer.position, OFFENDER, dealer, "bad shares"), stage.context)


def test_malicious_complaint_after_the_own_upload_is_refused() -> None:
    stage = Stage(Phase.COLLECT_MASKED)
    assert stage.round.receive(stage.honest)
    with pytest.raises(PeerError, match="E-ROUND-SET"):
        stage.round.receive(complaint(stage, "alice"))
    assert not stage.round.absences.complaints


@pytest.mark.parametrize("dealer", ["erin", "zoe"])
def test_malicious_complaint_about_somebody_who_dealt_nothing_is_refused(dealer: str) -> None:
    """Erin advertised and did not deal; nobody knows zoe."""
    stage = Stage(Phase.COLLECT_MASKED, lost=("erin", Phase.SHARE_KEYS))
    assert stage.refusal(complaint(stage, dealer)).code == "E-ROUND-SET"


def test_malicious_complaint_by_somebody_who_dealt_nothing_is_refused() -> None:
    stage = Stage(Phase.COLLECT_MASKED, lost=(OFFENDER, Phase.SHARE_KEYS))
    assert stage.refusal(complaint(stage, "alice")).code == "E-ROUND-SET"


def test_malicious_complaint_in_another_name_is_refused() -> None:
    stage = Stage(Phase.COLLECT_MASKED)
    assert stage.refusal(replace(complaint(stage, "alice"), dealer="bob")).code == "E-ROUND-SIGNATURE"
    assert not stage.round.absences.complaints


def test_malicious_second_complaint_about_somebody_else_is_refused() -> None:
    stage = Stage(Phase.COLLECT_MASKED)
    assert stage.round.receive(complaint(stage, "alice"))
    with pytest.raises(PeerError, match="already complained about somebody else"):
        stage.round.receive(complaint(stage, "bob"))
    assert stage.round.absences.complaints == {OFFENDER: "alice"}


def test_a_complaint_that_is_repeated_in_other_words_changes_nothing() -> None:
    stage = Stage(Phase.COLLECT_MASKED)
    assert stage.round.receive(complaint(stage, "alice"))
    repeated = signed(Complaint(stage.offer.position, OFFENDER, "alice", "worse shares"), stage.context)
    assert not stage.round.receive(repeated)


def test_who_complains_and_about_whom_is_named_when_too_few_are_left() -> None:
    stage = Stage(Phase.COLLECT_MASKED)
    assert stage.round.receive(complaint(stage, "alice"))
    with pytest.raises(RoundAborted, match=f"{OFFENDER} complains about the shares of alice: both are left out"):
        stage.round.close()
    again = CoordinatorRound(stage.federation.plan, stage.offer, disputed=stage.round.disputed)
    assert again.expected() == {"bob", "dave", "erin"}
    with pytest.raises(RoundAborted, match=f"left out after complaints: alice, {OFFENDER}"):
        again.close()


def test_malicious_upload_after_a_complaint_is_refused() -> None:
    stage = Stage(Phase.COLLECT_MASKED)
    assert stage.round.receive(complaint(stage, "alice"))
    assert stage.refusal(stage.honest).code == "E-ROUND-UPLOAD"


@pytest.mark.parametrize("phase", [Phase.SHARE_KEYS, Phase.AGREE_SURVIVORS])
def test_a_complaint_before_or_after_its_phase_changes_nothing(phase: Phase) -> None:
    stage = Stage(phase)
    assert not stage.round.receive(complaint(stage, "alice"))
    assert not stage.round.absences.complaints


def test_a_round_with_one_bad_bundle_goes_on_without_the_complainer_when_enough_remain() -> None:
    stage = Stage(Phase.SHARE_KEYS)
    stage.answers[OFFENDER] = [rubbish_for("bob", stage.honest, stage.context)]
    for answers in stage.answers.values():
        assert stage.round.receive(answers[0])
    stage.round.close()
    bob = stage.federation.participants["bob"]
    (complaint,) = bob.hear(stage.round.outbox("bob"))
    assert isinstance(bob.state, Idle), "it abstains from this attempt"
    assert expect(Complaint, complaint).dealer == OFFENDER
    assert stage.round.receive(complaint)
    assert stage.round.awaited() == {"alice", "carol", "dave", "erin"}
    for name in ("alice", "carol", "dave", "erin"):
        for answer in stage.federation.participants[name].hear(stage.round.outbox(name)):
            assert stage.round.receive(answer)
    stage.round.close()
    assert stage.round.phase is Phase.AGREE_SURVIVORS


@pytest.mark.parametrize("sentence", UPLOADS)
def test_malicious_uploads_are_refused_and_not_counted(sentence: str) -> None:
    change, code = UPLOADS[sentence]
    stage = Stage(Phase.COLLECT_MASKED)
    honest = stage.honest
    context = stage.context
    assert stage.refusal(MaskedUpload(*change(honest.receipt, honest.masked, context))).code == code
    stage.others_go_on()
    while stage.round.phase is not Phase.RESULT:
        stage.federation.collect({}, [])
        stage.round.close()
    total = stage.round.result.total()
    assert (total == stage.federation.one_hot(["alice", "bob", "dave", "erin"])).all()


def test_a_repeated_upload_is_counted_once() -> None:
    stage = Stage(Phase.COLLECT_MASKED)
    assert stage.round.receive(stage.honest)
    assert not stage.round.receive(stage.honest)


def test_malicious_survivor_signature_is_refused() -> None:
    stage = Stage(Phase.AGREE_SURVIVORS)
    assert stage.refusal(replace(stage.honest, signature=b"\0" * 64)).code == "E-ROUND-SIGNATURE"
    stage.others_go_on()


@pytest.mark.parametrize("sentence", RELEASES)
def test_malicious_holders_are_named_on_arrival_and_the_others_suffice(sentence: str) -> None:
    change, code = RELEASES[sentence]
    stage = Stage(Phase.UNMASK)
    refusal = stage.refusal(change(stage.honest))
    assert (refusal.code, refusal.participant) == (code, OFFENDER)
    stage.others_go_on()
    assert (stage.round.result.total()[:5] == 1).all()


def test_a_repeated_release_is_counted_once() -> None:
    """Three of the four shares that are needed, and one of them again."""
    stage = Stage(Phase.UNMASK)
    for name in ("alice", "bob"):
        assert stage.round.receive(stage.answers[name][0])
    assert stage.round.receive(stage.honest)
    assert not stage.round.receive(stage.honest)
    assert not stage.round.can_close()


def test_malicious_second_release_of_other_shares_is_refused() -> None:
    stage = Stage(Phase.UNMASK)
    assert stage.round.receive(stage.honest)
    with pytest.raises(PeerError, match="E-ROUND-PHASE"):
        stage.round.receive(replace(stage.honest, seed_shares=stage.honest.seed_shares[::-1]))


def test_a_release_after_the_result_changes_nothing() -> None:
    stage = Stage(Phase.UNMASK)
    stage.others_go_on()
    assert stage.round.phase is Phase.RESULT
    assert not stage.round.receive(stage.honest)


def test_malicious_release_in_anothers_name_is_refused_though_nobody_signs_it() -> None:
    """Shares that are not those which their dealer's signed hashes name for this holder are known by that."""
    stage = Stage(Phase.UNMASK)
    for name in ("alice", "bob"):
        stolen = replace(expect(UnmaskShares, stage.answers[name][0]), sender=OFFENDER)
        assert stage.refusal(stolen).code == "E-ROUND-SHARE"
    stage.others_go_on()


def test_malicious_dealer_whose_shares_rebuild_another_seed_is_named_and_nothing_is_revealed() -> None:
    """Each share matches its signed hash, but together they rebuild something else than was committed."""
    federation = Federation(5, 1, seed=4)
    carol = federation.participants[OFFENDER]
    hear = carol.hear

    def lying(told: Told | None) -> list[Message]:
        answers = hear(told)
        if answers and isinstance(answers[0], ShareBundle):
            state = carol.state
            assert isinstance(state, Shared)
            return [signed(replace(answers[0], seed_commitment=b"\1" * 32), state.round_ctx)]
        return answers

    carol.hear = lying  # type: ignore[method-assign]  # of this participant alone
    with pytest.raises(RoundAborted, match=f"the shares of {OFFENDER} do not rebuild"):
        federation.run_attempt(1, 1, frozenset(), {}, False)


EARLY = [
    (Phase.ADVERTISE_KEYS, Phase.SHARE_KEYS),
    (Phase.SHARE_KEYS, Phase.COLLECT_MASKED),
    (Phase.COLLECT_MASKED, Phase.AGREE_SURVIVORS),
    (Phase.AGREE_SURVIVORS, Phase.UNMASK),
]


@pytest.mark.parametrize(("now", "of"), EARLY)
def test_a_message_before_its_phase_is_refused_and_after_it_changes_nothing(now: Phase, of: Phase) -> None:
    later = Stage(of)
    earlier = Stage(now)
    with pytest.raises(PeerError, match="E-ROUND-PHASE"):
        earlier.round.receive(later.honest)
    late = Stage(now)
    message = late.honest
    late.others_go_on()
    if now is not Phase.UNMASK:
        assert not late.round.receive(message)


def test_closing_with_too_few_answers_aborts_and_says_how_many_were_needed() -> None:
    federation = Federation(5, 1)
    attempt = CoordinatorRound(federation.plan, federation.offer(1, 1))
    with pytest.raises(RoundAborted, match="0 of the 4 needed answered in ADVERTISE_KEYS"):
        attempt.close()


def test_there_is_no_result_before_the_round_is_over() -> None:
    federation = Federation(5, 1)
    with pytest.raises(PeerError, match="no result yet"):
        _ = CoordinatorRound(federation.plan, federation.offer(1, 1)).result


def test_shares_below_the_threshold_say_nothing_about_a_masking_key() -> None:
    """T-1 shares of every secret that a full round dealt leave the secret free: any value fits them."""
    source = SeededSource("shares")
    from privacy.secret import SecretBytes

    secret = SecretBytes(source.token_bytes(32))
    shares = shamir.split(secret, threshold=4, points=[1, 2, 3, 4, 5], random=source)
    known = {x: shares[x].reveal() for x in (1, 2, 3)}
    for guess in (b"\0" * 32, b"\xff" * 32):
        points = [0, *known]
        values = [int.from_bytes(guess, "big"), *(int.from_bytes(share, "big") for share in known.values())]
        fourth = _interpolate(points, values, at=4)
        rebuilt = shamir.combine([*known.values(), fourth.to_bytes(33, "big")], shamir.lagrange_at_zero([1, 2, 3, 4]))
        assert rebuilt.reveal() == guess


def _interpolate(points: list[int], values: list[int], *, at: int) -> int:
    total = 0
    for i, x in enumerate(points):
        term = values[i]
        for other in points:
            if other != x:
                term = term * (at - other) * pow(x - other, -1, shamir.FIELD) % shamir.FIELD
        total = (total + term) % shamir.FIELD
    return total
