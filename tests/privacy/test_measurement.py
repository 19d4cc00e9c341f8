"""Plans that measure, and what their sums say: rules by name, exact counts, errors that cover what noise does."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from privacy.dp.clipping import integer_rows
from privacy.dp.events import Gaussian, PoissonSampled, round_event
from privacy.errors import PlanError
from privacy.measure_parts import Measurement, lengths, norm_bound
from privacy.measurement import Figure, figure_words, figures, measurement_words, ranges
from privacy.plan import LEAST_GRID_STEP, Plan, largest_sum, measured_step
from tests.worlds.measuring import EVERYTHING, UNITS, MeasureMode, changed, measuring_plan, measuring_recipe
from tests.worlds.plans import make_plan, plan_document, signing_key

DOCUMENT: Any = plan_document()
TEXTS = {"data": "texts", "input_column": "input", "max_length": 8, "pooling": "model"}
REGRESSION = {"kind": "regression", "label_column": "value", **TEXTS}
MULTI_LABEL = {"kind": "multi-label", "labels": ["a", "b"], "label_column": "labels", **TEXTS}
LANGUAGE = {
    "kind": "causal-lm", "data": "texts", "form": "text", "input_column": "text", "completion_column": "",
    "max_length": 8,
}  # fmt: skip
ZOE = {"id": "zoe", "identity_key": signing_key("zoe").public.hex()}
MODES: tuple[MeasureMode, ...] = ("distributed", "local", "none")


@pytest.mark.parametrize("mode", MODES)
def test_a_plan_that_measures_everything_is_valid_and_says_so(mode: MeasureMode) -> None:
    plan = measuring_plan(EVERYTHING, mode, loss_clip="5")
    assert [(stream.name, stream.length) for stream in plan.recipe.turns[0].sums] == [
        ("count", 1), ("accuracy", 1), ("confusion", 100), ("histogram", 10), ("loss", 1),
    ]  # fmt: skip
    assert plan.privacy.clip_norm == "2.236068"  # the root of 5, rounded up
    assert "trains nothing" in measurement_words(plan.recipe)[0]
    assert measured_step(plan.privacy, plan.encoding, plan.recipe.entries) >= LEAST_GRID_STEP


def test_a_plan_that_trains_keeps_its_bytes_and_measures_nothing() -> None:
    plan = make_plan()[0]
    assert plan.recipe.measured is None
    assert measurement_words(plan.recipe) == ()
    assert "measure" not in plan.to_bytes().decode()
    with pytest.raises(ValueError, match="no sum of a measurement"):
        figures(plan, [0] * plan.recipe.entries, 5)


def test_a_measurement_is_charged_as_one_sampled_gaussian() -> None:
    plan = measuring_plan(sampling_rate="0.5")
    event = round_event(plan)
    assert isinstance(event, PoissonSampled)
    assert event.sampling_rate == 0.5
    assert event.event == Gaussian(event.event.noise_multiplier)
    assert event.event.noise_multiplier <= plan.privacy.noise_multiplier


@pytest.mark.parametrize("count", range(1, 6))
def test_the_norm_bound_is_the_root_of_the_streams_and_never_below_it(count: int) -> None:
    bound = float(norm_bound([None] * count))
    assert math.sqrt(count) <= bound < math.sqrt(count) + 1e-6


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "metrics out of order": ("sorted", {"metrics": ["loss", "accuracy"], "loss_clip": "1"}),
    "a metric twice": ("each once", {"metrics": ["accuracy", "accuracy"]}),
    "a loss without a clip": ("loss_clip above 0", {"metrics": ["loss"]}),
    "a clip without a loss": ("no other metric has one", {"metrics": ["accuracy"], "loss_clip": "1"}),
    "a clip beyond all losses": ("loss_clip must be from", {"metrics": ["loss"], "loss_clip": "100000000"}),
    "bins without a histogram": ("belong to metric histogram", {"metrics": ["accuracy"], "bins": ["0"]}),
    "bins that are not ordered": (
        "bins must be ascending", {"metrics": ["histogram"], "bins": ["1", "0.5"], "task": REGRESSION}
    ),
    "an edge twice": ("each edge once", {"metrics": ["histogram"], "bins": ["1", "1.0"], "task": REGRESSION}),
    "a histogram of numbers without bins": ("a number needs bins", {"metrics": ["histogram"], "task": REGRESSION}),
    "a histogram of labels with bins": ("have no bins", {"metrics": ["histogram"], "bins": ["0"]}),
    "a histogram of texts": ("neither one label nor a number", {"metrics": ["histogram"], "task": LANGUAGE}),
    "confusion of several labels": ("not one label for each row", {"metrics": ["confusion"], "task": MULTI_LABEL}),
    "accuracy of numbers": ("no right and wrong answers", {"metrics": ["accuracy"], "task": REGRESSION}),
    "confusion of too many labels": ("at most 64 labels", {
        "metrics": ["confusion"],
        "task": {**DOCUMENT["recipe"]["task"], "labels": [str(i) for i in range(65)]},
    }),
    "an optimizer": ("has no optimizer", {"optimizer": DOCUMENT["recipe"]["optimizer"]}),
    "a learning rate": ("trains nothing", {"training": {
        "learning_rate": "0.1", "head_learning_rate": "0", "stream_rates": [], "micro_batch": 16,
    }}),
    "two rounds": ("one round", {"rounds": 2}),
    "a stream that trains": ("nothing trains", {"turns": [
        {"trains": ["adapter"], "sums": [{"name": "count", "length": 1}, {"name": "accuracy", "length": 1}]},
    ]}),
    "a stream too many": ("sums the streams of its metrics", {"turns": [
        {"trains": [], "sums": [{"name": name, "length": 1} for name in ("count", "accuracy", "loss")]},
    ]}),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "change"), BAD.values(), ids=BAD.keys())
def test_a_plan_is_refused_with(rule: str, change: dict[str, Any]) -> None:
    document: Any = json.loads(measuring_plan().to_bytes())
    document["recipe"] = measuring_recipe(**change)
    with pytest.raises(PlanError, match=rule):
        Plan.from_bytes(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def test_without_a_measurement_an_optimizer_and_rates_are_needed() -> None:
    for change in ({"optimizer": {"name": "none"}}, {"training": {"learning_rate": "0"}}):
        with pytest.raises(PlanError, match="something trains"):
            make_plan(recipe=change)


WRONG: dict[str, tuple[str, str, dict[str, Any]]] = {
    "another bound than that of its metrics": ("E-PLAN-RULE", "the clip_norm of 2", {"privacy": {"clip_norm": "1"}}),
    "two local steps": ("E-PLAN-RULE", "distributed", {"privacy": {"local_steps": 2}}),
    "several bands": ("E-PLAN-RULE", "bands need rounds", {"privacy": {"bands": [2, 1], "sampling_rate": "0.5"}}),
    "a grid that is too coarse": ("E-PLAN-NOISE", "steps of the grid", {"privacy": {"sensitivity": 500}}),
    "a clamp that cuts counts": ("E-PLAN-RING", "a count may reach", {"encoding": {"clamp": 10_000}}),
    "an evaluator": ("E-PLAN-RULE", "no evaluators", {"evaluation": {"evaluators": [ZOE]}}),
}  # fmt: skip


@pytest.mark.parametrize(("code", "rule", "change"), WRONG.values(), ids=WRONG.keys())
def test_a_measurement_is_refused_with(code: str, rule: str, change: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=rule) as caught:
        changed(measuring_plan(), **change)
    assert caught.value.code == code


def test_a_noised_measurement_in_mode_local_sums_whole_numbers() -> None:
    with pytest.raises(PlanError, match="scale_exponent is 0"):
        changed(measuring_plan(mode="local"), encoding={"scale_exponent": 4})


def test_a_sum_beyond_what_reports_can_hold_is_refused() -> None:
    plan = measuring_plan(mode="none")
    with pytest.raises(PlanError, match="must fit its report"):
        changed(plan, encoding={"ring_bits": 64, "lane_bits": 0, "clamp": 2**52, "scale_exponent": 10})


def test_two_local_steps_are_refused_where_training_may_take_them() -> None:
    with pytest.raises(PlanError, match="one step"):
        changed(measuring_plan(mode="local"), privacy={"local_steps": 2})


def test_weights_by_size_are_refused() -> None:
    with pytest.raises(PlanError, match="equal weights"):
        changed(measuring_plan(mode="none"), weight_rule="units")


def test_the_coarsest_grid_and_the_smallest_clamp_are_just_allowed() -> None:
    plan = measuring_plan(mode="none")
    step, clamp = LEAST_GRID_STEP, UNITS * 1024
    assert changed(plan, encoding={"scale_exponent": 10, "clamp": clamp}).encoding.clamp == clamp
    with pytest.raises(PlanError, match="a count may reach"):
        changed(plan, encoding={"scale_exponent": 10, "clamp": clamp - 1})
    noised = measuring_plan()
    grids = ((most, noised.model_copy(update={"privacy": _with(noised, most)})) for most in range(1000, 3000))
    sensitivity = next(most for most, coarser in grids if step_of(coarser) == step)
    coarsest = changed(noised, privacy={"sensitivity": sensitivity})
    assert step_of(coarsest) == step


def _with(plan: Plan, sensitivity: int) -> Any:
    return plan.privacy.model_copy(update={"sensitivity": sensitivity})


def test_a_participants_whole_data_are_never_the_unit() -> None:
    document: Any = json.loads(make_plan(mode="distributed-participant")[0].to_bytes())
    document["recipe"] = measuring_recipe()
    document["privacy"] |= {"clip_norm": norm_bound([None] * 2), "local_steps": 1}
    with pytest.raises(PlanError, match="mode distributed, local or none"):
        Plan.from_bytes(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


# --- figures ---


def step_of(plan: Plan) -> int:
    return measured_step(plan.privacy, plan.encoding, plan.recipe.entries)


def by_name(found: tuple[Figure, ...]) -> dict[tuple[str, ...], Figure]:
    return {(figure.metric, *figure.of): figure for figure in found}


def test_without_noise_figures_are_exactly_those_of_the_rows() -> None:
    plan = measuring_plan(EVERYTHING, "none", loss_clip="5", n=5)
    total = np.zeros(plan.recipe.entries)
    total[0], total[1], total[2], total[102], total[112] = 200, 150, 120, 200, 40  # the last: a mean of 1/5 of the clip
    found = by_name(figures(plan, [int(entry * step_of(plan)) for entry in total], 5))
    accuracy, loss = found["accuracy",], found["loss",]
    assert accuracy.value == 0.75
    assert accuracy.noise_error == 0
    assert accuracy.units_error == math.sqrt(0.75 * 0.25 / 200)
    assert loss.value == 1.0
    assert loss.units_error == pytest.approx(5 * math.sqrt(0.2 * 0.8 / 200))
    assert found["confusion", "0", "0"].value == 120
    assert found["histogram", "0"].value == 200
    assert found["histogram", "9"].value == 0
    assert found["histogram", "9"].interval == (0, 0)


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_intervals_take_in_the_noise_of_everybody_in_the_sum(mode: MeasureMode) -> None:
    plan, survivors, truth = measuring_plan(("accuracy", "histogram"), mode), 4, [400, 300, *[40] * 10]
    random, hits, seen = np.random.default_rng(1), 0, []
    for _ in range(400):
        noise = np.rint(random.normal(scale=math.sqrt(survivors) * plan.privacy.sigma, size=plan.recipe.entries))
        found = figures(plan, [int(entry) for entry in np.array(truth) * step_of(plan) + noise], survivors)
        first = by_name(found)["histogram", "0"]
        assert first.interval is not None
        hits += first.interval[0] <= 40 <= first.interval[1]
        seen.append(by_name(found)["accuracy",])
    assert 0.91 <= hits / 400 <= 0.985
    spread = np.std([figure.value for figure in seen if figure.value is not None])
    assert spread == pytest.approx(np.mean([figure.noise_error for figure in seen]), rel=0.15)


def test_sampling_adds_its_error_and_scales_counts_up() -> None:
    whole, half = (measuring_plan(("histogram",), "none", sampling_rate=rate) for rate in ("1", "0.5"))
    counted = figures(half, [50 * step_of(half), *[0] * 9], 5)[0]
    assert counted.value == 100
    assert counted.noise_error == pytest.approx(10)  # root of 100 (1 - q) / q
    assert figures(whole, [50 * step_of(whole), *[0] * 9], 5)[0].noise_error == 0


def test_a_mean_of_too_few_units_for_the_noise_is_unknown() -> None:
    plan = measuring_plan(("accuracy",))
    found = by_name(figures(plan, [0, 0], 5))
    assert found["accuracy",].value is None
    assert found["accuracy",].interval is None
    assert found["accuracy",].to_json()["noise_error"] is None
    assert "unknown" in found["accuracy",].words
    json.dumps(found["accuracy",].to_json(), allow_nan=False)


def test_long_tables_are_cut_in_words_and_say_so() -> None:
    plan = measuring_plan(("confusion",), "none")
    total = [place * step_of(plan) for place in range(100)]
    words = list(figure_words(figures(plan, total, 5)))
    assert len(words) == 13
    assert words[-1] == "confusion: 88 smaller counts, in the exported file"
    assert "confusion of 9, answered 9: 99 +- 0 (95%)" in words


def test_ranges_cover_every_number() -> None:
    assert ranges(("-1", "0", "2.5")) == ("below -1", "-1 to below 0", "0 to below 2.5", "2.5 and above")
    plan = measuring_plan(("histogram",), "none", bins=("-1", "0", "2.5"), task=REGRESSION)
    assert [figure.of for figure in figures(plan, [0] * 4, 5)] == [(name,) for name in ranges(("-1", "0", "2.5"))]
    assert "in each of 4 ranges" in measurement_words(plan.recipe)[0]


def test_lengths_have_a_count_where_a_mean_is_asked_for_alone() -> None:
    task = make_plan()[0].recipe.task
    assert lengths(Measurement(metrics=("histogram",)), task) == (("histogram", 10),)
    assert lengths(Measurement(metrics=("loss",), loss_clip="1"), task) == (("count", 1), ("loss", 1))


# --- whole numbers ---


def test_counts_become_whole_numbers_exactly_and_no_row_exceeds_the_sensitivity() -> None:
    plan = measuring_plan(EVERYTHING, loss_clip="5")
    most, step = plan.privacy.sensitivity, step_of(plan)
    random, values = np.random.default_rng(2), np.zeros((64, plan.recipe.entries))
    for row in values:
        row[0] = 1
        row[[1 + int(random.integers(1)), 2 + int(random.integers(100)), 102 + int(random.integers(10))]] = 1
        row[112] = random.random()
    rows = integer_rows(values, step=step, sensitivity=most)
    assert (rows[:, :112] == values[:, :112] * step).all()
    assert (np.abs(rows[:, 112] - values[:, 112] * step) <= 0.5).all()
    assert (np.linalg.norm(rows.astype(float), axis=1) <= most).all()


def test_a_row_that_nobody_may_add_is_nothing() -> None:
    values = np.array([[np.nan, 1.0], [np.inf, 0.0], [1e9, 0.0], [1.0, 0.0]])
    assert integer_rows(values, step=1000, sensitivity=1500).tolist() == [[0, 0], [0, 0], [0, 0], [1000, 0]]
    beyond = integer_rows(np.array([[1.4, 1.4]]), step=1000, sensitivity=1500)  # each within, together not
    assert beyond.tolist() == [[0, 0]]


def test_no_count_is_clamped_and_the_sum_fits_the_ring() -> None:
    for mode in MODES:
        plan = measuring_plan(EVERYTHING, mode, loss_clip="5")
        assert plan.encoding.clamp >= UNITS * step_of(plan)
        assert largest_sum(plan) < 2 ** (plan.encoding.bits - 1)
