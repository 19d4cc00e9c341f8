"""coordinator.toml: what an operator sets for the daemon.

Guarantees: an unknown key is an error that names its line and the key that was probably meant; every duration that a
user can set is in :class:`Durations`; no secret has to be in this file (a database's password has other places).
Leaves to others: paths inside the directory (``home``); the rules of a run, which are in its plan alone.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final, Self

import sqlalchemy as sa
from pydantic import AfterValidator, Field, model_validator

from coordinator.home import CONFIG_NAME, Home
from coordinator.storage.configured import Storage
from host import configuration, settings
from host.events.event import EVENTS_TEMPLATE, Events, is_loopback
from host.logs import Log, log_template
from host.settings import Section
from host.state_format import require_format
from privacy.plan_parts import Name, Text
from protos.invitation import is_address
from protos.renewal import MAX_ADDRESSES

_NUMBERS = re.compile(r"(?:0[xX][0-9a-fA-F]*|[0-9]+)(?:\.(?:0[xX][0-9a-fA-F]*|[0-9]+))*\.?")  # what inet_aton reads
_ORIGIN = re.compile(r"https://[a-z0-9.-]{1,253}(:[1-9][0-9]{0,4})?")
_EVERYBODY = ipaddress.IPv4Address("255.255.255.255")
_ADMIN: Final = "dashboard, metrics and health over HTTP (pip install 'onlysum[dashboard]')"
_LISTEN: Final = "127.0.0.1:8445"
MAX_OTHERS: Final = MAX_ADDRESSES - 1  # addresses of other coordinators
MEMBER_DAYS: Final = 90  # a stolen certificate without the identity key is of no use after that
MIN_MEMBER_DAYS: Final = 7  # a daemon that is down over a long weekend must be able to renew
MAX_MEMBER_DAYS: Final = 366
DRIVERS: Final = ("sqlite", "postgresql", "postgresql+psycopg")


def _address(value: str) -> str:
    if not is_address(value):
        raise ValueError("an address is host:port, with an IPv6 host in brackets")
    return value


def _dialled(value: str) -> str:
    host = _address(value).rpartition(":")[0].strip("[]")
    if not _can_be_dialled(host):
        raise ValueError(f"members cannot dial {host}; address is the name that they dial, listen may be 0.0.0.0")
    return value


def _can_be_dialled(host: str) -> bool:
    """Return whether a host is somebody: 0.0.0.0 in any of its forms is not, and no name is all numbers."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _NUMBERS.fullmatch(host) is None
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return not (address.is_unspecified or address.is_multicast or address == _EVERYBODY)


def _database(value: str) -> str:
    form = "a database is sqlite:///FILE or postgresql://USER@HOST/NAME"
    try:
        url = sa.make_url(value)
    except sa.exc.ArgumentError:
        raise ValueError(form) from None
    if url.drivername not in DRIVERS or (url.drivername == "sqlite" and not url.database):
        raise ValueError(form)
    return value


def _origin(value: str) -> str:
    if value and not _ORIGIN.fullmatch(value):
        raise ValueError("an origin is https:// and a host, with a port if it is not 443, and nothing after it")
    return value


Address = Annotated[str, AfterValidator(_address)]
Dialled = Annotated[str, AfterValidator(_dialled)]
Seconds = Annotated[float, Field(gt=0, le=30 * 86400, allow_inf_nan=False)]


def _bound(address: str) -> str:
    host, _, port = address.rpartition(":")
    return address if _is_local(host) else f"0.0.0.0:{port}"


class Listener(Section):
    """Where members dial (``address``) and where this machine listens (``listen``, the address unless it differs)."""

    address: Dialled
    listen: Address | None = None
    # Under which members may still dial (of participants alone): they are told of the address over these.
    former: Annotated[tuple[Dialled, ...], Field(max_length=MAX_ADDRESSES - 1)] = ()

    @property
    def bind(self) -> str:
        """The address to bind: all interfaces for a DNS name, which may be a router's."""
        return self.listen if self.listen is not None else _bound(self.address)

    @property
    def binds(self) -> tuple[str, ...]:
        """All addresses to bind: former ones answer too, unless ``listen`` says where this machine listens."""
        if self.listen is not None:
            return (self.listen,)
        return tuple(dict.fromkeys(map(_bound, self.addresses)))

    @property
    def addresses(self) -> tuple[str, ...]:
        """Under which members may dial, the present one first."""
        return tuple(dict.fromkeys((self.address, *self.former)))


