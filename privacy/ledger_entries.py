"""What a ledger can say: its owner, changes of policy, rounds charged, runs without a claim, records that were lost.

Guarantees: an entry has one JSON form and an unknown one is refused; entries hold events, unit and relation, never
epsilons, data or sizes of batches.
Leaves to others: order, hashes and signatures (``ledger``).
Source: docs/privacy-accounting.md section 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, assert_never

from privacy.canonical import Json
from privacy.dp.events import Event, from_json, to_json

FINGERPRINT_BYTES: Final = 32  # of data


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis:
    """The first record: who began the ledger, and the key that signs it."""

    owner: str
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChange:
    """The policy of a member that charges here changed; its hash says to what."""

    member: bytes  # its identity key
    policy_sha256: bytes
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One round of a run, charged at its planned event when it starts. Nothing is refunded."""

    run_id: str
    plan_hash: bytes
    round: int
    population: str
    unit: str
    relation: str
    event: Event
    delta: str  # the plan's, for the figure of this run alone
    order: int | None = None  # of the population's lifetime filter; None in records of older programs
    data: bytes = b""  # fingerprint of the data under the ledger's key, which says nothing to others; empty: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Unprotected:
    """A run without differential privacy touched this population: no epsilon covers what it released."""

    run_id: str
    plan_hash: bytes
    population: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reanchored:
    """Records that others have seen are lost: what they charged is charged again, at its worst, by the records after.

    The ledger goes on above the number of the lost head, so that no head of the lost records is ever taken for one of
    these.
    """

    member: bytes  # identity key of the member that showed them: what another one showed is its own to account for
    lost_sequence: int  # of the newest record that was shown and is missing here
    lost_hash: bytes
    who: str  # confirmed it
    exhausted: tuple[str, ...] = ()  # populations whose whole budget counts as spent, since nobody knows by what


Entry = Genesis | PolicyChange | Charge | Unprotected | Reanchored


def entry_to_json(entry: Entry) -> Json:
    """Return the JSON value of an entry."""
    match entry:
        case Genesis():
            return {"kind": "genesis", "owner": entry.owner, "key": entry.key.hex()}
        case PolicyChange():
            return {
                "kind": "policy",
                "member": entry.member.hex(),
                "policy_sha256": entry.policy_sha256.hex(),
                "summary": entry.summary,
            }
        case Charge():
            return {
                "kind": "charge",
                "run_id": entry.run_id,
                "plan_hash": entry.plan_hash.hex(),
                "round": entry.round,
                "population": entry.population,
                "unit": entry.unit,
                "relation": entry.relation,
                "event": to_json(entry.event),
                "delta": entry.delta,
                **({} if entry.order is None else {"order": entry.order}),
                **({"data": entry.data.hex()} if entry.data else {}),
            }
        case Unprotected():
            return {
                "kind": "unprotected",
                "run_id": entry.run_id,
                "plan_hash": entry.plan_hash.hex(),
                "population": entry.population,
            }
        case Reanchored():
            return {
                "kind": "reanchored",
                "member": entry.member.hex(),
                "lost_sequence": entry.lost_sequence,
                "lost_hash": entry.lost_hash.hex(),
                "who": entry.who,
                "exhausted": [*entry.exhausted],
            }
        case _:
            assert_never(entry)


def entry_from_json(value: Mapping[str, Json]) -> Entry:
    """Read an entry.

    Raises:
        ValueError: an unknown kind, or unknown, missing or mistyped fields.
    """
    match value:
        case {"kind": "genesis", "owner": str(owner), "key": str(key)} if len(value) == 3:
            return Genesis(owner=owner, key=bytes.fromhex(key))
        case {
            "kind": "policy",
            "member": str(member),
            "policy_sha256": str(policy),
            "summary": str(summary),
        } if len(value) == 4:
            return PolicyChange(member=bytes.fromhex(member), policy_sha256=bytes.fromhex(policy), summary=summary)
        case {"kind": "unprotected", "run_id": str(run), "plan_hash": str(plan), "population": str(population)} if (
            len(value) == 4
        ):
            return Unprotected(run_id=run, plan_hash=bytes.fromhex(plan), population=population)
        case {"kind": "charge"}:
            return _charge(value)
        case {"kind": "reanchored"}:
            return _reanchored(value)
        case _:
            raise ValueError("an unknown kind of entry")


def _reanchored(value: Mapping[str, Json]) -> Reanchored:
    match value:
        case {
            "member": str(member),
            "lost_sequence": int(sequence),
            "lost_hash": str(lost),
            "who": str(who),
            "exhausted": [*names],
        } if len(value) == 6 and sequence >= 1:
            exhausted = tuple(name for name in names if isinstance(name, str))
            if list(exhausted) == names and not isinstance(sequence, bool):
                return Reanchored(
                    member=bytes.fromhex(member),
                    lost_sequence=sequence,
                    lost_hash=bytes.fromhex(lost),
                    who=who,
                    exhausted=exhausted,
                )
    raise ValueError("a re-anchoring has unknown or missing fields")


def _order(value: Json) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 2:
        raise ValueError("the order of a filter is an integer of at least 2")
    return value


def _data(value: Json) -> bytes:
    fingerprint = bytes.fromhex(value) if isinstance(value, str) else b""
    if len(fingerprint) != FINGERPRINT_BYTES:
        raise ValueError("a fingerprint of data is 32 bytes")
    return fingerprint


def _charge(value: Mapping[str, Json]) -> Charge:
    match value:
        case {
            "run_id": str(run),
            "plan_hash": str(plan),
            "round": int(number),
            "population": str(population),
            "unit": str(unit),
            "relation": str(relation),
            "event": event,
            "delta": str(delta),
        } if len(value) == 9 + ("order" in value) + ("data" in value):
            return Charge(
                run_id=run,
                plan_hash=bytes.fromhex(plan),
                round=number,
                population=population,
                unit=unit,
                relation=relation,
                event=from_json(event),
                delta=delta,
                order=_order(value["order"]) if "order" in value else None,
                data=_data(value["data"]) if "data" in value else b"",
            )
        case _:
            raise ValueError("a charge has unknown or missing fields")
