"""One ledger per machine: another coordinator begins no second budget, and data keeps its population."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator.enrolment.authority import Authority
from host.credentials import read_private
from participant.commands.participant import app
from participant.config import load_settings, with_ledgers
from participant.daemon.backup import read_backup, write_backup
from participant.daemon.reanchor import find_loss
from participant.home import Home
from participant.opened import OpenHome, open_home
from participant.owner.ledger_directory import SHARED, LedgerDirectory, Newcomer, default_directory
from participant.owner.policy import load_policy
from participant.owner.registry import Registry
from participant.runs.rollback import lost_head
from participant.views.ledger import ledger_view
from privacy.dp.events import round_event
from privacy.errors import LocalError, OnlysumError, RefusedError, VerificationError
from privacy.heads import HeadsShown, JournalHead, LedgerHead, Moment
from privacy.ledger import LifetimeBudget
from privacy.ledger_entries import Charge, PolicyChange, Reanchored
from privacy.secagg.messages import Position
from protos.envelope import Role, Welcome
from tests.worlds.enrolled import authority, enrol, equip, propose
from tests.worlds.owner import owned_plan
from tests.worlds.plans import CREATED_AT, names, signing_key
from tests.worlds.seeded import SeededRandom

FIRST, SECOND = authority(), authority("another authority")
NOW = CREATED_AT + 90
DATA, OTHER = "ab" * 32, "cd" * 32
ROOMY = LifetimeBudget("example", 1e6, 1e-6, 3)
PLANS = {name: owned_plan(mode="distributed", run_id=run * 16) for name, run in (("alice", "aa"), ("bob", "bb"))}
WHERE = {"alice": FIRST, "bob": SECOND}


def charge(name: str, number: int, *, population: str = "patients", data: bytes = b"") -> Charge:
    plan, event = PLANS[name], round_event(PLANS[name])
    assert event is not None
    return Charge(
        run_id=plan.run_id,
        plan_hash=bytes.fromhex(plan.run_id) * 2,
        round=number,
        population=population,
        unit="example",
        relation=plan.privacy.relation,
        event=event,
        delta=plan.privacy.delta,
        data=data,
    )


class Machine:
    """Two memberships of one owner, in federations of two coordinators."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledgers = LedgerDirectory(path / "ledgers")

    def enrol(self, name: str, made: Authority, role: Role = Role.PARTICIPANT) -> OpenHome:
        return open_home(enrol(self.path / name, made, name=name, role=role, ledgers=self.ledgers.path).directory)

    def equipped(self, name: str) -> OpenHome:
        home = enrol(self.path / name, WHERE[name], name=name, ledgers=self.ledgers.path)
        equip(home, WHERE[name], PLANS[name], roster=[other for other in names(5) if other != name])
        return open_home(home.directory)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(OnlysumError) as refused:
        call()
    return refused.value.code


def test_members_of_two_federations_charge_to_one_ledger(machine: Machine) -> None:
    alice, bob = machine.enrol("alice", FIRST), machine.enrol("bob", SECOND)
    event = charge("alice", 1)
    one = replace(ROOMY, epsilon=alice.ledger.spent("patients").with_charge(event).lifetime_epsilon(ROOMY) + 1e-9)
    alice.ledger.charge(event, budget=one, max_rounds=5, at=CREATED_AT)

    assert bob.ledger.spent("patients").runs == alice.ledger.spent("patients").runs
    with pytest.raises(RefusedError, match="E-POLICY-BUDGET"):
        bob.ledger.charge(charge("bob", 1), budget=one, max_rounds=5, at=CREATED_AT)
    assert bob.ledger.head() == alice.ledger.head(), "nothing was written"
    shown = "\n".join(ledger_view(bob).to_lines())
    assert "charged to by bob of test-federation, alice of test-federation" in shown


def test_a_ledgers_key_is_nobodys_identity_and_closed_to_others(machine: Machine) -> None:
    alice = machine.enrol("alice", FIRST)
    assert alice.ledger.key not in {alice.owner.identity.public, alice.identity.operator_key}
    key = machine.ledgers.path / f"{SHARED}.key"
    assert (key.stat().st_mode & 0o777, machine.ledgers.path.stat().st_mode & 0o777) == (0o600, 0o700)
    key.chmod(0o640)
    assert code_of(lambda: open_home(alice.home.directory)) == "E-PERMISSIONS"
    key.unlink()
    assert code_of(lambda: open_home(alice.home.directory)) == "E-STATE-DAMAGED"


