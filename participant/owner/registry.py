"""Which datasets and base models this participant has, under names of its own.

Guarantees: a dataset is entered only after the whole of it was parsed, a model only after every file was hashed and
none of them is a pickle; an entry never leaves this machine (a handshake announces a dataset's name and size alone).
Leaves to others: parsing (``data``), hashing (``models``), what may be done with them (``policy``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from host import durable
from participant.home import Home
from privacy import canonical
from privacy.draft import FileHash
from privacy.errors import LocalError
from privacy.patterns import NAME_RULE
from privacy.plan_parts import Count, Name, Positive
from privacy.printable import first_unprintable, printable
from protos.envelope import DatasetOffer


class Entry(BaseModel):
    """Base of what is registered: frozen and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    path: str  # absolute
    added_at: Count  # seconds since the Unix epoch


class DatasetEntry(Entry):
    """A dataset that was parsed from its first row to its last."""

    input_column: str | None = None  # None: the plan's
    label_column: str | None = None
    user_column: str | None = None
    classes: bool = True  # whether the label column holds classes, or lists of them
    renamed: dict[str, str] = {}  # the plans' label by this owner's own spelling of it
    population: Name | None = None
    another_population: bool = False  # its owner has said that other people's rows are the same
    rows: Positive
    users: Count = 0  # 0 without a user column
    columns: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    sha256: str = ""  # of the files when they were parsed; never published

    @property
    def units(self) -> int:
        """The public number of privacy units: users where there is a user column, rows otherwise."""
        return self.users or self.rows


class ModelEntry(Entry):
    """A base model whose files were hashed."""

    files: tuple[FileHash, ...]

    @property
    def hash(self) -> str:
        """The hash that a plan names: of the canonical list of file hashes."""
        return hashlib.sha256(canonical.encode([file.model_dump() for file in self.files])).hexdigest()


@dataclass(frozen=True, slots=True)
class Beside:
    """What another participant on this machine has registered."""

    who: str
    same_ledger: bool  # it charges to the ledger of whoever asks
    datasets: tuple[DatasetEntry, ...]
    populations: Mapping[str, str]  # by name of dataset, as its policy has them


EntryT = TypeVar("EntryT", bound=Entry)


