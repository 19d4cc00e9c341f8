"""From a draft to a signed plan: roster, sizes, thresholds, noise and ring."""

from __future__ import annotations

import errno
import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import Listener, Settings
from coordinator.database import member_rows
from coordinator.database.member_rows import MemberRecord
from coordinator.database.store import Store
from coordinator.home import Home
from coordinator.runs import creation, thresholds
from coordinator.runs.creation import RunRequest, make_plan, read_ranks, register
from coordinator.runs.global_adapter import RunFiles
from coordinator.runs.thresholds import Requested
from privacy.claims import trust_sentences
from privacy.dp.accountants import require_claim
from privacy.draft import Draft, PrivacyTarget
from privacy.errors import LocalError
from privacy.plan import Plan, VerifiedPlan, default_f
from privacy.plan_parts import Graph, Mode
from protos.envelope import DatasetOffer, Role
from tests.worlds.coordinator import initial_adapter
from tests.worlds.federation import SeededSource
from tests.worlds.plans import CREATED_AT, OPERATOR, signing_key
from tests.worlds.plans import make_plan as a_plan
from tests.worlds.recipes import recipe_of

ENTRIES = 40
SETTINGS = Settings(
    federation="clinics",
    operator="The Institute",
    contact="sum@example.org",
    also_a_participant=("alice",),
    participants=Listener(address="127.0.0.1:1"),
    enrolment=Listener(address="127.0.0.1:2"),
)
SIZES = {"alice": 100, "bob": 200, "carol": 300, "dave": 400, "erin": 500}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A federation of five participants that announced their data, and an evaluator."""
    store = Store.create(f"sqlite:///{tmp_path}/coordinator.db")
    with store.begin() as connection:
        for name in (*SIZES, "referee", "zoe"):
            role = Role.EVALUATOR if name == "referee" else Role.PARTICIPANT
            member = MemberRecord(name, role, signing_key(name).public, b"", "", "", CREATED_AT, None)
            member_rows.enrol_member(connection, member, token_id="", request_hash=b"")
        for name, units in SIZES.items():
            member_rows.announce(connection, name, version="1", offers=[DatasetOffer("digits", units)])
    return store


def draft(mode: Mode = "none", **target: Any) -> Draft:
    """Return a draft with the small test plans' recipe."""
    plan, _ = a_plan(n=3, entries=ENTRIES)
    adapter = plan.recipe.adapter.model_copy(
        update={"initial_hash": hashlib.sha256(initial_adapter(ENTRIES)).hexdigest()}
    )
    privacy = PrivacyTarget(
        mode=mode,
        unit="none" if mode == "none" else "example",
        epsilon="8",
        delta="0.00001",
        sampling_rate="0.1",
        local_steps=1,
        clip_norm="1",
        update_bound="4",
    )
    return Draft(
        recipe=plan.recipe.model_copy(update={"adapter": adapter, "rounds": 10}),
        privacy=privacy.model_copy(update=target),
        evaluation_data="public-digits",
    )


REQUEST = RunRequest(members=["carol", "alice", "bob"], created_at=CREATED_AT, expires_at=CREATED_AT + 100)


def made(store: Store, given: Draft, **overrides: Any) -> Plan:
    tolerance = {
        name: overrides.pop(name) for name in ("f", "min_survivors", "graph", "max_dropouts") if name in overrides
    }
    asked = replace(REQUEST, tolerance=Requested(**tolerance), **overrides)
    return make_plan(store, SETTINGS, given, asked, random=SeededSource("run"))


def test_a_plan_names_whom_owners_call_about_the_coordinator(store: Store) -> None:
    assert made(store, draft()).operator_contact == "sum@example.org"


def test_the_roster_is_sorted_with_announced_sizes_and_the_operators_own_participant_marked(store: Store) -> None:
    plan = made(store, draft())
    assert [(member.id, member.units, member.with_operator) for member in plan.roster] == [
        ("alice", 100, True),
        ("bob", 200, False),
        ("carol", 300, False),
    ]
    assert [evaluator.id for evaluator in plan.evaluation.evaluators] == ["referee"]
    assert (plan.f, plan.quorum, plan.min_survivors) == (1, 3, 3)