def test_of_one_federation_one_participant_charges_to_a_ledger_and_evaluators_to_none(machine: Machine) -> None:
    eva = machine.enrol("eva", FIRST, Role.EVALUATOR)
    alice, carol = machine.enrol("alice", FIRST), machine.enrol("carol", FIRST)
    ledgers = [opened.member.ledger for opened in (eva, alice, carol)]
    assert ledgers[1] == SHARED
    assert len(set(ledgers)) == 3
    assert len({opened.ledger.key for opened in (eva, alice, carol)}) == 3
    alice.ledger.charge(charge("alice", 1), budget=ROOMY, max_rounds=5, at=CREATED_AT)
    assert carol.ledger.spent("patients").runs == ()
    assert not carol.ledger.has_signed(alice.ledger.head()), "its coordinator cannot show it another's head"


def test_whoever_joins_again_after_leaving_goes_on_with_the_ledger(machine: Machine) -> None:
    alice = machine.enrol("alice", FIRST)
    alice.ledger.charge(charge("alice", 1), budget=ROOMY, max_rounds=5, at=CREATED_AT)
    alice.home.left_mark.touch()
    again = machine.enrol("carol", FIRST)
    assert again.member.ledger == SHARED
    assert again.ledger.spent("patients").runs == alice.ledger.spent("patients").runs


def test_two_members_policies_are_noted_once_each(machine: Machine) -> None:
    alice, bob = machine.equipped("alice"), machine.equipped("bob")
    bob.home.policy.write_text(bob.home.policy.read_text().replace("by-hand", "by-policy"))
    for _ in range(3):
        alice.review.policy()
        bob.review.policy()
    noted = [record.entry for record in alice.ledger.rows() if isinstance(record.entry, PolicyChange)]
    assert [entry.member for entry in noted] == [signing_key("alice").public, signing_key("bob").public]


def test_data_that_was_charged_to_one_population_is_charged_to_no_other(machine: Machine) -> None:
    alice, bob = machine.enrol("alice", FIRST), machine.enrol("bob", SECOND)
    mark = alice.ledger.fingerprint(DATA)
    assert mark == bob.ledger.fingerprint(DATA) != bytes.fromhex(DATA)
    assert mark != alice.ledger.fingerprint(OTHER)
    for number in (1, 2):  # the same people again
        alice.ledger.charge(charge("alice", number, data=mark), budget=ROOMY, max_rounds=5, at=CREATED_AT)

    elsewhere = charge("bob", 1, population="customers", data=mark)
    with pytest.raises(RefusedError, match=r"E-LEDGER-DATA.*charged to population patients, not to customers"):
        bob.ledger.charge(elsewhere, budget=ROOMY, max_rounds=5, at=CREATED_AT)
    assert bob.ledger.spent("customers").runs == ()
    bob.ledger.charge(elsewhere, budget=ROOMY, max_rounds=5, at=CREATED_AT, others=True)
    assert bob.ledger.populations_of_data(DATA) == ("patients", "customers")
    assert bob.ledger.populations_of_data("") == bob.ledger.populations_of_data(OTHER) == ()
    retry = charge("bob", 1, population="customers")
    assert not bob.ledger.charge(retry, budget=ROOMY, max_rounds=5, at=CREATED_AT).new, "the same round, asked again"


def test_a_population_that_was_renamed_between_runs_is_refused_before_anything_is_charged(machine: Machine) -> None:
    alice = machine.equipped("alice")
    entry = alice.review.registry.dataset("digits")
    alice.review.registry.remove(entry)
    alice.review.registry.add(entry.model_copy(update={"sha256": DATA, "population": None}))
    run = propose(alice.home, FIRST, PLANS["alice"])
    mark = alice.ledger.fingerprint(DATA)
    alice.ledger.charge(charge("bob", 1, data=mark), budget=ROOMY, max_rounds=5, at=CREATED_AT)
    assert alice.review.judge_run(run).assessment.refusal() is None

    text = alice.home.policy.read_text().replace("population.patients", "population.customers")
    alice.home.policy.write_text(text.replace('"patients"', '"customers"'))
    says = r"population\.of-data: this data was charged to patients, policy says customers"
    with pytest.raises(RefusedError, match=says):
        alice.review.approve(run)
    alice.review.registry.remove(entry)
    others = entry.model_copy(update={"sha256": DATA, "population": None, "another_population": True})
    alice.review.registry.add(others)
    assert alice.review.judge_run(run).assessment.refusal() is None


