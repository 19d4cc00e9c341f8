"""Keeps this member's certificate, its authorities and its coordinator's addresses up to date while the daemon runs.

Guarantees: a certificate is renewed when two thirds of its time have passed, or when another authority issues them; the
new one is tried on a connection of its own, and the daemon goes over to it only when that was answered; what fails is
logged once, tried again later, and never ends the daemon's connection.
Leaves to others: what is believed (``renewal``), the connection (``channel``, ``participant.daemon.poller``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from host.certificates import expires_at, renewal_due
from host.logs import get_logger
from host.rendering import moment
from participant.link import renewal
from participant.link.identity import Identity, save_authorities, save_membership
from privacy.errors import NetworkError, OnlysumError, PeerError
from privacy.interfaces import Clock, RandomSource
from protos.envelope import Hello, Welcome
from protos.renewal import Renewal, RenewalRequest

RETRY_SECONDS: Final = 3600.0  # before something that was refused is tried again: the coordinator counts requests
NOT_TAKEN: Final = frozenset({"E-NET-TLS", "E-MEMBER-REVOKED", "E-MEMBER-UNKNOWN"})  # a certificate was refused

_log = get_logger("onlysum.participant")


class RenewingLink(Protocol):
    """What upkeep needs of a connection; ``participant.link.channel`` is the one over gRPC."""

    def use(self, identity: Identity) -> None:
        """Make further calls with another certificate, other authorities or addresses."""
        ...

    def renew(self, request: RenewalRequest) -> Renewal:
        """Ask for a certificate of a new TLS key."""
        ...


class Upkeep:
    """The identity as the running daemon has it; used by the polling thread alone.

    Args:
        directory: ``identity/``.
        identity: as it was read.
        link: the daemon's connection, which was made with it.
        greet: shakes hands once over a connection of its own, made with another identity.
        clock: by which certificates end.
        random: source of keys.
        changed: told of the identity, whenever it is another.
    """

    def __init__(
        self,
        directory: Path,
        identity: Identity,
        link: RenewingLink,
        *,
        greet: Callable[[Identity, Hello], Welcome],
        clock: Clock,
        random: RandomSource,
        changed: Callable[[Identity], None] = lambda _: None,
    ) -> None:
        self._changed = changed
        self.identity = identity
        self._directory = directory
        self._link = link
        self._greet = greet
        self._clock = clock
        self._random = random
        self._roots = identity.roots(clock.now())
        self._not_before = float("-inf")  # monotonic seconds
        self._said = ""
        if renewal.half_in_place(directory):
            renewal.put_in_place(directory)

    def before_handshake(self, hello: Hello) -> None:
        """Go over to a new certificate that was not tried yet, if there is one.

        Raises:
            NetworkError: the coordinator cannot be reached: it is tried again.
        """
        if (new := renewal.load_next(self._directory, self.identity)) is not None:
            self._go_over(new, hello)

    def after_handshake(self, hello: Hello, welcome: Welcome) -> None:
        """Do what is due, after the coordinator has answered a handshake; what fails is logged."""
        if self._clock.monotonic() < self._not_before:
            return
        try:
            self._take_addresses(welcome)
            self._drop_ended()
            if self._due(welcome):
                self.renew(hello)
            self._said = ""
        except OnlysumError as error:
            self._not_before = self._clock.monotonic() + RETRY_SECONDS
            if error.detail != self._said:
                _log.warning("not renewed", code=error.code, detail=error.detail, next=error.explanation.next_step)
            self._said = error.detail

    def _take_addresses(self, welcome: Welcome) -> None:
        if welcome.addresses is None:
            return
        moved = renewal.accept_notice(self.identity, welcome.addresses)
        if moved is None:
            return
        save_membership(self._directory, moved)
        self._use(moved)
        _log.info("the coordinator has other addresses", addresses=moved.addresses)

    def _drop_ended(self) -> None:
        if self.identity.roots(self._clock.now()) != self._roots:
            self._use(self.identity)
            _log.info("an authority that another one followed has ended")

    def _due(self, welcome: Welcome) -> bool:
        another = bool(welcome.authority) and welcome.authority.hex() != self.identity.authority_sha256
        return another or self._clock.now() >= renewal_due(self.identity.certificate)

    def renew(self, hello: Hello) -> None:
        """Ask for a new certificate, whatever the age of the present one, and go over to it.

        Raises:
            OnlysumError: it was refused, or the coordinator cannot be reached.
        """
        tls = renewal.next_key(self._directory, self._random)
        answer = self._link.renew(renewal.renewal_request(self.identity, tls))
        new = renewal.accept_renewal(self.identity, tls, answer, now=self._clock.now())
        if new.before != self.identity.before:
            save_authorities(self._directory, new)
            _log.warning("the federation has a new authority: see `status`", ca_fingerprint=new.authority_sha256)
        renewal.save_next_certificate(self._directory, new.certificate)
        self._go_over(new, hello)

    def _go_over(self, new: Identity, hello: Hello) -> None:
        """Try a new certificate, and put it in place if the coordinator takes it."""
        try:
            self._greet(new, hello)
        except (NetworkError, PeerError) as error:
            if error.code in NOT_TAKEN:
                self._put_off(error)
                return
            if isinstance(error, NetworkError):
                raise
            # It was admitted, and from then on the present one counts no longer; what else is wrong shows again.
        renewal.put_in_place(self._directory)
        self._use(new)
        _log.info("certificate renewed", until=moment(expires_at(new.certificate)))

    def _put_off(self, error: OnlysumError) -> None:
        """Stay with the present certificate; the new one is asked for anew."""
        _log.warning("the renewed certificate was refused", code=error.code, detail=error.detail)
        if not isinstance(error, NetworkError):  # TLS fails on the way too, after the coordinator has taken it perhaps
            renewal.discard_next(self._directory)
        self._not_before = self._clock.monotonic() + RETRY_SECONDS

    def _use(self, identity: Identity) -> None:
        self.identity = identity
        self._roots = identity.roots(self._clock.now())
        self._link.use(identity)
        self._changed(identity)
