"""Whom one trusts, and what is not protected: what the masks and the noise rest on and where they end.

Guarantees: the same assumptions and limits for the owner before a run, the operator who proposes it and the reader of
its report.
Leaves to others: the claim itself and attacks in detail (docs/threat-model.md).
"""

from __future__ import annotations

from typing import Final

from privacy.claims.masks import (
    beyond_sentence,
    difference_sentence,
    dropout_sentence,
    graph_sentences,
    organisation_sentences,
    suite_sentences,
    sum_sentence,
)
from privacy.claims.noise import NO_NOISE, noise_sentences
from privacy.plan import Plan
from privacy.secagg.suites import HYBRID
from privacy.task_parts import CausalLanguageModelling, MaskedLanguageModelling

MACHINES: Final = (
    "Each honest participant's machine runs the published program and is not taken over; one that is taken over counts "
    "among those who work together with the coordinator."
)
INVENTED: Final = "An invented participant would pass for an honest one, and work for the coordinator."
UNVERIFIED: Final = (
    "The participants are who the roster says: the maker of this report has not compared their fingerprints (roster: "
    f"unverified). {INVENTED} What to do: each owner compares by telephone the identity fingerprints of all others, as "
    "they stand here under whom the run was with, and writes them into policy.toml; its next reports say verified."
)

COMMON: Final = "What many records have in common: a pattern that they share can be learned from the result."
METADATA: Final = "Who took part, when, how large their dataset is, and the timing and size of messages."
WORDS: Final = "Words: a model of language may repeat what it was trained on, above all what many people wrote alike."
CORRECTNESS: Final = "Correctness of the model: participants or a coordinator that lie can make it useless or steer it."
AVAILABILITY: Final = "Availability: anyone on the roster can stop a round, and the coordinator a run."
HOST: Final = "A computer that is taken over: its data, its updates and its keys are then in the attacker's hands."


def collusion_sentence(plan: Plan) -> str:
    """Return how many participants may work together with the coordinator for all of this to hold."""
    if not plan.f:
        return "No participant works together with the coordinator."
    verb = "works" if plan.f == 1 else "work"
    return f"At most {plan.f} of the {plan.n} participants {verb} together with the coordinator."


def cryptography_sentence(plan: Plan) -> str:
    """Return which primitives have to hold."""
    agreement = "X25519 or ML-KEM-768" if plan.suite == HYBRID else "X25519"
    return f"The cryptography ({agreement}, Ed25519, AES-256, SHA-256) holds."


def reliance_sentences(plan: Plan) -> tuple[str, ...]:
    """Return what must hold, one sentence each."""
    return (*noise_sentences(plan), collusion_sentence(plan), MACHINES, cryptography_sentence(plan))


def trust_sentences(plan: Plan) -> tuple[str, ...]:
    """Return whom a participant trusts, who together could see what, how many may drop out, and what stays open."""
    return (
        collusion_sentence(plan),
        sum_sentence(plan),
        difference_sentence(plan),
        beyond_sentence(plan),
        *organisation_sentences(plan),
        *noise_sentences(plan),
        MACHINES,
        cryptography_sentence(plan),
        dropout_sentence(plan),
        *graph_sentences(plan),
        *suite_sentences(plan),
    )


def limits(plan: Plan) -> tuple[str, ...]:
    """Return what neither masks nor noise protect, whatever the graph and the suite; of words where a task has any."""
    writes = isinstance(plan.recipe.task, CausalLanguageModelling | MaskedLanguageModelling)
    first = (COMMON if plan.privacy.noised else NO_NOISE, *((WORDS,) if writes else ()))
    return (*first, METADATA, CORRECTNESS, AVAILABILITY, HOST)


def not_protected(plan: Plan) -> tuple[str, ...]:
    """Return all that a run of this plan leaves open, sentence by sentence.

    Readers show these, made from the plan by their own program, and not what a report's maker may have left out.
    """
    first, *others = limits(plan)
    return (
        first,
        *(() if plan.privacy.noised else (difference_sentence(plan),)),
        *others,
        *graph_sentences(plan),
        *suite_sentences(plan),
    )