def test_what_one_membership_reserves_is_not_there_for_another(machine: Machine) -> None:
    alice, bob = machine.equipped("alice"), machine.equipped("bob")
    runs = {name: propose(opened.home, WHERE[name], PLANS[name]) for name, opened in (("alice", alice), ("bob", bob))}
    for opened in (alice, bob):
        text = opened.home.policy.read_text().replace("lifetime_delta = 1e-6", "lifetime_delta = 1e-6\norder = 3")
        opened.home.policy.write_text(text)
    cost = bob.review.judge_run(runs["bob"]).cost
    assert cost is not None
    for opened in (alice, bob):
        text = opened.home.policy.read_text()
        text = text.replace("lifetime_epsilon = 40", f"lifetime_epsilon = {cost.lifetime_after + 0.01:.3f}")
        opened.home.policy.write_text(text)
    assert bob.review.judge_run(runs["bob"]).assessment.refusal() is None
    alice.review.approve(runs["alice"], who="Anna")
    with pytest.raises(RefusedError, match=r"population\.reserved"):
        bob.review.approve(runs["bob"], who="Anna")
    alice.review.refuse(runs["alice"], because="not now")
    bob.review.approve(runs["bob"], who="Anna")


def test_a_directory_beside_that_does_not_parse_is_named_and_nothing_is_approved_on_a_guess(machine: Machine) -> None:
    alice, bob = machine.equipped("alice"), machine.equipped("bob")
    run = propose(bob.home, SECOND, PLANS["bob"])
    alice.home.policy.write_text("[approval")
    with pytest.raises(
        RefusedError, match=r"population\.of-machine: .*/alice, of alice of test-federation: policy\.toml"
    ):
        bob.review.approve(run, who="Anna")
    assert bob.review.judge_run(run).cost is not None, "its page is shown"
    shutil.rmtree(alice.home.directory)
    bob.review.approve(run, who="Anna")


def test_a_reanchoring_accounts_for_no_other_members_records(machine: Machine) -> None:
    alice, bob = machine.enrol("alice", FIRST), machine.enrol("bob", SECOND)
    lost = LedgerHead(9, b"l" * 32)
    entry = Reanchored(member=signing_key("alice").public, lost_sequence=9, lost_hash=b"l" * 32, who="Anna")
    alice.ledger.reanchor(entry, [charge("alice", 1)], at=CREATED_AT)
    alice.ledger.require_at_least(lost)
    with pytest.raises(RefusedError, match="E-LEDGER-ROLLBACK"):
        bob.ledger.require_at_least(lost)
    again = replace(entry, member=signing_key("bob").public)
    bob.ledger.reanchor(again, [charge("bob", 1)], at=CREATED_AT)
    bob.ledger.require_at_least(lost)
    assert len(bob.ledger.spent("patients").runs) == 2


def test_records_that_may_be_another_members_exhaust_its_populations_too(machine: Machine) -> None:
    alice, bob = machine.equipped("alice"), machine.equipped("bob")
    text = bob.home.policy.read_text().replace("population.patients", "population.customers")
    bob.home.policy.write_text(text.replace('"patients"', '"customers"'))
    far = LedgerHead(50, b"f" * 32)
    unsigned = HeadsShown(Position(b"p" * 32, 1, 1), "alice", Moment.TRAIN, JournalHead(1, b"j" * 32), far)
    signature = signing_key("alice").sign(unsigned.signed_bytes(2))
    shown = (replace(unsigned, signature=signature),)
    welcome = Welcome(2, "0", "test-federation", LedgerHead(0, bytes(32)), shown, ())
    assert lost_head(alice.ledger, welcome, welcome.last_heads) == far

    def nowhere(plan_hash: bytes) -> bytes:
        raise LocalError("E-NOT-FOUND", "nobody has it")

    loss = find_loss(alice, load_policy(alice.home), welcome, nowhere)
    assert loss.exhausted == ("customers", "patients")


