"""The operator's commands, as an operator types them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from safetensors.numpy import load_file

import onlysum
from audit.verify import verify_report
from coordinator.config import settings_template
from coordinator.database import attempt_rows, run_rows
from coordinator.database.run_rows import RunState
from coordinator.database.tables import runs
from coordinator.enrolment.authority import introduction_of, load_authority, renew_server, save_authority
from coordinator.runs.global_adapter import RunFiles
from host.state_format import write_format
from privacy.claims import unfinished_sentences
from privacy.errors import LocalError
from privacy.secagg.messages import Position
from protos.invitation import decode_invitation
from tests.worlds.coordinator import RUN_ID, World
from tests.worlds.initialised import initialised
from tests.worlds.seeded import SeededRandom

Operated = Callable[..., World]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A coordinator that ``init`` made, named by the environment."""
    return initialised(tmp_path, monkeypatch)


@pytest.fixture
def operated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operated:
    """Makes a federation in a directory that commands find."""

    def made(**arguments: Any) -> World:
        world = World(tmp_path, **arguments)
        text = settings_template(
            federation="test-federation",
            operator="Test Operator",
            also=[],
            participants="127.0.0.1:1",
            enrolment="127.0.0.1:2",
        )
        (tmp_path / "coordinator.toml").write_text(text)
        write_format(tmp_path)
        monkeypatch.setenv("ONLYSUM_HOME", str(tmp_path))
        return world

    return made


@pytest.fixture
def finished(operated: Operated) -> World:
    """A federation whose run has completed."""
    world = operated(rounds=2, evaluated=True)
    asyncio.run(world.settle())
    return world


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    """Run a command with --json and return what it printed."""
    capsys.readouterr()
    assert onlysum.run(["coordinator", *words, "--json"]) == code
    out = capsys.readouterr().out
    return json.loads(out) if out else None


def failed(capsys: pytest.CaptureFixture[str], *words: str, code: int) -> str:
    """Run a command that fails with an exit code, and return the code of the error."""
    capsys.readouterr()
    assert onlysum.run(["coordinator", *words, "--json"]) == code
    return str(json.loads(capsys.readouterr().err)["error"]["code"])


def test_help_needs_no_network_database_or_numerics() -> None:
    heavy = ("grpc", "sqlalchemy", "alembic", "numpy", "pydantic", "cryptography", "torch")
    script = f"import sys, coordinator.commands.coordinator; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "[]"


def test_the_daemon_never_meets_torch() -> None:
    modules = "coordinator.daemon.process, coordinator.commands.run, coordinator.runs.release"
    script = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "False"


def test_init_makes_private_keys_and_refuses_to_do_it_twice(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (home / "authority").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (home / "authority").iterdir()} == {0o600}
    words = ["init", str(home), "--name", "clinics", "--operator", "I"]
    assert failed(capsys, *words, code=2) == "E-EXISTS"


def test_a_directory_that_lost_its_configuration_keeps_its_keys(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {path.name: path.read_bytes() for path in (home / "authority").iterdir()}
    (home / "coordinator.toml").unlink()
    assert onlysum.run(["coordinator", "init", str(home), "--name", "clinics", "--operator", "I"]) == 2
    assert "coordinator.toml is missing; bring that back" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (home / "authority").iterdir()} == keys


def test_a_disk_that_is_full_at_the_beginning_leaves_no_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(url: str) -> None:
        raise LocalError("E-DISK-FULL", url)

    words = ["init", str(tmp_path / "new"), "--name", "clinics", "--operator", "I"]
    with monkeypatch.context() as patched:
        patched.setattr("coordinator.database.store.Store.create", full)
        assert failed(capsys, *words, code=2) == "E-DISK-FULL"
    assert said(capsys, *words)["federation"] == "clinics"


