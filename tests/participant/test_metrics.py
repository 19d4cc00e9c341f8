"""Figures of merit against worked examples and other people's code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, r2_score

from participant.training import metrics
from participant.training.tasks.tallies import ClassTally, NumberTally, PairTally, SeveralTally
from participant.training.tasks.work import IGNORED
from privacy.evaluation import METRICS, Metric, are_sound

pytestmark = pytest.mark.torch


def test_macro_f1_is_scikit_learn_s_over_classes_that_are_there(tmp_path: object) -> None:
    random = np.random.default_rng(1)
    wanted, logits = random.integers(4, size=50), random.normal(size=(50, 6))
    tally = ClassTally(6)
    for some in np.array_split(np.arange(50), 3):
        tally.add(torch.from_numpy(logits[some]), torch.from_numpy(wanted[some]))
    found = dict(tally.metrics())
    guesses = logits.argmax(axis=1)
    assert found["f1"] == pytest.approx(f1_score(wanted, guesses, average="macro"))
    assert found["accuracy"] == np.mean(guesses == wanted)
    losses = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(wanted))
    assert found["loss"] == pytest.approx(float(losses), rel=1e-5)


def test_perplexity_is_of_tokens_and_exact_match_of_whole_answers() -> None:
    answers = torch.log(torch.tensor([[[0.5, 0.5], [0.75, 0.25]], [[0.9, 0.1], [0.2, 0.8]]]))
    labels = torch.tensor([[IGNORED, 0], [0, 0]])
    tally = ClassTally(0, perplexity=True, whole=True)
    tally.add(answers, labels)
    found = dict(tally.metrics())
    assert found["perplexity"] == pytest.approx((0.75 * 0.9 * 0.2) ** (-1 / 3), rel=1e-5)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["exact-match"] == 0.5


def test_several_labels_are_counted_one_by_one_and_all_together() -> None:
    answers = torch.tensor([[2.0, -1.0], [3.0, 3.0]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    tally = SeveralTally(2)
    tally.add(answers, labels)
    found = dict(tally.metrics())
    assert (found["accuracy"], found["exact-match"]) == (0.75, 0.5)
    assert found["f1"] == pytest.approx(0.5)  # 1 and 0


def test_numbers_and_pairs_are_compared_as_others_compare_them() -> None:
    random = np.random.default_rng(2)
    values = random.integers(5, size=40).astype(np.float32)
    guesses = values + random.normal(size=40).astype(np.float32)
    tally = NumberTally()
    tally.add(torch.from_numpy(guesses)[:, None], torch.from_numpy(values))
    found = dict(tally.metrics())
    assert found["r2"] == pytest.approx(r2_score(values, guesses), rel=1e-6)
    assert found["mean-absolute-error"] == pytest.approx(np.abs(guesses - values).mean(), rel=1e-6)
    assert metrics.spearman(guesses.astype(np.float64), values.astype(np.float64)) == pytest.approx(
        spearmanr(guesses, values).statistic
    )
    pairs = PairTally()
    pairs.add(torch.tensor([[[1.0, 0.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([1.0, 0.5]))
    assert dict(pairs.metrics())["spearman"] == pytest.approx(1.0)
    assert dict(pairs.metrics())["loss"] == pytest.approx(((1 - 0.5**0.5) ** 2 + 0.25) / 2)


@pytest.mark.parametrize(
    ("written", "expected", "score"),
    [
        ("the cat sat on the mat", "the cat sat on the mat", 1.0),
        ("police kill the gunman", "police killed the gunman", 0.75),  # of Lin 2004
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("", "police", 0.0),
        ("Äpfel, bitte!", "äpfel", 2 / 3),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(written: str, expected: str, score: float) -> None:
    assert metrics.rouge_l(written, expected) == pytest.approx(score)


def test_what_is_not_defined_is_no_figure() -> None:
    assert Metric.of("loss", math.nan) is None
    assert Metric.of("perplexity", metrics.perplexity(800.0)) is None
    assert math.isnan(metrics.spearman(np.ones(3), np.arange(3.0)))
    assert math.isnan(metrics.r_squared(np.ones(3), np.ones(3)))
    assert list(ClassTally(2).metrics()) == []


def test_figures_are_known_sorted_and_each_once() -> None:
    accuracy, loss = Metric("accuracy", "0.5"), Metric("loss", "1")
    assert are_sound((accuracy, loss))
    assert not are_sound((loss, accuracy))
    assert not are_sound((loss, loss))
    for bad in (Metric("accuracy", "1.1"), Metric("accuracy", "-0.1"), Metric("joy", "1"), Metric("loss", "1e3")):
        assert not are_sound((bad,))
    assert all(Metric.of(name, 0.5) is not None for name in METRICS)
    assert str(Metric.of("perplexity", 12.3456789)) == "perplexity 12.35"
    assert Metric.of("r2", -0.0) == Metric("r2", "0.000000")