# --- the same bytes ---


def add(opened: OpenHome, path: Path, *options: str) -> None:
    words = ["dataset", "add", path.stem, str(path), *options, "--config", str(opened.home.directory)]
    CliRunner().invoke(app, words, catch_exceptions=False, standalone_mode=False)


def test_the_same_bytes_in_another_membership_are_the_same_people(machine: Machine, tmp_path: Path) -> None:
    alice, bob = machine.enrol("alice", FIRST), machine.enrol("bob", SECOND)
    carol = machine.enrol("carol", FIRST)
    eva = machine.enrol("eva", SECOND, Role.EVALUATOR)
    first, copy = tmp_path / "wards.csv", tmp_path / "copy.csv"
    for path in (first, copy):
        path.write_text("text,label\nfine,0\nill,1\n")
    add(eva, first)
    add(alice, first, "--population", "patients")

    for options in (["--population", "customers"], []):
        with pytest.raises(LocalError, match="E-DATA-POPULATION") as refused:
            add(bob, copy, *options)
        assert "registered by alice of test-federation as wards under population patients" in refused.value.detail
    add(bob, copy, "--population", "patients")
    with pytest.raises(LocalError, match=r"E-DATA-LEDGER.*which is charged to another ledger of this machine"):
        add(carol, copy, "--population", "patients")
    add(carol, copy, "--population", "patients", "--another-population")
    assert Registry(carol.home).dataset("copy").another_population


# --- where they lie ---


def test_a_ledger_that_a_member_did_not_join_with_is_refused(machine: Machine) -> None:
    alice, bob = machine.enrol("alice", FIRST), open_home(enrol(machine.path / "bob", SECOND, name="bob").directory)
    text = alice.home.config.read_text()
    alice.home.config.write_text(with_ledgers(text, str(bob.ledgers.path)))
    with pytest.raises(VerificationError, match="do not know this member"):
        open_home(alice.home.directory)
    alice.home.config.write_text(with_ledgers(text, str(machine.path / "nowhere")))
    assert code_of(lambda: open_home(alice.home.directory)) == "E-STATE-DAMAGED"
    assert not (machine.path / "nowhere").exists(), "no ledger is begun because one is missing"


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"identity": "x"}'])
def test_an_entry_that_does_not_parse_keeps_its_member_out_and_is_named_to_others(
    machine: Machine, content: bytes
) -> None:
    alice, bob = machine.equipped("alice"), machine.equipped("bob")
    run = propose(bob.home, SECOND, PLANS["bob"])
    (machine.ledgers.path / "members" / f"{alice.member.identity}.json").write_bytes(content)
    assert code_of(lambda: open_home(alice.home.directory)) == "E-STATE-DAMAGED"
    assert open_home(bob.home.directory).ledger.verify() > 0
    assert "NOT KNOWN what other members" in "\n".join(ledger_view(bob).to_lines())
    with pytest.raises(RefusedError, match=r"population\.of-machine: .*does not parse"):
        bob.review.approve(run, who="Anna")


def ledger_files(machine: Machine) -> None:
    for file in machine.ledgers.path.glob(f"{SHARED}.db*"):
        file.unlink()


def test_no_ledger_is_begun_where_half_of_one_is_missing(machine: Machine) -> None:
    alice = machine.enrol("alice", FIRST)
    alice.ledger.charge(charge("alice", 1), budget=ROOMY, max_rounds=5, at=CREATED_AT)
    alice.ledger.close()
    kept = machine.ledgers.file(SHARED).read_bytes()
    ledger_files(machine)
    with pytest.raises(VerificationError, match=r"ledger\.db is missing; a new one would forget"):
        machine.enrol("bob", SECOND)
    assert code_of(lambda: open_home(alice.home.directory)) == "E-STATE-DAMAGED"
    machine.ledgers.file(SHARED).write_bytes(kept)
    assert rounds(open_home(alice.home.directory)) == 1
    key = machine.ledgers.key_file(SHARED)
    key.rename(machine.path / "key")
    shutil.rmtree(machine.path / "bob")
    with pytest.raises(VerificationError, match=r"ledger\.key is missing; a new one would forget"):
        machine.enrol("bob", SECOND)
    (machine.path / "key").rename(key)
    assert rounds(open_home(alice.home.directory)) == 1, "nothing was put in its place"


