"""The owner's page: what a plan would need, approve and refuse, what was spent, and who may see it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import onlysum
from host.fingerprints import digits_of, matches, roster_fingerprint
from participant.home import Home
from participant.opened import open_home
from participant.owner.cost import lifetime_budget
from participant.owner.policy import load_policy, policy_template
from participant.page.app import COOKIE, make_app
from participant.page.pins import pin
from participant.page.proposal import append, proposal_for
from privacy.errors import LocalError
from tests.worlds.charges import CHARGE
from tests.worlds.enrolled import authority, enrol, equip, propose
from tests.worlds.live_browser import browsing
from tests.worlds.owner import OTHERS, owned_plan
from tests.worlds.plans import CREATED_AT
from tests.worlds.sites import Site, running

KEY = "k" * 64
HAVE = f"{COOKIE}={KEY}"
MADE = authority()
PLAN = owned_plan(mode="distributed", privacy={"epsilon": "30"})
SHORT = PLAN.run_id[:8]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A participant whose policy allows nothing, with a plan that waits, its dataset and its base."""
    directory = enrol(tmp_path / "alice", MADE)
    equip(directory, MADE, PLAN)
    directory.policy.write_text(policy_template(MADE.fingerprint))
    propose(directory, MADE, PLAN)
    return directory


@pytest.fixture
def site(home: Home) -> Iterator[Site]:
    with running(lambda address: make_app(home.directory, address=address, key=KEY)) as address:
        yield Site(address)


def fields_of(page: str, action: str) -> dict[str, str]:
    """Return the hidden fields of the form that leads somewhere."""
    form = re.search(rf'<form method="post" action="[^"]*{action}">(.*?)</form>', page, re.DOTALL)
    assert form, page
    hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', form[1])
    return {name: html.unescape(value) for name, value in hidden}


def test_what_a_plan_needs_is_proposed_appended_and_then_approved_by_name(site: Site, home: Home) -> None:
    _, page = site.ask("GET", f"/plans/{PLAN.run_id}", cookie=HAVE)
    assert "Your policy refuses it" in page
    assert f"bases = [&#34;{PLAN.recipe.base.hash}&#34;]" in page
    answer, _ = site.ask("POST", f"/plans/{SHORT}/allow", cookie=HAVE, fields=fields_of(page, "/allow"))
    assert answer.status == 303
    assert {*load_policy(home).dataset} == {"digits"}
    _, page = site.ask("GET", f"/plans/{PLAN.run_id}", cookie=HAVE)
    assert "Your policy allows it" in page
    fields = {**fields_of(page, "/approve"), "who": "Anna Meier"}
    site.ask("POST", f"/plans/{SHORT}/approve", cookie=HAVE, fields=fields)
    decision = open_home(home.directory).review.plans.decision(PLAN.run_id)
    assert decision is not None
    assert (decision.verdict, decision.who, decision.plan_hash) == ("approved", "Anna Meier", PLAN.hash.hex())


def test_the_proposed_budget_is_the_least_that_the_plan_fits_into(home: Home) -> None:
    opened = open_home(home.directory)
    proposal = proposal_for(opened.review, home, PLAN.run_id)
    assert proposal.remaining == ()
    append(home, proposal)
    judged = open_home(home.directory).review.judge_run(PLAN.run_id)
    budget = load_policy(home).population["patients"]
    assert judged.assessment.refusal() is None
    assert judged.cost is not None
    assert 0 <= budget.lifetime_epsilon - judged.cost.lifetime_after < 0.3
    with pytest.raises(LocalError) as refused:
        append(home, proposal_for(opened.review, home, PLAN.run_id))
    assert refused.value.code == "E-USAGE"


def test_a_section_that_is_there_is_not_changed_and_its_lines_are_named(home: Home) -> None:
    opened = open_home(home.directory)
    append(home, proposal_for(opened.review, home, PLAN.run_id))
    text = home.policy.read_text().replace('modes = ["distributed"]', 'modes = ["local"]')
    home.policy.write_text(text)
    proposal = proposal_for(opened.review, home, PLAN.run_id)
    assert proposal.lines == ()
    assert proposal.changes == ('[dataset.digits]  modes = ["local", "distributed"]',)
    assert [rule.name for rule in proposal.remaining] == ["dataset.modes"]
    assert home.policy.read_text() == text


