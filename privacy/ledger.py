"""The ledger as values: records, their hash chain, and what a population has spent.

Guarantees: a chain that verifies was written by one key, in this order, with nothing changed, added in the
middle or taken out; rows hold events, unit and relation, never epsilons; units and relations of one population never
mix; a charge is allowed only if the lifetime filter still holds with it.
Leaves to others: that the newest records are there (a head that others have seen), files and transactions
(``participant.owner.ledger``).
Source: docs/privacy-accounting.md section 8; Feldman and Zrnic 2021 (filter at one fixed order).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from privacy import canonical
from privacy.canonical import Json
from privacy.dp import rdp
from privacy.dp.events import Composed, Event, format_epsilon_up
from privacy.errors import RefusedError, VerificationError
from privacy.ledger_entries import (
    Charge,
    Entry,
    Genesis,
    Reanchored,
    Unprotected,
    entry_from_json,
    entry_to_json,
)
from privacy.secagg.keys import SigningKey, framed, verify

LABEL_RECORD: Final = b"onlysum/1/ledger-record"
LABEL_HEAD: Final = b"onlysum/1/ledger-signature"
NOTHING_BEFORE: Final = bytes(32)  # what stands for the previous hash in the first record
LEDGER_VERSION: Final = 2  # of exports: a key of its own, members beside it
FIRST_SEQUENCE: Final = 1  # 0 means "no ledger yet" in the handshake


@dataclass(frozen=True, slots=True)
class Record:
    """An entry in its place in the chain, signed by the ledger's key."""

    sequence: int
    previous: bytes
    at: int  # seconds since the Unix epoch
    entry: Entry
    signature: bytes = b""

    @property
    def body(self) -> bytes:
        """The canonical JSON that is hashed."""
        return canonical.encode(
            {
                "sequence": self.sequence,
                "previous": self.previous.hex(),
                "at": self.at,
                "entry": entry_to_json(self.entry),
            }
        )

    @property
    def hash(self) -> bytes:
        """What the next record points to."""
        return hashlib.sha256(framed(LABEL_RECORD, self.body)).digest()


@dataclass(frozen=True, slots=True)
class LifetimeBudget:
    """What a population may spend over all runs, by a Renyi filter at one order that the policy fixes.

    ``delta`` should be at most a tenth of one over the public bound of the population's size.
    """

    unit: str
    epsilon: float
    delta: float
    order: int

    @property
    def divergence(self) -> float:
        """The Renyi divergence that the budget is worth."""
        return rdp.to_divergence(self.epsilon, self.order, self.delta)

    @property
    def fixed(self) -> float:
        """What the first charge costs for delta alone, however small it is."""
        return rdp.to_epsilon(0.0, self.order, self.delta)


@dataclass(frozen=True, slots=True)
class RunSpend:
    """What one run has charged to a population; ``event`` is None if the run made no claim."""

    run_id: str
    plan_hash: bytes
    event: Event | None
    rounds: int
    delta: str


