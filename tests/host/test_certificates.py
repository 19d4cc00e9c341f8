"""A certificate that does not hold, and clocks that differ, are said with both times."""

from __future__ import annotations

import pytest

from host.certificates import SKEW_SECONDS, compare_clocks, expires_at, invalid_now, require_valid, valid_from
from privacy.errors import LocalError
from tests.worlds.loopback import new_authority

PEM = new_authority().server_certificate
BEGIN, END = valid_from(PEM), expires_at(PEM)
CASES = {
    "before it begins the clock is behind": (
        BEGIN - 1,
        "is valid from .* UTC on, .*clock says .* UTC: the clock is be",
    ),
    "at its first second it holds": (BEGIN, ""),
    "at its last second it holds": (END, ""),
    "after its end either is wrong": (END + 1, "expired at .* UTC, .*clock says .* UTC: it must be renewed, or the cl"),
}


@pytest.mark.parametrize("sentence", CASES)
def test_a_certificate_is_compared_with_the_clock(sentence: str) -> None:
    now, words = CASES[sentence]
    if not words:
        assert invalid_now(PEM, now) == ""
        require_valid(PEM, "it", now)
        return
    with pytest.raises(LocalError, match=f"E-CERTIFICATE: it {words}"):
        require_valid(PEM, "it", now)


@pytest.mark.parametrize("apart", [-SKEW_SECONDS - 1, SKEW_SECONDS + 1, 10 * 365 * 86_400])
def test_clocks_that_differ_are_both_said_whichever_is_ahead(apart: int) -> None:
    differ = compare_clocks(2_000_000_000 + apart, 2_000_000_000)
    assert differ is not None
    assert differ.code == "E-CLOCK"
    assert "the coordinator's says 2033-05-18 03:33 UTC" in differ.detail


def test_clocks_that_agree_about_or_were_not_said_are_no_trouble() -> None:
    assert compare_clocks(2_000_000_000 + SKEW_SECONDS, 2_000_000_000) is None
    assert compare_clocks(2_000_000_000, 0) is None
