"""One fingerprint of a roster: what it covers, what it refuses, and what is written only after it was compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import onlysum
from host.fingerprints import ROSTER_DIGITS, digits_of, roster_fingerprint
from host.status_file import write_status_file
from participant.home import Home
from participant.opened import open_home
from participant.owner.plan_store import Decision
from participant.owner.policy import load_policy, policy_template
from participant.page.pins import compared_roster, with_pins
from privacy.errors import OnlysumError
from tests.worlds.enrolled import FEDERATION, authority, enrol, equip, propose
from tests.worlds.owner import OTHERS, owned_plan
from tests.worlds.plans import signing_key

MADE = authority()
PLAN = owned_plan(mode="distributed", privacy={"epsilon": "30"})
AUTHORITY = hashlib.sha256(MADE.ca_der).digest()
KEYS = {name: signing_key(name).public for name in ("alice", *OTHERS)}
ROSTER = roster_fingerprint(FEDERATION, AUTHORITY, KEYS)
PINS = {name: hashlib.sha256(KEYS[name]).hexdigest()[:32] for name in OTHERS}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A participant whose policy allows nothing and pins nobody, with a plan that waits."""
    directory = enrol(tmp_path / "alice", MADE)
    equip(directory, MADE, PLAN)
    directory.policy.write_text(policy_template(MADE.fingerprint))
    propose(directory, MADE, PLAN)
    list_members(directory, KEYS)
    return directory


def list_members(home: Home, keys: dict[str, bytes]) -> None:
    """Let the daemon's last list, which stands in for a coordinator that nobody reaches, have these participants."""
    members = [[name, "participant", key.hex()] for name, key in keys.items()]
    members.append(["eva", "evaluator", "ee" * 32])
    fields = {"since": 1, "connected": True, "code": "", "detail": "", "members": members, "runs": {}}
    write_status_file(home.status_file, fields)


def do(home: Home, *words: str) -> int:
    return onlysum.run(["participant", *words, "-c", str(home.directory)])


def decision(home: Home) -> Decision | None:
    return open_home(home.directory).review.plans.decision(PLAN.run_id)


