"""What is to be simulated: a recipe with a table ``[simulation]``, read, and taken apart into cells.

Guarantees: what ``plan build`` would refuse, an unknown key, also of a sweep, and values that do not go together are
refused before anything is computed; a cell is a complete recipe, which ``plan build`` takes as it is.
Leaves to others: base and rows (``materials``), who gets which rows (``partition``).

Beside the recipe (``authoring.recipe``); where a line has a value in its comment, that is the default::

    [simulation]
    participants = 200
    seeds = [1]                  # [1]: of partition, dropouts, coins and noise; each is a run of its own
    world = "digits"             # the demo's base and digits, made anew; base.path is then left out. In its place:
    rows = "rows.parquet"        # everybody's rows in one file, as owners register theirs; relative to this file
    held_out = "held-out.npz"    # what accuracy is measured on
    colluding = 1                # f; a third of the participants, as `run create` takes it
    min_survivors = 180          # n - n/10
    graph = "complete"           # or "k-regular"
    user_column = "person"       # for the user unit

    [simulation.partition]
    kind = "iid"                 # or dirichlet, column, size
    alpha = 0.3                  # dirichlet: of each label, over the participants
    column = "speaker"           # column: rows with one value stay together
    skew = 1                     # size: the participant at place i has rows in proportion to i^-skew

    [simulation.dropouts]        # 0 each: the chance that a participant is lost before it answers in a phase
    advertise_keys = 0
    share_keys = 0
    collect_masked = 0.05
    agree_survivors = 0
    unmask = 0

    [simulation.sweep]           # every combination of these is run with every seed; base and data stay
    "privacy.epsilon" = [1, 2, 4, 8]
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

import methods
from authoring.recipe import BaseSection, Number, RecipeFile, read_recipe
from host import configuration, settings
from host.settings import Section
from privacy.errors import LocalError, Phase
from privacy.plan import MAX_ROSTER
from privacy.plan_parts import Count, Positive, Text

TABLE: Final = "simulation"
MOST_CELLS: Final = 10_000
FIXED: Final = (*(f"{TABLE}.{key}" for key in ("sweep", "seeds", "world", "rows", "held_out")), "base.")  # of a sweep
CELL_CHARACTERS: Final = 12  # of the SHA-256 of all that a cell is made of
Value = str | int | float | bool | list[Any]


class PartitionSection(Section):
    """``[simulation.partition]``: who gets which rows."""

    kind: Literal["iid", "dirichlet", "column", "size"] = "iid"
    alpha: Number | None = None
    column: Text | None = None
    skew: Number | None = None

    @model_validator(mode="after")
    def _keys_of_its_kind(self) -> Self:
        needed = {"dirichlet": "alpha", "column": "column", "size": "skew"}
        for kind, key in needed.items():
            if (getattr(self, key) is not None) != (self.kind == kind):
                raise ValueError(f"{key} belongs to the kind {kind}, which needs it")
        if self.alpha is not None and Decimal(self.alpha) <= 0:
            raise ValueError("alpha must be above 0")
        return self


class DropoutSection(Section):
    """``[simulation.dropouts]``: chances, by the phase in which a participant is lost for the rest of an attempt."""

    advertise_keys: Number = "0"
    share_keys: Number = "0"
    collect_masked: Number = "0"
    agree_survivors: Number = "0"
    unmask: Number = "0"

    @model_validator(mode="after")
    def _chances(self) -> Self:
        if any(not 0 <= rate < 1 for rate in self.rates.values()):
            raise ValueError("a chance is from 0 to below 1")
        return self

    @property
    def rates(self) -> dict[Phase, float]:
        """The chance of each phase, in the order of a round."""
        return {Phase[name.upper()]: float(rate) for name, rate in self.model_dump().items()}


class SimulationSection(Section):
    """``[simulation]``: the federation that a plan would bind a draft to, and its data."""

    participants: Annotated[int, Field(ge=3, le=MAX_ROSTER)]
    seeds: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    world: Literal["digits"] | None = None
    rows: str | None = None
    held_out: str | None = None
    colluding: Count | None = None
    min_survivors: Positive | None = None
    graph: Literal["complete", "k-regular"] = "complete"
    user_column: Text | None = None
    partition: PartitionSection = PartitionSection()
    dropouts: DropoutSection = DropoutSection()
    sweep: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _data(self) -> Self:
        own = self.rows is not None, self.held_out is not None
        if own != ((False, False) if self.world else (True, True)):
            raise ValueError("it needs either world, or both rows and held_out")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed is named twice")
        return self


class SpecBase(BaseSection):
    """``[base]``: as in a recipe; a world brings its own."""

    path: str = ""


class SpecFile(RecipeFile):
    """The whole of a SPEC."""

    base: SpecBase
    simulation: SimulationSection


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a simulation: a SPEC without its sweep, and a seed.

    Attributes:
        point: what a sweep set, by dotted key.
        seed: of partition, dropouts, coins, noise and keys.
        document: the whole SPEC as nested tables, without sweep and seeds.
    """

    point: Mapping[str, Value]
    seed: int
    document: Mapping[str, Any]

    @property
    def id(self) -> str:
        """A name that follows from all that the cell is made of."""
        whole = json.dumps([self.document, self.seed], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:CELL_CHARACTERS]

    @property
    def simulation(self) -> SimulationSection:
        """The table ``[simulation]``."""
        return SimulationSection.model_validate(self.document[TABLE])

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe as nested tables."""
        return {key: value for key, value in self.document.items() if key != TABLE}

    def recipe_text(self, base: Path, *, units: int) -> str:
        """Return the recipe as a file, with the base at another place and the sizes that a rule may reckon with."""
        recipe = deepcopy(self.recipe)
        recipe["base"]["path"] = str(base)
        sizes = {"participants": self.simulation.participants, "units": units}
        recipe["expected"] = {**sizes, **recipe.get("expected", {})}
        return written(recipe)


@dataclass(frozen=True, slots=True)
class Spec:
    """A SPEC that was read.

    Attributes:
        text: of the file.
        name: of the file.
        directory: that its paths are relative to.
        document: as nested tables.
        simulation: its table.
    """

    text: str
    name: str
    directory: Path
    document: Mapping[str, Any]
    simulation: SimulationSection

    @classmethod
    def read(cls, path: Path) -> Spec:
        """Parse a SPEC.

        Raises:
            LocalError: ``E-NOT-FOUND``, ``E-CONFIG-INVALID`` or ``E-CONFIG-UNKNOWN-KEY``.
        """
        if not path.exists():
            raise LocalError("E-NOT-FOUND", f"there is no {path}")
        return cls.parse(configuration.read_text(path), name=path.name, directory=path.resolve().parent)

    @classmethod
    def parse(cls, text: str, *, name: str, directory: Path) -> Spec:
        """Return the SPEC of a text; see :meth:`read`."""
        file = settings.parse(text, SpecFile, file=name)
        if bool(file.base.path) == bool(file.simulation.world):
            raise LocalError("E-CONFIG-INVALID", f"{name}: base.path: it is needed, unless simulation.world has a base")
        spec = cls(text, name, directory, tomllib.loads(text), file.simulation)
        for _ in spec.cells():
            pass
        return spec

    @property
    def sha256(self) -> str:
        """Of the text, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def swept(self) -> dict[str, list[Value]]:
        """The values of each swept key, by its dotted name."""
        return dict(_flat(self.simulation.sweep))

    def with_method(self, method: str) -> Spec:
        """Return the same SPEC with another method.

        Raises:
            LocalError: ``E-METHOD-*``, or as :meth:`read`.
        """
        changed = _fitted({**self.document, "method": method})
        return Spec.parse(written(changed), name=self.name, directory=self.directory)

    def cells(self) -> Iterator[Cell]:
        """Yield every combination of the swept values with every seed, each checked as a recipe.

        Raises:
            LocalError: ``E-CONFIG-INVALID`` or ``E-CONFIG-UNKNOWN-KEY``, naming what the sweep set.
        """
        swept = self.swept
        self._check(swept)
        for values in itertools.product(*swept.values()):
            point = dict(zip(swept, values, strict=True))
            document = _with(self.document, point)
            document = _fitted(document) if "method" in point else document
            _check_point(document, _caption(self.name, point))
            for seed in self.simulation.seeds:
                yield Cell(point, seed, document)

    def _check(self, swept: Mapping[str, list[Value]]) -> None:
        known = [key for key in _known(SpecFile) if not key.startswith(FIXED)]
        count = len(self.simulation.seeds)
        for key, values in swept.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise LocalError("E-CONFIG-UNKNOWN-KEY", f"{self.name}: {TABLE}.sweep: {key}{hint}")
            if not isinstance(values, list) or not values:
                raise LocalError("E-CONFIG-INVALID", f"{self.name}: {TABLE}.sweep.{key}: it takes a list of values")
            count *= len(values)
        if count > MOST_CELLS:
            raise LocalError("E-CONFIG-INVALID", f"{self.name}: {TABLE}.sweep: {count:,} runs; at most {MOST_CELLS:,}")


