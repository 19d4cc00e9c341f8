"""What the masks hide: what leaves a machine, what the coordinator sees, alone or with others, and how surely.

Guarantees: a k-regular graph, whose claim is weaker than the complete one's, is never shown without its own sentences,
nor suite 1 without saying that who records its traffic may read it one day, nor sums without noise without what two of
them tell together.
Leaves to others: the claim itself (docs/protocol.md section 1), its proof for k-regular graphs (docs/graphs.md).
"""

from __future__ import annotations

from privacy.draft import Draft
from privacy.plan import Plan
from privacy.secagg.graph_bounds import SECURITY_BITS
from privacy.secagg.suites import HYBRID

TRAINED_LEAVES = "Rows, labels and losses never leave."
MEASURED_LEAVES = "Rows never leave, and counts and losses only within that sum."


def participants(count: int) -> str:
    """Return a number of participants in words."""
    return "1 participant" if count == 1 else f"{count} participants"


def departing_sentence(plan: Plan) -> str:
    """Return what leaves a participant's machine in a round, and why it is unreadable alone."""
    least, most = plan.layouts[0], plan.layouts[-1]
    entries, size = f"{most.entries:,}", f"{most.bytes:,} bytes"
    if least.entries < most.entries:
        entries, size = f"{least.entries:,} to {entries}", f"{least.bytes:,} to {size}, by what trains in the round"
    return (
        f"In each round one masked list of {entries} numbers ({size}) leaves a "
        f"participant's machine, unreadable alone: the masks cancel only in the sum of at least "
        f"{participants(plan.min_survivors)}. {MEASURED_LEAVES if plan.recipe.measured else TRAINED_LEAVES}"
    )


def sum_sentence(plan: Plan) -> str:
    """Return what the coordinator sees of a round; with noise, that this is never one update.

    Without noise sums of several rounds or runs can tell one update (:func:`difference_sentence`), so nothing is said
    of single updates then.
    """
    alone = ", and never one update" if plan.privacy.noised else ""
    return (
        f"In each round the coordinator sees one sum over at least {plan.min_survivors} of {participants(plan.n)}, "
        f"at least {plan.min_survivors - plan.f} of them honest{alone}."
    )


def difference_sentence(plan: Plan) -> str:
    """Return what the sums of several rounds and runs tell together."""
    if plan.privacy.noised:
        unit = plan.privacy.unit
        common = ", though they can show what many records of one participant have in common"
        return (
            "Each sum carries the noise that is charged for; where the difference of two sums is one participant's "
            f"update, it carries the noise of both. So together they tell about one {unit} no more than the charged "
            f"epsilons allow{'' if unit == 'participant' else common}."
        )
    dropped = (
        " Participants compute each round's start from the sums themselves, so the coordinator cannot choose it "
        "freely; but it can announce a false sum, even one of zeros, which nobody can tell from a true one, and so "
        "start two rounds from the same adapter, and declare the participant dropped out of one."
    )
    return (
        "There is no noise, so two sums can tell one update: where a participant is in one sum and not in the other, "
        "their difference is its update, but for chance in training."
        f"{dropped if plan.n > plan.min_survivors else ''} Two honest runs whose rosters differ by one member are such "
        "a pair, without any lie."
    )


def beyond_sentence(plan: Plan) -> str:
    """Return how many colluding participants are too many, and what they could see."""
    noise = ", with no noise in it but that participant's own" if plan.privacy.noised else ""
    return (
        f"Together with {participants(plan.f + 1)} or more it could see a single participant's update within one "
        f"round{noise}."
    )


def organisation_sentences(plan: Plan) -> tuple[str, ...]:
    """Return which participants belong to the coordinator's own organisation, if any do."""
    inside = [member.id for member in plan.roster if member.with_operator]
    if not inside:
        return ()
    more = participants(plan.f + 1 - len(inside))
    return (f"{', '.join(inside)} and the coordinator are one organisation: {more} more would be enough for that.",)


def dropout_sentence(plan: Plan) -> str:
    """Return how many participants a round can do without, and how it ends if more are missing."""
    spare = plan.n - plan.min_survivors
    enough = f"A round completes without {participants(spare)}" if spare else "Every participant is needed in a round"
    attempts = "1 attempt" if plan.max_attempts == 1 else f"{plan.max_attempts} attempts"
    return f"{enough}; it has {attempts}, and ends without a sum if none completes."


def numbers_sentence(plan: Plan) -> str:
    """Return the numbers of the roster in one line."""
    return (
        f"n = {plan.n} participants, f = {plan.f} assumed to collude, at least {plan.min_survivors} in every sum, "
        f"{plan.quorum} signatures under every set of survivors."
    )


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
