"""Hypothesis strategies: every value that crosses the wire, valid as ``privacy.secagg.messages`` documents it."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from privacy.canonical import MAX_INTEGER
from privacy.evaluation import METRICS, Metric
from privacy.heads import JournalHead, Moment
from privacy.plan import PROTOCOL_VERSION
from privacy.printable import JOINERS, first_unprintable
from privacy.secagg import messages as said
from privacy.secagg import shamir
from privacy.secagg.suites import PUBLIC_KEY_BYTES
from privacy.secret import SecretBytes
from protos import envelope as env
from protos import renewal
from protos.codec_renewal import MAX_CLOCK
from tests.worlds.expect import expect

NAMES = ("alice", "bob", "carol", "dave", "x", "0", "a.b-c_d", "z" * 63)

names = st.sampled_from(NAMES)
name_sets = st.sets(names, max_size=4).map(sorted)
some_names = st.sets(names, min_size=1, max_size=4).map(sorted)
run_ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
codes = st.sampled_from(["E-ROUND-SET", "E-DISK-FULL", "E-BUG", "E-POLICY-RULE"])
texts = st.text(
    st.characters(categories=("L", "M", "N", "P", "S", "Zs"), include_characters=JOINERS), max_size=30
).filter(lambda text: first_unprintable(text) is None)
from_one = st.one_of(st.integers(1, 10), st.integers(1, MAX_INTEGER))
from_zero = st.one_of(st.integers(0, 10), st.integers(0, MAX_INTEGER))
lengths = st.integers(1, env.MAX_CONTENT_BYTES)


def octets(count: int) -> SearchStrategy[bytes]:
    """Return byte strings of one length."""
    return st.one_of(st.binary(min_size=count, max_size=count), st.just(bytes(count)))


hashes = octets(32)
signatures = octets(64)
suites = st.sampled_from((1, 2))
shares = st.one_of(st.integers(0, shamir.FIELD - 1), st.just(shamir.FIELD - 1)).map(
    lambda value: value.to_bytes(shamir.SHARE_BYTES, "big")
)

positions = st.builds(said.Position, plan_hash=hashes, round=from_one, attempt=from_one)
offers = st.builds(said.AttemptOffer, position=positions, previous_transcript=hashes, adapter_hash=hashes)
advertisements = suites.flatmap(
    lambda suite: st.builds(
        said.Advertisement,
        offer=offers,
        sender=names,
        masking_key=octets(PUBLIC_KEY_BYTES[suite]),
        channel_key=octets(PUBLIC_KEY_BYTES[suite]),
        nonce=octets(said.ADVERTISE_NONCE_BYTES),
        signature=signatures,
    )
)


def leaves(suite: int, dealer: str, recipient: str) -> SearchStrategy[said.ShareLeaf]:
    """Return a dealer's leaves for a recipient."""
    _, commitment = said.SealedPair.lengths(suite, dealer, recipient)
    return st.builds(
        said.ShareLeaf,
        recipient=st.just(recipient),
        ciphertext_hash=hashes,
        masking_share_hash=hashes,
        seed_share_hash=hashes,
        pair_commitment=octets(commitment),
    )


@st.composite
def bundles(draw: Any) -> said.ShareBundle:
    """Return a dealer's bundle for a small U1."""
    members, suite = draw(some_names), draw(suites)
    dealer = draw(st.sampled_from(members))
    pairs = [draw(octets(said.SealedPair.lengths(suite, dealer, member)[0])) for member in members]
    return said.ShareBundle(
        position=draw(positions),
        sender=dealer,
        leaves=tuple(draw(leaves(suite, dealer, member)) for member in members),
        sealed=tuple(b"" if member == dealer else draw(octets(said.SEALED_BYTES[suite])) for member in members),
        seed_commitment=draw(hashes),
        signature=draw(signatures),
        sealed_pairs=tuple(pairs) if suite == 2 else (),
    )


def _dealt(suite: int, dealer: str, holder: str) -> SearchStrategy[said.DealtShare]:
    sealed_pair, _ = said.SealedPair.lengths(suite, dealer, holder)
    return st.builds(
        said.DealtShare,
        position=positions,
        dealer=st.just(dealer),
        leaf=leaves(suite, dealer, holder),
        proof=st.lists(st.one_of(hashes, st.just(b"")), max_size=4).map(tuple),
        sealed=octets(said.SEALED_BYTES[suite]),
        root=hashes,
        seed_commitment=hashes,
        signature=signatures,
        sealed_pair=octets(sealed_pair),
    )


