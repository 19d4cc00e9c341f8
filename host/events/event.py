"""What happened, in a few words, and where a configuration file sends it.

Guarantees: an event has only these fields, all printable and bounded, in words of our own; no key, token, row or loss
is among them, and no free text of somebody else. A webhook is HTTPS, or stays on this machine.
Leaves to others: noticing what happens (``coordinator.events``, ``participant.daemon.events``), sending
(``host.events.announcer``).
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from host.rendering import timestamp
from host.settings import Section
from privacy.printable import printable

Kind = Literal["run-ended", "run-held", "member-lost", "certificate-ends", "budget-low"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
FORMAT: Final = 1
MOST_TEXT: Final = 400  # characters
MOST_SUBJECT: Final = 128
MOST_URL: Final = 2000
CERTIFICATE_SECONDS: Final = 14 * 86_400  # a certificate that ends within this time is told


def is_loopback(host: str) -> bool:
    """Return whether a host, as it stands in an address, is this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _webhook(value: str) -> str:
    if not value:
        return value
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("a webhook is an address such as https://example.org/hook") from None
    if len(value) > MOST_URL or not host or parts.fragment or not value.isascii() or " " in value or port == 0:
        raise ValueError("a webhook is an address such as https://example.org/hook")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a webhook's address has no user and no password in it")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ValueError("a webhook is https://; http:// is for this machine alone")
    return value


class Events(Section):
    """The section [events] of either daemon's configuration."""

    webhook: Annotated[str, AfterValidator(_webhook)] = ""  # gets each event as JSON, by POST
    secret_file: str = ""  # signs what the webhook gets; from the daemon's directory, 0600
    command: tuple[Annotated[str, Field(min_length=1)], ...] = ()  # program and arguments; reads the JSON
    kinds: tuple[Kind, ...] = KINDS
    lost_seconds: Annotated[int, Field(ge=10, le=86_400)] = 120  # away for so long, a member of a run is lost

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if not self.webhook and not self.command and self.kinds != KINDS:
            raise ValueError("kinds are of events that nobody gets: set webhook or command")
        if self.secret_file and not self.webhook:
            raise ValueError("secret_file signs what a webhook gets: set webhook")
        return self

    @property
    def wanted(self) -> bool:
        """Whether anybody is told."""
        return bool(self.webhook or self.command)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""

    kind: Kind
    at: int  # seconds since the Unix epoch
    federation: str
    reporter: str  # "coordinator", or the participant's name
    subject: str  # a run's id, a member's or a population's name
    text: str  # one sentence, of our own words

    def to_bytes(self) -> bytes:
        """Return it as one line of JSON, which is what a webhook and a command get."""
        value = {
            "version": FORMAT,
            "kind": self.kind,
            "at": timestamp(self.at),
            "federation": printable(self.federation)[:MOST_SUBJECT],
            "reporter": printable(self.reporter)[:MOST_SUBJECT],
            "subject": printable(self.subject)[:MOST_SUBJECT],
            "text": printable(self.text)[:MOST_TEXT],
        }
        return f"{json.dumps(value)}\n".encode()


EVENTS_TEMPLATE: Final = f"""\
# [events]  # told as one line of JSON each, to a webhook by POST or to a command on its standard input, or to both
# webhook = "https://hooks.example.org/onlysum"  # http:// on this machine alone; three tries, and nothing waits for it
# secret_file = "webhook.secret"  # 0600: signs each event with HMAC-SHA256, in the header Onlysum-Signature
# command = ["/usr/local/bin/tell"]              # run without a shell
# kinds = {json.dumps(list(KINDS))}
# lost_seconds = {Events.model_fields["lost_seconds"].default}  # away for so long, a member of a run counts as lost
"""
