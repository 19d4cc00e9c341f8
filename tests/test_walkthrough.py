"""One round without a network: read this file as the protocol's tutorial (docs/protocol.md, section by section)."""

from __future__ import annotations

import numpy as np

from coordinator.protocol.round import CoordinatorRound
from participant.protocol.memory import AttemptAdvertised, RunMemory, SharesReleased, SurvivorsSigned, UpdateMasked
from participant.protocol.round import Participant, Ready, advertise, complete
from privacy.errors import Phase
from privacy.secagg import hashes
from privacy.secagg.messages import (
    Advertisement,
    AttemptOffer,
    DealtShare,
    Position,
    Receipt,
    ShareBundle,
    SurvivorProposal,
    SurvivorSignature,
    UnmaskRequest,
    UnmaskShares,
)
from tests.worlds.expect import expect, expect_all
from tests.worlds.federation import ADAPTER_HASH, SeededSource
from tests.worlds.plans import make_plan, verified

NAMES = ("alice", "bob", "carol", "dave", "erin")


def test_one_round_of_five_participants_of_whom_one_drops_out() -> None:
    # Section 2. All approved one signed plan: five participants, one of whom may collude with the coordinator.
    # Four must survive a round, and four shares rebuild a secret.
    plan, keys = make_plan(n=5, f=1)
    assert (plan.shamir_threshold, plan.min_survivors) == (4, 4)
    parties = {name: Participant(verified(plan), name, keys[name]) for name in NAMES}
    memories = {name: RunMemory.empty(plan.hash) for name in NAMES}
    sources = {name: SeededSource(name) for name in NAMES}

    # Section 3. The coordinator opens round 1: which plan, which attempt, after which history, from which adapter.
    at = Position(plan.hash, round=1, attempt=1)
    offer = AttemptOffer(at, hashes.genesis_transcript(plan.hash), ADAPTER_HASH)
    coordinator = CoordinatorRound(verified(plan), offer)

    # Section 5.1, ADVERTISE_KEYS. Each makes two fresh key pairs and signs the public halves. The record of the step
    # is made durable before the message leaves: from now on this attempt cannot be begun again with other keys.
    states = {}
    for name in NAMES:
        step = advertise(parties[name], offer, memories[name], sources[name])
        memories[name] = memories[name].apply(expect(AttemptAdvertised, step.record))
        states[name] = step.state
        coordinator.receive(expect(Advertisement, step.message))
    coordinator.close()

    # Section 5.2, SHARE_KEYS. Each checks all advertisements, derives the round's context from them, and deals shares
    # of two secrets to the others, sealed: of the masking secret (opened if it drops out) and of its self-mask seed
    # (opened if it survives). Never both of one participant.
    assert coordinator.phase is Phase.SHARE_KEYS
    shared = {}
    for name in NAMES:
        dealt = states[name].on_advertisements(expect_all(Advertisement, coordinator.outbox(name)), sources[name])
        shared[name] = dealt.state
        coordinator.receive(expect(ShareBundle, dealt.message))
    coordinator.close()

    # Section 5.3, COLLECT_MASKED. Each opens the shares it was dealt, trains, and adds one mask stream for each peer
    # (plus for the lower id, minus for the higher: they cancel) and one of its own. Erin is lost before she uploads.
    updates = {name: np.full(plan.recipe.entries, number, dtype=np.int64) for number, name in enumerate(NAMES, 1)}
    masked_states = {}
    for name in NAMES:
        ready = shared[name].on_shares(expect_all(DealtShare, coordinator.outbox(name))).state
        assert isinstance(ready, Ready)
        if name == "erin":
            continue
        masking, masked = ready.mask(updates[name])
        memories[name] = memories[name].apply(expect(UpdateMasked, masking.record))
        masked_states[name] = masking.state
        plain_words = updates[name].astype("<u4").tobytes()
        assert masked != plain_words, "what leaves is masked"
        coordinator.accumulate(expect(Receipt, masking.message), masked)
    assert coordinator.awaited() == {"erin"}
    coordinator.close()

    # Section 5.4, AGREE_SURVIVORS. The survivors sign who they are: the commit point of the round.
    survivors = tuple(masked_states)
    for name in survivors:
        proposal = expect(SurvivorProposal, coordinator.outbox(name))
        signing = masked_states[name].on_survivors(proposal, memories[name])
        memories[name] = memories[name].apply(expect(SurvivorsSigned, signing.record))
        coordinator.receive(expect(SurvivorSignature, signing.message))
    coordinator.close()

    # Section 5.5, UNMASK. With a quorum's signatures before it, each releases shares: of the survivors' seeds and of
    # erin's masking secret, so that the masks which the others added for her can be removed.
    for name in survivors:
        request = expect(UnmaskRequest, coordinator.outbox(name))
        releasing = masked_states[name].on_unmask(request, memories[name])
        memories[name] = memories[name].apply(expect(SharesReleased, releasing.record))
        released = expect(UnmaskShares, releasing.message)
        assert [share.owner for share in released.seed_shares] == list(survivors)
        assert [share.owner for share in released.masking_shares] == ["erin"]
        coordinator.receive(released)
    coordinator.close()

    # Section 5.6, RESULT. The coordinator has the exact sum of the survivors and nothing else: 1 + 2 + 3 + 4.
    assert (coordinator.result.total() == 10).all()
    assert coordinator.result.dropouts == ("erin",)

    # The certificate goes to the whole roster; everyone extends the same transcript, erin too.
    certificate = coordinator.result.certificate
    transcripts = {complete(parties[name], certificate, memories[name]).transcript for name in NAMES}
    assert transcripts == {certificate.transcript(offer.previous_transcript)}
