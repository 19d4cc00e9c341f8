"""A participant whose ledger was set back goes on: what is missing is charged at its worst, its runs stay closed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from audit.ledger_export import verify_ledger
from host.credentials import load_signing_key, read_private
from host.locks import only_daemon
from participant.commands.participant import app
from participant.daemon.reanchor import FetchPlan, Loss, OpenRun, find_loss, reanchor
from participant.daemon.status import StatusFile
from participant.home import Home
from participant.opened import OpenHome, open_home
from participant.owner.cost import cost_of, lifetime_budget
from participant.owner.ledger import Ledger
from participant.owner.plan_store import Ended
from participant.owner.policy import load_policy
from participant.runs.journal import Journal
from participant.runs.rollback import lost_head, own_heads
from participant.views.ledger import ledger_view
from participant.views.status import participant_status
from privacy.canonical import Json
from privacy.dp.events import round_event
from privacy.errors import LocalError, NetworkError, OnlysumError, PeerError, Phase, RefusedError, VerificationError
from privacy.heads import HeadsShown, JournalHead, LedgerHead, Moment
from privacy.ledger import verify_chain, verify_export
from privacy.ledger_entries import Charge, PolicyChange, Reanchored, entry_from_json, entry_to_json
from privacy.plan import PROTOCOL_VERSION, Plan, VerifiedPlan
from privacy.secagg.keys import SigningKey
from privacy.secagg.messages import Position
from protos.envelope import Welcome
from tests.worlds.enrolled import authority, enrol, equip, propose
from tests.worlds.federation import VirtualClock
from tests.worlds.owner import owned_plan
from tests.worlds.plans import CREATED_AT, signing_key

MADE = authority()
ME, ANNA, NOW = "alice", "Anna Meier", CREATED_AT + 90
MEMBER = signing_key(ME).public
ROUNDS = 5


def charge(plan: Plan, number: int) -> Charge:
    """What a round of a plan is charged as."""
    event = round_event(plan)
    assert event is not None
    privacy = plan.privacy
    return Charge(
        run_id=plan.run_id, plan_hash=plan.hash, round=number, population="patients", unit=privacy.unit,
        relation=privacy.relation, event=event, delta=privacy.delta,
    )  # fmt: skip


def heads(plan_hash: bytes, number: int, ledger: LedgerHead, moment: Moment = Moment.TRAIN) -> HeadsShown:
    """What alice has signed in a round."""
    unsigned = HeadsShown(Position(plan_hash, number, 1), ME, moment, JournalHead(1, b"j" * 32), ledger)
    return replace(unsigned, signature=signing_key(ME).sign(unsigned.signed_bytes(PROTOCOL_VERSION)))


def signed(home: Home, head: LedgerHead) -> LedgerHead:
    """What alice's ledger has signed."""
    key = SigningKey(load_signing_key(read_private(home.directory / "ledgers" / "ledger.key")))
    return replace(head, signature=key.sign(head.signed_bytes))


def nowhere(plan_hash: bytes) -> bytes:
    """A coordinator that does not have the plan either."""
    raise PeerError.by_coordinator("E-WIRE-UNEXPECTED", Phase.DOWNLOAD, "there is no such content for this member")


@dataclass
class SetBack:
    """Alice's directory, restored from before two rounds of a run were charged."""

    home: Home
    plan: Plan
    lost: LedgerHead  # after both charges
    shown: HeadsShown

    def open(self) -> OpenHome:
        return open_home(self.home.directory)

    def welcome(self, *shown: HeadsShown, head: LedgerHead | None = None) -> Welcome:
        """What an honest coordinator answers."""
        return Welcome(PROTOCOL_VERSION, "0", "test-federation", head or LedgerHead(0, b""), shown, ())

    def loss(self, welcome: Welcome | None = None, fetch: FetchPlan = nowhere, **options: object) -> Loss:
        opened = self.open()
        found = welcome or self.welcome(self.shown)
        return find_loss(opened, load_policy(self.home), found, fetch, **options)  # type: ignore[arg-type]  # by name

    def go_on(self, loss: Loss) -> OpenHome:
        reanchor(self.open(), loss, who=ANNA, at=NOW)
        return self.open()

    def charge_now(self, plan: Plan) -> None:
        budget = lifetime_budget(load_policy(self.home).population["patients"])
        self.open().ledger.charge(charge(plan, 1), budget=budget, max_rounds=ROUNDS, at=NOW)


