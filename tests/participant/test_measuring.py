"""Measuring on the owner's rows in torch: what each row adds, whole numbers, noise, and what is checked before."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from participant.training.examples import Examples, load_examples
from participant.training.measuring import contributions, trainer
from participant.training.measuring.contributions import Contributions, Rows, Shares, shares_of
from participant.training.measuring.trainer import MeasuringTrainer
from participant.training.record import OwnersRecord
from participant.training.tasks.work import IGNORED
from privacy.errors import LocalError
from privacy.measure_parts import Measurement
from privacy.measurement import figures
from privacy.plan import measured_step
from privacy.secagg.fixed_point import unfixed
from tests.worlds.measuring import EVERYTHING, MeasureMode, measurer, measuring_world, streams, task_measuring_world
from tests.worlds.seeded import SeededRandom
from tests.worlds.torch_world import LABELS, ROWS, World, make_world

pytestmark = pytest.mark.torch

MODES: tuple[MeasureMode, ...] = ("distributed", "local", "none")


def silent(_done: int, _of: int) -> None:
    pass


def measured_of(world: World) -> Measurement:
    measured = world.plan.recipe.measured
    assert measured is not None
    return measured


def parts(world: World, vector: np.ndarray) -> dict[str, np.ndarray]:
    return {name: vector[span] for name, span in streams(measured_of(world), world.plan.recipe).items()}


def vector_of(measuring: MeasuringTrainer, world: World) -> np.ndarray:
    return measuring.train(1, world.adapted().vector(), silent)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> World:
    return measuring_world(tmp_path_factory.mktemp("plain"), mode="none")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> World:
    return measuring_world(tmp_path_factory.mktemp("noisy"))


def test_without_noise_the_vector_is_what_a_plain_evaluation_finds(plain: World) -> None:
    adapted, one = plain.adapted(), measurer(plain, SeededRandom(1))
    found = parts(plain, unfixed(vector_of(one, plain), scale_exponent=plain.plan.encoding.scale_exponent, divisor=1))
    rows = contributions_of(plain)
    with torch.no_grad():
        answers = adapted.logits(rows.examples.inputs)
    guesses, labels = answers.argmax(dim=1), rows.examples.labels
    losses = torch.nn.functional.cross_entropy(answers, labels, reduction="none").clamp(max=4).double()
    assert found["count"] == ROWS
    assert found["accuracy"] == int((guesses == labels).sum())
    assert found["loss"][0] == pytest.approx(float(losses.sum()) / 4, abs=1e-5)
    table = found["confusion"].reshape(len(LABELS), len(LABELS))
    assert all(
        table[label, guess] == int(((labels == label) & (guesses == guess)).sum())
        for label in range(3)
        for guess in range(3)
    )
    assert list(found["histogram"]) == [int((labels == label).sum()) for label in range(3)]


def contributions_of(world: World, **changes: Any) -> Contributions:
    examples = load_examples(world.dataset, world.columns, world.task, world.base())
    given = {"adapted": world.adapted(), "measured": measured_of(world), "examples": examples, "micro_batch": 8}
    return Contributions(**{**given, **changes})


def test_the_released_adapter_is_measured_and_not_another(plain: World) -> None:
    one = measurer(plain, SeededRandom(1))
    start = plain.adapted().vector()
    moved = start + np.random.default_rng(3).normal(size=start.size).astype(np.float32)
    assert not np.array_equal(one.train(1, start, silent), one.train(1, moved, silent))
    assert np.array_equal(one.train(1, start, silent), one.train(1, start, silent))


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_noise_of_the_claimed_variance_is_on_exact_counts(mode: MeasureMode, tmp_path: Path) -> None:
    world = measuring_world(tmp_path, mode=mode)
    one, start = measurer(world, SeededRandom(1)), world.adapted().vector()
    step = measured_step(world.plan.privacy, world.plan.encoding, world.plan.recipe.entries)
    exact = contributions_of(world).whole([np.array([row]) for row in range(ROWS)], step=step, sensitivity=10**9)
    assert parts(world, exact)["count"] == ROWS * step
    noise = np.stack([one.train(1, start, silent) - exact for _ in range(200)])
    deviation = noise.std()
    assert deviation == pytest.approx(world.plan.privacy.sigma, rel=5 / math.sqrt(noise.size))
    assert abs(noise.mean()) < 5 * deviation / math.sqrt(noise.size)


def test_a_row_that_the_plan_cannot_use_adds_nothing(plain: World) -> None:
    whole, without = contributions_of(plain), contributions_of(plain)
    without = replace(without, examples=replace(without.examples, unusable=np.array([0, 5])))
    units = [np.array([row]) for row in range(ROWS)]
    expected = whole.plain([rows for rows in units if rows[0] not in {0, 5}])
    assert np.allclose(without.plain(units), expected)
    assert parts(plain, without.plain(units))["count"] == ROWS - 2


def test_a_user_adds_the_mean_of_its_own_rows_in_any_company(tmp_path: Path) -> None:
    world = measuring_world(tmp_path, "text", units=ROWS // 3, unit="user", max_rows_per_user=2)
    rows = contributions_of(world)
    alone = rows.plain([np.array([3, 4])])
    both = (rows.plain([np.array([3])]) + rows.plain([np.array([4])])) / 2
    assert np.allclose(alone, both)
    others = [np.array([0, 1, 2]), np.array([9])]
    for fixed_slots in (False, True):
        found = replace(rows, fixed_slots=fixed_slots)
        step = measured_step(world.plan.privacy, world.plan.encoding, world.plan.recipe.entries)
        bound = {"step": step, "sensitivity": world.plan.privacy.sensitivity}
        moved = found.whole([*others, np.array([3, 4])], **bound) - found.whole(others, **bound)
        assert np.array_equal(moved, found.whole([np.array([3, 4])], **bound))
    vector = vector_of(measurer(world, SeededRandom(2)), world)
    counted = figures(world.plan, [int(entry) for entry in vector], 1)[0]
    assert counted.value == pytest.approx(ROWS // 3, abs=5 * counted.standard_error)


TASKS: dict[str, tuple[tuple[str, ...], str]] = {
    "plain text": (("accuracy", "loss"), ""),
    "chats": (("accuracy", "loss"), ""),
    "masked-lm": (("accuracy", "loss"), ""),
    "multi-label": (("accuracy", "loss"), ""),
    "token-classification": (("accuracy", "loss"), ""),
    "regression": (("histogram", "loss"), "bins = [-1.5, 0, 1.5]\n"),
    "sentence-embedding": (("loss",), ""),
}


@pytest.mark.parametrize(("metrics", "more"), TASKS.values(), ids=TASKS.keys())
def test_every_kind_of_task_is_measured(metrics: tuple[str, ...], more: str, request: Any, tmp_path: Path) -> None:
    name = request.node.callspec.id
    world = task_measuring_world(tmp_path, name, metrics, measure=more)
    vector = vector_of(measurer(world, SeededRandom(1)), world)
    found = {figure.metric: figure for figure in figures(world.plan, [int(entry) for entry in vector], 1)}
    assert found["loss"].value is not None
    assert 0 < found["loss"].value <= 4
    assert found["count"].value == ROWS
    if "accuracy" in metrics:
        assert found["accuracy"].value is not None
        assert 0 <= found["accuracy"].value <= 1
    if "histogram" in metrics:
        assert sum(parts(world, vector)["histogram"]) == ROWS << world.plan.encoding.scale_exponent


def test_accuracy_of_texts_is_of_their_own_tokens_alone() -> None:
    answers = torch.nn.functional.one_hot(torch.tensor([[1, 0, 2], [1, 1, 1]]), 3).float()
    labels = torch.tensor([[1, 1, IGNORED], [IGNORED, IGNORED, IGNORED]])
    task: Any = None  # read where labels are one each, or several
    assert contributions.right_shares(task, answers, labels).tolist() == [0.5, 0.0]
    assert contributions._asked(task, labels).tolist() == [True, False]


def test_numbers_fall_into_the_bins_that_they_are_in(tmp_path: Path) -> None:
    world = task_measuring_world(tmp_path, "regression", ("histogram",), measure="bins = [-0.1, 0.7]\n")
    labels = torch.tensor([-1.0, -0.1, 0.0, 0.7, 100.0, math.inf, -math.inf])
    found = shares_of(world.plan.recipe, None, None, labels)
    assert found.argmax(axis=1).tolist() == [0, 1, 1, 2, 2, 2, 0]
    assert (found.sum(axis=1) == 1).all()


def test_a_label_out_of_range_adds_nothing(plain: World) -> None:
    measured = Measurement(metrics=("histogram",))
    recipe = plain.plan.recipe.model_copy(
        update={
            "upload": measured,
            "turns": (plain.plan.recipe.turns[0].model_copy(update={"sums": plain.plan.recipe.turns[0].sums[3:4]}),),
        }
    )
    found = shares_of(recipe, None, None, torch.tensor([0, 2, 3, -1]))
    assert found.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_a_loss_that_is_no_number_counts_as_the_clip() -> None:
    losses = torch.tensor([0.5, 9.0, math.nan, math.inf])
    assert contributions._cut(losses, 2.0).tolist() == [0.25, 1.0, 1.0, 1.0]


# --- what is checked before ---


def spoilt(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    right = Contributions.of_slots

    def wrong(self: Contributions, slots: Rows) -> Shares:
        found: Shares = change(right(self, slots), slots)
        return found

    monkeypatch.setattr(Contributions, "of_slots", wrong)


WRONG = {
    "a row that adds twice": ("bounded shares", lambda shares, slots: 2 * shares),
    "a row that adds nothing": ("bounded shares: no synthetic row", lambda shares, slots: 0 * shares),
    "an empty slot that adds": ("an empty slot adds", lambda shares, slots: np.where(slots[:, None] < 0, 0.5, shares)),
    "a row that depends on company": (
        "depends on the other rows", lambda shares, slots: shares * (1 - 1e-6 * float(shares.mean()))
    ),
}  # fmt: skip


@pytest.mark.parametrize(("words", "change"), WRONG.values(), ids=WRONG.keys())
def test_the_self_check_refuses(words: str, change: Any, noisy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt(monkeypatch, change)
    with pytest.raises(LocalError, match=words) as caught:
        measurer(noisy, SeededRandom(1))
    assert caught.value.code == "E-SELF-CHECK"


def test_the_self_check_refuses_a_sum_that_one_unit_moves_by_more_than_the_bound(
    noisy: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unbounded(values: np.ndarray, *, step: int, sensitivity: int) -> np.ndarray:
        found: np.ndarray = np.rint(2 * values * step).astype(np.int64)
        return found

    monkeypatch.setattr(contributions, "integer_rows", unbounded)
    with pytest.raises(LocalError, match="one example moves the sum by more than D"):
        measurer(noisy, SeededRandom(1))


def test_rows_that_differ_from_slot_to_slot_get_slots_of_their_own(
    noisy: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = measurer(noisy, SeededRandom(1))
    assert one._self_check is not None
    assert one._self_check.run() is False
    spoilt(monkeypatch, lambda shares, slots: shares * (1 - 1e-9 * np.arange(len(slots)))[:, None])
    assert one._self_check.run() is True


def test_a_model_whose_rows_could_meet_is_refused_as_in_training(noisy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: torch.nn.Module, mode: str) -> None:
        raise LocalError("E-SELF-CHECK", f"modules: {mode}")

    monkeypatch.setattr(trainer, "check_modules", refuse)
    with pytest.raises(LocalError, match="modules: distributed"):
        measurer(noisy, SeededRandom(1))


# --- what goes wrong in a round ---


class Record:
    def __init__(self) -> None:
        self.failures: list[tuple[int, str]] = []

    def read(self, rows: int, unusable: int, cause: str) -> None:
        pass

    def failed(self, number: int, kind: str) -> None:
        self.failures.append((number, kind))


def test_a_failure_under_noise_leaves_noise_alone_and_is_written_down(
    noisy: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    record: OwnersRecord = Record()
    one = MeasuringTrainer(noisy.materials(), SeededRandom(1), record=record)
    one.prepare()

    def fail(*given: object, **named: object) -> None:
        raise RuntimeError("a row says too much")

    monkeypatch.setattr(Contributions, "whole", fail)
    found = vector_of(one, noisy)
    assert np.abs(found).max() < 8 * noisy.plan.privacy.sigma
    assert isinstance(record, Record)
    assert record.failures == [(1, "RuntimeError")]


def test_a_failure_without_noise_is_raised(plain: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one = measurer(plain, SeededRandom(1))

    def fail(*given: object, **named: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Contributions, "plain", fail)
    with pytest.raises(RuntimeError):
        vector_of(one, plain)
    with pytest.raises(LocalError, match="measuring: RuntimeError"):
        one.step_on_rows()


def test_a_dry_run_says_how_many_rows_count_and_refuses_an_owner_without_any(plain: World) -> None:
    one = measurer(plain, SeededRandom(1))
    assert one.step_on_rows() == (f"measuring {ROWS} of {ROWS} rows went well",)
    examples = one._examples
    assert isinstance(examples, Examples)
    one._examples = replace(examples, unusable=np.arange(ROWS))
    with pytest.raises(LocalError, match="no row fits the plan") as caught:
        one.step_on_rows()
    assert caught.value.code == "E-DATA-MISMATCH"


def test_a_plan_that_trains_never_reaches_this_trainer(plain: World, tmp_path: Path) -> None:
    world = make_world(tmp_path)
    with pytest.raises(LocalError, match="E-BUG"):
        MeasuringTrainer(world.materials(), SeededRandom(1)).prepare()


def test_every_metric_of_everything_is_in_the_vector_once(noisy: World) -> None:
    assert set(streams(measured_of(noisy), noisy.plan.recipe)) == {"count", *EVERYTHING}
