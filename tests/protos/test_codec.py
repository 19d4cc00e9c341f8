"""The strict codec: what goes in comes out, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from privacy.errors import LocalError, PeerError
from privacy.evaluation import Metric
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg import messages as said
from privacy.secagg import shamir
from privacy.secret import SecretBytes
from protos import codec, codec_fields
from protos import codec_transport as wire
from protos import envelope as env
from protos import federation_pb2 as pb
from tests.worlds.codecs import PAIRS

POSITION = said.Position(b"p" * 32, 1, 1)
RUN = "ab" * 16


any_kind = st.sampled_from(sorted(PAIRS))


def shown(value: Any) -> Any:
    """Make a value comparable: a secret compares only by what it reveals."""
    if isinstance(value, SecretBytes):
        return value.reveal()
    if is_dataclass(value):
        return type(value), [shown(getattr(value, field.name)) for field in fields(value)]
    return value


@pytest.mark.parametrize("kind", sorted(PAIRS))
@given(data=st.data())
def test_what_is_encoded_decodes_to_an_equal_value_of_the_same_bytes(kind: str, data: st.DataObject) -> None:
    pair = PAIRS[kind]
    value = data.draw(pair.values)
    encoded = pair.encode(value)
    assert shown(pair.decode(encoded)) == shown(value)
    assert pair.encode(pair.decode(encoded)) == encoded


@given(kind=any_kind, junk=st.binary(max_size=200))
@example(kind="submission", junk=b"")
def test_random_bytes_decode_to_a_valid_value_or_raise_a_peer_error(kind: str, junk: bytes) -> None:
    pair = PAIRS[kind]
    try:
        value = pair.decode(junk)
    except PeerError as error:
        assert error.code in {"E-WIRE-MALFORMED", "E-WIRE-CHUNK", "E-VERSION"}  # noqa: PT017  # either way is right
    else:
        assert pair.encode(value) == junk


@given(data=st.data(), kind=any_kind)
def test_a_changed_message_decodes_to_a_valid_value_or_raises_a_peer_error(kind: str, data: st.DataObject) -> None:
    pair = PAIRS[kind]
    encoded = bytearray(pair.encode(data.draw(pair.values)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(encoded)))
        change = data.draw(st.sampled_from(["flip", "insert", "cut", "repeat"]))
        if change == "flip" and at < len(encoded):
            encoded[at] ^= 1 << data.draw(st.integers(0, 7))
        elif change == "insert":
            encoded[at:at] = data.draw(st.binary(min_size=1, max_size=4))
        elif change == "cut":
            del encoded[at:]
        else:
            encoded += encoded[at:]
    try:
        value = pair.decode(bytes(encoded))
    except PeerError as error:
        assert error.code in {"E-WIRE-MALFORMED", "E-WIRE-CHUNK", "E-VERSION"}  # noqa: PT017  # either way is right
    else:
        assert pair.encode(value) == bytes(encoded)


# --- refusals: a valid message, one change, and the word that must be in the rule ---

LEAF = said.ShareLeaf("alice", b"c" * 32, b"m" * 32, b"s" * 32)
BOX = b"x" * said.SEALED_BYTES[1]
BUNDLE = said.ShareBundle(POSITION, "bob", (LEAF, replace(LEAF, recipient="bob")), (BOX, b""), b"c" * 32, b"s" * 64)
PAIR = b"p" * said.SEALED_PAIR_BYTES[2]
HYBRID_BUNDLE = said.ShareBundle(
    POSITION,
    "alice",
    (LEAF, replace(LEAF, recipient="bob", pair_commitment=b"p" * 32)),
    (b"", b"x" * said.SEALED_BYTES[2]),
    b"c" * 32,
    b"s" * 64,
    (b"", PAIR),
)
RECEIPT = said.Receipt(POSITION, "alice", b"u" * 32, b"m" * 32, 8, b"s" * 64)
OFFER = said.AttemptOffer(POSITION, b"t" * 32, b"a" * 32)
ADVERTISEMENT = said.Advertisement(OFFER, "alice", b"k" * 32, b"c" * 32, b"n" * 16, b"s" * 64)
DEALT = said.DealtShare(POSITION, "bob", LEAF, (b"h" * 32,), BOX, b"r" * 32, b"c" * 32, b"s" * 64)
LAST_SHARE = (shamir.FIELD - 1).to_bytes(33, "big")
SHARES = said.UnmaskShares(POSITION, "alice", (said.ReleasedShare("alice", LAST_SHARE),), ())
EVALUATION = env.Evaluation(RUN, b"p" * 32, 0, b"a" * 32, 4, (Metric("accuracy", "0.75"),), b"d" * 32, b"s" * 64)
REFUSED = env.PlanRefused(RUN, b"p" * 32, "E-POLICY-RULE", "no")


def submitted(value: env.Submission) -> pb.Submission:
    return pb.Submission.FromString(codec.encode_submission(value))


def tasked(task: env.Task) -> pb.NumberedTask:
    return pb.NumberedTask.FromString(codec.encode_task(env.NumberedTask(b"i" * 16, task)))


def changed(message: Any, change: Callable[[Any], object]) -> bytes:
    change(message)
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def put(field: str, value: Any) -> Callable[[Any], None]:
    """Set a field by its dotted path."""

    def change(message: Any) -> None:
        *path, last = field.split(".")
        for name in path:
            message = message[int(name)] if name.isdigit() else getattr(message, name)
        setattr(message, last, value)

    return change


BAD_SUBMISSIONS: dict[str, tuple[env.Submission, Callable[[Any], object], str]] = {
    "a hash is too short": (RECEIPT, put("receipt.u2_hash", b"u" * 31), "u2_hash has 31 bytes"),
    "a hash is too long": (RECEIPT, put("receipt.masked_hash", b"u" * 33), "masked_hash has 33 bytes"),
    "a signature is missing": (RECEIPT, put("receipt.signature", b""), "signature has 0 bytes"),
    "a plan hash is missing": (RECEIPT, put("receipt.position.plan_hash", b""), "position.plan_hash"),
    "a position is missing": (RECEIPT, lambda m: m.receipt.ClearField("position"), "position is missing"),
    "a round counts from zero": (RECEIPT, put("receipt.position.round", 0), "round is 0"),
    "an attempt counts from zero": (RECEIPT, put("receipt.position.attempt", 0), "attempt is 0"),
    "a round is beyond 2^53": (RECEIPT, put("receipt.position.round", 2**53), "round is"),
    "an upload is empty": (RECEIPT, put("receipt.length", 0), "length is 0"),
    "an upload is endless": (RECEIPT, put("receipt.length", 2**60), "length is"),
    "a name has a capital": (RECEIPT, put("receipt.sender", "Alice"), "sender is no name"),
    "a name is empty": (RECEIPT, put("receipt.sender", ""), "sender is no name"),
    "a name ends in a line feed": (RECEIPT, put("receipt.sender", "alice\n"), "sender is no name"),
    "a name has 64 characters": (RECEIPT, put("receipt.sender", "a" * 64), "sender is no name"),
    "a name is not ASCII": (RECEIPT, put("receipt.sender", "älice"), "sender is no name"),
    "leaves are not sorted": (BUNDLE, lambda m: m.share_bundle.leaves.reverse(), "leaves is not sorted"),
    "a leaf is given twice": (BUNDLE, put("share_bundle.leaves.0.recipient", "bob"), "leaves is not sorted"),
    "a dealer leaves itself out": (BUNDLE, put("share_bundle.sender", "carol"), "the dealer's own"),
    "a sealed share is missing": (BUNDLE, lambda m: m.share_bundle.sealed.pop(), "sealed has 1 items"),
    "a sealed share is short": (BUNDLE, lambda m: set_item(m.share_bundle.sealed, 0, BOX[:-1]), "sealed has 93"),
    "a peer gets no sealed share": (BUNDLE, lambda m: set_item(m.share_bundle.sealed, 0, b""), "sealed has 0"),
    "a dealer seals for itself": (BUNDLE, lambda m: set_item(m.share_bundle.sealed, 1, BOX), "sealed has 94"),
    "a masking key is short": (ADVERTISEMENT, put("advertisement.masking_key", b"k" * 31), "masking_key has 31"),
    "a channel key is long": (ADVERTISEMENT, put("advertisement.channel_key", b"k" * 1184), "channel_key has 1184"),
    "a masking key is of suite 2": (
        ADVERTISEMENT,
        put("advertisement.masking_key", b"k" * 1216),
        "channel_key has 32 bytes, not 1216",
    ),
    "a channel key is of suite 2": (
        ADVERTISEMENT,
        put("advertisement.channel_key", b"k" * 1216),
        "channel_key has 1216 bytes, not 32",
    ),
    "a pair secret in suite 1": (
        BUNDLE,
        put("share_bundle.leaves.0.pair_commitment", b"p" * 32),
        "pair_commitment has 32 bytes, not 0",
    ),
    "a pair secret is missing": (
        HYBRID_BUNDLE,
        lambda m: set_item(m.share_bundle.sealed_pairs, 1, b""),
        "sealed_pair has 0 bytes, not 1148",
    ),
    "a pair secret for a lower id": (
        HYBRID_BUNDLE,
        lambda m: set_item(m.share_bundle.sealed_pairs, 0, PAIR),
        "sealed_pair has 1148 bytes, not 0",
    ),
    "a commitment to a pair secret is missing": (
        HYBRID_BUNDLE,
        put("share_bundle.leaves.1.pair_commitment", b""),
        "pair_commitment has 0 bytes, not 32",
    ),
    "fewer pair secrets than leaves": (
        HYBRID_BUNDLE,
        lambda m: m.share_bundle.sealed_pairs.pop(),
        "sealed_pairs has 1 items",
    ),
    "a sealed share of suite 1 beside pair secrets": (
        HYBRID_BUNDLE,
        lambda m: set_item(m.share_bundle.sealed, 1, BOX),
        "sealed has 94 bytes, not 1182",
    ),
    "a nonce is short": (ADVERTISEMENT, put("advertisement.nonce", b"n" * 15), "nonce has 15"),
    "an offer is missing": (ADVERTISEMENT, lambda m: m.advertisement.ClearField("offer"), "offer is missing"),
    "a share equals p": (
        SHARES,
        put("unmask_shares.seed_shares.0.share", shamir.FIELD.to_bytes(33, "big")),
        "not below p",
    ),
    "a share has 32 bytes": (SHARES, put("unmask_shares.seed_shares.0.share", b"s" * 32), "share has 32"),
    "an owner is given twice": (
        SHARES,
        lambda m: m.unmask_shares.seed_shares.append(m.unmask_shares.seed_shares[0]),
        "seed_shares is not sorted",
    ),
    "a list has more items than any roster": (
        SHARES,
        lambda m: m.unmask_shares.masking_shares.extend([m.unmask_shares.seed_shares[0]] * 4097),
        "masking_shares has 4097 items",
    ),
    "more are right than there are": (EVALUATION, put("evaluation.metrics.0.value", "1.5"), "metrics are not known"),
    "a figure has no known name": (EVALUATION, put("evaluation.metrics.0.name", "bliss"), "metrics are not known"),
    "a figure is no number": (EVALUATION, put("evaluation.metrics.0.value", "nan"), "metrics are not known"),
    "a figure is there twice": (
        EVALUATION,
        lambda m: m.evaluation.metrics.append(m.evaluation.metrics[0]),
        "metrics are not known",
    ),
    "nothing was measured": (EVALUATION, put("evaluation.examples", 0), "examples is 0"),
    "a run id is not hex": (REFUSED, put("plan_refused.run_id", "z" * 32), "run_id is not"),
    "a run id has capitals": (REFUSED, put("plan_refused.run_id", "AB" * 16), "run_id is not"),
    "a code is a sentence": (REFUSED, put("plan_refused.code", "because I say so"), "code is no error code"),
    "a text moves the cursor": (REFUSED, put("plan_refused.because", "\x1b[2J"), "cannot be shown"),
    "a text turns around": (REFUSED, put("plan_refused.because", "\u202eoops"), "cannot be shown"),
    "a text clears the screen by one C1 character": (REFUSED, put("plan_refused.because", "\x9b2J"), "U+009B"),
    "a text holds a NUL": (REFUSED, put("plan_refused.because", "a\0b"), "U+0000"),
    "a text hides a character": (REFUSED, put("plan_refused.because", "po\u200blicy"), "U+200B"),
    "a text begins another line": (REFUSED, put("plan_refused.because", "no\nbob approved"), "U+000A"),
    "a text is a book": (REFUSED, put("plan_refused.because", "a" * 4001), "4001 characters"),
    "nothing is submitted": (REFUSED, lambda m: m.Clear(), "submission is missing"),
}


def set_item(values: Any, index: int, value: Any) -> None:
    values[index] = value


@pytest.mark.parametrize("sentence", sorted(BAD_SUBMISSIONS))
def test_a_submission_is_refused_when(sentence: str) -> None:
    value, change, word = BAD_SUBMISSIONS[sentence]
    with pytest.raises(PeerError) as caught:
        codec.decode_submission(changed(submitted(value), change), sender="mallory")
    assert (caught.value.code, caught.value.participant) == ("E-WIRE-MALFORMED", "mallory")
    assert word in caught.value.rule


PROPOSAL = said.SurvivorProposal(POSITION, (RECEIPT, replace(RECEIPT, sender="bob")))
SIGNATURE = said.SurvivorSignature(POSITION, "alice", b"s" * 64)
SURVIVORS = said.SurvivorSet(b"u" * 32, (("alice", b"m" * 32), ("bob", b"m" * 32)))
CERTIFICATE = said.RoundCertificate(POSITION, b"c" * 32, SURVIVORS, b"h" * 32, (SIGNATURE,))
DEALING = env.SharesDealt(RUN, POSITION, (DEALT,))
PROPOSED = env.SurvivorsProposed(RUN, PROPOSAL)
KEYS = env.KeysAdvertised(RUN, (ADVERTISEMENT,))
COMPLETED = env.RoundCompleted(RUN, CERTIFICATE)
ENDED = env.RunEnded(RUN, "completed", "")
OPENED = env.AttemptOpened(RUN, OFFER, (env.ContentRef(b"a" * 32, 4),), (CERTIFICATE,))

BAD_TASKS: dict[str, tuple[env.Task, Callable[[Any], object], str]] = {
    "its id is short": (ENDED, put("id", b"i" * 15), "id has 15 bytes"),
    "it is empty": (ENDED, lambda m: m.ClearField("run_ended"), "task is missing"),
    "a run ends in an unknown state": (ENDED, put("run_ended.state", "exploded"), "state is none of"),
    "a completed run has a reason": (ENDED, put("run_ended.code", "E-BUG"), "code is empty"),
    "an aborted run has no reason": (ENDED, put("run_ended.state", "aborted"), "code is empty"),
    "a proof has 13 siblings": (
        DEALING,
        lambda m: m.shares_dealt.shares[0].proof.extend([b"h" * 32] * 12),
        "shares[0].proof has 13 items",
    ),
    "a sibling is short": (
        DEALING,
        lambda m: set_item(m.shares_dealt.shares[0].proof, 0, b"h" * 31),
        "shares[0].proof[0].node has 31",
    ),
    "a share comes without its leaf": (
        DEALING,
        lambda m: m.shares_dealt.shares[0].ClearField("leaf"),
        "shares[0].leaf is missing",
    ),
    "a sealed share is empty": (DEALING, put("shares_dealt.shares.0.sealed", b""), "sealed has 0"),
    "keys are advertised by nobody": (
        KEYS,
        lambda m: m.keys_advertised.ClearField("advertisements"),
        "advertisements is empty",
    ),
    "U2 is not sorted": (DEALING, lambda m: m.shares_dealt.u2.extend(["bob", "alice"]), "u2 is not sorted"),
    "a member of U2 has no name": (DEALING, lambda m: m.shares_dealt.u2.append("Alice!"), "u2[0].name is no name"),
    "survivors are not sorted": (
        PROPOSED,
        lambda m: m.survivors_proposed.proposal.receipts.reverse(),
        "receipts is not sorted",
    ),
    "nobody survives": (
        PROPOSED,
        lambda m: m.survivors_proposed.proposal.ClearField("receipts"),
        "receipts is empty",
    ),
    "a certificate's survivors are not sorted": (
        COMPLETED,
        lambda m: m.round_completed.certificate.survivors.members.reverse(),
        "members is not sorted",
    ),
    "a certificate is of nobody": (
        COMPLETED,
        lambda m: m.round_completed.certificate.survivors.ClearField("members"),
        "members is empty",
    ),
    "a sum of it is empty": (OPENED, put("attempt_opened.sums.0.length", 0), "sums[0].length is 0"),
    "its history is damaged": (
        OPENED,
        put("attempt_opened.history.0.sum_hash", b""),
        "attempt_opened.history[0].sum_hash",
    ),
}


@pytest.mark.parametrize("sentence", sorted(BAD_TASKS))
def test_a_task_is_refused_when(sentence: str) -> None:
    value, change, word = BAD_TASKS[sentence]
    with pytest.raises(PeerError) as caught:
        codec.decode_task(changed(tasked(value), change))
    assert (caught.value.code, caught.value.participant) == ("E-WIRE-MALFORMED", "coordinator")
    assert word in caught.value.rule


VALID = codec.encode_submission(RECEIPT)
NOT_CANONICAL = {
    "an unknown field follows": VALID + b"\x78\x01",
    "an unknown field hides inside": changed(
        submitted(RECEIPT), lambda m: m.receipt.position.MergeFromString(b"\x78\x01")
    ),
    "it is given twice": VALID + VALID,
    "it is cut": VALID[:-1],
    "a default is written out": b"\x0a\x02\x0a\x00",  # plan_approved with run_id = ""
    "it is not UTF-8": VALID.replace(b"alice", b"\xff\xfe\xfd\xfc\xfb"),
    "it is too large": b"\x00" * (codec.MAX_SUBMISSION_BYTES + 1),
    "a group was never closed": b"\x0b" * 200,
}
# length 8 of the receipt in two bytes, and the receipt one byte longer for it
NOT_CANONICAL["a number is written long"] = (
    VALID[:1] + bytes([VALID[1] + 1]) + VALID[2:].replace(b"\x28\x08", b"\x28\x88\x00")
)
PARSED_BY_PROTOBUF = (
    "a default is written out",
    "a number is written long",
    "an unknown field follows",
    "an unknown field hides inside",
    "it is given twice",
)


@pytest.mark.parametrize("sentence", sorted(NOT_CANONICAL))
def test_bytes_are_refused_when(sentence: str) -> None:
    assert NOT_CANONICAL[sentence] != VALID
    with pytest.raises(PeerError) as caught:
        codec.decode_submission(NOT_CANONICAL[sentence], sender="alice")
    assert caught.value.code == "E-WIRE-MALFORMED"


@pytest.mark.parametrize("sentence", PARSED_BY_PROTOBUF)
def test_protobuf_alone_would_take_it_when(sentence: str) -> None:
    pb.Submission.FromString(NOT_CANONICAL[sentence])


def test_another_version_is_named_whatever_else_the_message_holds() -> None:
    hello = env.Hello(7, "9.9", "alice", env.Role.PARTICIPANT, env.LedgerHead(0, b""), ())
    unknown = b"\xa2\x06\x03abc"  # field 100, as a later version might have it
    with pytest.raises(
        PeerError, match=f"alice speaks protocol version 7, the other side version {PROTOCOL_VERSION}"
    ) as caught:
        codec.decode_hello(codec.encode_hello(hello) + unknown, sender="alice")
    assert caught.value.code == "E-VERSION"


def test_a_role_that_is_unknown_is_refused() -> None:
    hello = env.Hello(PROTOCOL_VERSION, "0.1.0", "alice", env.Role.PARTICIPANT, env.LedgerHead(0, b""), ())
    message = pb.Hello.FromString(codec.encode_hello(hello))
    message.role = 9  # type: ignore[assignment]  # proto3 enumerations are open
    with pytest.raises(PeerError, match="role is unknown"):
        codec.decode_hello(message.SerializeToString(), sender="alice")


def test_a_submission_that_a_peer_would_refuse_is_this_sides_bug() -> None:
    with pytest.raises(LocalError, match="u2_hash") as caught:
        codec.encode_submission(replace(RECEIPT, u2_hash=b""))
    assert caught.value.code == "E-BUG"


def test_a_chunk_with_another_hash_is_refused() -> None:
    message = pb.Chunk.FromString(wire.encode_chunk(env.Chunk(5, b"data")))
    message.data = b"dada"
    with pytest.raises(PeerError, match="offset 5") as caught:
        wire.decode_chunk(message.SerializeToString(), sender="alice")
    assert caught.value.code == "E-WIRE-CHUNK"


@pytest.mark.parametrize("size", [0, env.MAX_CHUNK_BYTES + 1])
def test_a_chunk_of_no_or_too_many_bytes_is_refused(size: int) -> None:
    message = pb.Chunk(data=bytes(size), sha256=b"h" * 32)
    with pytest.raises(PeerError):
        wire.decode_chunk(message.SerializeToString(), sender="alice")


def test_the_largest_chunk_passes() -> None:
    largest = env.Chunk(2**33, bytes(env.MAX_CHUNK_BYTES))
    assert wire.decode_chunk(wire.encode_chunk(largest), sender="alice") == largest
    assert wire.decode_upload_part(wire.encode_upload_part(largest), sender="alice") == largest


def test_malicious_empty_items_are_counted_before_any_of_them_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four million empty leaves have 8 MB, and would become objects of half a gigabyte."""
    parsed: list[int] = []
    monkeypatch.setattr(codec_fields, "_parsed", lambda message, data: parsed.append(len(data)))
    leaves = b"\x1a\x00" * (2**22 - 4)
    body = b"\x22" + _length(leaves) + leaves
    with pytest.raises(PeerError, match="leaves has 4097 items, at most 4096 are allowed"):
        codec.decode_submission(body, sender="mallory")
    assert not parsed


