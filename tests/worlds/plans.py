"""Small valid plans with real keys made from fixed bytes: what most tests start from.

Guarantees: the same arguments give the same plan, byte for byte; an override that breaks a rule is refused just as a
participant would refuse it (``PlanError``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final

from privacy import canonical
from privacy.canonical import Json
from privacy.plan import Plan, VerifiedPlan, default_survivors, signed_plan_bytes, threshold
from privacy.plan_parts import Graph, Mode
from privacy.secagg.keys import SigningKey
from privacy.secret import SecretBytes

NAMES: Final = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy")
CREATED_AT: Final = 1_767_225_600  # 2026-01-01
EXPIRES_AT: Final = 4_102_444_800  # 2100-01-01
CLAMP: Final = 2**20 - 1
NOISE_MULTIPLIER: Final = 1.0  # noise multiplier that the noised test plans are calibrated for


def names(n: int) -> tuple[str, ...]:
    """Return n sorted member names: people up to ten, then ``p000`` and so on."""
    return NAMES[:n] if n <= len(NAMES) else tuple(f"p{i:03d}" for i in range(n))


# Arguments of a small plan whose k-regular graph is strong enough to be accepted.
STRONG: Final[dict[str, Any]] = {
    "n": 60,
    "f": 1,
    "min_survivors": 58,
    "graph": {"kind": "k-regular", "neighbours": 28, "share_threshold": 16, "max_dropouts": 2},
}


def signing_key(name: str) -> SigningKey:
    """Return the identity key that belongs to a name in all tests."""
    return SigningKey(SecretBytes(hashlib.sha256(b"onlysum tests: identity key of " + name.encode()).digest()))


OPERATOR: Final = signing_key("the operator")


def plan_document(
    *, n: int = 5, f: int = 1, mode: Mode = "none", entries: int = 12, **overrides: Json
) -> dict[str, Json]:
    """Return the JSON document of a valid plan, with overrides merged in, valid or not.

    Args:
        n: size of the roster.
        f: colluding participants that the plan tolerates.
        mode: privacy mode; noised ones are calibrated to a noise multiplier of about 1.
        entries: length of the vector, at least 2; a quarter of it is stream ``head``, the rest ``adapter``.
        overrides: top-level fields; a mapping is merged into the field's own mapping, anything else replaces it.
    """
    survivors = default_survivors(n, f)
    honest_noise = {"none": 0, "local": 1}.get(mode, survivors - max(f, 1))
    document: dict[str, Json] = {
        "protocol_version": 2,
        "suite": 1,
        "federation": "test-federation",
        "operator": "Test Operator",
        "operator_contact": "",
        "run_id": "00112233445566778899aabbccddeeff",
        "created_at": CREATED_AT,
        "expires_at": EXPIRES_AT,
        "recipe": _recipe(entries),
        "privacy": _privacy(mode, entries, honest_noise),
        "encoding": {
            "ring_bits": 32,
            "lane_bits": 0,
            "scale_exponent": 0 if mode.startswith("distributed") else 16,
            "clamp": CLAMP,
            "down_bits": 32,
        },
        "weight_rule": "equal",
        "evaluation": {"data": "public-digits", "every": 1, "evaluators": []},
        "roster": [_member(name) for name in names(n)],
        "f": f,
        "shamir_threshold": threshold(n, f),
        "quorum": threshold(n, f),
        "min_survivors": survivors,
        "graph": {"kind": "complete", "neighbours": 0, "share_threshold": 0, "max_dropouts": 0},
        "max_attempts": 3,
    }
    for field, value in overrides.items():
        document[field] = _merged(document.get(field), value)
    return document


def make_plan(
    n: int = 5, f: int = 1, mode: Mode = "none", entries: int = 12, **overrides: Json
) -> tuple[Plan, dict[str, SigningKey]]:
    """Return a plan made as :func:`plan_document` says, and the identity key of each member by name.

    Raises:
        PlanError: the overrides break a rule of plans.
    """
    plan = Plan.from_bytes(canonical.encode(plan_document(n=n, f=f, mode=mode, entries=entries, **overrides)))
    return plan, {member.id: signing_key(member.id) for member in plan.roster}


def sign_plan(plan: Plan, operator: SigningKey = OPERATOR) -> bytes:
    """Return the operator's signature over a plan's bytes."""
    return operator.sign(signed_plan_bytes(plan.to_bytes()))


def verified(plan: Plan) -> VerifiedPlan:
    """Return the plan as a participant holds it, signed by :data:`OPERATOR`."""
    return VerifiedPlan.verify(plan.to_bytes(), sign_plan(plan), OPERATOR.public)


def unproven(plan: Plan, *, neighbours: int, share_threshold: int) -> VerifiedPlan:
    """Return a plan with a k-regular graph too weak to be proven anything about, which every participant would refuse.

    It passes by all checks of plans: small cohorts show the mechanics, and their graphs prove nothing.
    """
    graph = Graph(
        kind="k-regular",
        neighbours=neighbours,
        share_threshold=share_threshold,
        max_dropouts=plan.n - plan.min_survivors,
    )
    weak = plan.model_copy(update={"graph": graph})
    return VerifiedPlan(weak, weak.hash)


def travelling(*streams: tuple[str, int]) -> dict[str, Any]:
    """The fields of a recipe in which these streams travel, train and are summed in each round."""
    return {
        "state": [{"name": name, "length": length, "role": "shared"} for name, length in streams],
        "turns": [turn(*streams)],
    }


def turn(*streams: tuple[str, int]) -> dict[str, Any]:
    """A turn in which these streams train and are summed."""
    return {
        "trains": [name for name, _ in streams],
        "sums": [{"name": name, "length": length} for name, length in streams],
    }


def travel(recipe: dict[str, Any], stream: dict[str, Any]) -> None:
    """Let one more stream of a recipe's document travel, train and be summed in each round."""
    recipe["state"].append({**stream, "role": "shared"})
    for each in recipe["turns"]:
        each["trains"].append(stream["name"])
        each["sums"].append(stream)


