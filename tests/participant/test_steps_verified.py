"""Each participant steps from the sums itself: a coordinator that offers any other adapter is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import methods
from methods.global_adapter import iterate_bytes, state_from_bytes
from participant.home import adapter_file, certificate_file, taken_file
from participant.link.delivery import Sender
from participant.training.trainer import Progress
from privacy.errors import LocalError, OnlysumError, PeerError
from privacy.plan import largest_sum
from privacy.plan_parts import Mode
from privacy.secagg.hashes import adapter_hash, sum_hash
from privacy.secagg.messages import Position
from protos import codec
from protos.envelope import Abstained, AttemptOpened, ContentRef, NumberedTask, RoundCompleted
from tests.worlds.expect import expect
from tests.worlds.owner import content, give
from tests.worlds.rehearsal import ME, Rehearsal, exact

MODES: list[Mode] = ["none", "distributed"]


@pytest.fixture
def rehearsal(tmp_path: Path) -> Rehearsal:
    made = Rehearsal(tmp_path / ME)
    made.propose()
    return made


def run_directory(rehearsal: Rehearsal) -> Path:
    return rehearsal.me.home.runs / rehearsal.plan.run_id


def downloads(rehearsal: Rehearsal) -> list[str]:
    """Let the link note what the daemon asks of it from now on."""
    asked: list[str] = []
    rehearsal.me.link.before = asked.append
    return asked


def offered(rehearsal: Rehearsal, number: int, attempt: int = 1) -> AttemptOpened:
    """Open an attempt; return the honest task."""
    rehearsal.open(number, attempt)
    return expect(AttemptOpened, rehearsal.task())


def refusal(rehearsal: Rehearsal, task: AttemptOpened) -> OnlysumError:
    """Hand a task over; return its refusal after checking that nothing was advertised."""
    before = rehearsal.part.highest
    with pytest.raises(OnlysumError) as refused:
        rehearsal.part.handle(task)
    assert rehearsal.me.link.take() == []
    assert rehearsal.part.highest == before
    return refused.value


def blames_the_coordinator(error: OnlysumError, code: str, words: str) -> None:
    assert isinstance(error, PeerError)
    assert (error.code, error.participant, error.phase) == (code, "coordinator", "ADVERTISE_KEYS")
    assert words in error.rule


def starts(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Let the daemon's trainer note each adapter that it starts from."""
    rehearsal.part.prepare()
    trainer = rehearsal.part._training._trainer
    assert trainer is not None
    seen: list[bytes] = []
    train = trainer.train

    def noting(number: int, adapter: NDArray[np.float32], progress: Progress) -> NDArray[np.int64]:
        seen.append(bytes(iterate_bytes(adapter)))
        return train(number, adapter, progress)

    monkeypatch.setattr(trainer, "train", noting)
    return seen


