"""The journal on disk: what was promised is there again, and whatever is not exactly that is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from host import durable
from participant.protocol.memory import (
    Record,
    RoundClosed,
    RunMemory,
    record_from_json,
    record_to_json,
    shares_from_bytes,
    shares_to_bytes,
)
from participant.runs import journal as journal_module
from participant.runs.journal import Journal
from privacy import canonical
from privacy.errors import LocalError, VerificationError
from privacy.heads import JournalHead
from privacy.secagg.dealing import HeldShare
from tests.worlds.federation import Federation

PLAN = b"\1" * 32


def records() -> list[Record]:
    """Every kind of record but a refusal, from two rounds."""
    federation = Federation(3, 0)
    for _ in range(2):
        federation.run_round()
    return federation.participants["bob"].journal.records


def written(place: Path) -> Journal:
    journal = Journal.open(place, PLAN)
    for record in records():
        journal.append(record)
    return journal


def test_what_was_appended_is_there_again(tmp_path: Path) -> None:
    journal = written(tmp_path)
    assert Journal.open(tmp_path, PLAN).memory == journal.memory
    assert journal.memory.completed == 2


def test_a_journal_contains_each_head_that_it_ever_had_and_no_other(tmp_path: Path) -> None:
    journal, heads = Journal.open(tmp_path, PLAN), list[JournalHead]()
    for record in records():
        heads.append(journal.head)
        journal.append(record)
    heads.append(journal.head)
    again = Journal.open(tmp_path, PLAN)
    assert [head.length for head in heads] == [*range(len(heads))]
    assert all(again.contains(head) for head in heads)
    assert again.head == heads[-1]
    for other in (JournalHead(len(heads), bytes(32)), JournalHead(3, bytes(32)), replace(heads[3], length=4)):
        assert not again.contains(other)


def test_the_first_reason_for_which_a_run_is_refused_stands(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, PLAN)
    journal.refuse("E-LEDGER-ROLLBACK")
    journal.refuse("E-ROUND-TRANSCRIPT")
    assert Journal.open(tmp_path, PLAN).memory.refused == "E-LEDGER-ROLLBACK"
    assert journal.head.length == 1


def test_a_journal_that_was_opened_again_goes_on_from_its_head(tmp_path: Path) -> None:
    one, *others = records()
    Journal.open(tmp_path, PLAN).append(one)
    for record in others:
        Journal.open(tmp_path, PLAN).append(record)
    assert Journal.open(tmp_path, PLAN).memory == written(tmp_path / "at once").memory


@pytest.mark.parametrize("cut", [1, 5, 50])
def test_a_last_line_that_a_crash_cut_off_is_dropped(tmp_path: Path, cut: int) -> None:
    journal = written(tmp_path)
    path = tmp_path / "journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal.open(tmp_path, PLAN)
    assert path.read_bytes() == b"".join(lines[:-1])
    again.append(records()[-1])
    assert again.memory == journal.memory


Damage = Callable[[list[bytes]], list[bytes]]


def _reworded(lines: list[bytes], change: Callable[[Any], None]) -> list[bytes]:
    """The first line says something else, canonically, and all hashes fit: only its meaning is wrong."""
    value = json.loads(lines[0])
    change(value)
    return chained([value, *map(json.loads, lines[1:])])


def chained(values: list[Any]) -> list[bytes]:
    """Return lines in which each hash is that of all records so far."""
    head, lines = hashlib.sha256(b"onlysum/1/journal" + PLAN).digest(), []
    for value in values:
        if "record" in value:
            head = hashlib.sha256(head + canonical.encode(value["record"])).digest()
            value["chain"] = head.hex()
        lines.append(canonical.encode(value) + b"\n")
    return lines


DAMAGES: dict[str, Damage] = {
    "its first line is gone": lambda lines: lines[1:],
    "a line in the middle is gone": lambda lines: [*lines[:2], *lines[3:]],
    "two lines are swapped": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "a line comes twice": lambda lines: [lines[0], *lines],
    "a line is no JSON": lambda lines: [b"{\n", *lines[1:]],
    "its last line is no JSON": lambda lines: [*lines[:-1], b"{\n"],
    "its last line is no record": lambda lines: [*lines[:-1], lines[-1].replace(b'"kind":"', b'"kind":"x')],
    "a line is not canonical": lambda lines: [lines[0].replace(b":", b": ", 1), *lines[1:]],
    "a line has another field": lambda lines: _reworded(lines, lambda value: value.update(extra=1)),
    "a line has no record": lambda lines: _reworded(lines, lambda value: value.pop("record")),
    "a record is of an unknown kind": lambda lines: _reworded(lines, lambda v: v["record"].update(kind="Else")),
    "a record lacks a field": lambda lines: _reworded(lines, lambda v: v["record"]["value"].pop("round")),
    "a record has a field too many": lambda lines: _reworded(lines, lambda v: v["record"]["value"].update(extra=1)),
    "a number is a text": lambda lines: _reworded(lines, lambda v: v["record"]["value"].update(round="1")),
    "a number is true": lambda lines: _reworded(lines, lambda v: v["record"]["value"].update(round=True)),
    "a number is nothing": lambda lines: _reworded(lines, lambda v: v["record"]["value"].update(round=None)),
    "a changed number": lambda lines: [lines[0].replace(b'"round":1', b'"round":3'), *lines[1:]],
    "a line has no hash": lambda lines: [lines[0].replace(b'"chain":', b'"chaim":'), *lines[1:]],
}


def test_a_journal_whose_hashes_fit_opens(tmp_path: Path) -> None:
    """So that what is refused below with fitting hashes is refused for what it says."""
    (tmp_path / "journal").write_bytes(b"".join(chained([{"record": record_to_json(record)} for record in records()])))
    assert Journal.open(tmp_path, PLAN).memory == written(tmp_path / "written").memory


@pytest.mark.parametrize("sentence", DAMAGES)
def test_a_journal_is_damaged_if(sentence: str, tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "journal"
    path.write_bytes(b"".join(DAMAGES[sentence](path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(VerificationError, match="E-STATE-DAMAGED"):
        Journal.open(tmp_path, PLAN)


def test_a_flipped_bit_in_any_record_is_noticed_in_the_last_one_too(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "journal"
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines):
        for at in range(3, len(line) - 1, 29):
            changed = bytearray(line)
            changed[at] ^= 1
            path.write_bytes(b"".join([*lines[:number], bytes(changed), *lines[number + 1 :]]))
            with pytest.raises(VerificationError, match=f"line {number + 1} of"):
                Journal.open(tmp_path, PLAN)


def test_a_journal_cut_between_two_records_is_an_older_one(tmp_path: Path) -> None:
    """No chain shows that; the handshake does, and the next certificate."""
    written(tmp_path)
    path = tmp_path / "journal"
    lines = path.read_bytes().splitlines(keepends=True)
    memory = RunMemory.empty(PLAN)
    for number, record in enumerate(records()):
        path.write_bytes(b"".join(lines[:number]))
        assert Journal.open(tmp_path, PLAN).memory == memory
        memory = memory.apply(record)


def test_shares_that_are_kept_for_others_read_back_equal_and_nothing_else_reads() -> None:
    shares = (HeldShare("alice", b"\1" * 33, b"\2" * 33), HeldShare("bob", b"\3" * 33, b"\4" * 33))
    data = shares_to_bytes(shares)
    assert shares_from_bytes(data) == shares
    for bad in (b"", b"{}", b"[1]", data[:-1], data.replace(b"dealer", b"holder"), data.replace(b'"alice"', b"1")):
        with pytest.raises(ValueError, match=r"record|JSON|form|value|delimiter"):
            shares_from_bytes(bad)


def test_the_journal_of_another_plan_is_damaged(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(VerificationError, match="line 1 of"):
        Journal.open(tmp_path, b"\2" * 32)


@pytest.mark.parametrize("record", records(), ids=lambda record: type(record).__name__)
def test_a_record_reads_back_equal_and_with_any_other_type_not_at_all(record: Record) -> None:
    form: Any = record_to_json(record)
    assert record_from_json(form) == record
    for name in form["value"]:
        for value in (None, [1], {"kind": 1}, "\0"):
            changed: Any = {"kind": form["kind"], "value": {**form["value"], name: value}}
            with pytest.raises(ValueError, match=r"record|hexadecimal"):
                record_from_json(changed)


@pytest.mark.parametrize(
    "form", [None, [], "x", {}, {"kind": "RunRefused"}, {"kind": 1, "value": {}}, {"kind": "Else", "value": {}}]
)
def test_what_is_no_record_does_not_read(form: Any) -> None:
    with pytest.raises(ValueError, match="no record"):
        record_from_json(form)


# --- disks ---


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "E-DISK-FULL"), (errno.EDQUOT, "E-DISK-FULL"), (errno.EIO, "E-DISK-FAILED")]
)
@pytest.mark.parametrize("done", [0, 3])
def test_a_record_that_was_not_written_whole_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str, done: int
) -> None:
    first, second, third, *_ = records()
    journal = Journal.open(tmp_path, PLAN)
    for record in (first, second)[:done]:
        journal.append(record)
    before = journal.memory
    append = journal_module._append

    def fails(path: Path, data: bytes) -> None:
        append(path, data[:10])
        raise OSError(number, "no more")

    monkeypatch.setattr(journal_module, "_append", fails)
    with pytest.raises(LocalError, match=code):
        journal.append(third)
    assert journal.memory == before
    monkeypatch.undo()
    assert Journal.open(tmp_path, PLAN).memory == before
    journal.append(third)
    assert Journal.open(tmp_path, PLAN).memory == journal.memory


def refuse(*_: object) -> None:
    raise OSError(errno.EIO, "no more")


def test_a_record_whose_name_was_not_synced_is_not_there_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *_ = records()
    journal = Journal.open(tmp_path, PLAN)
    with monkeypatch.context() as disk:
        disk.setattr(durable, "sync_directory", refuse)
        with pytest.raises(LocalError, match="E-DISK-FAILED"):
            journal.append(first)
    assert Journal.open(tmp_path, PLAN).memory.highest == (0, 0)
    journal.append(first)
    journal.append(second)
    assert Journal.open(tmp_path, PLAN).memory == journal.memory


@pytest.mark.parametrize("done", [0, 1])
def test_what_could_not_be_taken_back_goes_before_the_next_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    journal, some = Journal.open(tmp_path, PLAN), records()
    for record in some[:done]:
        journal.append(record)
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", refuse)
        disk.setattr(os, "truncate", refuse)
        for _ in range(2):
            with pytest.raises(LocalError, match="E-DISK-FAILED"):
                journal.append(some[done])
    for record in some[done:]:
        journal.append(record)
    assert Journal.open(tmp_path, PLAN).memory == journal.memory


def test_a_journal_that_could_not_be_made_is_made_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, (first, *_) = Journal.open(tmp_path, PLAN), records()
    with monkeypatch.context() as disk:
        disk.setattr(journal_module, "_append", refuse)
        with pytest.raises(LocalError, match="E-DISK-FAILED"):
            journal.append(first)
    journal.append(first)
    assert Journal.open(tmp_path, PLAN).memory == journal.memory


def test_a_journal_that_was_set_back_under_a_daemon_is_not_filled_up(tmp_path: Path) -> None:
    journal, (first, second, *_) = Journal.open(tmp_path, PLAN), records()
    journal.append(first)
    os.truncate(tmp_path / "journal", 0)
    journal.append(second)
    assert b"\0" not in (tmp_path / "journal").read_bytes()
    with pytest.raises(VerificationError, match="E-STATE-DAMAGED"):
        Journal.open(tmp_path, PLAN)


def test_each_process_makes_the_name_durable_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever made the file may have died before it did, and a power cut would take the name with all records."""
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_directory", synced.append)
    first, second, third, *_ = records()
    journal = Journal.open(tmp_path / "run", PLAN)
    for record in (first, second):
        journal.append(record)
    assert synced.count(tmp_path / "run") == 1
    Journal.open(tmp_path / "run", PLAN).append(third)
    assert synced.count(tmp_path / "run") == 2


