"""The backend of the network service: joining, handshakes, polls, downloads."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from coordinator.daemon.runner import Runner
from coordinator.database import member_rows
from coordinator.database.member_rows import TokenRecord
from coordinator.runs.attempt import MOST_SHOWN
from host import credentials
from privacy.errors import PeerError
from privacy.heads import JournalHead, Moment
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg.messages import Advertisement, MaskedUpload, Position
from privacy.secret import SecretBytes
from protos import envelope as env
from protos.invitation import enrolment_bytes, token_hash
from tests.worlds.coordinator import EVALUATOR, RUN_ID, Send, World
from tests.worlds.federation import SeededSource
from tests.worlds.plans import signing_key

SECRET = SecretBytes(b"s" * 32)
TOKEN_ID = "ab" * 16
NO_HEAD = env.LedgerHead(0, b"")


def request(name: str = "dora", *, key: str = "dora", token: str = TOKEN_ID) -> env.Enrolment:
    """Return what a newcomer sends."""
    tls = credentials.new_tls_key(SeededSource(f"tls of {key}"))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(tls, hashes.SHA256())
    signed = enrolment_bytes(
        federation="test-federation", token_id=token, name=name, tls_key=credentials.spki(tls.public_key())
    )
    return env.Enrolment(
        protocol_version=PROTOCOL_VERSION,
        token_id=token,
        token_secret=SECRET,
        name=name,
        certificate_request=csr.public_bytes(Encoding.DER),
        identity_key=signing_key(key).public,
        identity_signature=signing_key(key).sign(signed),
    )


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A federation of three and an evaluator, with an open invitation for dora."""
    world = World(tmp_path, evaluated=True)
    now = int(world.clock.now())
    token = TokenRecord(
        token_id=TOKEN_ID,
        secret_hash=token_hash(TOKEN_ID, SECRET),
        name="dora",
        role=env.Role.PARTICIPANT,
        labels="city=ulm",
        made_at=now,
        expires_at=now + 60,
    )
    with world.store.begin() as connection:
        member_rows.add_token(connection, token)
    world.runner.discover()
    return world


# --- joining ---


def test_a_newcomer_gets_a_certificate_that_names_it_and_the_token_is_spent(world: World) -> None:
    answer = asyncio.run(world.runner.enrol(request()))
    names = x509.load_pem_x509_certificate(answer.certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["dora"]
    assert (answer.federation, answer.role) == ("test-federation", env.Role.PARTICIPANT)
    with world.store.read() as connection:
        assert member_rows.list_tokens(connection)[0].used_at is not None
        assert member_rows.active_member(connection, "dora").labels == "city=ulm"


def test_the_same_keys_again_get_the_same_certificate_because_an_answer_may_be_lost(world: World) -> None:
    one, other = (asyncio.run(world.runner.enrol(request())) for _ in range(2))
    assert one == other


def test_a_spent_token_with_other_keys_is_refused_and_logged(world: World) -> None:
    asyncio.run(world.runner.enrol(request()))
    with pytest.raises(PeerError, match="E-TOKEN-USED"):
        asyncio.run(world.runner.enrol(request(key="mallory")))
    with world.store.read() as connection:
        assert "token-reused" in [row.kind for row in member_rows.security_log(connection)]


def test_an_expired_token_is_refused(world: World) -> None:
    world.clock.seconds += 61
    with pytest.raises(PeerError, match="E-TOKEN-EXPIRED"):
        asyncio.run(world.runner.enrol(request()))


def test_an_unknown_token_is_refused(world: World) -> None:
    with pytest.raises(PeerError, match="E-TOKEN-UNKNOWN"):
        asyncio.run(world.runner.enrol(request(token="cd" * 16)))


def test_a_key_that_signed_another_name_is_refused_and_spends_nothing(world: World) -> None:
    wrong = replace(request(), name="eve")
    with pytest.raises(PeerError, match="E-IDENTITY-MISMATCH"):
        asyncio.run(world.runner.enrol(wrong))
    assert asyncio.run(world.runner.enrol(request())).name == "dora"


def test_another_protocol_version_is_refused_naming_both(world: World) -> None:
    with pytest.raises(
        PeerError, match=f"protocol {PROTOCOL_VERSION + 1}, this coordinator speaks protocol {PROTOCOL_VERSION}"
    ):
        asyncio.run(world.runner.enrol(replace(request(), protocol_version=PROTOCOL_VERSION + 1)))


# --- handshake ---


def hello(**changes: Any) -> env.Hello:
    """Return what alice's daemon says first, with changes."""
    said = env.Hello(
        PROTOCOL_VERSION, "0.1.0", "alice", env.Role.PARTICIPANT, NO_HEAD, (env.DatasetOffer("digits", 100),)
    )
    return replace(said, **changes)


def test_a_handshake_notes_datasets_and_tells_who_else_is_enrolled(world: World) -> None:
    welcome = asyncio.run(world.runner.handshake("alice", hello()))
    assert {member.name for member in welcome.members} == {"alice", "bob", "carol", EVALUATOR}
    assert welcome.federation == "test-federation"
    assert welcome.last_heads == ()
    with world.store.read() as connection:
        assert member_rows.announced(connection, "alice") == (env.DatasetOffer("digits", 100),)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"protocol_version": 7}, "E-VERSION"),
        ({"member": "bob"}, "E-IDENTITY-MISMATCH"),
        ({"role": env.Role.EVALUATOR}, "E-IDENTITY-MISMATCH"),
    ],
)
def test_a_handshake_that_does_not_fit_the_caller_is_refused(
    world: World, changes: dict[str, object], code: str
) -> None:
    with pytest.raises(PeerError, match=code):
        asyncio.run(world.runner.handshake("alice", hello(**changes)))


