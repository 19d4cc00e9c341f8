"""How fast discrete Gaussian noise is drawn, against the key stream that it is drawn from.

A million entries with sigma = 2^12 by the compiled sampler, from an AES-256-CTR stream as a round has it. The key
stream alone writes as many bytes in the same run and in turns. ``slow`` is the sampler without numba. CPU seconds.
"""

from __future__ import annotations

import secrets
import statistics
import sys
import time
from collections.abc import Callable
from typing import Final

from bench import harness
from participant.training.noise_keys import KeyStream
from privacy.dp import fast_noise, noise
from privacy.dp.fast_noise import MOST_WORDS
from privacy.secret import SecretBytes

ENTRIES, EXPONENT = 10**6, 24
MARK_SECONDS: Final = 0.3
PACKAGES: Final = ("numba", "numpy", "cryptography")


class _Counted:
    """A fresh key stream that counts what is read."""

    def __init__(self) -> None:
        self._stream = KeyStream(SecretBytes(secrets.token_bytes(32)))
        self.bytes = 0

    def token_bytes(self, count: int) -> bytes:
        self.bytes += count
        return self._stream.token_bytes(count)


def _stream_only(size: int) -> None:
    stream, step = _Counted(), 8 * MOST_WORDS
    for _ in range(size // step):
        stream.token_bytes(step)


def main() -> int:
    """Measure, print the table and the JSON line."""
    arguments = harness.parser(__doc__)
    arguments.add_argument("--turns", type=int, default=9, help="how often each is drawn")
    options = arguments.parse_args()
    began = time.perf_counter()
    fast_noise.discrete_gaussian(1, EXPONENT, _Counted())
    first = time.perf_counter() - began
    counted = _Counted()
    fast_noise.discrete_gaussian(ENTRIES, EXPONENT, counted)
    cases: dict[str, Callable[[], object]] = {
        "keystream": lambda: _stream_only(counted.bytes),
        "discrete_gaussian": lambda: fast_noise.discrete_gaussian(ENTRIES, EXPONENT, _Counted()),
        "slow": lambda: noise.discrete_gaussian(ENTRIES, EXPONENT, _Counted()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.turns):
        for name, run in cases.items():
            started = time.process_time()
            run()
            seconds[name].append(time.process_time() - started)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    figures = {
        "discrete_gaussian.seconds_per_1e6": round(middle["discrete_gaussian"], 4),
        "discrete_gaussian.over_keystream": round(middle["discrete_gaussian"] / middle["keystream"], 3),
        "discrete_gaussian.bytes_per_entry": round(counted.bytes / ENTRIES, 1),
        "discrete_gaussian.seconds_before_the_first": round(first, 3),
        "slow.seconds_per_1e6": round(middle["slow"], 4),
        "keystream.seconds_per_1e6": round(middle["keystream"], 4),
    }
    rows = [
        [name, f"{middle[name]:.4f}", f"{middle[name] / middle['keystream']:.2f}"]
        for name in ("keystream", "discrete_gaussian", "slow")
    ]
    print(harness.table(["10^6 entries", "CPU seconds", "over key stream"], rows))
    met = "met" if middle["discrete_gaussian"] <= MARK_SECONDS else "MISSED"
    print(f"discrete_gaussian.seconds_per_1e6 {middle['discrete_gaussian']:.3f}, mark {MARK_SECONDS}: {met}")
    harness.publish("noise", figures, packages=PACKAGES, save=options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
