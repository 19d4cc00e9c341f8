"""The floor of a round: what its primitives alone cost, called as often as the round called them.

Guarantees: the counts are of a real round, played once more and not timed, in which every call of a primitive is noted
for the side that makes it; the unit costs are of the bare calls, over data in the cache, measured in the same process.
Shamir arithmetic and encoding have no library behind them: there the unit is this project's own code.
Leaves to others: the clock of the real round (``bench.players``). Everything between the calls (building messages,
comparing sets, page faults) is not in the floor, so that nobody who keeps the protocol gets below it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median_low
from typing import Any, Final, Literal
from unittest.mock import patch

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bench import harness, players
from bench.masking import aligned
from bench.players import Case, Player, Stage
from host.system import SystemRandom
from privacy.secagg import keys, layout, masks, shamir
from privacy.secagg.fixed_point import Buffer, Ring, fixed, unfixed
from privacy.secagg.masks import MASK_CHUNK
from privacy.secret import SecretBytes

VERIFY: Final = "Ed25519 verifications"
SIGN: Final = "Ed25519 signatures"
AGREE: Final = "X25519 multiplications"
HASH: Final = "SHA-256 calls"
HASH_BYTES: Final = "SHA-256 bytes"
STREAM_BYTES: Final = "key stream bytes"
ADD_BYTES: Final = "added bytes"
DERIVE: Final = "HKDF calls"
BOX: Final = "AES-GCM boxes"
DEAL: Final = "Shamir terms dealt"
COMBINE: Final = "Shamir terms combined"
ENCODE: Final = "entries encoded"
DECODE: Final = "entries decoded"

Counts = Counter[str]
Side = Literal["client", "coordinator"]
_MANY: Final = 20  # calls that are timed together: the first brings everything into the cache
_ENTRIES: Final = 2**15  # whose encoding stays in the cache
_ADDED: Final = MASK_CHUNK // 2  # bytes: two of them stay in the cache, whatever else is in it
_REPEATS: Final = 300  # short ones: on a shared machine some are undisturbed

# Where a primitive is called, and what a call counts as: from its arguments.
_PLACES: Final[tuple[tuple[Any, str, Callable[..., dict[str, int]]], ...]] = (
    (keys, "verify", lambda *_: {VERIFY: 1}),
    (keys.SigningKey, "sign", lambda *_: {SIGN: 1}),
    (keys.AgreementKey, "agree", lambda *_: {AGREE: 1}),
    (keys.AgreementKey, "__init__", lambda *_: {AGREE: 1}),  # its public key
    (keys, "derive", lambda *_, **__: {DERIVE: 1}),
    (keys, "seal", lambda *_: {BOX: 1}),
    (keys, "unseal", lambda *_: {BOX: 1}),
    (
        layout,
        "apply_masks",
        lambda words, terms, **_: dict.fromkeys((STREAM_BYTES, ADD_BYTES), words.nbytes * len(terms)),
    ),
    (Ring, "add_into", lambda _, __, words: {ADD_BYTES: words.nbytes}),
    (shamir, "split", lambda *_, threshold, points, **__: {DEAL: threshold * len(points)}),
    (shamir, "combine", lambda shares, _: {COMBINE: len(shares)}),
    (players, "fixed", lambda values, **_: {ENCODE: values.size}),
    (players, "unfixed", lambda total, **_: {DECODE: total.size}),
)


class CountedStage(Stage):
    """A round of real updates that notes what each measured participant and the coordinator call."""

    def __init__(self, case: Case) -> None:
        super().__init__(case, reals=True)
        self.by_side: dict[str, Counts] = {"": Counter()}  # the coordinator's under no name
        self._noting: Counts | None = None

    def count(self) -> tuple[list[Counts], Counts]:
        """Play the round; return the counts of each measured participant, and the coordinator's."""
        masks.backend()  # has its known answers checked before anything is counted
        with ExitStack() as stack:
            for place, name, amounts in _PLACES:
                stack.enter_context(patch.object(place, name, self._noted(getattr(place, name), amounts)))
            stack.enter_context(patch.object(hashlib, "sha256", self._sha256(hashlib.sha256)))
            self.play()
        return [counts for name, counts in self.by_side.items() if name], self.by_side[""]

    def _note(self, amounts: dict[str, int]) -> None:
        if self._noting is not None:
            self._noting.update(amounts)

    def _noted(self, call: Callable[..., Any], amounts: Callable[..., dict[str, int]]) -> Callable[..., Any]:
        def noting(*args: Any, **kwargs: Any) -> Any:
            self._note(amounts(*args, **kwargs))
            return call(*args, **kwargs)

        return noting

    def _sha256(self, real: Callable[..., Any]) -> type:
        note = self._note

        class Sha256:
            def __init__(self, data: Buffer = b"") -> None:
                note({HASH: 1, HASH_BYTES: memoryview(data).nbytes})
                self._hash = real(data)

            def update(self, data: Buffer) -> None:
                note({HASH_BYTES: memoryview(data).nbytes})
                self._hash.update(data)

            def digest(self) -> bytes:
                return bytes(self._hash.digest())

        return Sha256

    @contextmanager
    def _client(self, player: Player) -> Iterator[None]:
        with super()._client(player), self._noting_for(player.name if player.measured else None):
            yield

    @contextmanager
    def _clock(self, phase: str, *, coordinator: bool) -> Iterator[None]:
        with super()._clock(phase, coordinator=coordinator), self._noting_for("" if coordinator else None):
            yield

    @contextmanager
    def _noting_for(self, name: str | None) -> Iterator[None]:
        before = self._noting
        self._noting = None if name is None else self.by_side.setdefault(name, Counter())
        try:
            yield
        finally:
            self._noting = before