@pytest.mark.parametrize("mode", MODES)
def test_each_round_starts_from_what_the_sums_before_it_lead_to(
    mode: Mode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal = Rehearsal(tmp_path / ME, mode=mode)
    rehearsal.propose()
    seen = starts(rehearsal, monkeypatch)
    expected = []
    for number in (1, 2, 3):
        expected.append(rehearsal.adapter)
        assert ME in exact(rehearsal, rehearsal.round(number))
    assert seen == expected
    assert len(set(seen)) == 3, "each round moves the adapter"


def test_the_first_round_downloads_nothing_and_a_later_one_the_sum_alone(rehearsal: Rehearsal) -> None:
    asked = downloads(rehearsal)
    rehearsal.round(1)
    assert [what for what in asked if "download" in what] == []
    rehearsal.round(2)
    assert len([what for what in asked if "download" in what]) == 1


def test_a_sum_is_downloaded_for_the_attempt_that_needs_it_and_no_longer(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted_by: list[tuple[str, Position] | None] = []
    download = Sender.download

    def noting(sender: Sender, ref: ContentRef, *, of: tuple[str, Position] | None = None) -> bytes:
        wanted_by.append(of)
        return download(sender, ref, of=of)

    monkeypatch.setattr(Sender, "download", noting)
    rehearsal.round(1)
    rehearsal.round(2)
    assert wanted_by == [(rehearsal.plan.run_id, Position(rehearsal.world.plan.hash, 2, 1))]


# --- a coordinator that lies ---


@pytest.mark.parametrize("mode", MODES)
def test_malicious_second_start_from_the_adapter_of_the_round_before_is_refused(mode: Mode, tmp_path: Path) -> None:
    """Two sums from one start, of which one lacks a participant, would differ by its update."""
    rehearsal = Rehearsal(tmp_path / ME, mode=mode)
    rehearsal.propose()
    start = adapter_hash(rehearsal.adapter)
    rehearsal.round(1)
    task = offered(rehearsal, 2)
    again = replace(task, offer=replace(task.offer, adapter_hash=start))
    blames_the_coordinator(refusal(rehearsal, again), "E-ROUND-STEP", "round 2 is offered from another adapter")
    rehearsal.part.handle(task)
    assert rehearsal.part.highest == (2, 1)


def test_malicious_first_round_from_another_adapter_than_the_plans_is_refused(rehearsal: Rehearsal) -> None:
    task = offered(rehearsal, 1)
    other = adapter_hash(np.ones(12, dtype="<f4").tobytes())
    changed = replace(task, offer=replace(task.offer, adapter_hash=other))
    blames_the_coordinator(refusal(rehearsal, changed), "E-ROUND-STEP", "round 1 is offered from another adapter")


def test_malicious_retry_from_another_adapter_is_refused(rehearsal: Rehearsal) -> None:
    rehearsal.open(1)
    rehearsal.phase()
    task = offered(rehearsal, 1, 2)
    other = adapter_hash(np.ones(12, dtype="<f4").tobytes())
    changed = replace(task, offer=replace(task.offer, adapter_hash=other))
    blames_the_coordinator(refusal(rehearsal, changed), "E-ROUND-STEP", "another adapter")


def test_malicious_sum_that_is_not_the_certificates_is_refused(rehearsal: Rehearsal) -> None:
    rehearsal.round(1)
    task = offered(rehearsal, 2)
    other = rehearsal.serve(bytes(task.sums[0].length))
    blames_the_coordinator(
        refusal(rehearsal, replace(task, sums=(other,))), "E-ROUND-CONTEXT", "not the one of its certificate"
    )


@pytest.mark.parametrize("length", [4, 44, 52])
def test_malicious_sum_of_another_length_is_refused_before_it_is_downloaded(rehearsal: Rehearsal, length: int) -> None:
    rehearsal.round(1)
    task, asked = offered(rehearsal, 2), downloads(rehearsal)
    changed = replace(task, sums=(replace(task.sums[0], length=length),))
    blames_the_coordinator(refusal(rehearsal, changed), "E-ROUND-STEP", f"announced as {length} bytes")
    assert asked == []


def test_malicious_offer_without_the_sums_is_refused(rehearsal: Rehearsal) -> None:
    rehearsal.round(1)
    task = offered(rehearsal, 2)
    blames_the_coordinator(
        refusal(rehearsal, replace(task, sums=())), "E-ROUND-STEP", "the sum of round 1 did not come"
    )


def bytes_of(iterate: NDArray[np.float32]) -> bytes:
    return bytes(iterate_bytes(iterate))


def announce(rehearsal: Rehearsal, total: bytes) -> None:
    """Complete the round with a sum of the coordinator's own making."""
    lie = replace(rehearsal.machine.result.certificate, sum_hash=sum_hash(total))
    give(rehearsal.daemon, RoundCompleted(rehearsal.plan.run_id, lie))
    rehearsal.world.completed.append(lie)
    rehearsal.world.transcript = lie.transcript(rehearsal.world.transcript)
    rehearsal.sums.append(rehearsal.serve(total))


@pytest.mark.parametrize("sign", [1, -1])
def test_malicious_sum_beyond_what_updates_can_sum_to_is_refused_though_its_hash_is_announced(
    rehearsal: Rehearsal, sign: int
) -> None:
    """No signature is over the sum, so a coordinator can announce one; the transcript then binds it to that."""
    rehearsal.open(1)
    while rehearsal.machine.phase.name != "RESULT":
        rehearsal.phase()
    beyond = np.zeros(12, dtype="<i4")
    beyond[3] = sign * (int(largest_sum(rehearsal.plan)) + 1)
    announce(rehearsal, beyond.tobytes())
    blames_the_coordinator(refusal(rehearsal, offered(rehearsal, 2)), "E-ROUND-STEP", "larger than updates of this")


def test_malicious_sum_with_bits_beyond_its_lanes_is_refused(tmp_path: Path) -> None:
    packed = Rehearsal(tmp_path / ME, encoding={"ring_bits": 64, "lane_bits": 21, "clamp": 1000})
    packed.propose()
    packed.open(1)
    while packed.machine.phase.name != "RESULT":
        packed.phase()
    words = packed.machine.result.words.copy()
    words[1] ^= np.uint64(1 << 63)
    assert packed.plan.layout(1).count_beyond(words, largest_sum(packed.plan)) == 0
    announce(packed, words.tobytes())
    blames_the_coordinator(refusal(packed, offered(packed, 2)), "E-ROUND-STEP", "has bits beyond its lanes")


# --- absence, restarts, disks ---


def test_who_missed_rounds_steps_through_their_sums(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = starts(rehearsal, monkeypatch)
    for number in (1, 2):
        rehearsal.open(number)
        while rehearsal.machine.phase.name != "RESULT":
            rehearsal.ask_others()
            rehearsal.machine.close()
        result = rehearsal.machine.result
        rehearsal.certify(result)
    expected = rehearsal.adapter
    assert ME in exact(rehearsal, rehearsal.round(3))
    assert seen == [expected]


def test_a_restart_goes_on_from_the_state_on_disk(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsal.round(1)
    rehearsal.round(2)
    rehearsal.restart()
    asked, seen, expected = downloads(rehearsal), starts(rehearsal, monkeypatch), rehearsal.adapter
    rehearsal.round(3)
    assert seen == [expected]
    assert len([what for what in asked if "download" in what]) == 1
    kept = sorted(path.name for path in run_directory(rehearsal).glob("adapter.*"))
    assert kept == ["adapter.2"], "of the states before, none is left"


@pytest.mark.parametrize("name", ["adapter", "certificate"])
def test_a_damaged_file_is_named_and_nothing_is_advertised(rehearsal: Rehearsal, name: str) -> None:
    rehearsal.round(1)
    rehearsal.round(2)
    directory = run_directory(rehearsal)
    (adapter_file(directory, 1) if name == "adapter" else certificate_file(directory, 2)).write_bytes(b"no such thing")
    error = refusal(rehearsal, offered(rehearsal, 3))
    assert isinstance(error, LocalError)
    assert error.code == "E-STATE-DAMAGED"


def test_a_lost_state_is_computed_anew_if_the_coordinator_brings_all_sums(rehearsal: Rehearsal) -> None:
    rehearsal.round(1)
    rehearsal.round(2)
    adapter_file(run_directory(rehearsal), 1).unlink()
    task = offered(rehearsal, 3)
    part_of_it = replace(task, sums=task.sums[1:])
    blames_the_coordinator(refusal(rehearsal, part_of_it), "E-ROUND-STEP", "the sum of round 1 did not come")
    rehearsal.part.handle(task)
    assert rehearsal.part.highest == (3, 1)


def test_sums_travel_over_the_wire_in_the_order_of_their_rounds(rehearsal: Rehearsal) -> None:
    rehearsal.round(1)
    task = replace(offered(rehearsal, 2), sums=(ContentRef(b"a" * 32, 48), content(bytes(48))))
    assert codec.decode_task(codec.encode_task(NumberedTask(b"t" * 16, task))).task == task


# --- methods whose step two libraries may round differently ---


@pytest.fixture
def inexact(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> Rehearsal:
    """A run after round 1, of a method whose step is not the same to the bit everywhere."""
    method = replace(methods.get(rehearsal.plan.recipe.adapter.method), exact_step=False)
    monkeypatch.setattr("participant.runs.global_adapter.methods.get", lambda _: method)
    rehearsal.round(1)
    return rehearsal


def with_iterate(
    rehearsal: Rehearsal, iterate: NDArray[np.float32], content: ContentRef | None = None
) -> AttemptOpened:
    """Return the offer of round 2 from some iterate, which is there to be downloaded."""
    data = bytes_of(iterate)
    task = offered(rehearsal, 2)
    return replace(
        task, offer=replace(task.offer, adapter_hash=adapter_hash(data)), adapter=content or rehearsal.serve(data)
    )


def test_an_iterate_that_differs_in_rounding_is_taken_and_kept(
    inexact: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, rounded = starts(inexact, monkeypatch), inexact.state.iterate * np.float32(1 + 2**-20)
    assert bytes_of(rounded) != inexact.adapter
    inexact.part.handle(with_iterate(inexact, rounded))
    assert inexact.part.highest == (2, 1)
    assert taken_file(run_directory(inexact), 1).read_bytes() == bytes_of(rounded)
    own = state_from_bytes(1, adapter_file(run_directory(inexact), 1).read_bytes())
    assert bytes_of(own.iterate) == inexact.adapter, "its own is kept, for what comes is compared with that"
    assert seen == []


def test_malicious_iterates_that_creep_away_from_attempt_to_attempt_are_refused(inexact: Rehearsal) -> None:
    """Each is near the one before; all but the first are another start of the same round."""
    first = with_iterate(inexact, inexact.state.iterate * np.float32(1 + 2**-15))
    inexact.part.handle(first)
    inexact.me.link.take()
    data = bytes_of(inexact.state.iterate * np.float32(1 + 2**-14))
    retry = offered(inexact, 2, 2)
    creeping = replace(retry, offer=replace(retry.offer, adapter_hash=adapter_hash(data)), adapter=inexact.serve(data))
    for _ in range(2):
        blames_the_coordinator(refusal(inexact, creeping), "E-ROUND-STEP", "another adapter")
        inexact.restart()
    same = replace(retry, offer=replace(retry.offer, adapter_hash=first.offer.adapter_hash), adapter=first.adapter)
    inexact.part.handle(same)
    assert inexact.part.highest == (2, 2)


def test_malicious_iterate_beyond_rounding_is_refused(inexact: Rehearsal) -> None:
    other = inexact.state.iterate + np.float32(2**-12) * np.abs(inexact.state.iterate).max()
    blames_the_coordinator(refusal(inexact, with_iterate(inexact, other)), "E-ROUND-STEP", "another model")


def test_malicious_iterate_of_another_hash_or_length_is_refused(inexact: Rehearsal) -> None:
    rounded = inexact.state.iterate * np.float32(1 + 2**-20)
    other = inexact.serve(bytes(48))
    blames_the_coordinator(
        refusal(inexact, with_iterate(inexact, rounded, other)), "E-ROUND-CONTEXT", "not the one that the offer names"
    )
    asked = downloads(inexact)
    short = ContentRef(other.sha256, 44)
    blames_the_coordinator(refusal(inexact, with_iterate(inexact, rounded, short)), "E-ROUND-STEP", "as 44 bytes")
    assert asked == []


def test_malicious_iterate_of_a_method_with_an_exact_step_is_not_even_downloaded(rehearsal: Rehearsal) -> None:
    rehearsal.round(1)
    asked = downloads(rehearsal)
    task = with_iterate(rehearsal, rehearsal.state.iterate * np.float32(1 + 2**-20))
    blames_the_coordinator(refusal(rehearsal, task), "E-ROUND-STEP", "another adapter")
    assert len([what for what in asked if "download" in what]) == 1, "the sum alone"


def test_malicious_offer_of_another_start_without_it_is_refused(inexact: Rehearsal) -> None:
    task = with_iterate(inexact, inexact.state.iterate * np.float32(1 + 2**-20))
    blames_the_coordinator(refusal(inexact, replace(task, adapter=None)), "E-ROUND-STEP", "another adapter")


def test_malicious_start_of_a_round_that_is_past_takes_no_place_of_a_later_one(inexact: Rehearsal) -> None:
    """The journal refuses such an offer before; the adapter does not rest on that."""
    inexact.round(2)
    task = offered(inexact, 3)
    inexact.part.handle(task)
    rounded = bytes_of(inexact.state.iterate * np.float32(1 + 2**-20))
    past = replace(task.offer, adapter_hash=adapter_hash(rounded), position=replace(task.offer.position, round=2))
    with pytest.raises(PeerError, match="E-ROUND-STEP"):
        inexact.part._adapter.start_of(past, [], inexact.serve(rounded))
    assert not taken_file(run_directory(inexact), 2).exists()


def test_malicious_start_of_the_first_round_is_compared_to_the_bit_in_every_method(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = replace(methods.get(rehearsal.plan.recipe.adapter.method), exact_step=False)
    monkeypatch.setattr("participant.runs.global_adapter.methods.get", lambda _: method)
    data = bytes_of(rehearsal.state.iterate + np.float32(1e-30))
    task = offered(rehearsal, 1)
    task = replace(task, offer=replace(task.offer, adapter_hash=adapter_hash(data)), adapter=rehearsal.serve(data))
    blames_the_coordinator(refusal(rehearsal, task), "E-ROUND-STEP", "another adapter")


# --- rounds without a sum ---


@pytest.mark.parametrize("away", [False, True])
def test_a_voided_round_leaves_the_adapter_and_the_next_sum_is_that_of_its_own_round(
    away: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was away in the rounds before, during and after the void steps over it as well."""
    rehearsal = Rehearsal(tmp_path / ME, recipe={"rounds": 5})
    rehearsal.propose()
    for number in (1, 2, 3):
        if number == 2:
            rehearsal.void(number)
        elif away:
            rehearsal.open(number)
            while rehearsal.machine.phase.name != "RESULT":
                rehearsal.ask_others()
                rehearsal.machine.close()
            rehearsal.certify(rehearsal.machine.result)
        else:
            rehearsal.round(number)
    seen, expected = starts(rehearsal, monkeypatch), rehearsal.adapter
    assert ME in exact(rehearsal, rehearsal.round(4))
    assert seen == [expected]


def test_malicious_other_adapter_after_a_voided_round_is_refused(rehearsal: Rehearsal) -> None:
    rehearsal.round(1)
    rehearsal.void(2)
    task = offered(rehearsal, 3)
    other = adapter_hash(iterate_bytes(rehearsal.state.iterate + 1))
    changed = replace(task, offer=replace(task.offer, adapter_hash=other))
    with pytest.raises(PeerError) as refused:
        rehearsal.part.handle(changed)
    blames_the_coordinator(refused.value, "E-ROUND-STEP", "round 3 is offered from another adapter")
    assert [message for message in rehearsal.me.link.take() if not isinstance(message, Abstained)] == []
    rehearsal.part.handle(task)
    assert rehearsal.part.highest == (3, 1)
