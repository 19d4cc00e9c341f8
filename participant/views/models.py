"""The registered base models, with the hashes that plans and policies name."""

from __future__ import annotations

from dataclasses import dataclass

from host.rendering import Json, timestamp
from participant.opened import OpenHome
from participant.owner.registry import ModelEntry


@dataclass(frozen=True, slots=True)
class ModelView:
    """A registered base model."""

    entry: ModelEntry

    def to_json(self) -> dict[str, Json]:
        """Return it for programs."""
        return {
            "name": self.entry.name,
            "path": self.entry.path,
            "hash": self.entry.hash,
            "files": [{"name": file.name, "sha256": file.sha256} for file in self.entry.files],
            "added_at": timestamp(self.entry.added_at),
        }

    def to_lines(self) -> list[str]:
        """Return it for people, file by file."""
        files = [f"{file.sha256}  {file.name}" for file in self.entry.files]
        return [f"{self.entry.name}  {self.entry.path}", f"hash {self.entry.hash}", *files]


@dataclass(frozen=True, slots=True)
class ModelList:
    """All registered base models, sorted by name."""

    models: tuple[ModelView, ...]

    def to_json(self) -> Json:
        """Return it for programs."""
        return [model.to_json() for model in self.models]

    def to_lines(self) -> list[str]:
        """Return it for people."""
        if not self.models:
            return ["no base model is registered; see `onlysum participant model add --help`"]
        entries = [model.entry for model in self.models]
        return [line for entry in entries for line in (f"{entry.name}  {entry.path}", f"  {entry.hash}")]


def model_list(opened: OpenHome) -> ModelList:
    """Read all base models."""
    return ModelList(tuple(ModelView(entry) for entry in opened.review.registry.models()))


def model_view(opened: OpenHome, name: str) -> ModelView:
    """Read one base model.

    Raises:
        LocalError: ``E-NOT-FOUND``.
    """
    return ModelView(opened.review.registry.model(name))
