"""A synthetic federation for the empirical audit: its plan, a tiny base, canaries, and real trainers.

Guarantees: plan, base and canaries are made up, so nothing here is anybody's data; each participant trains through the
very :class:`~participant.training.torch_trainer.TorchTrainer` that daemons use, self-check included; a fair coin of its
own decides on every canary, from the given source.
Leaves to others: faults (``faults``), what is concluded (``empirical``).

Why canaries are easy to see: each has a class of its own, so its gradient in the head is nearly orthogonal to all
others, and the adapter stays where it started. What a batch adds to a sum is therefore known to the integer, and so is
the noise: what is left of a release.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import ViTConfig, ViTForImageClassification
from transformers.utils.logging import disable_progress_bar

import methods
from authoring.draft import INITIAL_FILE, build_draft
from coordinator.runs.thresholds import Requested
from participant.training.adapters.adapted import AdaptedModel, read_initial
from participant.training.adapters.fast import FastEngine
from participant.training.adapters.sums import Clip, GradientSums
from participant.training.data import Columns
from participant.training.examples import load_examples
from participant.training.models import load_base
from participant.training.torch_trainer import Materials, TorchTrainer
from privacy.adapter_parts import StateStream, Stream, Tensor
from privacy.draft import Recipe
from privacy.interfaces import RandomSource
from privacy.plan import Plan
from privacy.plan_parts import Member
from privacy.secagg.keys import SigningKey
from privacy.secret import SecretBytes
from simulation.binding import bind
from simulation.empirical.result import Setting

IMAGE_SIDE: Final = 8
ENTRY_BITS: Final = 32
WIDTH: Final = 8
RANK: Final = 8
COLLUDING: Final = 1  # f
CLIP_NORM: Final = "0.01"  # about 1/300 of a canary's gradient: whatever gets through unclipped is huge
MICRO_BATCH: Final = 8
PUBLIC_SEED: Final = 20_260_101  # of the base and the canaries' images, which an attacker knows
METRICS: Final = Stream(name="metrics", length=3)  # what a plan would sum if it wanted loss, accuracy and count
_COLUMNS: Final = Columns("image", "label")

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Laboratory:
    """Everything that a run of the audit needs.

    Attributes:
        setting: what was asked for.
        plan: synthetic and calibrated.
        trainers: one per participant, prepared.
        included: which canaries are in the data, shape (canaries,).
        rows: which canary each row of a trainer's data is, in the order of the trainers.
        start: the global adapter, which every round starts from.
        directions: what each canary adds to a sum, integers, shape (canaries, entries).
        random: coins, batches, noise, and the seeds of faults.
    """

    setting: Setting
    plan: Plan
    trainers: tuple[TorchTrainer, ...]
    included: NDArray[np.bool_]
    rows: tuple[Integers, ...]
    start: NDArray[np.float32]
    directions: Integers
    random: RandomSource


@dataclass(frozen=True, slots=True)
class Workbench:
    """Makes a laboratory step by step, so that a fault can be planted before any of them.

    Attributes:
        directory: where base, draft and datasets are written.
        setting: what is asked for.
        random: coins, batches and noise.
        with_metrics: whether the plan also sums metrics without noise.
    """

    directory: Path
    setting: Setting
    random: RandomSource
    with_metrics: bool = False

    def write_plan(self) -> Plan:
        """Make base, draft and plan, and check the plan as an operator and an owner would.

        Raises:
            LocalError: ``E-PLAN-STREAM``, it sums something without noise.
        """
        _write_base(self.directory / "base", self.setting.canaries)
        (self.directory / "recipe.toml").write_text(_recipe(self.setting))
        draft = build_draft(self.directory / "recipe.toml", self.directory / "draft", self_check=False)
        recipe = _with_metrics(draft.recipe) if self.with_metrics else draft.recipe
        draft = draft.model_copy(update={"recipe": recipe})
        roster = [_member(number, self.setting) for number in range(self.setting.participants)]
        # Wide words: what is audited is the mechanism, whose steps narrow ones would round away in mode ``local``.
        tolerance = Requested(f=COLLUDING)
        plan = bind(draft, roster, federation="laboratory", tolerance=tolerance, entry_bits=ENTRY_BITS)
        methods.require_sound(plan.recipe, plan.privacy.mode, plan.privacy.bands)
        return plan

    def prepare(self, plan: Plan) -> Laboratory:
        """Toss the coins, hand out the canaries, and prepare every trainer.

        Raises:
            LocalError: ``E-SELF-CHECK``, the trainer refuses to train.
        """
        setting = self.setting
        coins = np.frombuffer(self.random.token_bytes(setting.canaries), dtype=np.uint8) & 1
        included: NDArray[np.bool_] = coins.astype(np.bool_)
        owners = np.arange(setting.canaries) % setting.participants
        rows = tuple(np.flatnonzero(included & (owners == place)) for place in range(setting.participants))
        trainers = []
        for member, canaries in zip(plan.roster, rows, strict=True):
            dataset = self._write_rows(member.id, canaries)
            trainers.append(TorchTrainer(self._materials(plan, member.id, dataset), self.random))
            trainers[-1].prepare()
        start, directions = self._directions(plan)
        return Laboratory(
            setting=setting,
            plan=plan,
            trainers=tuple(trainers),
            included=included,
            rows=rows,
            start=start,
            directions=directions,
            random=self.random,
        )

    def _directions(self, plan: Plan) -> tuple[NDArray[np.float32], Integers]:
        """Return the first adapter, and what each canary adds to a sum when it is sampled."""
        recipe, clip = plan.recipe, _clip(plan)
        loaded = load_base(
            self.directory / "base",
            recipe.base,
            recipe.task,
            head_modules=recipe.adapter.head_modules,
            seed=0,
        )
        rows = np.arange(self.setting.canaries)
        examples = load_examples(self._write_rows("all", rows), _COLUMNS, recipe.task, loaded)
        initial = read_initial(self.directory / "draft" / INITIAL_FILE, recipe.adapter)
        adapted = AdaptedModel.attach(loaded.model, recipe, initial, torch.device("cpu"))
        sums = GradientSums(FastEngine(adapted), examples, MICRO_BATCH)
        return adapted.vector(), np.stack([sums.clipped(rows[row : row + 1], **clip) for row in rows])

    def _materials(self, plan: Plan, name: str, dataset: Path) -> Materials:
        return Materials(
            plan=plan,
            me=name,
            model=self.directory / "base",
            dataset=dataset,
            columns=_COLUMNS,
            initial_adapter=self.directory / "draft" / INITIAL_FILE,
        )

    def _write_rows(self, name: str, rows: Integers) -> Path:
        images = np.random.default_rng(PUBLIC_SEED).normal(size=(self.setting.canaries, IMAGE_SIDE, IMAGE_SIDE))
        path = self.directory / f"{name}.npz"
        np.savez(path, image=images[rows].astype(np.float32), label=np.array(_labels(self.setting))[rows])
        return path


def _clip(plan: Plan) -> Clip:
    return Clip(sensitivity=plan.privacy.sensitivity, clip_norm=float(plan.privacy.clip_norm))


def _labels(setting: Setting) -> list[str]:
    return [f"canary {number}" for number in range(setting.canaries)]


def _write_base(folder: Path, labels: int) -> None:
    """Write an untrained vision transformer; its weights are small, so that answers start out even."""
    config = ViTConfig(
        image_size=IMAGE_SIDE,
        patch_size=IMAGE_SIDE // 2,
        num_channels=1,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        initializer_range=0.02,
    )
    config.num_labels = labels
    disable_progress_bar()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(PUBLIC_SEED)
        ViTForImageClassification(config).save_pretrained(folder)


def _recipe(setting: Setting) -> str:
    return f"""
