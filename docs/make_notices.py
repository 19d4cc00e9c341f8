"""Write THIRD_PARTY_NOTICES.md from the metadata of what is installed: `python docs/make_notices.py > FILE`.

Guarantees: every package that the base install or an extra for users brings in, directly or not, is listed with its
licence as its own metadata states it. Development tools are not part of the product and not listed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from tomllib import loads
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("participant", "dashboard", "report", "postgres", "s3")
HOME_KEYS = ("Homepage", "homepage", "Home", "Source", "Repository", "repository", "Source Code")
LONGEST_NAME = 120  # of a licence; what is longer is the licence's text
HEADING = """# Third-party notices

onlysum is licensed under Apache-2.0 (see LICENSE). It installs, and does not contain, the packages of this table; their
licence texts are in each package's own files. Written by `make notices` from the metadata of the installed versions.

| package | version | licence | home |
|---|---|---|---|"""

VENDORED = Path(__file__).parent.parent / "host" / "web" / "vendored" / "vendored.toml"
VENDORED_HEADING = """The pages in a browser contain these files; hashes and licence texts are in `host/web/vendored`.

| package | version | licence | home | files |
|---|---|---|---|---|"""


def main() -> None:
    """Print the notices."""
    project = loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    found = closure(wanted(project))
    rows = (_row(name, found[name]) for name in sorted(found))
    sys.stdout.write("\n".join((HEADING, *rows, "", VENDORED_HEADING, *_vendored_rows())) + "\n")


def _vendored_rows() -> Iterator[str]:
    for package in loads(VENDORED.read_text())["package"]:
        files = ", ".join(f"`{name}`" for name in package["files"])
        yield f"| {package['name']} | {package['version']} | {package['licence']} | {package['home']} | {files} |"


def wanted(project: dict[str, Any]) -> list[Requirement]:
    """Return what the base install and the extras for users ask for."""
    lines = [*project["dependencies"]]
    lines += [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return [Requirement(line) for line in lines]


def closure(roots: list[Requirement]) -> dict[str, Distribution]:
    """Return every installed package that these requirements bring in, by its canonical name."""
    found: dict[str, Distribution] = {}
    waiting = list(roots)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # of another platform
        waiting += needs(found[name], requirement.extras)
    return found


def needs(package: Distribution, extras: Iterable[str] = ()) -> list[Requirement]:
    """Return what a package asks for on this platform."""
    lines = (Requirement(line) for line in package.requires or ())
    asked = set(extras) or {""}
    return [one for one in lines if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in asked)]


def _row(name: str, package: Distribution) -> str:
    addresses = dict(line.split(", ", 1) for line in package.metadata.get_all("Project-URL") or () if ", " in line)
    preferred = (addresses[key] for key in HOME_KEYS if key in addresses)
    home = next(preferred, _field(package, "Home-page") or next(iter(addresses.values()), ""))
    return f"| {name} | {package.version.split('+')[0]} | {licence(package)} | {home} |"


def licence(package: Distribution) -> str:
    """Return a package's licence as its metadata states it."""
    stated = _field(package, "License-Expression") or _field(package, "License")
    classifiers = package.metadata.get_all("Classifier") or ()
    named = [line.rsplit(" :: ", 1)[1] for line in classifiers if line.startswith("License ::")]
    if not stated or "\n" in stated or len(stated) > LONGEST_NAME:
        stated = ", ".join(named) or next(iter(stated.splitlines()), "see its files")
    return stated


def _field(package: Distribution, name: str) -> str:
    return (package.metadata[name] or "").strip() if name in package.metadata else ""


if __name__ == "__main__":
    main()
