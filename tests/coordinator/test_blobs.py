"""Durable blobs in a directory and in a bucket: never changed, believed only with their hash, and no call hangs."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator.storage import blobs as stored
from coordinator.storage import objects as object_store
from coordinator.storage.blobs import BLOCK_BYTES, Blob, Blobs, DirectoryBlobs
from coordinator.storage.configured import Storage, open_blobs
from coordinator.storage.content import probe
from host import durable
from privacy.errors import LocalError
from tests.worlds.object_store import HANGS_SECONDS, KEY_ID, SECRET, SHORT, Fault, ObjectServer

NAME = "runs/00ff/sum-1.words/x"
DATA = bytes(range(256)) * 40
LONG = os.urandom(1024) * (2 * BLOCK_BYTES // 1024) + b"and a little more"


@pytest.fixture
def place(storage_elsewhere: Storage, tmp_path: Path) -> Blobs:
    """A directory, and a bucket."""
    return open_blobs(storage_elsewhere, tmp_path)


@pytest.fixture
def bucket(objects: ObjectServer, tmp_path: Path) -> Blobs:
    """A bucket whose server is waited for a second."""
    return objects.blobs(tmp_path.name)


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def put(place: Blobs, tmp_path: Path, data: bytes = DATA, name: str = NAME) -> None:
    file = tmp_path / "source"
    file.write_bytes(data)
    place.put_new(name, file, sha256=sha(data))


def read(place: Blobs, data: bytes = DATA, name: str = NAME) -> bytes:
    return stored.read(place, name, sha256=sha(data), length=len(data))


@pytest.mark.parametrize("data", [b"", b"1", DATA, LONG], ids=["nothing", "a byte", "a block", "several blocks"])
def test_what_was_put_is_read_and_brought_bit_by_bit(place: Blobs, tmp_path: Path, data: bytes) -> None:
    put(place, tmp_path, data)
    assert read(place, data) == data
    target = tmp_path / "deep" / "target"
    stored.fetch(place, NAME, target, sha256=sha(data), length=len(data))
    assert target.read_bytes() == data
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    assert all(len(block) <= BLOCK_BYTES for block in place.blocks(NAME, length=len(data)))


@pytest.mark.parametrize("data", [DATA, LONG], ids=["short", "long"])
def test_the_same_bytes_once_more_are_no_error_and_others_never_take_their_place(
    place: Blobs, tmp_path: Path, data: bytes
) -> None:
    put(place, tmp_path, data)
    put(place, tmp_path, data)
    with pytest.raises(LocalError, match=r"E-STORAGE-DAMAGED: .* has other bytes already"):
        put(place, tmp_path, bytes(len(data)))
    assert read(place, data) == data


def test_blobs_are_listed_by_their_first_segments_and_removed_alone_or_together(place: Blobs, tmp_path: Path) -> None:
    names = ["a/b/1", "a/b/2", "a/bc/3", "d/4"]
    for name in names:
        put(place, tmp_path, name.encode(), name)
    assert place.list("") == tuple(Blob(name, len(name)) for name in names)
    assert [blob.name for blob in place.list("a/b")] == ["a/b/1", "a/b/2"]
    assert place.list("none") == ()
    place.delete(["a/b/1", "never/there"])
    assert [blob.name for blob in place.list("")] == names[1:]
    place.delete_tree("a/b")
    place.delete_tree("never/there")
    assert [blob.name for blob in place.list("")] == names[2:]


@pytest.mark.parametrize("name", ["", "/a", "a/", "../a", "a/../b", "a//b", ".hidden", "a b", "a\n", "a/.new-1"])
def test_no_name_leads_out_of_the_place(place: Blobs, tmp_path: Path, name: str) -> None:
    file = tmp_path / "source"
    file.write_bytes(DATA)
    calls: list[Callable[[], object]] = [
        lambda: place.put_new(name, file, sha256=sha(DATA)),
        lambda: list(place.blocks(name, length=1)),
        lambda: place.delete([name]),
        lambda: place.delete_tree(name),
    ]
    for call in calls:
        with pytest.raises(LocalError, match="E-BUG: no blob may have the name"):
            call()
    assert file.exists()


def test_what_is_missing_or_not_what_its_hash_says_is_never_returned(place: Blobs, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"as it was")
    with pytest.raises(LocalError, match="E-STORAGE-DAMAGED"):
        read(place)
    put(place, tmp_path)
    for digest, length in ((sha(b"other"), len(DATA)), (sha(b""), 10)):
        with pytest.raises(LocalError, match="E-STORAGE-DAMAGED"):
            stored.read(place, NAME, sha256=digest, length=length)
        with pytest.raises(LocalError, match="E-STORAGE-DAMAGED"):
            stored.fetch(place, NAME, target, sha256=digest, length=length)
    assert target.read_bytes() == b"as it was"
    assert not list(tmp_path.glob(".target*"))


def test_a_blob_of_another_length_than_its_row_says_is_not_read(tmp_path: Path) -> None:
    place = DirectoryBlobs(tmp_path / "kept")
    put(place, tmp_path)
    with pytest.raises(LocalError, match="E-STORAGE-DAMAGED"):
        stored.read(place, NAME, sha256=sha(DATA), length=len(DATA) + 1)
    with pytest.raises(LocalError, match="E-STORAGE-DAMAGED"):
        stored.fetch(place, NAME, tmp_path / "target", sha256=sha(DATA), length=len(DATA) + 1)


def test_a_file_is_durable_in_a_directory_before_its_name_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, steps = DirectoryBlobs(tmp_path / "kept"), list[str]()
    put(place, tmp_path, b"to make the directories", "runs/00ff/sum-1.words/before")

    def noted(step: str, function: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object) -> None:
            steps.append(step)
            function(*args)

        return call

    monkeypatch.setattr(os, "fsync", noted("fsync", os.fsync))
    monkeypatch.setattr(Path, "hardlink_to", noted("name", Path.hardlink_to))
    monkeypatch.setattr(durable, "sync_directory", noted("directory", durable.sync_directory))
    put(place, tmp_path)
    named = steps.index("name")
    assert steps[:named] == ["directory", "fsync", "fsync"]  # of the directory above, and of the file
    assert steps[named + 1 :] == ["directory", "fsync"]
    assert {path.name for path in (tmp_path / "kept" / NAME).parent.iterdir()} == {"before", "x"}


def test_the_probe_of_doctor_leaves_nothing_behind(place: Blobs, tmp_path: Path) -> None:
    assert probe(place, tmp_path, b"t" * 16) == f"{place.place}: written, read and removed"
    assert place.list("") == ()


def test_the_probe_fails_where_what_is_removed_stays(
    place: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(place), "delete", lambda *_: None)
    with pytest.raises(LocalError, match="what is removed stays there"):
        probe(place, tmp_path, b"t" * 16)


# --- a bucket that answers slowly, wrongly, or not at all ---

CALLS: dict[str, Callable[[Blobs, Path], object]] = {
    "put": lambda place, tmp_path: put(place, tmp_path, b"fresh", "fresh"),
    "put in parts": lambda place, tmp_path: put(place, tmp_path, LONG, "fresh"),
    "read": lambda place, tmp_path: read(place),
    "list": lambda place, tmp_path: place.list("runs"),
    "delete": lambda place, tmp_path: place.delete([NAME]),
    "delete tree": lambda place, tmp_path: place.delete_tree("runs"),
}


@pytest.mark.objects
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("fault", "words"),
    [(Fault.ERRORS, "status 500"), (Fault.REFUSES, "refuses these keys: status 403")],
)
def test_a_server_that_refuses_is_named_with_its_code_and_none_of_its_own_words(
    objects: ObjectServer, bucket: Blobs, tmp_path: Path, fault: Fault, words: str, call: str
) -> None:
    put(bucket, tmp_path)
    with objects.fault(fault), pytest.raises(LocalError) as raised:
        CALLS[call](bucket, tmp_path)
    assert raised.value.code == "E-STORAGE-AWAY"
    assert words in raised.value.detail
    assert raised.value.detail.isprintable()
    assert len(raised.value.detail) < 300
    assert SECRET not in str(raised.value)
    assert KEY_ID not in str(raised.value)
    assert read(bucket) == DATA


@pytest.mark.objects
@pytest.mark.parametrize("call", ["put", "read", "list"])
def test_a_server_that_does_not_answer_is_waited_for_a_bounded_time(
    objects: ObjectServer, bucket: Blobs, tmp_path: Path, call: str
) -> None:
    put(bucket, tmp_path)
    begun = time.monotonic()
    with objects.fault(Fault.HANGS), pytest.raises(LocalError, match="E-STORAGE-AWAY"):
        CALLS[call](bucket, tmp_path)
    assert time.monotonic() - begun < (SHORT.retries + 1) * SHORT.request + 2
    time.sleep(HANGS_SECONDS)  # until the server has ended what it hung in
    assert read(bucket) == DATA


@pytest.mark.objects
@pytest.mark.parametrize("fault", [Fault.CUTS, Fault.SHORTENS])
def test_a_body_that_is_cut_short_is_no_answer(
    objects: ObjectServer, bucket: Blobs, tmp_path: Path, fault: Fault
) -> None:
    put(bucket, tmp_path)
    with objects.fault(fault, "GET"), pytest.raises(LocalError, match="E-STORAGE-AWAY"):
        read(bucket)
    assert read(bucket) == DATA


@pytest.mark.objects
def test_bytes_that_changed_on_their_way_are_read_again_and_refused_if_they_stay_wrong(
    objects: ObjectServer, bucket: Blobs, tmp_path: Path
) -> None:
    put(bucket, tmp_path)
    with objects.fault(Fault.CHANGES, "GET"), pytest.raises(LocalError, match="E-STORAGE-DAMAGED"):
        read(bucket)
    before = len(objects.requests)
    with objects.fault(Fault.CHANGES, "GET", times=1):
        assert read(bucket) == DATA
        stored.fetch(bucket, NAME, tmp_path / "target", sha256=sha(DATA), length=len(DATA))
    assert [words.split()[0] for words in objects.requests[before:]] == ["GET"] * 3


@pytest.mark.objects
@pytest.mark.parametrize("data", [DATA, LONG], ids=["short", "long"])
def test_a_put_whose_answer_was_lost_is_found_to_be_the_same(
    objects: ObjectServer, bucket: Blobs, tmp_path: Path, data: bytes
) -> None:
    with objects.fault(Fault.LOSES_ANSWER, "PUT"), pytest.raises(LocalError, match="E-STORAGE-AWAY"):
        put(bucket, tmp_path, data)
    put(bucket, tmp_path, data)
    assert read(bucket, data) == data


@pytest.mark.objects
def test_a_server_that_knows_no_conditions_is_asked_first_what_is_there(
    objects: ObjectServer, bucket: Blobs, tmp_path: Path
) -> None:
    with objects.fault(Fault.NO_CONDITIONS):
        put(bucket, tmp_path)
        put(bucket, tmp_path)
        with pytest.raises(LocalError, match="has other bytes already"):
            put(bucket, tmp_path, b"other")
    assert read(bucket) == DATA


@pytest.mark.objects
@pytest.mark.parametrize("call", CALLS)
def test_a_bucket_that_does_not_exist_is_said_to_be_missing_and_nothing_counts_as_removed(
    objects: ObjectServer, tmp_path: Path, call: str
) -> None:
    missing = objects.blobs("prefix", bucket="no-such-bucket")
    with pytest.raises(LocalError, match=r"E-STORAGE-AWAY: s3://no-such-bucket/prefix at .*: there is no such bucket"):
        CALLS[call](missing, tmp_path)


@pytest.mark.objects
def test_no_server_at_all_is_an_error_too(tmp_path: Path) -> None:
    server = ObjectServer()
    place = server.blobs("prefix")
    server.close()
    for call in ("put", "read", "list"):
        with pytest.raises(LocalError, match=r"E-STORAGE-AWAY: .* it does not answer"):
            CALLS[call](place, tmp_path)


@pytest.mark.objects
def test_each_short_put_is_conditional_and_carries_its_hash_for_the_server(
    objects: ObjectServer, bucket: Blobs, tmp_path: Path
) -> None:
    put(bucket, tmp_path)
    headers = next(seen for seen in reversed(objects.headers) if seen["method"] == "PUT")
    assert headers["HTTP_IF_NONE_MATCH"] == "*"
    assert headers["HTTP_X_AMZ_CHECKSUM_SHA256"]


def test_the_library_is_asked_for_only_where_a_bucket_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(LocalError, match=r"E-EXTRA-MISSING: .*pip install 'onlysum\[s3\]'"):
        object_store.ObjectBlobs("a-bucket", region="us-east-1", keys=None)
    assert isinstance(open_blobs(Storage(url=f"file://{tmp_path}/kept"), tmp_path), DirectoryBlobs)
