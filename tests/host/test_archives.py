"""A directory goes into an archive whole, and comes out whole or not at all."""

from __future__ import annotations

import stat
import tarfile
from pathlib import Path

import pytest

from host.archives import move_to_configured, new_archive, restored
from privacy.errors import LocalError


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "keys").mkdir(parents=True)
    (source / "keys" / "own.key").write_text("secret")
    (source / "keys" / "own.key").chmod(0o644)
    with new_archive(tmp_path / "kept.tar.gz") as made:
        made.add(source / "keys", "keys")
    return tmp_path / "kept.tar.gz"


def test_an_archive_is_its_owners_alone_and_after_an_error_not_there(tmp_path: Path) -> None:
    path = tmp_path / "kept.tar.gz"
    with pytest.raises(FileNotFoundError), new_archive(path) as archive:
        archive.add(tmp_path / "gone")
    assert list(tmp_path.iterdir()) == []
    with new_archive(path) as archive:
        archive.add(__file__, "file")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(LocalError, match="E-EXISTS"), new_archive(path):
        pass
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["file"]


def test_what_is_restored_belongs_to_its_owner_alone(archive: Path, tmp_path: Path) -> None:
    with restored(archive, tmp_path / "new"):
        assert not (tmp_path / "new").exists()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*")}
    assert modes == {"keys": 0o700, "own.key": 0o600}
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert (tmp_path / "new" / "keys" / "own.key").read_text() == "secret"


def test_an_error_while_restoring_leaves_nothing(archive: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(LocalError, match="E-CONFIG-INVALID"), restored(archive, tmp_path / "new"):
        raise LocalError("E-CONFIG-INVALID", "what was restored does not parse")
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_restored_over_a_directory_that_holds_something(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").touch()
    with pytest.raises(LocalError, match="E-EXISTS"), restored(archive, tmp_path / "old"):
        pass
    with pytest.raises(LocalError, match="E-NOT-FOUND"), restored(tmp_path / "no.tar.gz", tmp_path / "new"):
        pass


def test_a_database_moves_to_its_configured_place_and_never_over_another(tmp_path: Path) -> None:
    extracted, elsewhere = tmp_path / "a.db", tmp_path / "b.db"
    extracted.write_text("restored")
    move_to_configured(extracted, tmp_path / "." / "a.db", file="coordinator.toml")
    assert extracted.read_text() == "restored"
    elsewhere.write_text("in use")
    with pytest.raises(LocalError, match=r"which coordinator\.toml names"):
        move_to_configured(extracted, elsewhere, file="coordinator.toml")
    assert elsewhere.read_text() == "in use"
    elsewhere.unlink()
    move_to_configured(extracted, elsewhere, file="coordinator.toml")
    assert (extracted.exists(), elsewhere.read_text()) == (False, "restored")