def test_a_wrong_name_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["init", str(tmp_path / "new"), "--name", "Not A Name", "--operator", "I"]
    assert failed(capsys, *words, code=2) == "E-CONFIG-INVALID"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("address", ["localhost", "localhost:0", "localhost:65535", "localhost:x", "::1:8443"])
def test_a_wrong_address_is_named_as_it_was_given_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    words = ["coordinator", "init", str(tmp_path / "new"), "--name", "a", "--operator", "I", "--address", address]
    assert onlysum.run(words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("E-USAGE")
    assert "coordinator.toml" not in shown
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("left", ["missing", "emptied"])
@pytest.mark.parametrize("words", [("status",), ("start",), ("migrate",), ("member", "list"), ("backup", "/tmp/x.tgz")])
def test_a_database_that_was_lost_is_refused_and_never_begun_anew(
    home: Path, capsys: pytest.CaptureFixture[str], left: str, words: tuple[str, ...]
) -> None:
    for path in home.glob("coordinator.db*"):
        path.unlink()
    if left == "emptied":
        (home / "coordinator.db").touch()
    assert failed(capsys, *words, code=6) == "E-STATE-DAMAGED"
    assert (home / "coordinator.db").exists() == (left == "emptied")


def test_a_port_that_is_taken_is_named_without_a_word_of_grpc(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = (home / "coordinator.toml").read_text()
        first = next(line for line in text.splitlines() if line.startswith("address"))
        (home / "coordinator.toml").write_text(text.replace(first, f'address = "127.0.0.1:{port}"', 1))
        command = [sys.executable, "-m", "onlysum", "coordinator", "start"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"E-PORT: an address cannot be listened on: 127.0.0.1:{port}\n")
    assert len(done.stderr.splitlines()) == 3


def test_a_file_that_holds_an_invitation_is_its_owners_alone(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "hospital-a.token"
    line = said(capsys, "invite", "hospital-a", "--out", str(file))["token"]
    assert file.read_text() == f"{line}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(line) < 300
    assert failed(capsys, "invite", "hospital-b", "--out", str(file), code=2) == "E-EXISTS"


def test_an_invitation_names_the_federation_and_its_addresses(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, "invite", "hospital-a", "--label", "city=ulm", "--expires", "2d")["token"]
    invitation = decode_invitation(line)
    assert (invitation.name, invitation.role.value) == ("hospital-a", "participant")
    shown = introduction_of(x509.load_pem_x509_certificate(load_authority(home / "authority").server_certificate))
    assert invitation.completed(shown).federation == "clinics"
    status = said(capsys, "status", code=3)
    assert status["invited"] == ["hospital-a"]
    assert status["running"] is False
    assert invitation.addresses == (status["address"],)
    assert line not in (home / "coordinator.db").read_bytes().decode(errors="replace")
    prints = said(capsys, "member", "fingerprint")
    assert set(prints) == {"authority", "operator", "members"}


def test_a_second_invitation_says_that_the_first_is_void(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "invite", "hospital-a")["replaced"] is False
    assert onlysum.run(["coordinator", "invite", "hospital-a"]) == 0
    assert "Its previous invitation is now void." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("invite", "Hospital A"), "E-USAGE"),
        (("invite", "a", "--role", "king"), "E-USAGE"),
        (("invite", "a", "--label", "novalue"), "E-USAGE"),
        (("invite", "a", "--expires", "soon"), "E-USAGE"),
        (("member", "show", "nobody"), "E-NOT-FOUND"),
        (("member", "revoke", "nobody"), "E-NOT-FOUND"),
        (("run", "show", "abcd"), "E-NOT-FOUND"),
        (("run", "watch", "abcd"), "E-NOT-FOUND"),
        (("run", "create", "/nowhere", "--members", "a,b,c"), "E-NOT-FOUND"),
        (("restore", "/nowhere"), "E-EXISTS"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_typed_errors_with_exit_code_two(
    home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], error: str
) -> None:
    assert failed(capsys, *words, code=2) == error


def test_without_a_directory_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONLYSUM_HOME", str(tmp_path))
    assert failed(capsys, "status", code=2) == "E-CONFIG-MISSING"


def test_doctor_finds_what_is_wrong_and_its_bundle_holds_no_key(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "doctor", "--bundle", str(tmp_path / "bundle.zip"))["ok"] is True
    with zipfile.ZipFile(tmp_path / "bundle.zip") as bundle:
        names = bundle.namelist()
        assert sorted(names) == ["checks.json", "command.txt", "coordinator.toml", "runs.json", "versions.json"]
        assert not any(b"PRIVATE KEY" in bundle.read(name) for name in names)
    (home / "authority" / "operator.key").chmod(0o644)
    checks = {one["name"]: one for one in said(capsys, "doctor", code=2)["checks"]}
    assert checks["keys"]["ok"] is False
    assert "chmod" in checks["keys"]["detail"]
    assert checks["database"]["ok"] is True


def test_doctor_finds_that_a_renamed_coordinator_shows_a_certificate_of_its_old_name(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home / "coordinator.toml"
    file.write_text(re.sub(r'(?m)^address = ".*:', 'address = "new.example.org:', file.read_text()))
    checks = {check["name"]: check for check in said(capsys, "doctor", code=2)["checks"]}
    assert checks["names"]["ok"] is False
    assert "does not name new.example.org" in checks["names"]["detail"]


def test_a_doctor_whose_database_is_damaged_says_so_in_a_line_and_still_writes_its_bundle(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (home / "coordinator.db").read_bytes()
    for path in home.glob("coordinator.db-*"):
        path.unlink()
    (home / "coordinator.db").write_bytes(whole[:5000])
    bundle = tmp_path / "bundle.zip"
    checks = {one["name"]: one for one in said(capsys, "doctor", "--bundle", str(bundle), code=2)["checks"]}
    assert checks["database"]["detail"].startswith("E-STATE-DAMAGED: the database: ")
    assert all("\n" not in check["detail"] for check in checks.values())
    assert zipfile.ZipFile(bundle).read("runs.json") == b"[]"
    assert failed(capsys, "doctor", "--bundle", str(bundle), code=2) == "E-EXISTS"


def test_what_was_backed_up_is_restored_and_open_attempts_are_given_up(
    finished: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = finished.authority
    shown = renew_server(made, hosts=["127.0.0.1"], random=SeededRandom("now"), now=time.time())
    save_authority(finished.home.authority, replace(made, server_certificate=shown))
    with finished.store.begin() as connection:
        at = Position(finished.plan.hash, 3, 1)
        attempt_rows.open_attempt(connection, RUN_ID, at, 1)
    archive, other = tmp_path / "kept.tar.gz", tmp_path / "other"
    said(capsys, "backup", str(archive))
    assert archive.stat().st_mode & 0o777 == 0o600
    with tarfile.open(archive) as inside:
        assert not any("spool" in name for name in inside.getnames())
    restored = said(capsys, "restore", str(archive), "--config", str(other))
    assert restored["attempts_given_up"] == 1
    seen = said(capsys, "run", "show", RUN_ID[:8], "--config", str(other))
    assert [one["round"] for one in seen["completed"]] == [1, 2]
    assert said(capsys, "doctor", "--config", str(other))["checks"][1]["ok"] is True


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.999])
def test_a_part_of_a_backup_restores_nothing(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: float
) -> None:
    archive = tmp_path / "kept.tar.gz"
    said(capsys, "backup", str(archive))
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * kept)])
    before = sorted(tmp_path.iterdir())
    assert failed(capsys, "restore", str(archive), "--config", str(tmp_path / "other"), code=6) == "E-STATE-DAMAGED"
    assert sorted(tmp_path.iterdir()) == before
    archive.write_bytes(whole)
    (tmp_path / "other").mkdir()
    said(capsys, "restore", str(archive), "--config", str(tmp_path / "other"))
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o700