def test_a_plan_is_refused_with_a_reason_that_the_operator_reads(site: Site, home: Home) -> None:
    _, page = site.ask("GET", f"/plans/{SHORT}", cookie=HAVE)
    fields = {**fields_of(page, "/refuse"), "who": "Anna Meier", "because": "not before the board has met"}
    site.ask("POST", f"/plans/{SHORT}/refuse", cookie=HAVE, fields=fields)
    decision = open_home(home.directory).review.plans.decision(PLAN.run_id)
    assert decision is not None
    assert (decision.verdict, decision.because) == ("refused", "not before the board has met")
    _, page = site.ask("GET", "/", cookie=HAVE)
    assert "No plan waits" in page


WRONG: dict[str, dict[str, str]] = {
    "no name": {"who": ""},
    "the hash of another plan": {"hash": "0" * 64},
}


@pytest.mark.parametrize("case", WRONG)
def test_an_approval_without_a_name_or_of_something_else_is_refused(site: Site, home: Home, case: str) -> None:
    append(home, proposal_for(open_home(home.directory).review, home, PLAN.run_id))
    _, page = site.ask("GET", f"/plans/{SHORT}", cookie=HAVE)
    fields = {**fields_of(page, "/approve"), "who": "Anna", **WRONG[case]}
    answer, said = site.ask("POST", f"/plans/{SHORT}/approve", cookie=HAVE, fields=fields)
    assert (answer.status, "E-USAGE" in said) == (400, True)
    assert open_home(home.directory).review.plans.decision(PLAN.run_id) is None


def test_what_the_policy_refuses_cannot_be_approved_by_a_form_either(site: Site, home: Home) -> None:
    _, page = site.ask("GET", f"/plans/{SHORT}", cookie=HAVE)
    fields = {**fields_of(page, "/refuse"), "who": "Anna", "hash": PLAN.hash.hex()}
    answer, said = site.ask("POST", f"/plans/{SHORT}/approve", cookie=HAVE, fields=fields)
    assert (answer.status, "E-POLICY-RULE" in said) == (409, True)


FORGED: dict[str, dict[str, str]] = {
    "no key": {"Cookie": ""},
    "another key": {"Cookie": f"{COOKIE}={'x' * 64}"},
    "another site": {"Origin": "https://evil.example"},
    "another name for this machine": {"Host": "evil.example"},
}


@pytest.mark.parametrize("case", FORGED)
def test_a_stranger_on_this_machine_sees_and_decides_nothing(site: Site, home: Home, case: str) -> None:
    _, page = site.ask("GET", f"/plans/{SHORT}", cookie=HAVE)
    fields = {**fields_of(page, "/refuse"), "who": "Anna", "because": "x"}
    answer, _ = site.ask("POST", f"/plans/{SHORT}/refuse", cookie=HAVE, fields=fields, headers=FORGED[case])
    assert answer.status == 403
    if case != "another site":
        answer, said = site.ask("GET", "/", cookie=HAVE, headers=FORGED[case])
        assert (answer.status, "patients" in said) == (403, False)
    assert open_home(home.directory).review.plans.decision(PLAN.run_id) is None


# --- the roster ---


def keys_of(home: Home) -> dict[str, bytes]:
    """Return the keys of the plan as this directory has it: with its own for alice."""
    opened = open_home(home.directory)
    plan = opened.review.plans.get(PLAN.run_id).plan
    return {member.id: bytes.fromhex(member.identity_key) for member in plan.roster}


def shown_roster(home: Home) -> str:
    owner = open_home(home.directory).owner
    return roster_fingerprint(owner.federation, bytes.fromhex(owner.ca_fingerprint), keys_of(home))


def pins_of(home: Home) -> dict[str, str]:
    return dict(load_policy(home).coordinator.roster)


def test_a_plans_page_shows_the_rosters_fingerprint_and_pins_who_was_compared(site: Site, home: Home) -> None:
    _, page = site.ask("GET", f"/plans/{SHORT}", cookie=HAVE)
    fields = fields_of(page, "/pin")
    assert fields["fingerprint"] == shown_roster(home)
    lines = re.search(r'aria-label="Fingerprint of the roster">([^<]+)<', page)
    assert lines
    assert digits_of(lines[1]) == digits_of(shown_roster(home))
    assert all(name in page for name in OTHERS)
    assert pins_of(home) == {}
    answer, _ = site.ask("POST", f"/plans/{SHORT}/pin", cookie=HAVE, fields={**fields, "same": "yes"})
    assert answer.status == 303
    keys = keys_of(home)
    assert {name: matches(keys[name], pin) for name, pin in pins_of(home).items()} == dict.fromkeys(OTHERS, True)
    _, page = site.ask("GET", f"/plans/{SHORT}", cookie=HAVE)
    assert "You have pinned all of them." in page
    assert 'action="/plans/' + PLAN.run_id + '/pin"' not in page


