"""Joining a federation: keys are made here, the invitation is spent, and the directory is written.

Guarantees: keys are on disk before the token is spent, so that a crash in between is mended by running the same command
again; nothing that is there is overwritten; the policy that is written allows nothing.
Leaves to others: the network (``channel``), what files say (``config``, ``policy``).
"""

from __future__ import annotations

import re
from pathlib import Path

from host import durable
from host.fingerprints import fingerprint
from host.state_format import write_format
from participant.config import DEFAULT_LEDGER, settings_template
from participant.home import Home
from participant.link.channel import enrol
from participant.link.identity import (
    MEMBERSHIP,
    Identity,
    accept_membership,
    enrolment_request,
    load_keys,
    new_keys,
    save_identity,
    save_keys,
)
from participant.link.introduction import introduced
from participant.owner.ledger import Ledger
from participant.owner.policy import policy_template
from privacy import patterns
from privacy.errors import LocalError
from privacy.interfaces import Clock, RandomSource
from protos.invitation import decode_invitation


def join(line: str, directory: Path, *, clock: Clock, random: RandomSource, proxy: str = "") -> Identity:
    """Enrol with an invitation and write the participant's directory.

    Args:
        line: the invitation as the operator sent it.
        directory: where everything will lie; made if it is not there.
        clock: for the ledger's first record.
        random: source of keys.
        proxy: an HTTPS CONNECT proxy on the way to the coordinator, or empty.

    Raises:
        LocalError: ``E-TOKEN-INVALID``, ``E-USAGE``: a proxy of another kind, or ``E-EXISTS``: the directory belongs to
            a member already.
        PeerError: ``E-TOKEN-*``, ``E-VERSION``.
        NetworkError: the coordinator cannot be reached; running the command again goes on.
    """
    _check_proxy(proxy)
    short = decode_invitation(line)
    home = Home(directory)
    if (home.identity / MEMBERSHIP).exists():
        raise LocalError("E-EXISTS", f"{directory} belongs to a member already; choose another --config DIR")
    home.make()
    if home.identity.exists():
        keys = load_keys(home.identity)  # an earlier try got as far as the keys
    else:
        keys = new_keys(random)
        save_keys(home.identity, keys)
    invitation = introduced(short, proxy=proxy)
    membership = enrol(invitation, enrolment_request(invitation, keys), proxy=proxy)
    identity = accept_membership(invitation, keys, membership)
    write_format(home.directory)
    if not home.config.exists():
        durable.write(home.config, _settings(identity.name, proxy).encode())
    if not home.policy.exists():
        durable.write(home.policy, policy_template(fingerprint(identity.authority_der)).encode())
    ledger = home.directory / DEFAULT_LEDGER
    if not ledger.exists():
        Ledger.create(ledger, owner=identity.name, key=identity.signing, at=int(clock.now())).close()
    save_identity(home.identity, identity)  # last: with the membership the directory is whole
    return identity


def _check_proxy(proxy: str) -> None:
    if not re.fullmatch(patterns.PROXY, proxy):
        raise LocalError("E-USAGE", f"--proxy: {patterns.WORDS[patterns.PROXY]}")


def _settings(name: str, proxy: str) -> str:
    text = settings_template(name)
    return text.replace('# proxy = "http://proxy.example:3128"', f'proxy = "{proxy}"') if proxy else text
