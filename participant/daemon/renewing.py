"""``participant renew``: a new certificate by command, over the connection or with the operator's invitation.

Guarantees: no daemon works on the directory meanwhile; the identity key, the ledger and all decisions stay; the new key
is on disk before anybody is asked, so that running the command again after a crash goes on.
Leaves to others: what is believed (``participant.link.renewal``).
"""

from __future__ import annotations

from pathlib import Path

from host.locks import only_daemon
from participant.config import load_settings
from participant.daemon.doctor import first_words
from participant.home import Home
from participant.link import renewal
from participant.link.channel import Channel, enrol
from participant.link.identity import (
    Identity,
    OwnKeys,
    enrolment_request,
    load_identity,
)
from participant.link.introduction import introduced
from participant.link.upkeep import Upkeep
from participant.opened import OpenHome
from privacy.interfaces import Clock, RandomSource
from protos.envelope import Hello, Welcome
from protos.invitation import decode_invitation


def renew_over_connection(participant: OpenHome, *, clock: Clock, random: RandomSource) -> Identity:
    """Ask the coordinator for a new certificate with the one in use.

    Raises:
        LocalError: ``E-RUNNING``, the daemon runs, and renews by itself; ``E-DISK-*``.
        NetworkError: the coordinator cannot be reached, or refuses a certificate that has ended (``E-NET-TLS``).
        PeerError: ``E-MEMBER-*`` or ``E-IDENTITY-MISMATCH``.
    """
    proxy, hello = participant.settings.proxy, first_words(participant)

    def greet(identity: Identity, words: Hello) -> Welcome:
        with Channel(identity, proxy=proxy) as trial:
            return trial.handshake(words)

    with only_daemon(participant.home.directory, "participant"), Channel(participant.identity, proxy=proxy) as link:
        upkeep = Upkeep(participant.home.identity, participant.identity, link, greet=greet, clock=clock, random=random)
        upkeep.before_handshake(hello)
        upkeep.renew(hello)
    return upkeep.identity


def renew_by_invitation(line: str, directory: Path, *, random: RandomSource) -> Identity:
    """Get a new certificate with an invitation for the same identity; its authority and addresses count from then on.

    Args:
        line: the invitation as the operator sent it.
        directory: the participant's.
        random: source of the TLS key.

    Raises:
        LocalError: ``E-RUNNING``; ``E-TOKEN-INVALID``; ``E-CONFIG-*`` or ``E-DISK-*``.
        PeerError: ``E-TOKEN-*``; ``E-IDENTITY-MISMATCH``, the invitation is for another, or of another operator.
        NetworkError: the coordinator cannot be reached; running the command again goes on.
    """
    short, home = decode_invitation(line), Home(directory)
    home.check()
    proxy = load_settings(home).proxy
    with only_daemon(directory, "participant"):
        if renewal.half_in_place(home.identity):
            renewal.put_in_place(home.identity)
        identity = load_identity(home.identity)
        invitation = introduced(short, proxy=proxy)
        renewal.check_invitation(identity, invitation)
        tls = renewal.next_key(home.identity, random)
        request = enrolment_request(invitation, OwnKeys(identity.keys.identity, tls))
        return renewal.take_membership(
            home.identity, identity, invitation, tls, enrol(invitation, request, proxy=proxy)
        )