def test_an_older_ledger_head_is_told_the_newest_that_was_seen(world: World) -> None:
    newest = env.LedgerHead(9, b"9" * 32)

    async def scenario() -> None:
        assert (await world.runner.handshake("alice", hello(ledger_head=newest))).ledger_head == newest
        older = hello(ledger_head=env.LedgerHead(8, b"8" * 32))
        assert (await world.runner.handshake("alice", older)).ledger_head == newest

    asyncio.run(scenario())


def heads(world: World, sequence: int, length: int, **changes: Any) -> env.HeadsShown:
    """Return heads that alice signs in the run's first attempt."""
    ledger = env.LedgerHead(sequence, bytes([sequence]) * 32)
    ledger = replace(ledger, signature=signing_key("alice").sign(ledger.signed_bytes))
    journal = JournalHead(length, bytes([length]) * 32)
    at = Position(world.plan.hash, 1, 1)
    unsigned = replace(env.HeadsShown(at, "alice", Moment.TRAIN, journal, ledger), **changes)
    return replace(unsigned, signature=signing_key("alice").sign(unsigned.signed_bytes(PROTOCOL_VERSION)))


def test_the_handshake_returns_what_a_member_showed_last_in_each_run_also_after_a_restart(world: World) -> None:
    async def scenario() -> None:
        while not world.attempts() or world.attempts()[-1].phase != "SHARE_KEYS":
            await world.turn()
        for shown in (heads(world, 5, 2), heads(world, 6, 3), heads(world, 6, 3)):
            await world.runner.submit("alice", shown)
        for runner in (world.runner, world.daemon()):
            welcome = await runner.handshake("alice", hello(ledger_head=env.LedgerHead(2, b"2" * 32)))
            assert welcome.last_heads == (heads(world, 6, 3),)
            assert welcome.ledger_head == heads(world, 6, 3).ledger
            others = (await runner.handshake("bob", hello(member="bob"))).last_heads
            assert [shown.sender for shown in others] == ["bob"]
        world.members["alice"].shown = 6
        await world.settle()

    asyncio.run(scenario())
    assert len(world.rounds()) == 2, "what a member shows is no message of a round"


