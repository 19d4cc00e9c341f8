"""Write a software bill of materials (CycloneDX 1.6, JSON) of onlysum and all it installs: ``make sbom``.

Guarantees: it lists what the base install and the extras for users bring in, directly or not, with version, licence,
package URL and who needs whom, as the metadata of what is installed states it; the same installation gives the same
bytes, so that two can be compared.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from json import dumps
from json import loads as parsed
from pathlib import Path
from tomllib import loads
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from license_expression import ExpressionError, get_spdx_licensing
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from docs.make_notices import closure, licence, needs, wanted

PROJECT: Final = Path(__file__).parent.parent / "pyproject.toml"


def bill() -> Bom:
    """Return the bill of this installation."""
    project = loads(PROJECT.read_text())["project"]
    found = closure(wanted(project))
    components = {
        name: _component(name, package.version.split("+")[0], licence(package)) for name, package in found.items()
    }
    root = _component(project["name"], project["version"], project["license"], ComponentType.APPLICATION)
    bom = Bom(components=components.values())
    bom.metadata.component = root
    bom.register_dependency(root, _named(wanted(project), components))
    for name, package in found.items():
        bom.register_dependency(components[name], _named(needs(package), components))
    bom.serial_number = uuid5(NAMESPACE_URL, " ".join(f"{name}=={found[name].version}" for name in sorted(found)))
    return bom


def _named(requirements: Iterable[Requirement], components: Mapping[str, Component]) -> list[Component]:
    names = dict.fromkeys(canonicalize_name(requirement.name) for requirement in requirements)
    return [components[name] for name in names if name in components]


def _component(name: str, version: str, terms: str, kind: ComponentType = ComponentType.LIBRARY) -> Component:
    url = PackageURL("pypi", None, name, version)
    return Component(name=name, version=version, type=kind, purl=url, bom_ref=url.to_string(), licenses=[_terms(terms)])


def _terms(terms: str) -> LicenseExpression | DisjunctiveLicense:
    """Return a licence as an SPDX expression where it is one, else by its name."""
    try:
        known = get_spdx_licensing().parse(terms, validate=True) is not None
    except ExpressionError:
        known = False
    return LicenseExpression(terms) if known else DisjunctiveLicense(name=terms)


def written(bom: Bom) -> str:
    """Return the bill as JSON, without the time at which it was made."""
    value = parsed(JsonV1Dot6(bom).output_as_string())
    value["metadata"].pop("timestamp", None)
    return dumps(value, indent=2, sort_keys=True) + "\n"


def main() -> int:
    """Print it."""
    sys.stdout.write(written(bill()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
