"""Who this participant is: its keys, made here and never sent, and its membership of one federation.

Guarantees: private keys stay in ``identity/`` (0700, files 0600) and out of every log and repr; keys are on disk before
a token is spent on them, so that a crash between the two loses neither; a certificate is accepted only for the own TLS
key and name, under the authority that the invitation carried.
Leaves to others: the network (``channel``), and whether the peers' fingerprints were compared (``policy``).
Source: docs/protocol.md section 2; docs/wire.md.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from host import credentials
from host.fingerprints import fingerprint
from privacy import canonical
from privacy.errors import LocalError, PeerError, Phase, VerificationError
from privacy.interfaces import RandomSource
from privacy.plan import PROTOCOL_VERSION
from privacy.plan_parts import Hex256, Name, PlanModel, Text
from privacy.secagg.keys import KEY_BYTES, SigningKey
from privacy.secret import SecretBytes
from protos.envelope import Enrolment, Membership, Role
from protos.invitation import Invitation, enrolment_bytes

IDENTITY_KEY: Final = "identity.key"
TLS_KEY: Final = "tls.key"
TLS_CERTIFICATE: Final = "tls.crt"
AUTHORITY: Final = "ca.crt"
MEMBERSHIP: Final = "membership.json"


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The two private keys of a member."""

    identity: SecretBytes  # 32 bytes, Ed25519: signs what the member says in rounds and approvals
    tls: SecretBytes  # PEM, P-256: what connections are made with

    @property
    def signing(self) -> SigningKey:
        """The identity key."""
        return SigningKey(self.identity)


@dataclass(frozen=True, slots=True)
class Identity:
    """What ``identity/`` holds once a member has enrolled."""

    keys: OwnKeys
    federation: str
    name: str
    role: Role
    addresses: tuple[str, ...]  # host:port of the coordinator, tried in order
    operator_key: bytes  # Ed25519, signs plans; pinned at joining
    certificate: bytes  # PEM
    authority: bytes  # PEM; pinned at joining

    @property
    def signing(self) -> SigningKey:
        """The identity key."""
        return self.keys.signing

    @property
    def fingerprint(self) -> str:
        """The identity key's fingerprint, as peers compare it."""
        return fingerprint(self.signing.public)

    @property
    def authority_der(self) -> bytes:
        """The pinned authority's certificate, whose fingerprint a policy names."""
        return x509.load_pem_x509_certificate(self.authority).public_bytes(Encoding.DER)


class _Saved(PlanModel):
    """The form of ``membership.json``."""

    federation: Name
    name: Name
    role: Literal["participant", "evaluator"]
    addresses: tuple[Text, ...]
    operator_key: Hex256


def new_keys(random: RandomSource) -> OwnKeys:
    """Make a member's keys."""
    tls = credentials.tls_key_pem(credentials.new_tls_key(random))
    return OwnKeys(identity=SecretBytes(random.token_bytes(KEY_BYTES)), tls=tls)


def enrolment_request(invitation: Invitation, keys: OwnKeys) -> Enrolment:
    """Return the request by which an invited newcomer enrols with its keys."""
    tls = credentials.load_tls_key(keys.tls)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, invitation.name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(tls, SHA256())
    signed = enrolment_bytes(
        federation=invitation.federation,
        token_id=invitation.token_id,
        name=invitation.name,
        tls_key=credentials.spki(tls.public_key()),
    )
    return Enrolment(
        protocol_version=PROTOCOL_VERSION,
        token_id=invitation.token_id,
        token_secret=invitation.secret,
        name=invitation.name,
        certificate_request=request.public_bytes(Encoding.DER),
        identity_key=keys.signing.public,
        identity_signature=keys.signing.sign(signed),
    )


