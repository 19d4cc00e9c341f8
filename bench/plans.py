"""Plans for benchmarks: mode ``distributed`` at epsilon 8, words as ``run create`` chooses them, keys from fixed bytes.

Guarantees: the same arguments give the same plan; every rule of plans holds, since it is parsed and verified as a
participant does it.
"""

from __future__ import annotations

import hashlib
from typing import Final

from privacy.adapter_options import LoraOptions
from privacy.adapter_parts import Adapter, StateStream, Stream, Tensor, Turn
from privacy.dp.calibration import calibrate
from privacy.dp.signal import Setting
from privacy.draft import BaseReference, FileHash, Optimizer, PrivacyTarget, Recipe, Training
from privacy.plan import Plan, VerifiedPlan, default_survivors, signed_plan_bytes, threshold
from privacy.plan_parts import Evaluation, Graph, Member
from privacy.secagg.keys import SigningKey
from privacy.secagg.suites import Suite
from privacy.secret import SecretBytes
from privacy.task_parts import ImageClassification

CREATED_AT: Final = 1_767_225_600  # 2026-01-01
EXPIRES_AT: Final = 4_102_444_800  # 2100-01-01
UNITS: Final = 1000  # of each participant
ROUNDS: Final = 100
TARGET: Final = PrivacyTarget(
    mode="distributed",
    unit="example",
    epsilon="8",
    delta="0.00001",
    sampling_rate="0.05",
    local_steps=1,
    clip_norm="1",
    update_bound="8",
)
COLLUDING_OF: Final = 3  # f is the largest integer below n / 3


def signing_key(name: str) -> SigningKey:
    """Return the identity key that belongs to a name in all benchmarks."""
    return SigningKey(SecretBytes(hashlib.sha256(b"onlysum bench: identity key of " + name.encode()).digest()))


def members(n: int) -> tuple[str, ...]:
    """Return n sorted names."""
    return tuple(f"p{number:04d}" for number in range(n))


def tensor_shapes(entries: int) -> dict[str, tuple[int, ...]]:
    """Return the adapter's tensors: a frozen one, and one whose entries are the vector."""
    layer = "base_model.model.layer.q_proj"
    return {f"{layer}.lora_A.weight": (1, 1), f"{layer}.lora_B.weight": (entries,)}


def recipe(entries: int, *, rounds: int = 1, initial_hash: str = "cc" * 32) -> Recipe:
    """Return a recipe whose vector is one stream of ``entries`` entries."""
    return Recipe(
        title="Benchmark",
        purpose="Measures the protocol",
        base=BaseReference(name="none", architecture="none", files=(FileHash(name="config.json", sha256="aa" * 32),)),
        adapter=Adapter(
            method="ffa-lora",
            options=LoraOptions(rank=1, alpha="1", target_modules=("layer",)),
            initial_hash=initial_hash,
            tensors=tuple(
                Tensor(key=key, shape=shape, stream=stream)
                for (key, shape), stream in zip(tensor_shapes(entries).items(), ("frozen", "adapter"), strict=True)
            ),
        ),
        state=(StateStream(name="adapter", length=entries),),
        turns=(Turn(trains=("adapter",), sums=(Stream(name="adapter", length=entries),)),),
        task=ImageClassification(data="digits", labels=("0", "1")),
        optimizer=Optimizer(),
        training=Training(learning_rate="0.1", head_learning_rate="0.1"),
        rounds=rounds,
    )


def tolerated(n: int) -> int:
    """Return how many dropouts a plan for n tolerates, unless it says otherwise."""
    return n - default_survivors(n, (n - 1) // COLLUDING_OF)


def make_plan(
    n: int, entries: int, *, graph: Graph | None = None, suite: Suite = 1
) -> tuple[VerifiedPlan, dict[str, SigningKey]]:
    """Return a plan that its operator signed, and the identity key of each member.

    Args:
        n: size of the roster.
        entries: length of the vector.
        graph: who masks with whom; complete by default.
        suite: of key agreement.

    Raises:
        PeerError: the numbers break a rule of plans.
    """
    f = (n - 1) // COLLUDING_OF
    survivors = n - graph.max_dropouts if graph and graph.max_dropouts else default_survivors(n, f)
    keys = {name: signing_key(name) for name in members(n)}
    roster = tuple(Member(id=name, identity_key=key.public.hex(), units=UNITS) for name, key in keys.items())
    wanted = recipe(entries, rounds=ROUNDS)
    privacy, encoding = calibrate(TARGET, Setting.of(wanted, roster, f=f, min_survivors=survivors))
    # Validation is left to `from_bytes`, so that a refused plan is refused as a participant would refuse it.
    plan = Plan.model_construct(
        suite=suite,
        federation="bench",
        operator="Benchmark",
        run_id="00112233445566778899aabbccddeeff",
        created_at=CREATED_AT,
        expires_at=EXPIRES_AT,
        recipe=wanted,
        privacy=privacy,
        encoding=encoding,
        evaluation=Evaluation(data="none"),
        roster=roster,
        f=f,
        shamir_threshold=threshold(n, f),
        quorum=threshold(n, f),
        min_survivors=survivors,
        graph=graph or Graph(),
    )
    operator, data = signing_key("the operator"), plan.to_bytes()
    return VerifiedPlan.verify(data, operator.sign(signed_plan_bytes(data)), operator.public), keys
