"""Every code that the program can raise is explained."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from privacy.error_codes import REGISTRY, Fault
from privacy.errors import (
    LocalError,
    NetworkError,
    OnlysumError,
    PeerError,
    Phase,
    RefusedError,
    RoundAborted,
    VerificationError,
)
from tests.worlds.shared_data import ROOT

PACKAGES = ("privacy", "methods", "protos", "audit", "coordinator", "participant", "simulation")
CODE = re.compile(r"""["'](E-[A-Z]+(?:-[A-Z]+)*)["':]""")


def raised_codes() -> Iterator[tuple[str, str]]:
    """Yield (where, code) of every literal code in the packages."""
    files = [ROOT / "onlysum.py", *(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))]
    for path in files:
        if path.is_file() and path.name != "error_codes.py":
            for code in CODE.findall(path.read_text()):
                yield path.relative_to(ROOT).as_posix(), code


def test_every_code_in_the_source_is_in_the_registry() -> None:
    unknown = [(where, code) for where, code in raised_codes() if code not in REGISTRY]
    assert not unknown


@pytest.mark.parametrize("code", REGISTRY)
def test_an_explanation_says_what_why_and_what_next(code: str) -> None:
    entry = REGISTRY[code]
    assert re.fullmatch(r"E(-[A-Z]+)+", code)
    for text in (entry.what, entry.why, entry.next_step):
        assert len(text) >= 3
        assert not text.endswith(".")


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (LocalError("E-BUG", "x"), Fault.BUG),
        (RefusedError("E-POLICY-RULE", "x"), Fault.REFUSED),
        (NetworkError("E-NET-DNS", "x"), Fault.NETWORK),
        (VerificationError("E-STATE-DAMAGED", "x"), Fault.VERIFICATION),
        (PeerError("E-PLAN-RULE", participant="coordinator", phase=Phase.PLAN, rule="x"), Fault.PEER),
        (RoundAborted("E-ROUND-SET", "x"), Fault.PEER),
    ],
)
def test_an_error_says_who_is_at_fault(error: OnlysumError, fault: Fault) -> None:
    assert error.explanation.fault is fault
    assert str(error).startswith(error.code + ": ")


def test_an_unknown_code_is_still_explained_by_its_class() -> None:
    assert RefusedError("E-UNHEARD-OF", "x").explanation.fault is Fault.REFUSED


def test_the_exit_codes_are_those_of_the_command_line() -> None:
    assert [fault.value for fault in Fault] == [1, 2, 3, 4, 5, 6]


def test_a_peers_error_names_participant_phase_and_rule() -> None:
    error = PeerError("E-ROUND-SET", participant="bob", phase=Phase.SHARE_KEYS, rule="U1 has at least 4 members")
    assert str(error) == "E-ROUND-SET: bob in SHARE_KEYS: U1 has at least 4 members"