class Admin(Section):
    """Where the dashboard, metrics and health are served, over HTTP: on this machine, unless a proxy adds TLS."""

    listen: Address
    origin: Annotated[str, AfterValidator(_origin)] = ""  # https://..., under which a proxy offers it

    @model_validator(mode="after")
    def _encrypted_beyond_this_machine(self) -> Self:
        if not self.origin and not is_loopback(self.listen.rpartition(":")[0]):
            raise ValueError('beyond this machine a proxy must add TLS: set origin = "https://...", which it serves')
        return self


class Replicas(Section):
    """The other coordinators of the federation, on the same database and with the same keys."""

    directory: str = ""  # that all of them see, under any name: runs and uploads lie there, without a storage
    addresses: Annotated[tuple[Dialled, ...], Field(min_length=1, max_length=MAX_OTHERS)]  # of the others
    enrolment_addresses: Annotated[tuple[Dialled, ...], Field(min_length=1, max_length=MAX_OTHERS)]

    @model_validator(mode="after")
    def _absolute(self) -> Self:
        if self.directory and not Path(self.directory).is_absolute():
            raise ValueError("directory is shared with other machines: give its whole path")
        return self


class Durations(Section):
    """All durations that an operator can set, in seconds."""

    phase_seconds: Seconds = 60  # ADVERTISE_KEYS and SHARE_KEYS, when somebody who should answer does not
    update_seconds: Seconds = 1800  # COLLECT_MASKED with its training, and what follows the commit point
    stall_seconds: Seconds = 30  # an upload that moved within this time extends the deadline
    liveness_seconds: Seconds = 2  # a participant whose poll broke off is counted as lost after this time
    gather_seconds: Seconds = 5  # after a start, how long a first attempt waits for the whole roster
    evaluation_seconds: Seconds = 300  # how long the end of a run waits for its evaluators


class Certificates(Section):
    """How long members' certificates hold; their daemons renew them after two thirds of that."""

    member_days: Annotated[int, Field(ge=MIN_MEMBER_DAYS, le=MAX_MEMBER_DAYS)] = MEMBER_DAYS


class Settings(Section):
    """The whole of coordinator.toml."""

    federation: Name
    operator: Annotated[Text, Field(min_length=1)]
    contact: Text = ""
    also_a_participant: tuple[Name, ...] = ()
    participants: Listener
    enrolment: Listener
    admin: Admin | None = None
    replicas: Replicas | None = None
    storage: Storage | None = None  # where runs and uploads are kept, if not in a directory
    database: Annotated[str, AfterValidator(_database)] = "sqlite:///coordinator.db"
    spool: str = "spool"
    durations: Durations = Durations()
    certificates: Certificates = Certificates()
    events: Events = Events()
    log: Log = Log()

    @model_validator(mode="after")
    def _two_listeners(self) -> Self:
        if self.enrolment.former:
            raise ValueError("newcomers dial what their invitation says: only participants have former addresses")
        if self.enrolment.bind in self.participants.binds:
            raise ValueError("participants and enrolment need listeners of their own")
        return self

    @model_validator(mode="after")
    def _replicas_share_a_server(self) -> Self:
        if self.replicas is not None and sa.make_url(self.database).get_backend_name() == "sqlite":
            raise ValueError("several coordinators need a database on a server: a file belongs to one of them")
        if self.replicas is not None and bool(self.replicas.directory) == (self.storage is not None):
            raise ValueError(
                "several coordinators share a directory or a storage: set one of [replicas] directory and [storage]"
            )
        if max(len(self.addresses), len(self.enrolment_addresses)) > MAX_ADDRESSES:
            raise ValueError(
                f"members know {MAX_ADDRESSES} addresses: of this coordinator, former ones, and of the others"
            )
        return self

    def placed(self, home: Home) -> Home:
        """Return a coordinator's directory with the place of what it shares with others, if there are others."""
        shared = self.replicas.directory if self.replicas else ""
        return replace(home, shared=Path(shared) if shared else None)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where members dial this coordinator, under its former addresses too, and the others."""
        others = self.replicas.addresses if self.replicas else ()
        return tuple(dict.fromkeys((*self.participants.addresses, *others)))

    @property
    def enrolment_addresses(self) -> tuple[str, ...]:
        """Where newcomers dial this coordinator, and the others."""
        others = self.replicas.enrolment_addresses if self.replicas else ()
        return tuple(dict.fromkeys((self.enrolment.address, *others)))

    @property
    def hosts(self) -> tuple[str, ...]:
        """Whom the server's certificate names: the hosts under which any of the coordinators is dialled, sorted."""
        dialled = (*self.addresses, *self.enrolment_addresses)
        return tuple(sorted({address.rpartition(":")[0].strip("[]") for address in dialled}))

    def spool_path(self, home: Home) -> Path:
        """Return where uploads wait until their round ends."""
        return (self.placed(home).shared or home.directory) / self.spool

    def database_url(self, home: Home) -> str:
        """Return the database's URL, with a relative SQLite path taken from the coordinator's directory."""
        scheme, separator, path = self.database.partition(":///")
        if scheme != "sqlite" or not separator or path.startswith("/"):
            return self.database
        return f"sqlite:///{(home.directory / path).resolve()}"