@dataclass(frozen=True, slots=True)
class Spent:
    """What a population has spent, run by run in the order of their first charge."""

    population: str
    unit: str
    relation: str
    runs: tuple[RunSpend, ...]
    order: int | None = None  # of the lifetime filter, as the first charge that names one has it
    exhausted: bool = False  # charges were lost that nobody can name: the whole budget counts as spent

    def fixed(self, budget: LifetimeBudget) -> LifetimeBudget:
        """Return a budget at the order of the first charge: a filter is valid at one order alone."""
        return budget if self.order is None else replace(budget, order=self.order)

    @property
    def events(self) -> tuple[Event, ...]:
        """Everything charged, as events."""
        return tuple(Composed(run.event, run.rounds) for run in self.runs if run.event is not None and run.rounds)

    @property
    def unprotected(self) -> tuple[str, ...]:
        """Runs that made no claim: no lifetime figure covers them."""
        return tuple(run.run_id for run in self.runs if run.event is None)

    def lifetime_epsilon(self, budget: LifetimeBudget) -> float:
        """Return the spend by the budget's own measure; 0 before the first charge."""
        least = budget.epsilon if self.exhausted else 0.0
        if not self.events:
            return least
        budget = self.fixed(budget)
        return max(least, rdp.to_epsilon(rdp.composed(self.events, budget.order), budget.order, budget.delta))

    def with_charge(self, charge: Charge) -> Spent:
        """Return the spend after another charge.

        Raises:
            RefusedError: ``E-LEDGER-UNIT``, the population is kept in another unit or relation, or a run came back
                with another event.
        """
        if self.unit and (self.unit, self.relation) != (charge.unit, charge.relation):
            kept, asked = f"{self.unit} ({self.relation})", f"{charge.unit} ({charge.relation})"
            raise RefusedError("E-LEDGER-UNIT", f"population {self.population} is kept per {kept}, not per {asked}")
        runs = list(self.runs)
        for place, run in enumerate(runs):
            if run.plan_hash == charge.plan_hash:
                if (run.event, run.run_id, run.delta) != (charge.event, charge.run_id, charge.delta):
                    raise RefusedError("E-LEDGER-UNIT", f"run {run.run_id} was charged as another event before")
                runs[place] = replace(run, rounds=run.rounds + 1)
                break
        else:
            runs.append(RunSpend(charge.run_id, charge.plan_hash, charge.event, 1, charge.delta))
        order = self.order or charge.order
        return replace(self, unit=charge.unit, relation=charge.relation, runs=tuple(runs), order=order)

    def with_unprotected(self, entry: Unprotected) -> Spent:
        """Return the spend after a run without differential privacy was noted."""
        return replace(self, runs=(*self.runs, RunSpend(entry.run_id, entry.plan_hash, None, 0, "0")))


def nothing_spent(population: str) -> Spent:
    """Return the spend of a population that was never charged."""
    return Spent(population, "", "", ())


def population_of_run(records: Iterable[Record], plan_hash: bytes) -> str | None:
    """Return the population that the first record about a run names; None before anything was charged or noted."""
    return next(iter(populations_of_run(records, plan_hash)), None)


def populations_of_run(records: Iterable[Record], plan_hash: bytes) -> tuple[str, ...]:
    """Return every population that a run was charged to or noted for, in order; more than one is a split run."""
    entries = (record.entry for record in records if isinstance(record.entry, Charge | Unprotected))
    return tuple(dict.fromkeys(entry.population for entry in entries if entry.plan_hash == plan_hash))


def populations_of_data(records: Iterable[Record], data: bytes) -> tuple[str, ...]:
    """Return every population that was charged for data of a fingerprint, in order; an empty one is nobody's."""
    entries = (record.entry for record in records if isinstance(record.entry, Charge))
    return tuple(dict.fromkeys(entry.population for entry in entries if data and entry.data == data))


def require_population(records: Iterable[Record], entry: Charge | Unprotected) -> None:
    """Refuse to charge a run to another population than its first record names.

    Raises:
        RefusedError: ``E-LEDGER-POPULATION``.
    """
    pinned = population_of_run(records, entry.plan_hash)
    if pinned is not None and pinned != entry.population:
        detail = f"run {entry.run_id} belongs to population {pinned}, not to {entry.population}"
        raise RefusedError("E-LEDGER-POPULATION", detail)


def require_data(records: Iterable[Record], charge: Charge) -> None:
    """Refuse to charge a population for data that was charged to another: its people would have a second budget.

    Raises:
        RefusedError: ``E-LEDGER-DATA``.
    """
    before = populations_of_data(records, charge.data)
    if before and charge.population not in before:
        detail = f"this data was charged to population {', '.join(before)}, not to {charge.population}"
        raise RefusedError("E-LEDGER-DATA", detail)


