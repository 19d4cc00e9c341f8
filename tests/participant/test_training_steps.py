"""The torch trainer: what leaves it is what the plan says, in every mode."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from audit.training_record import read_record
from methods.vectors import joined, split
from participant.training.adapters.adapted import AdaptedModel, read_initial
from participant.training.adapters.device import require_precision
from participant.training.adapters.fast import FastEngine
from participant.training.adapters.reference import OpacusEngine
from participant.training.adapters.sums import EMPTY_SLOT, Clip, GradientSums
from participant.training.data import Columns
from participant.training.examples import load_examples
from participant.training.noise_keys import NoiseKeys
from participant.training.record import RunRecord
from participant.training.selfcheck import TurnCheck
from participant.training.timing import FixedDuration
from participant.training.torch_trainer import TorchTrainer
from privacy.dp.clipping import clip_radius, integer_clip
from privacy.dp.fast_noise import discrete_gaussian
from privacy.dp.sampling import poisson_sample
from privacy.errors import LocalError
from privacy.plan_parts import Mode
from tests.worlds.seeded import SeededRandom
from tests.worlds.torch_world import ROWS, World, image_rows, make_world

pytestmark = pytest.mark.torch

Engine = type[FastEngine] | type[OpacusEngine]
MODES: tuple[Mode, ...] = ("none", "local", "distributed", "distributed-participant")


def silent(done: int, of: int) -> None:
    assert 0 < done <= of


def start(world: World) -> np.ndarray:
    return joined(world.plan.recipe, read_initial(world.initial, world.plan.recipe.adapter))


def sums_of(world: World, *, fixed_slots: bool = False, engine: Engine = FastEngine) -> GradientSums:
    adapted = world.adapted()
    base, recipe = world.base(), world.plan.recipe
    examples = load_examples(world.dataset, world.columns, recipe.task, base)
    return GradientSums(engine(adapted), examples, recipe.training.micro_batch, fixed_slots)


def test_the_reference_engine_trains_the_same_to_rounding(tmp_path: Path) -> None:
    world = make_world(tmp_path, mode="distributed")
    fast, reference = (world.trainer(SeededRandom("secret"), engine=name) for name in ("fast", "opacus"))
    assert isinstance(reference.sums_of_turn(0).engine, OpacusEngine)
    updates = [trainer.train(1, start(world), silent) for trainer in (fast, reference)]
    assert np.abs(updates[0] - updates[1]).max() <= 2


def test_a_base_in_bfloat16_trains_nearly_the_same(tmp_path: Path) -> None:
    world = make_world(tmp_path, mode="distributed")
    narrow, wide = (
        world.trainer(SeededRandom("secret"), precision=precision).train(1, start(world), silent)
        for precision in ("bfloat16", "float32")
    )
    noise = discrete_gaussian(world.plan.recipe.entries, world.plan.privacy.variance_exponent, SeededRandom("secret"))
    error = np.linalg.norm(narrow - wide) / np.linalg.norm(wide - noise)
    assert 0 < error < 2e-2


@pytest.mark.parametrize(
    ("kind", "mode", "method"), list(itertools.product(["image", "text"], MODES, ["ffa-lora", "fedit"]))
)
def test_a_round_gives_one_vector_of_integers(kind: str, mode: Mode, method: str, tmp_path: Path) -> None:
    world = make_world(tmp_path, kind, mode=mode, method=method)
    update = world.trainer().train(1, start(world), silent)
    assert update.dtype == np.int64
    assert update.shape == (world.plan.recipe.entries,)
    assert update.any()


def test_one_noisy_sum_is_the_clipped_integers_of_the_sampled_rows_plus_the_noise_drawn_first(tmp_path: Path) -> None:
    world = make_world(tmp_path, mode="distributed")
    privacy, entries = world.plan.privacy, world.plan.recipe.entries
    update = world.trainer(SeededRandom("secret")).train(1, start(world), silent)
    random = SeededRandom("secret")
    noise = discrete_gaussian(entries, privacy.variance_exponent, random)
    rows = poisson_sample(ROWS, privacy.sampling_rate, random)
    sums = sums_of(world)
    single = [sums.engine.per_example(sums.examples.take(np.array([row]))) for row in rows]
    expected = sum(integer_clip(one, sensitivity=privacy.sensitivity, clip_norm=1.0)[0] for one in single)
    # One example at a time has other shapes than a micro-batch, so a rounding may differ in the last place.
    assert np.abs(update - noise - expected).max() <= 2
    assert rows.size > 3


def test_local_steps_follow_the_noisy_gradient_with_the_plan_s_constants(tmp_path: Path) -> None:
    world = make_world(tmp_path, mode="local", local_steps=1)
    plan, privacy, entries = world.plan, world.plan.privacy, world.plan.recipe.entries
    update = world.trainer(SeededRandom("secret")).train(1, start(world), silent)
    random = SeededRandom("secret")
    noise = discrete_gaussian(entries, privacy.variance_exponent, random)
    rows = poisson_sample(ROWS, privacy.sampling_rate, random)
    total = sums_of(world).clipped(rows, sensitivity=privacy.sensitivity, clip_norm=1.0) + noise
    gradient = total / clip_radius(privacy.sensitivity, entries) / (0.5 * ROWS)
    head = plan.recipe.state[-1].length
    rates = np.array([0.5] * (entries - head) + [0.25] * head)
    assert plan.recipe.state[-1].name == "head"
    exact = -rates * gradient * 2**plan.encoding.scale_exponent
    assert np.abs(update - exact).max() < 0.5 + 1e-3, "rounded to the nearest step"


def test_without_noise_steps_are_plain_gradient_descent_and_lower_the_loss(tmp_path: Path) -> None:
    world = make_world(tmp_path, mode="none", local_steps=20, sampling_rate=1)
    trainer = world.trainer()
    update = trainer.train(1, start(world), silent) / 2**world.plan.encoding.scale_exponent
    sums = sums_of(world)

    def correct(vector: np.ndarray) -> int:
        sums.engine.adapted.load(vector.astype(np.float32))
        answers = sums.engine.adapted.logits(sums.examples.inputs).argmax(dim=1)
        return int((answers == sums.examples.labels).sum())

    assert correct(start(world) + update) > max(correct(start(world)), ROWS // 2)


@pytest.mark.parametrize("mode", ["local", "distributed-participant"])
def test_an_empty_batch_is_a_local_step_too(mode: Mode, tmp_path: Path) -> None:
    world = make_world(tmp_path, mode=mode, sampling_rate=0.000001, local_steps=2)
    steps: list[int] = []
    update = world.trainer(SeededRandom("secret")).train(1, start(world), lambda done, of: steps.append(done))
    assert steps == [1, 2]
    assert update.any()


def test_an_empty_batch_is_a_step_with_noise(tmp_path: Path) -> None:
    world = make_world(tmp_path, mode="distributed", sampling_rate=0.000001)
    update = world.trainer(SeededRandom("secret")).train(1, start(world), silent)
    entries, exponent = world.plan.recipe.entries, world.plan.privacy.variance_exponent
    assert np.array_equal(update, discrete_gaussian(entries, exponent, SeededRandom("secret")))


@pytest.mark.parametrize("mode", ["local", "distributed", "distributed-participant"])
def test_a_step_that_fails_leaves_its_noise_and_no_word_of_why(
    mode: Mode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, mode=mode, sampling_rate=1)

    def update_with(sums: Callable[..., np.ndarray]) -> np.ndarray:
        for name in ("clipped", "plain"):
            monkeypatch.setattr(GradientSums, name, sums)
        return world.trainer(SeededRandom("secret")).train(1, start(world), silent)

    def fail(*_: object, **__: object) -> np.ndarray:
        raise MemoryError("while patient 17 was read")

    monkeypatch.setattr(TurnCheck, "_sensitivity", lambda *_: None)  # the one check that sums
    noise_alone = update_with(lambda *_, **__: np.zeros(world.plan.recipe.entries, dtype=np.int64))
    with capture_logs() as logs:
        update = update_with(fail)
    assert np.array_equal(update, noise_alone)
    assert update.any()
    assert [(log["code"], log["detail"]) for log in logs] == [
        ("E-TRAINING", "MemoryError")
    ] * world.plan.privacy.local_steps
    assert "patient" not in repr(logs)


def test_the_trainer_tells_its_owner_the_round_and_the_class_of_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, mode="distributed", sampling_rate=1)
    trainer = TorchTrainer(world.materials(), SeededRandom("secret"), record=RunRecord(tmp_path / "run"))
    trainer.prepare()
    trainer.train(2, start(world), silent)
    assert read_record(tmp_path / "run").summary(3) == ""
    monkeypatch.setattr(GradientSums, "clipped", lambda *_, **__: 1 / 0)
    trainer.train(3, start(world), silent)
    assert read_record(tmp_path / "run").summary(3) == "training failed in 1 of 3 rounds (ZeroDivisionError)"


def in_arrays(world: World, path: Path, **changed: np.ndarray) -> Path:
    """Write the world's rows with some columns in place of its own."""
    with np.load(world.dataset) as found:
        np.savez(path, **{**found, **changed})
    return path


