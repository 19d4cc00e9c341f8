"""What a participant remembers of a run: the records of its journal, and what follows from them.

Guarantees: :class:`RunMemory` is a pure fold over records, so a restarted participant knows exactly what it knew when
it last sent something. A record never holds a private key, a seed, a share of one, or an un-masked update.
Leaves to others: writing records and files to disk before anything leaves (``journal``), the checks (``round``).
Source: docs/protocol.md sections 5 and 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Final, assert_never, get_args, get_origin, get_type_hints

from privacy import canonical
from privacy.secagg.dealing import HeldShare
from privacy.secagg.hashes import genesis_transcript
from privacy.secagg.messages import AttemptOffer, Position, Receipt, SurvivorSet


@dataclass(frozen=True, slots=True)
class AttemptAdvertised:
    """Keys were made for an attempt; every earlier (round, attempt) is closed for ever."""

    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class UpdateEncoded:
    """The encoded update of a round lies in a file; retries mask these very bytes."""

    round: int
    sha256: bytes
    adapter_hash: bytes
    previous_transcript: bytes


@dataclass(frozen=True, slots=True)
class PartKept:
    """What a round leaves at home lies in a file; it counts once the round closes with its update in the sum.

    Written before :class:`UpdateEncoded`, so that there is no update without it.
    """

    round: int
    member: str  # whose: this participant
    sha256: bytes


@dataclass(frozen=True, slots=True)
class SumKept:
    """A round's own clamped sum, which has no noise, lies in a file: later rounds mask it again, each with its band.

    Written before :class:`UpdateEncoded`, and of the same training. It counts once the round closes with this
    participant's update in the sum.
    """

    round: int
    member: str  # whose: this participant
    sha256: bytes
    last: int  # round that has a band for it


@dataclass(frozen=True, slots=True)
class UpdateMasked:
    """The masked update of an attempt and the shares held for others lie in files; all else to go on after a restart.

    Both files are erased when the round or the run ends (:attr:`RunMemory.files`): the journal is kept, and backed up,
    and must not show then what others dealt.
    """

    offer: AttemptOffer
    round_ctx: bytes
    u2: tuple[str, ...]
    receipt: Receipt
    shares_hash: bytes  # of the file of shares, as :func:`shares_to_bytes` writes it

    @property
    def round(self) -> int:
        """The round of the attempt."""
        return self.offer.position.round

    @property
    def attempt(self) -> int:
        """The attempt."""
        return self.offer.position.attempt


@dataclass(frozen=True, slots=True)
class SurvivorsSigned:
    """The commit point: this round's one survivor set."""

    round: int
    attempt: int
    survivors: SurvivorSet


@dataclass(frozen=True, slots=True)
class SharesReleased:
    """This round's one release."""

    round: int
    attempt: int
    survivors: SurvivorSet


@dataclass(frozen=True, slots=True)
class RoundClosed:
    """A verified certificate extended the transcript, or the round was voided: then nobody survived it."""

    round: int
    attempt: int  # 0 of a voided round: none of its attempts counts
    transcript: bytes
    survivors: tuple[str, ...]
    alarm: bool  # this participant had uploaded to this attempt and is not among the survivors


@dataclass(frozen=True, slots=True)
class RunRefused:
    """The run is refused for good, with the code of the reason."""

    code: str


Record = (
    AttemptAdvertised
    | PartKept
    | SumKept
    | UpdateEncoded
    | UpdateMasked
    | SurvivorsSigned
    | SharesReleased
    | RoundClosed
    | RunRefused
)
_KINDS: Final[dict[str, type[Record]]] = {
    kind.__name__: kind
    for kind in (
        AttemptAdvertised,
        PartKept,
        SumKept,
        UpdateEncoded,
        UpdateMasked,
        SurvivorsSigned,
        SharesReleased,
        RoundClosed,
        RunRefused,
    )
}


def _plain(value: object) -> canonical.Json:
    match value:
        case bytes():
            return value.hex()
        case tuple():
            return [_plain(item) for item in value]
        case str() | bool() | int():
            return value
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}  # type: ignore[arg-type]  # a record


def _restore(hint: Any, value: Any) -> Any:
    if isinstance(hint, type) and is_dataclass(hint):
        hints = get_type_hints(hint)
        if not isinstance(value, dict) or set(value) != set(hints):
            raise ValueError("a record with other fields")
        return hint(**{name: _restore(hints[name], value[name]) for name in hints})
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ValueError("a record with a value of another type")
        arguments = get_args(hint)
        inner = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        return tuple(_restore(of, item) for of, item in zip(inner, value, strict=True))
    if hint is bytes:
        return bytes.fromhex(value)
    if type(value) is not hint:
        raise ValueError("a record with a value of another type")
    return value


# Names with a dash are of what a round leaves behind: ``home.erase_updates`` goes by it.


def encoded_name(round_number: int) -> str:
    """Return the name of the file with a round's encoded update."""
    return f"encoded-{round_number}"


def kept_name(round_number: int) -> str:
    """Return the name of the file with what a round leaves at home."""
    return f"kept-{round_number}"


def summed_name(round_number: int) -> str:
    """Return the name of the file with a round's own clamped sum."""
    return f"summed-{round_number}"


def masked_name(at: Position) -> str:
    """Return the name of the file with an attempt's masked update."""
    return f"masked-{at.round}-{at.attempt}"


def shares_name(at: Position) -> str:
    """Return the name of the file with the shares held for others in an attempt."""
    return f"shares-{at.round}-{at.attempt}"


def shares_to_bytes(shares: Sequence[HeldShare]) -> bytes:
    """Return the file in which shares held for others wait for the end of the round."""
    return canonical.encode([_plain(share) for share in shares])


