"""Write THIRD_PARTY_NOTICES.md from the metadata of what is installed: `python docs/make_notices.py > FILE`.

Guarantees: every package that the base install or an extra for users brings in, directly or not, is listed with its
licence as its own metadata states it. Development tools are not part of the product and not listed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from tomllib import loads

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("participant", "dashboard", "report", "postgres")
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
    wanted = [Requirement(line) for line in project["dependencies"]]
    wanted += [Requirement(line) for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    found = _closure(wanted)
    rows = (_row(name, found[name]) for name in sorted(found))
    sys.stdout.write("\n".join((HEADING, *rows, "", VENDORED_HEADING, *_vendored_rows())) + "\n")


def _vendored_rows() -> Iterator[str]:
    for package in loads(VENDORED.read_text())["package"]:
        files = ", ".join(f"`{name}`" for name in package["files"])
        yield f"| {package['name']} | {package['version']} | {package['licence']} | {package['home']} | {files} |"


def _closure(wanted: list[Requirement]) -> dict[str, Distribution]:
    found: dict[str, Distribution] = {}
    waiting = list(wanted)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # of another platform
        needs = [Requirement(line) for line in found[name].requires or ()]
        extras = requirement.extras or {""}
        waiting += [
            one for one in needs if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in extras)
        ]
    return found


def _row(name: str, package: Distribution) -> str:
    addresses = dict(line.split(", ", 1) for line in package.metadata.get_all("Project-URL") or () if ", " in line)
    preferred = (addresses[key] for key in HOME_KEYS if key in addresses)
    home = next(preferred, _field(package, "Home-page") or next(iter(addresses.values()), ""))
    return f"| {name} | {package.version.split('+')[0]} | {_licence(package)} | {home} |"


def _licence(package: Distribution) -> str:
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