def require_budget(spent: Spent, charge: Charge, *, budget: LifetimeBudget, max_rounds: int) -> Spent:
    """Return the spend with a charge added, if limits allow it.

    Args:
        spent: the population's spend so far.
        charge: the round that is about to start.
        budget: the population's lifetime budget.
        max_rounds: rounds that the approved plan has; what they cost together was compared with the limit per run
            when the plan was approved.

    Raises:
        RefusedError: ``E-LEDGER-UNIT`` or ``E-POLICY-BUDGET``.
    """
    if budget.unit != charge.unit:
        detail = f"the budget of {charge.population} is per {budget.unit}, the plan's claim per {charge.unit}"
        raise RefusedError("E-LEDGER-UNIT", detail)
    after, budget = spent.with_charge(charge), spent.fixed(budget)
    rounds = next(run.rounds for run in after.runs if run.plan_hash == charge.plan_hash)
    if rounds > max_rounds:
        raise RefusedError("E-POLICY-BUDGET", f"run {charge.run_id} was charged for all of its {max_rounds} rounds")
    if spent.exhausted:
        detail = f"the whole budget of {charge.population} counts as spent since records of the ledger were lost"
        raise RefusedError("E-POLICY-BUDGET", detail)
    if rdp.composed(after.events, budget.order) > budget.divergence:
        now, then = (format_epsilon_up(spend.lifetime_epsilon(budget), 3) for spend in (spent, after))
        detail = f"{charge.population} has spent epsilon {now} of {budget.epsilon:g}; this round makes {then}"
        raise RefusedError("E-POLICY-BUDGET", detail)
    return after


def append(last: Record | None, entry: Entry, *, at: int, key: SigningKey) -> Record:
    """Return the signed record that follows ``last`` (None: the first)."""
    record = Record(*_place_after(last, entry), at, entry)
    return replace(record, signature=key.sign(signed_bytes(record.hash)))


def _place_after(last: Record | None, entry: Entry) -> tuple[int, bytes]:
    """Return the number of the record that an entry makes, and the hash of the one before."""
    if last is None:
        return FIRST_SEQUENCE, NOTHING_BEFORE
    above = max(last.sequence, entry.lost_sequence) if isinstance(entry, Reanchored) else last.sequence
    return above + 1, last.hash


def follows(last: Record | None, record: Record) -> bool:
    """Return whether a record stands where it must after another (None: at the beginning)."""
    return (record.sequence, record.previous) == _place_after(last, record.entry)


def accounts_for(records: Iterable[Record], sequence: int, *, member: bytes) -> bool:
    """Return whether a record that a member showed was lost, and what it may have charged is charged again.

    Args:
        records: of the ledger as it is.
        sequence: number of the record that is missing.
        member: identity key of who showed it; only it, and its coordinator, can name what the record charged.
    """
    lost = (record.entry for record in records if isinstance(record.entry, Reanchored))
    return any(entry.member == member and sequence <= entry.lost_sequence for entry in lost)


def signed_bytes(record_hash: bytes) -> bytes:
    """Return the string that the ledger's key signs; through the hash it covers all records before."""
    return framed(LABEL_HEAD, record_hash)


def verify_chain(records: Sequence[Record], *, key: bytes, every_signature: bool = True) -> None:
    """Check that records are a whole chain from genesis, signed by one key.

    Args:
        records: all records in order.
        key: the ledger's Ed25519 key.
        every_signature: False checks the last one alone, which covers the others through their hashes.

    Raises:
        VerificationError: ``E-STATE-DAMAGED``, naming the first record that does not fit.
    """
    if not records:
        raise VerificationError("E-STATE-DAMAGED", "the ledger has no records, not even its first")
    last: Record | None = None
    for place, record in enumerate(records, start=1):
        if not follows(last, record):
            raise VerificationError("E-STATE-DAMAGED", f"ledger record {place} does not follow from the one before")
        last = record
        signed = every_signature or record is records[-1]
        if signed and not verify(key, record.signature, signed_bytes(record.hash)):
            raise VerificationError(
                "E-STATE-DAMAGED", f"ledger record {record.sequence} is not signed by the ledger's key"
            )
    first = records[0].entry
    if not isinstance(first, Genesis) or first.key != key:
        raise VerificationError("E-STATE-DAMAGED", "the ledger's first record names another key")
    if any(isinstance(record.entry, Genesis) for record in records[1:]):
        raise VerificationError("E-STATE-DAMAGED", "the ledger begins twice")


