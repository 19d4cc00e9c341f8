"""The plan: the signed document that all parties approve, and the only source of rules in a run.

It fixes what is trained, how, with whom and at what privacy. No message of a coordinator ever sets one of its fields.

Guarantees: a :class:`Plan` in memory is complete and keeps the arithmetic rules of ``docs/protocol.md`` (threshold,
quorum, least survivors, ring) and ``docs/privacy-accounting.md`` (noise, sensitivity, honest noise); a
:class:`VerifiedPlan` was also signed by the pinned operator.
Leaves to others: whether an owner's policy allows it (``participant.policy``), and calibration (``privacy.dp``).
Source: ``docs/protocol.md`` section 2.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from dataclasses import dataclass
from decimal import Decimal
from operator import attrgetter
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from privacy import canonical
from privacy.errors import PeerError
from privacy.secagg import graph_bounds, keys

PROTOCOL_VERSION: Final = 1
PLAN_SIGNATURE_LABEL = b"onlysum/1/plan"
APPROVAL_LABEL = b"onlysum/1/approval"
MAX_ROSTER = 4096  # x-coordinates and messages stay small
COMPLETE_GRAPH_MAX = 512
MAX_ENTRIES = 2**31  # entries of a vector: 8 GiB at 32 bits, beyond any adapter
WRAP_SIGMAS = 10.5  # P(any wrap) < 2^-40 while entries x rounds <= WRAP_EVENTS (docs/protocol.md section 7)
WRAP_EVENTS = 3.9e11
MIN_NOISE_EXPONENT = 3  # sigma_i >= 8: the lemma's error is below 1e-65 (docs/privacy-accounting.md)
LEAST_REGULAR_DELTA = 1e-9  # a thousand times the 2^-40 that a k-regular graph takes off it
MAX_NOISE_EXPONENT = 25  # the sampler's gamma stays within int64

_id: Final = attrgetter("id")

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Hex128 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Hex256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
DecimalString = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?$")]
Text = Annotated[str, StringConstraints(min_length=0, max_length=4000)]
Count = Annotated[int, Field(ge=0, le=canonical.MAX_INTEGER)]
Positive = Annotated[int, Field(ge=1, le=canonical.MAX_INTEGER)]

Mode = Literal["local", "distributed", "distributed-participant", "none"]
Unit = Literal["example", "user", "participant", "none"]


class BrokenRuleError(ValueError):
    """A rule of plans with an entry of its own in the registry of errors."""

    def __init__(self, code: str, rule: str) -> None:
        super().__init__(rule)
        self.code = code


class Part(BaseModel):
    """Base of every part of a plan: frozen, strict, and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Member(Part):
    """A participant on the roster.

    ``units`` is its public number of privacy units (the relation is zero-out, so sizes are public); ``weight`` is the
    public integer by which its update is multiplied before masking (always 1 in the distributed modes).
    """

    id: Name
    identity_key: Hex256
    units: Positive
    weight: Positive = 1
    with_operator: bool = False  # its organisation also runs the coordinator: it counts in f


class Evaluator(Part):
    """An enrolled evaluator: measures released adapters on public data, never masks."""

    id: Name
    identity_key: Hex256


class Graph(Part):
    """Who masks with whom. The k-regular kind carries its own, weaker sentence of claim (docs/graphs.md)."""

    kind: Literal["complete", "k-regular"] = "complete"
    neighbours: Count = 0  # k: of each participant at most; 0 for the complete graph
    share_threshold: Count = 0  # t: how many of a participant's holders rebuild its secrets; 0 for the complete graph
    max_dropouts: Count = 0  # D: n - min_survivors; 0 for the complete graph

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "complete" and (self.neighbours, self.share_threshold, self.max_dropouts) != (0, 0, 0):
            raise ValueError("the complete graph has no neighbours, share_threshold or max_dropouts")
        if self.kind == "k-regular" and not (self.neighbours >= 2 and self.neighbours % 2 == 0):
            raise ValueError("a k-regular graph needs an even number of neighbours of at least 2")
        return self