@pytest.mark.parametrize(
    ("n", "inside", "f"), [(3, 0, 1), (4, 0, 1), (5, 0, 1), (7, 0, 2), (10, 0, 3), (100, 0, 33), (5, 2, 2)]
)
def test_a_third_of_the_roster_may_collude_by_default(n: int, inside: int, f: int) -> None:
    assert default_f(n, inside) == f


@pytest.mark.parametrize("mode", ["none", "local", "distributed"])
def test_every_mode_is_calibrated_to_a_plan_that_participants_accept(store: Store, mode: Mode) -> None:
    plan = made(store, draft(mode), members=list(SIZES))
    assert Plan.from_bytes(plan.to_bytes()) == plan
    assert plan.privacy.noised == (mode != "none")
    assert plan.encoding.scale_exponent == (0 if mode == "distributed" else plan.encoding.scale_exponent)
    if mode == "distributed":
        assert plan.privacy.honest_noise == plan.min_survivors - 1


def with_ranks() -> Draft:
    """A draft whose method lets ranks differ; its adapter has rank 2."""
    given = draft()
    return given.model_copy(update={"recipe": recipe_of("hetlora").model_copy(update={"rounds": 10})})


def test_members_of_smaller_machines_get_the_ranks_that_the_operator_names(store: Store) -> None:
    plan = made(store, with_ranks(), ranks={"bob": 1})
    assert [member.options.rank for member in plan.roster] == [0, 1, 0]


RANKS: dict[str, tuple[dict[str, int], str]] = {
    "a rank of nobody on the roster": ({"dave": 1}, "dave is not among --members"),
    "a rank above the adapter's": ({"bob": 3}, "bob may have 1 to 2"),
    "a rank of zero": ({"bob": 0}, "bob may have 1 to 2"),
}


@pytest.mark.parametrize("sentence", RANKS)
def test_a_run_is_refused_for(sentence: str, store: Store) -> None:
    ranks, words = RANKS[sentence]
    with pytest.raises(LocalError, match=words) as info:
        made(store, with_ranks(), ranks=ranks)
    assert info.value.code == "E-USAGE"


def test_ranks_are_refused_where_the_method_has_one_for_everybody(store: Store) -> None:
    with pytest.raises(LocalError, match="ffa-lora has one rank for everybody") as info:
        made(store, draft(), ranks={"bob": 1})
    assert info.value.code == "E-USAGE"


def test_ranks_are_read_from_the_command_line_each_member_once() -> None:
    assert read_ranks("bob=4, carol=2") == {"bob": 4, "carol": 2}
    assert read_ranks("") == {}
    for text in ("bob", "bob=", "bob=x", "bob=-1", "bob=1,bob=2", "bob=\u0663"):
        with pytest.raises(LocalError) as info:
            read_ranks(text)
        assert info.value.code == "E-USAGE"


def test_weights_by_size_are_public_integers(store: Store) -> None:
    assert [member.weight for member in made(store, draft(), weight_rule="units").roster] == [100, 200, 300]


