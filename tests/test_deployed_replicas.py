"""Two coordinators in Kubernetes: what the manifests put together, and what their scripts do on a machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordinator.config import load_settings
from coordinator.enrolment.authority import load_authority
from coordinator.home import Home
from coordinator.opened import open_store
from tests.worlds.postgres import Server

REPLICAS = Path(__file__).parent.parent / "deploy" / "kubernetes-replicas"
HOSTS = ("sum-a.example.org", "sum-b.example.org")
NAMES = ("coordinator-0", "coordinator-1")


@pytest.fixture(scope="module")
def rendered() -> dict[tuple[str, str], dict[str, Any]]:
    """What kubectl would apply, by kind and name; without kubectl the files of the overlay, patches as they stand."""
    kubectl = shutil.which("kubectl")
    texts = [path.read_text() for path in REPLICAS.glob("*.yaml") if path.name != "kustomization.yaml"]
    if kubectl is not None:
        command = [kubectl, "kustomize", str(REPLICAS)]
        texts = [subprocess.run(command, capture_output=True, text=True, check=True).stdout]
    documents = [document for text in texts for document in yaml.safe_load_all(text) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def the_set(rendered: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = rendered["StatefulSet", "coordinator"]["spec"]
    return spec


def script(path: Path) -> str:
    """Return the shell script of a pod's only script."""
    (document,) = yaml.safe_load_all(path.read_text())
    pod = document["spec"]["template"]["spec"]
    (container,) = pod.get("initContainers") or pod["containers"]
    assert container["command"] == ["sh", "-ec"]
    (text,) = container["args"]
    return str(text)


