"""What a recipe may leave out: rounds, sampling, rates and optimizer, from a rule of signal and noise.

Guarantees: a function of public numbers alone (target, sizes that the recipe expects, shape of the adapter), the same
for whoever computes it; the same recipe gives the same plan.
Leaves to others: what only the base can say (``authoring.filling``), the integers of the mechanism
(``coordinator run create``).

The rule. Let n be the units of all participants together, q the sampling rate, S the steps of a run (rounds times
local steps), C the clip norm, sigma the noise multiplier, d the entries that are clipped together, and k how much more
noise a sum has than a claim relies on: sqrt(P) with local noise, sqrt(P/h) with noise that h members share.

1. **Steps.** By the central limit theorem of Gaussian DP, S steps are mu-GDP with mu = q sqrt(S (exp(sigma^-2) - 1)):
   in the limit of much noise sigma / q does not depend on q, and the signal over the noise of a whole run,

       R_sn = sqrt(S) q n / (sigma k sqrt(d)),

   depends neither on S nor on q: only time does. S is 100, below which momentum has too few steps to act.
2. **Sampling rate.** Small batches pay: against whole batches the noise grows by u / sqrt(ln(1 + u^2)) where
   u = mu / (q sqrt(S)). At u = 0.4 that is a twenty-fifth, and sigma is 2.6 whatever the target:
   q = mu / (0.4 sqrt(S)).
3. **Rates.** Clipped gradients have a norm of at most C whatever the features are, so a rate is a distance: all steps
   together move the weights by at most L = rate * C * S / (1 - momentum). Noise moves them by L / R_sn. A distance that
   leaves noise of norm NOISE_OF_LABEL per label was best on the tasks below, up to FARTHEST per label, above all that
   were best there: L = sqrt(labels) * min(NOISE_OF_LABEL * R_sn, FARTHEST); without noise FARTHEST_WITHOUT_NOISE, and
   BESIDE_WITHOUT_NOISE where an adapter trains beside the head: what reaches the adapter grows with the head, and
   nothing else stops the two. A run of fewer steps than the rule takes has the rates of one that is as long, and goes
   a shorter way.
4. **Adapter beside a head:** a tenth of the head's rate. Without a head the adapter has the whole rate.
5. **Average of iterates** .9, with noise and without: it is post-processing, and costs nothing.

Source: 1 and 2, Bu, Dong, Long and Su, "Deep Learning with Gaussian Differential Privacy", Harvard Data Science Review
2020, theorem 5, and Dong, Roth and Su, "Gaussian Differential Privacy", 2022, corollary 2.13; De et al.,
arXiv:2204.13650, for clipping below every norm and for large batches. The constants of 3 were fixed by two seeds at
epsilon 1, 3 and 8 on tasks that no page of this project reports on: the module in which a sentence of a Python
library's documentation stands (8 modules and 4 000 sentences, 40 and 9 600; MiniLM, mean of tokens), breast cancer of
scikit-learn, and twenty synthetic clusters; u, FARTHEST and BESIDE_WITHOUT_NOISE on the sections of Debian's packages;
docs/adr/0055.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from privacy.errors import LocalError
from privacy.plan import default_f, default_survivors
from privacy.plan_parts import MIN_SAMPLING_RATE, Mode

STEPS: Final = 100  # of a run: rounds times local steps
LOCAL_STEPS: Final = 5  # of a round, where a round may have several
STEPS_WITHOUT_NOISE: Final = 200
RATE_WITHOUT_NOISE: Final = 0.1  # of sampling, where it protects nobody
MOMENT: Final = 0.4  # u above: small batches cost a twenty-fifth of the signal
LEAST_BATCH: Final = 64  # units in a step of all participants together
NOISE_OF_LABEL: Final = 4.0  # norm, in clip norms, of the noise that a label's weights have taken up at the end
FARTHEST: Final = 600.0  # distance per root of a label, in clip norms
FARTHEST_WITHOUT_NOISE: Final = 250.0
BESIDE_WITHOUT_NOISE: Final = 60.0  # of a head that an adapter trains beside
BESIDE_HEAD: Final = 0.1  # an adapter's rate over its head's
MOMENTUM: Final = "0.9"
AVERAGE: Final = "0.9"
CLIP: Final = "1"
MOST_DELTA: Final = Decimal("0.00001")
DIGITS: Final = 2  # of a rate that is chosen
ASSUMED_PARTICIPANTS: Final = 5
ASSUMED_UNITS: Final = 1000  # of each
_NO_EFFECT: Final = "of no effect in mode distributed: the optimizer's rate counts"
_OWN_STEPS: Final = "of a participant's steps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the rule reads; all of it is public.

    Attributes:
        mode: of privacy.
        epsilon: target; 0 in mode ``none``.
        delta: target; 0 in mode ``none``.
        participants: that are expected.
        units: of privacy that all of them together are expected to have.
        entries: that are clipped together.
        labels: between which a head decides; 1 where there are none.
        head: whether a head trains.
        alone: whether it trains alone, without an adapter.
        mean_only: whether the method takes no optimizer but the mean.
        averages: whether the method takes an average of iterates.
    """

    mode: Mode
    epsilon: float
    delta: float
    participants: int
    units: int
    entries: int
    labels: int = 1
    head: bool = True
    alone: bool = False
    mean_only: bool = False
    averages: bool = True


