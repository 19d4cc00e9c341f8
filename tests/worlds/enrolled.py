"""An enrolled participant's directory on disk, made without a network."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from coordinator.enrolment import authority as ca
from coordinator.enrolment.authority import Authority
from host.state_format import write_format
from participant.config import DEFAULT_LEDGERS, FORMAT, settings_template
from participant.home import Home
from participant.link import identity
from participant.owner.ledger_directory import LedgerDirectory, Newcomer
from participant.owner.plan_store import PlanStore
from participant.owner.policy import policy_template
from participant.owner.registry import DatasetEntry, ModelEntry, Registry
from privacy.plan import Plan
from protos.envelope import Membership, Role
from tests.worlds.owner import INITIAL_ADAPTER, policy_text
from tests.worlds.plans import CREATED_AT, sign_plan
from tests.worlds.seeded import SeededRandom

FEDERATION = "test-federation"


def authority(seed: str = "authority") -> Authority:
    """Return an authority with an operator's key; another seed makes another federation of the same name."""
    return ca.create_authority(federation=FEDERATION, hosts=["127.0.0.1"], random=SeededRandom(seed), now=time.time())


def enrol(
    directory: Path,
    made: Authority,
    *,
    name: str = "alice",
    role: Role = Role.PARTICIPANT,
    ledgers: Path | None = None,
    now: float | None = None,
) -> Home:
    """Write what joining writes, now or at another time; the identity key is the one that the tests' plans name."""
    ledgers = ledgers or directory / DEFAULT_LEDGERS
    home = Home(directory)
    home.make()
    invitation = ca.invite(
        made,
        federation=FEDERATION,
        name=name,
        role=role,
        enrolment_addresses=["127.0.0.1:9"],
        addresses=["127.0.0.1:9"],
        random=SeededRandom("invitation"),
        until=int(time.time()) + 60,
    )
    keys = identity.new_keys(_IdentityFirst(name))
    identity.save_keys(home.identity, keys)
    request = identity.enrolment_request(invitation, keys)
    certificate = ca.issue_member(
        made, request=request.certificate_request, name=name, random=SeededRandom(name), now=now or time.time()
    )
    membership = Membership(FEDERATION, name, role, certificate, made.ca_certificate)
    identity.save_identity(home.identity, identity.accept_membership(invitation, keys, membership))
    write_format(home.directory, FORMAT)
    home.config.write_text(settings_template(name, str(ledgers)))
    home.policy.write_text(policy_template(made.fingerprint))
    newcomer = Newcomer(
        identity=keys.signing.public,
        name=name,
        federation=FEDERATION,
        authority=hashlib.sha256(made.ca_der).hexdigest(),
        home=home,
        charges=role is Role.PARTICIPANT,
    )
    LedgerDirectory(ledgers).admit(newcomer, random=SeededRandom(f"ledger of {name}"), at=CREATED_AT)
    return home


class _IdentityFirst:
    """Randomness whose last draw is the identity key of ``tests.worlds.plans.signing_key``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._inner = SeededRandom(f"keys of {name}")
        self._draws = 0

    def token_bytes(self, count: int) -> bytes:
        self._draws += 1
        if self._draws == 1:
            return self._inner.token_bytes(count)
        return hashlib.sha256(b"onlysum tests: identity key of " + self._name.encode()).digest()


def propose(home: Home, made: Authority, plan: Plan) -> str:
    """Keep a plan as the daemon would when it is proposed, and return its run id."""
    plans = PlanStore(home, made.operator.public)
    plans.put(plan.to_bytes(), sign_plan(plan, made.operator))
    plans.initial_adapter(plan.run_id).write_bytes(INITIAL_ADAPTER)
    return plan.run_id


def equip(home: Home, made: Authority, plan: Plan, **policy: Any) -> None:
    """Register the plan's base and a dataset of the announced size, and allow the plan."""
    base = plan.recipe.base
    registry = Registry(home)
    registry.add(ModelEntry(name=base.name, path=str(home.directory), added_at=0, files=base.files))
    registry.add(DatasetEntry(name="digits", path=str(home.directory), added_at=0, rows=100, population="patients"))
    text = policy_text(**{"approval": "by-hand", **policy})
    authority_line = next(line for line in text.splitlines() if line.startswith("ca_fingerprint"))
    home.policy.write_text(text.replace(authority_line, f'ca_fingerprint = "{made.fingerprint}"'))