def test_a_member_that_lost_a_plan_is_given_it_by_its_hash_also_long_after_the_run_and_nobody_else_is(
    world: World,
) -> None:
    async def plan_of(runner: Runner, member: str, plan_hash: bytes, offset: int = 0) -> bytes:
        return b"".join([data async for data in runner.read_content(member, plan_hash, offset)])

    async def scenario() -> None:
        await world.settle()
        world.clock.seconds += 365 * 86_400
        forgetful, plan = world.daemon(), world.plan
        assert await plan_of(forgetful, "alice", plan.hash) == plan.to_bytes()
        assert await plan_of(forgetful, "alice", plan.hash, 100) == plan.to_bytes()[100:]
        for member, plan_hash in (("alice", b"p" * 32), (EVALUATOR, plan.hash)):
            with pytest.raises(PeerError, match="no such content"):
                await plan_of(forgetful, member, plan_hash)

    asyncio.run(scenario())


def test_malicious_messages_without_their_heads_or_with_others_are_not_taken(world: World) -> None:
    """Peers are shown both or neither: no member can spoil the set of the others."""
    alice, refusals = world.members["alice"], list[str]()

    async def without(message: Any) -> None:
        if isinstance(message, Advertisement | MaskedUpload):
            attempt = world.run().attempt
            assert attempt is not None
            moment = Moment.ADVERTISE if isinstance(message, Advertisement) else Moment.UPLOAD
            shown = attempt.heads.pop((alice.name, moment))
            refusals.append(await refusal(alice.deliver(message)))
            attempt.heads[alice.name, moment] = replace(shown, about=bytes(32))
            refusals.append(await refusal(alice.deliver(message)))
            attempt.heads[alice.name, moment] = shown
            other = replace(shown, about=bytes(32))
            other = replace(other, signature=signing_key("alice").sign(other.signed_bytes(PROTOCOL_VERSION)))
            refusals.append(await refusal(world.runner.submit("alice", other)))
        await alice.deliver(message)

    async def scenario() -> None:
        alice.send = without
        await world.settle()

    asyncio.run(scenario())
    assert len(world.rounds()) == 2
    assert set(refusals) == {"E-WIRE-UNEXPECTED", "E-ROUND-CONTEXT"}
    assert refusals[2::3] == ["E-ROUND-CONTEXT"] * 4


async def refusal(call: Awaitable[object]) -> str:
    """Return the code with which a call is refused."""
    with pytest.raises(PeerError) as refused:
        await call
    return refused.value.code


def test_sets_come_with_the_heads_of_their_members_also_after_a_restart(world: World) -> None:
    told: list[tuple[list[str], list[str]]] = []

    async def until(phase: str) -> None:
        while True:
            await world.runner.tick()
            if world.attempts() and world.attempts()[-1].phase == phase:
                return
            for member in world.members.values():
                await member.step()

    async def scenario() -> None:
        for phase in ("SHARE_KEYS", "AGREE_SURVIVORS"):
            await until(phase)
            again = world.daemon()
            await again.tick()
            for name in world.members:
                for due in world.run(again).tasks(name):
                    match due.make():
                        case env.KeysAdvertised(_, advertisements, heads):
                            told.append(([keys.sender for keys in advertisements], [shown.sender for shown in heads]))
                        case env.SurvivorsProposed(_, proposal, heads):
                            members = [receipt.sender for receipt in proposal.receipts]
                            told.append((members, [shown.sender for shown in heads]))

    asyncio.run(scenario())
    everybody = sorted(world.members)
    assert told == [(everybody, everybody)] * 2 * len(everybody)


def test_malicious_heads_without_end_write_a_bounded_number_of_rows(world: World) -> None:
    async def scenario() -> list[str]:
        while not world.attempts():
            await world.turn()
        for number in range(2, 2 + MOST_SHOWN):
            await world.runner.submit("alice", heads(world, number, number))
        return [await refusal(world.runner.submit("alice", heads(world, number, number))) for number in (30, 31)]

    assert asyncio.run(scenario()) == ["E-ROUND-CONTEXT"] * 2
    assert asyncio.run(world.runner.handshake("alice", hello())).ledger_head.sequence == 1 + MOST_SHOWN


