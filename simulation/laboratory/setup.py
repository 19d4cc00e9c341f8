"""A cell made ready: its draft, its plan over a simulated roster, and what trains in it.

Guarantees: draft and plan come from the code of ``plan build`` and ``run create``, so that the cell claims what a real
run would; identity keys follow from the seed.
Leaves to others: rounds (``trial``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from authoring.draft import INITIAL_FILE, build_draft
from coordinator.runs.thresholds import Requested
from participant.training.adapters.prefix import KeptActivations
from participant.training.data import task_columns
from participant.training.evaluation import AdapterEvaluator
from privacy.draft import Draft
from privacy.plan import Plan
from privacy.plan_parts import Member
from privacy.secagg.keys import SigningKey
from simulation.binding import bind
from simulation.laboratory.partition import partition
from simulation.laboratory.spec import Cell, SimulationSection
from simulation.laboratory.training import SOURCE, Integers, TrainingSet
from simulation.laboratory.world import World
from simulation.seeded import seeded_key

FEDERATION = "simulation"
MEASURED: Final = KeptActivations()  # of this process: the runs of a sweep are measured on the same rows


@dataclass(frozen=True, slots=True)
class Setup:
    """What a cell's rounds need.

    Attributes:
        plan: calibrated.
        keys: the roster's identity keys.
        work: what trains.
        draft: its directory.
        world: its data.
    """

    plan: Plan
    keys: Mapping[str, SigningKey]
    work: TrainingSet
    draft: Path
    world: World

    def evaluator(self) -> AdapterEvaluator:
        """Load base and held-out rows.

        Raises:
            LocalError: ``E-MODEL-*`` or ``E-DATA-*``.
        """
        return AdapterEvaluator.load(
            self.plan.recipe,
            model=self.world.base,
            dataset=self.world.held_out,
            columns=task_columns(self.plan.recipe.task),  # nobody's unit: held-out rows need no user
            initial_adapter=self.draft / INITIAL_FILE,
            kept=MEASURED,
        )


def names(count: int) -> list[str]:
    """Return the participants' names, in the order of a roster."""
    return [f"participant-{number:04d}" for number in range(1, count + 1)]


def tolerance(section: SimulationSection) -> Requested:
    """Return what a SPEC wants its plans to withstand."""
    return Requested(f=section.colluding, min_survivors=section.min_survivors, graph=section.graph)


def parts_of(cell: Cell, world: World) -> dict[str, Integers]:
    """Return the rows of each participant.

    Raises:
        LocalError: ``E-SIMULATION-PARTITION`` or ``E-DATA-PARSE``.
    """
    section = cell.simulation
    how, everybody = section.partition, names(section.participants)
    by_value = how.kind in ("dirichlet", "column")
    column = how.column or cell.document["task"].get("label_column", "label")
    values = world.values(column) if by_value else world.places()
    parts = partition(how, values, participants=section.participants, seed=cell.seed, names=everybody)
    return dict(zip(everybody, parts, strict=True))


def set_up(cell: Cell, world: World, directory: Path, *, device: str, warn: Callable[[str], None]) -> Setup:
    """Build a cell's draft and bind it to a roster.

    Args:
        cell: of the simulation.
        world: its data.
        directory: of the cell; keeps recipe and draft.
        device: that training runs on.
        warn: is told of what differs between base and recipe.

    Raises:
        LocalError: as ``plan build`` and ``run create``, or ``E-SIMULATION-PARTITION``.
    """
    section, parts = cell.simulation, parts_of(cell, world)
    draft = directory / "draft"
    by_user = cell.document["privacy"].get("unit") == "user" and section.user_column
    units = _units(parts, world.values(str(section.user_column)) if by_user else None)
    if draft.exists():
        document = Draft.from_bytes((draft / "draft.json").read_bytes())
    else:
        recipe = directory / "recipe.toml"
        recipe.write_text(cell.recipe_text(world.base, units=sum(units.values())))
        document = build_draft(recipe, draft, warn=warn, self_check=False)  # the trainer's own follows at once
    keys = {name: seeded_key(f"{SOURCE} {cell.seed} identity {name}") for name in parts}
    roster = [Member(id=name, identity_key=keys[name].public.hex(), units=units[name]) for name in parts]
    plan = bind(document, roster, federation=FEDERATION, tolerance=tolerance(section))
    work = TrainingSet(
        plan=plan.to_bytes(),
        model=world.base,
        rows=world.rows,
        initial=(draft / INITIAL_FILE).read_bytes(),
        parts=parts,
        seed=cell.seed,
        user_column=section.user_column,
        device=device,
    )
    return Setup(plan, keys, work, draft, world)


def _units(parts: Mapping[str, Integers], users: Sequence[str] | None) -> dict[str, int]:
    """Return how many units each participant would announce: its users if they are the unit, its rows otherwise."""
    if users is None:
        return {name: int(rows.size) for name, rows in parts.items()}
    return {name: len({users[row] for row in rows}) for name, rows in parts.items()}