def test_a_crash_while_a_ledger_is_begun_is_mended_by_joining_again(machine: Machine) -> None:
    alice = machine.enrol("alice", FIRST)
    alice.ledger.close()
    machine.ledgers.key_file(SHARED).unlink()  # the database was written, neither key nor member were
    shutil.rmtree(machine.ledgers.path / "members")
    shutil.rmtree(alice.home.directory)
    assert machine.enrol("alice", FIRST).ledger.verify() == 1
    assert [path.name for path in machine.ledgers.path.glob("aside-*.db")], "it is kept all the same"


def test_who_is_invited_again_under_its_name_goes_on_with_its_ledger(machine: Machine) -> None:
    """Its certificate expired, or it was revoked: the old directory is still there, and no member any more."""
    carol, alice = machine.enrol("carol", FIRST), machine.enrol("alice", FIRST)
    alice.ledger.charge(charge("alice", 1), budget=ROOMY, max_rounds=5, at=CREATED_AT)
    home, authority = Home(machine.path / "new"), alice.member.authority
    newcomer = Newcomer(b"\xff" * 32, "alice", "test-federation", authority, home, charges=True)
    again = machine.ledgers.admit(newcomer, random=SeededRandom("again"), at=NOW)
    assert again.ledger == alice.member.ledger != carol.member.ledger
    assert [member.state for member in machine.ledgers.members() if member.name == "alice"].count("succeeded") == 1
    assert machine.ledgers.beside(again) == (carol.member,)
    third = Newcomer(b"m" * 32, "alice", "test-federation", authority, Home(machine.path / "third"), charges=True)
    assert machine.ledgers.admit(third, random=SeededRandom("third"), at=NOW).ledger == again.ledger
    states = [member.state for member in machine.ledgers.members() if member.name == "alice"]
    assert sorted(states) == ["member", "succeeded", "succeeded"]


def test_a_participant_whose_directory_is_away_keeps_its_place(machine: Machine) -> None:
    alice = machine.enrol("alice", FIRST)
    away = alice.home.directory.rename(machine.path / "unmounted")
    carol = machine.enrol("carol", FIRST)
    away.rename(alice.home.directory)
    assert open_home(alice.home.directory).member.ledger == SHARED != carol.member.ledger


def test_a_half_joined_neighbour_is_no_member_yet(machine: Machine) -> None:
    alice, bob = machine.equipped("alice"), machine.equipped("bob")
    bob.home.membership.unlink()
    assert alice.neighbours.registered() == ()
    alice.review.approve(propose(alice.home, FIRST, PLANS["alice"]), who="Anna")


# --- the same data on another ledger ---


@pytest.mark.parametrize("gone", ["removed", "left"])
def test_data_that_was_charged_to_one_ledger_of_a_machine_is_refused_on_another(
    machine: Machine, tmp_path: Path, gone: str
) -> None:
    alice, carol = machine.equipped("alice"), machine.enrol("carol", FIRST)
    wards = tmp_path / "wards.csv"
    wards.write_text("text,label\nfine,0\nill,1\n")
    add(carol, wards, "--population", "patients")
    entry = Registry(carol.home).dataset("wards")
    mark = carol.ledger.fingerprint(entry.sha256)
    carol.ledger.charge(charge("bob", 1, data=mark), budget=ROOMY, max_rounds=5, at=CREATED_AT)
    if gone == "removed":
        Registry(carol.home).remove(entry)
    else:
        carol.home.left_mark.touch()

    with pytest.raises(LocalError, match=r"E-DATA-LEDGER.*charged to patients, on the ledger carol began"):
        add(alice, wards, "--population", "patients")
    digits = alice.review.registry.dataset("digits")
    alice.review.registry.remove(digits)
    alice.review.registry.add(digits.model_copy(update={"sha256": entry.sha256}))
    run = propose(alice.home, FIRST, PLANS["alice"])
    with pytest.raises(
        RefusedError, match=r"population\.of-data: this data was charged to patients, on the ledger carol"
    ):
        alice.review.approve(run, who="Anna")