class Registry:
    """The entries in a participant's directory."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def datasets(self) -> tuple[DatasetEntry, ...]:
        """Return all datasets, sorted by name."""
        return _all(self._home.datasets, DatasetEntry)

    def models(self) -> tuple[ModelEntry, ...]:
        """Return all base models, sorted by name."""
        return _all(self._home.models, ModelEntry)

    def dataset(self, name: str) -> DatasetEntry:
        """Return a dataset, or raise ``E-NOT-FOUND``."""
        return _one(self.datasets(), name, "dataset")

    def model(self, name: str) -> ModelEntry:
        """Return a base model, or raise ``E-NOT-FOUND``."""
        return _one(self.models(), name, "model")

    def model_with_hash(self, base_hash: str) -> ModelEntry | None:
        """Return the base model with the hash that a plan names, if it is here."""
        return next((model for model in self.models() if model.hash == base_hash), None)

    def offers(self, *, as_rows: Collection[str] = ()) -> tuple[DatasetOffer, ...]:
        """Return what the handshake announces: names and public sizes.

        Args:
            as_rows: datasets whose rows are the unit although they have users.
        """
        return tuple(
            DatasetOffer(dataset.name, dataset.rows if dataset.name in as_rows else dataset.units)
            for dataset in self.datasets()
        )

    def require_one_population(
        self, entry: DatasetEntry, populations: Mapping[str, str], beside: Iterable[Beside] = ()
    ) -> None:
        """Refuse data that is registered under another population, or whose population is not known to be the same.

        Args:
            entry: what is to be added; equal data is found by the bytes of its files alone.
            populations: by name of dataset, of the policy, where a registration names none.
            beside: what other participants on this machine have.

        Raises:
            LocalError: ``E-DATA-POPULATION`` or ``E-DATA-LEDGER``.
        """
        mine = _population(entry, populations)
        for known in self.datasets():
            if _is_same_data(known, entry) and known.name != entry.name:
                theirs = _population(known, populations)
                if theirs is None or theirs != mine:
                    raise _registered_before(known, theirs)
        for other in beside:
            for known in other.datasets:
                theirs = _population(known, other.populations)
                if _is_same_data(known, entry) and (theirs is None or theirs != mine or not other.same_ledger):
                    raise _registered_before(known, theirs, other)

    def add(self, entry: DatasetEntry | ModelEntry) -> None:
        """Write an entry down.

        Raises:
            LocalError: ``E-EXISTS`` or ``E-DISK-FULL``.
        """
        path = self._path(entry)
        if path.exists():
            kind = "dataset" if isinstance(entry, DatasetEntry) else "model"
            raise LocalError("E-EXISTS", f"{kind} {entry.name} is registered; remove it first or choose another name")
        durable.write(path, canonical.encode(entry.model_dump(mode="json")) + b"\n")

    def replace(self, entry: DatasetEntry) -> DatasetEntry:
        """Write an entry over the one of its name, and return it."""
        durable.write(self._path(entry), canonical.encode(entry.model_dump(mode="json")) + b"\n")
        return entry

    def remove(self, entry: DatasetEntry | ModelEntry) -> None:
        """Forget an entry; the files it names stay where they are, and so does all that was charged."""
        durable.erase(self._path(entry))

    def _path(self, entry: Entry) -> Path:
        directory = self._home.datasets if isinstance(entry, DatasetEntry) else self._home.models
        return directory / f"{entry.name}.json"


def require_same_people(
    entry: DatasetEntry, populations: Mapping[str, str], charged: Collection[str], apart: Collection[str]
) -> None:
    """Refuse data that was charged before: to another population, to one that is not known to be the same, or apart.

    Args:
        entry: what is to be added.
        populations: by name of dataset, of the policy, where the entry names none.
        charged: the populations that the ledger has for the same data.
        apart: those that other ledgers of this machine have, in words.

    Raises:
        LocalError: ``E-DATA-POPULATION`` or ``E-DATA-LEDGER``.
    """
    if apart:
        raise LocalError("E-DATA-LEDGER", f"the same data was charged to {'; '.join(apart)}")
    mine = _population(entry, populations)
    if charged and mine not in charged:
        raise LocalError("E-DATA-POPULATION", f"the same data was charged to population {', '.join(charged)}")


def _is_same_data(known: DatasetEntry, entry: DatasetEntry) -> bool:
    return entry.sha256 != "" and known.sha256 == entry.sha256


def _population(dataset: DatasetEntry, populations: Mapping[str, str]) -> str | None:
    return dataset.population or populations.get(dataset.name)


def _registered_before(known: DatasetEntry, population: str | None, other: Beside | None = None) -> LocalError:
    whose = f"population {population}" if population else "no population"
    where = f" by {other.who}" if other else ""
    detail = f"the same data is registered{where} as {known.name} under {whose}"
    if other and not other.same_ledger:
        return LocalError("E-DATA-LEDGER", f"{detail}, which is charged to another ledger of this machine")
    return LocalError("E-DATA-POPULATION", detail)


def absolute(path: Path) -> str:
    """Return a path as it is registered.

    Raises:
        LocalError: ``E-USAGE``: a name in it is not UTF-8, so that no file of ours could hold it.
    """
    text = str(path.resolve())
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = text.encode(errors="backslashreplace").decode()
        raise LocalError("E-USAGE", f"{shown} is not UTF-8; rename it") from None
    return text


def renamed_labels(entry: DatasetEntry, pairs: Iterable[str]) -> dict[str, str]:
    """Return the plans' label by an owner's own, from ``OWN=PLAN``.

    Raises:
        LocalError: ``E-USAGE``: it is no pair, a label has two names, or no row has it, as far as that was noted.
    """
    from participant.training.rows.cells import name_text, parts_of  # numpy, which help does without

    renamed: dict[str, str] = {}
    for pair in pairs:
        own, separator, plans = (part.strip() for part in pair.partition("="))
        own = name_text(own) or ""  # as labels are noted, and compared
        if not (own and separator and plans) or first_unprintable(pair):
            raise LocalError("E-USAGE", f"{printable(pair)} is no OWN=PLAN")
        if own in renamed:
            raise LocalError("E-USAGE", f"{own} has two names")
        if entry.labels and not {*parts_of(own)} <= {*entry.labels}:
            raise LocalError("E-USAGE", f"no row has label {own}; there are {', '.join(entry.labels)}")
        renamed[own] = plans
    return renamed


def check_name(name: str) -> None:
    """Refuse a name that cannot travel in a handshake.

    Raises:
        LocalError: ``E-USAGE``.
    """
    try:
        Entry(name=name, path="/", added_at=0)
    except ValidationError:
        raise LocalError("E-USAGE", f"{name!r} is no name: {NAME_RULE}") from None


def _all(directory: Path, kind: type[EntryT]) -> tuple[EntryT, ...]:
    entries = (_read(path, kind) for path in directory.glob("*.json"))
    return tuple(sorted(entries, key=lambda entry: entry.name))  # by name: file names sort otherwise (a-b.json, a.json)


def _read(path: Path, kind: type[EntryT]) -> EntryT:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise LocalError("E-STATE-DAMAGED", f"{path} does not parse; delete it and add it again") from None


def _one(entries: tuple[EntryT, ...], name: str, kind: str) -> EntryT:
    for entry in entries:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in entries) or "none"
    raise LocalError("E-NOT-FOUND", f"no {kind} {name}; registered: {known}")
