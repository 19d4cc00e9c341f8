"""Data as it comes: rows that a plan cannot use, hardly any rows, or very many, in every mode.

A refusal would tell of the data, so a row that does not fit the plan is an empty example, whatever is wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from methods.vectors import joined
from participant.training.adapters.adapted import read_initial
from participant.training.data import Columns, hash_dataset
from participant.training.examples import load_examples
from participant.training.torch_trainer import TorchTrainer
from privacy.dp.fast_noise import discrete_gaussian
from privacy.errors import LocalError
from privacy.plan_parts import Mode
from tests.worlds.seeded import SeededRandom
from tests.worlds.torch_world import IMAGE_SIDE, LABELS, ROWS, World, image_rows, make_world, text_rows

pytestmark = pytest.mark.torch

MODES: tuple[Mode, ...] = ("none", "local", "distributed", "distributed-participant")
PLACE = 5  # of the row that does not fit
Row = dict[str, Any]


def images(path: Path, change: Callable[[Row], Row] = lambda row: row, *, rows: int = ROWS) -> Path:
    """Write the tests' images as lines, one of them changed."""
    with np.load(image_rows(path.with_suffix(".npz"), rows=rows)) as found:
        lines = [
            {"image": image.tolist(), "label": str(label)}
            for image, label in zip(found["image"], found["label"], strict=True)
        ]
    return written(path, lines, change)


def texts(path: Path, change: Callable[[Row], Row] = lambda row: row, *, rows: int = ROWS) -> Path:
    """Write the tests' texts, one of them changed."""
    lines = [json.loads(line) for line in text_rows(path, rows=rows).read_text().splitlines()]
    return written(path, lines, change)


def written(path: Path, lines: list[Row], change: Callable[[Row], Row]) -> Path:
    lines[PLACE % len(lines)] = change(lines[PLACE % len(lines)])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def without(row: Mapping[str, Any], column: str) -> Row:
    return {name: value for name, value in row.items() if name != column}


UNFIT: dict[str, tuple[str, Callable[[Row], Row]]] = {
    "a pixel that is no number": ("image", lambda row: {**row, "image": [[float("nan")] * IMAGE_SIDE] * IMAGE_SIDE}),
    "an image without pixels": ("image", lambda row: {**row, "image": []}),
    "an image that is a word": ("image", lambda row: {**row, "image": "cat"}),
    "no image at all": ("image", lambda row: without(row, "image")),
    "an image's label that the plan lacks": ("image", lambda row: {**row, "label": "zebra"}),
    "a text's label that the plan lacks": ("text", lambda row: {**row, "label": "zebra"}),
    "no label": ("text", lambda row: without(row, "label")),
    "an empty label": ("text", lambda row: {**row, "label": " "}),
    "a label that is a fraction": ("text", lambda row: {**row, "label": 0.5}),
    "a text that is null": ("text", lambda row: {**row, "text": None}),
    "a text that is a number": ("text", lambda row: {**row, "text": 17}),
    "a text with half a surrogate pair": ("text", lambda row: {**row, "text": "pain \ud800"}),
}


def start(world: World) -> np.ndarray:
    return joined(world.plan.recipe, read_initial(world.initial, world.plan.recipe.adapter))


def silent(done: int, of: int) -> None:
    assert 0 < done <= of


def one_round(world: World, **changes: Any) -> np.ndarray:
    return world.trainer(SeededRandom("secret"), **changes).train(1, start(world), silent)


@pytest.mark.parametrize("sentence", UNFIT)
def test_a_row_that_does_not_fit_is_an_empty_example_and_only_its_owner_hears_of_it(
    sentence: str, tmp_path: Path
) -> None:
    kind, change = UNFIT[sentence]
    write = images if kind == "image" else texts
    world = make_world(tmp_path, kind, mode="distributed", sampling_rate=1)
    dataset = write(tmp_path / "odd.jsonl", change)
    with capture_logs() as logs:
        update = one_round(world, dataset=dataset)
    assert [log["event"] for log in logs] == ["rows that do not fit the plan count as empty"]
    assert str(PLACE + 1) not in repr([without(log, "run") for log in logs])
    trainer = world.trainer(SeededRandom("secret"), dataset=write(tmp_path / "whole.jsonl"))
    privacy, sums = world.plan.privacy, trainer.sums_of_turn(0)
    whole = trainer.train(1, start(world), silent)
    own = sums.clipped(np.array([PLACE]), sensitivity=privacy.sensitivity, clip_norm=1.0)
    assert own.any()
    assert np.array_equal(update, whole - own)
    strict = TorchTrainer(world.materials(dataset=dataset, strict=True), SeededRandom(1))
    with pytest.raises(LocalError, match=f"row {PLACE + 1}: ") as info:
        strict.prepare()
    assert info.value.code in {"E-DATA-PARSE", "E-DATA-MISMATCH"}
    assert "zebra" not in info.value.detail