def test_data_that_was_charged_is_added_again_for_its_population_alone(machine: Machine, tmp_path: Path) -> None:
    alice, wards = machine.enrol("alice", FIRST), tmp_path / "wards.csv"
    wards.write_text("text,label\nfine,0\nill,1\n")
    add(alice, wards, "--population", "patients")
    entry = Registry(alice.home).dataset("wards")
    mark = alice.ledger.fingerprint(entry.sha256)
    alice.ledger.charge(charge("alice", 1, data=mark), budget=ROOMY, max_rounds=5, at=CREATED_AT)
    Registry(alice.home).remove(entry)
    for options in (["--population", "customers"], []):
        with pytest.raises(LocalError, match=r"E-DATA-POPULATION.*was charged to population patients"):
            add(alice, wards, *options)
    add(alice, wards, "--population", "patients")


# --- a ledger that was set back ---


def test_records_that_one_member_misses_stop_every_member_that_charges_there(machine: Machine) -> None:
    alice, bob = machine.enrol("alice", FIRST), machine.enrol("bob", SECOND)
    lost = LedgerHead(9, b"l" * 32)
    alice.ledger.losses.note(lost)
    with pytest.raises(RefusedError, match=r"E-LEDGER-ROLLBACK.*a member of this machine showed records"):
        bob.ledger.charge(charge("bob", 1), budget=ROOMY, max_rounds=5, at=CREATED_AT)
    assert code_of(open_home(bob.home.directory).ledger.losses.require_none) == "E-LEDGER-ROLLBACK"
    carol = machine.enrol("carol", FIRST)
    carol.ledger.charge(charge("alice", 1), budget=ROOMY, max_rounds=5, at=CREATED_AT)
    bob.ledger.losses.note(None)
    assert code_of(bob.ledger.losses.require_none) == "E-LEDGER-ROLLBACK", "each member speaks for itself"
    alice.ledger.losses.note(None)
    bob.ledger.charge(charge("bob", 1), budget=ROOMY, max_rounds=5, at=CREATED_AT)


def test_who_lost_nothing_after_another_accounted_for_the_loss_exhausts_nothing(machine: Machine) -> None:
    alice, bob = machine.equipped("alice"), machine.equipped("bob")
    entry = Reanchored(member=signing_key("alice").public, lost_sequence=9, lost_hash=b"l" * 32, who="Anna")
    alice.ledger.reanchor(entry, [], at=CREATED_AT)
    shown = heads_of("bob", LedgerHead(7, b"s" * 32))
    welcome = Welcome(2, "0", "test-federation", LedgerHead(0, bytes(32)), (shown,), ())
    loss = find_loss(bob, load_policy(bob.home), welcome, lambda _: PLANS["bob"].to_bytes(), named={"bb": 1})
    assert (loss.records, loss.unexplained, loss.exhausted) == (0, 0, ())
    far = heads_of("bob", LedgerHead(20, b"s" * 32))
    beyond = Welcome(2, "0", "test-federation", LedgerHead(0, bytes(32)), (far,), ())
    loss = find_loss(bob, load_policy(bob.home), beyond, lambda _: PLANS["bob"].to_bytes(), named={"bb": 1})
    assert loss.records == 10
    assert loss.exhausted == ("patients",)
    assert any("--only-policy-changed" in line for line in loss.to_lines())


def heads_of(name: str, ledger: LedgerHead) -> HeadsShown:
    at = Position(PLANS[name].hash, 1, 1)
    unsigned = HeadsShown(at, name, Moment.TRAIN, JournalHead(1, b"j" * 32), ledger)
    return replace(unsigned, signature=signing_key(name).sign(unsigned.signed_bytes(2)))


def test_a_directory_that_was_moved_is_found_where_it_is(machine: Machine) -> None:
    alice = machine.enrol("alice", FIRST)
    moved = alice.home.directory.rename(machine.path / "elsewhere")
    opened = open_home(moved)
    assert [member.home for member in machine.ledgers.members()] == [str(moved)]
    shutil.copytree(moved, machine.path / "copy")
    open_home(machine.path / "copy")
    assert opened.ledgers.member(opened.owner.identity.public, opened.home).home == str(moved), "a copy takes no place"