NO_USE: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "labels of other names": (
        {"label": np.array(["zebra"] * ROWS)},
        "row 1: its label is not among the plan's; `dataset map` translates an own spelling",
    ),
    "infinite pixels": (
        {"image": np.full((ROWS, 8, 8), np.inf, dtype=np.float32)},
        "row 1: a pixel is infinite, or not a number",
    ),
}


@pytest.mark.parametrize("sentence", NO_USE)
def test_that_no_row_is_usable_is_kept_for_the_owner_and_changes_nothing_that_is_sent(
    sentence: str, tmp_path: Path
) -> None:
    changed, cause = NO_USE[sentence]
    world = make_world(tmp_path, mode="distributed", sampling_rate=1)
    useless = in_arrays(world, tmp_path / "useless.npz", **changed)
    noise = discrete_gaussian(world.plan.recipe.entries, world.plan.privacy.variance_exponent, SeededRandom("secret"))
    trainer = TorchTrainer(world.materials(dataset=useless), SeededRandom("secret"), record=RunRecord(tmp_path / "run"))
    trainer.prepare()
    assert np.array_equal(trainer.train(1, start(world), silent), noise)
    record = read_record(tmp_path / "run")
    assert record.summary(3) == f"{ROWS} of {ROWS} rows are of no use; the first: useless.npz {cause}"
    assert record.too_many(1000)
    with pytest.raises(LocalError, match=f"{ROWS} of {ROWS} rows are of no use; the first: useless.npz row 1: "):
        world.trainer(dataset=useless, strict=True)


