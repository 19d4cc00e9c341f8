"""``join`` with data, over the network: what one command does, and what costs no invitation."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import onlysum
from host.fingerprints import roster_fingerprint
from participant.opened import open_home
from participant.owner.policy import load_policy
from protos.envelope import Role
from tests.worlds.daemons import Service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path / "clinic")
    yield running
    running.stop()


@pytest.fixture
def token(service: Service, tmp_path: Path) -> Path:
    file = tmp_path / "alice.token"
    file.write_text(f"{service.invite('alice', Role.PARTICIPANT)}\n")
    return file


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "Ward Rows.csv"
    file.write_text("text,label,who\nfever,yes,p1\ncough,no,p1\n")
    return file


def join(tmp_path: Path, name: str, *words: str) -> int:
    home = tmp_path / name
    return onlysum.run(["participant", "join", *words, "--ledgers", str(home / "ledgers"), "-c", str(home), "--json"])


def document(printed: str) -> Any:
    """Return what was printed as JSON, below the lines that the service in this process logs."""
    return json.loads(printed[printed.index("\n{\n") :])


def test_a_file_with_the_line_joins_and_registers_data(
    token: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(token), "--data", f"wards={rows}", "--population", "patients", "--user", "who"]
    assert join(tmp_path, "alice", *words) == 0
    said = document(capsys.readouterr().out)
    assert (said["name"], said["dataset"], said["base"]) == ("alice", "wards", None)
    opened = open_home(tmp_path / "alice")
    entry = opened.review.registry.dataset("wards")
    assert (entry.rows, entry.users, entry.population) == (2, 1, "patients")
    assert not load_policy(opened.home).dataset  # joined, and nothing allowed


def test_without_a_name_a_dataset_has_its_files(token: Path, rows: Path, tmp_path: Path) -> None:
    assert join(tmp_path, "alice", str(token), "--data", str(rows)) == 0
    assert [entry.name for entry in open_home(tmp_path / "alice").review.registry.datasets()] == ["ward-rows"]


WRONG: dict[str, tuple[list[str], str]] = {
    "data that is not there": (["--data", "/nowhere.csv"], "E-NOT-FOUND"),
    "data that does not parse": (["--data", "bad.csv"], "E-DATA-PARSE"),
    "a base that is not there": (["--base", "/nowhere"], "E-MODEL-LOAD"),
    "a population of no data": (["--population", "patients"], "E-USAGE"),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_invitation_is_not_spent_on(
    what: str, token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, code = WRONG[what]
    monkeypatch.chdir(tmp_path)
    Path("bad.csv").write_bytes(b'text,label\n"open,b\n')
    assert join(tmp_path, "alice", str(token), *words) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == code
    assert not (tmp_path / "alice").exists()
    assert join(tmp_path, "alice", str(token)) == 0


def test_what_is_registered_too_late_still_says_that_it_has_joined(
    service: Service, token: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def register(*_: object) -> list[str]:
        from privacy.errors import LocalError

        raise LocalError("E-DATA-POPULATION", "the same people")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("participant.commands.equipment.register_dataset", register)
        assert join(tmp_path, "alice", str(token), "--data", str(rows)) == 2
    printed = capsys.readouterr()
    assert document(printed.out)["name"] == "alice"
    assert json.loads(printed.err)["error"]["code"] == "E-DATA-POPULATION"
    assert open_home(tmp_path / "alice").owner.name == "alice"


@pytest.mark.parametrize("given", ["/nowhere.token", "onlysum2-", "a file of another kind"])
def test_what_is_no_invitation_is_refused_before_anything_is_made(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a file of another kind").write_bytes(bytes(range(256)) * 100)
    assert join(tmp_path, "alice", given) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "E-TOKEN-INVALID"
    assert not (tmp_path / "alice").exists()


def test_the_line_itself_and_standard_input_do_as_well(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert join(tmp_path, "alice", service.invite("alice", Role.PARTICIPANT)) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{service.invite('bob', Role.PARTICIPANT)}\n"))
    assert join(tmp_path, "bob", "-") == 0


def test_a_started_daemon_is_the_end_of_joining(token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Path] = []
    monkeypatch.setattr("participant.daemon.process.start", started.append)
    assert join(tmp_path, "alice", str(token), "--start") == 0
    assert started == [(tmp_path / "alice").resolve()]


def test_everybody_is_pinned_as_the_coordinator_lists_them_at_this_moment(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {}
    for name, role in (("alice", Role.PARTICIPANT), ("bob", Role.PARTICIPANT), ("eva", Role.EVALUATOR)):
        assert join(tmp_path, name, service.invite(name, role)) == 0  # no daemon runs that would know of the others
        keys[name] = open_home(tmp_path / name).owner.identity.public
    authority = bytes.fromhex(open_home(tmp_path / "alice").owner.ca_fingerprint)
    del keys["eva"]  # touches nothing private
    heard = roster_fingerprint("test-federation", authority, keys)
    words = ["participant", "member", "pin", "--all", "--heard", heard, "-c", str(tmp_path / "alice")]
    assert onlysum.run(words) == 0
    assert {*load_policy(open_home(tmp_path / "alice").home).coordinator.roster} == {"bob"}