def copied(ledger: Ledger, path: Path, target: Path) -> None:
    ledger._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger.close()
    shutil.copy(path, target)


@pytest.fixture
def set_back(tmp_path: Path) -> SetBack:
    home = enrol(tmp_path / ME, MADE)
    plan = owned_plan(mode="distributed")
    equip(home, MADE, plan)
    opened = open_home(home.directory)
    opened.review.approve(propose(home, MADE, plan), who=ANNA)
    path = home.directory / "ledgers" / "ledger.db"
    copied(opened.ledger, path, tmp_path / "backup")
    ledger = open_home(home.directory).ledger
    budget = lifetime_budget(load_policy(home).population["patients"])
    for number in (1, 2):
        ledger.charge(charge(plan, number), budget=budget, max_rounds=plan.recipe.rounds, at=CREATED_AT)
    lost = ledger.head()
    ledger.close()
    for file in path.parent.glob("ledger.db*"):
        file.unlink()
    shutil.copy(tmp_path / "backup", path)
    return SetBack(home, plan, lost, heads(plan.hash, 2, lost))


def test_a_block_of_rounds_with_correlated_noise_is_charged_once_and_not_where_the_ledger_has_it() -> None:
    privacy = {"bands": [5, 3], "sampling_rate": "0.25", "sensitivity": 16}
    plan = owned_plan(mode="distributed", recipe={"rounds": 5}, privacy=privacy)
    kept = OpenRun(plan, plan.hash, 3, frozenset({1}), ("patients",))
    assert [kept.rounds(named) for named in (None, 5, 4, 3)] == [(3, 5), (3, 5), (3,), (3,)]
    assert OpenRun(plan, plan.hash, 2, frozenset(), ("patients",)).rounds(2) == (1,)


def test_what_is_missing_is_shown_and_nothing_is_written_before_a_person_has_confirmed_it(set_back: SetBack) -> None:
    before = set_back.open().ledger.rows()
    loss = set_back.loss()
    ((run, rounds),) = loss.runs
    assert (run.plan, run.shown, run.populations) == (set_back.plan, 2, ("patients",))
    assert rounds == tuple(range(1, set_back.plan.recipe.rounds + 1)), "all of it: nobody knows that it was not more"
    assert (loss.records, loss.lost.place, loss.exhausted) == (2, set_back.lost.place, ())
    text = "\n".join(loss.to_lines())
    assert "At least 2 records of the ledger are missing" in text
    assert "your own signed heads name rounds up to 2" in text
    assert set_back.open().ledger.rows() == before


def test_the_loss_is_charged_at_its_worst_and_the_ledger_goes_on_above_it(set_back: SetBack) -> None:
    opened = set_back.go_on(set_back.loss())
    ledger, total = opened.ledger, set_back.plan.recipe.rounds
    (entry,) = [record.entry for record in ledger.rows() if isinstance(record.entry, Reanchored)]
    assert (entry.lost_sequence, entry.lost_hash, entry.who) == (*set_back.lost.place, ANNA)
    assert [run.rounds for run in ledger.spent("patients").runs] == [total]
    assert ledger.head().sequence == set_back.lost.sequence + 1 + total
    assert ledger.verify() == len(ledger.rows())
    assert verify_export(ledger.export()) == ledger.rows()
    assert f"records up to {set_back.lost.sequence} were lost" in "\n".join(ledger_view(opened).to_lines())
    verified = verify_ledger(ledger.export())
    assert (verified.lost, verified.charges) == ((set_back.lost.sequence,), total)
    assert "charged again at their worst" in "\n".join(verified.to_lines())
    welcome = set_back.welcome(set_back.shown, head=set_back.lost)
    assert lost_head(ledger, welcome, own_heads(opened.owner, welcome)) is None, "what it had seen is accounted for"


