"""A peer whose ledger was set back is noticed by whoever has seen a newer head of it, whatever the coordinator says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from participant.owner.peer_heads import PeerHeads
from privacy.errors import LocalError, PeerError
from privacy.heads import HeadsShown, LedgerHead, Moment
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg.messages import Position, SurvivorProposal, SurvivorSignature
from protos.envelope import Abstained, KeysAdvertised, Submission, SurvivorsProposed
from tests.worlds.expect import expect
from tests.worlds.owner import give
from tests.worlds.plans import signing_key
from tests.worlds.rehearsal import ME, Rehearsal, exact, heads_with

Change = Callable[[HeadsShown], HeadsShown]


@pytest.fixture
def rehearsal(tmp_path: Path) -> Rehearsal:
    made = Rehearsal(tmp_path / ME)
    made.propose()
    return made


def signed(heads: HeadsShown, by: str = "") -> HeadsShown:
    return replace(heads, signature=signing_key(by or heads.sender).sign(heads.signed_bytes(PROTOCOL_VERSION)))


def known(rehearsal: Rehearsal, member: str) -> list[object]:
    """What this participant has on disk of a peer."""
    rows = json.loads(rehearsal.me.home.peer_heads.read_text())
    value: list[object] = rows[signing_key(member).public.hex()]
    return value


def keys_told(rehearsal: Rehearsal, change: Change, *, sequence: int = 1) -> list[Submission]:
    """Let the coordinator show everybody's keys, with something wrong about bob's heads; return the answer."""
    heads = tuple(
        change(shown) if shown.sender == "bob" else shown
        for shown in heads_with(rehearsal.advertisements(), sequence=sequence)
    )
    give(rehearsal.daemon, KeysAdvertised(rehearsal.plan.run_id, rehearsal.advertisements(), heads))
    return rehearsal.me.link.take()


def older(shown: HeadsShown) -> HeadsShown:
    return signed(replace(shown, ledger=LedgerHead(0, bytes(32))))


def other_branch(shown: HeadsShown) -> HeadsShown:
    return signed(replace(shown, ledger=LedgerHead(shown.ledger.sequence, b"x" * 32)))


@pytest.mark.parametrize("change", [older, other_branch])
def test_a_peer_whose_ledger_is_older_than_was_seen_in_any_round_is_dealt_no_shares(
    rehearsal: Rehearsal, change: Change
) -> None:
    rehearsal.round(1)
    rehearsal.restart()
    rehearsal.open(2)
    rehearsal.phase()
    with capture_logs() as logs:
        (abstained,) = keys_told(rehearsal, change)
    assert isinstance(abstained, Abstained)
    assert abstained.code == "E-LEDGER-PEER"
    assert any("bob" in str(log.get("detail")) for log in logs), "its owner is told whose"
    assert known(rehearsal, "bob") == [1, (bytes([1]) * 32).hex()]


WRONG: dict[str, tuple[Change, str]] = {
    "heads of another attempt, before it was set back": (
        lambda shown: signed(replace(shown, position=Position(shown.position.plan_hash, 1, 2))),
        "E-ROUND-CONTEXT",
    ),
    "heads that went with other keys": (lambda shown: signed(replace(shown, about=bytes(32))), "E-ROUND-CONTEXT"),
    "heads of another moment": (lambda shown: signed(replace(shown, moment=Moment.UPLOAD)), "E-ROUND-CONTEXT"),
    "heads that it did not sign": (lambda shown: signed(shown, by="carol"), "E-ROUND-SIGNATURE"),
    "a head that was changed": (
        lambda shown: replace(shown, ledger=LedgerHead(9, b"9" * 32)),
        "E-ROUND-SIGNATURE",
    ),
    "the heads of somebody else": (lambda shown: signed(replace(shown, sender="dave")), "E-ROUND-SET"),
}


@pytest.mark.parametrize(("change", "code"), WRONG.values(), ids=WRONG.keys())
def test_malicious_heads_beside_keys_are_refused_and_nothing_of_them_is_kept(
    rehearsal: Rehearsal, change: Change, code: str
) -> None:
    rehearsal.open()
    rehearsal.phase()
    (abstained,) = keys_told(rehearsal, change)
    assert isinstance(abstained, Abstained)
    assert abstained.code == code
    assert not rehearsal.me.home.peer_heads.exists()


def test_malicious_set_without_the_heads_of_its_members_is_refused(rehearsal: Rehearsal) -> None:
    rehearsal.open()
    rehearsal.phase()
    for heads in ((), heads_with(rehearsal.advertisements())[1:], heads_with(rehearsal.advertisements())[::-1]):
        give(rehearsal.daemon, KeysAdvertised(rehearsal.plan.run_id, rehearsal.advertisements(), heads))
        (abstained,) = rehearsal.me.link.take()
        assert isinstance(abstained, Abstained)
        assert abstained.code == "E-ROUND-SET"


def test_malicious_heads_of_whoever_is_not_on_the_roster_are_refused(rehearsal: Rehearsal) -> None:
    rehearsal.open()
    rehearsal.phase()
    (bob, *_) = [shown for shown in heads_with(rehearsal.advertisements()) if shown.sender == "bob"]
    stranger = signed(replace(bob, sender="mallory"))
    with pytest.raises(PeerError, match="each member of the set shows"):
        PeerHeads(rehearsal.me.home.peer_heads).admit(
            rehearsal.plan, [stranger], at=bob.position, moment=Moment.ADVERTISE, about={"mallory": bob.about}
        )


def proposed(rehearsal: Rehearsal) -> SurvivorProposal:
    """Play a round until its survivors are proposed."""
    rehearsal.open()
    for _ in range(3):
        rehearsal.phase()
    return expect(SurvivorProposal, rehearsal.outbox())


def survivors_told(rehearsal: Rehearsal, proposal: SurvivorProposal, *heads: HeadsShown) -> list[Submission]:
    give(rehearsal.daemon, SurvivorsProposed(rehearsal.plan.run_id, proposal, heads))
    return rehearsal.me.link.take()


def test_the_heads_after_a_charge_are_on_disk_before_the_survivors_are_signed(rehearsal: Rehearsal) -> None:
    """Whoever signs a sum remembers what it cost each of its survivors."""
    proposal = proposed(rehearsal)
    seen: list[object] = []
    rehearsal.me.link.before = lambda what: seen.append(known(rehearsal, "bob")) if what == "HeadsShown" else None
    (signature,) = survivors_told(rehearsal, proposal, *heads_with(proposal.receipts, sequence=2))
    assert isinstance(signature, SurvivorSignature)
    assert seen == [[2, (bytes([2]) * 32).hex()]]


def test_survivors_whose_heads_are_missing_or_older_are_not_signed(rehearsal: Rehearsal) -> None:
    proposal = proposed(rehearsal)
    heads = heads_with(proposal.receipts)
    bob = next(shown for shown in heads if shown.sender == "bob")
    for told in (
        (),
        tuple(older(shown) if shown is bob else shown for shown in heads),
        tuple(signed(replace(shown, about=bytes(32))) if shown is bob else shown for shown in heads),
    ):
        assert survivors_told(rehearsal, proposal, *told) == []
    assert rehearsal.part._journal.memory.signed is None
    (signature,) = survivors_told(rehearsal, proposal, *heads)
    assert isinstance(signature, SurvivorSignature)


def test_a_ledger_that_went_on_is_summed_with_as_ever(rehearsal: Rehearsal) -> None:
    rehearsal.round(1)
    rehearsal.open(2)
    rehearsal.phase()
    assert not isinstance(keys_told(rehearsal, lambda shown: shown, sequence=7)[0], Abstained)
    assert known(rehearsal, "bob") == [7, (bytes([7]) * 32).hex()]


def test_a_whole_round_writes_the_file_once_where_no_ledger_has_changed(rehearsal: Rehearsal) -> None:
    assert ME in exact(rehearsal, rehearsal.round(1))
    before = rehearsal.me.home.peer_heads.stat().st_mtime_ns
    rehearsal.round(2)
    assert rehearsal.me.home.peer_heads.stat().st_mtime_ns == before


@pytest.mark.parametrize("data", [b"", b"[]", b'{"a":1}', b'{"a":["1","00"]}', b'{"a":[1,"zz"]}', b"\xff"])
def test_a_file_of_heads_that_does_not_parse_is_no_empty_one(rehearsal: Rehearsal, data: bytes) -> None:
    rehearsal.me.home.peer_heads.write_bytes(data)
    with pytest.raises(LocalError, match="E-STATE-DAMAGED"):
        PeerHeads(rehearsal.me.home.peer_heads)._read()
