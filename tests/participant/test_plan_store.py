"""Plans on disk: kept as they were signed, found by how their id begins, decided once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from participant.home import Home
from participant.owner.plan_store import Decision, Ended, PlanStore
from privacy.error_codes import REGISTRY
from privacy.errors import LocalError, OnlysumError, PeerError, VerificationError
from privacy.plan import VerifiedPlan, signed_plan_bytes
from privacy.secagg.keys import SigningKey
from tests.worlds.plans import OPERATOR, make_plan, sign_plan, signing_key

ONE, TWO, OTHER = "aa" * 16, "ab" * 16, "cd" * 16


@pytest.fixture
def plans(tmp_path: Path) -> PlanStore:
    home = Home(tmp_path)
    home.make()
    made = PlanStore(home, OPERATOR.public)
    for run_id in (ONE, TWO, OTHER):
        plan, _ = make_plan(run_id=run_id)
        made.put(plan.to_bytes(), sign_plan(plan))
    return made


def decision(verdict: str, **changes: object) -> Decision:
    fields = {"verdict": verdict, "plan_hash": "00" * 32, "who": "owner", "at": 1, "by": "hand", **changes}
    return Decision.model_validate(fields)


def test_a_kept_plan_is_the_one_that_was_signed(plans: PlanStore) -> None:
    plan, _ = make_plan(run_id=ONE)
    assert plans.get(ONE).plan == plan
    assert plans.signature(ONE) == sign_plan(plan)
    assert set(plans.run_ids()) == {ONE, TWO, OTHER}


def test_the_same_plan_again_changes_nothing_and_another_one_is_refused(plans: PlanStore) -> None:
    plan, _ = make_plan(run_id=ONE)
    kept = (plans.directory(ONE) / "plan.json").read_bytes()
    plans.put(plan.to_bytes(), sign_plan(plan))
    other, _ = make_plan(run_id=ONE, max_attempts=2)
    with pytest.raises(PeerError) as refused:
        plans.put(other.to_bytes(), sign_plan(other))
    assert (refused.value.code, refused.value.participant, refused.value.phase) == (
        "E-PLAN-CHANGED",
        "coordinator",
        "plan",
    )
    assert (plans.directory(ONE) / "plan.json").read_bytes() == kept


BAD_PLANS: dict[str, tuple[Callable[[bytes], bytes], SigningKey, str]] = {
    "another signature than the operator's": (lambda data: data, signing_key("mallory"), "E-PLAN-SIGNATURE"),
    "no plan at all": (lambda data: data[:-1], OPERATOR, "E-PLAN-MALFORMED"),
    "a broken rule": (lambda data: data.replace(b'"quorum":4', b'"quorum":3'), OPERATOR, "E-PLAN-RULE"),
}


@pytest.mark.parametrize(("spoil", "key", "code"), BAD_PLANS.values(), ids=BAD_PLANS.keys())
def test_a_proposed_plan_that_is_none_is_the_coordinators_fault_and_not_kept(
    spoil: Callable[[bytes], bytes], key: SigningKey, code: str, plans: PlanStore
) -> None:
    data = spoil(make_plan(run_id="ee" * 16)[0].to_bytes())
    with pytest.raises(PeerError) as refused:
        plans.put(data, key.sign(signed_plan_bytes(data)))
    assert (refused.value.code, refused.value.participant, refused.value.phase) == (code, "coordinator", "plan")
    assert set(plans.run_ids()) == {ONE, TWO, OTHER}


def test_a_plan_that_was_changed_on_disk_is_not_taken_from_there(plans: PlanStore) -> None:
    path = plans.directory(ONE) / "plan.json"
    path.write_bytes(path.read_bytes().replace(b'"f":1', b'"f":0'))
    with pytest.raises(VerificationError, match=f"E-STATE-DAMAGED: {plans.directory(ONE)}"):
        plans.get(ONE)
    path.write_bytes(make_plan(run_id=ONE)[0].to_bytes())
    (plans.directory(ONE) / "plan.sig").write_bytes(signing_key("mallory").sign(b"x"))
    with pytest.raises(VerificationError, match=f"E-STATE-DAMAGED: {plans.directory(ONE)}"):
        plans.get(ONE)


def test_the_same_bytes_of_a_plan_that_goes_on_are_verified_once(
    plans: PlanStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans.decide(ONE, decision("approved"))
    (first,) = plans.going_on()
    with monkeypatch.context() as patched:
        patched.setattr(VerifiedPlan, "verify", lambda *_: pytest.fail("verified again"))
        assert plans.going_on() == (first,)
        assert plans.get(ONE) is first
        with pytest.raises(pytest.fail.Exception):
            plans.get(TWO)  # nobody has approved it: nothing of it stays in memory
    (plans.directory(ONE) / "plan.sig").write_bytes(signing_key("mallory").sign(b"x"))
    with pytest.raises(VerificationError, match="E-STATE-DAMAGED"):
        plans.get(ONE)
    assert plans.going_on() == ()
    with pytest.raises(VerificationError, match="E-STATE-DAMAGED"):
        plans.going_on(strictly=True)


def test_a_run_is_found_by_how_its_id_begins_if_only_one_does(plans: PlanStore) -> None:
    assert plans.find("c") == plans.find(OTHER) == OTHER
    assert plans.find("ab") == TWO
    with pytest.raises(LocalError, match="E-NOT-FOUND: several plans of a run that begins with 'a'"):
        plans.find("a")
    with pytest.raises(LocalError, match="E-NOT-FOUND: no plan of a run that begins with 'd'"):
        plans.find("d")


def test_without_a_name_the_one_plan_that_waits_is_meant(plans: PlanStore) -> None:
    with pytest.raises(LocalError, match="E-NOT-FOUND: 3 plans wait, name one"):
        plans.find("")
    plans.decide(ONE, decision("approved"))
    plans.end(TWO, Ended(state="aborted", code="E-ABORTED", at=1))
    assert plans.find("") == OTHER
    plans.decide(OTHER, decision("refused", because="no"))
    with pytest.raises(LocalError, match="E-NOT-FOUND: no plan waits"):
        plans.find("")


@pytest.mark.parametrize("run_id", ["", "..", "../" + ONE, ONE[:-1], ONE + "0", ONE.upper(), "g" * 32])
def test_what_is_no_run_id_is_no_directory(plans: PlanStore, run_id: str) -> None:
    for ask in (plans.directory, plans.get, plans.decision, plans.ended):
        with pytest.raises(OnlysumError, match="E-NOT-FOUND"):
            ask(run_id)


def test_a_plan_that_was_never_proposed_is_not_found(plans: PlanStore) -> None:
    with pytest.raises(LocalError, match="E-NOT-FOUND: no plan of run"):
        plans.get("ff" * 16)


def test_a_decision_is_made_once_and_an_approval_may_be_taken_back(plans: PlanStore) -> None:
    assert plans.decision(ONE) is None
    approved, refused = decision("approved"), decision("refused", code="E-POLICY-RULE")
    plans.decide(ONE, approved)
    assert plans.decision(ONE) == approved
    with pytest.raises(LocalError, match="E-EXISTS"):
        plans.decide(ONE, decision("approved", who="somebody else"))
    plans.decide(ONE, refused)
    for again in (approved, refused):
        with pytest.raises(LocalError, match="E-EXISTS"):
            plans.decide(ONE, again)
    assert plans.decision(ONE) == refused
    plans.decide(TWO, refused)
    with pytest.raises(LocalError, match="E-EXISTS"):
        plans.decide(TWO, approved)


def test_how_a_run_ended_is_there_again_and_a_damaged_note_is_named(plans: PlanStore) -> None:
    assert plans.ended(ONE) is None
    ended = Ended(state="completed", code="", at=5)
    plans.end(ONE, ended)
    assert plans.ended(ONE) == ended
    (plans.directory(ONE) / "ended.json").write_text("{}")
    with pytest.raises(LocalError, match="E-STATE-DAMAGED"):
        plans.ended(ONE)


def test_a_decision_that_races_another_is_refused_and_neither_writes_over_a_refusal(plans: PlanStore) -> None:
    """Another store is what a command beside the daemon has."""
    other, outcomes = PlanStore(plans._home, OPERATOR.public), list[str]()

    def approve() -> None:
        try:
            other.decide(ONE, decision("approved", by="policy"))
        except LocalError as error:
            outcomes.append(error.code)

    racing = Thread(target=approve)
    with plans.deciding():
        assert plans.decision(ONE) is None
        racing.start()
        racing.join(timeout=0.3)
        assert racing.is_alive(), "it waits for who decides already"
        plans.decide(ONE, decision("refused"))
    racing.join(timeout=10)
    assert outcomes == ["E-EXISTS"]
    kept = plans.decision(ONE)
    assert kept is not None
    assert kept.verdict == "refused"


def test_of_many_who_decide_at_once_one_does(plans: PlanStore) -> None:
    outcomes: list[str] = []

    def approve(number: int) -> None:
        store = PlanStore(plans._home, OPERATOR.public) if number % 2 else plans
        try:
            store.decide(ONE, decision("approved", who=f"owner {number}"))
            outcomes.append("decided")
        except LocalError as error:
            outcomes.append(error.code)

    racing = [Thread(target=approve, args=(number,)) for number in range(12)]
    for thread in racing:
        thread.start()
    for thread in racing:
        thread.join()
    assert sorted(outcomes) == ["E-EXISTS"] * 11 + ["decided"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("", "aborted"),
        ("E-OF-A-NEWER-COORDINATOR", "aborted: E-OF-A-NEWER-COORDINATOR"),
        ("E-RUN-FAILED", f"aborted: E-RUN-FAILED, {REGISTRY['E-RUN-FAILED'].what}"),
    ],
)
def test_an_end_is_told_with_its_code_and_what_that_means_where_it_is_known(code: str, words: str) -> None:
    assert Ended(state="aborted", code=code, at=0).words == words
