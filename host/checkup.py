"""What the doctors of both daemons have in common: checks that never end the others, and a bundle for support.

Guarantees: a check that fails says why and what to do; a bundle holds the checks, versions and configuration, and of a
daemon's state only what its doctor hands over; no password of an address is in it.
Leaves to others: what is checked (``coordinator.daemon.doctor``, ``participant.daemon.doctor``).
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from host.rendering import Json
from privacy.errors import LocalError, OnlysumError

FREE_BYTES: Final = 2**30  # less free space than this is reported
FULL_BYTES: Final = 2**20  # with less than this nothing works
# Of an address: ://USER:PASSWORD@ or ?password=PASSWORD.
_PASSWORD: Final = re.compile(r"(://[^\s\"'/@:]*:)[^\s\"']*(@)|([?&]password=)[^\s\"'&]*()")


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its outcome."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Examination:
    """All checks of a daemon's directory, and the bundle that was written of them."""

    checks: tuple[Check, ...]
    bundle: Path | None = None

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    def to_json(self) -> Json:
        """Return it for programs."""
        return {
            "ok": self.ok,
            "checks": [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in self.checks],
            "bundle": str(self.bundle) if self.bundle else None,
        }

    def to_lines(self) -> list[str]:
        """Return a line per check."""
        lines = [f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}" for check in self.checks]
        return [*lines, *([f"wrote {self.bundle}"] if self.bundle else [])]


class CheckFailed(Exception):
    """A check found a problem; the message describes it."""


def check(name: str, run: Callable[[], str]) -> Check:
    """Run one check; whatever it raises becomes its outcome."""
    try:
        return Check(name, ok=True, detail=run())
    except CheckFailed as failure:
        return Check(name, ok=False, detail=str(failure))
    except OnlysumError as error:
        return Check(name, ok=False, detail=f"{error}; next: {error.explanation.next_step}")
    except OSError as error:
        return Check(name, ok=False, detail=f"{type(error).__name__}: {error.strerror}")
    except Exception as error:  # noqa: BLE001  # a broken library, or a bug, of which the other checks know nothing
        return Check(name, ok=False, detail=f"failed: {type(error).__name__}")


def check_disk(directory: Path, needed_for: str) -> Check:
    """Check the free space of the disk that holds a directory.

    Args:
        directory: need not exist; the current one is then checked.
        needed_for: what would not fit, for the message.
    """

    def free_space() -> str:
        free = shutil.disk_usage(directory if directory.exists() else Path()).free
        if free < FREE_BYTES:
            raise CheckFailed(f"{free // 2**20} MiB free; {needed_for} need space")
        return f"{free // 2**30} GiB free"

    return check("disk", free_space)


def full_disk(directory: Path) -> LocalError | None:
    """Return ``E-DISK-FULL`` if the disk that holds a directory has no space left; nothing is written to find out."""
    try:
        free = shutil.disk_usage(directory).free
    except OSError:
        return None
    return LocalError("E-DISK-FULL", f"{directory} has {free // 2**10} KiB free") if free < FULL_BYTES else None


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of these packages."""
    installed = {"python": platform.python_version()}
    for name in packages:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def versions_check(packages: Sequence[str]) -> Check:
    """Return the versions as a check, which never fails."""
    installed = versions(packages)
    return Check("versions", ok=True, detail=", ".join(f"{name} {number}" for name, number in installed.items()))


def write_bundle(
    file: Path,
    checks: Iterable[Check],
    packages: Sequence[str],
    *,
    documents: Mapping[str, Json],
    configuration: Iterable[Path],
) -> None:
    """Write a zip for support: checks, versions, the command, and what the doctor adds.

    Args:
        file: does not exist yet.
        checks: with their outcomes.
        packages: whose versions matter.
        documents: by name, what the doctor tells of the daemon's state; neither keys nor data.
        configuration: files that go in without the passwords of their addresses, if they exist.

    Raises:
        LocalError: ``E-EXISTS``.
    """
    if file.exists():
        raise LocalError("E-EXISTS", str(file))
    environment = {**versions(packages), "platform": platform.platform()}
    with zipfile.ZipFile(file, "x", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("checks.json", json.dumps([asdict(check) for check in checks], indent=2))
        archive.writestr("versions.json", json.dumps(environment, indent=2))
        archive.writestr("command.txt", " ".join(sys.argv[:3]))
        for name, document in documents.items():
            archive.writestr(f"{name}.json", json.dumps(document, indent=2))
        for path in configuration:
            if path.is_file():
                archive.writestr(path.name, without_passwords(path.read_text(errors="replace")))


def without_passwords(text: str) -> str:
    """Return a configuration without the passwords of its addresses: a proxy's, a database's."""
    return _PASSWORD.sub(r"\1\3***\2", text)
