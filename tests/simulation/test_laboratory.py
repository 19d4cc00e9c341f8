"""Simulations: the same bits whatever way they are run, kept as they go, and refused before work starts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import onlysum
from participant.training.torch_trainer import Materials, TorchTrainer
from privacy.errors import LocalError, Phase, RoundAborted, VerificationError
from privacy.plan import Plan
from privacy.plan_parts import Mode
from simulation.cohort import Train
from simulation.laboratory import manifest, results
from simulation.laboratory.engines import InProcess, Kept
from simulation.laboratory.results import LABEL
from simulation.laboratory.study import Options, replay
from simulation.laboratory.sums import DirectSums, MaskedSums, Sum, Sums, run_round
from simulation.laboratory.training import SOURCE, AtHome, Update, Vector
from simulation.seeded import SeededSource
from tests.worlds.laboratory import Silent, figures, finished, first_cell, study_of, write_data, write_spec
from tests.worlds.plans import make_plan, names, verified

pytestmark = pytest.mark.torch

CASES: dict[str, dict[str, Phase]] = {  # who is lost in the first attempt
    "nobody": {},
    "one in every phase that the plan allows": {"p1": Phase.ADVERTISE_KEYS, "p2": Phase.UNMASK},
    "one before it deals": {"p3": Phase.SHARE_KEYS},
    "one before it uploads, and two before they sign": {
        "p0": Phase.COLLECT_MASKED, "p4": Phase.AGREE_SURVIVORS, "p5": Phase.AGREE_SURVIVORS,
    },
    "too many before the upload": {"p0": Phase.COLLECT_MASKED, "p1": Phase.SHARE_KEYS},
    "too many after they signed": dict.fromkeys([f"p{place}" for place in range(5)], Phase.UNMASK),
    "too many before they sign": dict.fromkeys([f"p{place}" for place in range(5)], Phase.AGREE_SURVIVORS),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("laboratory")
    write_data(
        directory,
        speaker=np.array([f"speaker {row % 4}" for row in range(60)]),
        person=np.array([f"person {row % 15}" for row in range(60)]),
    )
    return directory


# --- sums ---


def both(mode: Mode) -> tuple[Plan, dict[str, Sums], Train]:
    plan, keys = make_plan(n=9, f=1, mode=mode, entries=20)
    assert plan.min_survivors == 8
    clamp = min(plan.encoding.clamp, 2**30)
    random = np.random.default_rng(1)
    updates = {name: random.integers(-clamp, clamp, 20, endpoint=True) for name in keys}
    masked = MaskedSums(verified(plan), keys, 1, completed=0, transcript=b"")

    def train(some: Sequence[str]) -> list[NDArray[np.int64]]:
        return [updates[name] for name in some]

    return plan, {"masked": masked, "direct": DirectSums(plan)}, train


@pytest.mark.parametrize("mode", ["none", "distributed"])
@pytest.mark.parametrize("case", CASES)
def test_a_sum_computed_directly_is_in_the_ring_what_masks_leave(case: str, mode: Mode) -> None:
    """The same words, survivors and attempts, or the same end, also after a retry and a voided round."""
    plan, sums, train = both(mode)
    everybody = names(9)
    first = {everybody[int(name[1:])]: phase for name, phase in CASES[case].items()}

    def losses(of: Mapping[int, Mapping[str, Phase]], attempt: int) -> Mapping[str, Phase]:
        return of.get(attempt, {})

    def outcome(of: Sums) -> list[object]:
        found: list[object] = []
        for number in (1, 2):
            lost: dict[int, Mapping[str, Phase]] = {1: first if number == 1 else {}}
            try:
                total = run_round(of, plan, number, b"adapter", train, partial(losses, lost), after_void=False)
            except RoundAborted as aborted:
                return [*found, aborted.code]
            found.append(None if total is None else (total.words.tobytes(), total.survivors, total.attempts))
        return found

    masked, direct = outcome(sums["masked"]), outcome(sums["direct"])
    assert masked == direct
    if case == "nobody":
        expected = sum(train(everybody)) % 2**plan.encoding.ring_bits
        assert isinstance(masked[0], tuple)
        assert masked[0][0] == expected.astype(plan.layout(1).ring.dtype).tobytes()


def test_a_sum_beyond_what_updates_can_sum_to_is_refused_without_masks_too() -> None:
    plan, sums, _ = both("none")
    far = np.full(20, plan.encoding.clamp * 2 + 9, dtype=np.int64)
    with pytest.raises(RoundAborted) as aborted:
        sums["direct"].attempt(1, 1, b"adapter", lambda some: [far for _ in some], {})
    assert aborted.value.code == "E-ROUND-SUM"


# --- training ---


@pytest.mark.parametrize(
    ("mode", "method"), [("distributed", "ffa-lora"), ("local", "ffa-lora"), ("distributed", "bottleneck")]
)
def test_a_simulated_participant_contributes_what_a_daemons_trainer_would(
    data: Path, tmp_path: Path, mode: str, method: str
) -> None:
    """Its rows in a file of its own, a base and a self-check of its own, the same coins: the same integers."""
    cell, setup = first_cell(write_spec(data, mode=mode, method=method), tmp_path)
    name = "participant-0003"
    rows = np.load(data / "rows.npz")
    part = setup.work.parts[name]
    np.savez(tmp_path / "own.npz", image=rows["image"][part], label=rows["label"][part])
    materials = Materials(
        plan=setup.plan,
        me=name,
        model=data / "base",
        dataset=tmp_path / "own.npz",
        columns=setup.work.columns(setup.plan),
        initial_adapter=setup.draft / "initial_adapter.safetensors",
    )
    alone = TorchTrainer(materials, SeededSource(f"{SOURCE} {cell.seed} {name} round 2"))
    alone.prepare()
    training = setup.work.load(tmp_path)
    adapter = np.random.default_rng(0).normal(size=setup.plan.recipe.state_entries).astype(np.float32) * 0.1
    others = training.update("participant-0001", 2, adapter).entries
    found = training.update(name, 2, adapter).entries
    assert np.array_equal(found, alone.train(2, adapter, lambda done, total: None))
    assert not np.array_equal(found, others)


def test_what_stays_at_home_is_that_of_the_last_round_that_summed_it(data: Path, tmp_path: Path) -> None:
    """SCAFFOLD's variates: kept for survivors alone, over an interruption too, and without them nothing is the same."""
    spec = write_spec(data, "[simulation.dropouts]\ncollect_masked = 0.1", mode="none", method="scaffold")
    cell, setup = first_cell(spec, tmp_path)
    whole = finished(cell, setup, tmp_path / "whole", "skipped")
    Interrupted.left = 8
    parts = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        finished(cell, setup, parts, "skipped", Interrupted)
    assert (parts / "kept-1.safetensors").exists()
    assert finished(cell, setup, parts, "skipped").progress.trace == whole.progress.trace
    (parts / "kept-3.safetensors").unlink()
    training = setup.work.load(tmp_path)
    start = np.zeros(setup.plan.recipe.state_entries, dtype=np.float32)
    first = training.update("participant-0001", 1, start)
    assert first.kept is not None
    assert first.kept.any()
    again = training.update("participant-0001", 1, start, AtHome(first.kept))
    assert not np.array_equal(again.entries, first.entries)


