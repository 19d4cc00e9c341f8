"""The section [storage]: what may stand there, where its keys come from, and what commands make of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Never

import pytest

import onlysum
from coordinator.config import parse_settings, settings_template
from coordinator.database import content_rows, run_rows
from coordinator.database.content_rows import Kept
from coordinator.database.run_rows import RunState
from coordinator.opened import open_home
from coordinator.runs import creation
from coordinator.runs.global_adapter import RunFiles
from coordinator.storage.blobs import Blobs, DirectoryBlobs
from coordinator.storage.configured import KEY_ID, SECRET, TOKEN, KeyFile, Storage, open_blobs
from coordinator.storage.content import Change
from privacy.draft import Draft
from privacy.errors import LocalError
from simulation.ports import free_ports
from tests.worlds.coordinator import RUN_ID, World, initial_adapter
from tests.worlds.daemons import NO_CLAIM
from tests.worlds.object_store import SECRET as SECRET_KEY
from tests.worlds.object_store import ObjectServer
from tests.worlds.plans import make_plan

GOOD = settings_template(
    federation="clinics", operator="I", also=[], participants="sum.example.org:8443", enrolment="sum.example.org:8444"
)
SECTION = "[storage]\n"
AWAY = LocalError("E-STORAGE-AWAY", "the storage is away")
REPLICAS = '[replicas]\naddresses = ["b.example.org:8443"]\nenrolment_addresses = ["b.example.org:8444"]\n'
SERVER = 'database = "postgresql://u@h/n"\n'


def with_section(*lines: str, rest: str = "") -> str:
    return GOOD + "\n" + SECTION + "\n".join(lines) + "\n" + rest


# --- coordinator.toml ---


def test_without_the_section_all_lies_in_the_directory() -> None:
    assert parse_settings(GOOD).storage is None


@pytest.mark.parametrize(
    "lines",
    [
        ('url = "s3://a-bucket"',),
        ('url = "s3://a-bucket/deep/prefix/"', 'region = "eu-central-1"'),
        ('url = "s3://a.bucket/x"', 'endpoint = "https://minio.example.org:9000"', 'credentials = "s3.toml"'),
        ('url = "s3://a-bucket/x"', 'endpoint = "http://127.0.0.1:9000"', 'credentials = "/secure/s3.toml"'),
        ('url = "file:///srv/onlysum"',),
    ],
)
def test_a_bucket_with_its_server_or_a_directory_may_be_named(lines: tuple[str, ...]) -> None:
    assert parse_settings(with_section(*lines)).storage is not None


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (('url = "s3://"',), "a storage is s3://BUCKET/PREFIX"),
        (('url = "s3://key:secret@a-bucket/x"',), "a storage is s3://BUCKET/PREFIX"),
        (('url = "s3://a-bucket/../x"',), "a storage is s3://BUCKET/PREFIX"),
        (('url = "gs://a-bucket/x"',), "a storage is s3://BUCKET/PREFIX"),
        (('url = "file://relative/path"',), "a storage is s3://BUCKET/PREFIX"),
        (('url = "s3://a-bucket"', 'endpoint = "http://minio.example.org"'), "would travel in the clear"),
        (('url = "s3://a-bucket"', 'endpoint = "https://u:p@minio.example.org"'), "an endpoint is https://HOST"),
        (('url = "s3://a-bucket"', 'endpoint = "https://minio.example.org/x"'), "an endpoint is https://HOST"),
        (('url = "s3://a-bucket"', 'endpoint = "https://minio.example.org:x"'), "an endpoint is https://HOST"),
        (('url = "s3://a-bucket"', 'endpoint = "https://"'), "an endpoint is https://HOST"),
        (('url = "s3://a-bucket"', 'credentials = "../s3.toml"'), "credentials is the name of a file"),
        (('url = "file:///srv/x"', 'credentials = "s3.toml"'), "a directory has neither"),
        (('url = "file:///srv/x"', 'endpoint = "https://minio.example.org"'), "a directory has neither"),
        (('url = "s3://a-bucket"', 'region = "Frankfurt am Main"'), "region"),
        (('url = "s3://a-bucket"', 'secret_access_key = "x"'), "E-CONFIG-UNKNOWN-KEY"),
    ],
)
def test_a_section_that_is_no_place_or_holds_a_secret_is_refused(lines: tuple[str, ...], words: str) -> None:
    with pytest.raises(LocalError) as refused:
        parse_settings(with_section(*lines))
    assert words in str(refused.value)


def test_several_coordinators_share_a_directory_or_a_storage_and_not_both() -> None:
    text = GOOD.replace("[participants]", SERVER + "[participants]", 1)
    storage, directory = SECTION + 'url = "s3://a-bucket"\n', REPLICAS + 'directory = "/srv/onlysum"\n'
    assert parse_settings(f"{text}\n{storage}{REPLICAS}").replicas is not None
    assert parse_settings(f"{text}\n{directory}").replicas is not None
    for both_or_neither in (REPLICAS, storage + directory):
        with pytest.raises(LocalError, match="share a directory or a storage"):
            parse_settings(f"{text}\n{both_or_neither}")


def test_the_section_that_init_writes_as_a_comment_can_be_switched_on() -> None:
    lines = [line.removeprefix("# ") for line in GOOD.splitlines() if "s3" in line or line.startswith("# region")]
    assert len(lines) == 5
    assert parse_settings("\n".join([GOOD, *lines])).storage is not None


# --- keys ---


def opened_with(tmp_path: Path, text: str | None = None, environment: dict[str, str] | None = None) -> Blobs:
    storage = Storage(url="s3://a-bucket/x", credentials="" if text is None else "s3.toml")
    if text is not None:
        (tmp_path / "s3.toml").write_text(text)
        (tmp_path / "s3.toml").chmod(0o600)
    return open_blobs(storage, tmp_path, environment or {})


KEYS = 'access_key_id = "id"\nsecret_access_key = "not shown"\n'


def test_keys_come_from_a_private_file_or_from_the_environment(tmp_path: Path) -> None:
    for place in (
        opened_with(tmp_path, KEYS + 'session_token = "t"'),
        opened_with(tmp_path, environment={KEY_ID: "id", SECRET: "not shown", TOKEN: "t"}),
        opened_with(tmp_path),  # of the machine's role
    ):
        assert place.place == "s3://a-bucket/x"
        assert "not shown" not in repr(place)


def test_a_file_of_keys_that_others_can_read_is_refused_with_the_command_that_repairs_it(tmp_path: Path) -> None:
    file = tmp_path / "s3.toml"
    file.write_text(KEYS)
    file.chmod(0o640)
    with pytest.raises(LocalError, match=r"E-PERMISSIONS: .*chmod 0600"):
        open_blobs(Storage(url="s3://a-bucket/x", credentials="s3.toml"), tmp_path, {})


def test_keys_that_are_missing_or_do_not_parse_are_named_without_their_values(tmp_path: Path) -> None:
    cases: dict[str, Callable[[], object]] = {
        "E-CONFIG-MISSING": lambda: open_blobs(Storage(url="s3://a-bucket/x", credentials="no.toml"), tmp_path, {}),
        "E-CONFIG-INVALID": lambda: opened_with(tmp_path, 'access_key_id = "not shown"'),
        "E-CONFIG-UNKNOWN-KEY": lambda: opened_with(tmp_path, KEYS + 'password = "not shown"'),
    }
    for code, call in cases.items():
        with pytest.raises(LocalError) as refused:
            call()
        assert refused.value.code == code
        assert "not shown" not in str(refused.value)
    for alone in (KEY_ID, SECRET):
        with pytest.raises(LocalError, match="E-CONFIG-MISSING: the environment has one of"):
            opened_with(tmp_path, environment={alone: "not shown"})
    (tmp_path / "s3.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(LocalError, match=r"E-CONFIG-INVALID: .* cannot be read as text"):
        open_blobs(Storage(url="s3://a-bucket/x", credentials="s3.toml"), tmp_path, {})


def test_a_value_of_the_keys_is_in_no_text(tmp_path: Path) -> None:
    keys = KeyFile(access_key_id="not shown", secret_access_key="not shown", session_token="not shown")
    assert "not shown" not in repr(keys)


# --- the files of runs ---


@pytest.fixture
def world(tmp_path: Path, storage_elsewhere: Storage) -> World:
    (tmp_path / "first").mkdir()
    return World(tmp_path / "first", storage=storage_elsewhere)


def files(world: World) -> RunFiles:
    return world.files()


def test_a_copy_that_was_damaged_or_is_of_another_past_is_brought_again(world: World) -> None:
    whole = files(world).initial.read_bytes()
    for wrong in (b"", whole[:-1], bytes(len(whole))):
        (world.home.run(RUN_ID) / "initial_adapter.safetensors").write_bytes(wrong)
        assert files(world).initial.read_bytes() == whole


def test_a_file_that_the_run_does_not_have_is_not_there_and_none_is_made_up(world: World) -> None:
    assert not files(world).report.exists()
    assert not files(world).reported
    assert not files(world).sum(1).exists()
    assert list(files(world).exported.glob("*")) == []


def test_what_a_row_says_is_dropped_and_added_in_one_transaction(world: World) -> None:
    first, second = Kept("a", b"1" * 32, 1), Kept("b", b"2" * 32, 2)
    with world.store.begin() as connection:
        Change(RUN_ID, kept=(first,)).write(connection)
    with world.store.begin() as connection:
        Change(RUN_ID, kept=(second,), dropped=(first,)).write(connection)
    with world.store.read() as connection:
        assert content_rows.find(connection, RUN_ID, "a") is None
        assert content_rows.find(connection, RUN_ID, "b") == second


def test_a_storage_that_is_away_when_a_run_is_taken_over_is_named_and_waited_for(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = world.on_another_machine(tmp_path / "second")
    place = open_blobs(world.settings.storage or Storage(url="s3://none"), world.home.directory)
    with monkeypatch.context() as broken:
        broken.setattr(type(place), "blocks", _away)
        runner.discover()
        assert runner.run(RUN_ID) is None
        assert [trouble.code for trouble in runner.troubles()] == ["E-STORAGE-AWAY"]
    runner.discover()
    assert runner.run(RUN_ID) is not None


def test_the_first_files_of_a_run_are_brought_beside_the_looks_at_leases(world: World, tmp_path: Path) -> None:
    runner = world.on_another_machine(tmp_path / "second")

    async def scenario() -> None:
        serving = asyncio.create_task(runner.serve())
        async with asyncio.timeout(30):
            while runner.run(RUN_ID) is None:  # noqa: ASYNC110  # nothing tells when a run is led
                await asyncio.sleep(0.05)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(scenario())
    assert (tmp_path / "second" / "runs" / RUN_ID / "global-0.f32").exists()


def test_a_run_of_before_the_storage_was_set_is_not_led_and_the_operator_hears_why(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.settings = world.settings.model_copy(update={"storage": Storage(url=f"file://{tmp_path}/kept")})
    runner = world.daemon()
    runner.discover()
    assert runner.run(RUN_ID) is None
    (trouble,) = runner.troubles()
    assert (trouble.code, "before [storage] was set" in trouble.detail) == ("E-NOT-FOUND", True)
    with world.store.begin() as connection:
        run_rows.set_run_state(connection, RUN_ID, RunState.ABORTED, now=int(world.clock.now()))
    runner.discover()
    assert runner.run(RUN_ID) is not None  # it has ended, and its files are here


def test_a_first_file_that_is_damaged_in_the_storage_keeps_the_run_from_being_led(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = world.on_another_machine(tmp_path / "second")
    place = open_blobs(world.settings.storage or Storage(url="s3://none"), world.home.directory)
    monkeypatch.setattr(type(place), "blocks", lambda *_, **__: iter([b"other bytes"]))
    runner.discover()
    assert runner.run(RUN_ID) is None
    assert [trouble.code for trouble in runner.troubles()] == ["E-STORAGE-DAMAGED"]


def _away(*_: object, **__: object) -> Never:
    raise AWAY


# --- commands ---


@pytest.fixture
def clinic(tmp_path: Path, storage_elsewhere: Storage, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A coordinator that ``init`` made, whose coordinator.toml names a storage, with a run."""
    directory = tmp_path / "clinic"
    address, enrolment = (f"127.0.0.1:{port}" for port in free_ports(2))
    words = ["coordinator", "init", str(directory), "--name", "clinics", "--operator", "The Institute"]
    assert onlysum.run([*words, "--address", address, "--enrolment-address", enrolment]) == 0
    monkeypatch.setenv("ONLYSUM_HOME", str(directory))
    lines = [f'url = "{storage_elsewhere.url}"']
    if storage_elsewhere.endpoint:
        (directory / "s3.toml").write_text(Path(storage_elsewhere.credentials).read_text())
        (directory / "s3.toml").chmod(0o600)
        lines += [f'endpoint = "{storage_elsewhere.endpoint}"', 'credentials = "s3.toml"']
    file = directory / "coordinator.toml"
    file.write_text(file.read_text() + "\n" + SECTION + "\n".join(lines) + "\n")
    create_run(directory, tmp_path / "draft")
    return directory


