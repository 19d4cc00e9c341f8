"""The fuzz targets under hypothesis: a few hundred inputs each, in every run of the tests."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutator import changed
from tests.fuzz.run import NAMES
from tests.fuzz.targets import TARGETS

SEEDS = {name: target.seeds() for name, target in TARGETS.items()}
quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_every_target_can_be_asked_for() -> None:
    assert set(NAMES) == set(TARGETS)


@pytest.mark.parametrize("name", NAMES)
def test_valid_inputs_are_accepted(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", NAMES)
@quick
@given(data=st.binary(max_size=300))
def test_any_bytes_are_accepted_or_refused_with_a_typed_error(name: str, data: bytes) -> None:
    TARGETS[name].run(data)


@pytest.mark.parametrize("name", NAMES)
@quick
@given(which=st.integers(0, 99), other=st.integers(0, 99), seed=st.integers(0, 2**32))
def test_changed_inputs_are_accepted_or_refused_with_a_typed_error(
    name: str, which: int, other: int, seed: int
) -> None:
    seeds = SEEDS[name]
    TARGETS[name].run(changed(seeds[which % len(seeds)], seeds[other % len(seeds)], random.Random(seed)))