def written(document: Mapping[str, Any], within: tuple[str, ...] = ()) -> str:
    """Return nested tables as TOML; strings and lists of both notations are written alike."""
    plain = [f"{_key(name)} = {_plain(value)}\n" for name, value in document.items() if not isinstance(value, dict)]
    head = f"\n[{'.'.join(map(_key, within))}]\n" if within else ""
    tables = [written(value, (*within, name)) for name, value in document.items() if isinstance(value, dict)]
    return "".join([head, *plain, *tables])


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return repr(value)  # 1e-05 and inf, as TOML has them
    return json.dumps(value, ensure_ascii=False)


def _flat(tables: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tables.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def _known(model: type[Section], within: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from _known(kind, f"{within}{name}.")
        else:
            yield f"{within}{name}"


def _with(document: Mapping[str, Any], point: Mapping[str, Value]) -> dict[str, Any]:
    """Return a SPEC with some values set, and without sweep and seeds."""
    changed = deepcopy(dict(document))
    for dotted, value in point.items():
        *tables, name = dotted.split(".")
        table = changed
        for inner in tables:
            table = table.setdefault(inner, {})
        table[name] = value
    changed[TABLE] = {key: value for key, value in changed[TABLE].items() if key not in ("sweep", "seeds")}
    return changed


def _fitted(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a SPEC whose method was chosen in place of its own, without options that belong to others alone."""
    method = methods.get(document["method"])
    known = {*method.options.model_fields, "head_modules", "seed"}
    adapter = {key: value for key, value in document.get("adapter", {}).items() if key in known}
    training = {
        key: value for key, value in document.get("training", {}).items() if key != "proximal" or method.proximal
    }
    sections = {"adapter": adapter, "training": training}
    return {**document, **{name: section for name, section in sections.items() if name in document}}


def _caption(name: str, point: Mapping[str, Value]) -> str:
    return " ".join([name, *(["with", ", ".join(f"{key} = {value}" for key, value in point.items())] * bool(point))])


def _check_point(document: Mapping[str, Any], caption: str) -> None:
    """Read a cell as a SPEC, and its recipe as ``plan build`` would."""
    try:
        settings.parse(written(document), SpecFile, file=caption)
        recipe = {key: value for key, value in document.items() if key != TABLE}
        recipe["base"] = {"path": ".", **recipe["base"]}
        with TemporaryDirectory(prefix="onlysum-spec-") as directory:
            path = Path(directory) / "recipe.toml"
            path.write_text(written(recipe))
            read_recipe(path)
    except LocalError as error:
        detail = error.detail.replace("recipe.toml", caption)
        raise LocalError(error.code, detail) from None
