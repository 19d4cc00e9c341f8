"""What an owner allows and is shown of the graph, the suite, and who the others are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from participant.commands.participant import app
from participant.home import Home
from participant.owner.policy import parse_policy
from participant.owner.registry import Registry
from participant.owner.rules import Assessment, Outcome, assess
from privacy.errors import OnlysumError
from privacy.plan import Plan
from tests.worlds.assessed import ALICE
from tests.worlds.enrolled import authority, enrol, equip, propose
from tests.worlds.owner import owned_plan, pins, policy_text
from tests.worlds.plans import STRONG, make_plan, names, signing_key

MADE = authority()
PEERS = names(60)[1:]
ME = names(60)[0]
Say = Callable[..., str]


def floors(*lines: str) -> str:
    return "\n".join(["[floors]", *lines, ""])


def judged(text: str, **plan: Any) -> Assessment:
    made, _ = make_plan(**plan)
    me = made.roster[0].id
    local = replace(ALICE, me=me, identity_key=signing_key(me).public, cost=None)
    return assess(made, parse_policy(text), local)


def outcome(found: Assessment, rule: str) -> tuple[Outcome, str]:
    (one,) = [one for one in found.rules if one.name == rule]
    return one.outcome, one.says


# --- the graph ---


def test_a_policy_that_approves_by_itself_refuses_a_k_regular_graph_that_it_does_not_name() -> None:
    found = judged(policy_text(roster=PEERS), **STRONG)
    assert [one.name for one in found.broken] == ["floors.graphs"]
    assert outcome(found, "floors.graphs") == (
        Outcome.BROKEN,
        "the graph is k-regular, whose claim is weaker; to approve it by policy, name it in floors.graphs",
    )
    assert judged(policy_text(roster=PEERS) + floors('graphs = ["complete", "k-regular"]'), **STRONG).by_policy


def test_a_person_may_approve_a_k_regular_graph_unless_the_policy_names_others_only() -> None:
    by_hand = judged(policy_text(roster=PEERS, approval="by-hand"), **STRONG)
    assert outcome(by_hand, "floors.graphs") == (
        Outcome.NEEDS_APPROVAL,
        "the graph is k-regular, whose claim is weaker",
    )
    assert by_hand.refusal() is None
    strict = judged(policy_text(roster=PEERS, approval="by-hand") + floors('graphs = ["complete"]'), **STRONG)
    assert [one.name for one in strict.broken] == ["floors.graphs"]


def test_a_policy_may_ask_for_k_regular_graphs_alone() -> None:
    found = judged(policy_text() + floors('graphs = ["k-regular"]'))
    assert outcome(found, "floors.graphs") == (Outcome.BROKEN, "the graph is complete; allowed: k-regular")


# --- the suite ---


@pytest.mark.parametrize(("allowed", "suite", "met"), [("[2]", 1, False), ("[2]", 2, True), ("[1, 2]", 1, True)])
def test_a_policy_may_set_a_floor_on_the_suite(allowed: str, suite: int, met: bool) -> None:
    found = judged(policy_text() + floors(f"suites = {allowed}"), suite=suite)
    assert found.by_policy == met
    assert [one.name for one in found.broken] == ([] if met else ["floors.suites"])


def test_without_a_floor_both_suites_are_allowed_and_a_wrong_floor_is_refused() -> None:
    assert judged(policy_text(), suite=2).by_policy
    for wrong in ("suites = [3]", "suites = []", 'graphs = ["ring"]', "graphs = []"):
        with pytest.raises(OnlysumError) as caught:
            parse_policy(policy_text() + floors(wrong))
        assert caught.value.code == "E-CONFIG-INVALID"


# --- what the commands say ---


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return enrol(tmp_path / ME, MADE, name=ME)


@pytest.fixture
def say(home: Home, monkeypatch: pytest.MonkeyPatch) -> Say:
    monkeypatch.setenv("ONLYSUM_HOME", str(home.directory))

    def run(*words: str) -> str:
        said = CliRunner().invoke(app, list(words), catch_exceptions=False, standalone_mode=False).output
        return said if "--json" in words else " ".join(said.split())

    return run


def proposed(home: Home, policy: str, plan: Plan) -> str:
    equip(home, MADE, plan)
    home.policy.write_text(policy.replace("ab" * 32, MADE.fingerprint))
    return propose(home, MADE, plan)


def test_the_policy_is_shown_and_checked_with_its_graphs_and_suites(say: Say, home: Home) -> None:
    home.policy.write_text(policy_text(approval="by-hand"))
    assert "suites: 1, 2; graphs: complete; k-regular is left to a person" in say("policy", "show")
    home.policy.write_text(policy_text())
    assert "suites: 1, 2; graphs: complete; k-regular is refused" in say("policy", "show")
    notes = json.loads(say("policy", "check", "--json"))["notes"]
    assert any("plans on a k-regular graph are refused" in note for note in notes)
    assert any("plans of suite 1 are approved without a person" in note for note in notes)
    home.policy.write_text(policy_text() + floors('graphs = ["complete", "k-regular"]', "suites = [2]"))
    assert "suites: 2; graphs: complete, k-regular" in say("policy", "show")
    notes = json.loads(say("policy", "check", "--json"))["notes"]
    assert any("k-regular graph are approved without a person" in note for note in notes)
    assert not any("suite 1" in note for note in notes)


def test_the_rule_that_refuses_a_graph_or_suite_is_explained_and_nobody_approves(say: Say, home: Home) -> None:
    policy = policy_text(roster=PEERS) + floors("suites = [2]")
    run = proposed(home, policy, owned_plan(**STRONG))
    explained = {load["rule"]: load["outcome"] for load in json.loads(say("policy", "explain", run, "--json"))}
    assert (explained["floors.graphs"], explained["floors.suites"]) == ("broken", "broken")
    with pytest.raises(OnlysumError) as caught:
        say("plan", "approve", run)
    assert caught.value.code == "E-POLICY-RULE"
    assert "floors.graphs: the graph is k-regular" in caught.value.detail
    assert "floors.suites: the plan has suite 1" in caught.value.detail


def test_graph_suite_and_roster_stand_on_the_screen_in_the_page_and_in_the_status(
    say: Say, home: Home, tmp_path: Path
) -> None:
    plan = owned_plan(**STRONG)
    run = proposed(home, policy_text(roster=PEERS, approval="by-hand"), plan)
    say("plan", "show", run, "--html", str(tmp_path / "plan.html"))
    for said in (say("plan", "show", run), " ".join((tmp_path / "plan.html").read_text().split())):
        assert "graph k-regular: at most 28 neighbours" in said
        assert "suite 1: X25519, recordings do not withstand quantum computers" in said
        assert "Harvest now, decrypt later" in said
        assert "except with a probability of at most 2^-40" in said
        assert "roster: verified" in said
    shown = json.loads(say("plan", "show", run, "--json"))
    assert (shown["suite"], shown["graph"], shown["roster"]) == (1, "k-regular", "verified")
    assert json.loads(say("status", "--json"))["plans"] == {
        run: {
            "roster": "verified",
            "suite": 1,
            "graph": "k-regular",
            "training": "",
            "closed": False,
            "refused": "",
        }
    }
    assert "roster: verified; suite 1: X25519, recordings do not" in say("status")
    assert "graph k-regular: at most 28 neighbours" in say("status")


def test_a_complete_graph_and_suite_two_are_named_without_the_warnings(say: Say, home: Home) -> None:
    run = proposed(home, policy_text(roster=PEERS), owned_plan(n=60, f=1, suite=2))
    said = say("plan", "show", run)
    assert "graph complete: everybody masks with everybody; suite 2: X25519 and ML-KEM-768, recordings" in said
    assert "Harvest" not in said
    assert "2^-40" not in said


# --- who the others are ---


def test_who_is_not_pinned_leaves_the_roster_unverified_on_screen_and_in_status(say: Say, home: Home) -> None:
    run = proposed(home, policy_text(roster=PEERS[1:]), owned_plan(n=60, f=1))
    assert "p001 (not pinned)" in say("plan", "show", run)
    assert "roster: unverified. Compare the fingerprints" in say("plan", "show", run)
    assert json.loads(say("status", "--json"))["plans"][run]["roster"] == "unverified"
    home.policy.write_text(policy_text(roster=PEERS).replace("ab" * 32, MADE.fingerprint))
    assert json.loads(say("status", "--json"))["plans"][run]["roster"] == "verified", "pinned meanwhile"


def test_a_key_other_than_the_pinned_one_is_refused_and_never_called_verified(say: Say, home: Home) -> None:
    pinned = policy_text(roster=PEERS).replace(pins(["p001"]), 'p001 = "' + "00" * 16 + '"')
    run = proposed(home, pinned, owned_plan(n=60, f=1))
    said = say("plan", "show", run)
    assert "p001 (ANOTHER KEY)" in said
    assert "roster: unverified. The identity key of p001 is not the one that you pinned" in said
    assert "roster: verified" not in said
    assert "[BROKEN] roster.pinned: the plan has another key for p001" in said
    assert json.loads(say("plan", "show", run, "--json"))["roster"] == "unverified"
    assert json.loads(say("status", "--json"))["plans"][run]["roster"] == "unverified"
    with pytest.raises(OnlysumError) as caught:
        say("plan", "approve", run)
    assert "roster.pinned" in caught.value.detail


def test_a_dry_run_names_graph_suite_and_roster_and_every_rule_that_is_not_met(
    say: Say, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ready:
        remarks = ("2 of 3 rows are longer",)

        def prepare(self) -> None:
            """Nothing to check."""

        def step_on_rows(self) -> tuple[str, ...]:
            return ("turn 1 (shared): a step on 3 of 3 rows went well",)

        def rehearse(self, monotonic: Callable[[], float]) -> tuple[float, int, str]:
            return 11.2, 640, "cpu"

    monkeypatch.setattr("participant.daemon.assembly.torch_trainer", lambda job, **_: Ready())
    found = SimpleNamespace(rows=0, users=0, sha256="changed")
    monkeypatch.setattr("participant.owner.inspection.inspect", lambda *_, **__: found)
    run = proposed(home, policy_text(roster=PEERS[1:]), owned_plan(**STRONG))
    assert f"not known yet: `onlysum participant plan dry-run {run[:8]}` rehearses one" in say("plan", "show", run)
    entry = Registry(home).datasets()[0]
    found.rows, found.users = entry.rows + 1, entry.users
    with pytest.raises(OnlysumError, match=f"E-DATA-MISMATCH.*has {entry.rows + 1} rows"):
        say("plan", "dry-run", run)
    found.rows = entry.rows
    assert "The dataset's bytes are not those that were registered" in say("plan", "dry-run", run)
    found.sha256 = entry.sha256
    said = say("plan", "dry-run", run)
    assert "not those that were registered" not in said
    assert ": 2 of 3 rows are longer" in said
    assert ": turn 1 (shared): a step on 3 of 3 rows went well" in said
    assert "suite 1: X25519" in said
    assert "graph k-regular: at most 28 neighbours" in said
    assert "On cpu training takes up to 12 s a round, and 640 MiB of memory." in said
    assert "roster: unverified" in said
    assert "broken floors.graphs: the graph is k-regular" in said
    page = say("plan", "show", run)
    assert "On this machine (cpu) a round's training takes up to 12 s, and the daemon 640 MiB of memory" in page
    assert json.loads(say("plan", "show", run, "--json"))["rehearsal"]["seconds"] == 12
    shown = json.loads(say("plan", "dry-run", run, "--json"))
    assert {one["rule"]: one["outcome"] for one in shown["unmet"]} == {
        "roster.known": "needs a person",
        "floors.graphs": "broken",
    }