def test_heads_of_an_attempt_that_is_over_change_nothing(world: World) -> None:
    async def scenario() -> env.Welcome:
        await world.settle()
        before = await world.runner.handshake("alice", hello())
        await world.runner.submit("alice", heads(world, 99, 99))
        assert await world.runner.handshake("alice", hello()) == before
        return before

    assert asyncio.run(scenario()).last_heads


OLDER: dict[str, tuple[dict[str, Any], str]] = {
    "an older ledger": ({"sequence": 5, "length": 4}, "its ledger ends at record 5, it showed 6"),
    "an older journal": ({"sequence": 7, "length": 2}, "its journal ends at record 2, it showed 3"),
    "a ledger of another branch": (
        {"sequence": 6, "length": 4, "ledger": env.LedgerHead(6, b"x" * 32, bytes(64))},
        "its ledger ends at record 6, it showed 6",
    ),
    "a journal of another branch": (
        {"sequence": 6, "length": 3, "journal": JournalHead(3, b"x" * 32)},
        "its journal ends at record 3, it showed 3",
    ),
    "another member's name": ({"sequence": 9, "length": 9, "sender": "bob"}, "not signed by its identity key"),
    "another plan": (
        {"sequence": 9, "length": 9, "position": Position(b"p" * 32, 1, 1)},
        "no run of this member has this plan",
    ),
    "an attempt that was never opened": ({"sequence": 9, "length": 9, "attempt": 3}, "no such attempt was opened"),
}


@pytest.mark.parametrize(("changes", "rule"), OLDER.values(), ids=OLDER.keys())
def test_malicious_heads_are_refused_and_what_was_shown_before_stands(
    world: World, changes: dict[str, Any], rule: str
) -> None:
    if "attempt" in changes:
        position = Position(world.plan.hash, 1, changes["attempt"])
        changes = {**{key: value for key, value in changes.items() if key != "attempt"}, "position": position}

    async def scenario() -> env.Welcome:
        while not world.attempts():
            await world.turn()
        await world.runner.submit("alice", heads(world, 6, 3))
        with pytest.raises(PeerError, match=rule):
            await world.runner.submit("bob" if "sender" in changes else "alice", heads(world, **changes))
        return await world.runner.handshake("alice", hello())

    welcome = asyncio.run(scenario())
    assert welcome.last_heads == (heads(world, 6, 3),)
    assert welcome.ledger_head == heads(world, 6, 3).ledger


def test_a_revoked_member_is_refused_everywhere(world: World) -> None:
    with world.store.begin() as connection:
        member_rows.revoke_member(connection, "alice", 1)
    world.runner.discover()
    for call in (
        world.runner.handshake("alice", hello()),
        world.runner.next_task("alice", frozenset(), 0),
        world.runner.submit("alice", env.PlanRefused(RUN_ID, world.plan.hash, "E-POLICY-RULE", "")),
    ):
        with pytest.raises(PeerError, match="E-MEMBER-REVOKED"):
            asyncio.run(call)


# --- polls ---


def test_a_poll_that_finds_nothing_waits_and_then_says_so(world: World) -> None:
    async def scenario() -> None:
        await world.settle()
        seen = frozenset(world.members["alice"].seen)
        assert await world.runner.next_task("alice", seen, 0.05) is None

    asyncio.run(scenario())


def test_a_waiting_poll_is_woken_by_what_others_do(world: World) -> None:
    async def scenario() -> None:
        await world.runner.tick()
        proposed = await world.runner.next_task("alice", frozenset(), 0)
        assert proposed is not None
        assert isinstance(proposed.task, env.PlanProposed)
        waiting = asyncio.create_task(world.runner.next_task("alice", frozenset({proposed.id}), 5))
        await asyncio.sleep(0)
        assert world.runner.liveness.live("alice")
        for member in world.members.values():
            await member.step()
        await world.runner.tick()
        await world.runner.tick()
        task = await asyncio.wait_for(waiting, 1)
        assert task is not None
        assert isinstance(task.task, env.AttemptOpened)

    asyncio.run(scenario())


