"""Every parser of untrusted input: each target takes any bytes and may accept them, or refuse them with a typed error.

A target that raises anything else, or accepts what it would not write itself, has a bug.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from audit.verify import verify_report
from coordinator.protocol.round import CoordinatorRound
from coordinator.runs.uploads import Upload, UploadStore
from participant.owner.policy import parse_policy, policy_template
from participant.protocol.memory import record_to_json
from participant.runs.journal import Journal
from participant.runs.tasks import RoundTask, position_of
from privacy import canonical, ledger
from privacy.dp.events import Gaussian, PoissonSampled
from privacy.errors import LocalError, OnlysumError, PeerError, Phase, PlanError, VerificationError
from privacy.ledger_entries import Charge, Entry, Genesis
from privacy.plan import Plan
from privacy.secagg.messages import AttemptOffer, MaskedUpload, Position, RoundCertificate, VoidedRound
from protos import codec
from protos import envelope as env
from tests.worlds.codecs import PAIRS
from tests.worlds.federation import Federation
from tests.worlds.plans import make_plan, signing_key
from tests.worlds.rehearsal import task_that_says
from tests.worlds.reports import coordinator_report, participant_report

RUN: str = "00112233445566778899aabbccddeeff"
OWNER = signing_key("alice")


@dataclass(frozen=True)
class Target:
    """Something that reads bytes, and valid inputs to begin with."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


# --- messages ---

KINDS = sorted(PAIRS)


def codec_target(data: bytes) -> None:
    """The first byte chooses the kind of message."""
    if not data:
        return
    pair = PAIRS[KINDS[data[0] % len(KINDS)]]
    try:
        value = pair.decode(data[1:])
    except PeerError:
        return
    assert pair.encode(value) == data[1:], "a message has one form"


@cache
def said() -> tuple[env.Submission, ...]:
    """All that is said in a round."""
    federation = Federation(3, 0)
    offer = federation.offer(1, 1)
    attempt = federation.round = CoordinatorRound(federation.plan, offer)
    found: list[env.Submission] = []
    while attempt.phase is not Phase.RESULT:
        for name in sorted(attempt.expected()):
            for answer in federation.participants[name].hear(attempt.outbox(name)):
                found.append(answer.receipt if isinstance(answer, MaskedUpload) else answer)
                attempt.receive(answer)
        attempt.close()
    return tuple(found)


def codec_seeds() -> list[bytes]:
    """One byte for the kind, then a message."""
    kind = bytes([KINDS.index("submission")])
    return [kind + codec.encode_submission(one) for one in said()] + [bytes([place]) for place in range(len(KINDS))]


def task_target(data: bytes) -> None:
    """What a coordinator asks is of an attempt that a daemon can name, before anything else is known of it."""
    try:
        numbered = codec.decode_task(data)
    except PeerError:
        return
    assert codec.encode_task(numbered) == data
    if isinstance(numbered.task, RoundTask):
        assert position_of(numbered.task).order >= (1, 1)


def task_seeds() -> list[bytes]:
    """All that is asked in a round."""
    federation = Federation(3, 0)
    result = federation.run_round()
    at = result.certificate.position
    tasks: list[env.Task] = [
        env.AttemptOpened(RUN, federation.offer(2, 1), (env.ContentRef(bytes(32), 4),), (result.certificate,)),
        env.RoundCompleted(RUN, result.certificate),
        env.AttemptAborted(RUN, at, "E-ROUND-TOO-FEW"),
        env.MemberExcluded(RUN),
        env.RoundVoided(RUN, VoidedRound(at.plan_hash, 1)),
        env.RunEnded(RUN, "completed", ""),
        *_asked(),
    ]
    return [codec.encode_task(env.NumberedTask(bytes(16), task)) for task in tasks]


def _asked() -> Iterator[env.Task]:
    federation = Federation(3, 0)
    attempt = federation.round = CoordinatorRound(federation.plan, federation.offer(1, 1))
    while attempt.phase is not Phase.RESULT:
        federation.collect({}, [])
        attempt.close()
        match attempt.outbox("bob"):
            case None | AttemptOffer() | RoundCertificate():
                continue
            case told:
                yield task_that_says(told, RUN)


# --- documents ---


def canonical_target(data: bytes) -> None:
    """Canonical JSON has one form."""
    try:
        value = canonical.decode(data)
    except ValueError:
        return
    assert canonical.encode(value) == data


