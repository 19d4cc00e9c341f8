"""A plan that breaks a rule is refused, and the refusal names the rule."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy import canonical
from privacy.canonical import Json
from privacy.draft import Draft
from privacy.errors import PlanError
from privacy.plan import (
    Plan,
    VerifiedPlan,
    default_survivors,
    largest_sum,
    least_survivors,
    signed_approval_bytes,
    signed_plan_bytes,
    threshold,
)
from tests.worlds.plans import (
    OPERATOR,
    STRONG,
    make_plan,
    plan_document,
    sign_plan,
    signing_key,
    travelling,
    turn,
    verified,
)

IDENTITY = (1).to_bytes(32, "little").hex()  # of order 1
NO_POINT = (2).to_bytes(32, "little").hex()
ONE_TENSOR: list[Json] = [{"key": "w", "shape": [12], "stream": "adapter", "part": "adapter"}]
MEMBERS: list[dict[str, Json]] = [
    {
        "id": name,
        "identity_key": signing_key(name).public.hex(),
        "units": 100,
        "weight": 1,
        "with_operator": False,
        "options": {"rank": 0, "layers": []},
    }
    for name in ("alice", "bob", "carol")
]
ALICE, BOB, CAROL = MEMBERS


def written(change: dict[str, Any]) -> bytes:
    """Return the bytes of a test plan; ``then`` replaces fields afterwards, whatever they were."""
    then = change.get("then", {})
    return canonical.encode({**plan_document(**{key: value for key, value in change.items() if key != "then"}), **then})


def refusal(**change: Any) -> PlanError:
    with pytest.raises(PlanError) as refused:
        Plan.from_bytes(written(change))
    return refused.value


# --- plans that are fine ---


@pytest.mark.parametrize("mode", ["none", "local", "distributed", "distributed-participant"])
@pytest.mark.parametrize(("n", "f"), [(3, 0), (3, 1), (5, 1), (10, 3), (100, 33), (512, 0)])
def test_plans_of_every_mode_and_size_are_read_as_they_were_written(mode: Any, n: int, f: int) -> None:
    plan, keys = make_plan(n=n, f=f, mode=mode)
    assert Plan.from_bytes(plan.to_bytes()) == plan
    assert plan.n == n == len(keys)
    assert plan.hash == hashlib.sha256(plan.to_bytes()).digest()
    assert [plan.index(name) for name in keys] == list(range(n))
    assert plan.member("bob" if n <= 10 else "p001").id == plan.roster[1].id


def test_the_test_plans_are_the_same_every_time() -> None:
    assert make_plan()[0].to_bytes() == make_plan()[0].to_bytes()
    assert make_plan()[0].recipe.entries == 12
    assert make_plan(entries=1000)[0].recipe.entries == 1000


@pytest.mark.parametrize(
    ("n", "f", "expected_threshold", "least"),
    [(3, 0, 2, 3), (3, 1, 3, 3), (5, 0, 3, 3), (5, 1, 4, 4), (10, 3, 7, 7), (100, 33, 67, 67)],
)
def test_thresholds_are_those_of_the_protocol(n: int, f: int, expected_threshold: int, least: int) -> None:
    assert threshold(n, f) == expected_threshold
    assert least_survivors(n, f) == least


@pytest.mark.parametrize("n", range(3, 40))
def test_two_thresholds_share_more_than_f_members_and_colluders_hold_fewer_than_one(n: int) -> None:
    for f in range(n):
        assert 2 * threshold(n, f) - n > f
        assert f < threshold(n, f)
        assert default_survivors(n, f) >= least_survivors(n, f) or least_survivors(n, f) > n


def test_the_default_leaves_a_tenth_to_drop_out() -> None:
    assert [default_survivors(n, 0) for n in (3, 5, 10, 20, 100)] == [3, 4, 9, 18, 90]


def test_an_unknown_member_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        make_plan()[0].index("mallory")


# --- rules, keyed by a sentence ---

RULES: dict[str, tuple[dict[str, Any], str]] = {
    "a roster that is not sorted": ({"roster": [BOB, ALICE, CAROL], "n": 3}, "sorted and name nobody twice"),
    "a member twice": ({"roster": [ALICE, ALICE, BOB], "n": 3}, "sorted and name nobody twice"),
    "two members with one key": (
        {"roster": [ALICE, {**BOB, "identity_key": ALICE["identity_key"]}, CAROL], "n": 3},
        "same identity key",
    ),
    "an evaluator with a member's key": (
        {"evaluation": {"evaluators": [{"id": "eve", "identity_key": ALICE["identity_key"]}]}},
        "same identity key",
    ),
    "a member with a small-order key": (
        {"roster": [{**ALICE, "identity_key": IDENTITY}, BOB, CAROL], "n": 3},
        "key of alice is of small order",
    ),
    "a member with a key that is no point": (
        {"roster": [ALICE, BOB, {**CAROL, "identity_key": NO_POINT}], "n": 3},
        "key of carol is of small order or no point",
    ),
    "an evaluator with a small-order key": (
        {"evaluation": {"evaluators": [{"id": "eve", "identity_key": IDENTITY}]}},
        "key of eve is of small order",
    ),
    "an evaluator who is also a participant": (
        {"evaluation": {"evaluators": [{"id": "alice", "identity_key": signing_key("eve").public.hex()}]}},
        "an evaluator is not a participant",
    ),
    "f that leaves out the operator's own participant": (
        {"roster": [{**ALICE, "with_operator": True}, BOB, CAROL], "n": 3, "f": 0},
        "f must count every participant whose organisation",
    ),
    "f as large as the roster": (
        {"n": 3, "then": {"f": 3}},
        "f must be below the number",
    ),
    "a Shamir threshold below the formula": ({"shamir_threshold": 3}, "must be floor((n+f)/2)+1 = 4"),
    "a Shamir threshold above the formula": ({"shamir_threshold": 5}, "must be floor((n+f)/2)+1 = 4"),
    "a quorum below the formula": ({"quorum": 3}, "must be floor((n+f)/2)+1 = 4"),
    "a quorum above the formula": ({"quorum": 5}, "must be floor((n+f)/2)+1 = 4"),
    "fewer survivors than the threshold": ({"min_survivors": 3}, "min_survivors must be from 4 to n = 5"),
    "more survivors than members": ({"min_survivors": 6}, "min_survivors must be from 4 to n = 5"),
    "only two survivors": ({"n": 3, "f": 0, "min_survivors": 2}, "min_survivors must be from 3 to n = 3"),
    "a complete graph over too many": ({"n": 513, "f": 0}, "at most 512"),
    "a k-regular graph whose cohort could shrink more than it says": (
        {**STRONG, "graph": {**STRONG["graph"], "max_dropouts": 1}},
        "max_dropouts must be n - min_survivors = 2",
    ),
    "a k-regular graph with too few neighbours to hold together": (
        {**STRONG, "graph": {**STRONG["graph"], "neighbours": 26}},
        "the graph is too weak in connectivity: k=26, t=16 with f=1 and max_dropouts=2 of 60",
    ),
    "a k-regular graph with too small a threshold of shares": (
        {**STRONG, "graph": {**STRONG["graph"], "share_threshold": 2}},
        "the graph is too weak in neighbourhoods",
    ),
    "a k-regular graph over more rounds than it withstands": (
        {**STRONG, "recipe": {"rounds": 10**6}},
        "fails with probability 2^-110 in an attempt, where 2^-122 is asked",
    ),
    "a k-regular graph in which everybody is a neighbour": (
        {**STRONG, "graph": {**STRONG["graph"], "neighbours": 60}},
        "an even number of neighbours from 2 to 58, not 60",
    ),
    "a k-regular graph whose shares rebuild nothing": (
        {**STRONG, "graph": {**STRONG["graph"], "share_threshold": 30}},
        "share_threshold must be from 2 to neighbours + 1 = 29",
    ),
    "a k-regular graph with an odd number of neighbours": (
        {"graph": {"kind": "k-regular", "neighbours": 3}},
        "even number of neighbours",
    ),
    "a complete graph with neighbours": ({"graph": {"neighbours": 4}}, "complete graph has no neighbours"),
    "a complete graph with dropouts of its own": ({"graph": {"max_dropouts": 1}}, "complete graph has no neighbours"),
    "an expiry before the beginning": ({"expires_at": 1}, "expires before it is made"),
    "an expiry at the beginning": ({"created_at": 7, "expires_at": 7}, "expires before it is made"),
    "weights in a distributed mode": (
        {"mode": "distributed", "weight_rule": "units"},
        "weight w would make the sensitivity w*D",
    ),
    "a weight under the equal rule": (
        {"roster": [{**ALICE, "weight": 2}, BOB, CAROL], "n": 3},
        "weights must be 1 under the equal rule",
    ),
    "a sensitivity too small for the vector": (
        {"mode": "local", "entries": 10_000, "privacy": {"variance_exponent": 12, "sensitivity": 30}},
        "sensitivity D=30 is too small for d=10000",
    ),
    "honest noise that relies on colluders": (
        {"mode": "distributed", "privacy": {"honest_noise": 4}},
        "honest_noise must be min_survivors - max(f, 1)",
    ),
    "honest noise that relies on a participant's own": (
        {"mode": "distributed", "n": 5, "f": 0, "privacy": {"honest_noise": 4}},
        "honest_noise must be min_survivors - max(f, 1)",
    ),
    "a clamp that can wrap the ring": ({"encoding": {"clamp": 2**29}}, "the ring of 32 bits holds"),
    "weights that can wrap the ring": (
        {
            "n": 3,
            "weight_rule": "units",
            "encoding": {"clamp": 2**30},
            "roster": [{**ALICE, "weight": 5}, BOB, CAROL],
        },
        "the ring of 32 bits holds",
    ),
    "noise that can wrap the ring": (
        {
            "mode": "distributed",
            "privacy": {"variance_exponent": 50, "sensitivity": 2**25},
            "encoding": {"clamp": 2**28 + 2**23},
        },
        "the ring of 32 bits holds",
    ),
    "packed lanes that can wrap": (
        {"encoding": {"ring_bits": 64, "lane_bits": 16, "clamp": 7000}},
        "the ring of 16 bits holds",
    ),
    "noise that can wrap packed lanes": (
        {
            "mode": "distributed",
            "privacy": {"variance_exponent": 22, "sensitivity": 2000},
            "encoding": {"ring_bits": 64, "lane_bits": 16, "clamp": 1},
        },
        "the ring of 16 bits holds",
    ),
    "a scale where whole numbers are summed": (
        {"mode": "distributed", "encoding": {"scale_exponent": 1}},
        "the distributed modes sum whole numbers: scale_exponent is 0",
    ),
    "packed lanes in a 32-bit ring": ({"encoding": {"lane_bits": 16, "clamp": 1}}, "packed lanes are 8 to 32 bits"),
    "lanes that are too narrow": (
        {"encoding": {"ring_bits": 64, "lane_bits": 7, "clamp": 1}},
        "packed lanes are 8 to 32 bits",
    ),
    "lanes that are too wide": (
        {"encoding": {"ring_bits": 64, "lane_bits": 33, "clamp": 1}},
        "packed lanes are 8 to 32 bits",
    ),
    "noise in mode none": ({"privacy": {"variance_exponent": 6}}, "mode none has no noise"),
    "a unit in mode none": ({"privacy": {"unit": "example"}}, "mode none has no noise"),
    "a relation in mode none": ({"privacy": {"relation": "zero-out"}}, "mode none has no noise"),
    "a noised mode without a unit": ({"mode": "local", "privacy": {"unit": "none"}}, "has a unit of privacy"),
    "a noised mode without a relation": ({"mode": "local", "privacy": {"relation": "none"}}, "zero-out relation"),
    "the participant as unit of mode local": (
        {"mode": "local", "privacy": {"unit": "participant"}},
        "the unit is the participant in mode distributed-participant",
    ),
    "the example as unit of mode distributed-participant": (
        {"mode": "distributed-participant", "privacy": {"unit": "example"}},
        "the unit is the participant in mode distributed-participant",
    ),
    "the user as unit without a bound on rows": (
        {"mode": "local", "privacy": {"unit": "user"}},
        "max_rows_per_user belongs to the user unit",
    ),
    "a bound on rows without the user as unit": (
        {"mode": "local", "privacy": {"max_rows_per_user": 4}},
        "max_rows_per_user belongs to the user unit",
    ),
    "noise too small for the lemma": (
        {"mode": "local", "privacy": {"variance_exponent": 5}},
        "variance_exponent must be 6 to 50",
    ),
    "noise too large for the sampler": (
        {"mode": "local", "privacy": {"variance_exponent": 51}},
        "variance_exponent must be 6 to 50",
    ),
    "no sensitivity": ({"mode": "local", "privacy": {"sensitivity": 0}}, "sensitivity and honest noise of at least 1"),
    "no honest noise": (
        {"mode": "distributed", "privacy": {"honest_noise": 0}},
        "sensitivity and honest noise of at least 1",
    ),
    "others' noise in mode local": ({"mode": "local", "privacy": {"honest_noise": 2}}, "honest_noise is 1"),
    "several steps in mode distributed": (
        {"mode": "distributed", "privacy": {"local_steps": 2}},
        "mode distributed takes one step per round",
    ),
    "an epsilon of zero": ({"mode": "local", "privacy": {"epsilon": "0"}}, "epsilon, delta and clip_norm"),
    "a delta of zero": ({"mode": "local", "privacy": {"delta": "0"}}, "epsilon, delta and clip_norm"),
    "a delta of one": ({"mode": "local", "privacy": {"delta": "1"}}, "epsilon, delta and clip_norm"),
    "a clip norm of zero": ({"mode": "local", "privacy": {"clip_norm": "0.0"}}, "epsilon, delta and clip_norm"),
    "a sampling rate of zero": ({"privacy": {"sampling_rate": "0"}}, "sampling_rate must be above 0"),
    "a sampling rate above one": ({"privacy": {"sampling_rate": "1.01"}}, "sampling_rate must be above 0"),
    "two streams of one name": (
        {
            "recipe": {
                **travelling(("adapter", 6), ("adapter", 6)),
                "adapter": {"tensors": ONE_TENSOR},
            }
        },
        "distinct names",
    ),
    "a stream called frozen": (
        {"recipe": {**travelling(("frozen", 8)), "adapter": {"tensors": ONE_TENSOR}}},
        "none of them 'frozen'",
    ),
    "a tensor twice": (
        {"recipe": {"adapter": {"tensors": ONE_TENSOR * 2}}},
        "names a tensor twice",
    ),
    "a stream longer than its tensors": (
        {"recipe": {**travelling(("adapter", 13)), "adapter": {"tensors": ONE_TENSOR}}},
        "stream adapter has 13 entries, its tensors 12",
    ),
    "a tensor in no stream": (
        {
            "recipe": {
                **travelling(("adapter", 12)),
                "adapter": {"tensors": [*ONE_TENSOR, {"key": "v", "shape": [1], "stream": "head", "part": "adapter"}]},
            }
        },
        "a stream that the state lacks",
    ),
    "a schedule without its second turn": (
        {"recipe": {"turns": [turn(("adapter", 9), ("head", 3)), turn(("head", 3))]}},
        "the schedule must take every turn",
    ),
    "a schedule of a turn that is not there": (
        {"recipe": {"schedule": {"opening": [{"turn": 1, "rounds": 1}], "cycle": [0]}}},
        "the schedule must take every turn",
    ),
    "a turn that trains what is derived": (
        {
            "recipe": {
                "state": [
                    {"name": "adapter", "length": 9, "role": "derived"},
                    {"name": "head", "length": 3, "role": "shared"},
                ]
            }
        },
        "neither a shared stream nor personal",
    ),
    "a turn that sums what does not train": (
        {"recipe": {"turns": [{**turn(("adapter", 9), ("head", 3)), "trains": ["adapter"]}]}},
        "must sum the shared streams that train",
    ),
    "a turn that leaves out what trains": (
        {"recipe": {"turns": [{**turn(("adapter", 9)), "trains": ["adapter", "head"]}]}},
        "must sum the shared streams that train",
    ),
    "a turn that names a stream twice": (
        {"recipe": {"turns": [{**turn(("adapter", 9), ("head", 3)), "trains": ["adapter", "adapter", "head"]}]}},
        "names a stream twice",
    ),
    "a rate of a stream that is not there": (
        {"recipe": {"training": {"stream_rates": [{"stream": "b", "rate": "1"}]}}},
        "stream_rates must be sorted",
    ),
    "a rank of one participant where all train alike": (
        {"n": 3, "roster": [{**ALICE, "options": {"rank": 1, "layers": []}}, BOB, CAROL]},
        "the options of alice",
    ),
    "a rank of one participant above the adapter's": (
        {"n": 3, "recipe": {"counts": "rank"}, "roster": [{**ALICE, "options": {"rank": 3, "layers": []}}, BOB, CAROL]},
        "alice has rank 3, above the adapter's",
    ),
    "more bands than rounds": (
        {"mode": "distributed", "privacy": {"bands": [4, 3, 2, 1], "sampling_rate": "0.1"}},
        "more bands than rounds",
    ),
    "bands where participants train less than others": (
        {"mode": "distributed", "privacy": {"bands": [3, 2]}, "recipe": {"counts": "rank"}},
        "bands need rounds that all sum the same entries",
    ),
    "bands that rise": ({"mode": "distributed", "privacy": {"bands": [1, 2]}}, "not rise"),
    "correlated noise in another mode": (
        {"mode": "local", "privacy": {"bands": [3, 2]}},
        "bands belong to mode distributed",
    ),
    "an image that is divided by zero": ({"recipe": {"task": {"image_std": "0"}}}, "must not be 0"),
    "a vector beyond all adapters": ({"entries": 2**31 + 1, "encoding": {"clamp": 1}}, "more than 2147483648 entries"),
    "base files out of order": (
        {"recipe": {"base": {"files": [{"name": "b", "sha256": "00" * 32}, {"name": "a", "sha256": "00" * 32}]}}},
        "base files must be sorted",
    ),
    "a base file twice": (
        {"recipe": {"base": {"files": [{"name": "a", "sha256": "00" * 32}] * 2}}},
        "base files must be sorted",
    ),
}

CODES = {
    "the ring of 32 bits holds": "E-PLAN-RING",
    "the ring of 16 bits holds": "E-PLAN-RING",
    "the distributed modes sum whole numbers: scale_exponent is 0": "E-PLAN-RING",
    "variance_exponent must be 6 to 50": "E-PLAN-NOISE",
    "sensitivity D=30 is too small for d=10000": "E-PLAN-NOISE",
}


def test_a_participant_may_have_the_adapters_own_rank() -> None:
    changes: dict[str, Any] = {"roster": [{**ALICE, "options": {"rank": 2, "layers": []}}, BOB, CAROL]}
    plan, _ = make_plan(n=3, recipe={"counts": "rank"}, **changes)
    assert plan.roster[0].options.rank == plan.recipe.adapter.rank == 2


def test_a_k_regular_graph_that_is_strong_enough_is_accepted_and_its_threshold_counts() -> None:
    plan, _ = make_plan(**STRONG)
    assert plan.share_threshold == 16
    assert make_plan(n=5, f=1)[0].share_threshold == 4


@pytest.mark.parametrize(("change", "rule"), RULES.values(), ids=RULES.keys())
def test_a_plan_is_refused_by_rule_for(change: dict[str, Any], rule: str) -> None:
    refused = refusal(**change)
    assert refused.code == CODES.get(rule, "E-PLAN-RULE")
    assert rule in refused.rule


# --- form ---

MALFORMED: dict[str, dict[str, Any]] = {
    "an unknown field": {"surprise": 1},
    "an unknown field deep inside": {"privacy": {"surprise": 1}},
    "the protocol version before": {"protocol_version": 1},
    "a later protocol version": {"protocol_version": 3},
    "an unknown suite": {"suite": 3},
    "an unknown mode": {"privacy": {"mode": "full"}},
    "a number as text": {"then": {"f": "1"}},
    "a boolean as number": {"then": {"f": True}},
    "a number as boolean": {"roster": [{**ALICE, "with_operator": 0}, BOB, CAROL]},
    "text as a list": {"roster": "alice"},
    "a roster of two": {"roster": [ALICE, BOB]},
    "an empty state": {"recipe": {"state": []}},
    "no turn": {"recipe": {"turns": []}},
    "a turn in which nothing trains": {"recipe": {"turns": [{**turn(("adapter", 9)), "trains": []}]}},
    "a rank beside IA3": {"recipe": {"adapter": {"options": {"peft_type": "IA3", "feedforward_modules": []}}}},
    "a rank beside a bottleneck": {
        "recipe": {"adapter": {"options": {"peft_type": "BOTTLENECK", "bottleneck_dim": 3}}}
    },
    "a PEFT type that nobody knows": {"recipe": {"adapter": {"options": {"peft_type": "HIRA"}}}},
    "a text task with the fields of a picture": {"recipe": {"task": {"kind": "text-classification"}}},
    "a negative f": {"then": {"f": -1}},
    "a missing value": {"then": {"f": None}},
    "a name with a slash": {"federation": "a/b"},
    "a name in capitals": {"roster": [{**ALICE, "id": "Alice"}, BOB, CAROL]},
    "a name that is too long": {"federation": "a" * 64},
    "a name with a newline at the end": {"federation": "a\n"},
    "a run id that is too short": {"run_id": "00" * 15},
    "a run id in capitals": {"run_id": "AA" * 16},
    "a run id with a newline at the end": {"run_id": "00" * 16 + "\n"},
    "a key that is too short": {"roster": [{**ALICE, "identity_key": "00" * 31}, BOB, CAROL]},
    "a decimal with a sign": {"privacy": {"epsilon": "-1"}},
    "a decimal with an exponent": {"privacy": {"epsilon": "1e3"}},
    "a decimal that is no number": {"privacy": {"epsilon": "NaN"}},
    "a decimal with a leading zero": {"privacy": {"epsilon": "01"}},
    "a decimal with digits of another script": {"privacy": {"epsilon": "\u0661"}},
    "a decimal that ends with a point": {"privacy": {"epsilon": "1."}},
    "a ring of 16 bits": {"encoding": {"ring_bits": 16}},
    "a clamp of zero": {"encoding": {"clamp": 0}},
    "a scale beyond float64": {"encoding": {"scale_exponent": 51}},
    "no attempts": {"max_attempts": 0},
    "no rounds": {"recipe": {"rounds": 0}},
    "a base file outside its folder": {"recipe": {"base": {"files": [{"name": "../x", "sha256": "00" * 32}]}}},
    "a tensor without a key": {
        "recipe": {"adapter": {"tensors": [{"key": "", "shape": [1], "stream": "adapter", "part": "adapter"}]}}
    },
    "a tensor of negative size": {
        "recipe": {"adapter": {"tensors": [{"key": "w", "shape": [-3, -4], "stream": "adapter", "part": "adapter"}]}}
    },
    "a tensor of very many dimensions": {
        "recipe": {
            "adapter": {"tensors": [{"key": "w", "shape": [2**53 - 1] * 5000, "stream": "adapter", "part": "adapter"}]}
        }
    },
    "only one label": {"recipe": {"task": {"labels": ["x"]}}},
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_plan_is_malformed_with(change: dict[str, Any]) -> None:
    assert refusal(**change).code == "E-PLAN-MALFORMED"


DEFAULTED = {"protocol_version", "suite", "weight_rule", "max_attempts", "operator_contact"}


@pytest.mark.parametrize("field", sorted(DEFAULTED | {"graph.kind", "encoding.lane_bits"}))
def test_a_plan_that_leaves_a_field_to_its_default_is_malformed_for_it_would_have_two_hashes(field: str) -> None:
    document: Any = plan_document()
    *parts, last = field.split(".")
    part = document[parts[0]] if parts else document
    del part[last]
    with pytest.raises(PlanError, match="E-PLAN-MALFORMED"):
        Plan.from_bytes(canonical.encode(document))


@pytest.mark.parametrize("field", sorted(set(plan_document()) - DEFAULTED))
def test_a_plan_without_a_field_is_malformed(field: str) -> None:
    document = plan_document()
    del document[field]
    with pytest.raises(PlanError, match="E-PLAN-MALFORMED") as refused:
        Plan.from_bytes(canonical.encode(document))
    assert field in refused.value.rule


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data + b"\n",
        lambda data: b" " + data,
        lambda data: data.replace(b'"f":1', b'"f":1.0'),
        lambda data: data.replace(b'"f":1', b'"f": 1'),
        lambda data: data.replace(b'"f":1', b'"f":1,"f":1'),
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: b"null",
        lambda data: b"[]",
        lambda data: b"\xff" + data,
        lambda data: b"[" * 5000,
    ],
    ids=["newline", "space before", "float", "space", "twice", "cut", "empty", "null", "array", "no UTF-8", "deep"],
)
def test_bytes_that_are_not_a_canonical_plan_are_malformed(spoil: Any) -> None:
    with pytest.raises(PlanError, match="E-PLAN-MALFORMED"):
        Plan.from_bytes(spoil(make_plan()[0].to_bytes()))


def test_a_refusal_never_repeats_what_the_plan_said() -> None:
    assert "s3cret" not in str(refusal(federation="s3cret/" * 3))


# --- arithmetic at its edges ---


def test_the_ring_inequality_is_strict() -> None:
    edge = (2**31 - 1) // 5 - 1  # n (M+1) < 2^31
    assert make_plan(encoding={"clamp": edge})[0].encoding.clamp == edge
    assert "the sum may reach" in refusal(encoding={"clamp": edge + 1}).rule


@pytest.mark.parametrize(("lane_bits", "clamp"), [(16, 6552), (21, 209_714), (32, 429_496_728)])
def test_packed_lanes_have_a_ring_of_their_own(lane_bits: int, clamp: int) -> None:
    make_plan(encoding={"ring_bits": 64, "lane_bits": lane_bits, "clamp": clamp})
    assert (
        f"the ring of {lane_bits} bits"
        in refusal(encoding={"ring_bits": 64, "lane_bits": lane_bits, "clamp": clamp + 1}).rule
    )


def test_weights_count_in_the_sum() -> None:
    roster = [{**ALICE, "weight": 7}, {**BOB, "weight": 2}, CAROL]
    plan, _ = make_plan(n=3, weight_rule="units", roster=roster, encoding={"clamp": 99})
    assert largest_sum(plan) == 1000


def test_noise_counts_ten_and_a_half_sigmas_and_more_for_huge_runs() -> None:
    plan, _ = make_plan(mode="distributed", n=4, f=1, encoding={"clamp": 1000})
    sigma = plan.privacy.sigma
    assert largest_sum(plan) == 4 * 1000 + 10.5 * 2 * sigma
    banded = plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"bands": (5, 3, 2)})})
    assert largest_sum(banded) == 4 * (5 + 3 + 2) * 1000 + 10.5 * 2 * sigma
    huge, _ = make_plan(mode="distributed", n=4, f=1, entries=10**6, encoding={"clamp": 1000}, recipe={"rounds": 10**6})
    sigma, events = huge.privacy.sigma, 10**6 * 10**6
    assert largest_sum(huge) == pytest.approx(4000 + math.sqrt(2 * math.log(2**41 * events)) * 2 * sigma)
    assert largest_sum(huge) > 4000 + 10.5 * 2 * sigma


def test_the_sensitivity_rule_is_strict() -> None:
    entries = 12 * (64 * 64 - 4 * 64)  # D^2 = d/12 + 4D at D = 64
    privacy = {"variance_exponent": 14, "sensitivity": 64}
    assert "D=64 is too small" in refusal(mode="local", entries=entries, privacy=privacy).rule
    assert make_plan(mode="local", entries=entries - 1, privacy=privacy)[0].recipe.entries == entries - 1


def test_the_noise_multiplier_is_that_of_the_lemma() -> None:
    privacy = make_plan(mode="distributed", privacy={"variance_exponent": 12, "sensitivity": 100})[0].privacy
    assert privacy.noise_multiplier == math.sqrt(3 * 2**12 - 9) / 100
    assert make_plan()[0].privacy.noise_multiplier == 0


def test_m_is_the_larger_of_threshold_and_least_survivors() -> None:
    assert make_plan(n=5, f=1)[0].min_survivors == 4
    assert make_plan(n=10, f=0)[0].min_survivors == 9


# --- signatures ---


def test_a_plan_signed_by_the_pinned_operator_is_verified() -> None:
    plan, _ = make_plan()
    assert verified(plan) == VerifiedPlan(plan, plan.hash)


def test_a_plan_is_refused_if_the_signature_is_anothers_or_of_other_bytes() -> None:
    plan, keys = make_plan()
    other, _ = make_plan(max_attempts=4)
    for data, signature, key in (
        (plan.to_bytes(), sign_plan(plan, keys["alice"]), OPERATOR.public),
        (plan.to_bytes(), sign_plan(plan), keys["alice"].public),
        (plan.to_bytes(), sign_plan(other), OPERATOR.public),
        (plan.to_bytes(), b"", OPERATOR.public),
        (plan.to_bytes(), OPERATOR.sign(plan.to_bytes()), OPERATOR.public),
        (plan.to_bytes(), OPERATOR.sign(plan.hash), OPERATOR.public),
        (plan.to_bytes(), OPERATOR.sign(signed_approval_bytes(plan.hash, "alice")), OPERATOR.public),
        (plan.to_bytes() + b" ", sign_plan(plan), OPERATOR.public),
        (plan.to_bytes(), (1).to_bytes(32, "little") + bytes(32), bytes.fromhex(IDENTITY)),
    ):
        with pytest.raises(PlanError, match="E-PLAN-SIGNATURE"):
            VerifiedPlan.verify(data, signature, key)


def test_a_signed_plan_still_has_to_keep_the_rules() -> None:
    data = canonical.encode(plan_document(quorum=1))
    with pytest.raises(PlanError, match="E-PLAN-RULE"):
        VerifiedPlan.verify(data, OPERATOR.sign(signed_plan_bytes(data)), OPERATOR.public)


def test_an_approval_names_plan_and_participant() -> None:
    plan, _ = make_plan()
    strings = {
        signed_approval_bytes(plan.hash, "alice"),
        signed_approval_bytes(plan.hash, "bob"),
        signed_approval_bytes(b"x" * 32, "alice"),
        signed_plan_bytes(plan.to_bytes()),
    }
    assert len(strings) == 4


def test_any_change_of_a_plan_changes_its_hash() -> None:
    hashes = {
        make_plan()[0].hash,
        make_plan(max_attempts=4)[0].hash,
        make_plan(run_id="ff" * 16)[0].hash,
        make_plan(recipe={"training": {"learning_rate": "0.10"}})[0].hash,
        make_plan(roster=[{**ALICE, "units": 99}, BOB, CAROL], n=3)[0].hash,
        make_plan(n=3)[0].hash,
    }
    assert len(hashes) == 6


def test_the_hash_of_a_base_is_over_the_names_and_hashes_of_its_files() -> None:
    base = make_plan()[0].recipe.base
    other = make_plan(recipe={"base": {"files": [{"name": "model.safetensors", "sha256": "bb" * 32}]}})[0].recipe.base
    assert base.hash != other.hash
    renamed = make_plan(recipe={"base": {"architecture": "another description"}})[0].recipe.base
    assert base.hash == renamed.hash


def test_a_draft_goes_through_its_bytes() -> None:
    recipe = make_plan()[0].recipe
    data = canonical.encode(
        {
            "draft_version": 2,
            "recipe": recipe.model_dump(mode="json"),
            "privacy": {
                "mode": "local",
                "unit": "example",
                "epsilon": "8",
                "delta": "0.00001",
                "sampling_rate": "0.5",
                "local_steps": 5,
                "clip_norm": "1",
                "update_bound": "2",
            },
            "evaluation_data": "public-digits",
        }
    )
    draft = Draft.model_validate_json(data)
    assert draft.recipe == recipe
    assert Draft.model_validate_json(draft.to_bytes()) == draft


# --- anything at all ---

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-canonical.MAX_INTEGER, canonical.MAX_INTEGER)
    | st.sampled_from(["", "0", "1", "a", "frozen", "00" * 32, "9" * 18 + "." + "9" * 18]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path to every value inside a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return [here, *(path for key, child in inner for path in paths(child, (*here, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    if isinstance(value, dict):
        return {**value, path[0]: replaced(value[path[0]], path[1:], new)}
    return [replaced(child, path[1:], new) if i == path[0] else child for i, child in enumerate(value)]


def read(data: bytes) -> Plan | PlanError:
    try:
        return Plan.from_bytes(data)
    except PlanError as refused:
        return refused


DOCUMENTS = [plan_document(), plan_document(mode="distributed"), plan_document(mode="local", n=3)]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), document=st.sampled_from(DOCUMENTS), value=JSON_VALUES)
def test_a_plan_with_any_value_anywhere_is_read_or_refused(data: st.DataObject, document: Any, value: Any) -> None:
    changed = replaced(document, data.draw(st.sampled_from(paths(document))), value)
    outcome = read(canonical.encode(changed))
    if isinstance(outcome, Plan):
        assert Plan.from_bytes(outcome.to_bytes()) == outcome
    else:
        assert outcome.code.startswith("E-PLAN-")
        assert len(outcome.rule) < 400


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_as_malformed(data: bytes) -> None:
    with pytest.raises(PlanError, match="E-PLAN-MALFORMED"):
        Plan.from_bytes(data)
