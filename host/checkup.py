"""What the doctors of both daemons have in common: a check that never ends the others, and what is installed.

Leaves to others: what is looked at (``coordinator.daemon.doctor``, ``participant.daemon.doctor``).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from privacy.errors import OnlysumError


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its outcome."""

    name: str
    ok: bool
    detail: str


class CheckFailed(Exception):
    """A check found something that its words say."""


def check(name: str, run: Callable[[], str]) -> Check:
    """Look at one thing; whatever is wrong with it becomes the outcome."""
    try:
        return Check(name, ok=True, detail=run())
    except CheckFailed as found:
        return Check(name, ok=False, detail=str(found))
    except OnlysumError as error:
        return Check(name, ok=False, detail=f"{error}; next: {error.explanation.next_step}")
    except OSError as error:
        return Check(name, ok=False, detail=f"{type(error).__name__}: {error.strerror}")


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of these packages."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def versions_check(packages: Sequence[str]) -> Check:
    """Return the versions as a check, which never fails."""
    return Check("versions", ok=True, detail=", ".join(f"{name} {one}" for name, one in versions(packages).items()))
