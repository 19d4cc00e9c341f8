"""A federation whose clock is moved by days and years: real coordinator, real directories, TLS without a network.

Guarantees: before each call both sides' certificates are verified as TLS does it, at the virtual time, with what each
side trusts then; after that the coordinator's own admission decides. Nothing else of a connection is imitated.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
import threading
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from coordinator.database import member_rows
from coordinator.database.member_rows import MemberRecord
from coordinator.enrolment.authority import introduction_of, issuer_of, load_authority, save_authority
from coordinator.enrolment.invitations import make_invitation
from coordinator.home import Home as CoordinatorHome
from coordinator.opened import OpenHome
from host import credentials
from participant.daemon.poller import Poller
from participant.daemon.status import StatusFile
from participant.home import Home
from participant.link import renewal
from participant.link.delivery import Sender, TaskQueue
from participant.link.identity import Identity, OwnKeys, enrolment_request, load_identity
from participant.link.upkeep import Upkeep
from participant.opened import open_home
from participant.runs.context import DaemonContext
from participant.training.progress import silent
from participant.training.trainer import Trainer
from privacy.errors import NetworkError
from privacy.secagg.fixed_point import Buffer
from privacy.secret import SecretBytes
from protos.envelope import ContentRef, Hello, NumberedTask, Role, Submission, UploadAnnounced, Welcome
from protos.invitation import decode_invitation, introduction
from protos.renewal import Renewal, RenewalRequest
from tests.worlds.coordinator import World
from tests.worlds.enrolled import enrol
from tests.worlds.federation import SeededSource

HOST: Final = "127.0.0.1"
DAY: Final = 86_400
T = TypeVar("T")


@dataclass
class CheckedLink:
    """A member's connection: made with an identity, verified at each call by the clock of the world."""

    years: Years
    identity: Identity

    def verified(self) -> bytes:
        """Verify both sides; return the certificate (DER) that the coordinator has seen."""
        world, now = self.years.world, self.years.now()
        authority, at = world.runner.authority.current, dt.datetime.fromtimestamp(now, dt.UTC)
        shown = x509.load_pem_x509_certificates(authority.chain(now))
        own = x509.load_pem_x509_certificate(self.identity.certificate)
        try:
            host = x509.IPAddress(self.years.ip)
            _policy(self.identity.roots(now), at).build_server_verifier(host).verify(shown[0], shown[1:])
            _policy(authority.trusted(now), at).build_client_verifier().verify(own, [])
        except VerificationError as error:
            raise NetworkError("E-NET-TLS", str(error)) from None
        return ssl.PEM_cert_to_DER_cert(self.identity.certificate.decode())

    def admitted(self) -> bytes:
        """Verify both sides and let the coordinator admit the certificate; return it."""
        presented = self.verified()
        self.years.run(self.years.world.runner.admit(self.identity.name, presented, b""))
        return presented

    def use(self, identity: Identity) -> None:
        """Make further calls with another identity."""
        self.identity = identity

    def renew(self, request: RenewalRequest) -> Renewal:
        """Ask for a certificate."""
        return self.years.run(self.years.world.runner.renew(self.identity.name, self.admitted(), request))

    def handshake(self, hello: Hello) -> Welcome:
        """Shake hands; the ledger that counts is the scripted member's, which shows it in its rounds."""
        self.admitted()
        shown = replace(hello, ledger_head=member_rows.NO_HEAD)
        return self.years.run(self.years.world.runner.handshake(self.identity.name, shown))

    def poll(
        self, seen: frozenset[bytes], wait_seconds: float, most: Callable[[], int] = lambda: 0
    ) -> Generator[NumberedTask, None, None]:
        """Yield nothing: rounds are the scripted members'."""
        yield from ()

    def submit(self, submission: Submission) -> None:
        """Send a message."""
        self.admitted()
        self.years.run(self.years.world.runner.submit(self.identity.name, submission))

    def upload(self, upload: UploadAnnounced, masked: Buffer) -> None:
        """Nothing is uploaded here."""
        raise NotImplementedError

    def download_bytes(self, ref: ContentRef) -> bytes:
        """Nothing is downloaded here."""
        raise NotImplementedError

    def download(self, ref: ContentRef, destination: Path) -> None:
        """Nothing is downloaded here."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class DaemonOverYears:
    """The part of a participant's daemon that keeps it connected, on its directory."""

    years: Years
    home: Home
    link: CheckedLink = field(init=False)
    upkeep: Upkeep = field(init=False)
    poller: Poller = field(init=False)
    errors: list[str] = field(default_factory=list)

    def start(self) -> None:
        """Start, or start again after the machine was off."""
        opened, stop, queue = open_home(self.home.directory), threading.Event(), TaskQueue()
        clock, random = self.years.world.clock, SeededSource(f"{self.home.directory.name} {self.years.now()}")
        self.link = CheckedLink(self.years, opened.identity)
        work = DaemonContext(
            home=opened.home,
            settings=opened.settings,
            owner=opened.owner,
            review=opened.review,
            ledger=opened.ledger,
            sender=Sender(self.link, stop, queue),
            clock=clock,
            random=random,
            make_trainer=_no_trainer,
            show_progress=silent,
        )
        self.upkeep = Upkeep(
            opened.home.identity,
            opened.identity,
            self.link,
            greet=lambda identity, hello: CheckedLink(self.years, identity).handshake(hello),
            clock=clock,
            random=random,
            changed=lambda identity: opened.review.has_authority(identity.authority_sha256, identity.followed),
        )
        self.poller = Poller(
            work,
            opened.identity.role,
            link=self.link,
            queue=queue,
            status=StatusFile(opened.home, clock),
            is_idle=lambda: False,
            stop=stop,
            upkeep=self.upkeep,
        )

    @property
    def identity(self) -> Identity:
        """What its directory holds."""
        return load_identity(self.home.identity)