def shares_from_bytes(data: bytes) -> tuple[HeldShare, ...]:
    """Return the shares of a file, or raise ``ValueError``."""
    shares: tuple[HeldShare, ...] = _restore(tuple[HeldShare, ...], canonical.decode(data))
    return shares


def record_to_json(record: Record) -> canonical.Json:
    """Return the JSON form of a record; bytes become hexadecimal."""
    return {"kind": type(record).__name__, "value": _plain(record)}


def record_from_json(value: canonical.Json) -> Record:
    """Return the record of a JSON form, or raise ``ValueError``."""
    match value:
        case {"kind": str() as kind, "value": dict() as body} if kind in _KINDS:
            try:
                record: Record = _restore(_KINDS[kind], body)
            except TypeError as error:
                raise ValueError("a record with a value of another type") from error
            return record
    raise ValueError("no record of the journal")


def _counts(left: PartKept | SumKept, closed: RoundClosed) -> bool:
    """Return whether what a round left is of an update that is in its sum."""
    return left.round == closed.round and left.member in closed.survivors


@dataclass(frozen=True, slots=True)
class RunMemory:
    """Everything that a participant has committed itself to in a run."""

    plan_hash: bytes
    transcript: bytes
    completed: int = 0
    highest: tuple[int, int] = (0, 0)  # the last (round, attempt) that it advertised
    left: PartKept | None = None  # at home by the last round that was trained
    kept: PartKept | None = None  # at home, by the last round whose sum has this participant's update
    summed: SumKept | None = None  # by the last round that was trained
    sums: tuple[SumKept, ...] = ()  # by rounds whose sum has this participant's update, while they are of use
    encoded: UpdateEncoded | None = None
    masked: UpdateMasked | None = None  # the last of any attempt; closed once a later attempt is advertised
    signed: SurvivorsSigned | None = None
    released: SharesReleased | None = None
    history: tuple[RoundClosed, ...] = ()
    refused: str = ""

    @classmethod
    def empty(cls, plan_hash: bytes) -> RunMemory:
        """Return the memory of a run that has just been approved."""
        return cls(plan_hash=plan_hash, transcript=genesis_transcript(plan_hash))

    def apply(self, record: Record) -> RunMemory:
        """Return the memory after one more record."""
        match record:
            case AttemptAdvertised():
                return replace(self, highest=max(self.highest, (record.round, record.attempt)))
            case PartKept():
                return replace(self, left=record)
            case SumKept():
                return replace(self, summed=record)
            case UpdateEncoded():
                return replace(self, encoded=record)
            case UpdateMasked():
                return replace(self, masked=record)
            case SurvivorsSigned():
                return replace(self, signed=record)
            case SharesReleased():
                return replace(self, released=record)
            case RoundClosed():
                left, summed = self.left, self.summed
                return replace(
                    self,
                    completed=record.round,
                    transcript=record.transcript,
                    history=(*self.history, record),
                    kept=left if left is not None and _counts(left, record) else self.kept,
                    sums=tuple(
                        kept
                        for kept in (*self.sums, *(() if summed is None or not _counts(summed, record) else (summed,)))
                        if kept.last > record.round
                    ),
                )
            case RunRefused():
                return replace(self, refused=record.code)
            case _ as never:
                assert_never(never)

    @property
    def voided(self) -> frozenset[int]:
        """The rounds that were closed without a sum."""
        return frozenset(closed.round for closed in self.history if closed.attempt == 0)

    @property
    def resumable(self) -> UpdateMasked | None:
        """The masked update of the attempt that goes on after a restart, if there is one."""
        masked = self.masked
        if self.refused or masked is None or masked.round <= self.completed:
            return None
        return masked if masked.offer.position.order == self.highest else None

    @property
    def files(self) -> frozenset[str]:
        """The names of the files that this run may still use; what else it has stored of updates and shares is erased.

        The encoded update is of use as long as another attempt may mask it: until its round's survivors are signed.
        """
        if self.refused:
            return frozenset()
        names, encoded, masked = set(self.at_home), self.encoded, self.resumable
        if self.left is not None and self.left.round > self.completed:
            names.add(kept_name(self.left.round))
        names |= {summed_name(kept.round) for kept in self.sums}
        if self.summed is not None and self.summed.round > self.completed:
            names.add(summed_name(self.summed.round))
        if encoded is not None and encoded.round > self.completed and self.signed_in(encoded.round) is None:
            names.add(encoded_name(encoded.round))
        if masked is not None:
            names |= {masked_name(masked.offer.position), shares_name(masked.offer.position)}
        return frozenset(names)

    @property
    def at_home(self) -> frozenset[str]:
        """The name of the file with what stays at home, if there is one: its owner's, also when the run is over."""
        return frozenset() if self.kept is None or self.refused else frozenset({kept_name(self.kept.round)})

    def encoded_in(self, round_number: int) -> UpdateEncoded | None:
        """Return this round's encoded update, if it was ever fsynced."""
        return self.encoded if self.encoded and self.encoded.round == round_number else None

    def masked_in(self, round_number: int) -> UpdateMasked | None:
        """Return this round's last masked update, if any attempt came that far."""
        return self.masked if self.masked and self.masked.round == round_number else None

    def signed_in(self, round_number: int) -> SurvivorsSigned | None:
        """Return this round's signed survivor set, whatever the attempt."""
        return self.signed if self.signed and self.signed.round == round_number else None

    def released_in(self, round_number: int) -> SharesReleased | None:
        """Return this round's release, whatever the attempt."""
        return self.released if self.released and self.released.round == round_number else None