def test_rows_that_can_be_used_take_back_what_was_written_of_those_that_could_not(tmp_path: Path) -> None:
    world, record = make_world(tmp_path, mode="distributed"), RunRecord(tmp_path / "run")
    few = in_arrays(world, tmp_path / "few.npz", label=np.array([*"zz", *["a"] * (ROWS - 2)]))
    for dataset, said in (
        (few, f"2 of {ROWS} rows are of no use; the first: few.npz row 1: "),
        (world.dataset, ""),
    ):
        TorchTrainer(world.materials(dataset=dataset), SeededRandom(1), record=record).prepare()
        assert read_record(tmp_path / "run").summary(3).startswith(said) is True
        assert not read_record(tmp_path / "run").trains_on_nothing
    assert read_record(tmp_path / "run").summary(3) == ""


@pytest.mark.parametrize(
    ("mode", "method"),
    [
        ("none", "ffa-lora"),
        ("local", "ffa-lora"),
        ("distributed", "rolora"),
        ("distributed-participant", "rolora"),
        ("distributed", "bottleneck"),
    ],
)
def test_a_dry_run_takes_one_step_of_each_turn_on_the_owner_s_rows_and_keeps_nothing(
    mode: Mode, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, mode=mode, method=method, sampling_rate=1)
    before, trainer = sorted(tmp_path.rglob("*")), world.trainer(strict=True)
    found = trainer.step_on_rows()
    assert [words.partition(": ")[2] for words in found] == [f"a step on {ROWS} of {ROWS} rows went well"] * len(
        world.plan.recipe.turns
    )
    assert sorted(tmp_path.rglob("*")) == before
    again = world.trainer(SeededRandom("secret"), strict=True).train(1, start(world), silent)
    other = world.trainer(SeededRandom("secret"), strict=True)
    monkeypatch.setattr(other, "_random", SeededRandom("steps"))
    other.step_on_rows()
    monkeypatch.setattr(other, "_random", SeededRandom("secret"))
    assert np.array_equal(other.train(1, start(world), silent), again), "the step left something behind"
    for name in ("clipped", "plain"):
        monkeypatch.setattr(GradientSums, name, lambda *_, **__: dict[str, int]()["patient 17"])
    with pytest.raises(LocalError, match=r"E-TRAINING: turn 1 \(.*\): KeyError$"):
        trainer.step_on_rows()


