"""The demo's stage: who takes part, and the files that each of them has before anything starts.

Guarantees: each participant's directory holds its own images and nobody else's; what was written for an earlier demo is
removed only if a demo made it.
Leaves to others: enrolment and the run (``simulation.demo``).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from privacy.errors import LocalError
from privacy.plan_parts import Mode
from simulation.digits import DEVIATION, MEAN, Digits, Split, split

PARTICIPANTS: Final = ("alice", "bob", "carol", "dave", "erin")
EVALUATOR: Final = "evaluator"
FEDERATION: Final = "demo"
DATASET: Final = "digits"  # each participant's own, under the same name
HELD_OUT: Final = "heldout"
POPULATION: Final = "writers"
LIFETIME_EPSILON: Final = 10  # of each owner's population; one run of the demo fits, a second does not
MICRO_BATCH: Final = 48  # a Poisson sample of five or of ten participants fits into few of them
MEASUREMENTS: Final = 4  # of the released adapter, evenly over the rounds, beside that of the start
RECIPES: Final[dict[Mode, tuple[str, str, str, int]]] = {  # privacy, training, optimizer, rounds
    "local": (
        "epsilon = 7.99\ndelta = 1e-5\nsampling_rate = 0.5\nlocal_steps = 5\nclip_norm = 1",
        "learning_rate = 2",
        'name = "mean"\naverage = 0.8',
        20,
    ),
    "distributed": (
        "epsilon = 7.99\ndelta = 1e-5\nsampling_rate = 0.5\nlocal_steps = 1\nclip_norm = 4",
        "learning_rate = 1",
        'name = "sgd"\nlearning_rate = 0.1\nhead_learning_rate = 0.1\nmomentum = 0.9\naverage = 0.9',
        100,
    ),
    "none": (
        "sampling_rate = 0.5\nlocal_steps = 5",
        "learning_rate = 0.5",
        'name = "mean"\naverage = 0.8',
        20,
    ),
}
MARK: Final = ".onlysum-demo"  # in a directory that a demo made


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes part in a demo, and with what.

    Attributes:
        participants: names of the data owners.
        dataset: under which name each registers its own rows.
        held_out: the evaluator's dataset.
        base: under which name all register their copy of the base.
        population: whose budget the owners' rows spend.
        owner_options: of the owners' ``dataset add``.
        evaluator_options: of the evaluator's.
        policy: an owner's policy.toml, from the base's hash, the authority's fingerprint and the roster.
    """

    participants: tuple[str, ...]
    dataset: str
    held_out: str
    base: str
    population: str
    owner_options: tuple[str, ...]
    evaluator_options: tuple[str, ...]
    policy: Callable[[str, str, Mapping[str, str]], str]

    @property
    def members(self) -> tuple[str, ...]:
        """The participants, and the evaluator last."""
        return (*self.participants, EVALUATOR)


@dataclass(frozen=True, slots=True)
class Stage:
    """Every path of a demo, below one directory."""

    out: Path
    rows: str = f"{DATASET}.npz"  # the name of an owner's file of rows

    @property
    def base(self) -> Path:
        """The base model."""
        return self.out / "base"

    @property
    def adapter(self) -> Path:
        """The trained adapter in PEFT's format."""
        return self.out / "adapter"

    @property
    def held_out(self) -> Path:
        """Images and labels that anybody can check the adapter with."""
        return self.out / "heldout"

    @property
    def logs(self) -> Path:
        """One log per process."""
        return self.out / "logs"

    @property
    def report(self) -> Path:
        """The signed privacy report."""
        return self.out / "report.json"

    @property
    def summary(self) -> Path:
        """The figures."""
        return self.out / "summary.json"

    @property
    def picture(self) -> Path:
        """What the coordinator received from one participant, beside the sum."""
        return self.out / "masks.svg"

    @property
    def federation(self) -> Path:
        """What would lie on seven machines: a directory for the coordinator and for each member."""
        return self.out / "federation"

    @property
    def coordinator(self) -> Path:
        """The coordinator's directory."""
        return self.federation / "coordinator"

    @property
    def recipe(self) -> Path:
        """What the researcher wrote."""
        return self.out / "recipe.toml"

    @property
    def draft(self) -> Path:
        """What ``plan build`` made of it."""
        return self.federation / "draft"

    @property
    def local_noise(self) -> Path:
        """Where the same data trains once more, with local noise."""
        return self.federation / "local-noise"

    def home(self, member: str) -> Path:
        """Return a member's directory."""
        return self.federation / member

    def data(self, member: str) -> Path:
        """Return the file of a member's rows, in a directory that nobody else looks into."""
        name = f"{HELD_OUT}{Path(self.rows).suffix}" if member == EVALUATOR else self.rows
        return self.out / member / name

    def clear(self) -> None:
        """Remove what an earlier demo left, and make the directory.

        Raises:
            LocalError: ``E-EXISTS``, something else lies there.
        """
        if self.out.exists() and any(self.out.iterdir()):
            if not (self.out / MARK).is_file():
                raise LocalError("E-EXISTS", f"{self.out} holds something that no demo made; choose another --out")
            shutil.rmtree(self.out)
        self.federation.mkdir(parents=True)
        (self.out / MARK).write_text("made by a demo, and removed by the next one\n")