def test_ledgers_lie_in_the_users_directory_of_states(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert default_directory() == tmp_path / "state" / "onlysum"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # not to be followed, by its specification
    monkeypatch.setenv("HOME", str(tmp_path / "alice"))
    assert default_directory() == tmp_path / "alice" / ".local" / "state" / "onlysum"

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(LocalError, match=r"E-USAGE.*--ledgers DIR"):
        default_directory()


# --- backups ---


@pytest.fixture
def backed_up(machine: Machine) -> tuple[OpenHome, Path]:
    """Alice, with a backup after her first round, and a second round since."""
    alice, archive = machine.enrol("alice", FIRST), machine.path / "alice.tar.gz"
    alice.ledger.charge(charge("alice", 1), budget=ROOMY, max_rounds=5, at=CREATED_AT)
    write_backup(alice, archive)
    alice.ledger.charge(charge("alice", 2), budget=ROOMY, max_rounds=5, at=CREATED_AT)
    return alice, archive


def rounds(opened: OpenHome) -> int:
    return sum(run.rounds for run in opened.ledger.spent("patients").runs)


def test_a_restored_member_finds_the_longer_ledger_that_is_there(
    machine: Machine, backed_up: tuple[OpenHome, Path]
) -> None:
    alice, archive = backed_up
    shutil.rmtree(alice.home.directory)
    read_backup(archive, alice.home.directory, at=NOW)
    assert rounds(open_home(alice.home.directory)) == 2
    assert not (alice.home.directory / "ledgers").exists()


def test_a_longer_ledger_in_a_backup_adds_what_is_missing(machine: Machine, backed_up: tuple[OpenHome, Path]) -> None:
    alice, older = backed_up
    newer, place = machine.path / "newer.tar.gz", machine.path / "new-machine"
    write_backup(alice, newer)
    read_backup(older, machine.path / "one", at=NOW, ledgers=place)
    one = open_home(machine.path / "one")
    assert (rounds(one), one.ledger.key) == (1, alice.ledger.key)
    assert load_settings(one.home).ledger_directory(one.home) == place
    shutil.rmtree(one.home.directory)
    read_backup(newer, machine.path / "two", at=NOW, ledgers=place)
    assert rounds(open_home(machine.path / "two")) == 2


def test_nobody_charges_to_a_restored_ledger_before_its_member_has_compared_it(
    machine: Machine, backed_up: tuple[OpenHome, Path]
) -> None:
    _, archive = backed_up
    place = machine.path / "new-machine"
    read_backup(archive, machine.path / "one", at=NOW, ledgers=place)
    bob = open_home(enrol(machine.path / "bob", SECOND, name="bob", ledgers=place).directory)
    with pytest.raises(RefusedError, match=r"E-LEDGER-ROLLBACK.*was restored, and not compared yet"):
        bob.ledger.charge(charge("bob", 1), budget=ROOMY, max_rounds=5, at=CREATED_AT)
    open_home(machine.path / "one").ledger.losses.note(None)  # as its daemon does after a handshake
    bob.ledger.charge(charge("bob", 1), budget=ROOMY, max_rounds=5, at=CREATED_AT)


def test_two_copies_that_went_on_apart_are_not_joined(machine: Machine, backed_up: tuple[OpenHome, Path]) -> None:
    alice, archive = backed_up
    place = machine.path / "new-machine"
    read_backup(archive, machine.path / "one", at=NOW, ledgers=place)
    one = open_home(machine.path / "one")
    one.ledger.losses.note(None)
    one.ledger.charge(charge("alice", 3), budget=ROOMY, max_rounds=5, at=CREATED_AT)
    newer = machine.path / "newer.tar.gz"
    write_backup(alice, newer)
    shutil.rmtree(one.home.directory)
    with pytest.raises(RefusedError, match="E-LEDGER-ROLLBACK"):
        read_backup(newer, machine.path / "two", at=NOW, ledgers=place)
    assert not (machine.path / "two").exists()
    with_records = LedgerDirectory(place)
    (member,) = with_records.members()
    assert len(with_records.open(member).rows()) == len(one.ledger.rows()), "as it was"


def test_nothing_is_restored_over_another_ledger_or_member(machine: Machine, backed_up: tuple[OpenHome, Path]) -> None:
    _, archive = backed_up
    foreign = open_home(enrol(machine.path / "bob", SECOND, name="bob", ledgers=machine.path / "bobs").directory)
    with pytest.raises(LocalError, match="another ledger lies in"):
        read_backup(archive, machine.path / "back", at=NOW, ledgers=foreign.ledgers.path)
    same = open_home(enrol(machine.path / "carol", FIRST, name="carol", ledgers=machine.path / "carols").directory)
    with pytest.raises(LocalError, match="another member of test-federation charges to the ledger"):
        read_backup(archive, machine.path / "back", at=NOW, ledgers=same.ledgers.path)
    assert rounds(foreign) == rounds(same) == 0


def test_a_backup_holds_what_a_run_came_to_and_nothing_unmasked_or_under_masks(machine: Machine) -> None:
    alice = machine.enrol("alice", FIRST)
    run, archive = alice.home.runs / ("ab" * 16), machine.path / "runs.tar.gz"
    run.mkdir(parents=True)
    stays = {"journal", "certificate.1", "report.json", "adapter.3", "sum.words", "kept-2"}
    for name in (*stays, "encoded-3", "masked-3-1", "shares-3-1", "summed-2"):
        (run / name).write_bytes(b"x")
    write_backup(alice, archive)
    read_backup(archive, machine.path / "back", at=NOW, ledgers=machine.path / "new-machine")
    assert {path.name for path in (machine.path / "back" / "runs" / run.name).iterdir()} == stays


def test_a_backup_holds_one_members_ledger_alone(machine: Machine, backed_up: tuple[OpenHome, Path]) -> None:
    carol = machine.enrol("carol", FIRST)
    archive = machine.path / "carol.tar.gz"
    write_backup(carol, archive)
    read_backup(archive, machine.path / "back", at=NOW, ledgers=machine.path / "new-machine")
    place = LedgerDirectory(machine.path / "new-machine")
    assert [member.name for member in place.members()] == ["carol"]
    assert not place.file(SHARED).exists(), "that is alice's"
    assert read_private(place.path / f"{carol.member.ledger}.key") is not None


DAMAGED: dict[str, Callable[[LedgerDirectory], object]] = {
    "one byte of the ledger": lambda at: at.file(SHARED).write_bytes(b"X" + at.file(SHARED).read_bytes()[1:]),
    "an empty ledger": lambda at: at.file(SHARED).write_bytes(b""),
    "no key": lambda at: at.key_file(SHARED).unlink(),
    "a key that is none": lambda at: at.key_file(SHARED).write_bytes(b"X"),
    "her entry": lambda at: next((at.path / "members").iterdir()).write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_backup_is_restored_over_what_cannot_be_read_which_is_kept(
    machine: Machine, backed_up: tuple[OpenHome, Path], damage: Callable[[LedgerDirectory], object]
) -> None:
    alice, archive = backed_up
    alice.ledger.close()
    damage(machine.ledgers)
    assert code_of(lambda: open_home(alice.home.directory)) == "E-STATE-DAMAGED"
    shutil.rmtree(alice.home.directory)
    kept = read_backup(archive, alice.home.directory, at=NOW)
    assert rounds(open_home(alice.home.directory)) >= 1
    assert all(path.exists() for path in kept)
    assert kept or machine.ledgers.key_file(SHARED).read_bytes() != b"X"


def test_a_backup_is_not_tried_where_its_member_lives(machine: Machine, backed_up: tuple[OpenHome, Path]) -> None:
    alice, archive = backed_up
    with pytest.raises(LocalError, match=r"E-EXISTS: alice lies in .*/alice already; to try a backup, name --ledgers"):
        read_backup(archive, machine.path / "drill", at=NOW)
    assert [member.home for member in machine.ledgers.members()] == [str(alice.home.directory)]
    read_backup(archive, machine.path / "drill", at=NOW, ledgers=machine.path / "drill-ledgers")