def test_a_dry_run_counts_rows_whose_loss_is_no_number(tmp_path: Path) -> None:
    """Under noise they would leave as empty ones, without a word."""
    world = make_world(tmp_path, mode="distributed", sampling_rate=1)
    trainer = world.trainer(strict=True)
    examples = trainer.sums_of_turn(0).examples
    examples.inputs["pixel_values"][3] = torch.nan
    with pytest.raises(LocalError, match=rf"the loss of 1 of {ROWS} rows is infinite, or not a number") as info:
        trainer.step_on_rows()
    assert info.value.code == "E-TRAINING"


def test_a_dry_run_says_when_no_row_moves_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(tmp_path, mode="distributed", sampling_rate=0.000001)
    trainer = world.trainer(strict=True)
    (found,) = trainer.step_on_rows()
    assert found.endswith(f"a step on 2 of {ROWS} rows went well"), "a batch may be empty, a dry run is not"
    nothing = np.zeros(world.plan.recipe.entries, dtype=np.int64)
    monkeypatch.setattr(GradientSums, "clipped", lambda *_, **__: nothing)
    (found,) = trainer.step_on_rows()
    assert found.endswith(f"of {ROWS} rows moves nothing: every gradient is zero")


def test_without_noise_a_step_that_fails_ends_the_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(tmp_path, mode="none")
    trainer = world.trainer()
    monkeypatch.setattr(GradientSums, "plain", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train(1, start(world), silent)


@pytest.mark.parametrize("rate", [0.000001, 1])
@pytest.mark.parametrize("mode", ["local", "distributed", "distributed-participant"])
def test_training_takes_the_same_time_whatever_is_in_the_batch(mode: Mode, rate: float, tmp_path: Path) -> None:
    world = make_world(tmp_path, mode=mode, sampling_rate=rate)
    passed, waits = iter(np.arange(0, 1000, 0.01)), list[float]()
    keys = NoiseKeys(tmp_path / "keys", SeededRandom("os"))
    trainer = TorchTrainer(
        world.materials(), SeededRandom(1), keys, FixedDuration(lambda: float(next(passed)), waits.append)
    )
    with capture_logs() as logs:
        trainer.prepare()
        trainer.train(1, start(world), silent)
    micro_batches = 3 if rate == 1 else 1  # of eight rows each
    period = 1.5 * (world.plan.privacy.local_steps * (micro_batches * 0.01 + 0.01) + 0.01)
    assert waits == [pytest.approx(0.99), pytest.approx(period - 0.03)], "reading the data, then the round"
    assert [log["event"] for log in logs] == ["every round's training takes the same time"]


def test_noise_differs_from_step_to_step_and_from_round_to_round(tmp_path: Path) -> None:
    world = make_world(tmp_path, mode="distributed", sampling_rate=0.000001)
    trainer = world.trainer()
    first, second = (trainer.train(number, start(world), silent) for number in (1, 2))
    assert not np.array_equal(first, second)


def test_a_difference_is_clamped_to_the_plan_s_bound_and_never_refused(tmp_path: Path) -> None:
    world = make_world(tmp_path, mode="none", update_bound=0.001)
    update = world.trainer().train(1, start(world), silent)
    assert np.abs(update).max() == world.plan.encoding.clamp


def test_training_that_ends_in_no_number_still_gives_integers(tmp_path: Path) -> None:
    world = make_world(tmp_path, mode="none")
    vector = np.full(world.plan.recipe.entries, 1e30, dtype=np.float32)
    update = world.trainer().train(1, vector, silent)
    assert np.abs(update).max() <= world.plan.encoding.clamp


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("mode", ["distributed", "distributed-participant"])
def test_a_coordinator_that_sends_no_numbers_gets_the_noise_alone(mode: Mode, value: float, tmp_path: Path) -> None:
    world = make_world(tmp_path, mode=mode, sampling_rate=1)
    vector = np.full(world.plan.recipe.entries, value, dtype=np.float32)
    with capture_logs() as logs:
        update = world.trainer(SeededRandom("secret")).train(1, vector, silent)
    noise = discrete_gaussian(world.plan.recipe.entries, world.plan.privacy.variance_exponent, SeededRandom("secret"))
    assert np.array_equal(update, noise)
    assert logs == []


def test_a_participant_s_whole_difference_is_clipped_as_one_unit(tmp_path: Path) -> None:
    world = make_world(tmp_path, mode="distributed-participant", local_steps=5, clip_norm=0.01)
    update = world.trainer(SeededRandom("secret")).train(1, start(world), silent)
    noise = discrete_gaussian(world.plan.recipe.entries, world.plan.privacy.variance_exponent, SeededRandom("secret"))
    squared = sum(int(entry) ** 2 for entry in update - noise)
    assert 0.9 * world.plan.privacy.sensitivity**2 < squared <= world.plan.privacy.sensitivity**2


@pytest.mark.parametrize("mode", ["none", "distributed-participant"])
def test_users_in_the_data_do_not_lengthen_the_steps_of_modes_that_sample_rows(mode: Mode, tmp_path: Path) -> None:
    made = {"mode": mode, "sampling_rate": 1, "local_steps": 1, "clip_norm": 1000}
    by_row, by_user = (make_world(tmp_path / str(units), "text", units=units, **made) for units in (ROWS, ROWS // 3))
    rows, users = (world.trainer(SeededRandom("secret")).train(1, start(world), silent) for world in (by_row, by_user))
    assert np.array_equal(rows, users)


def test_a_user_s_rows_become_one_clipped_row(tmp_path: Path) -> None:
    world = make_world(tmp_path, "text", mode="distributed", unit="user", max_rows_per_user=2, sampling_rate=1, units=8)
    privacy = world.plan.privacy
    trainer = world.trainer(SeededRandom("secret"))
    update = trainer.train(1, start(world), silent)
    noise = discrete_gaussian(world.plan.recipe.entries, privacy.variance_exponent, SeededRandom("secret"))
    squared = sum(int(entry) ** 2 for entry in update - noise)
    assert 0 < squared <= (8 * privacy.sensitivity) ** 2
    sums = sums_of(world)
    mean = sums.clipped_means([np.array([0, 1])], sensitivity=privacy.sensitivity, clip_norm=1.0)
    both = [sums.engine.per_example(sums.examples.take(np.array([row])))[0] for row in (0, 1)]
    expected = integer_clip(np.mean(both, axis=0)[None], sensitivity=privacy.sensitivity, clip_norm=1.0)[0]
    assert np.abs(mean - expected).max() <= 1


@pytest.mark.parametrize("engine", [FastEngine, OpacusEngine])
@pytest.mark.parametrize("fixed_slots", [False, True])
def test_a_user_with_more_rows_than_a_micro_batch_is_still_one_row(
    fixed_slots: bool, engine: Engine, tmp_path: Path
) -> None:
    world = make_world(tmp_path, "text", mode="distributed", unit="user", max_rows_per_user=20, units=8)
    sums, sensitivity = sums_of(world, fixed_slots=fixed_slots, engine=engine), world.plan.privacy.sensitivity
    rows = np.arange(2, 22)
    mean = sums.clipped_means([rows], sensitivity=sensitivity, clip_norm=0.01)
    singles = sums.engine.per_example(sums.examples).astype(np.float64)[rows]
    expected = integer_clip(singles.mean(axis=0)[None], sensitivity=sensitivity, clip_norm=0.01)[0]
    assert sums.micro_batch < rows.size
    assert np.abs(mean - expected).max() <= 1
    assert 0.9 * sensitivity**2 < sum(int(entry) ** 2 for entry in mean) <= sensitivity**2


@pytest.mark.parametrize("engine", [FastEngine, OpacusEngine])
@pytest.mark.parametrize("fixed_slots", [False, True])
def test_a_user_s_integers_are_the_same_in_company_and_alone(fixed_slots: bool, engine: Engine, tmp_path: Path) -> None:
    world = make_world(tmp_path, "text", mode="distributed", unit="user", max_rows_per_user=11, units=8)
    sums = sums_of(world, fixed_slots=fixed_slots, engine=engine)
    clip = Clip(sensitivity=world.plan.privacy.sensitivity, clip_norm=1.0)
    users = [np.array([0, 1, 2]), np.array([3]), np.arange(4, 15), np.array([15, 17])]
    alone = [sums.clipped_means([rows], **clip) for rows in users]
    assert all(one.any() for one in alone)
    assert np.array_equal(sums.clipped_means(users, **clip), np.sum(alone, axis=0))
    assert np.array_equal(sums.clipped_means(users[2:], **clip), np.sum(alone[2:], axis=0))
    assert not sums.clipped_means([], **clip).any()


def test_a_plan_per_user_is_refused_for_rows_without_users(tmp_path: Path) -> None:
    world = make_world(tmp_path, "text", mode="local", unit="user", max_rows_per_user=2)
    trainer = TorchTrainer(world.materials(columns=Columns("text", "label")), SeededRandom(1))
    with pytest.raises(LocalError) as info:
        trainer.prepare()
    assert info.value.code == "E-DATA-USER"


@pytest.mark.parametrize("engine", [FastEngine, OpacusEngine])
@pytest.mark.parametrize("fixed_slots", [False, True])
def test_a_clipped_sum_does_not_depend_on_how_rows_fall_into_micro_batches(
    fixed_slots: bool, engine: Engine, tmp_path: Path
) -> None:
    world = make_world(tmp_path, mode="distributed")
    sums = sums_of(world, fixed_slots=fixed_slots, engine=engine)
    clip = Clip(sensitivity=world.plan.privacy.sensitivity, clip_norm=1.0)
    rows = np.array([1, 3, 9, 11, 17, 2, 20])
    parts = [sums.clipped(np.array([row]), **clip) for row in rows]
    assert np.array_equal(sums.clipped(rows, **clip), np.sum(parts, axis=0))
    assert not sums.clipped(rows[:0], **clip).any()


def test_a_home_slot_is_the_same_for_a_row_in_any_batch(tmp_path: Path) -> None:
    world = make_world(tmp_path, mode="distributed")
    sums = sums_of(world, fixed_slots=True)
    batches = list(sums._micro_batches(np.array([1, 9, 17, 3])))
    assert [batch.tolist() for batch in batches] == [
        [EMPTY_SLOT, 1, EMPTY_SLOT, 3, EMPTY_SLOT, EMPTY_SLOT, EMPTY_SLOT, EMPTY_SLOT],
        [EMPTY_SLOT, 9, EMPTY_SLOT, EMPTY_SLOT, EMPTY_SLOT, EMPTY_SLOT, EMPTY_SLOT, EMPTY_SLOT],
        [EMPTY_SLOT, 17, EMPTY_SLOT, EMPTY_SLOT, EMPTY_SLOT, EMPTY_SLOT, EMPTY_SLOT, EMPTY_SLOT],
    ]


def test_a_vector_goes_into_the_model_and_comes_back(tmp_path: Path) -> None:
    adapted: AdaptedModel = make_world(tmp_path).adapted()
    vector = np.random.default_rng(0).normal(size=adapted.recipe.entries).astype(np.float32)
    adapted.load(vector)
    assert np.array_equal(adapted.vector(), vector)
    tensors = split(adapted.recipe, vector)
    found = {name: value for name, value in adapted.model.named_parameters() if value.requires_grad}
    assert len(found) == len(tensors)


REFUSALS: dict[str, tuple[Callable[[World, Path], dict[str, object]], str]] = {
    "another initial adapter": (lambda world, path: {"initial_adapter": changed(world, path)}, "E-ADAPTER-HASH"),
    "no initial adapter": (lambda world, path: {"initial_adapter": path / "nothing"}, "E-ADAPTER-HASH"),
    "another base": (lambda world, path: {"model": path}, "E-MODEL-LOAD"),
    "a device that is not there": (lambda world, path: {"device": "cuda:7"}, "E-DEVICE"),
    "labels that the plan lacks, if the owner asks": (
        lambda world, path: {"dataset": relabelled(path), "strict": True},
        "E-DATA-MISMATCH",
    ),
    "another column": (lambda world, path: {"columns": Columns("picture", "label")}, "E-DATA-PARSE"),
}


def changed(world: World, path: Path) -> Path:
    data = bytearray(world.initial.read_bytes())
    data[-1] ^= 1
    (path / "other.safetensors").write_bytes(data)
    return path / "other.safetensors"


def relabelled(path: Path) -> Path:
    np.savez(path / "other.npz", image=np.zeros((2, 8, 8), dtype=np.uint8), label=np.array(["a", "zebra"]))
    return path / "other.npz"


@pytest.mark.parametrize("sentence", REFUSALS)
def test_a_trainer_refuses_before_anything_is_charged(sentence: str, tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", mode="local")
    change, code = REFUSALS[sentence]
    trainer = TorchTrainer(world.materials(**change(world, tmp_path)), SeededRandom(1))
    with pytest.raises(LocalError) as info:
        trainer.prepare()
    assert info.value.code == code
    assert "zebra" not in str(info.value)


def test_a_precision_that_a_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: False)
    require_precision(cuda, "float32")
    require_precision(torch.device("cpu"), "bfloat16")
    with pytest.raises(LocalError, match="cuda does not compute in bfloat16") as info:
        require_precision(cuda, "bfloat16")
    assert info.value.code == "E-DEVICE"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: True)
    require_precision(cuda, "bfloat16")


def test_images_of_another_size_are_brought_to_the_base_s(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    random = np.random.default_rng(0)
    np.savez(tmp_path / "big.npz", image=random.integers(0, 255, (3, 20, 12, 3)), label=np.array(["a", "b", "c"]))
    examples = load_examples(tmp_path / "big.npz", world.columns, world.task, world.base())
    assert examples.inputs["pixel_values"].shape == (3, 1, 8, 8)
    assert "Examples(3)" == repr(examples)


def test_pixels_are_scaled_as_the_plan_says(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    examples = load_examples(image_rows(tmp_path / "r.npz"), world.columns, world.task, world.base())
    with np.load(tmp_path / "r.npz") as rows:
        expected = (rows["image"] / 255 - 0.5) / 0.5
    assert np.allclose(examples.inputs["pixel_values"][:, 0].numpy(), expected, atol=1e-6)


def test_text_is_padded_and_cut_to_the_plan_s_length(tmp_path: Path) -> None:
    world = make_world(tmp_path, "text")
    (tmp_path / "t.jsonl").write_text(
        '{"text": "pain", "label": "a"}\n{"text": "' + "calm " * 30 + '", "label": "b"}\n'
    )
    examples = load_examples(tmp_path / "t.jsonl", Columns("text", "label"), world.task, world.base())
    assert examples.inputs["input_ids"].shape == (2, 8)
    assert examples.inputs["attention_mask"].sum(dim=1).tolist() == [3, 8]


def test_every_round_draws_from_a_key_of_its_own(tmp_path: Path) -> None:
    world = make_world(tmp_path, mode="distributed", sampling_rate=0.000001)
    trainer = TorchTrainer(
        world.materials(), SeededRandom("not used"), NoiseKeys(tmp_path / "keys", SeededRandom("os"))
    )
    trainer.prepare()
    updates = [trainer.train(number, start(world), silent) for number in (1, 2)]
    book = NoiseKeys(tmp_path / "other", SeededRandom("os"))
    entries, exponent = world.plan.recipe.entries, world.plan.privacy.variance_exponent
    for update in updates:
        assert np.array_equal(update, discrete_gaussian(entries, exponent, book.open_stream()))
    assert (tmp_path / "keys").stat().st_size == 64