def _merged(old: Json, new: Json) -> Json:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
    return new


def _member(name: str) -> Json:
    return {
        "id": name,
        "identity_key": signing_key(name).public.hex(),
        "units": 100,
        "weight": 1,
        "with_operator": False,
        "options": {"rank": 0, "layers": []},
    }


def _tensor(key: str, shape: list[Json], stream: str) -> Json:
    return {"key": key, "shape": shape, "stream": stream, "part": "adapter"}


def _recipe(entries: int) -> Json:
    head = max(1, entries // 4)
    lengths = {"adapter": entries - head, "head": head}
    tensors: list[Json] = [
        _tensor("base_model.model.layer.q_proj.lora_A.weight", [2, 4], "frozen"),
        _tensor("base_model.model.layer.q_proj.lora_B.weight", [lengths["adapter"]], "adapter"),
        _tensor("base_model.model.classifier.weight", [lengths["head"]], "head"),
    ]
    return {
        "title": "Digits",
        "purpose": "A plan for tests",
        "notice": {"responsible": "", "contact": "", "data": "", "retention": ""},
        "base": {
            "name": "tiny-vit",
            "architecture": "ViTForImageClassification",
            "files": [{"name": "config.json", "sha256": "aa" * 32}, {"name": "model.safetensors", "sha256": "bb" * 32}],
        },
        "adapter": {
            "method": "ffa-lora",
            "options": {
                "peft_type": "LORA",
                "rank": 2,
                "alpha": "16",
                "target_modules": ["q_proj"],
                "layers": [],
            },
            "head_modules": ["classifier"],
            "seed": 7,
            "initial_hash": "cc" * 32,
            "tensors": tensors,
        },
        "state": [{"name": name, "length": length, "role": "shared"} for name, length in lengths.items()],
        "turns": [
            {
                "trains": [*lengths],
                "sums": [{"name": name, "length": length} for name, length in lengths.items()],
            }
        ],
        "schedule": {"opening": [], "cycle": [0]},
        "upload": {"kind": "differences"},
        "counts": "all",
        "task": {
            "kind": "image-classification",
            "data": "digits",
            "labels": [str(digit) for digit in range(10)],
            "input_column": "image",
            "label_column": "label",
            "image_mean": "0.5",
            "image_std": "0.5",
            "image_scale": "16",
        },
        "optimizer": {
            "name": "mean",
            "learning_rate": "1",
            "head_learning_rate": "1",
            "stream_rates": [],
            "momentum": "0",
            "second_momentum": "0",
            "epsilon": "0.001",
            "average": "0",
        },
        "training": {
            "learning_rate": "0.1",
            "head_learning_rate": "0.1",
            "stream_rates": [],
            "micro_batch": 16,
        },
        "rounds": 3,
    }


def _privacy(mode: Mode, entries: int, honest_noise: int) -> Json:
    variance_exponent, sensitivity = (0, 0) if mode == "none" else _mechanism(entries, honest_noise)
    unit = {"none": "none", "distributed-participant": "participant"}.get(mode, "example")
    return {
        "mode": mode,
        "unit": unit,
        "relation": "none" if mode == "none" else "zero-out",
        "epsilon": "0" if mode == "none" else "8",
        "delta": "0" if mode == "none" else "0.00001",
        "sampling_rate": "0.5",
        "local_steps": 1 if mode.startswith("distributed") else 2,
        "clip_norm": "1",
        "variance_exponent": variance_exponent,
        "sensitivity": sensitivity,
        "honest_noise": honest_noise,
        "max_rows_per_user": 0,
        "upload_after_ms": 0,
        "bands": [1],
    }


def _mechanism(entries: int, honest_noise: int) -> tuple[int, int]:
    """Return the smallest (noise exponent, sensitivity) at the tests' noise multiplier that a plan may have."""
    for exponent in range(12, 50):
        sensitivity = math.floor(math.sqrt(honest_noise * 2**exponent - 9) / NOISE_MULTIPLIER)
        if sensitivity * sensitivity > entries / 12 + 4 * sensitivity:
            return exponent, sensitivity
    raise ValueError(f"no noise exponent suits {entries} entries")