def create_run(directory: Path, draft: Path) -> None:
    initial = initial_adapter(12)
    given: dict[str, Any] = {"adapter": {"initial_hash": hashlib.sha256(initial).hexdigest()}}
    plan, _ = make_plan(n=3, entries=12, f=1, recipe=given)
    draft.mkdir()
    (draft / "draft.json").write_bytes(Draft(recipe=plan.recipe, privacy=NO_CLAIM, evaluation_data="none").to_bytes())
    (draft / "initial_adapter.safetensors").write_bytes(initial)
    (draft / "adapter_config.json").write_text("{}")
    with open_home(directory) as opened:
        content = opened.content
        creation.register(opened.store, opened.home, opened.authority().operator, plan, draft, content=content)


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert onlysum.run(["coordinator", *words, "--json"]) == code
    out = capsys.readouterr().out
    return json.loads(out) if out else None


def checks(capsys: pytest.CaptureFixture[str], directory: Path, *, ok: bool) -> dict[str, str]:
    given = said(capsys, "doctor", "--config", str(directory), code=0 if ok else 2)
    return {each["name"]: each["detail"] for each in given["checks"] if each["ok"] is ok or ok}


def test_doctor_writes_reads_and_removes_a_probe_and_looks_for_the_files_of_runs(
    clinic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = checks(capsys, clinic, ok=True)
    with open_home(clinic) as opened:
        assert opened.content is not None
        place = opened.content.blobs
    assert found["storage"] == f"{place.place}: written, read and removed"
    assert found["runs"] == "1 runs, 1 of them go on, their files are in the storage"
    assert place.list("probe") == ()
    lost = next(blob.name for blob in place.list("runs") if "global-0" in blob.name)
    place.delete([lost])
    assert f"global-0.f32 of run {RUN_ID} is missing from the storage" in checks(capsys, clinic, ok=False)["runs"]


def test_doctor_says_that_a_run_of_before_the_storage_was_set_has_no_files_there(
    clinic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_home(clinic) as opened, opened.store.begin() as connection:
        content_rows.drop(connection, RUN_ID, list(content_rows.of_run(connection, RUN_ID)))
    assert "created before [storage] was set" in checks(capsys, clinic, ok=False)["runs"]


@pytest.mark.objects
def test_doctor_names_a_bucket_that_is_away_with_the_next_step_and_its_bundle_holds_no_key(
    tmp_path: Path, objects: ObjectServer, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "clinic"
    words = ["coordinator", "init", str(directory), "--name", "clinics", "--operator", "I"]
    assert onlysum.run(words) == 0
    storage = objects.storage("x", directory, bucket="no-such-bucket")
    file = directory / "coordinator.toml"
    section = f'url = "{storage.url}"\nendpoint = "{storage.endpoint}"\ncredentials = "s3.toml"\n'
    file.write_text(f"{file.read_text()}\n{SECTION}{section}")
    bundle = tmp_path / "bundle.zip"
    given = said(capsys, "doctor", "--bundle", str(bundle), "--config", str(directory), code=2)
    (detail,) = [each["detail"] for each in given["checks"] if each["name"] == "storage"]
    assert "there is no such bucket; next: start it, or correct what it says" in detail
    assert SECRET_KEY.encode() not in bundle.read_bytes()


def test_a_backup_holds_the_files_of_runs_and_restore_puts_back_what_the_storage_lost(
    clinic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_home(clinic) as opened:
        assert opened.content is not None
        content, before = opened.content, opened.content.blobs.list("runs")
        for name in opened.content.of(RUN_ID).known():
            (opened.home.run(RUN_ID) / name).unlink()  # copies, which may go
    archive = tmp_path / "clinic.tar.gz"
    assert onlysum.run(["coordinator", "backup", str(archive)]) == 0
    assert f"the files of runs that {content.blobs.place} has now, and no upload" in capsys.readouterr().out
    content.blobs.delete_tree("runs")
    again = tmp_path / "again"
    assert onlysum.run(["coordinator", "restore", str(archive), "--config", str(again)]) == 0
    assert content.blobs.list("runs") == before
    assert checks(capsys, again, ok=True)["runs"] == "1 runs, 1 of them go on, their files are in the storage"


def test_a_backup_of_files_that_are_lost_is_refused_and_leaves_no_archive(
    clinic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_home(clinic) as opened:
        assert opened.content is not None
        opened.content.blobs.delete_tree("runs")
        for name in opened.content.of(RUN_ID).known():
            (opened.home.run(RUN_ID) / name).unlink()
    archive = tmp_path / "clinic.tar.gz"
    assert onlysum.run(["coordinator", "backup", str(archive)]) != 0
    assert "E-STORAGE-DAMAGED" in capsys.readouterr().err
    assert not archive.exists()


def test_a_run_like_an_earlier_one_takes_its_draft_from_the_storage(clinic: Path) -> None:
    with open_home(clinic) as opened:
        for name in creation.DRAFT_FILES:
            (opened.home.run(RUN_ID) / name).unlink()
        plan, _ = make_plan(n=3, entries=12, f=1)
        again = creation.like(opened.files(RUN_ID), plan, ())
        assert creation.read_draft(again.draft).recipe.rounds


def test_a_directory_for_blobs_is_the_same_place_for_all_who_name_it(tmp_path: Path) -> None:
    place = open_blobs(Storage(url=f"file://{tmp_path}/kept"), tmp_path / "anything")
    assert isinstance(place, DirectoryBlobs)
    assert place.place == f"{tmp_path}/kept"
