"""What an operator reads first: a run in one sentence, who is habitually missing, what waits, who was seen when."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import onlysum
from coordinator.database import attempt_rows, member_rows, run_rows, standing_rows
from coordinator.database.store import Store
from coordinator.enrolment.authority import save_authority
from coordinator.enrolment.sightings import EVERY_SECONDS, Sightings
from coordinator.opened import OpenHome
from coordinator.views.attendance import HABITUAL, read_turnout
from coordinator.views.inbox import BACKED_UP, DAY, inbox
from coordinator.views.members import Presence, member_list
from coordinator.views.overview import Overview, overview
from coordinator.views.phase import OpenPhase
from coordinator.views.sentence import Health, expected_end, run_sentence
from host.locks import only_daemon
from host.rendering import moment
from privacy.errors import LocalError
from privacy.secagg.messages import Position
from tests.worlds.coordinator import RUN_ID, World
from tests.worlds.dashboard import NOW, Seeded, seed


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Seeded:
    return seed(tmp_path_factory.mktemp("seeded"), n=10)


@pytest.fixture(scope="module")
def current(seeded: Seeded) -> Overview:
    """The run of ten in round 41, while its daemon runs."""
    with only_daemon(seeded.opened.home.directory, "coordinator"):
        return overview(seeded.opened, RUN_ID)


def said(run: Overview, **phase: Any) -> str:
    """Return the sentence about a run whose phase is another."""
    assert isinstance(run.phase, OpenPhase)
    return run_sentence(replace(run, phase=replace(run.phase, **phase)), NOW).text


def test_a_run_in_the_middle_of_a_round_says_all_of_it_in_one_sentence(current: Overview) -> None:
    assert current.phase is not None
    (stuck,), (one, other) = current.phase.abstained, current.phase.missing
    waits = f"waits for {one}, {other}, gives up 16:07, then attempt 2 of 3; ends about 19:35"
    assert current.plan.min_survivors == 9
    assert said(current, expected=current.phase.expected[:8]).startswith("Round 41 of 100, in trouble; ")
    expected = f"Round 41 of 100, well; {stuck} cannot take part (E-DISK-FULL); {waits}"
    assert said(current) == expected


def test_with_enough_answers_a_phase_goes_on_without_the_others(current: Overview) -> None:
    everybody = tuple(member.id for member in current.plan.roster)
    text = said(current, answered=everybody[:9], abstained={})
    assert text == f"Round 41 of 100, well; waits for {everybody[9]}, goes on without at 16:07; ends about 19:35"
    text = said(current, answered=everybody[:6], abstained={})
    assert text == "Round 41 of 100, well; waits for 4, gives up 16:07, then attempt 2 of 3; ends about 19:35"


AFTERWARDS: dict[str, tuple[str, int, str]] = {
    "a first attempt before the commit point": ("COLLECT_MASKED", 0, "then attempt 2 of 3"),
    "a third attempt before the commit point": ("COLLECT_MASKED", 2, "then the run ends"),
    "after the commit point, with noise": ("UNMASK", 0, "then the round is voided"),
}


@pytest.mark.parametrize("case", AFTERWARDS)
def test_the_sentence_says_what_comes_if_an_attempt_fails(current: Overview, case: str) -> None:
    phase, failed, expected = AFTERWARDS[case]
    aborted = attempt_rows.AttemptRecord(41, 1, "aborted", phase, "E-ROUND-DEADLINE", "", NOW, NOW)
    run = replace(current, attempts=(*current.attempts, *(replace(aborted, attempt=n) for n in range(failed))))
    assert expected in said(run, phase=phase, abstained={}, answered=())


def test_after_the_commit_point_a_quorum_and_then_a_threshold_are_enough(current: Overview) -> None:
    everybody = tuple(member.id for member in current.plan.roster)
    for phase, least in (("AGREE_SURVIVORS", current.plan.quorum), ("UNMASK", current.plan.shamir_threshold)):
        assert least < current.plan.min_survivors
        assert "goes on without at" in said(current, phase=phase, abstained={}, answered=everybody[:least])
        assert "gives up" in said(current, phase=phase, abstained={}, answered=everybody[: least - 1])


def test_after_a_voided_round_or_without_noise_no_round_is_voided(current: Overview) -> None:
    voided = replace(current.rounds[-1], certificate=b"")
    run = replace(current, rounds=(*current.rounds[:-1], voided))
    assert "then the run ends" in said(run, phase="UNMASK", abstained={}, answered=())


def test_a_run_is_slow_after_its_deadline_and_paused_when_paused(current: Overview) -> None:
    assert current.phase is not None
    calm = replace(current, phase=replace(current.phase, abstained={}))
    assert run_sentence(calm, NOW).health is Health.WELL
    assert run_sentence(calm, calm.phase.deadline + 1).health is Health.SLOW  # type: ignore[union-attr]
    paused = replace(calm, run=replace(calm.run, paused=True))
    assert run_sentence(paused, NOW).health is Health.PAUSED
    held = replace(calm, run=replace(calm.run, paused=True, code="E-COORDINATOR-ROLLBACK"))
    assert "in trouble (E-COORDINATOR-ROLLBACK)" in run_sentence(held, NOW).text
    assert run_sentence(replace(calm, live=None), NOW).text == "Round 41 of 100, in trouble; the service does not run"


def test_the_end_is_guessed_from_the_pace_of_the_last_rounds(current: Overview) -> None:
    assert expected_end(current.rounds[:1], 100, NOW) is None
    assert expected_end(current.rounds, 100, NOW) == current.rounds[-1].completed_at + 60 * 220
    assert expected_end(current.rounds, 40, NOW) is None


def test_a_run_that_waits_and_one_that_ended_say_so(seeded: Seeded) -> None:
    waits = run_sentence(overview(seeded.opened, "33" * 4), NOW)
    assert (waits.health, waits.text) == (Health.WAITING, "Waits for approvals, 10 of 10, since 2026-01-01 00:00") or (
        waits.health is Health.TROUBLE  # the daemon does not run in this test
    )
    ended = run_sentence(overview(seeded.opened, "22" * 4), NOW)
    assert (ended.health, ended.text) == (Health.ENDED, "0 of 100 rounds, aborted 02:06 (E-RUN-ENDED)")


def test_a_real_run_tells_of_approvals_rounds_and_its_end(tmp_path: Path) -> None:
    world = World(tmp_path, rounds=2)
    opened = OpenHome(world.home, world.settings, world.store)
    asyncio.run(world.runner.tick())
    assert run_sentence(overview(opened, RUN_ID), world.clock.now()).text.startswith("Waits for approvals, 3 of 3")
    asyncio.run(world.settle())
    done = run_sentence(overview(opened, RUN_ID), world.clock.now())
    assert (done.health, done.completed) == (Health.COMPLETED, 2)
    assert done.text.startswith("2 of 2 rounds, completed ")


# --- who is missing ---


def test_lost_and_late_rounds_of_the_last_thirty_are_counted(seeded: Seeded) -> None:
    with seeded.opened.store.read() as connection:
        found = read_turnout(connection, RUN_ID, seeded.plan)
    lost, late = found.habitual
    assert (lost.lost, lost.late) == (6, 0)  # rounds 13, 21, 25, 29, 33 and 37; round 17 was voided
    assert (late.lost, late.late) == (0, 6)
    assert (found.lowest, found.least, found.margin) == (9, 9, 0)
    assert min(lost.lost, late.late) >= HABITUAL
    assert [line for line in found.to_lines() if "0 above the least" in line]


def test_members_who_need_their_operator_come_first(seeded: Seeded) -> None:
    with only_daemon(seeded.opened.home.directory, "coordinator"):
        members = member_list(seeded.opened).members
    assert [member.presence for member in members][:3] == [Presence.STUCK, Presence.AWAY, Presence.HERE]
    assert members[0].state == "stuck (E-DISK-FULL)"
    assert members[2].missed.startswith("lost 6")


STATES: dict[str, Presence] = {
    "E-POLICY-WAITING": Presence.PAUSED,
    "E-DISK-FULL": Presence.AWAY,  # it said so once, and is not connected any more
}


@pytest.mark.parametrize("code", STATES)
def test_who_has_said_that_it_is_paused_and_is_not_connected_is_paused(tmp_path: Path, code: str) -> None:
    from protos import codec
    from protos.envelope import Abstained

    world = seed(tmp_path, n=3)
    away = world.plan.roster[-1].id
    at = Position(world.plan.hash, 40, 1)
    body = codec.encode_submission(Abstained(RUN_ID, at, code))
    with world.opened.store.begin() as connection:
        rows = attempt_rows.Rows()
        rows.add_event(RUN_ID, at, kind=Abstained.__name__, sender=away, body=body, now=NOW - 50)
        rows.write(connection)
    with only_daemon(tmp_path, "coordinator"):
        states = {member.name: member.presence for member in member_list(world.opened).members}
    assert states[away] is STATES[code]


def test_who_is_refused_is_shown_with_the_code_until_it_is_there_again(tmp_path: Path) -> None:
    world = seed(tmp_path, n=3)
    away = world.plan.roster[-1].id
    with world.opened.store.begin() as connection:
        member_rows.log_security(connection, NOW - 10, "handshake-refused", away, "E-VERSION")
    with only_daemon(tmp_path, "coordinator"):
        states = {member.name: member.state for member in member_list(world.opened).members}
        assert states[away] == "refused (E-VERSION)"
        with world.opened.store.begin() as connection:
            member_rows.saw_members(connection, [away], NOW)
        assert {member.name: member.state for member in member_list(world.opened).members}[away] == "away"


def test_a_member_that_goes_away_is_noted_at_once_and_one_that_stays_every_minute(tmp_path: Path) -> None:
    world = World(tmp_path)

    def seen() -> dict[str, int | None]:
        with world.store.read() as connection:
            return {member.name: member.last_seen for member in member_rows.list_members(connection)}

    start, sightings = int(world.clock.now()), Sightings(world.store, world.clock)
    sightings.note(("alice", "bob"))
    assert (seen()["alice"], seen()["carol"]) == (start, None)
    world.clock.seconds += 10
    sightings.note(("alice",))
    assert (seen()["alice"], seen()["bob"]) == (start, start + 10)
    world.clock.seconds += EVERY_SECONDS
    sightings.note(("alice",))
    assert seen()["alice"] == start + 10 + EVERY_SECONDS


def test_a_database_that_refuses_stops_no_sighting_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)

    def refused(self: Store) -> Any:
        raise LocalError("E-STATE-BUSY", "")

    sightings = Sightings(world.store, world.clock)
    with monkeypatch.context() as broken:
        broken.setattr(Store, "begin", refused)
        sightings.note(("alice",))
    sightings.note(("alice",))
    with world.store.read() as connection:
        member = member_rows.find_member(connection, "alice")
    assert member is not None
    assert member.last_seen == int(world.clock.now())


# --- what waits ---


def test_the_inbox_has_what_waits_and_what_ends_soon(tmp_path: Path) -> None:
    world = seed(tmp_path, n=3)
    kinds = [(item.kind, item.urgent) for item in inbox(world.opened, NOW).items]
    assert kinds == [("backup", False), ("approval", False), ("invitation", False)]
    later = {item.text for item in inbox(world.opened, NOW + 2 * DAY).items}
    assert "the invitation of clinic-lund has expired at 2026-01-03 17:00 UTC" in later
    far = inbox(world.opened, NOW + 4 * 365 * DAY + 340 * DAY).items
    assert {item.subject for item in far if item.kind == "certificate"} >= {"the service", "hospital-aarhus"}


def test_a_backup_is_remembered_and_an_old_one_is_named(tmp_path: Path) -> None:
    world = seed(tmp_path, n=3)
    with world.opened.store.begin() as connection:
        member_rows.log_security(connection, NOW - 100, BACKED_UP, "hospitals-north", "1 bytes")
    assert inbox(world.opened, NOW).backed_up_at == NOW - 100
    assert "backup" not in {item.kind for item in inbox(world.opened, NOW).items}
    old = [item.text for item in inbox(world.opened, NOW + 8 * DAY).items if item.kind == "backup"]
    assert old == [f"the last backup is of {moment(NOW - 100)} UTC"]


def test_a_refused_plan_and_a_held_run_are_urgent(tmp_path: Path) -> None:
    from protos.envelope import PlanRefused

    world = seed(tmp_path, n=3)
    with world.opened.store.begin() as connection:
        refusal = PlanRefused("33" * 16, b"h" * 32, "E-POLICY-RULE", "not these rounds")
        run_rows.add_approval(connection, "hospital-basel", refusal, NOW)
        run_rows.hold(connection, RUN_ID, code="E-COORDINATOR-ROLLBACK", reason="older", now=NOW)
        standing_rows.add_late(connection, RUN_ID, ["hospital-basel"], phase="UNMASK", now=NOW)
    urgent = [item.text for item in inbox(world.opened, NOW).items if item.urgent]
    assert urgent == [
        "run 00112233 is held: E-COORDINATOR-ROLLBACK",
        "hospital-basel refuses run 33333333: not these rounds",
    ]


# --- the commands ---


def test_users_are_added_listed_and_removed_by_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    save_authority(world.home.authority, world.authority)
    from coordinator.config import settings_template
    from host.state_format import write_format

    world.home.config.write_text(
        settings_template(federation="clinics", operator="I", also=[], participants="h:1", enrolment="h:2")
    )
    write_format(tmp_path)
    password = tmp_path / "password"
    password.write_text("correct horse battery\n")
    where = ["--config", str(tmp_path)]
    words = ["coordinator", "user", "add", "anna", "--role", "auditor", "--password-file", str(password)]
    assert onlysum.run([*words, *where]) == 0
    assert onlysum.run([*words, *where]) == 2
    assert "E-EXISTS" in capsys.readouterr().err
    assert onlysum.run(["coordinator", "user", "list", "--json", *where]) == 0
    (user,) = json.loads(capsys.readouterr().out)
    assert (user["name"], user["role"]) == ("anna", "auditor")
    assert onlysum.run(["coordinator", "user", "remove", "anna", *where]) == 0
    assert onlysum.run(["coordinator", "user", "remove", "anna", *where]) == 2
    exported = tmp_path / "security.json"
    assert onlysum.run(["coordinator", "security", "export", "-o", str(exported), *where]) == 0
    capsys.readouterr()
    assert onlysum.run(["coordinator", "security", "check", str(exported), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 6
    exported.write_text(exported.read_text().replace('"anna"', '"eve"', 1))
    assert onlysum.run(["coordinator", "security", "check", str(exported)]) == 6


def test_several_newcomers_are_invited_at_once_a_file_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONLYSUM_HOME", str(tmp_path / "new"))
    assert onlysum.run(["coordinator", "init", str(tmp_path / "new"), "--name", "a", "--operator", "I"]) == 0
    assert onlysum.run(["coordinator", "invite", "alice", "bob", "-o", str(tmp_path), "--json"]) == 0
    capsys.readouterr()
    assert {path.name for path in tmp_path.glob("*.token")} == {"alice.token", "bob.token"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.glob("*.token"))
