"""Every sentence that states a guarantee or its absence, once: screens, reports, model cards and documents print these.

Guarantees: pure text from a plan and figures that the caller computed; a fact is worded in one place, so that what an
owner consents to, what an operator proposes and what a report says later are the same; what holds for some plans only
(noise, a k-regular graph, a suite) is said for those alone.
Leaves to others: the claim itself (docs/protocol.md section 1, docs/threat-model.md), figures (``privacy.dp``), layout.
"""

from __future__ import annotations

from privacy.claims.masks import (
    departing_sentence,
    difference_sentence,
    graph_sentences,
    graph_words,
    numbers_sentence,
    suite_sentences,
    suite_words,
    sum_sentence,
)
from privacy.claims.noise import (
    BUDGET_REACH,
    CHARGING,
    EARLIER_RUNS,
    NO_NOISE,
    NO_PRIVACY,
    SIMULATION,
    UNIT_WORDS,
    adversaries,
    epsilon_sentence,
    epsilons_sentence,
    exchanged_sentence,
    figure_sentences,
    lifetime_sentence,
    limit_sentences,
    noise_sentences,
    relation_sentence,
    run_in_lifetime_sentence,
    two_units_sentence,
    unfinished_sentences,
    unnoised_runs_sentence,
)
from privacy.claims.trust import (
    COMMON,
    INVENTED,
    METADATA,
    UNVERIFIED,
    WORDS,
    collusion_sentence,
    limits,
    not_protected,
    reliance_sentences,
    trust_sentences,
)

__all__ = [
    "BUDGET_REACH",
    "CHARGING",
    "COMMON",
    "EARLIER_RUNS",
    "INVENTED",
    "METADATA",
    "NO_NOISE",
    "NO_PRIVACY",
    "SIMULATION",
    "UNIT_WORDS",
    "UNVERIFIED",
    "WORDS",
    "adversaries",
    "collusion_sentence",
    "departing_sentence",
    "difference_sentence",
    "epsilon_sentence",
    "epsilons_sentence",
    "exchanged_sentence",
    "figure_sentences",
    "graph_sentences",
    "graph_words",
    "lifetime_sentence",
    "limit_sentences",
    "limits",
    "noise_sentences",
    "not_protected",
    "numbers_sentence",
    "relation_sentence",
    "reliance_sentences",
    "run_in_lifetime_sentence",
    "suite_sentences",
    "suite_words",
    "sum_sentence",
    "trust_sentences",
    "two_units_sentence",
    "unfinished_sentences",
    "unnoised_runs_sentence",
]