@pytest.mark.parametrize(
    "data",
    [b"\x08", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0d\0\0\0\0", b"\x22\xff\x7f", b"\xff\xff"],
)
def test_bytes_that_are_no_message_are_refused_by_whichever_reader_meets_them(data: bytes) -> None:
    with pytest.raises(PeerError, match="E-WIRE-MALFORMED"):
        codec.decode_submission(data, sender="mallory")


def test_malicious_lists_of_short_items_are_refused_also_where_each_list_is_short_enough() -> None:
    """A history of certificates with four thousand empty survivors each."""
    survivors = b"\x12\x00" * 4000
    survivor_set = b"\x1a" + _length(survivors) + survivors
    certificates = (b"\x22" + _length(survivor_set) + survivor_set) * 3
    task = b"\x0a\x10" + b"t" * 16 + b"\x1a" + _length(certificates) + certificates
    with pytest.raises(PeerError, match="12006 items in"):
        codec.decode_task(task)


def _length(data: bytes) -> bytes:
    """Return the length of some bytes as protobuf writes it."""
    length, written = len(data), b""
    while length > 0x7F:
        written, length = written + bytes([0x80 | length & 0x7F]), length >> 7
    return written + bytes([length])


def test_the_longest_history_of_a_roster_fits_into_its_bound() -> None:
    names = [f"{number:04}" + "n" * 59 for number in range(50)]
    at = said.Position(b"p" * 32, 2**40, 2**40)
    survivors = said.SurvivorSet(b"u" * 32, tuple((name, b"h" * 32) for name in names))
    signatures = tuple(said.SurvivorSignature(at, name, b"s" * 64) for name in names)
    certificate = said.RoundCertificate(at, b"r" * 32, survivors, b"s" * 32, signatures)
    grows = codec.task_limit(members=50, rounds=3) - codec.PLAIN_TASK_BYTES
    assert 3 * (len(codec.encode_certificate(certificate)) + 8) <= grows
