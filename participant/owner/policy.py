"""policy.toml: what the data owner allows, deny by default.

Guarantees: what is not written down is not allowed; an unknown key is refused with its line, so that a typing error
never switches a protection off; the daemon only reads this file.
Leaves to others: whether a plan fits it (``assessment``), what is left of a budget (``ledger``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import time
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from host import configuration
from host.settings import Section, parse
from participant.home import Home
from privacy.measure_parts import MeasureName
from privacy.plan_parts import Mode, Name

POLICY_FILE = "policy.toml"
MIN_FINGERPRINT_DIGITS = 32  # 128 bits, the least that a comparison by telephone should be worth
DEFAULT_EPSILON_IF_ALL_COLLUDE = 32.0

Epsilon = Annotated[float, Field(gt=0, le=1e6)]
Delta = Annotated[float, Field(gt=0, lt=1)]
BudgetUnit = Literal["example", "user", "participant"]
GraphKind = Literal["complete", "k-regular"]


def _plain_hex(value: Any) -> Any:
    return re.sub(r"[\s:-]", "", value).lower() if isinstance(value, str) else value


Fingerprint = Annotated[
    str, BeforeValidator(_plain_hex), StringConstraints(pattern=rf"^[0-9a-f]{{{MIN_FINGERPRINT_DIGITS},64}}$")
]


# What an owner may take upon itself. Everything else protects others, keeps count of what is spent, or is what a plan
# cannot be trained without: a policy that names it is refused.
OVERRULABLE = frozenset(
    {
        "floors.f",
        "floors.min-survivors",
        "floors.graphs",
        "floors.suites",
        "floors.epsilon-if-all-collude",
        "dataset.modes",
        "dataset.bases",
        "dataset.methods",
        "dataset.rounds",
        "dataset.min-units",
        "population.per-run-epsilon",
        "population.per-run-delta",
    }
)


class Approval(Section):
    """Who says yes."""

    mode: Literal["by-hand", "by-policy"] = "by-hand"
    approvers: tuple[str, ...] = ()  # names that may approve or refuse by hand; empty: whoever can read the directory
    unverified_roster: bool = False  # approve by policy even if a member's fingerprint is not pinned below
    # Who may approve a plan by hand although this rule refuses it; the lifetime's budget cannot be overruled.
    may_overrule: Mapping[str, Annotated[tuple[str, ...], Field(min_length=1)]] = {}

    @model_validator(mode="after")
    def _overrulable(self) -> Self:
        if unknown := sorted(self.may_overrule.keys() - OVERRULABLE):
            possible = ", ".join(sorted(OVERRULABLE))
            raise ValueError(f"may_overrule: {unknown[0]} cannot be overruled; what can: {possible}")
        return self


class PinnedCoordinator(Section):
    """What was compared over another channel."""

    ca_fingerprint: Fingerprint | None = None
    roster: Mapping[Name, Fingerprint] = {}  # members' identity fingerprints

    def pins_predecessor(self, ca_fingerprint: str, followed: Sequence[str]) -> bool:
        """Return whether this pins an authority from which the present one follows, and not that one itself.

        Args:
            ca_fingerprint: SHA-256 of the present authority's certificate, in hexadecimal.
            followed: likewise, of those from which it follows without a break.
        """
        pinned = self.ca_fingerprint
        if pinned is None or ca_fingerprint.startswith(pinned):
            return False
        return any(before.startswith(pinned) for before in followed)


class Population(Section):
    """Whom a budget protects. Every dataset of these people names the population; files do not reset it."""

    unit: BudgetUnit
    lifetime_epsilon: Epsilon
    lifetime_delta: Delta
    per_run_epsilon: Epsilon
    per_run_delta: Delta
    size: Annotated[int, Field(ge=1)] | None = None  # a public upper bound; by default the dataset's own size
    order: Annotated[int, Field(ge=2, le=1024)] | None = None  # of the lifetime filter; by default the best for both


class Floors(Section):
    """What every plan must withstand."""

    f: Annotated[int, Field(ge=0)] = 1
    min_survivors: Annotated[int, Field(ge=3)] = 3
    max_epsilon_if_all_collude: Epsilon = DEFAULT_EPSILON_IF_ALL_COLLUDE
    suites: Annotated[tuple[Literal[1, 2], ...], Field(min_length=1)] = (1, 2)
    # Absent: the complete one; a k-regular one, whose claim is weaker, is left to a person, or refused by a policy.
    graphs: Annotated[tuple[GraphKind, ...], Field(min_length=1)] | None = None


class MethodBounds(Section):
    """Bounds on one method; absent ones do not bind."""

    max_rank: Annotated[int, Field(ge=1)] | None = None  # of method bottleneck: the width
    max_entries: Annotated[int, Field(ge=1)] | None = None


def _named_methods(value: Any) -> Any:
    return {name: {} for name in value} if isinstance(value, list) else value


class DatasetPolicy(Section):
    """What may be done with one dataset."""

    population: Name
    modes: tuple[Mode, ...] = ()
    bases: tuple[Fingerprint, ...] = ()  # hashes of base models, as `model list` prints them
    methods: Annotated[Mapping[Name, MethodBounds], BeforeValidator(_named_methods)] = {}
    # What may be measured on it: to allow training is not to allow this.
    measures: tuple[MeasureName, ...] = ()
    min_units: Annotated[int, Field(ge=1)] = 1
    max_rounds: Annotated[int, Field(ge=1)] = 1000
    # So many rounds whose training failed and a person must look: a stop that depends on data, and others see it.
    max_failed_rounds: Annotated[int, Field(ge=1)] | None = None
    hours: Annotated[str, StringConstraints(pattern=r"^\d\d:\d\d-\d\d:\d\d$")] | None = None
    example_level_despite_users: bool = False

    @model_validator(mode="after")
    def _times(self) -> Self:
        if self.hours is not None:
            _window(self.hours)
        return self

    def allows_time(self, now: time) -> bool:
        """Return whether training is allowed at a local time of day; a window may pass midnight."""
        if self.hours is None:
            return True
        start, end = _window(self.hours)
        return start <= now < end if start <= end else now >= start or now < end


def _window(hours: str) -> tuple[time, time]:
    start, end = hours.split("-")
    return time.fromisoformat(start), time.fromisoformat(end)


class Policy(Section):
    """The sections of policy.toml."""

    approval: Approval = Approval()
    coordinator: PinnedCoordinator = PinnedCoordinator()
    population: Mapping[Name, Population] = {}
    floors: Floors = Floors()
    dataset: Mapping[Name, DatasetPolicy] = {}

    @model_validator(mode="after")
    def _populations(self) -> Self:
        for name, dataset in self.dataset.items():
            if dataset.population not in self.population:
                raise ValueError(f"dataset {name} names population {dataset.population}, which has no section")
        return self

    @property
    def example_level(self) -> frozenset[str]:
        """The datasets whose rows may be the unit of privacy although they have users."""
        return frozenset(name for name, dataset in self.dataset.items() if dataset.example_level_despite_users)


def parse_policy(text: str) -> Policy:
    """Parse the text of a policy.toml.

    Raises:
        LocalError: ``E-CONFIG-INVALID`` or ``E-CONFIG-UNKNOWN-KEY``, naming the line.
    """
    return parse(text, Policy, file=POLICY_FILE)


def load_policy(home: Home) -> Policy:
    """Read policy.toml; errors as :func:`parse_policy`, and ``E-CONFIG-MISSING``."""
    return parse_policy(configuration.read_text(home.policy))


def policy_template(ca_fingerprint: str) -> str:
    """Return the policy that ``join`` writes: it allows nothing until its examples are edited."""
    return f"""\