def load_settings(home: Home) -> Settings:
    """Read and check coordinator.toml.

    Raises:
        LocalError: ``E-STATE-VERSION``; ``E-CONFIG-MISSING``, ``E-CONFIG-INVALID`` or ``E-CONFIG-UNKNOWN-KEY``, naming
            line and key.
    """
    require_format(home.directory, home.config)
    return configuration.load(home.config, Settings)


def parse_settings(text: str) -> Settings:
    """Parse the text of a coordinator.toml; errors as in :func:`load_settings`."""
    return settings.parse(text, Settings, file=CONFIG_NAME)


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def settings_template(
    *,
    federation: str,
    operator: str,
    also: Sequence[str],
    participants: str,
    enrolment: str,
    listen: str | None = None,
    database: str | None = None,
    admin: str | None = None,
) -> str:
    """Return a commented coordinator.toml for ``init``."""
    names = ", ".join(f'"{name}"' for name in also)
    durations = "\n".join(f"# {name} = {field.default:g}" for name, field in Durations.model_fields.items())
    stored = f"database = {_quoted(database)}" if database else '# database = "sqlite:///coordinator.db"'
    served = f'[admin]  # {_ADMIN}\nlisten = "{admin}"' if admin else f'# [admin]  # {_ADMIN}\n# listen = "{_LISTEN}"'
    listening = (
        f'listen = "{listen}"' if listen else '# listen = "0.0.0.0:8443"  # where this machine listens, if other'
    )
    return f"""\
# onlysum coordinator. Unknown keys are errors. The rules of a run are in its signed plan, never here.

federation = "{federation}"
operator = {_quoted(operator)}
# contact = ""  # whom owners call about this coordinator: every plan names it

# Participants whose organisation also runs this coordinator: every plan counts them in f.
also_a_participant = [{names}]

{stored}  # or postgresql://user@host/name
# spool = "spool"  # uploads wait here until their round ends

[participants]  # gRPC with mutual TLS
address = "{participants}"  # what members dial; changed by `onlysum coordinator renew --address`
{listening}

[enrolment]  # TLS; newcomers with an invitation and nobody else
address = "{enrolment}"

{served}
# origin = "https://sum.example.org"  # under which a proxy with TLS offers it

# [replicas]  # further coordinators on the same PostgreSQL database, with the same keys; docs/operator.md
# directory = "/srv/onlysum"  # that all of them see: runs and uploads; not with [storage]
# addresses = ["sum-b.example.org:8443"]  # of the others
# enrolment_addresses = ["sum-b.example.org:8444"]

# [storage]  # keeps runs and uploads elsewhere than in this directory: pip install 'onlysum[s3]'
# url = "s3://bucket/prefix"  # or file:///DIRECTORY
# endpoint = "https://s3.example.org"  # of a server that is not Amazon's
# region = "us-east-1"
# credentials = "s3.toml"  # 0600: access_key_id, secret_access_key; without it AWS_ACCESS_KEY_ID and so on

[durations]  # seconds; a phase ends earlier when everybody who is live has answered
{durations}

[certificates]
# member_days = {MEMBER_DAYS}  # {MIN_MEMBER_DAYS} to {MAX_MEMBER_DAYS}; members' daemons renew after two thirds

{EVENTS_TEMPLATE}
{log_template("coordinator")}"""


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
