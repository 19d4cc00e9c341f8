"""A SPEC: what it may say, what it is taken apart into, and what is refused before work starts."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from privacy.errors import LocalError, Phase
from simulation.laboratory import bar
from simulation.laboratory.absences import absences
from simulation.laboratory.partition import partition
from simulation.laboratory.spec import PartitionSection, Spec, written
from tests.worlds.laboratory import spec_text

NAMES = [f"p{place}" for place in range(8)]
LABELS = [str(row % 4) for row in range(400)]

REFUSED = {
    "an unknown key of a sweep, with the nearest one": (
        '[simulation.sweep]\n"privacy.epsilom" = [1]', "E-CONFIG-UNKNOWN-KEY", "did you mean privacy.epsilon?",
    ),
    "a swept value that plan build refuses": (
        '[simulation.sweep]\n"privacy.epsilon" = [1, 0]', "E-CONFIG-INVALID", "with privacy.epsilon = 0",
    ),
    "a sweep over no list": (
        '[simulation.sweep]\n"privacy.epsilon" = 1', "E-CONFIG-INVALID", "takes a list",
    ),
    "a sweep over the seeds, which are there without it": (
        '[simulation.sweep]\n"simulation.seeds" = [[1], [2]]', "E-CONFIG-UNKNOWN-KEY", "simulation.seeds",
    ),
    "a sweep over the data, which are there once": (
        '[simulation.sweep]\n"simulation.rows" = ["a.npz"]', "E-CONFIG-UNKNOWN-KEY", "simulation.rows",
    ),
    "a partition without its number": (
        '[simulation.partition]\nkind = "dirichlet"', "E-CONFIG-INVALID", "alpha belongs to the kind dirichlet",
    ),
    "a chance of one": (
        "[simulation.dropouts]\nunmask = 1", "E-CONFIG-INVALID", "from 0 to below 1",
    ),
    "an unknown phase": (
        "[simulation.dropouts]\nunmsk = 0.1", "E-CONFIG-UNKNOWN-KEY", "did you mean unmask?",
    ),
    "a seed named twice": ("seeds = [1, 1]", "E-CONFIG-INVALID", "twice"),
    "a world beside files": ('world = "digits"', "E-CONFIG-INVALID", "either world, or both"),
}  # fmt: skip


def read(simulation: str = "") -> Spec:
    return Spec.parse(spec_text(simulation), name="spec.toml", directory=Path())


@pytest.mark.parametrize(
    "example", sorted((Path(__file__).parents[2] / "examples").glob("*.toml")), ids=lambda path: path.name
)
def test_every_example_is_a_spec(example: Path) -> None:
    cells = list(Spec.read(example).cells())
    assert cells
    assert {cell.document["base"]["name"] for cell in cells} == {"digits-vit"}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_does_not_go_together_is_refused_before_work_starts(sentence: str) -> None:
    simulation, code, words = REFUSED[sentence]
    with pytest.raises(LocalError) as refused:
        read(simulation)
    assert refused.value.code == code
    assert words in refused.value.detail


def test_a_sweep_is_every_combination_with_every_seed() -> None:
    spec = read('seeds = [3, 4]\n[simulation.sweep]\nprivacy.epsilon = [1, 2.5]\nmethod = ["ffa-lora", "head"]')
    cells = list(spec.cells())
    assert [(*cell.point.values(), cell.seed) for cell in cells] == [
        (epsilon, method, seed) for epsilon in (1, 2.5) for method in ("ffa-lora", "head") for seed in (3, 4)
    ]
    assert len({cell.id for cell in cells}) == 8
    assert cells[-1].recipe["privacy"]["epsilon"] == 2.5
    assert cells[-1].recipe["method"] == "head"


def test_a_method_that_is_chosen_takes_the_options_that_it_has() -> None:
    spec = read('[simulation.sweep]\nmethod = ["head", "fedit"]')
    head, fedit = (cell.recipe["adapter"] for cell in spec.cells())
    assert head.keys() == {"head_modules", "seed"}
    assert fedit == spec.document["adapter"]
    assert read().with_method("head").document["adapter"] == head
    with pytest.raises(LocalError) as unknown:
        read().with_method("hed")
    assert (unknown.value.code, unknown.value.detail) == ("E-METHOD-UNKNOWN", "hed; did you mean head?")


def test_what_is_written_reads_as_it_was() -> None:
    document = {"a": 'x "y"\n', "b": [1, 2.5, True], "c": 1e-05, "t": {"key with space": "é", "deep": {"k": []}}}
    assert tomllib.loads(written(document)) == document


def test_a_cell_has_the_same_name_as_long_as_nothing_of_it_changes() -> None:
    assert next(read().cells()).id == next(read().cells()).id
    assert next(read().cells()).id != next(read("seeds = [2]").cells()).id


# --- who gets which rows ---


def parts_of(how: PartitionSection, values: list[str] = LABELS, seed: int = 1) -> list[list[int]]:
    return [list(part) for part in partition(how, values, participants=8, seed=seed, names=NAMES)]


@pytest.mark.parametrize(
    "how",
    [
        PartitionSection(),
        PartitionSection(kind="dirichlet", alpha="0.5"),
        PartitionSection(kind="size", skew="1"),
    ],
    ids=lambda how: str(how.kind),
)
def test_each_row_belongs_to_one_participant_and_the_seed_decides(how: PartitionSection) -> None:
    parts = parts_of(how)
    assert sorted(row for part in parts for row in part) == list(range(400))
    assert parts == parts_of(how)
    assert parts != parts_of(how, seed=2)


def test_a_small_alpha_parts_the_labels_and_a_large_one_mixes_them() -> None:
    def largest_share(alpha: str) -> float:
        labels = [str(row % 20) for row in range(2000)]
        parts = parts_of(PartitionSection(kind="dirichlet", alpha=alpha), labels)
        return float(np.mean([max(Counter(labels[row] for row in part).values()) / len(part) for part in parts]))

    assert largest_share("0.1") > 0.25
    assert largest_share("1000") < 0.08


def test_rows_with_one_value_stay_together_and_sizes_are_even() -> None:
    speakers = [f"speaker {row % 16}" for row in range(160)]
    parts = parts_of(PartitionSection(kind="column", column="speaker"), speakers)
    owners = {speakers[row]: place for place, part in enumerate(parts) for row in part}
    assert all(owners[speakers[row]] == place for place, part in enumerate(parts) for row in part)
    assert [len(part) for part in parts] == [20] * 8


def test_sizes_fall_as_the_skew_says() -> None:
    assert [len(part) for part in parts_of(PartitionSection(kind="size", skew="1"))] == pytest.approx(
        [400 / (place * sum(1 / i for i in range(1, 9))) for place in range(1, 9)], abs=1
    )


@pytest.mark.parametrize(
    ("how", "values"),
    [
        (PartitionSection(kind="column", column="speaker"), ["one", "two"] * 50),
        (PartitionSection(kind="size", skew="9"), LABELS),
        (PartitionSection(), LABELS[:5]),
    ],
    ids=["fewer speakers than participants", "a steep skew", "fewer rows than participants"],
)
def test_a_partition_that_leaves_somebody_without_data_is_refused_by_name(
    how: PartitionSection, values: list[str]
) -> None:
    with pytest.raises(LocalError) as refused:
        parts_of(how, values)
    assert refused.value.code == "E-SIMULATION-PARTITION"
    assert "without data: p" in refused.value.detail


# --- who is lost ---


def test_losses_follow_the_rates_and_each_attempt_tosses_its_own_coins() -> None:
    names = [f"p{place}" for place in range(4000)]
    rates = {Phase.SHARE_KEYS: 0.1, Phase.UNMASK: 0.5}
    lost = absences(rates, names, seed=1, number=2, attempt=1)
    counted = Counter(lost.values())
    assert counted[Phase.SHARE_KEYS] == pytest.approx(400, abs=60)
    assert counted[Phase.UNMASK] == pytest.approx(0.5 * 3600, abs=100)
    assert lost == absences(rates, names, seed=1, number=2, attempt=1)
    assert lost != absences(rates, names, seed=1, number=2, attempt=2)
    assert not absences({Phase.UNMASK: 0.0}, names, seed=1, number=1, attempt=1)


# --- what is told meanwhile ---


def test_without_a_terminal_a_line_now_and_then_says_how_long_the_rest_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    clock = iter([0.0, *(10.0 * step for step in range(1, 9))])
    monkeypatch.setattr(bar, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    shown = bar.Bar()
    shown.begin(next(read().cells()), updates=18, done=6)
    for _ in range(8):
        shown.trained(1)
    assert capsys.readouterr().err.splitlines() == [
        "9 of 18 updates, about 90 s left",
        "12 of 18 updates, about 60 s left",
    ]