def test_a_plan_whose_roster_was_pinned_there_is_approved_as_verified(site: Site, home: Home) -> None:
    append(home, proposal_for(open_home(home.directory).review, home, PLAN.run_id))
    _, page = site.ask("GET", f"/plans/{SHORT}", cookie=HAVE)
    site.ask("POST", f"/plans/{SHORT}/pin", cookie=HAVE, fields={**fields_of(page, "/pin"), "same": "yes"})
    _, page = site.ask("GET", f"/plans/{SHORT}", cookie=HAVE)
    fields = {**fields_of(page, "/approve"), "who": "Anna"}
    assert site.ask("POST", f"/plans/{SHORT}/approve", cookie=HAVE, fields=fields)[0].status == 303
    decision = open_home(home.directory).review.plans.decision(PLAN.run_id)
    assert decision is not None
    assert decision.roster_verified


UNCOMPARED: dict[str, dict[str, str]] = {
    "nobody says that it is the same": {"same": ""},
    "another roster was shown": {"fingerprint": "0123 " * 15 + "4567"},
    "no fingerprint was shown": {"fingerprint": ""},
}


@pytest.mark.parametrize("case", UNCOMPARED)
def test_nobody_is_pinned_where(site: Site, home: Home, case: str) -> None:
    _, page = site.ask("GET", f"/plans/{SHORT}", cookie=HAVE)
    fields = {**fields_of(page, "/pin"), "same": "yes", **UNCOMPARED[case]}
    answer, said = site.ask("POST", f"/plans/{SHORT}/pin", cookie=HAVE, fields=fields)
    assert (answer.status, "E-USAGE" in said) == (400, True)
    assert pins_of(home) == {}


def test_a_member_that_was_pinned_under_another_key_stands_out_and_nobody_else_is_pinned(
    site: Site, home: Home
) -> None:
    _, page = site.ask("GET", f"/plans/{SHORT}", cookie=HAVE)
    fields = {**fields_of(page, "/pin"), "same": "yes"}
    pin(home, {OTHERS[0]: bytes(32)})
    before = home.policy.read_text()
    _, page = site.ask("GET", f"/plans/{SHORT}", cookie=HAVE)
    assert "E-IDENTITY-DIFFERS" in page
    assert 'name="fingerprint"' not in page
    answer, said = site.ask("POST", f"/plans/{SHORT}/pin", cookie=HAVE, fields=fields)
    assert (answer.status, "E-IDENTITY-DIFFERS" in said) == (409, True)
    assert home.policy.read_text() == before


def test_the_address_with_its_key_opens_the_page_and_the_key_leaves_the_address(site: Site) -> None:
    answer, _ = site.ask("GET", f"/?key={KEY}")
    assert (answer.status, answer.getheader("Location")) == (303, "/")
    assert "httponly" in (answer.getheader("Set-Cookie") or "").lower()
    assert site.ask("GET", f"/?key={'x' * 64}")[0].status == 403


def test_spend_and_what_ran_are_those_of_the_ledger(site: Site, home: Home) -> None:
    append(home, proposal_for(open_home(home.directory).review, home, PLAN.run_id))
    budget = lifetime_budget(load_policy(home).population["patients"])
    opened = open_home(home.directory)
    opened.ledger.charge(CHARGE, budget=budget, max_rounds=10, at=CREATED_AT)
    _, page = site.ask("GET", "/", cookie=HAVE)
    assert f"of {budget.epsilon:g} spent for ever" in page
    assert opened.ledger.head().hash.hex() in page


def test_the_page_is_accessible_small_and_asks_nobody_else(site: Site, home: Home) -> None:
    with browsing() as browser:
        browser.visit(f"{site.url}/?key={KEY}")
        for path in ("/", f"/plans/{PLAN.run_id}"):
            for dark in (False, True):
                browser.window(360, dark=dark, phone=True)
                browser.visit(site.url + path)
                assert browser.grave_problems() == []
                assert browser.scroll_width() <= 360
                assert browser.received < 200_000
                assert browser.errors == []
                assert all(url.startswith(f"{site.url}/") for url in browser.requests)


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "192.0.2.1:80", "127.0.0.1", "nowhere:1"])
def test_the_page_is_served_on_this_machine_alone(home: Home, capsys: pytest.CaptureFixture[str], listen: str) -> None:
    assert onlysum.run(["participant", "page", "--listen", listen, "--config", str(home.directory)]) == 2
    assert "E-USAGE" in capsys.readouterr().err


