"""One round without a network: read this file as the protocol's tutorial (docs/protocol.md, section by section)."""

from __future__ import annotations

import numpy as np

from coordinator.protocol.round import CoordinatorRound
from participant.protocol.member import Participant
from participant.protocol.memory import (
    AttemptAdvertised,
    RoundClosed,
    RunMemory,
    SharesReleased,
    SurvivorsSigned,
    UpdateEncoded,
    UpdateMasked,
)
from participant.protocol.round import hear
from participant.protocol.states import Idle, Ready, State
from participant.protocol.step import Step
from participant.protocol.transitions import EncodedUpdate, Told
from privacy.errors import Phase
from privacy.secagg import hashes
from privacy.secagg.messages import AttemptOffer, MaskedUpload, Position, UnmaskShares
from tests.worlds.expect import expect
from tests.worlds.federation import ADAPTER_HASH, SeededSource
from tests.worlds.plans import make_plan, verified

NAMES = ("alice", "bob", "carol", "dave", "erin")


def test_one_round_of_five_participants_of_whom_one_drops_out() -> None:
    # Section 2. All approved one signed plan: five participants, one of whom may collude with the coordinator.
    # Four must survive a round, and four shares rebuild a secret.
    plan, keys = make_plan(n=5, f=1)
    assert (plan.shamir_threshold, plan.min_survivors) == (4, 4)

    # A participant is a state, a memory of what it has committed itself to, and a source of randomness. At first it
    # waits for an offer.
    states: dict[str, State] = {name: Idle(Participant(verified(plan), name, keys[name])) for name in NAMES}
    memories = {name: RunMemory.empty(plan.hash) for name in NAMES}
    sources = {name: SeededSource(name) for name in NAMES}

    # Whatever it is told, it hears by one entrance. The step that follows says what to do: make the record durable,
    # go on from the next state, then send the message (section 5.7).
    def tell(name: str, told: Told | None) -> Step[State]:
        assert told is not None
        step = hear(states[name], told, memories[name], sources[name])
        if step.record is not None:
            memories[name] = memories[name].apply(step.record)
        states[name] = step.state
        return step

    # Section 3. The coordinator opens round 1: which plan, which attempt, after which history, from which adapter.
    at = Position(plan.hash, round=1, attempt=1)
    offer = AttemptOffer(at, hashes.genesis_transcript(plan.hash), ADAPTER_HASH)
    coordinator = CoordinatorRound(verified(plan), offer)

    # Section 5.1, ADVERTISE_KEYS. Each makes two fresh key pairs and signs the public halves. The record of the step
    # is made durable before the message leaves: from now on this attempt cannot be begun again with other keys.
    for name in NAMES:
        step = tell(name, coordinator.outbox(name))
        assert isinstance(step.record, AttemptAdvertised)
        assert step.message is not None
        coordinator.receive(step.message)
    coordinator.close()

    # Section 5.2, SHARE_KEYS. Each checks all advertisements, derives the round's context from them, and deals shares
    # of two secrets to the others, sealed: of the masking secret (opened if it drops out) and of its self-mask seed
    # (opened if it survives). Never both of one participant.
    assert coordinator.phase is Phase.SHARE_KEYS
    for name in NAMES:
        step = tell(name, coordinator.outbox(name))
        assert step.message is not None
        coordinator.receive(step.message)
    coordinator.close()

    # Section 5.3, COLLECT_MASKED. Each opens the shares it was dealt and is ready. Its caller trains, and makes the
    # encoded update durable before it is told; then it is masked: with a mask stream for each peer (plus for the lower
    # id, minus for the higher: they cancel) and one of its own. Erin is lost before she uploads.
    updates = {name: np.full(plan.recipe.entries, number, dtype=np.int64) for number, name in enumerate(NAMES, 1)}
    for name in NAMES:
        assert isinstance(tell(name, coordinator.outbox(name)).state, Ready)
        if name == "erin":
            continue
        durable = UpdateEncoded(at.round, hashes.digest(b"of a file"), ADAPTER_HASH, offer.previous_transcript)
        memories[name] = memories[name].apply(durable)
        step = tell(name, EncodedUpdate(plan.layout(at.round).encode(updates[name], weight=1)))
        upload = expect(MaskedUpload, step.message)
        assert isinstance(step.record, UpdateMasked)
        assert [file.name for file in step.files] == ["masked-1-1", "shares-1-1"], "durable before it is sent"
        assert upload.masked != updates[name].astype("<u4").tobytes(), "what leaves is masked"
        coordinator.receive(upload)
    assert coordinator.awaited() == {"erin"}
    coordinator.close()

    # Section 5.4, AGREE_SURVIVORS. The survivors sign who they are: the commit point of the round.
    survivors = [name for name in NAMES if name != "erin"]
    for name in survivors:
        step = tell(name, coordinator.outbox(name))
        assert isinstance(step.record, SurvivorsSigned)
        assert step.message is not None
        coordinator.receive(step.message)
    coordinator.close()

    # Section 5.5, UNMASK. With a quorum's signatures before it, each releases shares: of the survivors' seeds and of
    # erin's masking secret, so that the masks which the others added for her can be removed.
    for name in survivors:
        step = tell(name, coordinator.outbox(name))
        assert isinstance(step.record, SharesReleased)
        released = expect(UnmaskShares, step.message)
        assert [share.owner for share in released.seed_shares] == survivors
        assert [share.owner for share in released.masking_shares] == ["erin"]
        coordinator.receive(released)
    coordinator.close()

    # Section 5.6, RESULT. The coordinator has the exact sum of the survivors and nothing else: 1 + 2 + 3 + 4.
    assert (coordinator.result.total() == 10).all()
    assert coordinator.result.dropouts == ("erin",)

    # The certificate goes to the whole roster; everyone extends the same transcript, erin too.
    certificate = coordinator.result.certificate
    transcripts = {expect(RoundClosed, tell(name, certificate).record).transcript for name in NAMES}
    assert transcripts == {certificate.transcript(offer.previous_transcript)}
