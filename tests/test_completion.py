"""Tab completes what the directory holds: runs, members, datasets, models and populations."""

from __future__ import annotations

from pathlib import Path

import pytest

import onlysum
from coordinator.database import label_rows
from tests.worlds.coordinator import RUN_ID
from tests.worlds.dashboard import seed

NAMED: dict[str, tuple[str, list[str]]] = {
    "a plan": ("participant plan show --config {home} 3f", ["3f2a00"]),
    "a dataset": ("participant dataset show --config {home} w", ["wards"]),
    "a model": ("participant model show --config {home} m", ["minilm"]),
    "a population": ("participant ledger show --config {home} p", ["patients"]),
    "a population by option": ("participant dataset add x y --config {home} --population p", ["patients"]),
}


def completed(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setenv("_ONLYSUM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"onlysum {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    with pytest.raises(SystemExit):
        onlysum.run([])
    return capsys.readouterr().out.split()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("datasets/wards.json", "datasets/other.json", "models/minilm.json", "plans/3f2a00/plan.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "policy.toml").write_text("[population.patients]\n[population.staff]\n")
    return tmp_path


@pytest.mark.parametrize("what", NAMED)
def test_tab_completes(
    what: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, names = NAMED[what]
    assert completed(words.format(home=home), monkeypatch, capsys) == names


@pytest.mark.parametrize("words", ["participant plan show", "coordinator run show", "coordinator member show"])
def test_tab_in_a_directory_that_is_none_says_nothing(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert completed(f"{words} --config {tmp_path} x", monkeypatch, capsys) == []


def test_tab_completes_the_keys_of_labels_and_behind_a_key_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seeded = seed(tmp_path, n=3)
    with seeded.opened.store.begin() as connection:
        label_rows.set_labels(connection, RUN_ID, {"study": "lung", "site": "north"})
        label_rows.set_labels(connection, "22" * 16, {"study": "skin"})
    words = f"coordinator run list --config {tmp_path} --label"
    assert completed(f"{words} s", monkeypatch, capsys) == ["site", "study"]
    assert completed(f"{words} study=", monkeypatch, capsys) == ["study=lung", "study=skin"]
    assert completed(f"coordinator run label --config {tmp_path} 2222 --remove st", monkeypatch, capsys) == ["study"]
