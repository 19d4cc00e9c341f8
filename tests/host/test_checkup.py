"""A doctor runs every check, and its bundle holds what support needs and nothing else."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from host import checkup
from host.checkup import Check, CheckFailed, Examination, check, check_disk, write_bundle
from privacy.errors import LocalError


def refuse(error: Exception) -> str:
    raise error


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (CheckFailed("a certificate expires"), "a certificate expires"),
        (LocalError("E-PORT", "h:1"), "E-PORT: h:1; next: stop that program, or change the address"),
        (PermissionError(13, "Permission denied"), "PermissionError: Permission denied"),
        (ImportError("libcudart of /home/anna"), "failed: ImportError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_whatever_a_check_finds_becomes_its_outcome(error: Exception, detail: str) -> None:
    outcome = check("ports", lambda: refuse(error))
    assert (outcome.name, outcome.ok) == ("ports", False)
    assert outcome.detail.startswith(detail)


def test_a_disk_with_little_space_is_reported_with_what_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_disk(tmp_path / "not made yet", "updates").ok
    monkeypatch.setattr(checkup, "FREE_BYTES", 2**80)
    outcome = check_disk(tmp_path, "updates")
    assert not outcome.ok
    assert outcome.detail.endswith("MiB free; updates need space")


def test_an_examination_is_one_value_for_people_and_programs(tmp_path: Path) -> None:
    checks = (Check("keys", ok=True, detail="private"), Check("disk", ok=False, detail="3 MiB free"))
    examination = Examination(checks, tmp_path / "b.zip")
    assert not examination.ok
    assert examination.to_json() == {
        "ok": False,
        "checks": [
            {"name": "keys", "ok": True, "detail": "private"},
            {"name": "disk", "ok": False, "detail": "3 MiB free"},
        ],
        "bundle": str(tmp_path / "b.zip"),
    }
    assert examination.to_lines() == ["ok   keys: private", "FAIL disk: 3 MiB free", f"wrote {tmp_path / 'b.zip'}"]


def test_a_bundle_holds_what_it_is_given_and_replaces_nothing(tmp_path: Path) -> None:
    configuration, bundle = tmp_path / "participant.toml", tmp_path / "bundle.zip"
    configuration.write_text('name = "alice"')
    checks = [Check("keys", ok=True, detail="private")]

    def write() -> None:
        files = [configuration, tmp_path / "policy.toml"]
        write_bundle(bundle, checks, ["numpy"], documents={"journals": {"0a1b": 7}}, configuration=files)

    write()
    with zipfile.ZipFile(bundle) as archive:
        names = ["checks.json", "command.txt", "journals.json", "participant.toml", "versions.json"]
        assert sorted(archive.namelist()) == names
        assert json.loads(archive.read("journals.json")) == {"0a1b": 7}
        assert json.loads(archive.read("checks.json")) == [{"name": "keys", "ok": True, "detail": "private"}]
        assert {"python", "numpy", "platform"} == set(json.loads(archive.read("versions.json")))
    with pytest.raises(LocalError, match="E-EXISTS"):
        write()


ADDRESSES = {
    "a proxy's login": ('proxy = "http://anna:s3cret@proxy:3128"', 'proxy = "http://anna:***@proxy:3128"'),
    "a database's, with an at sign": (
        "database = 'postgresql+psycopg://o:s@3/cret@h/n'",
        "'postgresql+psycopg://o:***@h/n'",
    ),
    "a password alone": ('"http://:s3cret@proxy:3128"', '"http://:***@proxy:3128"'),
    "an address without one": ('proxy = "http://proxy:3128"  # anna@example.org', "http://proxy:3128"),
}


@pytest.mark.parametrize("sentence", ADDRESSES)
def test_a_bundle_for_support_holds_no_password(tmp_path: Path, sentence: str) -> None:
    text, kept = ADDRESSES[sentence]
    (tmp_path / "settings.toml").write_text(text)
    bundle = tmp_path / "bundle.zip"
    write_bundle(bundle, (), (), documents={}, configuration=[tmp_path / "settings.toml"])
    inside = zipfile.ZipFile(bundle).read("settings.toml").decode()
    assert kept in inside
    assert "cret" not in inside