def write_data(stage: Stage, seed: int, members: Sequence[str] = PARTICIPANTS) -> Split:
    """Split the digits and write each member's part where only its daemon looks."""
    parts = split(len(members), seed)
    for member, digits in (*zip(members, parts.participants, strict=True), (EVALUATOR, parts.held_out)):
        stage.data(member).parent.mkdir(exist_ok=True)
        write_npz(stage.data(member), digits)
    return parts


def write_npz(path: Path, digits: Digits) -> None:
    """Write images and labels as ``onlysum participant dataset add`` reads them."""
    np.savez(path, image=digits.images, label=digits.labels)


def write_recipe(stage: Stage, mode: Mode, suite: int) -> None:
    """Write what a researcher would: the method, the privacy target, and how long to train."""
    privacy, training, optimizer, rounds = RECIPES[mode]
    stage.recipe.write_text(
        f"""\
title = "Digits of every writer"
purpose = "Demonstration: recognise the digits of writers whom the base model never met"
method = "ffa-lora"
rounds = {rounds}
suite = {suite}

[base]
name = "digits-vit"
path = "base"

[task]
kind = "image-classification"
data = "{DATASET}"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
input_column = "image"
image_scale = 255
image_mean = {MEAN}
image_std = {DEVIATION}

[adapter]
rank = 4
alpha = 16
target_modules = ["q_proj", "v_proj"]
head_modules = ["classifier"]

[privacy]
mode = "{mode}"
{privacy}

[training]
{training}
micro_batch = {MICRO_BATCH}

[optimizer]
{optimizer}

[evaluation]
data = "{HELD_OUT}"
every = {rounds // MEASUREMENTS}
"""
    )


def policy(*, mode: Mode, base_hash: str, authority: str, roster: Mapping[str, str]) -> str:
    """Return a data owner's policy.toml that lets exactly the demo's plan through without asking.

    Args:
        mode: the only one allowed.
        base_hash: of the only base model allowed.
        authority: fingerprint of the coordinator's certificate authority.
        roster: identity fingerprints of all members, compared by another way than through the coordinator.
    """
    pinned = "\n".join(f'{name} = "{fingerprint}"' for name, fingerprint in sorted(roster.items()))
    return f"""\
[approval]
mode = "by-policy"

[coordinator]
ca_fingerprint = "{authority}"

[coordinator.roster]
{pinned}

[floors]
f = 1
min_survivors = 4

[population.{POPULATION}]
unit = "example"
lifetime_epsilon = {LIFETIME_EPSILON}
lifetime_delta = 1e-5
per_run_epsilon = 8
per_run_delta = 1e-5

[dataset.{DATASET}]
population = "{POPULATION}"
modes = ["{mode}"]
bases = ["{base_hash}"]
methods = ["ffa-lora"]
min_units = 200
max_rounds = {RECIPES[mode][3]}
"""


def digits_cast(mode: Mode) -> Cast:
    """Return the cast of the demo with scanned digits."""
    return Cast(
        participants=PARTICIPANTS,
        dataset=DATASET,
        held_out=HELD_OUT,
        base="digits-vit",
        population=POPULATION,
        owner_options=("--input", "image"),
        evaluator_options=("--input", "image"),
        policy=lambda base, authority, roster: policy(mode=mode, base_hash=base, authority=authority, roster=roster),
    )