def run(path: Path, place: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a pod's script with its volumes below a directory."""
    text = script(path).replace("/shared/", f"{place}/shared/").replace("/state/", f"{place}/state/")
    around = {**os.environ, **environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(["sh", "-ec", text], capture_output=True, text=True, check=False, env=around)


def made(place: Path, database: str) -> subprocess.CompletedProcess[str]:
    place.joinpath("shared").mkdir(exist_ok=True)
    words = {"FEDERATION": "clinics", "OPERATOR": "Example Institute", "FIRST": HOSTS[0], "SECOND": HOSTS[1]}
    return run(REPLICAS / "init" / "job.yaml", place, DATABASE=database, **words)


# --- what is put together ---


def test_there_are_two_on_different_machines_of_which_one_is_always_left(
    rendered: dict[tuple[str, str], dict[str, Any]],
) -> None:
    pods = the_set(rendered)
    labels = {"app.kubernetes.io/component": "coordinator"}
    assert pods["replicas"] == len(NAMES)
    (apart,) = pods["template"]["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["topologyKey"] == "kubernetes.io/hostname"
    budget = rendered["PodDisruptionBudget", "coordinator"]["spec"]
    assert budget["minAvailable"] == 1
    for selector in (apart["labelSelector"]["matchLabels"], budget["selector"]["matchLabels"]):
        assert labels.items() <= selector.items()
        assert selector.items() <= pods["template"].get("metadata", {}).get("labels", selector).items()


def test_each_has_an_address_of_its_own_and_none_leads_to_any_of_them(
    rendered: dict[tuple[str, str], dict[str, Any]],
) -> None:
    for name in NAMES:
        service = rendered["Service", name]["spec"]
        assert service["type"] == "LoadBalancer"
        assert service["selector"]["statefulset.kubernetes.io/pod-name"] == name
    assert rendered["Service", "coordinator"]["spec"]["clusterIP"] == "None"


def test_they_share_a_volume_that_several_machines_write_and_have_probes(
    rendered: dict[tuple[str, str], dict[str, Any]],
) -> None:
    pod = the_set(rendered)["template"]["spec"]
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "emptyDir" not in volume}
    assert claims == {"coordinator-shared"}
    claim = rendered["PersistentVolumeClaim", "coordinator-shared"]["spec"]
    assert claim["accessModes"] == ["ReadWriteMany"]
    (container,) = pod["containers"]
    assert "startupProbe" in container
    if shutil.which("kubectl") is not None:  # these two stand in the manifest below
        assert {"readinessProbe", "livenessProbe"} <= container.keys()


def test_the_database_is_named_by_a_secret_that_no_file_holds_and_may_be_called(
    rendered: dict[tuple[str, str], dict[str, Any]],
) -> None:
    (container,) = the_set(rendered)["template"]["spec"]["containers"]
    (job,) = yaml.safe_load_all((REPLICAS / "init" / "job.yaml").read_text())
    (init,) = job["spec"]["template"]["spec"]["containers"]
    kept = {
        (entry["name"], entry["valueFrom"]["secretKeyRef"]["name"], entry["valueFrom"]["secretKeyRef"]["key"])
        for entry in (*container["env"], *init["env"])
        if "secretKeyRef" in entry.get("valueFrom", {})
    }
    secret = "coordinator-database"
    assert kept == {("PGPASSWORD", secret, "password"), ("DATABASE", secret, "url")}
    assert not [kind for kind, _ in rendered if kind == "Secret"]
    egress = rendered["NetworkPolicy", "coordinator"]["spec"]["egress"]
    assert 5432 in {port["port"] for rule in egress for port in rule["ports"]}


# --- what the scripts do ---


def test_the_job_makes_two_directories_with_one_authority_which_know_each_other(
    tmp_path: Path, postgres: Server
) -> None:
    database = postgres.database()
    done = made(tmp_path, database)
    assert (done.returncode, done.stderr) == (0, "")
    homes = [Home(tmp_path / "shared" / "directories" / name) for name in NAMES]
    settings = [load_settings(home) for home in homes]
    for mine, other, own in zip(HOSTS, reversed(HOSTS), settings, strict=True):
        assert own.addresses == (f"{mine}:8443", f"{other}:8443")
        assert own.enrolment_addresses == (f"{mine}:8444", f"{other}:8444")
        assert own.replicas is not None
        assert own.replicas.directory == "/shared"
        assert own.database == database
    assert load_authority(homes[0].authority).fingerprint == load_authority(homes[1].authority).fingerprint
    for home, own in zip(homes, settings, strict=True):
        assert home.authority.stat().st_mode & 0o077 == 0
        open_store(home, own).close()
    again = made(tmp_path, database)
    assert again.returncode == 1
    assert "already" in again.stderr


def test_each_takes_its_directory_once_and_leaves_no_key_on_the_shared_volume(tmp_path: Path, postgres: Server) -> None:
    assert made(tmp_path, postgres.database()).returncode == 0
    for name in NAMES:
        pod = tmp_path / name
        pod.joinpath("state").mkdir(parents=True)
        pod.joinpath("shared").symlink_to(tmp_path / "shared")
        for _ in range(2):  # a pod that is started again keeps what it has
            done = run(REPLICAS / "coordinator.patch.yaml", pod, POD_NAME=name)
            assert (done.returncode, done.stderr) == (0, "")
        home = Home(pod / "state" / "home" / "main")
        with closing(open_store(home, load_settings(home))) as store:
            assert store.shared
    assert not list((tmp_path / "shared").rglob("*.key"))


def test_a_pod_that_comes_before_the_job_fails_and_leaves_nothing_half_made(tmp_path: Path, postgres: Server) -> None:
    tmp_path.joinpath("state").mkdir()
    assert run(REPLICAS / "coordinator.patch.yaml", tmp_path, POD_NAME=NAMES[0]).returncode != 0
    assert not (tmp_path / "state" / "home" / "main").exists()
    assert made(tmp_path, postgres.database()).returncode == 0
    assert run(REPLICAS / "coordinator.patch.yaml", tmp_path, POD_NAME=NAMES[0]).returncode == 0
    assert load_settings(Home(tmp_path / "state" / "home" / "main")).federation == "clinics"
