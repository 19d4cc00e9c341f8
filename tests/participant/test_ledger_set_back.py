"""A daemon whose ledger was set back, or whose budget was spent meanwhile: it abstains by name and spends nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from privacy.dp.events import round_event
from privacy.errors import PeerError, Phase
from privacy.ledger import LifetimeBudget
from privacy.ledger_entries import Charge
from privacy.secagg.messages import Advertisement, ShareBundle
from protos.envelope import Abstained, LedgerHead, PlanRefused, Submission
from tests.worlds.owner import give, owned_plan, policy_text
from tests.worlds.plans import CREATED_AT, signing_key
from tests.worlds.rehearsal import ME, Rehearsal

ROOMY = LifetimeBudget("example", 1000.0, 1e-6, 2)


@pytest.fixture
def begun(tmp_path: Path) -> Rehearsal:
    """A run whose first round is charged and summed."""
    made = Rehearsal(tmp_path / ME)
    made.propose()
    made.round(1)
    made.me.link.take()
    return made


def meet(made: Rehearsal, head: LedgerHead) -> None:
    """Let a new daemon shake hands with a coordinator that has seen a head of this member's ledger."""
    made.restart()
    made.me.link.welcome_head = head
    made.daemon._compare(made.me.link.welcome())


def signed(sequence: int) -> LedgerHead:
    """Return a head that this member has signed, of a record that its ledger does not have."""
    head = LedgerHead(sequence, bytes(32))
    return replace(head, signature=signing_key(ME).sign(head.signed_bytes))


def asked(made: Rehearsal, number: int) -> list[Submission]:
    """Open a round and return what the daemon answers."""
    made.open(number)
    give(made.daemon, made.task())
    return made.me.link.take()


def written(made: Rehearsal) -> list[bytes]:
    return [record.body for record in made.me.ledger().rows()]


def test_a_ledger_from_before_the_head_that_was_shown_abstains_and_charges_nothing(begun: Rehearsal) -> None:
    file = begun.me.home.directory / "ledger.db"
    ledger = begun.me.ledger()
    ledger._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger.close()
    shutil.copy(file, file.with_suffix(".copy"))
    begun.round(2)
    shown = begun.me.ledger().head()
    for path in file.parent.glob("ledger.db*"):
        path.unlink()
    file.with_suffix(".copy").rename(file)
    meet(begun, shown)
    before = written(begun)
    (abstained,) = asked(begun, 3)
    assert isinstance(abstained, Abstained)
    assert abstained.code == "E-LEDGER-ROLLBACK"
    assert written(begun) == before
    assert begun.me.trained == [1, 2]


def test_a_ledger_of_another_branch_abstains(begun: Rehearsal) -> None:
    head = begun.me.ledger().head()
    meet(begun, signed(head.sequence))
    before = written(begun)
    (abstained,) = asked(begun, 2)
    assert isinstance(abstained, Abstained)
    assert abstained.code == "E-LEDGER-ROLLBACK"
    assert written(begun) == before


def test_a_charge_is_shown_before_it_trains_and_a_ledger_set_back_to_before_it_abstains(begun: Rehearsal) -> None:
    """A backup, one round, a restore: no handshake lies between, and nobody has seen the charge in one."""
    file = begun.me.home.directory / "ledger.db"
    ledger = begun.me.ledger()
    ledger._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger.close()
    shutil.copy(file, file.with_suffix(".copy"))
    known: list[LedgerHead] = []
    begun.me.on_training = lambda number: known.append(begun.me.link.heads[-1].ledger)
    begun.round(2)
    assert known == [begun.me.ledger().head()], "the coordinator has it before training begins"
    for path in file.parent.glob("ledger.db*"):
        path.unlink()
    file.with_suffix(".copy").rename(file)
    begun.restart()
    welcome = replace(begun.me.link.welcome(), last_heads=(begun.me.link.heads[-1],))
    begun.daemon._compare(welcome)
    (abstained,) = asked(begun, 3)
    assert isinstance(abstained, Abstained)
    assert abstained.code == "E-LEDGER-ROLLBACK"
    assert begun.me.trained == [1, 2]


def test_a_charge_that_the_coordinator_does_not_take_trains_nothing(begun: Rehearsal) -> None:
    """It has seen a newer ledger of this member: this one was set back, or a copy of it went on elsewhere."""

    def refuse(what: str) -> None:
        if what == "HeadsShown" and len(begun.me.ledger().rows()) > rows:
            raise PeerError.by_participant(ME, "E-LEDGER-ROLLBACK", Phase.ADVERTISE_KEYS, "its ledger is older")

    rows = len(begun.me.ledger().rows())
    begun.me.link.before = refuse
    begun.open(2)
    begun.phase()
    begun.phase()
    give(begun.daemon, begun.task())
    (abstained,) = begun.me.link.take()
    assert isinstance(abstained, Abstained)
    assert abstained.code == "E-LEDGER-ROLLBACK"
    assert begun.me.trained == [1]
    assert [charge.round for charge in begun.charges()] == [1, 2]


def test_the_newest_copy_takes_part_again(begun: Rehearsal) -> None:
    head = begun.me.ledger().head()
    meet(begun, signed(head.sequence + 1))
    assert isinstance(asked(begun, 2)[0], Abstained)
    begun.me.link.welcome_head = head
    begun.daemon._compare(begun.me.link.welcome())
    begun.round(2)
    assert [charge.round for charge in begun.charges()] == [1, 2]


def test_a_budget_that_another_run_spent_after_the_approval_stops_the_next_round_before_it_trains(
    begun: Rehearsal,
) -> None:
    budget = "lifetime_epsilon = 40"
    text = begun.me.home.policy.read_text()
    event = round_event(owned_plan(mode="distributed"))
    assert event is not None
    ledger = begun.me.ledger()
    for number in range(1, 31):
        other = Charge(
            run_id="cd" * 16, plan_hash=b"\6" * 32, round=number, population="patients", unit="example",
            relation="zero-out", event=event, delta="0.00001",
        )  # fmt: skip
        ledger.charge(other, budget=ROOMY, max_rounds=30, at=CREATED_AT)
    ledger.close()
    begun.me.write_policy(text.replace(budget, "lifetime_epsilon = 20"))
    spent = begun.me.ledger().spent("patients")
    begun.open(2)
    answers: list[Submission] = []
    while (task := begun.due_task()) is not None:
        give(begun.daemon, task)
        answers += begun.me.link.take()
        if not isinstance(answers[-1], Advertisement | ShareBundle):
            break
        begun.machine.receive(answers[-1])
        begun.ask_others()
        begun.machine.close()
    assert isinstance(answers[-1], Abstained)
    assert answers[-1].code == "E-POLICY-BUDGET"
    assert begun.me.ledger().spent("patients") == spent
    assert begun.me.trained == [1]


def test_a_plan_that_the_budget_does_not_cover_is_refused_with_the_names_of_rules_alone(tmp_path: Path) -> None:
    text = policy_text().replace("lifetime_epsilon = 40", "lifetime_epsilon = 5")
    made = Rehearsal(tmp_path / ME, policy=text)
    (refused,) = made.propose()
    assert isinstance(refused, PlanRefused)
    assert refused.code == "E-POLICY-BUDGET"
    assert refused.because == "refused by policy: population.lifetime-epsilon"
    assert made.charges() == []