def test_sums_that_later_rounds_mask_again_are_the_survivors_with_masks_and_without_and_over_an_interruption(
    data: Path, tmp_path: Path
) -> None:
    spec = write_spec(data, "[simulation.dropouts]\ncollect_masked = 0.1", bands=2)
    cell, setup = first_cell(spec, tmp_path)
    whole = finished(cell, setup, tmp_path / "whole", "real")
    Interrupted.left = 8
    parts = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        finished(cell, setup, parts, "skipped", Interrupted)
    assert (parts / "summed-1.safetensors").exists()
    found = finished(cell, setup, parts, "skipped")
    assert found.progress.trace == whole.progress.trace
    survivors = found.progress.survived
    assert survivors < 18, "somebody was lost"
    (parts / "summed-3.safetensors").unlink()


# --- a simulation in its directory ---


class Interrupted(InProcess):
    """Stops after so many updates, as Ctrl-C would."""

    left = 0  # of 18 updates; with 8 it is in the second round

    def updates(self, number: int, adapter: Vector, names: Sequence[str], kept: Kept):  # type: ignore[no-untyped-def]
        for update in super().updates(number, adapter, names, kept):
            if self.left == 0:
                raise KeyboardInterrupt
            type(self).left -= 1
            yield update


def test_an_interrupted_simulation_goes_on_where_it_was_and_ends_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    spec = write_spec(data, "[simulation.dropouts]\nunmask = 0.1\ncollect_masked = 0.05")
    whole = study_of(spec, tmp_path / "whole", masks="real").run()
    Interrupted.left = 8
    study = study_of(spec, tmp_path / "parts", masks="real", prepare=Interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.run()
    again = study_of(spec, tmp_path / "parts", masks="real")
    rows = again.run()
    assert [figures(row) for row in rows] == [figures(row) for row in whole]
    assert isinstance(again.screen, Silent)
    assert again.screen.begun == 6  # the first round is not trained again
    assert manifest.Manifest.read(tmp_path / "parts" / manifest.FILE).cells == (
        manifest.Manifest.read(tmp_path / "whole" / manifest.FILE).cells
    )


def test_results_have_every_hyper_parameter_and_what_was_measured_and_say_that_they_are_simulated(
    data: Path, tmp_path: Path
) -> None:
    spec = write_spec(data, "[simulation.sweep]\nprivacy.epsilon = [2, 8.5]")
    study_of(spec, tmp_path).run()
    rows = results.read(tmp_path / "results.parquet")
    assert [(row["privacy.epsilon"], row["seed"], row["round"]) for row in results.final(rows)] == [
        (2.0, 1, 3), (8.5, 1, 3),
    ]  # fmt: skip
    assert len(rows) == 2 * 4  # the start and each of three rounds
    for row in results.final(rows):
        assert row["label"] == LABEL
        assert 0.9 * row["privacy.epsilon"] < row["epsilon"] <= row["privacy.epsilon"]
        assert row["optimizer.momentum"] == 0.0
        assert row["adapter.target_modules"] == '["q_proj", "v_proj"]'
        assert row["simulation.partition.kind"] == "iid"
        vectors, rest = divmod(row["bytes_up"], 3 * 6)
        assert (vectors > row["round"], rest, row["bytes_down"]) == (True, 0, row["bytes_up"])
        assert row["training_seconds"] > 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / "curves.svg").read_text()
    assert LABEL in drawn
    assert "privacy.epsilon" in drawn