def test_a_restored_database_replaces_none_that_lies_elsewhere(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, database = tmp_path / "kept.tar.gz", tmp_path / "elsewhere.db"
    text = (home / "coordinator.toml").read_text().replace("# database =", "database =")
    (home / "coordinator.toml").write_text(text.replace("sqlite:///coordinator.db", f"sqlite:///{database}"))
    (home / "coordinator.db").rename(database)
    said(capsys, "backup", str(archive))
    bytes_before = database.read_bytes()
    assert failed(capsys, "restore", str(archive), "--config", str(tmp_path / "other"), code=2) == "E-EXISTS"
    assert database.read_bytes() == bytes_before
    database.unlink()
    said(capsys, "restore", str(archive), "--config", str(tmp_path / "other"))
    assert database.exists()
    assert said(capsys, "member", "list", "--config", str(tmp_path / "other")) == []


def test_a_finished_run_is_listed_shown_watched_and_exported(
    finished: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (listed,) = said(capsys, "run", "list")
    assert (listed["state"], listed["rounds_completed"], listed["rounds"]) == ("completed", 2, 2)
    seen = said(capsys, "run", "show", RUN_ID[:6])
    assert [one["uploaded_bytes"] for one in seen["completed"]] == [3 * 48, 3 * 48]
    assert [one["metrics"] for one in seen["evaluations"]] == [{"accuracy": 0.7}] * 3
    capsys.readouterr()
    assert onlysum.run(["coordinator", "run", "watch", RUN_ID[:6], "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events if event["event"] in ("attempt", "round", "run")] == [
        "attempt",
        "round",
        "attempt",
        "round",
        "run",
    ]
    assert [event["phase"] for event in events if event["event"] == "phase"] == [
        "ADVERTISE_KEYS",
        "SHARE_KEYS",
        "COLLECT_MASKED",
        "AGREE_SURVIVORS",
        "UNMASK",
    ] * 2
    out = tmp_path / "result"
    files = said(capsys, "run", "export", RUN_ID[:6], "-o", str(out))["files"]
    assert files == ["adapter", "evaluations.json", "plan.json", "plan.sig", "report.json"]
    assert failed(capsys, "run", "export", RUN_ID[:6], "-o", str(out), code=2) == "E-EXISTS"
    assert failed(capsys, "run", "pause", RUN_ID[:6], code=2) == "E-USAGE"


def ended_early(world: World, *, rounds: int) -> None:
    """Let the operator end the run after so many rounds."""

    async def through() -> None:
        while len(world.rounds()) < rounds:
            await world.turn()
        with world.store.begin() as connection:
            run_rows.request_abort(connection, RUN_ID)
        await world.settle()

    asyncio.run(through())
    assert world.state().state is RunState.ABORTED


def test_what_a_run_that_ended_early_has_released_is_exported_on_request_and_labelled(
    operated: Operated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = operated(rounds=3)
    ended_early(world, rounds=2)
    out = tmp_path / "result"
    assert failed(capsys, "run", "export", RUN_ID[:6], "-o", str(out), code=2) == "E-USAGE"
    capsys.readouterr()
    assert onlysum.run(["coordinator", "run", "show", RUN_ID[:6]]) == 0
    assert f"Next: onlysum coordinator run export {RUN_ID[:8]} -o DIR --released" in capsys.readouterr().out
    exported = said(capsys, "run", "export", RUN_ID[:6], "-o", str(out), "--released")
    assert exported["files"] == ["adapter", "evaluations.json", "plan.json", "plan.sig", "report.json"]
    assert (exported["state"], exported["rounds_completed"], exported["rounds"]) == ("aborted", 2, 3)
    tensors = load_file(out / "adapter" / "adapter_model.safetensors")
    trained = [tensors[tensor.key].ravel() for tensor in world.plan.recipe.adapter.tensors[1:]]
    assert np.concatenate(trained).tolist() == world.adapter(2).tolist()
    card = (out / "adapter" / "README.md").read_text()
    assert all(f"**{sentence}**" in card for sentence in unfinished_sentences(world.plan, 2))
    assert "did not complete: this is what 2 of its 3 rounds released" in card
    report = verify_report((out / "report.json").read_bytes()).report
    assert sum(entry.certificate is not None for entry in report.rounds) == 2


def test_an_export_right_after_the_end_waits_for_its_files(
    finished: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The row of a run's end is committed before adapter and report are moved to where they are read."""
    files = RunFiles(finished.home.run(RUN_ID))
    drafts = files.drafts(7)
    drafts.directory.mkdir()
    files.exported.rename(drafts.exported)
    files.report.rename(drafts.report)
    later = threading.Timer(0.3, files.publish_end, [7])
    later.start()
    said(capsys, "run", "export", RUN_ID[:6], "-o", str(tmp_path / "result"))
    later.join()
    assert (tmp_path / "result" / "adapter" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "result" / "report.json").is_file()


def test_a_run_that_released_nothing_or_goes_on_is_not_exported(
    operated: Operated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = operated(rounds=3)
    words = ("run", "export", RUN_ID[:6], "-o", str(tmp_path / "result"), "--released")
    assert failed(capsys, *words, code=2) == "E-USAGE"
    ended_early(world, rounds=0)
    assert failed(capsys, *words, code=2) == "E-USAGE"
    assert not (tmp_path / "result").exists()


def test_a_released_adapter_that_is_gone_is_said_to_be_and_leaves_no_directory(
    operated: Operated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = operated(rounds=3)
    ended_early(world, rounds=2)
    (world.home.run(RUN_ID) / "global-2.f32").unlink()
    words = ("run", "export", RUN_ID[:6], "-o", str(tmp_path / "result"), "--released")
    assert failed(capsys, *words, code=6) == "E-STATE-DAMAGED"
    assert not (tmp_path / "result").exists()


def test_watching_a_run_that_was_refused_ends_with_exit_code_four(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], finished: World
) -> None:
    with finished.store.begin() as connection:
        connection.execute(runs.update().values(state="refused", code="E-POLICY-RULE", reason="bob: no"))
    capsys.readouterr()
    assert onlysum.run(["coordinator", "run", "watch", RUN_ID[:6]]) == 4
    assert "run refused: E-POLICY-RULE bob: no" in capsys.readouterr().out


def test_an_operator_who_ended_a_run_is_told_so_and_watching_it_is_no_failure(
    finished: World, capsys: pytest.CaptureFixture[str]
) -> None:
    with finished.store.begin() as connection:
        words = {"state": "aborted", "code": "E-RUN-ENDED", "reason": "the operator ended the run"}
        connection.execute(runs.update().values(**words))
    capsys.readouterr()
    assert onlysum.run(["coordinator", "run", "watch", RUN_ID[:6]]) == 0
    assert "run aborted: E-RUN-ENDED the operator ended the run" in capsys.readouterr().out
    assert onlysum.run(["coordinator", "run", "list"]) == 0
    assert f"{RUN_ID[:12]}: E-RUN-ENDED the operator ended the run" in capsys.readouterr().out
    assert said(capsys, "run", "list")[0]["reason"] == "the operator ended the run"


def test_watching_prints_one_line_a_round_with_its_time(finished: World, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert onlysum.run(["coordinator", "run", "watch", RUN_ID[:6]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC  ", line) for line in lines)
    rounds = [line for line in lines if " UTC  round " in line]
    with finished.store.read() as connection:
        planned = run_rows.find_run(connection, RUN_ID).parsed().recipe.rounds
    assert [f"round {number} of {planned}: the sum of " in line for number, line in enumerate(rounds, 1)] == (
        [True] * planned
    )
    assert "run completed" in lines[-1]


def test_times_for_programs_are_dates(finished: World, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "run", "show", RUN_ID[:6])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown["created_at"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown["completed"][0]["completed_at"])


def test_a_refusal_of_an_older_participant_cannot_rewrite_the_operators_terminal(
    finished: World, capsys: pytest.CaptureFixture[str]
) -> None:
    with finished.store.begin() as connection:
        connection.execute(runs.update().values(state="refused", code="E-POLICY-RULE", reason="bob: \x1b[2J\u202eon"))
    capsys.readouterr()
    assert onlysum.run(["coordinator", "run", "watch", RUN_ID[:6]]) == 4
    assert onlysum.run(["coordinator", "run", "show", RUN_ID[:6]]) == 0
    out = capsys.readouterr().out
    assert out.count(r"bob: \x1b[2J\u202eon") == 2
    assert "\x1b" not in out


def test_start_says_when_it_is_ready_and_ends_cleanly_on_sigterm(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "onlysum", "coordinator", "start"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline().startswith("Ready: members at 127.0.0.1:")
            assert said(capsys, "status")["running"] is True
            second = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
            assert second.returncode == 2
            assert "E-RUNNING" in second.stderr
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(10) == 0
        finally:
            daemon.kill()
    assert said(capsys, "status", code=3)["running"] is False


def test_tab_completes_runs_and_members_also_in_a_list(
    finished: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, name in (
        (f"run show {RUN_ID[:3]}", RUN_ID),
        ("member show ali", "alice"),
        ("run create draft --members bob,ali", "bob,alice"),
        (f"run create --like {RUN_ID[:3]}", RUN_ID),
    ):
        monkeypatch.setenv("_ONLYSUM_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", f"onlysum coordinator {words}")
        monkeypatch.setenv("COMP_CWORD", str(1 + len(words.split())))
        capsys.readouterr()
        with pytest.raises(SystemExit):
            onlysum.run([])
        assert capsys.readouterr().out.split() == [name]


def test_the_security_log_shows_who_was_invited_and_finds_a_row_that_was_changed(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "invite", "hospital-a")
    shown = said(capsys, "security", "show")
    assert [(row["kind"], row["subject"]) for row in shown["rows"]] == [("invited", "hospital-a")]
    with sqlite3.connect(home / "coordinator.db") as database:
        database.execute("UPDATE security SET subject = 'hospital-b'")
    assert failed(capsys, "security", "show", code=6) == "E-STATE-DAMAGED"


# --- several at once, and from a recipe ---


def test_participants_and_evaluators_are_invited_at_once_into_files(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = said(capsys, "invite", "a", "b", "--evaluator", "eva", "-o", str(tmp_path))
    assert [(one["name"], one["role"]) for one in made] == [
        ("a", "participant"),
        ("b", "participant"),
        ("eva", "evaluator"),
    ]
    for one in made:
        file = tmp_path / f"{one['name']}.token"
        assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == (f"{one['token']}\n", 0o600)
        assert decode_invitation(one["token"]).role.value == one["role"]


def test_a_name_that_is_invited_twice_at_once_invites_nobody(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert failed(capsys, "invite", "a", "b", "--evaluator", "a", code=2) == "E-USAGE"
    assert said(capsys, "status", code=3)["invited"] == []


def test_a_recipe_becomes_a_draft_before_a_plan_and_only_where_somebody_can_build_it(
    operated: Operated, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    operated()
    recipe, built = tmp_path / "recipe.toml", []

    def build(source: Path, out: Path) -> list[str]:
        built.append((source, out))
        raise LocalError("E-METHOD-REFUSED", "by the builder")

    monkeypatch.setattr("onlysum.build_draft", build)
    assert failed(capsys, "run", "create", str(recipe), code=2) == "E-METHOD-REFUSED"
    assert [source for source, _ in built] == [recipe]
    assert not built[0][1].parent.exists()  # what was begun is gone
    monkeypatch.setattr("onlysum.build_draft", None)
    assert failed(capsys, "run", "create", str(recipe), code=2) == "E-USAGE"
