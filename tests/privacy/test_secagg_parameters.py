"""What secure aggregation knows of a plan: everybody's place on the roster, and nobody else's."""

from __future__ import annotations

import pytest

from tests.worlds.plans import make_plan

PARAMETERS = make_plan(n=5)[0].parameters()


def test_everybody_on_the_roster_has_its_place() -> None:
    assert [PARAMETERS.index(name) for name in PARAMETERS.ids] == [0, 1, 2, 3, 4]
    assert PARAMETERS.member("carol").id == "carol"


@pytest.mark.parametrize("name", ["", "a", "bobb", "carol2", "zoe"])
def test_whoever_is_not_on_the_roster_has_none_wherever_its_name_would_stand(name: str) -> None:
    with pytest.raises(KeyError):
        PARAMETERS.index(name)
    with pytest.raises(KeyError):
        PARAMETERS.member(name)