def test_the_run_stays_closed_and_another_one_is_charged_as_ever(set_back: SetBack) -> None:
    opened = set_back.go_on(set_back.loss())
    journal = Journal.open(opened.home.runs / set_back.plan.run_id, set_back.plan.hash)
    assert journal.memory.refused == "E-LEDGER-ROLLBACK"
    other = owned_plan(mode="distributed", run_id="ef" * 16)
    set_back.charge_now(other)
    assert [run.run_id for run in set_back.open().ledger.spent("patients").runs] == [set_back.plan.run_id, "ef" * 16]


def test_a_person_may_name_fewer_rounds_but_not_fewer_than_their_own_heads(set_back: SetBack) -> None:
    start = set_back.plan.run_id[:8]
    ((_, rounds),) = set_back.loss(named={start: 2}).runs
    assert rounds == (1, 2)
    for number in (1, set_back.plan.recipe.rounds + 1):
        with pytest.raises(LocalError, match="E-USAGE"):
            set_back.loss(named={start: number})


def test_keys_alone_name_no_charge_of_their_round(set_back: SetBack) -> None:
    advertised = heads(set_back.plan.hash, 3, set_back.lost, Moment.ADVERTISE)
    ((run, _),) = set_back.loss(set_back.welcome(advertised)).runs
    assert run.shown == 2


def without_plan(home: Home, plan: Plan) -> None:
    shutil.rmtree(home.plans / plan.run_id)


def test_a_run_that_was_approved_after_the_backup_is_charged_by_the_plan_that_the_coordinator_keeps(
    set_back: SetBack,
) -> None:
    without_plan(set_back.home, set_back.plan)
    opened = set_back.go_on(set_back.loss(fetch=lambda plan_hash: set_back.plan.to_bytes()))
    assert [run.rounds for run in opened.ledger.spent("patients").runs] == [set_back.plan.recipe.rounds]
    propose(set_back.home, MADE, set_back.plan)
    journal = Journal.open(opened.home.runs / set_back.plan.run_id, set_back.plan.hash)
    assert journal.memory.refused, "also if the plan is proposed again"


OTHER_PLAN = owned_plan(mode="distributed", run_id="ee" * 16)
NO_PLAN: dict[str, FetchPlan] = {
    "nobody has": nowhere,
    "is another one": lambda plan_hash: OTHER_PLAN.to_bytes(),
    "is none": lambda plan_hash: b"{}",
}


@pytest.mark.parametrize("fetch", NO_PLAN.values(), ids=NO_PLAN.keys())
def test_a_run_whose_plan(fetch: FetchPlan, set_back: SetBack) -> None:
    """Nobody can say what it cost: the whole budget counts as spent."""
    without_plan(set_back.home, set_back.plan)
    loss = set_back.loss(fetch=fetch)
    assert (loss.unnamed_runs, loss.exhausted) == (1, ("patients",))
    opened = set_back.go_on(loss)
    with pytest.raises(RefusedError, match="E-POLICY-BUDGET"):
        set_back.charge_now(OTHER_PLAN)
    section = load_policy(set_back.home).population["patients"]
    cost = cost_of(VerifiedPlan(OTHER_PLAN, OTHER_PLAN.hash), section, opened.ledger.spent("patients"))
    assert cost is not None
    assert cost.lifetime_before >= section.lifetime_epsilon
    assert cost.lifetime_after > section.lifetime_epsilon
    assert "0.00 left" in "\n".join(ledger_view(opened).to_lines())


def test_records_that_no_run_explains_exhaust_the_budget_unless_a_person_says_what_they_are(set_back: SetBack) -> None:
    far = signed(set_back.home, LedgerHead(set_back.lost.sequence + set_back.plan.recipe.rounds, b"f" * 32))
    welcome = set_back.welcome(set_back.shown, head=far)
    loss = set_back.loss(welcome)
    assert (loss.unexplained, loss.exhausted) == (2, ("patients",))
    assert set_back.loss(welcome, policy_only=True).exhausted == ()


def test_the_policy_as_it_is_now_explains_one_missing_record_if_the_ledger_does_not_have_it(set_back: SetBack) -> None:
    far = signed(set_back.home, LedgerHead(set_back.lost.sequence + set_back.plan.recipe.rounds - 2 + 1, b"f" * 32))
    welcome = set_back.welcome(set_back.shown, head=far)
    assert set_back.loss(welcome).unexplained == 1
    set_back.home.policy.write_text(set_back.home.policy.read_text() + "# noted in a record that is lost\n")
    assert set_back.loss(welcome).exhausted == ()