@dataclass(frozen=True, slots=True)
class Choice:
    """A value that the rule chose.

    Attributes:
        key: dotted, as a recipe has it.
        value: as a recipe would say it.
        reason: in a few words.
    """

    key: str
    value: str | int
    reason: str


@dataclass(frozen=True, slots=True)
class Strength:
    """How the signal stands to the noise, at most: gradients of norm C that all point the same way.

    Attributes:
        of_round: the norm of a round's whole signal over that of its noise.
        of_run: the same of all steps together.
    """

    of_round: float
    of_run: float

    def warning(self) -> str | None:
        """Return what to say where noise is larger than the signal, if it is."""
        if self.of_round >= 1:
            return None
        more = f"noise is {1 / self.of_round:.1f} times as large as all that a round's batches can add"
        return f"{more}: take more data, a larger sampling rate, fewer rounds, or an adapter with fewer entries"


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Return mu of the Gaussian mechanism that is exactly (epsilon, delta)-differentially private.

    Source: Dong, Roth and Su, "Gaussian Differential Privacy", corollary 2.13.
    """
    low, high = 1e-9, 1.0
    while _delta_of(high, epsilon) < delta:
        low, high = high, 2 * high
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _delta_of(middle, epsilon) > delta else (middle, high)
    return low


def _delta_of(mu: float, epsilon: float) -> float:
    from scipy.special import log_ndtr  # slow to import

    second = math.exp(min(epsilon + float(log_ndtr(-epsilon / mu - mu / 2)), 0.0))
    return math.exp(float(log_ndtr(-epsilon / mu + mu / 2))) - second


def sampling_rate(setting: Setting, steps: int) -> float:
    """Return the rate at which small batches cost little of the signal, and no less than a batch of some size."""
    if setting.mode in ("none", "distributed-participant"):
        return RATE_WITHOUT_NOISE
    rate = gaussian_mu(setting.epsilon, setting.delta) / (MOMENT * math.sqrt(steps))
    return min(1.0, max(rate, LEAST_BATCH / setting.units, float(MIN_SAMPLING_RATE)))


def expected_multiplier(setting: Setting, steps: int, rate: float) -> float:
    """Return about which noise multiplier a target needs; what a plan has comes from the accountant.

    Args:
        setting: the target.
        steps: of the run, each of which is noised.
        rate: of sampling; 1 where it protects nobody.
    """
    moment = gaussian_mu(setting.epsilon, setting.delta) / (rate * math.sqrt(steps))
    return 1 / moment if rate == 1 else 1 / math.sqrt(math.log1p(moment**2))


def surplus(setting: Setting) -> float:
    """Return how many times the noise that a claim relies on is in the sum, for the thresholds of ``run create``."""
    n = setting.participants
    if setting.mode == "local":
        return math.sqrt(n)
    f = default_f(n, 0)
    return math.sqrt(n / (default_survivors(n, f) - max(f, 1)))


def strength(
    setting: Setting, *, rounds: int, local_steps: int, rate: float, multiplier: float | None = None
) -> Strength:
    """Return how signal and noise of a recipe stand to each other.

    Args:
        setting: target and sizes.
        rounds: of the run.
        local_steps: of a round.
        rate: of sampling.
        multiplier: of noise; ``None`` for about what the target needs.
    """
    if setting.mode == "none":
        return Strength(math.inf, math.inf)
    whole = setting.mode == "distributed-participant"
    noised = rounds * (local_steps if setting.mode == "local" else 1)
    sigma = multiplier or expected_multiplier(setting, noised, 1.0 if whole else rate)
    records = setting.participants if whole else rate * setting.units
    step = records / (sigma * surplus(setting) * math.sqrt(setting.entries))
    return Strength(step * math.sqrt(noised / rounds), step * math.sqrt(noised))


def distance(setting: Setting, of_run: float) -> float:
    """Return how far all steps together may move the weights, in clip norms."""
    farthest = FARTHEST
    if setting.mode == "none":
        farthest = BESIDE_WITHOUT_NOISE if setting.head and not setting.alone else FARTHEST_WITHOUT_NOISE
    return math.sqrt(setting.labels) * min(NOISE_OF_LABEL * of_run, farthest)


def plain(number: float) -> str:
    """Return a number with two digits, as recipes and plans have it."""
    return f"{Decimal(f'{number:.{DIGITS - 1}e}'):f}"


def delta_for(units: int) -> str:
    """Return a tenth of one unit's share, as a power of ten, and at most 1e-5."""
    power = Decimal(10) ** -math.ceil(math.log10(10 * units))
    return f"{min(MOST_DELTA, power):f}"