class FileHash(Part):
    """A file of the base model and its SHA-256."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    sha256: Hex256


class BaseReference(Part):
    """The foundation model: each participant registers its own copy, which must have these very bytes."""

    name: Name
    architecture: Text  # informational: the class that config.json names
    files: Annotated[tuple[FileHash, ...], Field(min_length=1)]

    @property
    def hash(self) -> str:
        """SHA-256 (hex) over the canonical list of file hashes."""
        return hashlib.sha256(canonical.encode([file.model_dump() for file in self.files])).hexdigest()

    @model_validator(mode="after")
    def _sorted(self) -> Self:
        names = [file.name for file in self.files]
        if names != sorted(set(names)):
            raise ValueError("base files must be sorted and unique")
        return self


class Tensor(Part):
    """A tensor of the adapter, under its key in PEFT's own file format.

    Trained tensors are laid out in the order of the manifest, row-major, stream by stream. Frozen ones are common to
    all and come from the initial adapter.
    """

    key: Annotated[str, StringConstraints(min_length=1, max_length=300)]
    shape: Annotated[tuple[Positive, ...], Field(max_length=8)]
    stream: Name  # a stream of the layout, or "frozen"

    @property
    def entries(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


class Adapter(Part):
    """The PEFT method, its configuration, and what every tensor of the adapter is."""

    method: Name
    peft_type: Text
    rank: Count = 0
    alpha: DecimalString = "0"
    target_modules: tuple[Text, ...] = ()
    head_modules: tuple[Text, ...] = ()  # PEFT's modules_to_save: the task head, a stream of its own
    layers: tuple[Count, ...] = ()  # which layers are adapted; empty: all
    seed: Count = 0  # of the initial adapter's random parts; public
    initial_hash: Hex256  # SHA-256 of the initial adapter's safetensors file
    tensors: Annotated[tuple[Tensor, ...], Field(min_length=1)]


class Stream(Part):
    """A named part of the vector, masked under a key of its own."""

    name: Name
    length: Positive


class Task(Part):
    """What the model does, and how raw rows become its input."""

    kind: Literal["image-classification", "text-classification"]
    data: Name  # the owners' dataset of this name, or the one chosen at approval
    labels: Annotated[tuple[Text, ...], Field(min_length=2)]
    input_column: Text = "input"
    label_column: Text = "label"
    max_length: Count = 0  # tokens; 0 for images
    image_mean: DecimalString = "0"
    image_std: DecimalString = "1"
    image_scale: DecimalString = "1"  # raw pixel values are divided by this first


class Encoding(Part):
    """Fixed point in the ring Z_2^b, signed two's complement (docs/protocol.md section 7).

    An update is multiplied by ``2**scale_exponent`` and rounded; in the distributed modes it consists of integers
    already and the exponent is 0. Every coordinate is clamped to +-``clamp`` before noise, never refused.
    """

    ring_bits: Literal[32, 64]
    lane_bits: Count = 0  # L of packed lanes in 64-bit words; 0: one entry a word
    scale_exponent: Annotated[int, Field(ge=0, le=50)]
    clamp: Positive

    @property
    def bits(self) -> int:
        """The modulus of one entry is 2**bits."""
        return self.lane_bits or self.ring_bits

    @model_validator(mode="after")
    def _lanes(self) -> Self:
        if self.lane_bits and (self.ring_bits != 64 or not 8 <= self.lane_bits <= 32):
            raise ValueError("packed lanes are 8 to 32 bits wide in a 64-bit ring")
        return self


class Privacy(Part):
    """The mode, its integers, and the target that they were calibrated for.

    ``noise_exponent`` k, ``sensitivity`` D and ``honest_noise`` h are the mechanism: each participant adds discrete
    Gaussian noise of sigma 2**k, one unit of privacy moves the integer sum by at most D, and h participants' noise is
    relied on. All three are 0 in mode ``none``. In mode ``local`` h is 1 and each of ``local_steps`` steps is noised.
    """

    mode: Mode
    unit: Unit
    relation: Literal["zero-out", "none"]
    epsilon: DecimalString  # target at delta; "0" in mode none
    delta: DecimalString
    sampling_rate: DecimalString  # q, of Poisson sampling; what is executed
    local_steps: Positive  # E
    clip_norm: DecimalString  # C, per unit
    noise_exponent: Count = 0
    sensitivity: Count = 0
    honest_noise: Count = 0
    max_rows_per_user: Count = 0  # 0 unless the unit is the user
    upload_after_ms: Count = 0  # no upload leaves earlier after the round's start
    overlap: bool = False  # charge and train before U1 is verified

    @property
    def noised(self) -> bool:
        """Whether this plan makes a claim of differential privacy."""
        return self.mode != "none"

    @property
    def noise_multiplier(self) -> float:
        """z' = sqrt(h*4^k - 9)/D of the lemma in docs/privacy-accounting.md; 0.0 without noise."""
        if not self.noised:
            return 0.0
        return math.sqrt(self.honest_noise * 4**self.noise_exponent - 9) / self.sensitivity

    @model_validator(mode="after")
    def _mode(self) -> Self:
        mechanism = (self.noise_exponent, self.sensitivity, self.honest_noise)
        if not self.noised:
            if mechanism != (0, 0, 0) or self.unit != "none" or self.relation != "none":
                raise ValueError("mode none has no noise, unit or relation")
            return self
        if self.relation != "zero-out" or self.unit == "none":
            raise ValueError("a noised mode has a unit of privacy and the zero-out relation")
        if (self.unit == "participant") != (self.mode == "distributed-participant"):
            raise ValueError("the unit is the participant in mode distributed-participant, and only there")
        if (self.unit == "user") != (self.max_rows_per_user > 0):
            raise ValueError("max_rows_per_user belongs to the user unit, and only to it")
        if not MIN_NOISE_EXPONENT <= self.noise_exponent <= MAX_NOISE_EXPONENT:
            raise BrokenRuleError(
                "E-PLAN-NOISE", f"noise_exponent must be {MIN_NOISE_EXPONENT} to {MAX_NOISE_EXPONENT}"
            )
        if self.sensitivity < 1 or self.honest_noise < 1:
            raise ValueError("a noised mode needs a sensitivity and honest noise of at least 1")
        if self.mode == "local" and self.honest_noise != 1:
            raise ValueError("in mode local nobody else's noise is relied on: honest_noise is 1")
        if self.mode == "distributed" and self.local_steps != 1:
            raise ValueError("mode distributed takes one step a round")
        if not (0 < Decimal(self.epsilon) and 0 < Decimal(self.delta) < 1 and Decimal(self.clip_norm) > 0):
            raise ValueError("epsilon, delta and clip_norm must be positive, delta below 1")
        return self

    @model_validator(mode="after")
    def _rate(self) -> Self:
        if not 0 < Decimal(self.sampling_rate) <= 1:
            raise ValueError("sampling_rate must be above 0 and at most 1")
        return self


