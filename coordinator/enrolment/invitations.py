"""Making an invitation and remembering it.

Guarantees: a name has at most one open invitation, and while a member of that name is active only one that this
member's own identity key can use; the secret is on the returned line and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from coordinator.database import member_rows
from coordinator.database.member_rows import TokenRecord
from coordinator.enrolment import authority as authorities
from coordinator.opened import OpenHome
from host.system import SystemRandom
from privacy.errors import LocalError
from privacy.plan_parts import Name
from protos.envelope import Role
from protos.invitation import encode_invitation, token_hash

_LABEL = re.compile(r"[A-Za-z0-9._-]{1,60}=[A-Za-z0-9._ -]{0,100}")


def make_invitation(
    opened: OpenHome, *, name: str, role: Role, labels: Sequence[str], now: int, until: int, again: bool = False
) -> str:
    """Return the line for a newcomer, or for a member that can no longer renew its certificate by itself.

    Args:
        opened: the coordinator's directory.
        name: who is invited.
        role: that a newcomer will have.
        labels: of a newcomer, ``k=v``.
        now: seconds since the Unix epoch.
        until: likewise, when the line expires.
        again: the member of this name is invited once more: its identity, role and labels stay as they are.

    Raises:
        LocalError: ``E-USAGE``; ``E-EXISTS``, a member of this name is active; ``E-NOT-FOUND``, none is, who could be
            invited again.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        rule = "a name is lower-case letters, digits, dots, dashes and underscores"
        raise LocalError("E-USAGE", f"{name!r}: {rule}") from None
    if wrong := [label for label in labels if not _LABEL.fullmatch(label)]:
        raise LocalError("E-USAGE", f"--label {wrong[0]!r} is not K=V")
    with opened.store.read() as connection:
        known = member_rows.find_member(connection, name)
    if again:
        if known is None or not known.active:
            raise LocalError("E-NOT-FOUND", f"no active member {name}: invite it without --again")
        role, labels = known.role, [label for label in known.labels.split(",") if label]
    invitation = authorities.invite(
        opened.authority(),
        federation=opened.settings.federation,
        name=name,
        role=role,
        enrolment_addresses=opened.settings.enrolment_addresses,
        addresses=opened.settings.addresses,
        random=SystemRandom(),
        until=until,
    )
    token = TokenRecord(
        token_id=invitation.token_id,
        secret_hash=token_hash(invitation.token_id, invitation.secret),
        name=name,
        role=role,
        labels=",".join(labels),
        made_at=now,
        expires_at=until,
    )
    with opened.store.begin() as connection:
        known = member_rows.find_member(connection, name)
        if known is not None and known.active and not again:
            lost = f"its certificate has ended: add --again; its key is lost: onlysum coordinator member revoke {name}"
            raise LocalError("E-EXISTS", f"{name} is a member; {lost}")
        member_rows.add_token(connection, token)
    return encode_invitation(invitation)
