"""What an operator deploys: units that systemd takes and rates, manifests that Kubernetes takes, files that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from docs import build_errors, make_sbom
from privacy.error_codes import REGISTRY

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
FOLDERS = ("kubernetes", "kubernetes/init", "kubernetes-replicas", "kubernetes-replicas/init")
PATCH = ".patch.yaml"  # a part of a manifest: kustomize lays it over another, and the whole is validated
BESIDE = {folder: sorted(DEPLOY.joinpath(folder).glob("*.yaml")) for folder in FOLDERS}
MANIFESTS = [
    path
    for paths in BESIDE.values()
    for path in paths
    if path.name != "kustomization.yaml" and not path.name.endswith(PATCH)
]
MOST_EXPOSED = 2.0  # of 10, as `systemd-analyze security` rates


class Unit(RawConfigParser):
    """A unit file, in which a key may stand several times."""

    def __init__(self, path: Path) -> None:
        super().__init__(strict=False, comment_prefixes=("#",))
        self.optionxform = str  # type: ignore[assignment,method-assign]
        self.read(path)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_runs_a_daemon_that_exists_as_nobody_in_particular(path: Path) -> None:
    unit = Unit(path)
    service = unit["Service"]
    kind = path.stem.removeprefix("onlysum-")
    assert service["ExecStart"] == f"/usr/bin/env onlysum {kind} start"
    assert (service["Type"], service["Restart"], service["User"]) == ("notify", "always", path.stem)
    for key in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "RestrictNamespaces"):
        assert service[key] == "yes", key
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert service["StateDirectoryMode"] == "0700"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_takes_the_unit_and_rates_it_as_closed(path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:  # a machine without systemd: what the unit says was compared above
        return
    checked = subprocess.run([analyze, "verify", path], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    rated = subprocess.run(
        [analyze, "security", "--offline=true", path], capture_output=True, text=True, check=False
    ).stdout
    level = re.search(r"exposure level for \S+: ([\d.]+)", rated)
    assert level is not None
    assert float(level[1]) < MOST_EXPOSED


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def test_every_manifest_is_in_a_folder_that_is_looked_at() -> None:
    assert sorted(DEPLOY.glob("kubernetes*/**/*.yaml")) == sorted(path for paths in BESIDE.values() for path in paths)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_kubernetes_takes_each_manifest(path: Path) -> None:
    for document in documents(path.read_text()):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_kustomization_names_every_file_beside_it_and_renders(folder: str) -> None:
    at = DEPLOY / folder
    (kustomization,) = documents((at / "kustomization.yaml").read_text())
    named = [name for name in kustomization["resources"] if not (at / name).is_dir()]
    named += [patch["path"] for patch in kustomization.get("patches", [])]
    assert sorted(["kustomization.yaml", *named]) == [path.name for path in BESIDE[folder]]
    kubectl = shutil.which("kubectl")
    if kubectl is None:  # the files it would put together were validated above
        return
    rendered = subprocess.run([kubectl, "kustomize", at], capture_output=True, text=True, check=True).stdout
    for document in documents(rendered):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
        assert document["metadata"].get("namespace", "onlysum") == "onlysum"


def containers() -> list[dict[str, Any]]:
    found = []
    for path in MANIFESTS:
        for document in documents(path.read_text()):
            pod = document.get("spec", {}).get("template", {}).get("spec", {})
            found += [*pod.get("containers", []), *pod.get("initContainers", [])]
    return found


def test_no_container_may_gain_privileges_or_write_to_its_own_file_system() -> None:
    assert len(containers()) == 4
    for container in containers():
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
    services = yaml.safe_load((DEPLOY / "container" / "compose.yaml").read_text())["services"]
    for service in services.values():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_image_has_every_package_of_the_wheel_and_no_other() -> None:
    text = (DEPLOY / "container" / "Containerfile").read_text()
    copied = {source for line in re.findall(r"^COPY (.*) /src/\S*$", text, re.MULTILINE) for source in line.split()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])
    around = {"constraints.txt", "pyproject.toml", "README.md", *project["project"]["license-files"]}
    assert copied == packages | around
    for extra in re.findall(r"/src\[(\w+)\]", text):
        assert extra in project["project"]["optional-dependencies"]
    assert re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE) == ["base", "coordinator", "participant"]


def test_one_version_stands_in_all_files() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for path in DEPLOY.rglob("*.yaml"):
        tags = re.findall(r"newTag: (\S+)|image: onlysum-\w+:(\S+)", path.read_text())
        assert {first or second for first, second in tags} <= {version}, path.name


def test_the_page_of_errors_is_that_of_the_registry() -> None:
    text = build_errors.TEXT.read_text()
    assert text == build_errors.page(), "run `python -m docs.build_errors`"
    assert all(f"### {code}\n" in text for code in REGISTRY)


def test_the_bill_of_materials_names_what_is_installed_and_who_needs_it() -> None:
    written = make_sbom.written(make_sbom.bill())
    assert make_sbom.written(make_sbom.bill()) == written, "two of one installation are equal"
    bill = json.loads(written)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    components = {component["name"]: component for component in bill["components"]}
    assert {"torch", "peft", "opacus", "grpcio", "cryptography"} <= components.keys()
    assert not {"pytest", "mypy", "ruff"} & components.keys(), "tools of development are not delivered"
    assert all(component["licenses"] for component in bill["components"])
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in bill["dependencies"]}
    root = bill["metadata"]["component"]["bom-ref"]
    assert components["peft"]["bom-ref"] in needs[root]
    assert components["transformers"]["bom-ref"] in needs[components["peft"]["bom-ref"]]