def test_a_replay_is_equal_to_the_bit_and_names_the_first_round_that_is_not(data: Path, tmp_path: Path) -> None:
    study_of(write_spec(data), tmp_path / "out", masks="real").run()
    made, screen = tmp_path / "out" / manifest.FILE, Silent()
    options = Options(masks="skipped", prepare=InProcess)
    assert replay(made, tmp_path / "again", options, screen) == 1
    assert not [note for note in screen.notes if "warning" in note]
    changed = json.loads(made.read_text())
    cell = next(iter(changed["cells"].values()))
    cell["trace"][1] = "0" * 64
    changed["code"] = "0" * 64
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    with pytest.raises(VerificationError) as differs:
        replay(tmp_path / "changed.json", tmp_path / "third", options, screen)
    assert differs.value.code == "E-SIMULATION-DIFFERS"
    assert "round 2" in differs.value.detail
    assert any("the code of onlysum" in note for note in screen.notes)


@pytest.mark.slow
def test_rounds_over_the_wire_release_the_same_bits_as_rounds_in_memory(data: Path, tmp_path: Path) -> None:
    """Real daemons on loopback: gRPC, mutual TLS, journals, ledgers, a database."""
    spec = write_spec(data)
    memory = study_of(spec, tmp_path / "memory").run()
    wire = study_of(spec, tmp_path / "wire", masks="real", wire=True).run()
    assert [row["adapter"] for row in wire] == [row["adapter"] for row in memory]
    cells = [manifest.Manifest.read(tmp_path / out / manifest.FILE).cells for out in ("memory", "wire")]
    assert cells[0] == cells[1]
    lossy = write_spec(data, "[simulation.dropouts]\nunmask = 0.1")
    with pytest.raises(LocalError) as refused:
        study_of(lossy, tmp_path / "lossy", masks="real", wire=True).run()
    assert refused.value.code == "E-USAGE"