# onlysum policy: what the data owner allows. What is not written here is refused.
# The daemon only reads this file. Check it with `onlysum participant policy check`.

[approval]
mode = "by-hand"                # or "by-policy": approve at once what meets every rule below
# approvers = ["Anna Meier"]    # who may approve or refuse by hand; absent: whoever can read this directory
# unverified_roster = true      # by policy even if a member is not pinned below
# may_overrule = {{ "floors.f" = ["Dr. Weber"] }}  # who may approve by hand, with a reason, what this rule refuses

[coordinator]
ca_fingerprint = "{ca_fingerprint}"

# The other members' identity fingerprints, compared by telephone (`onlysum participant member list`).
# Until all are here, plans and reports say `roster: unverified`.
[coordinator.roster]
# clinic-b = "0123456789abcdef0123456789abcdef"

[floors]
f = 1                           # a plan must withstand at least so many members colluding with the coordinator
min_survivors = 3               # and sum over at least so many
max_epsilon_if_all_collude = {DEFAULT_EPSILON_IF_ALL_COLLUDE:g}  # and cap the loss if everybody else colludes
# suites = [2]                  # refuse suite 1, whose recordings a quantum computer may open one day
# graphs = ["complete", "k-regular"]  # k-regular claims less; absent: a person decides, "by-policy" refuses it

# One section per population: the people (or records) whom a budget protects. No budget is refunded.
# [population.patients]
# unit = "example"              # or "user", "participant"
# lifetime_epsilon = 13         # by a measure that later runs cannot undermine: one run of epsilon 8 takes about 10
# lifetime_delta = 1e-6         # at most one tenth of 1 / (how many people there could be)
# per_run_epsilon = 8
# per_run_delta = 1e-5
# size = 20000                  # a public bound on how many there are; no delta may exceed a tenth of 1 / size

# One section per dataset, under the name given to `onlysum participant dataset add`.
# [dataset.wards]
# population = "patients"
# modes = ["distributed"]       # also "local", "distributed-participant", "none" (no differential privacy)
# bases = ["HASH"]              # of base models: `onlysum participant model list`
# measures = ["accuracy"]       # plans that train nothing and count on your rows; also "confusion", "histogram", "loss"
# min_units = 100
# max_rounds = 200
# max_failed_rounds = 5         # so many rounds whose training failed end your part; others see that it ended
# hours = "19:00-07:00"         # local time in which training is allowed; absent: always
# [dataset.wards.methods]       # or methods = ["ffa-lora"] above, without bounds
# ffa-lora = {{ max_rank = 16 }}
"""


def dataset_section(name: str, population: str) -> str:
    """Return the lines that ``dataset add`` tells the owner to put into the policy."""
    return f"""\
[dataset.{name}]
population = "{population}"
modes = ["distributed"]
bases = []
methods = []
"""
