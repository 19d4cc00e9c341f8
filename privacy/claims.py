"""Sentences of claim that screens and reports share, in plain words.

Guarantees: a k-regular graph, whose claim is weaker than the complete one's, is never shown without its own sentences,
nor suite 1 without saying that who records its traffic may read it one day.
Leaves to others: the claim itself (docs/protocol.md section 1), its proof for k-regular graphs (docs/graphs.md).
"""

from __future__ import annotations

from privacy.draft import Draft
from privacy.plan import Plan
from privacy.secagg.graph_bounds import SECURITY_BITS
from privacy.secagg.suites import HYBRID


def graph_words(plan: Plan) -> str:
    """Return who masks with whom, in a few words."""
    if plan.graph.kind == "complete":
        return "complete: everybody masks with everybody"
    graph = plan.graph
    return (
        f"k-regular: at most {graph.neighbours} neighbours, {graph.share_threshold} shares rebuild a secret, "
        f"{graph.max_dropouts} may drop out"
    )


def graph_sentences(plan: Plan) -> tuple[str, ...]:
    """Return what is claimed less on a k-regular graph than on the complete one, where nothing is."""
    if plan.graph.kind == "complete":
        return ()
    sentence = (
        f"Each participant masks with at most {plan.graph.neighbours} neighbours, drawn anew in every attempt, and not "
        f"with all {plan.n - 1} others. So all of this holds except with a probability of at most 2^-{SECURITY_BITS} "
        "(one in a million millions) over the whole run, and only if nobody joins the coordinator because of the "
        "neighbours that were drawn."
    )
    return (sentence,)


def suite_words(plan: Draft | Plan) -> str:
    """Return which suite agrees on keys, in a few words."""
    if plan.suite == HYBRID:
        return "2: X25519 and ML-KEM-768, recordings withstand quantum computers"
    return "1: X25519, recordings do not withstand quantum computers"


def suite_sentences(plan: Plan) -> tuple[str, ...]:
    """Return what suite 1 leaves open to whoever records the traffic now; suite 2 nothing of the kind."""
    if plan.suite == HYBRID:
        return ()
    sentence = (
        "Harvest now, decrypt later: whoever keeps the traffic of this run, as the coordinator can, and one day has a "
        "large quantum computer, removes the masks of suite 1 (X25519) and reads each update. Suite 2 withstands that."
    )
    return (sentence,)