def test_the_command_prints_and_appends_what_a_plan_needs(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    before = home.policy.read_text()
    assert onlysum.run(["participant", "policy", "propose", SHORT, "--config", str(home.directory)]) == 0
    assert "[population.patients]" in capsys.readouterr().out
    assert home.policy.read_text() == before
    assert onlysum.run(["participant", "policy", "propose", SHORT, "--append", "--config", str(home.directory)]) == 0
    assert {*load_policy(home).population} == {"patients"}
    capsys.readouterr()
    assert onlysum.run(["participant", "plan", "approve", SHORT, "--as", "Anna", "--config", str(home.directory)]) == 0
    assert capsys.readouterr().out.startswith("approved by Anna with dataset digits")


def test_a_fingerprint_is_compared_and_pinned_in_one_step(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    from host.fingerprints import fingerprint
    from host.status_file import write_status_file
    from tests.worlds.plans import signing_key

    members = [[name, "participant", signing_key(name).public.hex()] for name in ("alice", *OTHERS)]
    fields = {"since": 1, "connected": True, "code": "", "detail": "", "members": members}
    write_status_file(home.status_file, fields)
    heard = fingerprint(signing_key("bob").public)
    words = ["participant", "member", "pin", "bob"]
    where = ["--config", str(home.directory)]
    assert onlysum.run([*words, heard.replace("0", "1"), *where]) == 6
    assert "E-IDENTITY-DIFFERS" in capsys.readouterr().err
    assert load_policy(home).coordinator.roster == {}
    assert onlysum.run([*words, heard[:20], *where]) == 2
    assert onlysum.run([*words, heard.upper(), *where]) == 0
    assert load_policy(home).coordinator.roster == {"bob": heard.replace(" ", "")}
    assert onlysum.run([*words, heard, *where]) == 2
    assert "E-EXISTS" in capsys.readouterr().err


def test_joining_goes_on_to_ask_and_asks_again_what_was_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from participant.commands import guided

    rows = tmp_path / "Ward Rows.csv"
    rows.write_text("text,label\nfever,yes\ncough,no\n")
    answers = iter(["/nowhere.csv", "wards", "patients", "", str(rows), "ward-rows", "patients", "", ""])
    asked: list[str] = []

    def answer(question: str, *, default: str, show_default: bool) -> str:
        asked.append(default)
        return next(answers)

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("typer.prompt", answer)
    guided.go_on(home.directory, evaluator=False)
    assert asked[5] == "ward-rows"
    assert "E-NOT-FOUND" in capsys.readouterr().out
    entry = open_home(home.directory).review.registry.dataset("ward-rows")
    assert (entry.rows, entry.population) == (2, "patients")


def test_no_question_is_asked_of_a_program(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from participant.commands import guided

    def asked(*anything: object, **more: object) -> str:
        raise AssertionError("a question")

    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    monkeypatch.setattr("typer.prompt", asked)
    guided.go_on(home.directory, evaluator=False)
    assert open_home(home.directory).review.registry.datasets()[0].name == "digits"


def test_without_a_terminal_a_plan_is_approved_by_name_or_as_one_that_was_read(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--config", str(home.directory)]
    assert onlysum.run(["participant", "policy", "propose", "--append", *where]) == 0
    assert onlysum.run(["participant", "plan", "show", *where]) == 0
    assert onlysum.run(["participant", "plan", "approve", *where]) == 2
    assert "name the plan that you have read" in capsys.readouterr().err
    assert onlysum.run(["participant", "plan", "approve", "--yes", "--as", "Anna", *where]) == 0
    assert onlysum.run(["participant", "plan", "show", *where]) == 2
    assert "no plan waits" in capsys.readouterr().err


def test_on_a_terminal_the_plan_is_shown_and_a_no_decides_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    append(home, proposal_for(open_home(home.directory).review, home, PLAN.run_id))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    answers = iter([False, True])

    def confirm(question: str, *, abort: bool) -> None:
        if not next(answers):
            import typer

            raise typer.Abort

    monkeypatch.setattr("typer.confirm", confirm)
    words = ["participant", "plan", "approve", "--as", "Anna", "--config", str(home.directory)]
    onlysum.run(words)
    assert "WHAT LEAVES THIS MACHINE" in capsys.readouterr().out
    assert open_home(home.directory).review.plans.decision(PLAN.run_id) is None
    assert onlysum.run(words) == 0
    assert open_home(home.directory).review.plans.decision(PLAN.run_id) is not None