def test_labels_that_no_row_has_are_refused_no_more_than_labels_that_all_have(tmp_path: Path) -> None:
    """Or a plan that names a rare label would learn who has it from who refuses."""
    world = make_world(tmp_path, "text", mode="distributed")
    lines = [{**json.loads(line), "label": "zebra"} for line in world.dataset.read_text().splitlines()]
    dataset = written(tmp_path / "zebras.jsonl", lines, lambda row: row)
    noise = discrete_gaussian(world.plan.recipe.entries, world.plan.privacy.variance_exponent, SeededRandom("secret"))
    assert np.array_equal(one_round(world, dataset=dataset), noise)


def test_a_user_s_row_that_does_not_fit_is_left_out_of_that_user_s_mean(tmp_path: Path) -> None:
    world = make_world(tmp_path, "text", mode="distributed", unit="user", max_rows_per_user=3, units=8, sampling_rate=1)
    sensitivity = world.plan.privacy.sensitivity
    dataset = texts(tmp_path / "odd.jsonl", lambda row: {**row, "label": "zebra"})
    sums = world.trainer(SeededRandom(1), dataset=dataset).sums_of_turn(0)
    rows = np.array([3, 4, PLACE])
    found = sums.clipped_means([rows], sensitivity=sensitivity, clip_norm=1.0)
    assert np.array_equal(found, sums.clipped_means([rows[:2]], sensitivity=sensitivity, clip_norm=1.0))
    assert not sums.clipped_means([rows[2:]], sensitivity=sensitivity, clip_norm=1.0).any()


def test_an_empty_text_is_an_example_like_any_other(tmp_path: Path) -> None:
    world = make_world(tmp_path, "text", mode="distributed")
    dataset = texts(tmp_path / "odd.jsonl", lambda row: {**row, "text": ""})
    with capture_logs() as logs:
        trainer = world.trainer(SeededRandom(1), dataset=dataset)
    assert logs == []
    sensitivity = world.plan.privacy.sensitivity
    assert trainer.sums_of_turn(0).clipped(np.array([PLACE]), sensitivity=sensitivity, clip_norm=1.0).any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_hardly_any_rows_or_many_micro_batches_of_them_make_a_round(
    rows: int, kind: str, mode: Mode, tmp_path: Path
) -> None:
    world = make_world(tmp_path, kind, mode=mode, sampling_rate=1, units=rows)
    assert world.plan.recipe.training.micro_batch == 8
    dataset = (images if kind == "image" else texts)(tmp_path / "few.jsonl", rows=rows)
    update = one_round(world, dataset=dataset)
    assert update.shape == (world.plan.recipe.entries,)
    assert update.any()


@pytest.mark.parametrize("mode", MODES)
def test_a_label_that_is_nowhere_here_makes_no_difference_to_who_takes_part(mode: Mode, tmp_path: Path) -> None:
    world = make_world(tmp_path, mode=mode, sampling_rate=1)
    with np.load(world.dataset) as found:
        kept = found["label"] != LABELS[0]
        np.savez(tmp_path / "two.npz", image=found["image"][kept], label=found["label"][kept])
    assert one_round(world, dataset=tmp_path / "two.npz").any()


def test_the_first_row_says_which_columns_a_dataset_has(tmp_path: Path) -> None:
    world = make_world(tmp_path, "text")
    with pytest.raises(LocalError, match="row 1: no column words") as info:
        load_examples(
            world.dataset,
            Columns("words", "label"),
            world.task,
            world.base(),
            strict=False,
        )
    assert info.value.code == "E-DATA-PARSE"


def test_data_that_changed_since_it_was_registered_is_refused_before_anything_is_charged(tmp_path: Path) -> None:
    world = make_world(tmp_path, "text", mode="distributed")
    registered = hash_dataset(world.dataset)
    world.trainer(sha256=registered).prepare()
    with world.dataset.open("ab") as file:
        file.write(b"\n")
    with pytest.raises(LocalError, match=r"E-DATA-CHANGED: .* is not what was registered"):
        world.trainer(sha256=registered).prepare()
