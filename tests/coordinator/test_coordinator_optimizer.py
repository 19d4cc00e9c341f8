"""The coordinator's optimizers against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from methods.optimizer import OptimizerState, learning_rates, step, step_by_blocks
from privacy.draft import Optimizer, Recipe
from tests.worlds.plans import make_plan

ONES = np.ones(4)


def recipe(**optimizer: str) -> Recipe:
    """Four entries, the last of them the head."""
    plan, _ = make_plan(n=3, entries=4)
    return plan.recipe.model_copy(update={"optimizer": Optimizer(**optimizer)})  # type: ignore[arg-type]  # by field


def start(value: float = 0.0) -> OptimizerState:
    return OptimizerState.start(np.full(4, value, dtype=np.float32))


def test_mean_moves_by_the_mean_and_each_stream_by_its_own_rate() -> None:
    given = recipe(name="mean", learning_rate="0.5", head_learning_rate="2")
    assert learning_rates(given, given.turn(1)).tolist() == [0.5, 0.5, 0.5, 2.0]
    after = step(given, start(1.0), np.array([1.0, 2.0, -2.0, 3.0]))
    assert after.iterate.tolist() == [1.5, 2.0, 0.0, 7.0]
    assert after.round == 1


def test_momentum_accumulates() -> None:
    given = recipe(name="sgd", momentum="0.5")
    first = step(given, start(), ONES)
    second = step(given, first, ONES)
    third = step(given, second, ONES)
    assert [float(one.iterate[0]) for one in (first, second, third)] == [1.0, 2.5, 4.25]  # 1, +1.5, +1.75


def test_adam_follows_the_published_algorithm() -> None:
    given = recipe(name="adam", momentum="0.9", second_momentum="0.99", epsilon="0.001")
    after = step(given, start(), 2 * ONES)
    first, second = 0.1 * 2, 0.99 * 0.001**2 + 0.01 * 4
    assert after.iterate[0] == pytest.approx(first / (second**0.5 + 0.001), rel=1e-6)
    again = step(given, after, ONES)
    first, second = 0.9 * first + 0.1, 0.99 * second + 0.01
    assert again.iterate[0] - after.iterate[0] == pytest.approx(first / (second**0.5 + 0.001), rel=1e-5)


def test_yogi_moves_its_second_moment_by_the_sign_of_the_difference() -> None:
    given = recipe(name="yogi", momentum="0", second_momentum="0.9", epsilon="0.1")
    after = step(given, start(), ONES)
    second = 0.01 + 0.1  # v < d^2: grows by (1 - b2) d^2
    assert after.second[0] == pytest.approx(second)
    assert after.iterate[0] == pytest.approx(1 / (second**0.5 + 0.1), rel=1e-6)
    later = step(given, after, 0.1 * ONES)
    assert later.second[0] == pytest.approx(second - 0.1 * 0.01)


def test_the_average_of_iterates_weighs_as_the_plan_says_and_does_not_touch_the_iterate() -> None:
    given, plain = recipe(name="mean", average="0.8"), recipe(name="mean")
    state, raw, average = start(), start(), 0.0
    for number in range(30):
        state, raw = step(given, state, ONES), step(plain, raw, ONES)
        weight = min(0.8, (number + 1) / (number + 10))
        average = weight * average + (1 - weight) * (number + 1)
        assert state.average[0] == pytest.approx(average, rel=1e-5)
        assert state.iterate.tolist() == raw.iterate.tolist()
    assert raw.average is not raw.iterate
    assert raw.average.tolist() == raw.iterate.tolist()


@pytest.mark.parametrize("name", ["mean", "sgd", "adam", "yogi"])
def test_a_step_is_deterministic_and_leaves_its_input_alone(name: str) -> None:
    given = recipe(name=name, momentum="0.9", second_momentum="0.99", average="0.5")
    before = step(given, start(), np.arange(4.0))
    kept = [vector.copy() for vector in (before.iterate, before.average, before.momentum, before.second)]
    one, other = step(given, before, ONES), step(given, before, ONES)
    for field in ("iterate", "average", "momentum", "second"):
        assert getattr(one, field).tobytes() == getattr(other, field).tobytes()
    assert [vector.tobytes() for vector in kept] == [
        vector.tobytes() for vector in (before.iterate, before.average, before.momentum, before.second)
    ]


TORCH_SEED = 3


@pytest.mark.torch
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_sgd_with_momentum_is_torch_s(beta: float) -> None:
    import torch

    given = recipe(name="sgd", momentum=str(beta), learning_rate="0.15", head_learning_rate="0.6")
    vector = torch.zeros(4, dtype=torch.float64)
    parts = [torch.nn.Parameter(one) for one in (vector[:3], vector[3:])]
    theirs = torch.optim.SGD([{"params": [parts[0]], "lr": 0.15}, {"params": [parts[1]], "lr": 0.6}], momentum=beta)
    state, random = start(), np.random.default_rng(TORCH_SEED)
    for _ in range(20):
        gradient = random.normal(size=4)
        state = step(given, state, -gradient)
        for part, own in zip(parts, (gradient[:3], gradient[3:]), strict=True):
            part.grad = torch.from_numpy(own.copy())
        theirs.step()
        np.testing.assert_allclose(state.iterate, np.concatenate([one.detach() for one in parts]), rtol=1e-5, atol=1e-6)


@pytest.mark.torch
def test_adam_is_torch_s_without_the_correction_of_bias_from_the_published_start() -> None:
    """FedAdam begins at v = tau^2 and corrects nothing; torch's rate and epsilon are chosen to undo its correction."""
    import torch

    beta1, beta2, tau, rate = 0.9, 0.99, 0.01, 0.3
    given = recipe(
        name="adam", momentum=str(beta1), second_momentum=str(beta2), epsilon=str(tau),
        learning_rate=str(rate), head_learning_rate=str(rate),
    )  # fmt: skip
    vector = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    theirs = torch.optim.Adam([vector], betas=(beta1, beta2))
    theirs.state[vector] = {
        "step": torch.tensor(0.0),
        "exp_avg": torch.zeros(4, dtype=torch.float64),
        "exp_avg_sq": torch.full((4,), tau**2, dtype=torch.float64),
    }
    state, random = start(), np.random.default_rng(TORCH_SEED)
    for number in range(1, 31):
        gradient = random.normal(size=4)
        state = step(given, state, -gradient)
        corrected = (1 - beta2**number) ** 0.5
        theirs.param_groups[0].update(lr=rate * (1 - beta1**number) / corrected, eps=tau / corrected)
        vector.grad = torch.from_numpy(gradient)
        theirs.step()
        np.testing.assert_allclose(state.iterate, vector.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("average", ["0", "0.9"])
@pytest.mark.parametrize("name", ["mean", "sgd", "adam", "yogi"])
def test_a_step_by_blocks_is_the_step_bit_for_bit_also_of_what_does_not_train(name: str, average: str) -> None:
    """Three streams of which the outer two train in odd rounds and the middle one in even ones."""
    streams = (("first", 70_000), ("middle", 11), ("head", 9))
    turns = [["first", "head"], ["middle"]]
    plan, _ = make_plan(
        recipe={
            "adapter": {
                "tensors": [{"key": key, "shape": [size], "stream": key, "part": "adapter"} for key, size in streams]
            },
            "state": [{"name": key, "length": size, "role": "shared"} for key, size in streams],
            "turns": [
                {"trains": turn, "sums": [{"name": key, "length": size} for key, size in streams if key in turn]}
                for turn in turns
            ],
            "schedule": {"opening": [], "cycle": [0, 1]},
            "optimizer": {"name": name, "momentum": "0.9", "second_momentum": "0.99", "average": average},
        }
    )
    source = np.random.default_rng(1)
    whole = by_blocks = OptimizerState.start(source.normal(size=70_020).astype(np.float32))
    for number in range(1, 5):
        layout = plan.layout(number)
        direction = source.normal(size=layout.entries)
        places = layout.blocks(np.zeros(layout.words, dtype=layout.ring.dtype))
        blocks = ((start, direction[start : start + part.size]) for start, part in places)
        whole = step(plan.recipe, whole, direction)
        by_blocks = step_by_blocks(plan.recipe, by_blocks, blocks)
        for part in ("iterate", "average", "momentum", "second"):
            ours, theirs = getattr(by_blocks, part), getattr(whole, part)
            assert ours.dtype == theirs.dtype == np.float32
            assert np.array_equal(ours, theirs), part


def test_blocks_that_leave_something_out_are_a_bug() -> None:
    plan, _ = make_plan()
    with pytest.raises(ValueError, match="does not follow"):
        step_by_blocks(plan.recipe, OptimizerState.start(np.zeros(12, dtype=np.float32)), [(1, np.zeros(11))])