dealt_shares = st.tuples(suites, names, names).flatmap(lambda drawn: _dealt(*drawn))
complaints = st.builds(said.Complaint, position=positions, sender=names, dealer=names, rule=texts, signature=signatures)


def receipts(sender: SearchStrategy[str]) -> SearchStrategy[said.Receipt]:
    """Return receipts by a sender."""
    return st.builds(
        said.Receipt,
        position=positions,
        sender=sender,
        u2_hash=hashes,
        masked_hash=hashes,
        length=lengths,
        signature=signatures,
    )


survivor_sets = st.builds(
    said.SurvivorSet,
    u2_hash=hashes,
    members=some_names.flatmap(lambda ids: st.tuples(*(st.tuples(st.just(name), hashes) for name in ids))),
)
proposals = st.builds(
    said.SurvivorProposal,
    position=positions,
    receipts=some_names.flatmap(lambda ids: st.tuples(*(receipts(st.just(name)) for name in ids))),
)
survivor_signatures = st.builds(said.SurvivorSignature, position=positions, sender=names, signature=signatures)
unmask_requests = st.builds(
    said.UnmaskRequest, proposal=proposals, signatures=st.lists(survivor_signatures, max_size=3).map(tuple)
)
released = name_sets.flatmap(
    lambda ids: st.tuples(*(st.builds(said.ReleasedShare, owner=st.just(name), share=shares) for name in ids))
)
unmask_shares = st.builds(
    said.UnmaskShares,
    position=positions,
    sender=names,
    seed_shares=released,
    masking_shares=released,
)
certificates = st.builds(
    said.RoundCertificate,
    position=positions,
    round_ctx=hashes,
    survivors=survivor_sets,
    sum_hash=hashes,
    signatures=st.lists(survivor_signatures, max_size=3).map(tuple),
)

heads = st.builds(
    env.LedgerHead,
    sequence=from_zero,
    hash=st.one_of(hashes, st.just(b"")),
    signature=st.one_of(signatures, st.just(b"")),
)
heads_shown = st.builds(
    env.HeadsShown,
    position=positions,
    sender=names,
    moment=st.sampled_from(list(Moment)),
    journal=st.builds(JournalHead, length=from_zero, hash=hashes),
    ledger=st.builds(env.LedgerHead, sequence=from_zero, hash=hashes, signature=signatures),
    about=st.one_of(hashes, st.just(b"")),
    signature=signatures,
)
voided_rounds = st.builds(said.VoidedRound, plan_hash=hashes, round=from_one)

content_refs = st.builds(env.ContentRef, sha256=hashes, length=lengths)
tasks = st.one_of(
    st.builds(
        env.PlanProposed,
        run_id=run_ids,
        plan=st.binary(min_size=1, max_size=50),
        signature=signatures,
        initial_adapter=content_refs,
    ),
    st.builds(
        env.AttemptOpened,
        run_id=run_ids,
        offer=offers,
        sums=st.lists(content_refs, max_size=2).map(tuple),
        adapter=st.none() | content_refs,
        history=st.lists(certificates, max_size=2).map(tuple),
        voided=st.lists(voided_rounds, max_size=2).map(tuple),
    ),
    st.builds(
        env.KeysAdvertised,
        run_id=run_ids,
        advertisements=st.lists(advertisements, min_size=1, max_size=3).map(tuple),
        heads=st.lists(heads_shown, max_size=2).map(tuple),
    ),
    st.builds(
        env.SharesDealt,
        run_id=run_ids,
        position=positions,
        shares=st.lists(dealt_shares, max_size=3).map(tuple),
        u2=name_sets.map(tuple),
    ),
    st.builds(
        env.SurvivorsProposed,
        run_id=run_ids,
        proposal=proposals,
        heads=st.lists(heads_shown, max_size=2).map(tuple),
    ),
    st.builds(env.UnmaskRequested, run_id=run_ids, request=unmask_requests),
    st.builds(env.RoundCompleted, run_id=run_ids, certificate=certificates, sum=st.none() | content_refs),
    st.builds(env.RoundVoided, run_id=run_ids, voided=voided_rounds),
    st.builds(env.AttemptAborted, run_id=run_ids, position=positions, code=codes),
    st.builds(env.MemberExcluded, run_id=run_ids),
    st.builds(env.EvaluationAsked, run_id=run_ids, round=from_zero, adapter=content_refs),
    st.builds(env.RunEnded, run_id=run_ids, state=st.sampled_from(["aborted", "refused"]), code=codes),
    st.builds(env.RunEnded, run_id=run_ids, state=st.just("completed"), code=st.just("")),
)
numbered_tasks = st.builds(env.NumberedTask, id=octets(16), task=tasks)