def spent_by_population(records: Iterable[Record], *, before: Mapping[str, Spent] | None = None) -> dict[str, Spent]:
    """Return what each population has spent according to some records, on top of what older ones say.

    Raises:
        VerificationError: ``E-STATE-DAMAGED``, charges of one population are kept in different units.
    """
    spent = dict(before or {})
    for record in records:
        entry = record.entry
        if isinstance(entry, Charge | Unprotected):
            earlier = spent.get(entry.population) or nothing_spent(entry.population)
            spent[entry.population] = _added(earlier, entry)
        if isinstance(entry, Reanchored):
            for name in entry.exhausted:
                spent[name] = replace(spent.get(name) or nothing_spent(name), exhausted=True)
    return spent


def _added(before: Spent, entry: Charge | Unprotected) -> Spent:
    try:
        return before.with_charge(entry) if isinstance(entry, Charge) else before.with_unprotected(entry)
    except RefusedError as error:
        raise VerificationError("E-STATE-DAMAGED", f"the ledger mixes what cannot be added: {error.detail}") from None


def export(records: Sequence[Record]) -> bytes:
    """Return all records as canonical JSON, for the owner's archive and for ``verify_export``."""
    rows: list[Json] = [
        {
            "sequence": record.sequence,
            "previous": record.previous.hex(),
            "at": record.at,
            "entry": entry_to_json(record.entry),
            "signature": record.signature.hex(),
        }
        for record in records
    ]
    return canonical.encode({"ledger_version": LEDGER_VERSION, "records": rows})


def verify_export(data: bytes, *, key: bytes | None = None) -> tuple[Record, ...]:
    """Parse and check an exported ledger.

    Args:
        data: what :func:`export` wrote.
        key: the ledger's Ed25519 key; by default the one that the first record names, and the reader finds out
            whose it is.

    Raises:
        VerificationError: ``E-STATE-DAMAGED``.
    """
    match _decoded(data):
        case {"ledger_version": int(version), "records": [*rows]} if version == LEDGER_VERSION:
            records = tuple(_record(row) for row in rows)
        case _:
            raise VerificationError("E-STATE-DAMAGED", f"not an exported ledger of version {LEDGER_VERSION}")
    if export(records) != data:  # another field, or hexadecimal digits in capitals
        raise VerificationError("E-STATE-DAMAGED", "the exported ledger is not written as a daemon writes it")
    verify_chain(records, key=_named_key(records) if key is None else key)
    return records


def _named_key(records: Sequence[Record]) -> bytes:
    """Return the key that a ledger names in its first record; none of a ledger that does not begin."""
    first = records[0].entry if records else None
    return first.key if isinstance(first, Genesis) else b""


def parse_record(body: bytes, signature: bytes) -> Record:
    """Read a record from its canonical body and signature.

    Raises:
        VerificationError: ``E-STATE-DAMAGED``.
    """
    match _decoded(body):
        case Mapping() as value:
            return _record({**value, "signature": signature.hex()})
        case _:
            raise VerificationError("E-STATE-DAMAGED", "a ledger record is no object")


def _decoded(data: bytes) -> Json:
    try:
        return canonical.decode(data)
    except ValueError as error:
        raise VerificationError("E-STATE-DAMAGED", f"a ledger record does not parse: {error}") from None


def _record(value: Json) -> Record:
    try:
        match value:
            case {
                "sequence": int(sequence),
                "previous": str(previous),
                "at": int(at),
                "entry": Mapping() as entry,
                "signature": str(signature),
                **rest,
            } if not rest:
                return Record(sequence, bytes.fromhex(previous), at, entry_from_json(entry), bytes.fromhex(signature))
    except ValueError as error:
        raise VerificationError("E-STATE-DAMAGED", f"a ledger record does not parse: {error}") from None
    raise VerificationError("E-STATE-DAMAGED", "a ledger record has unknown or missing fields")