def test_a_directory_of_another_simulation_is_refused_and_stays_as_it_is(data: Path, tmp_path: Path) -> None:
    spec = write_spec(data)
    study_of(spec, tmp_path / "out").run()
    kept = (tmp_path / "out" / "results.parquet").read_bytes()
    other = data / "other.toml"
    other.write_text(spec.read_text().replace("rounds = 3", "rounds = 2"))
    for refused in (study_of(other, tmp_path / "out"), study_of(spec, tmp_path / "out", method="head")):
        with pytest.raises(LocalError) as error:
            refused.run()
        assert (error.value.code, "the SPEC" in error.value.detail) == ("E-SIMULATION-OTHER", True)
    assert (tmp_path / "out" / "results.parquet").read_bytes() == kept
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(LocalError) as error:
        study_of(spec, tmp_path / "full").run()
    assert error.value.code == "E-EXISTS"


def test_a_partition_that_leaves_somebody_without_data_is_refused_before_a_round(data: Path, tmp_path: Path) -> None:
    spec = write_spec(data, '[simulation.partition]\nkind = "column"\ncolumn = "speaker"')
    with pytest.raises(LocalError) as refused:
        study_of(spec, tmp_path).run()
    assert refused.value.code == "E-SIMULATION-PARTITION"
    assert not (tmp_path / "cells").exists()


def test_of_users_each_participant_announces_its_own_number(data: Path, tmp_path: Path) -> None:
    privacy = 'unit = "user"\nmax_rows_per_user = 2\n'
    spec = write_spec(data, 'user_column = "person"')
    spec.write_text(spec.read_text().replace("[privacy]\n", f"[privacy]\n{privacy}"))
    _, setup = first_cell(spec, tmp_path)
    persons = np.load(data / "rows.npz")["person"]
    users = {name: len(set(persons[rows])) for name, rows in setup.work.parts.items()}
    assert {member.id: member.units for member in setup.plan.roster} == users
    assert min(users.values()) < 10
    training = setup.work.load(tmp_path)
    start = np.zeros(setup.plan.recipe.state_entries, dtype=np.float32)
    assert training.update("participant-0001", 1, start).entries.any()
    assert "person" not in np.load(data / "held-out.npz")
    assert setup.evaluator().measure(start).examples == 24


def test_a_run_that_loses_too_many_ends_as_it_would_at_a_coordinator(data: Path, tmp_path: Path) -> None:
    cell, setup = first_cell(write_spec(data, "[simulation.dropouts]\nshare_keys = 0.9"), tmp_path)
    trial = finished(cell, setup, tmp_path, "skipped")
    assert trial.progress.ended.startswith("E-ROUND-TOO-FEW")
    assert trial.over
    assert trial.progress.measured[-1]["round"] == 0


def test_the_command_says_what_it_is_and_what_came_out(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = str(write_spec(data))
    assert onlysum.run(["simulate", "start", spec, "--masks", "skipped", "--method", "head", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["label"] == LABEL
    assert told["out"] == "simulations/spec"
    assert told["runs"][0]["round"] == 3
    assert onlysum.run(["simulate", "sweep", spec]) == 2
    assert "simulate start" in capsys.readouterr().err
    assert onlysum.run(["simulate", "replay", "simulations/spec/manifest.json"]) == 0
    assert "equal to the bit: 1 run" in capsys.readouterr().out
    assert onlysum.run(["simulate", "replay", "simulations/none.json"]) == 2
    monkeypatch.setitem(sys.modules, "ray", None)
    assert onlysum.run(["simulate", "start", spec, "--engine", "ray", "--out", "ray"]) == 2
    assert "E-EXTRA-MISSING" in capsys.readouterr().err
    assert not Path("ray").exists()
    assert onlysum.run(["simulate", "start", spec, "--wire", "--masks", "skipped"]) == 2


__all__ = ["Sum", "Update"]
