"""Write grafana.json, the dashboard for Grafana: `python deploy/monitoring/build_grafana.py`.

Guarantees: the file is what this writes (a test compares), and names only metrics that the coordinator has.
Source: Grafana's JSON model of dashboards, schema 39.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).with_name("grafana.json")
SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
HALF, HEIGHT = 12, 8
RUN: Final = '{run=~"$run"}'
PANELS: Final[tuple[tuple[str, str, str, tuple[tuple[str, str], ...]], ...]] = (
    ("Round", "timeseries", "short", ((f"onlysum_run_round{RUN}", "{{run}}"), (f"onlysum_run_rounds_planned{RUN}", "planned {{run}}"))),
    ("Participants there, and the least that a sum needs", "timeseries", "short",
     ((f"onlysum_run_participants_there{RUN}", "there {{run}}"), (f"onlysum_run_min_survivors{RUN}", "least {{run}}"))),
    ("Phase: answered of expected", "timeseries", "percentunit",
     ((f"onlysum_run_phase_answered{RUN} / onlysum_run_phase_expected{RUN}", "{{run}}"),)),
    ("Seconds until the phase closes", "timeseries", "s", ((f"onlysum_run_phase_deadline_timestamp_seconds{RUN} - time()", "{{run}}"),)),
    ("Seconds per round", "timeseries", "s",
     ((f"rate(onlysum_run_round_seconds_total{RUN}[1h]) / rate(onlysum_run_rounds_completed_total{RUN}[1h])", "{{run}}"),)),
    ("Dropouts per round", "timeseries", "short",
     ((f"rate(onlysum_run_dropouts_total{RUN}[1h]) / rate(onlysum_run_rounds_completed_total{RUN}[1h])", "{{run}}"),)),
    ("Attempts given up, rounds voided", "timeseries", "short",
     ((f"increase(onlysum_run_attempts_aborted_total{RUN}[1h])", "given up {{run}}"), (f"increase(onlysum_run_rounds_voided_total{RUN}[1h])", "voided {{run}}"))),
    ("Masked updates", "timeseries", "Bps", ((f"rate(onlysum_run_uploaded_bytes_total{RUN}[5m])", "{{run}}"),)),
    ("Members", "timeseries", "short", (("sum by (state) (onlysum_members)", "{{state}}"),)),
    ("Runs", "timeseries", "short", (("onlysum_runs", "{{state}}"),)),
    ("Days until certificates end", "stat", "d",
     (("(onlysum_certificate_expiry_timestamp_seconds - time()) / 86400", "{{of}}"), ("(onlysum_member_certificate_expiry_timestamp_seconds - time()) / 86400", "members"))),
    ("Disk free, age of the backup", "stat", "short",
     (("onlysum_disk_free_bytes / 1e9", "GB free"), ("(time() - onlysum_backup_timestamp_seconds) / 86400", "days since the backup"))),
)  # fmt: skip


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    return {
        "title": "onlysum coordinator",
        "uid": "onlysum",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "tags": ["onlysum"],
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                {
                    "name": "run",
                    "type": "query",
                    "label": "Run",
                    "datasource": SOURCE,
                    "query": {"query": "label_values(onlysum_run_round, run)", "refId": "run"},
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                },
            ]
        },
        "panels": [_panel(number, *panel) for number, panel in enumerate(PANELS)],
    }


def _panel(number: int, title: str, kind: str, unit: str, queries: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return {
        "id": number + 1,
        "title": title,
        "type": kind,
        "datasource": SOURCE,
        "gridPos": {"x": HALF * (number % 2), "y": HEIGHT * (number // 2), "w": HALF, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for index, (query, legend) in enumerate(queries)
        ],
    }


def text() -> str:
    """Return the file's text."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
