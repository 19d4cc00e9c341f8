"""Both ends of an edge find each other."""

from __future__ import annotations

import pytest

from privacy.secagg import graph


def test_in_the_complete_graph_everyone_else_is_a_neighbour_in_sorted_order() -> None:
    assert graph.complete(("carol", "alice", "bob"), "bob") == ("alice", "carol")


@pytest.mark.parametrize(("members", "me"), [(("a", "b"), "c"), (("a", "b", "b"), "a"), ((), "a"), (("a", "a"), "a")])
def test_sets_without_me_or_with_someone_twice_are_refused(members: tuple[str, ...], me: str) -> None:
    with pytest.raises(ValueError, match="distinct members"):
        graph.complete(members, me)