def plan_target(data: bytes) -> None:
    """A plan that parses is written the same again."""
    try:
        plan = Plan.from_bytes(data)
    except PlanError:
        return
    assert plan.to_bytes() == data


def plan_seeds() -> list[bytes]:
    """Plans of several modes."""
    return [make_plan(mode=mode)[0].to_bytes() for mode in ("none", "local", "distributed")]


def report_target(data: bytes) -> None:
    """A report verifies, or says which check failed."""
    try:
        verify_report(data)
    except VerificationError:
        return


def policy_target(data: bytes) -> None:
    """An owner's typing mistakes are named."""
    try:
        parse_policy(data.decode(errors="replace"))
    except LocalError:
        return


def ledger_target(data: bytes) -> None:
    """An exported ledger verifies and is written the same again, or is damaged."""
    try:
        records = ledger.verify_export(data, key=OWNER.public)
    except VerificationError:
        return
    assert ledger.export(records) == data


def ledger_seeds() -> list[bytes]:
    """A ledger with its beginning and two charges."""
    entries: list[Entry] = [
        Genesis(owner="alice", key=OWNER.public),
        *(
            Charge(
                run_id=RUN,
                plan_hash=bytes(32),
                round=number,
                population="patients",
                unit="example",
                relation="zero-out",
                event=PoissonSampled(0.1, Gaussian(2.0)),
                delta="0.00001",
            )
            for number in (1, 2)
        ),
    ]
    records: list[ledger.Record] = []
    for entry in entries:
        records.append(ledger.append(records[-1] if records else None, entry, at=7, key=OWNER))
    return [ledger.export(records)]


# --- what lies on disk ---


@contextmanager
def directory() -> Iterator[Path]:
    """A directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="onlysum-fuzz-") as name:
        yield Path(name)


def journal_target(data: bytes) -> None:
    """A damaged journal is refused; one that opens, opens again to the same memory, and can be added to."""
    with directory() as place:
        (place / "journal").write_bytes(data)
        try:
            journal = Journal.open(place, bytes(32))
        except OnlysumError as error:
            assert error.code == "E-STATE-DAMAGED"  # noqa: PT017  # a target, no test
            return
        assert Journal.open(place, bytes(32)).memory == journal.memory


def journal_seeds() -> list[bytes]:
    """The journal of a round, in whole and cut."""
    federation = Federation(3, 0)
    federation.run_round()
    with directory() as place:
        journal = Journal.open(place, bytes(32))
        for record in federation.participants["bob"].journal.records:
            journal.append(record)
            assert record_to_json(record)
        whole = (place / "journal").read_bytes()
    lines = whole.splitlines(keepends=True)
    return [whole, whole[:-7], *(b"".join(lines[:count]) for count in range(len(lines)))]


UPLOAD = Upload(RUN, Position(bytes(32), 1, 1), "alice", bytes(32), 64)


def chunks_target(data: bytes) -> None:
    """Chunks in any order: what is assembled is what was accepted, in order, and never longer than announced."""
    expected = b""
    with directory() as place:
        spool = UploadStore(place)
        assert spool.open(UPLOAD.run_id, UPLOAD.position) == {}
        assert spool.offset(UPLOAD, ()) == 0
        for at in range(0, len(data) - 1, 2):
            offset, length = data[at], data[at + 1] % 40
            chunk = data[at : at + length]
            try:
                after = spool.append(UPLOAD, offset, chunk)
            except PeerError:
                continue
            assert offset == len(expected)
            expected += chunk
            assert after == len(expected) == spool.offset(UPLOAD, (spool.path(UPLOAD),))
        assert len(expected) <= UPLOAD.length
        assert (spool.path(UPLOAD).read_bytes() if spool.path(UPLOAD).exists() else b"") == expected


TARGETS: dict[str, Target] = {
    "codec": Target(codec_target, codec_seeds),
    "tasks": Target(task_target, task_seeds),
    "canonical": Target(canonical_target, plan_seeds),
    "plan": Target(plan_target, plan_seeds),
    "report": Target(report_target, lambda: [coordinator_report()[1], participant_report()[1]]),
    "policy": Target(policy_target, lambda: [policy_template("ab" * 32).encode()]),
    "ledger": Target(ledger_target, ledger_seeds),
    "journal": Target(journal_target, journal_seeds),
    "chunks": Target(chunks_target, lambda: [bytes([0, 20, 20, 20, 40, 24]), bytes([0, 39, 39, 25])]),
}