@pytest.mark.parametrize(
    ("overrides", "code", "word"),
    [
        ({"members": ["alice", "bob", "zoe"]}, "E-RUN-SIZES", "zoe"),
        ({"members": ["alice", "bob", "referee"]}, "E-NOT-FOUND", "referee"),
        ({"members": ["alice", "bob", "nobody"]}, "E-NOT-FOUND", "nobody"),
        ({"members": ["alice", "bob"]}, "E-USAGE", "at least 3"),
        ({"members": ["alice", "bob", "bob"]}, "E-USAGE", "different"),
        ({"f": 0}, "E-RUN-TOLERANCE", "at least 1"),
        ({"f": 2}, "E-RUN-TOLERANCE", "too many"),
        ({"min_survivors": 2}, "E-RUN-TOLERANCE", "from 3 to 3"),
        ({"expires_at": CREATED_AT}, "E-PLAN-RULE", "expires"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_a_plan_is_refused_with_its_reason(
    store: Store, overrides: dict[str, Any], code: str, word: str
) -> None:
    with pytest.raises(LocalError) as refused:
        made(store, draft(), **overrides)
    assert refused.value.code == code
    assert word in refused.value.detail


def test_weights_are_refused_where_they_would_raise_the_sensitivity(store: Store) -> None:
    with pytest.raises(LocalError, match="sensitivity"):
        made(store, draft("distributed"), weight_rule="units")


def draft_directory(tmp_path: Path) -> Path:
    """Return a directory as ``plan build`` makes it."""
    directory = tmp_path / "draft"
    directory.mkdir()
    (directory / "initial_adapter.safetensors").write_bytes(initial_adapter(ENTRIES))
    (directory / "adapter_config.json").write_text("{}")
    (directory / "draft.json").write_bytes(draft().to_bytes())
    return directory


def test_registering_writes_a_signed_plan_and_the_starting_adapter(store: Store, tmp_path: Path) -> None:
    directory = draft_directory(tmp_path)
    assert creation.read_draft(directory) == draft()
    plan = made(store, draft())
    register(store, Home(tmp_path), OPERATOR, plan, directory)
    made_files = tmp_path / "runs" / plan.run_id
    signed = (made_files / "plan.json").read_bytes(), (made_files / "plan.sig").read_bytes()
    assert VerifiedPlan.verify(*signed, OPERATOR.public).plan == plan
    assert (made_files / "global-0.f32").stat().st_size == 4 * ENTRIES


def test_a_disk_that_is_full_while_registering_leaves_no_run_behind(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, directory = made(store, draft()), draft_directory(tmp_path)

    def full(files: RunFiles, plan: Plan) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunFiles, "write_start", full)
    with pytest.raises(LocalError, match="E-DISK-FULL"):
        register(store, Home(tmp_path), OPERATOR, plan, directory)
    assert list(Home(tmp_path).runs.iterdir()) == []


def test_an_adapter_that_is_not_the_manifests_registers_nothing(store: Store, tmp_path: Path) -> None:
    directory = tmp_path / "draft"
    directory.mkdir()
    (directory / "initial_adapter.safetensors").write_bytes(initial_adapter(ENTRIES + 4))
    plan = made(store, draft())
    with pytest.raises(LocalError, match="E-PLAN-RULE"):
        register(store, Home(tmp_path), OPERATOR, plan, directory)
    assert not (tmp_path / "runs").exists()


def test_a_directory_that_is_no_draft_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="E-NOT-FOUND"):
        creation.read_draft(tmp_path)


def test_the_operator_is_told_who_together_could_see_whose_update(store: Store) -> None:
    said = " ".join(trust_sentences(made(store, draft())))
    assert "one sum over at least 3 of 3 participants" in said
    assert "Together with 2 participants or more it could see a single participant's update" in said
    assert "alice and the coordinator are one organisation: 1 participant more" in said
    assert "Every participant is needed in a round" in said
    assert "completes without 1 participant;" in " ".join(trust_sentences(made(store, draft(), members=list(SIZES))))


# --- k-regular graphs ---

GRAPHS: dict[str, dict[str, Any]] = {  # what is refused of 150 members with f = 5, by the reason
    "--max-dropouts belongs to --graph k-regular": {"max_dropouts": 5},
    "--min-survivors 144 contradicts --max-dropouts 5: of 150 members 145 would survive; give one of the two": {
        "graph": "k-regular",
        "max_dropouts": 5,
        "min_survivors": 144,
    },
    "--max-dropouts must be from 0 to 72: with --f 5 at least 78 of 150 members have to survive": {
        "graph": "k-regular",
        "max_dropouts": -1,
    },
    "--max-dropouts must be from 0 to 72": {"graph": "k-regular", "max_dropouts": 73},
    "--min-survivors must be from 78 to 150": {"graph": "k-regular", "min_survivors": 77},
    "no k-regular graph over 150 members withstands f = 5 and 60 dropouts": {
        "graph": "k-regular",
        "max_dropouts": 60,
    },
}


@pytest.fixture
def many(store: Store) -> list[str]:
    """Enough members for a graph that is strong enough."""
    names = [f"p{i:03d}" for i in range(150)]
    with store.begin() as connection:
        for name in names:
            member = MemberRecord(name, Role.PARTICIPANT, signing_key(name).public, b"", "", "", CREATED_AT, None)
            member_rows.enrol_member(connection, member, token_id="", request_hash=b"")
            member_rows.announce(connection, name, version="1", offers=[DatasetOffer("digits", 10)])
    return names


def test_a_k_regular_graph_is_recommended_for_the_dropouts_that_are_asked_for(
    store: Store, many: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = made(store, draft(), members=many, f=5, graph="k-regular", max_dropouts=5)
    assert plan.graph.model_dump() == {
        "kind": "k-regular",
        "neighbours": 38,
        "share_threshold": 7,
        "max_dropouts": 5,
    }
    assert plan.min_survivors == 145
    assert Plan.from_bytes(plan.to_bytes()) == plan
    assert made(store, draft(), members=many, f=5, graph="k-regular", min_survivors=145).graph == plan.graph
    (claim,) = [sentence for sentence in trust_sentences(plan) if "neighbours" in sentence]
    assert "at most 38 neighbours" in claim
    assert "a probability of at most 2^-40" in claim

    monkeypatch.setattr(thresholds, "COMPLETE_GRAPH_MAX", 150)
    complete = made(store, draft(), members=many, f=5)
    assert complete.graph.kind == "complete"
    assert not any("neighbours" in sentence for sentence in trust_sentences(complete))
    monkeypatch.setattr(thresholds, "COMPLETE_GRAPH_MAX", 149)
    with pytest.raises(LocalError, match="need --graph k-regular") as refused:
        made(store, draft(), members=many, f=5)
    assert refused.value.code == "E-RUN-TOLERANCE"
    assert "here everybody would mask with at most 64 others" in refused.value.detail


def test_a_k_regular_graphs_chance_of_failure_is_taken_off_delta_before_calibrating(
    store: Store, many: list[str]
) -> None:
    given = draft("distributed", delta="0.000000001")
    plan = made(store, given, members=many, f=5, graph="k-regular", max_dropouts=5)
    assert plan.privacy.delta == "0.000000001"
    require_claim(plan)
    assert Plan.from_bytes(plan.to_bytes()) == plan
    assert creation._reserving(given.privacy, plan.graph).delta == "0.000000000999090505"
    assert creation._reserving(given.privacy, Graph()) == given.privacy
    assert creation._reserving(draft().privacy, plan.graph) == draft().privacy, "without noise there is no delta"
    with pytest.raises(LocalError, match="delta must be at least 1e-9"):
        made(store, draft("distributed", delta="0.0000000009"), members=many, f=5, graph="k-regular", max_dropouts=5)


def test_a_graph_that_cannot_be_is_refused_with_its_reason(store: Store, many: list[str]) -> None:
    for word, overrides in GRAPHS.items():
        with pytest.raises(LocalError) as refused:
            made(store, draft(), members=many, f=5, **overrides)
        assert refused.value.code == "E-RUN-TOLERANCE"
        assert word in refused.value.detail


def test_who_asks_for_too_much_of_a_graph_is_told_what_is_possible(store: Store, many: list[str]) -> None:
    with pytest.raises(LocalError) as refused:
        made(store, draft(), members=many, graph="k-regular", max_dropouts=45)
    found = re.search(
        r"possible are --max-dropouts (\d+); --f (\d+); --graph complete, where each masks with all 149 others",
        refused.value.detail,
    )
    assert found is not None
    dropouts, colluders = map(int, found.groups())
    for overrides in ({"max_dropouts": dropouts}, {"max_dropouts": 45, "f": colluders}):
        assert made(store, draft(), members=many, graph="k-regular", **overrides).graph.kind == "k-regular"
    for overrides in ({"max_dropouts": dropouts + 1}, {"max_dropouts": 45, "f": colluders + 1}):
        with pytest.raises(LocalError, match="no k-regular graph"):
            made(store, draft(), members=many, graph="k-regular", **overrides)


def test_a_small_roster_that_may_lose_somebody_is_told_to_take_the_complete_graph(store: Store) -> None:
    with pytest.raises(LocalError, match="--max-dropouts 0; --graph complete, where each masks with all 4 others"):
        made(store, draft(), members=list(SIZES), graph="k-regular")


def test_the_suite_is_the_drafts_unless_the_operator_asks_for_another(store: Store) -> None:
    hybrid = draft().model_copy(update={"suite": 2})
    assert (made(store, draft()).suite, made(store, hybrid).suite) == (1, 2)
    assert (made(store, draft(), suite=2).suite, made(store, hybrid, suite=1).suite) == (2, 1)
