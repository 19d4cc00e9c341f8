"""Labels: an operator's notes on runs, in the database, on the terminal, for programs and in the dashboard."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

import onlysum
from coordinator.database import label_rows, run_rows, store
from coordinator.database.run_rows import RunRecord, RunState
from coordinator.database.store import Store
from coordinator.labels import MOST_LABELS, MOST_VALUE, read_labels, read_wanted
from coordinator.views.overview import overview
from coordinator.views.runs import run_list
from privacy.errors import LocalError
from tests.worlds.coordinator import RUN_ID
from tests.worlds.dashboard import AUDITOR, OPERATOR, Dashboard, Seeded, seed, served
from tests.worlds.plans import CREATED_AT, make_plan, sign_plan

ENDED, WAITING = "22" * 16, "33" * 16


@pytest.fixture
def opened(database: str) -> Iterator[Store]:
    plan, _ = make_plan()
    record = RunRecord(
        plan.run_id, plan.to_bytes(), sign_plan(plan), RunState.CREATED, "", "", False, False, CREATED_AT, None
    )
    with closing(Store.create(database)) as made:
        with made.begin() as connection:
            run_rows.add_run(connection, record)
        yield made


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Seeded:
    """A run in its middle and one that ended, with labels, and one that waits, without."""
    made = seed(tmp_path_factory.mktemp("labels"), n=3)
    with made.opened.store.begin() as connection:
        label_rows.set_labels(connection, RUN_ID, {"study": "lung & heart", "site": "north"})
        label_rows.set_labels(connection, ENDED, {"study": "skin"})
    return made


@pytest.fixture(scope="module")
def site(seeded: Seeded) -> Iterator[Dashboard]:
    with served(seeded.opened, seeded.clock) as running:
        yield running


# --- in the database ---


def test_labels_are_set_changed_and_removed_in_one_step(opened: Store) -> None:
    run_id = make_plan()[0].run_id
    with opened.begin() as connection:
        label_rows.set_labels(connection, run_id, {"study": "lung", "site": "north", "try": "1"})
    with opened.begin() as connection:
        after = label_rows.set_labels(connection, run_id, {"site": "south", "by": "ann"}, remove=["try", "unknown"])
    assert after == {"study": "lung", "site": "south", "by": "ann"}
    with opened.read() as connection:
        assert label_rows.labels_of(connection, run_id) == after
        assert label_rows.list_labels(connection) == {run_id: after}


def test_a_run_never_has_more_labels_than_it_may_also_where_two_add_some_at_once(opened: Store) -> None:
    run_id, refused = make_plan()[0].run_id, []

    def add(prefix: str) -> None:
        try:
            with opened.begin() as connection:
                label_rows.set_labels(connection, run_id, {f"{prefix}{number}": "x" for number in range(MOST_LABELS)})
        except LocalError as error:
            refused.append(error.code)

    threads = [threading.Thread(target=add, args=(prefix,)) for prefix in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with opened.read() as connection:
        assert len(label_rows.labels_of(connection, run_id)) == MOST_LABELS
    assert refused == ["E-USAGE"]


def test_runs_of_an_older_database_have_no_labels_and_going_back_loses_nothing_else(opened: Store) -> None:
    run_id = make_plan()[0].run_id
    with opened.begin() as connection:
        label_rows.set_labels(connection, run_id, {"study": "lung"})
    store.downgrade(opened.engine, "0007")
    assert "run_labels" not in sa.inspect(opened.engine).get_table_names()
    store.upgrade(opened.engine)
    with opened.read() as connection:
        assert run_rows.find_run(connection, run_id).plan == make_plan()[0].to_bytes()
        assert label_rows.list_labels(connection) == {}


# --- what a label may be ---

REFUSED: dict[str, list[str]] = {
    "it has no value": ["study"],
    "its value is empty": ["study="],
    "its key is empty": ["=lung"],
    "its key has a blank": ["my study=lung"],
    "its key is too long": ["k" * 33 + "=x"],
    "its value is too long": ["study=" + "x" * (MOST_VALUE + 1)],
    "its value begins with a blank": ["study= lung"],
    "its value has a line break": ["study=lung\nheart"],
    "its value moves the cursor": ["study=\x1b[2J"],
    "its value turns around what follows": ["study=\u202elung"],
    "a key comes twice": ["study=lung", "study=skin"],
    "they are too many": [f"key{number}=x" for number in range(MOST_LABELS + 1)],
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_label_is_refused_if(case: str) -> None:
    with pytest.raises(LocalError) as refused:
        read_labels(REFUSED[case])
    assert refused.value.code == "E-USAGE"
    assert refused.value.detail.isprintable()
    assert len(refused.value.detail) < 250


def test_a_value_is_free_text_of_any_script_also_with_an_equals_sign() -> None:
    assert read_labels(["a/b.c-d_e=Größe = 3, 北"]) == {"a/b.c-d_e": "Größe = 3, 北"}


@pytest.mark.parametrize("text", ["", "=x", "study=", "my study", "x" * 33])
def test_what_runs_are_listed_by_is_held_to_the_same(text: str) -> None:
    with pytest.raises(LocalError, match="E-USAGE"):
        read_wanted([text])


# --- on the terminal and for programs ---

LISTED: dict[str, tuple[list[str], list[str]]] = {
    "a key with any value": (["study"], [ENDED, RUN_ID]),
    "a key with its value": (["study=skin"], [ENDED]),
    "all of several": (["study", "site=north"], [RUN_ID]),
    "a value that none has": (["site=south"], []),
    "nothing": ([], [ENDED, RUN_ID, WAITING]),
}


@pytest.mark.parametrize("case", LISTED)
def test_runs_are_listed_by(case: str, seeded: Seeded, capsys: pytest.CaptureFixture[str]) -> None:
    texts, expected = LISTED[case]
    words = [word for text in texts for word in ("--label", text)]
    home = str(seeded.opened.home.directory)
    assert onlysum.run(["coordinator", "run", "list", *words, "--config", home, "--json"]) == 0
    assert sorted(run["run"] for run in json.loads(capsys.readouterr().out)) == sorted(expected)


def test_lists_and_a_run_say_on_the_terminal_what_they_say_to_programs(seeded: Seeded) -> None:
    listed, shown = run_list(seeded.opened), overview(seeded.opened, RUN_ID)
    values = {run["run"]: run["labels"] for run in json.loads(json.dumps(listed.to_json()))}
    assert values == {ENDED: {"study": "skin"}, RUN_ID: {"site": "north", "study": "lung & heart"}, WAITING: {}}
    assert f"{RUN_ID[:12]}: labelled site=north, study=lung & heart" in listed.to_lines()
    assert json.loads(json.dumps(shown.to_json()))["labels"] == values[RUN_ID]
    assert "labelled site=north, study=lung & heart" in shown.to_lines()
    assert not [line for line in overview(seeded.opened, WAITING).to_lines() if line.startswith("labelled")]


def test_a_list_without_a_run_says_by_what_it_was_asked(seeded: Seeded) -> None:
    assert run_list(seeded.opened, read_wanted(["study=bone", "site"])).to_lines() == [
        "No run is labelled study=bone and site."
    ]


def test_a_command_labels_a_run_also_one_that_has_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(seed(tmp_path, n=3).opened.home.directory)
    words = ["coordinator", "run", "label", ENDED[:8]]
    assert onlysum.run([*words, "study=lung", "try=1", "--config", home]) == 0
    assert capsys.readouterr().out.strip() == f"{ENDED}: labelled study=lung, try=1"
    assert onlysum.run([*words, "study=skin", "--remove", "try", "--config", home, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": ENDED, "labels": {"study": "skin"}}
    assert onlysum.run([*words, "--remove", "study", "--config", home]) == 0
    assert capsys.readouterr().out.strip() == f"{ENDED}: has no labels"


MISTAKES: dict[str, tuple[list[str], str]] = {
    "nothing is to change": ([], "E-USAGE"),
    "a label is set and removed": (["study=lung", "--remove", "study"], "E-USAGE"),
    "a key is none": (["--remove", "my study"], "E-USAGE"),
    "the run is unknown": (["study=lung"], "E-NOT-FOUND"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_labelling_is_refused_where(case: str, seeded: Seeded, capsys: pytest.CaptureFixture[str]) -> None:
    words, code = MISTAKES[case]
    run = "ffff" if code == "E-NOT-FOUND" else WAITING
    home = str(seeded.opened.home.directory)
    assert onlysum.run(["coordinator", "run", "label", run, *words, "--config", home, "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == code


# --- in the dashboard ---


def shown_runs(page: str) -> set[str]:
    return {run_id for run_id in (ENDED, RUN_ID, WAITING) if f'id="run-{run_id[:8]}"' in page}


@pytest.mark.parametrize("user", [OPERATOR, AUDITOR])
def test_the_first_page_shows_labels_and_the_runs_of_one(site: Dashboard, user: str) -> None:
    cookie = site.log_in(user)
    _, page = site.ask("GET", "/", cookie=cookie)
    assert shown_runs(page) == {ENDED, RUN_ID, WAITING}
    assert '<a class="tag" href="/?label=study%3Dlung%20%26%20heart">study=lung &amp; heart</a>' in page
    _, page = site.ask("GET", "/?label=study%3Dlung%20%26%20heart", cookie=cookie)
    assert shown_runs(page) == {RUN_ID}
    assert 'hx-get="/?label=study%3Dlung%20%26%20heart"' in page  # and stays so when it renews itself
    _, page = site.ask("GET", "/?label=study", cookie=cookie)
    assert shown_runs(page) == {ENDED, RUN_ID}


def test_the_page_of_a_run_shows_its_labels(site: Dashboard) -> None:
    _, page = site.ask("GET", f"/runs/{RUN_ID}", cookie=site.log_in(OPERATOR))
    assert ">site=north</a>" in page


def test_a_query_that_is_no_label_is_refused_with_a_code(site: Dashboard) -> None:
    answer, page = site.ask("GET", "/?label=%3Cscript%3E%1b", cookie=site.log_in(OPERATOR))
    assert answer.status == 400
    assert "E-USAGE" in page
    assert "<script>" not in page