class Optimizer(Part):
    """What the coordinator does with the decoded mean (``local``, ``none``) or noisy gradient (``distributed``)."""

    name: Literal["mean", "sgd", "adam", "yogi"] = "mean"
    learning_rate: DecimalString = "1"
    head_learning_rate: DecimalString = "1"
    momentum: DecimalString = "0"
    second_momentum: DecimalString = "0"
    epsilon: DecimalString = "0.001"
    average: DecimalString = "0"  # e of the exponential average of iterates, weight min(e, (r+1)/(r+10)); 0: off


class Training(Part):
    """What a participant does in its steps; all constants, never a realised batch."""

    learning_rate: DecimalString
    head_learning_rate: DecimalString
    micro_batch: Positive = 64


class Evaluation(Part):
    """Who measures the released adapters, on which public data of theirs, and how often."""

    data: Name
    every: Positive = 1
    evaluators: tuple[Evaluator, ...] = ()


class Recipe(Part):
    """The part of a plan that a researcher writes: everything but the federation. A draft directory holds it."""

    title: Text
    purpose: Text
    base: BaseReference
    adapter: Adapter
    layout: Annotated[tuple[Stream, ...], Field(min_length=1)]
    task: Task
    optimizer: Optimizer
    training: Training
    rounds: Positive

    @property
    def entries(self) -> int:
        """d: number of entries of the vector that is summed."""
        return sum(stream.length for stream in self.layout)

    @model_validator(mode="after")
    def _layout(self) -> Self:
        names = [stream.name for stream in self.layout]
        if len(set(names)) != len(names) or "frozen" in names:
            raise ValueError("streams must have distinct names, none of them 'frozen'")
        if len({tensor.key for tensor in self.adapter.tensors}) != len(self.adapter.tensors):
            raise ValueError("the adapter names a tensor twice")
        for stream in self.layout:
            sizes = [tensor.entries for tensor in self.adapter.tensors if tensor.stream == stream.name]
            if sum(sizes) != stream.length:
                raise ValueError(f"stream {stream.name} has {stream.length} entries, its tensors {sum(sizes)}")
        if {tensor.stream for tensor in self.adapter.tensors} - {*names, "frozen"}:
            raise ValueError("a tensor lies in a stream that the layout lacks")
        if self.entries > MAX_ENTRIES:
            raise ValueError(f"the vector has more than {MAX_ENTRIES} entries")
        return self


