"""A newcomer looks at who answers before it trusts or sends anything."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coordinator.enrolment.authority import Authority, invite
from participant.link.introduction import introduced
from privacy.errors import NetworkError
from protos.envelope import Role
from protos.invitation import InvitationLine, decode_invitation, encode_invitation
from tests.worlds.loopback import new_authority
from tests.worlds.seeded import SeededRandom


@contextmanager
def answering(made: Authority, directory: Path) -> Iterator[tuple[str, list[bytes]]]:
    """Serve TLS with an authority's server certificate; yield the address, and what arrived after the handshake."""
    certificate, key = directory / "server.crt", directory / "server.key"
    certificate.write_bytes(made.server_certificate)
    key.write_bytes(made.server_key.reveal())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    arrived: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            raw, _ = listener.accept()
            with context.wrap_socket(raw, server_side=True) as connection:
                arrived.append(connection.recv(100))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", arrived
        thread.join(10)


def invitation(made: Authority, address: str) -> InvitationLine:
    return decode_invitation(
        encode_invitation(
            invite(
                made,
                federation="test-federation",
                name="alice",
                role=Role.PARTICIPANT,
                enrolment_addresses=[address],
                addresses=[address],
                random=SeededRandom("invitation"),
                until=2_000_000_000,
            )
        )
    )


def test_the_coordinator_that_invited_shows_its_authority_and_its_operators_key(tmp_path: Path) -> None:
    made = new_authority()
    with answering(made, tmp_path) as (address, arrived):
        whole = introduced(invitation(made, address))
    assert (whole.authority, whole.operator_key) == (made.ca_der, made.operator.public)
    assert whole.federation == "test-federation"
    assert arrived == [b""]  # nothing was sent


def test_another_coordinator_at_the_address_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with (
        answering(new_authority("mallory"), tmp_path) as (address, arrived),
        pytest.raises(NetworkError, match="does not show the coordinator that invited") as refused,
    ):
        introduced(invitation(new_authority(), address))
    assert refused.value.code == "E-NET-TLS"
    assert arrived == [b""]


def test_nobody_at_the_address_is_said_as_such() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(NetworkError) as refused:
        introduced(invitation(new_authority(), address))
    assert refused.value.code == "E-NET-REFUSED"