def _policy(roots: bytes, at: dt.datetime) -> PolicyBuilder:
    """Return the rules of the verifier; certificates here say critically what they are for, as RFC 5280 allows."""
    leaf = ExtensionPolicy.webpki_defaults_ee()
    leaf = leaf.require_present(x509.ExtendedKeyUsage, Criticality.CRITICAL, None)
    store = Store(x509.load_pem_x509_certificates(roots))
    authority = ExtensionPolicy.webpki_defaults_ca()
    return PolicyBuilder().store(store).time(at).extension_policies(ca_policy=authority, ee_policy=leaf)


def _no_trainer(job: object) -> Trainer:
    raise NotImplementedError


class Years:
    """The world: three members, each with a directory, and one that evaluates."""

    def __init__(self, directory: Path, *, evaluated: bool = True) -> None:
        self.ip = ipaddress.ip_address(HOST)
        self._loop = asyncio.new_event_loop()
        (directory / "coordinator").mkdir()
        self.world = World(directory / "coordinator", evaluated=evaluated)
        self._show_the_operator()
        self.daemons = {name: self._daemon(directory / name, name) for name in (*sorted(self.world.keys), "referee")}
        self.connect_members()

    @property
    def home(self) -> CoordinatorHome:
        """The coordinator's directory."""
        return self.world.home

    def now(self) -> float:
        """Return the virtual time."""
        return self.world.clock.now()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something of the coordinator."""
        return self._loop.run_until_complete(work)

    def _show_the_operator(self) -> None:
        """Let the server's certificate show the key that signs the plans of these tests, and write all keys down."""
        made, now = self.world.authority, self.now()
        shown = introduction(
            federation=self.world.settings.federation, authority=made.ca_der, operator_key=made.operator.public
        )
        key = credentials.load_tls_key(made.server_key).public_key()
        certificate = issuer_of(made, SeededSource("server"), now).server(key, [HOST], shown)
        self.world.authority = self.world.runner.authority.current = replace(made, server_certificate=certificate)
        save_authority(self.home.authority, self.world.authority)

    def restart(self) -> None:
        """Start the coordinator's daemon again."""
        self.world.authority = load_authority(self.home.authority)
        self.world.runner = self.world.daemon()
        self.world.runner.discover()

    def _daemon(self, directory: Path, name: str) -> DaemonOverYears:
        role = Role.EVALUATOR if name == "referee" else Role.PARTICIPANT
        home = enrol(directory, self.world.authority, name=name, role=role, now=self.now())
        certificate = load_identity(home.identity).certificate
        with self.world.store.begin() as connection:
            member_rows.keep_renewed(connection, name, certificate, int(self.now()), "at the beginning")
            assert member_rows.use_renewed(connection, name, certificate, int(self.now()))
        daemon = DaemonOverYears(self, home)
        daemon.start()
        return daemon

    def connect_members(self) -> None:
        """Let all that the members of the run say pass their certificates' checks."""
        for name, member in self.world.members.items():
            member.send = self._through_tls(name)

    def _through_tls(self, name: str) -> Any:
        async def send(message: Any) -> None:
            presented = self.daemons[name].link.verified()
            await self.world.runner.admit(name, presented, b"")
            await self.world.members[name].deliver(message)

        return send

    def pass_days(self, count: int, *names: str) -> None:
        """Let days pass, and then let the daemons that run shake hands: all of them, unless some are named."""
        self.world.clock.seconds += count * DAY
        self.world.runner.authority.look()
        self.world.runner.discover()
        for name in names or self.daemons:
            self.daemons[name].poller.greet()

    def enrolled(self, name: str) -> MemberRecord:
        """Return a member's row."""
        with self.world.store.read() as connection:
            return member_rows.active_member(connection, name)

    def invite_again(self, name: str, *, identity: SecretBytes | None = None, anew: bool = False) -> None:
        """Let the operator invite a member once more, and the member, or who has another identity key, use the line.

        Args:
            name: the member's.
            identity: another key than the member's.
            anew: the member was revoked: whoever comes is a newcomer.
        """
        world, opened = self.world, OpenHome(self.home, self.world.settings, self.world.store)
        now = int(self.now())
        line = make_invitation(
            opened, name=name, role=Role.PARTICIPANT, labels=[], now=now, until=now + DAY, again=not anew
        )
        shown = x509.load_pem_x509_certificate(world.runner.authority.current.server_certificate)
        invitation = decode_invitation(line).completed(introduction_of(shown))
        directory = self.daemons[name].home.identity
        known = load_identity(directory)
        keys = OwnKeys(identity or known.keys.identity, renewal.next_key(directory, SeededSource(f"{line} of {name}")))
        if identity is None:
            renewal.check_invitation(known, invitation)
        membership = self.run(world.runner.enrol(enrolment_request(invitation, keys)))
        if identity is None:
            renewal.take_membership(directory, known, invitation, keys.tls, membership)

    def settle(self) -> None:
        """Let the run come to its end."""
        self.run(self.world.settle())