class PrivacyTarget(Part):
    """What a draft asks for; ``run create`` turns it into integers once the roster is known."""

    mode: Mode
    unit: Unit
    epsilon: DecimalString
    delta: DecimalString
    sampling_rate: DecimalString
    local_steps: Positive
    clip_norm: DecimalString
    update_bound: DecimalString  # largest absolute coordinate of a difference (local, none)
    max_rows_per_user: Count = 0
    upload_after_ms: Count = 0


class Draft(Part):
    """A recipe with a privacy target, evaluation and protocol wishes, but no roster."""

    draft_version: Literal[1] = 1
    recipe: Recipe
    privacy: PrivacyTarget
    evaluation_data: Name
    evaluate_every: Positive = 1
    suite: Literal[1, 2] = 1
    max_attempts: Positive = 3

    def to_bytes(self) -> bytes:
        """Return the canonical JSON of this draft."""
        return canonical.encode(self.model_dump(mode="json"))


class Plan(Part):
    """Everything that binds the parties of a run. See the module's docstring."""

    protocol_version: Literal[1] = PROTOCOL_VERSION
    suite: Literal[1, 2] = 1
    federation: Name
    operator: Text
    run_id: Hex128
    created_at: Count  # seconds since the Unix epoch
    expires_at: Count
    recipe: Recipe
    privacy: Privacy
    encoding: Encoding
    weight_rule: Literal["equal", "units"] = "equal"
    evaluation: Evaluation
    roster: Annotated[tuple[Member, ...], Field(min_length=3, max_length=MAX_ROSTER)]
    f: Count
    shamir_threshold: Positive
    quorum: Positive
    min_survivors: Positive
    graph: Graph
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3

    @property
    def n(self) -> int:
        """Size of the roster, which is the cohort of every round in protocol version 1."""
        return len(self.roster)

    @property
    def m(self) -> int:
        """Least size of U1, U2 and S: max(T, min_survivors)."""
        return max(self.shamir_threshold, self.min_survivors)

    @property
    def share_threshold(self) -> int:
        """How many shares rebuild a participant's secrets: T, or t of its holders in a k-regular graph."""
        return self.graph.share_threshold or self.shamir_threshold

    def to_bytes(self) -> bytes:
        """Return the canonical JSON that is hashed and signed."""
        return canonical.encode(self.model_dump(mode="json"))

    @property
    def hash(self) -> bytes:
        """SHA-256 over :meth:`to_bytes` (32 bytes)."""
        return hashlib.sha256(self.to_bytes()).digest()

    def index(self, participant: str) -> int:
        """Return a participant's position on the roster, from 0; its Shamir x-coordinate is one more.

        Raises:
            KeyError: it is not on the roster.
        """
        position = bisect_left(self.roster, participant, key=_id)  # the roster is sorted
        if position == self.n or self.roster[position].id != participant:
            raise KeyError(participant)
        return position

    def member(self, participant: str) -> Member:
        """Return the roster's entry of a participant, or raise ``KeyError``."""
        return self.roster[self.index(participant)]

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse and check a plan.

        Raises:
            PeerError: ``E-PLAN-MALFORMED``, or ``E-PLAN-RING``, ``E-PLAN-NOISE`` or ``E-PLAN-RULE``, naming the first
                rule that it breaks.
        """
        try:
            canonical.decode(data)
            plan = cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "plan"
            broken = first.get("ctx", {}).get("error")
            code = getattr(broken, "code", "E-PLAN-RULE" if first["type"] == "value_error" else "E-PLAN-MALFORMED")
            raise _refuse(code, f"{where}: {broken or first['msg']}") from None
        except ValueError as error:
            raise _refuse("E-PLAN-MALFORMED", str(error)) from None
        if plan.to_bytes() != data:  # a field left to its default: the same plan would have two hashes
            raise _refuse(
                "E-PLAN-MALFORMED", "plan: every field must be written out, in the form that it is written in"
            )
        return plan

    @model_validator(mode="after")
    def _roster(self) -> Self:
        ids = [member.id for member in self.roster]
        if ids != sorted(set(ids)):
            raise ValueError("the roster must be sorted and name nobody twice")
        everyone: tuple[Member | Evaluator, ...] = (*self.roster, *self.evaluation.evaluators)
        if len({one.identity_key for one in everyone}) != len(everyone):
            raise ValueError("two members have the same identity key")
        for one in everyone:
            if not keys.is_safe_identity_key(bytes.fromhex(one.identity_key)):
                raise ValueError(f"the identity key of {one.id} is of small order or no point")
        if {one.id for one in self.evaluation.evaluators} & set(ids):
            raise ValueError("an evaluator is not a participant")
        if self.f < sum(member.with_operator for member in self.roster):
            raise ValueError("f must count every participant whose organisation also runs the coordinator")
        return self

    @model_validator(mode="after")
    def _thresholds(self) -> Self:
        if self.f >= self.n:
            raise ValueError("f must be below the number of participants")
        if not self.shamir_threshold == self.quorum == threshold(self.n, self.f):
            raise ValueError(f"shamir_threshold and quorum must be floor((n+f)/2)+1 = {threshold(self.n, self.f)}")
        least = least_survivors(self.n, self.f)
        if not least <= self.min_survivors <= self.n:
            raise ValueError(f"min_survivors must be from {least} to n = {self.n}")
        if self.graph.kind == "complete" and self.n > COMPLETE_GRAPH_MAX:
            raise ValueError(f"the complete graph serves at most {COMPLETE_GRAPH_MAX} participants")
        if self.expires_at <= self.created_at:
            raise ValueError("the plan expires before it is made")
        return self

    @model_validator(mode="after")
    def _graph(self) -> Self:
        graph = self.graph
        if graph.kind == "complete":
            return self
        if graph.max_dropouts != self.n - self.min_survivors:
            raise ValueError(f"max_dropouts must be n - min_survivors = {self.n - self.min_survivors}")
        cohort = graph_bounds.Cohort(self.n, self.f, graph.max_dropouts, self.recipe.rounds, self.max_attempts)
        graph_bounds.check(cohort, neighbours=graph.neighbours, share_threshold=graph.share_threshold)
        return self

    @model_validator(mode="after")
    def _weights(self) -> Self:
        weights = [member.weight for member in self.roster]
        if self.privacy.mode.startswith("distributed") and self.weight_rule != "equal":
            raise ValueError("a weight w would make the sensitivity w*D: the distributed modes have none")
        if self.weight_rule == "equal" and set(weights) != {1}:
            raise ValueError("weights must be 1 under the equal rule")
        return self

    @model_validator(mode="after")
    def _mechanism(self) -> Self:
        privacy = self.privacy
        if not privacy.noised:
            return self
        entries, bound = self.recipe.entries, privacy.sensitivity
        if bound * bound <= entries / 12 + 4 * bound:
            rule = f"sensitivity D={bound} is too small for d={entries}: D^2 must exceed d/12 + 4D"
            raise BrokenRuleError("E-PLAN-NOISE", rule)
        if self.graph.kind == "k-regular" and float(privacy.delta) < LEAST_REGULAR_DELTA:
            raise ValueError("on a k-regular graph delta must be at least 1e-9: its masks fail with probability 2^-40")
        if privacy.mode != "local" and privacy.honest_noise != self.min_survivors - max(self.f, 1):
            raise ValueError("honest_noise must be min_survivors - max(f, 1)")
        return self

    @model_validator(mode="after")
    def _ring(self) -> Self:
        largest, half = largest_sum(self), 1 << (self.encoding.bits - 1)
        if largest >= half:
            rule = f"the sum may reach {largest:.4g}, the ring of {self.encoding.bits} bits holds {half:.4g}"
            raise BrokenRuleError("E-PLAN-RING", rule)
        return self


def threshold(n: int, f: int) -> int:
    """Return T = floor((n+f)/2)+1, Shamir threshold and quorum: two T-sets share more than f members."""
    return (n + f) // 2 + 1


def least_survivors(n: int, f: int) -> int:
    """Return the smallest min_survivors that a plan may name."""
    return max(threshold(n, f), f + 2, 3)


def default_survivors(n: int, f: int) -> int:
    """Return the min_survivors that leaves about a tenth of the roster, at least one, to drop out."""
    return min(n, max(least_survivors(n, f), n - max(1, n // 10)))


def largest_sum(plan: Plan) -> float:
    """Return the bound of docs/protocol.md section 7 on the absolute value of a summed coordinate."""
    privacy = plan.privacy
    if not privacy.mode.startswith("distributed"):
        return float(sum(member.weight for member in plan.roster) * (plan.encoding.clamp + 1))
    events = plan.recipe.entries * plan.recipe.rounds
    sigmas = WRAP_SIGMAS if events <= WRAP_EVENTS else math.sqrt(2 * math.log(2.0**41 * events))
    return plan.n * plan.encoding.clamp + sigmas * math.sqrt(plan.n) * 2.0**privacy.noise_exponent


def _refuse(code: str, rule: str) -> PeerError:
    return PeerError(code, participant="coordinator", phase="plan", rule=rule)


def signed_plan_bytes(data: bytes) -> bytes:
    """Return the string that the operator signs: length-prefixed label and plan hash."""
    return keys.framed(PLAN_SIGNATURE_LABEL, hashlib.sha256(data).digest())


def signed_approval_bytes(plan_hash: bytes, participant: str) -> bytes:
    """Return the string that an owner's identity key signs to approve a plan."""
    return keys.framed(APPROVAL_LABEL, plan_hash, participant.encode())


@dataclass(frozen=True, slots=True)
class VerifiedPlan:
    """A plan whose signature by the pinned operator was verified; made by :meth:`verify` alone."""

    plan: Plan
    hash: bytes

    @classmethod
    def verify(cls, data: bytes, signature: bytes, operator_key: bytes) -> VerifiedPlan:
        """Verify the operator's Ed25519 signature over the plan's exact bytes, then parse it.

        Raises:
            PeerError: ``E-PLAN-SIGNATURE``, or as :meth:`Plan.from_bytes`.
        """
        if not keys.verify(operator_key, signature, signed_plan_bytes(data)):
            raise _refuse("E-PLAN-SIGNATURE", "the signature is not by the operator key pinned at joining")
        return cls(plan=Plan.from_bytes(data), hash=hashlib.sha256(data).digest())