metrics = st.builds(Metric.of, st.sampled_from(METRICS), st.floats(0, 1)).map(lambda metric: expect(Metric, metric))
evaluations = st.builds(
    env.Evaluation,
    run_id=run_ids,
    plan_hash=hashes,
    round=from_zero,
    adapter_sha256=hashes,
    examples=from_one,
    metrics=st.lists(metrics, unique_by=lambda metric: metric.name).map(lambda found: tuple(sorted(found))),
    data_sha256=hashes,
    signature=signatures,
)
submissions = st.one_of(
    heads_shown,
    st.builds(
        env.MessageWithHeads,
        heads=heads_shown,
        message=st.one_of(advertisements, receipts(names), survivor_signatures, unmask_shares),
    ),
    st.builds(env.PlanApproved, run_id=run_ids, plan_hash=hashes, signature=signatures),
    st.builds(env.PlanRefused, run_id=run_ids, plan_hash=hashes, code=codes, because=texts),
    advertisements,
    bundles(),
    complaints,
    receipts(names),
    survivor_signatures,
    unmask_shares,
    st.builds(env.Abstained, run_id=run_ids, position=positions, code=codes),
    evaluations,
    st.builds(env.MemberLeft, signature=signatures),
    st.builds(env.RoundKnown, run_id=run_ids, certificate=certificates),
)

roles = st.sampled_from(list(env.Role))
hellos = st.builds(
    env.Hello,
    protocol_version=st.just(PROTOCOL_VERSION),
    software_version=st.sampled_from(["0.1.0", "1.0.0rc1"]),
    member=names,
    role=roles,
    ledger_head=heads,
    datasets=name_sets.flatmap(
        lambda ids: st.tuples(*(st.builds(env.DatasetOffer, name=st.just(name), units=from_one) for name in ids))
    ),
)
addresses = st.sampled_from(["sum.example.org:8443", "10.0.0.1:1", "[2001:db8::1]:65535"])
notices = st.builds(
    renewal.AddressNotice,
    addresses=st.lists(addresses, min_size=1, max_size=renewal.MAX_ADDRESSES).map(tuple),
    said_at=st.integers(1, MAX_CLOCK),
    signature=octets(64),
)
renewal_requests = st.builds(
    renewal.RenewalRequest, certificate_request=st.binary(min_size=1, max_size=60), identity_signature=octets(64)
)
successions = st.builds(
    renewal.Succession, certificate=st.binary(min_size=1, max_size=60), operator_signature=octets(64)
)
renewals = st.builds(
    renewal.Renewal,
    certificate=st.binary(min_size=1, max_size=60),
    authority=st.binary(min_size=1, max_size=60),
    succession=st.none() | successions,
)
welcomes = st.builds(
    env.Welcome,
    protocol_version=st.just(PROTOCOL_VERSION),
    software_version=st.just("0.1.0"),
    federation=names,
    ledger_head=heads,
    last_heads=st.lists(heads_shown, max_size=2).map(tuple),
    members=st.lists(st.builds(env.MemberEntry, name=names, role=roles, identity_key=hashes), max_size=3).map(tuple),
    clock=st.integers(0, MAX_CLOCK),
    authority=st.just(b"") | hashes,
    addresses=st.none() | notices,
)
enrolments = st.builds(
    env.Enrolment,
    protocol_version=st.just(PROTOCOL_VERSION),
    token_id=run_ids,
    token_secret=hashes.map(SecretBytes),
    name=names,
    certificate_request=st.binary(min_size=1, max_size=60),
    identity_key=hashes,
    identity_signature=signatures,
)
memberships = st.builds(
    env.Membership,
    federation=names,
    name=names,
    role=roles,
    certificate=st.binary(min_size=1, max_size=60),
    authority=st.binary(min_size=1, max_size=60),
)

chunks = st.builds(env.Chunk, offset=from_zero, data=st.binary(min_size=1, max_size=60))
task_parts = st.builds(env.TaskPart, chunk=chunks, last=st.booleans())
announcements = st.builds(env.UploadAnnounced, run_id=run_ids, position=positions, sha256=hashes, length=lengths)
polls = st.builds(
    env.PollRequest,
    seen=st.frozensets(octets(16), max_size=3),
    wait_seconds=st.integers(0, 60_000).map(lambda milliseconds: milliseconds / 1000),
)
content_requests = st.builds(env.ContentRequest, sha256=hashes, offset=st.integers(0, env.MAX_CONTENT_BYTES))