def accept_membership(invitation: Invitation, keys: OwnKeys, membership: Membership) -> Identity:
    """Compare the coordinator's answer with the invitation and the own keys.

    Raises:
        PeerError: ``E-IDENTITY-MISMATCH``, it is another's membership, or another authority's.
    """
    claimed = (membership.federation, membership.name, membership.role)
    if claimed != (invitation.federation, invitation.name, invitation.role):
        raise _mismatch("the membership is not the one that the invitation promised")
    try:
        authority = x509.load_pem_x509_certificate(membership.authority)
        certificate = x509.load_pem_x509_certificate(membership.certificate)
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        raise _mismatch("the certificate does not parse, or is not the authority's") from None
    if authority.public_bytes(Encoding.DER) != invitation.authority:
        raise _mismatch("the authority is not the one in the invitation")
    if list(names) != [x509.DNSName(invitation.name)]:
        raise _mismatch("the certificate bears another name")
    if certificate.public_key() != credentials.load_tls_key(keys.tls).public_key():
        raise _mismatch("the certificate is for another TLS key")
    return Identity(
        keys=keys,
        federation=invitation.federation,
        name=invitation.name,
        role=invitation.role,
        addresses=invitation.addresses,
        operator_key=invitation.operator_key,
        certificate=membership.certificate,
        authority=membership.authority,
    )


def _mismatch(rule: str) -> PeerError:
    return PeerError.by_coordinator("E-IDENTITY-MISMATCH", Phase.ENROLMENT, rule)


def save_keys(directory: Path, keys: OwnKeys) -> None:
    """Write a newcomer's keys, before a token is spent on them.

    Raises:
        LocalError: ``E-EXISTS``, there are keys: they are never overwritten.
    """
    credentials.make_private_directory(directory)
    if (directory / IDENTITY_KEY).exists():
        raise LocalError("E-EXISTS", f"{directory} holds an identity already; keys are never overwritten")
    credentials.write_private(directory / TLS_KEY, keys.tls)
    credentials.write_private(directory / IDENTITY_KEY, credentials.signing_key_pem(keys.identity))


def load_keys(directory: Path) -> OwnKeys:
    """Read the keys.

    Raises:
        LocalError: ``E-CONFIG-MISSING`` or ``E-PERMISSIONS``.
        VerificationError: ``E-STATE-DAMAGED``.
    """
    tls = credentials.read_private(directory / TLS_KEY)
    credentials.load_tls_key(tls)
    return OwnKeys(identity=credentials.load_signing_key(credentials.read_private(directory / IDENTITY_KEY)), tls=tls)


def save_identity(directory: Path, identity: Identity) -> None:
    """Write the membership beside the keys, which :func:`save_keys` wrote; the file that completes it comes last."""
    document = canonical.encode(
        {
            "federation": identity.federation,
            "name": identity.name,
            "role": identity.role.value,
            "addresses": list(identity.addresses),
            "operator_key": identity.operator_key.hex(),
        }
    )
    credentials.write_private(directory / AUTHORITY, identity.authority)
    credentials.write_private(directory / TLS_CERTIFICATE, identity.certificate)
    credentials.write_private(directory / MEMBERSHIP, document)


def load_identity(directory: Path) -> Identity:
    """Read everything.

    Raises:
        LocalError: ``E-CONFIG-MISSING`` or ``E-PERMISSIONS``.
        VerificationError: ``E-STATE-DAMAGED``.
    """
    document = credentials.read_public(directory / MEMBERSHIP)
    try:
        saved = _Saved.model_validate_json(document)
    except ValidationError:
        raise VerificationError("E-STATE-DAMAGED", f"{directory / MEMBERSHIP} does not parse") from None
    return Identity(
        keys=load_keys(directory),
        federation=saved.federation,
        name=saved.name,
        role=Role(saved.role),
        addresses=saved.addresses,
        operator_key=bytes.fromhex(saved.operator_key),
        certificate=credentials.read_public(directory / TLS_CERTIFICATE),
        authority=credentials.read_public(directory / AUTHORITY),
    )


def authority_pem(invitation: Invitation) -> bytes:
    """Return the authority's certificate of an invitation as TLS wants it."""
    body = base64.encodebytes(invitation.authority).decode()
    return f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n".encode()