def choose(setting: Setting, given: Mapping[str, str | int]) -> tuple[Choice, ...]:
    """Return what a recipe leaves out.

    Args:
        setting: target and sizes.
        given: what the recipe says of ``rounds``, ``privacy.sampling_rate``, ``privacy.local_steps``,
            ``privacy.clip_norm``; and any key of ``training`` or ``optimizer`` that has to do with rates, where it
            has one.

    Raises:
        LocalError: ``E-CONFIG-INVALID``, it has an ``[optimizer]`` of its own and local steps without a rate.
    """
    chosen: list[Choice] = []
    one_step = setting.mode == "distributed"

    def fill(key: str, value: str | int, reason: str) -> float:
        if key in given:
            return float(given[key])
        chosen.append(Choice(key, value, reason))
        return float(value)

    total = STEPS_WITHOUT_NOISE if setting.mode == "none" else STEPS
    local = fill("privacy.local_steps", 1 if one_step else LOCAL_STEPS, "one round has as many steps")
    rounds = fill("rounds", max(1, round(total / local)), f"{total} steps; more take longer and gain nothing")
    steps = int(rounds * local)
    clip = fill("privacy.clip_norm", CLIP, "below every gradient's norm, so that it only scales the rates")
    drawn = int(rounds) if setting.mode == "distributed-participant" else steps
    rate = fill("privacy.sampling_rate", plain(sampling_rate(setting, drawn)), _sampling_reason(setting))
    found = strength(setting, rounds=int(rounds), local_steps=int(local), rate=rate)
    if any(key.startswith("optimizer.") for key in given) or "training.learning_rate" in given:
        return (*chosen, *_beside_own(setting, given))
    whole = distance(setting, found.of_run)
    spread = max(steps, total)  # fewer steps than these go a shorter way: longer ones diverge
    if setting.mode == "distributed-participant":
        spread = max(int(rounds), total // LOCAL_STEPS)
    return (*chosen, *_rates(setting, whole, steps=spread, clip=clip))


def _sampling_reason(setting: Setting) -> str:
    if setting.mode in ("none", "distributed-participant"):
        return "sampling protects nobody here"
    return "where small batches cost a twenty-fifth of the signal"


def _beside_own(setting: Setting, given: Mapping[str, str | int]) -> tuple[Choice, ...]:
    """Return a rate for a recipe that has an optimizer of its own: only sums of gradients need none."""
    if "training.learning_rate" in given:
        return ()
    if setting.mode == "distributed":
        return (Choice("training.learning_rate", "1", _NO_EFFECT),)
    raise LocalError(
        "E-CONFIG-INVALID", "training.learning_rate: an [optimizer] of its own needs it; or leave both to the rule"
    )


def _rates(setting: Setting, whole: float, *, steps: int, clip: float) -> tuple[Choice, ...]:
    """Return rates and optimizer that move the weights by a distance in so many steps, each of one clip norm."""
    reason = f"all steps move the weights by at most {plain(whole)} clip norms"
    reason_of_average = "of iterates: smooths the noise, and costs no privacy"
    average = [Choice("optimizer.average", AVERAGE, reason_of_average)] if setting.averages else []
    mean = Choice("optimizer.name", "mean", "of the participants' differences")
    heads = "training" if setting.mode in ("local", "none") else "optimizer"
    fades = 1 - float(MOMENTUM) if heads == "optimizer" else 1.0
    head = whole * fades / (steps * clip)
    rest = head * BESIDE_HEAD if setting.head else head
    rates = [Choice(f"{heads}.learning_rate", plain(rest), "a tenth of the head's" if setting.head else reason)]
    rates += [Choice(f"{heads}.head_learning_rate", plain(head), reason)] if setting.head else []
    if heads == "training":
        return (*rates, mean, *average)
    if setting.mode == "distributed":
        own = [Choice("training.learning_rate", "1", "of no effect in mode distributed: the optimizer's rate counts")]
    else:  # one clipped difference: its own rates only say where it points to
        own = [
            Choice("training.learning_rate", plain(BESIDE_HEAD if setting.head else 1.0), "of a participant's steps")
        ]
        own += [Choice("training.head_learning_rate", "1", "of a participant's steps")] if setting.head else []
    if setting.mean_only:
        return (*own, mean, *average)
    momentum = Choice("optimizer.momentum", MOMENTUM, "of sums, so that each needs only a small step")
    return (*own, Choice("optimizer.name", "sgd", "on sums of gradients"), *rates, momentum, *average)