@pytest.fixture
def at_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return a function that lets a person answer the next questions; it returns the list of those that were asked."""

    def sit(*answers: bool) -> list[str]:
        left: Iterator[bool] = iter(answers)
        asked: list[str] = []

        def confirm(question: str, *, abort: bool = False) -> bool:
            import typer

            asked.append(question)
            answer = next(left)
            if abort and not answer:
                raise typer.Abort
            return answer

        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        monkeypatch.setattr("typer.confirm", confirm)
        return asked

    return sit


# --- the fingerprint ---


def test_it_has_256_bits_and_no_order() -> None:
    assert len(digits_of(ROSTER)) == ROSTER_DIGITS == 64
    assert roster_fingerprint(FEDERATION, AUTHORITY, dict(reversed(KEYS.items()))) == ROSTER


CHANGES: dict[str, Callable[[], str]] = {
    "another federation": lambda: roster_fingerprint("another", AUTHORITY, KEYS),
    "another authority": lambda: roster_fingerprint(FEDERATION, bytes(32), KEYS),
    "another key": lambda: roster_fingerprint(FEDERATION, AUTHORITY, {**KEYS, "bob": bytes(32)}),
    "one more": lambda: roster_fingerprint(FEDERATION, AUTHORITY, {**KEYS, "mallory": bytes(32)}),
    "one fewer": lambda: roster_fingerprint(FEDERATION, AUTHORITY, {n: k for n, k in KEYS.items() if n != "bob"}),
    "two keys exchanged": lambda: roster_fingerprint(
        FEDERATION, AUTHORITY, {**KEYS, "bob": KEYS["carol"], "carol": KEYS["bob"]}
    ),
    "a name that runs into its key": lambda: roster_fingerprint(
        FEDERATION, AUTHORITY, {**{n: k for n, k in KEYS.items() if n != "bob"}, "bo": b"b" + KEYS["bob"]}
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_differs_shows(what: str) -> None:
    assert CHANGES[what]() != ROSTER


def test_a_list_without_this_participant_or_with_another_key_for_it_has_none(home: Home) -> None:
    owner = open_home(home.directory).owner
    for keys in ({**KEYS, "alice": bytes(32)}, {name: key for name, key in KEYS.items() if name != "alice"}):
        with pytest.raises(OnlysumError) as refused:
            compared_roster(owner, keys)
        assert refused.value.code == "E-IDENTITY-DIFFERS"
    assert compared_roster(owner, KEYS).fingerprint == ROSTER


def test_what_stands_in_a_policy_stays_where_pins_are_added() -> None:
    text = policy_template(MADE.fingerprint) + "\n# the end\n"
    changed = with_pins(text, {"bob": KEYS["bob"], "st.mary": KEYS["carol"]})
    assert [line for line in changed.splitlines() if line not in text.splitlines()] == [
        f'bob = "{PINS["bob"]}"',
        f'"st.mary" = "{PINS["carol"]}"',
    ]
    with pytest.raises(OnlysumError) as refused:
        with_pins(changed, {"bob": KEYS["carol"], "dave": KEYS["dave"]})
    assert refused.value.code == "E-EXISTS"


# --- member pin --all ---


def test_what_was_heard_pins_everybody_at_once(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert do(home, "member", "pin", "--all", "--heard", ROSTER.upper().replace(" ", ":")) == 0
    assert load_policy(home).coordinator.roster == PINS
    assert do(home, "member", "pin", "--all") == 0
    assert "Everybody is pinned already" in capsys.readouterr().out


REFUSED: dict[str, tuple[list[str], int, str]] = {
    "another digit": (["--all", "--heard", ROSTER[:-1] + ("0" if ROSTER[-1] != "0" else "1")], 6, "E-IDENTITY-DIFFERS"),
    "half of the digits": (["--all", "--heard", ROSTER[:39]], 2, "E-USAGE"),
    "nothing that was heard, and no terminal": (["--all"], 2, "E-USAGE"),
    "nobody": ([], 2, "E-USAGE"),
    "one and everybody": (["bob", "--all"], 2, "E-USAGE"),
    "the roster's fingerprint for one": (["bob", "--heard", ROSTER], 2, "E-USAGE"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_nobody_is_pinned_by(what: str, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    words, code, says = REFUSED[what]
    before = home.policy.read_text()
    assert do(home, "member", "pin", *words) == code
    assert says in capsys.readouterr().err
    assert home.policy.read_text() == before


def test_a_member_that_is_pinned_under_another_key_stops_all(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert do(home, "member", "pin", "--all", "--heard", ROSTER) == 0
    before = home.policy.read_text()
    changed = {**KEYS, "bob": bytes(32), "mallory": bytes(32)}
    list_members(home, changed)
    assert do(home, "member", "pin", "--all", "--heard", roster_fingerprint(FEDERATION, AUTHORITY, changed)) == 6
    assert "bob has another key than the one that you pinned" in capsys.readouterr().err
    assert home.policy.read_text() == before


def test_a_newcomer_is_pinned_by_the_fingerprint_of_all(home: Home) -> None:
    assert do(home, "member", "pin", "--all", "--heard", ROSTER) == 0
    grown = {**KEYS, "frank": signing_key("frank").public}
    list_members(home, grown)
    assert do(home, "member", "pin", "--all", "--heard", ROSTER) == 6
    assert do(home, "member", "pin", "--all", "--heard", roster_fingerprint(FEDERATION, AUTHORITY, grown)) == 0
    assert {*load_policy(home).coordinator.roster} == {*OTHERS, "frank"}


def test_at_a_terminal_every_digit_is_shown_and_no_pins_nobody(
    home: Home, at_terminal: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = at_terminal(False, True)
    assert do(home, "member", "pin", "--all") == 3
    assert load_policy(home).coordinator.roster == {}
    shown = capsys.readouterr().out
    assert digits_of(ROSTER) in digits_of(shown)
    assert all(name in asked[0] for name in OTHERS)
    assert "eva" not in asked[0]
    assert do(home, "member", "pin", "--all") == 0
    assert load_policy(home).coordinator.roster == PINS


# --- plan approve --propose ---


def test_one_command_shows_plan_lines_and_fingerprint_and_approves_what_was_shown(
    home: Home, at_terminal: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = at_terminal(True, True)
    assert do(home, "plan", "approve", "--propose", "--as", "Anna Meier") == 0
    shown = capsys.readouterr().out
    assert "WHAT LEAVES THIS MACHINE" in shown
    assert digits_of(ROSTER) in digits_of(shown)
    assert "[population.patients]" in shown
    assert "It cannot be computed" not in shown  # the price, by the lines that are proposed
    assert len(asked) == 2
    made = decision(home)
    assert made is not None
    assert (made.verdict, made.who, made.by) == ("approved", "Anna Meier", "hand")
    assert (made.plan_hash, made.roster_verified) == (PLAN.hash.hex(), True)
    assert load_policy(home).coordinator.roster == PINS


def test_who_has_not_compared_approves_an_unverified_roster(
    home: Home, at_terminal: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    at_terminal(False, True)
    assert do(home, "plan", "approve", "--propose", "--as", "Anna Meier") == 0
    made = decision(home)
    assert made is not None
    assert (made.verdict, made.roster_verified) == ("approved", False)
    assert load_policy(home).coordinator.roster == {}
    assert "the roster stays unverified" in " ".join(capsys.readouterr().out.split())


def test_no_to_the_last_question_writes_nothing(home: Home, at_terminal: Callable[..., list[str]]) -> None:
    before = home.policy.read_text()
    at_terminal(True, False)
    assert do(home, "plan", "approve", "--propose") == 130
    assert decision(home) is None
    assert home.policy.read_text() == before


NOT_DONE: dict[str, tuple[list[str], int, str]] = {
    "without a terminal and without --yes": ([PLAN.run_id, "--propose"], 2, "E-USAGE"),
    "with another roster than the others see": (
        ["--propose", "--yes", "--heard", roster_fingerprint(FEDERATION, AUTHORITY, {**KEYS, "bob": bytes(32)})],
        6,
        "E-IDENTITY-DIFFERS",
    ),
    "with a fingerprint and no proposal": ([PLAN.run_id, "--yes", "--heard", ROSTER], 2, "E-USAGE"),
    "while a rule is overruled": (["--propose", "--yes", "--overrule", "floors.f", "--as", "A"], 2, "E-USAGE"),
}


@pytest.mark.parametrize("how", NOT_DONE)
def test_nothing_is_written_or_approved(how: str, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    words, code, says = NOT_DONE[how]
    before = home.policy.read_text()
    assert do(home, "plan", "approve", *words) == code
    assert says in capsys.readouterr().err
    assert decision(home) is None
    assert home.policy.read_text() == before


def test_a_program_that_has_heard_the_fingerprint_approves_by_name(home: Home) -> None:
    assert do(home, "plan", "approve", "--propose", "--yes", "--as", "Anna", "--heard", ROSTER) == 0
    made = decision(home)
    assert made is not None
    assert (made.who, made.roster_verified) == ("Anna", True)


def test_who_is_no_approver_changes_no_policy(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.policy.write_text(home.policy.read_text().replace("# approvers =", "approvers ="))
    before = home.policy.read_text()
    assert do(home, "plan", "approve", "--propose", "--yes", "--as", "Bert") == 3
    assert "Bert is not among Anna Meier" in capsys.readouterr().err
    assert home.policy.read_text() == before


def test_what_no_line_can_mend_is_refused_before_anything_is_written(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    home.policy.write_text(home.policy.read_text().replace("\nf = 1 ", "\nf = 4 "))
    changed = home.policy.read_text()
    assert do(home, "plan", "approve", "--propose", "--yes", "--as", "Anna") == 3
    assert "floors.f" in capsys.readouterr().err
    assert decision(home) is None
    assert home.policy.read_text() == changed