def test_a_run_in_another_unit_than_its_population_is_kept_in_exhausts_it(set_back: SetBack) -> None:
    ledger = set_back.open().ledger
    budget = lifetime_budget(load_policy(set_back.home).population["patients"])
    other = replace(charge(OTHER_PLAN, 1), unit="user")
    ledger.charge(other, budget=replace(budget, unit="user"), max_rounds=1, at=CREATED_AT)
    loss = set_back.loss(set_back.welcome(replace_ledger(set_back.shown, set_back.lost.sequence + 1)))
    assert loss.exhausted == ("patients",)
    assert set_back.go_on(loss).ledger.verify()


def replace_ledger(shown: HeadsShown, sequence: int) -> HeadsShown:
    return heads(shown.position.plan_hash, shown.position.round, LedgerHead(sequence, b"l" * 32))


def test_a_ledger_that_holds_every_record_is_not_re_anchored(set_back: SetBack) -> None:
    here = set_back.open().ledger.head()
    forged = replace(set_back.shown, sender="bob")
    for welcome in (
        set_back.welcome(),
        set_back.welcome(heads(set_back.plan.hash, 1, here), head=here),
        set_back.welcome(forged, head=replace(set_back.lost, signature=bytes(64))),
    ):
        with pytest.raises(LocalError, match="nothing to re-anchor"):
            set_back.loss(welcome)


def test_a_ledger_that_went_on_another_way_since_is_re_anchored_above_both(set_back: SetBack) -> None:
    ledger = set_back.open().ledger
    for number in range(5):
        ledger.note_policy(PolicyChange(member=MEMBER, policy_sha256=bytes([number]) * 32, summary=""), at=NOW)
    here = ledger.head()
    assert here.sequence > set_back.lost.sequence
    opened = set_back.go_on(set_back.loss())
    assert opened.ledger.rows()[here.sequence].sequence == here.sequence + 1
    opened.ledger.require_at_least(set_back.lost)


def test_a_head_above_the_one_that_was_re_anchored_is_a_loss_again(set_back: SetBack) -> None:
    """The coordinator had kept back what it had seen."""
    opened = set_back.go_on(set_back.loss())
    newer = LedgerHead(set_back.lost.sequence + 1, b"n" * 32)
    with pytest.raises(RefusedError, match="E-LEDGER-ROLLBACK"):
        opened.ledger.require_at_least(newer)


@pytest.mark.parametrize("leap", [0, 2])
def test_numbers_leap_over_lost_records_alone(set_back: SetBack, leap: int) -> None:
    opened = set_back.go_on(set_back.loss())
    rows = opened.ledger.rows()
    place = next(index for index, record in enumerate(rows) if isinstance(record.entry, Reanchored))
    changed = [*rows[:place], replace(rows[place], sequence=rows[place].sequence + leap - 1)]

    with pytest.raises(VerificationError, match="does not follow"):
        verify_chain(changed, key=opened.ledger.key, every_signature=False)


def test_a_loss_that_cannot_be_written_whole_leaves_the_ledger_as_it_was(set_back: SetBack) -> None:
    opened = set_back.open()
    before = opened.ledger.rows()
    lost = Reanchored(member=MEMBER, lost_sequence=set_back.lost.sequence, lost_hash=set_back.lost.hash, who=ANNA)
    twice = [charge(set_back.plan, 1), replace(charge(set_back.plan, 2), unit="user")]
    with pytest.raises(RefusedError, match="E-LEDGER-UNIT"):
        opened.ledger.reanchor(lost, twice, at=NOW)
    assert opened.ledger.rows() == before


def test_no_answer_is_not_taken_for_the_answer_that_nobody_has_the_plan(set_back: SetBack) -> None:
    def silent(plan_hash: bytes) -> bytes:
        raise NetworkError("E-NET-LOST", "the connection was closed")

    without_plan(set_back.home, set_back.plan)
    with pytest.raises(NetworkError):
        set_back.loss(fetch=silent)


