"""The registered datasets: their names, sizes and columns, never their content."""

from __future__ import annotations

from dataclasses import dataclass

from host.rendering import Json, Line, table, timestamp
from participant.opened import OpenHome
from participant.owner.registry import DatasetEntry


@dataclass(frozen=True, slots=True)
class DatasetView:
    """A registered dataset."""

    entry: DatasetEntry

    def to_json(self) -> dict[str, Json]:
        """Return it for programs; the hash of its files stays on this machine."""
        entry = self.entry
        return {
            "name": entry.name,
            "path": entry.path,
            "rows": entry.rows,
            "users": entry.users,
            "units": entry.units,
            "population": entry.population,
            "input": entry.input_column,
            "label": entry.label_column,
            "user": entry.user_column,
            "columns": list(entry.columns),
            "labels": list(entry.labels),
            "renamed": dict(entry.renamed),
            "added_at": timestamp(entry.added_at),
        }

    def to_lines(self) -> list[str]:
        """Return it for people."""
        return [f"{key:<14}{_text(value)}" for key, value in self.to_json().items()]


@dataclass(frozen=True, slots=True)
class DatasetList:
    """All registered datasets, sorted by name."""

    datasets: tuple[DatasetView, ...]

    def to_json(self) -> Json:
        """Return it for programs."""
        return [dataset.to_json() for dataset in self.datasets]

    def to_lines(self) -> list[Line]:
        """Return it for people."""
        entries = [dataset.entry for dataset in self.datasets]
        rows = [(entry.name, str(entry.units), entry.population or "-", entry.path) for entry in entries]
        return table(("NAME", "UNITS", "POPULATION", "PATH"), rows)


def dataset_list(opened: OpenHome) -> DatasetList:
    """Read all datasets."""
    return DatasetList(tuple(DatasetView(entry) for entry in opened.review.registry.datasets()))


def dataset_view(opened: OpenHome, name: str) -> DatasetView:
    """Read one dataset.

    Raises:
        LocalError: ``E-NOT-FOUND``.
    """
    return DatasetView(opened.review.registry.dataset(name))


def _text(value: Json) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} -> {item}" for key, item in value.items()) or "-"
    return "-" if value is None else str(value)