def test_an_error_that_is_not_the_disks_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.open(tmp_path, PLAN)

    def fails(path: Path, data: bytes) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(journal_module, "_append", fails)
    with pytest.raises(KeyError):
        journal.append(records()[0])


def test_a_blob_is_there_again_exactly_if_it_was_not_changed(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, PLAN)
    path = journal.store("encoded-1", b"an update")
    digest = hashlib.sha256(b"an update").digest()
    assert journal.load("encoded-1", digest) == b"an update"
    path.write_bytes(b"another")
    assert journal.load("encoded-1", digest) is None
    journal.erase("encoded-1")
    assert journal.load("encoded-1", digest) is None


def test_journal_and_blobs_are_for_their_owner_alone(tmp_path: Path) -> None:
    place = tmp_path / "run"
    path = written(place).store("masked-1-1", b"masked")
    assert path.stat().st_mode & 0o777 == (place / "journal").stat().st_mode & 0o777 == 0o600
    assert place.stat().st_mode & 0o777 == 0o700


# --- what follows from records ---


def test_what_was_promised_in_one_round_binds_in_no_other() -> None:
    memory = RunMemory.empty(PLAN)
    for record in records():
        memory = memory.apply(record)
    for promised in (memory.encoded_in, memory.masked_in, memory.signed_in, memory.released_in):
        assert promised(2) is not None
        assert promised(1) is None
        assert promised(3) is None


def test_nothing_was_promised_in_a_run_that_has_just_been_approved() -> None:
    memory = RunMemory.empty(PLAN)
    assert not any(
        promised(1) for promised in (memory.encoded_in, memory.masked_in, memory.signed_in, memory.released_in)
    )


def test_the_last_attempt_is_the_highest_whatever_comes_after_it() -> None:
    completed = next(one for one in records() if isinstance(one, RoundClosed))
    memory = RunMemory.empty(PLAN)
    for record in records():
        memory = memory.apply(record)
    assert memory.apply(replace(completed, round=3)).highest == memory.highest
