"""The files for Prometheus and Grafana name metrics that there are, and codes and commands that exist."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.worlds.dashboard import seed, served

FOLDER = Path(__file__).parent.parent.parent / "deploy" / "monitoring"
METRIC = re.compile(r"\bonlysum_[a-z_]+")


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[str]]:
    world = seed(tmp_path_factory.mktemp("monitored"), n=3)
    with served(world.opened, world.clock) as site:
        yield set(METRIC.findall(site.ask("GET", "/metrics")[1])) | {"onlysum_backup_timestamp_seconds"}


def queries() -> dict[str, str]:
    panels: Any = json.loads((FOLDER / "grafana.json").read_text())["panels"]
    found = {f"{panel['title']} {target['refId']}": target["expr"] for panel in panels for target in panel["targets"]}
    groups: Any = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return found | {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


@pytest.mark.parametrize("place", queries())
def test_every_query_asks_for_metrics_that_there_are(exposed: set[str], place: str) -> None:
    query = queries()[place]
    assert set(METRIC.findall(query)) <= exposed
    assert query.count("(") == query.count(")")


def test_every_alert_says_what_to_do_next() -> None:
    groups: Any = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 8
    assert all(rule["annotations"]["next"] and rule["labels"]["severity"] in ("warning", "critical") for rule in rules)


def test_the_file_for_grafana_is_what_its_generator_writes() -> None:
    built = runpy.run_path(str(FOLDER / "build_grafana.py"))
    assert (FOLDER / "grafana.json").read_text() == built["text"]()