def test_a_cut_poll_ends_the_heartbeat_after_the_grace(world: World) -> None:
    async def scenario() -> None:
        poll = asyncio.create_task(world.runner.next_task("carol", frozenset(), 30))
        await asyncio.sleep(0)
        poll.cancel()
        await asyncio.gather(poll, return_exceptions=True)

    asyncio.run(scenario())
    assert world.runner.liveness.live("carol")
    world.clock.seconds += 2
    assert not world.runner.liveness.live("carol")


# --- downloads ---


async def content(runner: Runner, member: str, sha256: bytes, offset: int = 0) -> bytes:
    return b"".join([data async for data in runner.read_content(member, sha256, offset)])


def test_members_may_read_their_runs_adapters_and_nothing_else(world: World) -> None:
    async def scenario() -> None:
        await world.settle()
        start = world.adapter(0).tobytes()
        sha = hashlib.sha256(start).digest()
        assert await content(world.runner, "alice", sha) == start
        assert await content(world.runner, EVALUATOR, sha, offset=8) == start[8:]
        initial = bytes.fromhex(world.plan.recipe.adapter.initial_hash)
        assert hashlib.sha256(await content(world.runner, "bob", initial)).digest() == initial
        with pytest.raises(PeerError):
            await content(world.runner, "alice", hashlib.sha256(b"authority/operator.key").digest())
        await world.runner.enrol(request())
        with pytest.raises(PeerError):
            await content(world.runner, "dora", sha)

    asyncio.run(scenario())


# --- messages ---


def test_late_messages_of_a_finished_round_change_nothing_and_are_no_error(world: World) -> None:
    async def scenario() -> None:
        sent: list[tuple[str, object]] = []
        for member in world.members.values():
            send = member.send

            async def keep(message: object, name: str = member.name, send: Send = send) -> None:
                sent.append((name, message))
                await send(message)

            member.send = keep  # everything is kept for later
        await world.settle()
        before = world.rounds(), world.attempts()
        for name, message in sent:
            if not isinstance(message, tuple):
                await world.runner.submit(name, message)  # type: ignore[arg-type]  # a submission
        assert (world.rounds(), world.attempts()) == before

    asyncio.run(scenario())


def test_an_approval_with_anothers_signature_is_refused(world: World) -> None:
    async def scenario() -> None:
        await world.runner.tick()
        task = await world.runner.next_task("alice", frozenset(), 0)
        assert task is not None
        forged = env.PlanApproved(RUN_ID, world.plan.hash, signing_key("bob").sign(b"anything"))
        with pytest.raises(PeerError, match="E-ROUND-SIGNATURE"):
            await world.runner.submit("alice", forged)
        with pytest.raises(PeerError, match="E-PLAN-CHANGED"):
            await world.runner.submit("alice", env.PlanRefused(RUN_ID, b"x" * 32, "E-POLICY-RULE", ""))
        assert await world.runner.next_task("alice", frozenset(), 0) == task

    asyncio.run(scenario())


@pytest.mark.parametrize("signer", ["alice", EVALUATOR])
def test_only_the_evaluators_signed_measurement_of_a_released_adapter_is_kept(world: World, signer: str) -> None:
    async def scenario() -> None:
        for _ in range(4):
            await world.runner.tick()
            for member in world.members.values():
                await member.step()
        task = await world.runner.next_task(EVALUATOR, frozenset(), 0)
        assert task is not None
        assert isinstance(task.task, env.PlanProposed)
        later = await world.runner.next_task(EVALUATOR, frozenset({task.id}), 0)
        assert later is not None
        assert isinstance(later.task, env.EvaluationAsked)
        measured = world.measurement(later.task, signing_key(signer))
        if signer == EVALUATOR:
            await world.runner.submit(EVALUATOR, measured)
            await world.runner.submit(EVALUATOR, measured)
            with pytest.raises(PeerError, match="E-WIRE-UNEXPECTED"):
                await world.runner.submit(EVALUATOR, replace(measured, round=7))
            with pytest.raises(PeerError, match="E-WIRE-UNEXPECTED"):
                await world.runner.submit("alice", measured)
        else:
            with pytest.raises(PeerError, match="E-ROUND-SIGNATURE"):
                await world.runner.submit(EVALUATOR, measured)

    asyncio.run(scenario())
