"""An approved run reserves its whole price: another that fits only without it is not approved before that is free."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import pytest

from participant.owner.cost import lifetime_budget
from participant.owner.plan_page import plan_page
from participant.owner.plan_store import Ended
from participant.owner.policy import parse_policy
from participant.owner.reservations import Reservation
from privacy.errors import OnlysumError, RefusedError
from tests.worlds.owner import OwnerDirectory, owned_plan, policy_text
from tests.worlds.plans import sign_plan

FIRST, SECOND = "aa" * 16, "bb" * 16
EXPIRED = 10**10


def both(path: Path, approval: str = "by-hand") -> OwnerDirectory:
    """An owner with two plans, of which the budget covers either and not both."""
    plans = [owned_plan(mode="distributed", run_id=run_id) for run_id in (FIRST, SECOND)]
    text = policy_text(approval=approval).replace("lifetime_delta = 1e-6", "lifetime_delta = 1e-6\norder = 3")
    owner = OwnerDirectory(path, plan=plans[0], policy=text)
    for plan in plans:
        owner.review().plans.put(plan.to_bytes(), sign_plan(plan))
    alone = owner.review().judge_run(FIRST).cost
    assert alone is not None
    text = text.replace("lifetime_epsilon = 40", f"lifetime_epsilon = {alone.lifetime_after + 0.01:.3f}")
    owner.write_policy(text)
    return owner


@pytest.fixture
def owner(tmp_path: Path) -> OwnerDirectory:
    return both(tmp_path / "alice")


def refusal(owner: OwnerDirectory) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        owner.review().approve(SECOND)
    return refused.value


def reserved(owner: OwnerDirectory) -> tuple[Reservation, ...]:
    review = owner.review()
    return review.reservations.of("patients", review.policy(), now=owner.clock.now())


def test_a_second_run_that_fits_only_without_the_first_ones_reservation_is_not_approved(owner: OwnerDirectory) -> None:
    review = owner.review()
    review.approve(FIRST)
    assert [reservation.run_id for reservation in reserved(owner)] == [FIRST]
    error = refusal(owner)
    assert error.code == "E-POLICY-BUDGET"
    assert error.detail.startswith("population.reserved: with what approved runs reserve (aaaaaaaa)")
    assert review.plans.decision(SECOND) is None, "it may be approved once the first has ended"


def test_by_policy_it_waits_and_is_approved_when_the_reservation_ends(tmp_path: Path) -> None:
    owner = both(tmp_path / "alice", "by-policy")
    review = owner.review()
    assert review.decide_by_policy(FIRST).verdict == "approved"
    with pytest.raises(RefusedError, match="E-POLICY-WAITING"):
        review.decide_by_policy(SECOND)
    assert review.plans.decision(SECOND) is None
    review.plans.end(FIRST, Ended(state="aborted", code="E-RUN-FAILED", at=0))
    assert review.decide_by_policy(SECOND).verdict == "approved"


def test_a_reservation_ends_with_a_refusal_and_with_its_plans_expiry(owner: OwnerDirectory) -> None:
    review = owner.review()
    review.approve(FIRST)
    policy = review.policy()
    assert review.reservations.of("patients", policy, now=float(EXPIRED)) == ()
    assert review.reservations.of("others", policy, now=owner.clock.now()) == ()
    review.refuse(FIRST, because="not any more")
    assert reserved(owner) == ()
    assert review.approve(SECOND).verdict == "approved"


def test_an_approved_run_is_not_refused_by_what_a_later_one_reserves(owner: OwnerDirectory) -> None:
    owner.write_policy(owner.home.policy.read_text().replace("lifetime_epsilon = ", "lifetime_epsilon = 1"))
    review = owner.review()
    review.approve(FIRST)
    review.approve(SECOND)
    owner.write_policy(owner.home.policy.read_text().replace("lifetime_epsilon = 1", "lifetime_epsilon = "))
    assert review.judge_run(FIRST).assessment.refusal() is None
    cost = review.judge_run(FIRST).cost
    assert cost is not None
    assert cost.reserving == ()


def test_of_two_approvals_at_once_one_gets_the_budget(owner: OwnerDirectory) -> None:
    outcomes: list[str] = []

    def approve(run_id: str) -> None:
        try:
            outcomes.append(owner.review().approve(run_id).verdict)
        except OnlysumError as error:
            outcomes.append(error.code)

    racing = [Thread(target=approve, args=(run_id,)) for run_id in (FIRST, SECOND)]
    for thread in racing:
        thread.start()
    for thread in racing:
        thread.join()
    assert sorted(outcomes) == ["E-POLICY-BUDGET", "approved"]


def test_the_page_says_what_is_left_after_reservations(owner: OwnerDirectory) -> None:
    review = owner.review()
    review.approve(FIRST)
    judged = review.judge_run(SECOND)
    assert judged.cost is not None
    text = "\n".join(plan_page(judged, "alice", None).lines())
    assert "Reserved by approved runs (aaaaaaaa): once they and this run are charged" in " ".join(text.split())
    budget = lifetime_budget(parse_policy(owner.home.policy.read_text()).population["patients"])
    assert judged.cost.lifetime_after <= budget.epsilon < judged.cost.lifetime_promised
