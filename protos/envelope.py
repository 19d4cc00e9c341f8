"""What daemons say to each other around the protocol's own messages, as frozen values.

Guarantees: a coordinator can say to a member only what :data:`Task` lists, a member to the coordinator only what
:data:`Submission` lists; none of them carries a rule of a run (those are in the plan alone) or code.
Leaves to others: bytes on the wire (``codec``), transport (``coordinator.daemon.service``,
``participant.link.channel``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from privacy import heads
from privacy.evaluation import Metric
from privacy.secagg.messages import (
    Advertisement,
    AttemptOffer,
    Complaint,
    DealtShare,
    Position,
    Receipt,
    RoundCertificate,
    ShareBundle,
    SurvivorProposal,
    SurvivorSignature,
    UnmaskRequest,
    UnmaskShares,
    VoidedRound,
)
from privacy.secret import SecretBytes
from protos.renewal import AddressNotice

MAX_CHUNK_BYTES = 2**20  # wire chunks; the mask chunk is a protocol constant of its own
MAX_CONTENT_BYTES = 2**34  # of a download or upload as a whole


class Role(StrEnum):
    """What a member is enrolled as."""

    PARTICIPANT = "participant"
    EVALUATOR = "evaluator"


# --- enrolment (TLS with the pinned authority, no client certificate yet) ---


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A newcomer's request: keys were made where they are used, and the identity key vouches for the TLS key."""

    protocol_version: int
    token_id: str
    token_secret: SecretBytes
    name: str
    certificate_request: bytes  # PKCS#10 DER, signed by the TLS key
    identity_key: bytes
    identity_signature: bytes  # over (label, federation, token id, participant id, SHA-256 of the TLS public key)


@dataclass(frozen=True, slots=True)
class Membership:
    """The coordinator's answer to an enrolment."""

    federation: str
    name: str
    role: Role
    certificate: bytes  # PEM, SAN is the member's name
    authority: bytes  # PEM of the CA


# --- handshake ---


@dataclass(frozen=True, slots=True)
class DatasetOffer:
    """A dataset that a member announces: its name and its public number of units."""

    name: str
    units: int


LedgerHead = heads.LedgerHead  # the coordinator remembers the highest, so that a rollback shows
HeadsShown = heads.HeadsShown


@dataclass(frozen=True, slots=True)
class Hello:
    """A daemon's first words on a connection."""

    protocol_version: int
    software_version: str
    member: str
    role: Role
    ledger_head: LedgerHead
    datasets: tuple[DatasetOffer, ...]


@dataclass(frozen=True, slots=True)
class MemberEntry:
    """A line of the federation's member list: owners pin peers' identity fingerprints from it."""

    name: str
    role: Role
    identity_key: bytes


@dataclass(frozen=True, slots=True)
class Welcome:
    """The coordinator's answer: versions matched, what it last saw of this member, and who else is enrolled."""

    protocol_version: int
    software_version: str
    federation: str
    ledger_head: LedgerHead  # the highest that this member has shown; sequence 0 if none
    last_heads: tuple[HeadsShown, ...]  # that this member showed last in each of its runs, signed by itself
    members: tuple[MemberEntry, ...]
    clock: int = 0  # the coordinator's, in seconds since the Unix epoch; 0: it did not say
    authority: bytes = b""  # SHA-256 of the authority's certificate that issues now; empty: it did not say
    addresses: AddressNotice | None = None


# --- tasks: what the coordinator asks of a member ---


@dataclass(frozen=True, slots=True)
class ContentRef:
    """Bytes to be downloaded in chunks: their SHA-256 and length."""

    sha256: bytes
    length: int


@dataclass(frozen=True, slots=True)
class PlanProposed:
    """A plan waits for this member's approval."""

    run_id: str
    plan: bytes
    signature: bytes
    initial_adapter: ContentRef


@dataclass(frozen=True, slots=True)
class AttemptOpened:
    """An attempt is open: verify the history, step from its sums, compare with the offered adapter, advertise."""

    run_id: str
    offer: AttemptOffer
    sums: tuple[ContentRef, ...]  # ring words of the sums of the history's rounds
    history: tuple[RoundCertificate, ...]  # of all completed rounds that this member has not been shown to know
    voided: tuple[VoidedRound, ...] = ()  # those without a sum among them, ascending
    adapter: ContentRef | None = None  # float32 little-endian; where the method's step is not the same to the bit


@dataclass(frozen=True, slots=True)
class KeysAdvertised:
    """U1, and how far the ledgers of its members have come."""

    run_id: str
    advertisements: tuple[Advertisement, ...]
    heads: tuple[HeadsShown, ...] = ()


@dataclass(frozen=True, slots=True)
class SharesDealt:
    """U2, as one dealt share from each of its other members; in a k-regular graph its ids, and shares of neighbours."""

    run_id: str
    position: Position
    shares: tuple[DealtShare, ...]
    u2: tuple[str, ...] = ()  # empty in the complete graph