def unit_seconds(case: Case) -> dict[str, float]:
    """Return what one of each primitive takes at least: the bare calls take turns, some at a time."""
    rules = case.plan()[0].plan
    points, threshold = list(range(1, rules.n + 1)), rules.shamir_threshold
    secret, random, short, chunk = SecretBytes(bytes(32)), SystemRandom(), bytes(64), bytes(MASK_CHUNK)
    signer, agreement, box = Ed25519PrivateKey.generate(), X25519PrivateKey.generate(), AESGCM(bytes(32))
    public, signature, peer = signer.public_key(), signer.sign(short), X25519PrivateKey.generate().public_key()
    shares = list(shamir.split(secret, threshold=threshold, points=points, random=random).values())[:threshold]
    coefficients, values = shamir.lagrange_at_zero(points[:threshold]), [share.reveal() for share in shares]
    words, other = (aligned(_ADDED).view("<u4") for _ in range(2))
    reals, encoding = np.ones(_ENTRIES, dtype=np.float32), {"scale_exponent": 16}
    total = fixed(reals, clamp=2**20, **encoding)
    stream, scratch = masks.backend().stream(secret), aligned(MASK_CHUNK + keys.TAG_BYTES).data
    calls: dict[str, tuple[int, Callable[[], object]]] = {  # how much a call does of it
        VERIFY: (1, lambda: public.verify(signature, short)),
        SIGN: (1, lambda: signer.sign(short)),
        AGREE: (1, lambda: agreement.exchange(peer)),
        HASH: (1, lambda: hashlib.sha256().digest()),  # its bytes are counted by themselves
        DERIVE: (1, lambda: HKDF(algorithm=SHA256(), length=32, salt=short, info=short).derive(short)),
        BOX: (1, lambda: box.encrypt(short[:12], short, short)),
        HASH_BYTES: (MASK_CHUNK, lambda: hashlib.sha256(chunk).digest()),
        STREAM_BYTES: (MASK_CHUNK, lambda: stream.write(short[:12], memoryview(chunk), scratch)),
        ADD_BYTES: (_ADDED, lambda: np.add(words, other, out=words)),
        DEAL: (threshold * rules.n, lambda: shamir.split(secret, threshold=threshold, points=points, random=random)),
        COMBINE: (threshold, lambda: shamir.combine(values, coefficients)),
        ENCODE: (_ENTRIES, lambda: fixed(reals, clamp=2**20, **encoding)),
        DECODE: (_ENTRIES, lambda: unfixed(total, divisor=1, **encoding)),
    }
    least = harness.seconds_in_turns({name: _repeated(call) for name, (_, call) in calls.items()}, repeats=_REPEATS)
    return {name: least[name] / (_MANY * amount) for name, (amount, _) in calls.items()}


def _repeated(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(_MANY):
            call()

    return run


@dataclass(frozen=True, slots=True)
class Floor:
    """How often each side of a case calls each primitive, and what one of each costs."""

    unit: dict[str, float]  # seconds
    counts: dict[Side, Counts]

    @classmethod
    def of(cls, case: Case) -> Floor:
        """Play a case once more and count; of the participants the one with the median floor is taken."""
        clients, coordinator = CountedStage(case).count()
        unit = unit_seconds(case)
        costs = {id(player): _milliseconds(player, unit) for player in clients}
        middle = median_low(costs.values())
        client = next(player for player in clients if costs[id(player)] == middle)
        return cls(unit, {"client": client, "coordinator": coordinator})

    def milliseconds(self, side: Side, primitive: str = "") -> float:
        """Return what a primitive costs a side, or all of them."""
        counts = self.counts[side]
        return _milliseconds(Counter({primitive: counts[primitive]}) if primitive else counts, self.unit)

    def figures(self, side: Side) -> dict[str, float]:
        """Return the floor of a side, and of each primitive the count and the milliseconds."""
        figures: dict[str, float] = {f"{side}_floor_ms": round(self.milliseconds(side), 2)}
        for name, count in self.counts[side].items():
            key = f"{side}_floor.{name.lower().replace(' ', '_').replace('-', '_')}"
            figures |= {key: count, f"{key}_ms": round(self.milliseconds(side, name), 3)}
        return figures

    def table(self) -> str:
        """Return the counts, unit costs and products of both sides, and the sums."""
        sides: tuple[Side, ...] = ("client", "coordinator")
        rows = [
            [
                name,
                _unit(seconds),
                *(
                    text
                    for side in sides
                    for text in (f"{self.counts[side][name]:,}", f"{self.milliseconds(side, name):.2f}")
                ),
            ]
            for name, seconds in self.unit.items()
        ]
        rows.append(
            ["floor", "", "", f"{self.milliseconds('client'):.2f}", "", f"{self.milliseconds('coordinator'):.2f}"]
        )
        return harness.table(["primitive", "each", "client", "ms", "coordinator", "ms"], rows)


def _milliseconds(counts: Counts, unit: dict[str, float]) -> float:
    return 1e3 * sum(amount * unit[name] for name, amount in counts.items())


def _unit(seconds: float) -> str:
    return f"{1e6 * seconds:.2f} us" if seconds > 1e-7 else f"{1e9 * seconds:.3f} ns"