def test_a_run_that_ended_here_is_charged_again_only_if_its_last_head_is_missing(set_back: SetBack) -> None:
    opened = set_back.open()
    opened.review.plans.end(set_back.plan.run_id, Ended(state="completed", code="", at=NOW))
    assert len(set_back.loss().runs) == 1, "it ended between the copy of the ledger and that of the plans"
    here = heads(set_back.plan.hash, 2, opened.ledger.head())
    assert set_back.loss(set_back.welcome(here, head=set_back.lost)).runs == ()


def test_a_journal_that_is_damaged_keeps_nobody_from_going_on(set_back: SetBack) -> None:
    journal = set_back.home.runs / set_back.plan.run_id / "journal"
    journal.parent.mkdir()
    journal.write_bytes(b"neither this nor that\n")
    assert set_back.go_on(set_back.loss()).ledger.verify()


LOST: dict[str, Json] = {
    "kind": "reanchored",
    "member": "ab" * 32,
    "lost_sequence": 4,
    "lost_hash": "00" * 32,
    "who": "Anna",
    "exhausted": ["patients"],
}
MALFORMED: dict[str, dict[str, Json]] = {
    "no member": {"member": None},
    "no number": {"lost_sequence": 0},
    "a truth value as a number": {"lost_sequence": True},
    "no text": {"who": 7},
    "populations that are no names": {"exhausted": ["patients", 7]},
    "a hash that is none": {"lost_hash": "zz"},
    "another field": {"when": 4},
}


@pytest.mark.parametrize("changes", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_record_of_a_loss_is_refused_with(changes: dict[str, Json]) -> None:
    entry = entry_from_json(LOST)
    assert entry_to_json(entry) == LOST
    with pytest.raises(ValueError, match=r"unknown|hexadecimal|fields"):
        entry_from_json({**LOST, **changes})


# --- the command ---


class FakeChannel:
    """A connection to an honest coordinator."""

    answer: Welcome

    def __init__(self, *_: object, **__: object) -> None:
        self.download_plan = nowhere

    def __enter__(self) -> FakeChannel:
        return self

    def __exit__(self, *_: object) -> None: ...

    def handshake(self, hello: object) -> Welcome:
        """Answer."""
        return self.answer


def test_the_command_shows_the_loss_and_writes_it_only_by_name(
    set_back: SetBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("participant.link.channel.Channel", FakeChannel)
    FakeChannel.answer = set_back.welcome(set_back.shown)
    monkeypatch.setenv("ONLYSUM_HOME", str(set_back.home.directory))

    def say(*words: str) -> str:
        result = CliRunner().invoke(app, ["ledger", "reanchor", *words], catch_exceptions=False, standalone_mode=False)
        return result.output

    before = set_back.open().ledger.rows()
    assert "Nothing was written" in say()
    assert set_back.open().ledger.rows() == before
    with pytest.raises(OnlysumError, match="write RUN=N"):
        say("--rounds", "many")
    assert f"Written to the ledger as {ANNA}" in say("--as", ANNA, "--rounds", f"{set_back.plan.run_id[:6]}=2")
    assert [run.rounds for run in set_back.open().ledger.spent("patients").runs] == [2]
    with pytest.raises(OnlysumError, match="nothing to re-anchor"):
        say("--as", ANNA)


@pytest.fixture
def running(set_back: SetBack) -> Iterator[None]:
    """While a daemon holds the directory."""
    with only_daemon(set_back.home.directory, "participant"):
        yield


@pytest.mark.usefixtures("running")
def test_status_does_not_say_that_all_is_well_where_every_run_is_refused(set_back: SetBack) -> None:
    status = StatusFile(set_back.home, VirtualClock())
    status.connected()
    status.abstaining(RefusedError("E-LEDGER-ROLLBACK", "record 9 of the ledger was shown and is missing here"))
    shown = participant_status(set_back.open())
    values = shown.to_json()
    assert isinstance(values, dict)
    assert str(values["abstains"]).startswith("E-LEDGER-ROLLBACK")
    text = "\n".join(shown.to_lines())
    assert "takes part in NO run" in text
    assert "ledger reanchor" in text
    status.abstaining(None, [set_back.plan.run_id])
    assert f"takes NO part in run {set_back.plan.run_id[:8]}" in "\n".join(
        participant_status(set_back.open()).to_lines()
    )
    status.abstaining(None)
    assert "NO run" not in "\n".join(participant_status(set_back.open()).to_lines())