title = "Empirical audit"
purpose = "A synthetic plan on which the privacy claim is tested"
method = "fedit"
rounds = {setting.rounds}
[base]
name = "audit-base"
path = "base"
[task]
kind = "image-classification"
data = "canaries"
labels = {json.dumps(_labels(setting))}
input_column = "image"
[adapter]
rank = {RANK}
alpha = {2 * RANK}
target_modules = ["q_proj", "v_proj"]
head_modules = ["classifier"]
[privacy]
mode = "{setting.mode.value}"
epsilon = {setting.epsilon}
delta = {setting.delta}
sampling_rate = {setting.sampling_rate}
clip_norm = {CLIP_NORM}
[training]
learning_rate = 1
micro_batch = {MICRO_BATCH}
[evaluation]
data = "none"
"""


def _member(number: int, setting: Setting) -> Member:
    key = SigningKey(SecretBytes(number.to_bytes(32, "big")))  # signs nothing: a roster must have keys
    return Member(
        id=f"participant-{number:02d}",
        identity_key=key.public.hex(),
        units=-(-setting.canaries // setting.participants),
    )


def _with_metrics(recipe: Recipe) -> Recipe:
    """Return a recipe that sums loss, accuracy and count in a stream of their own, without noise."""
    tensor = Tensor(key="metrics", shape=(METRICS.length,), stream=METRICS.name)
    adapter = recipe.adapter.model_copy(update={"tensors": (*recipe.adapter.tensors, tensor)})
    state = (*recipe.state, StateStream(name=METRICS.name, length=METRICS.length))
    turns = tuple(
        turn.model_copy(update={"trains": (*turn.trains, METRICS.name), "sums": (*turn.sums, METRICS)})
        for turn in recipe.turns
    )
    return recipe.model_copy(update={"adapter": adapter, "state": state, "turns": turns})