@dataclass(frozen=True, slots=True)
class SurvivorsProposed:
    """S, to be signed, and how far the ledgers of its members have come."""

    run_id: str
    proposal: SurvivorProposal
    heads: tuple[HeadsShown, ...] = ()


@dataclass(frozen=True, slots=True)
class UnmaskRequested:
    """S with a quorum's signatures: shares may be released."""

    run_id: str
    request: UnmaskRequest


@dataclass(frozen=True, slots=True)
class RoundCompleted:
    """A round's certificate; goes to the whole roster, and of a measurement with where its sum can be had."""

    run_id: str
    certificate: RoundCertificate
    sum: ContentRef | None = None


@dataclass(frozen=True, slots=True)
class RoundVoided:
    """A round has no sum and never will; the run goes on at the next one."""

    run_id: str
    voided: VoidedRound


@dataclass(frozen=True, slots=True)
class AttemptAborted:
    """An attempt ended without a sum; the next task opens another, or ends the run."""

    run_id: str
    position: Position
    code: str


@dataclass(frozen=True, slots=True)
class MemberExcluded:
    """The operator leaves this member out of the run's next attempts; an offer says that it is taken back."""

    run_id: str


@dataclass(frozen=True, slots=True)
class EvaluationAsked:
    """An evaluator measures an adapter: the starting one is round 0."""

    run_id: str
    round: int
    adapter: ContentRef


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run reached a terminal state: ``completed``, ``aborted`` or ``refused``."""

    run_id: str
    state: str
    code: str  # of the reason, empty when completed


Task = (
    PlanProposed
    | AttemptOpened
    | KeysAdvertised
    | SharesDealt
    | SurvivorsProposed
    | UnmaskRequested
    | RoundCompleted
    | RoundVoided
    | AttemptAborted
    | MemberExcluded
    | EvaluationAsked
    | RunEnded
)


@dataclass(frozen=True, slots=True)
class NumberedTask:
    """A task with the id by which a member says that it has seen it (16 bytes, the same after a restart)."""

    id: bytes
    task: Task


# --- submissions: what a member sends of its own ---


@dataclass(frozen=True, slots=True)
class PlanApproved:
    """An owner's approval, signed by the identity key over the plan's hash."""

    run_id: str
    plan_hash: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class PlanRefused:
    """An owner's refusal: the code of the rule, and a text that the owner chose to share."""

    run_id: str
    plan_hash: bytes
    code: str
    because: str


@dataclass(frozen=True, slots=True)
class Abstained:
    """This participant takes no part in an attempt; the code never depends on private data."""

    run_id: str
    position: Position
    code: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluator's signed measurement of a released adapter on public data."""

    run_id: str
    plan_hash: bytes
    round: int
    adapter_sha256: bytes
    examples: int
    metrics: tuple[Metric, ...]
    data_sha256: bytes  # of the public data it was measured on
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """This member leaves the federation for good; signed by the identity key, which counts no longer from then on."""

    signature: bytes


@dataclass(frozen=True, slots=True)
class RoundKnown:
    """The certificate of a round that the coordinator offers again, or does not have: it was set back."""

    run_id: str
    certificate: RoundCertificate


RecordedMessage = (
    Advertisement | Receipt | SurvivorSignature | UnmaskShares
)  # of which the sender's journal has a record


@dataclass(frozen=True, slots=True)
class MessageWithHeads:
    """A message of a round and the heads that stand for its record: taken together."""

    heads: HeadsShown
    message: RecordedMessage

    @property
    def sender(self) -> str:
        """Who says it."""
        return self.message.sender

    @property
    def position(self) -> Position:
        """The attempt that it is of."""
        return self.message.position


RoundMessage = Advertisement | ShareBundle | Complaint | Receipt | SurvivorSignature | UnmaskShares
RunSubmission = (
    PlanApproved | PlanRefused | RoundMessage | MessageWithHeads | Abstained | Evaluation | RoundKnown | HeadsShown
)
Submission = RunSubmission | MemberLeft


# --- transport: content in chunks ---


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some bytes of a whole, from ``offset`` on; the codec has checked their hash and that there are any."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class TaskPart:
    """A chunk of a task's bytes; the last one makes it whole, and the next part begins another task."""

    chunk: Chunk
    last: bool


@dataclass(frozen=True, slots=True)
class UploadAnnounced:
    """A masked update is about to be uploaded: where it belongs, its SHA-256 and its length in bytes."""

    run_id: str
    position: Position
    sha256: bytes
    length: int


@dataclass(frozen=True, slots=True)
class PollRequest:
    """Which tasks a member has seen (of those that may still be current), and how long it will wait for another."""

    seen: frozenset[bytes]
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class ContentRequest:
    """The rest of some content, from ``offset`` on."""

    sha256: bytes
    offset: int
