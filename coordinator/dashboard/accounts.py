"""Who may log in: passwords, logins, and what keeps a password from being guessed.

Guarantees: passwords are kept as argon2id; a name that nobody has takes as long as a wrong password and is locked out
alike; after :data:`FREE_FAILURES` wrong passwords a name waits, twice as long each time, and names that are tried all
over are bounded; one password is computed at a time, so that nobody fills the memory with them.
Leaves to others: cookies and forms (``login``), rows (``coordinator.database.user_rows``).
Source: OWASP Password Storage and Authentication; RFC 9106 (argon2id, second recommended parameters).
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from argon2 import PasswordHasher, profiles
from argon2.exceptions import Argon2Error, InvalidHashError
from pydantic import TypeAdapter, ValidationError

from coordinator.daemon.refusals import RefusalLog
from coordinator.database import user_rows
from coordinator.database.store import Store
from coordinator.database.user_rows import UserRecord, UserRole
from privacy.errors import LocalError, RefusedError
from privacy.interfaces import Clock, RandomSource
from privacy.plan_parts import Name

LEAST_PASSWORD: Final = 12  # characters
MOST_PASSWORD: Final = 256
TURN_SECONDS: Final = 1.0  # that a login waits for others: its thread is one of those that make all pages
FREE_FAILURES: Final = 5
FIRST_LOCK_SECONDS: Final = 30.0
LONGEST_LOCK_SECONDS: Final = 900.0
FORGOTTEN_SECONDS: Final = 86_400.0  # after the last failure
MOST_NAMES: Final = 1000  # that failures are remembered of
LOGIN_SECONDS: Final = 12 * 3600
TOKEN_BYTES: Final = 32
LABEL_FORM: Final = b"onlysum/1/dashboard-form:"

_HASHER: Final = PasswordHasher.from_parameters(profiles.RFC_9106_LOW_MEMORY)


@dataclass(slots=True)
class _Failures:
    count: int
    last: float
    locked_until: float


@dataclass(frozen=True, slots=True)
class Login:
    """A user's login as its browser holds it."""

    user: UserRecord
    token: str = field(repr=False)

    @property
    def form_token(self) -> str:
        """What a form of this login carries, and no other site can know."""
        return form_token(self.token)


def form_token(token: str) -> str:
    """Return the token of a login's forms: it follows from the cookie, which no other site can read."""
    return hashlib.sha256(LABEL_FORM + token.encode()).hexdigest()


def new_user(name: str, role: UserRole, password: str, now: int) -> UserRecord:
    """Return a user to add.

    Raises:
        LocalError: ``E-USAGE``: the name is none, or the password too short or too long.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise LocalError("E-USAGE", f"{name!r}: a name is lower-case letters, digits, dots and dashes") from None
    if not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD:
        raise LocalError("E-USAGE", f"a password has {LEAST_PASSWORD} to {MOST_PASSWORD} characters")
    return UserRecord(name, role, _HASHER.hash(password), now)


class Accounts:
    """Logs users in and out."""

    def __init__(self, store: Store, clock: Clock, random: RandomSource, refusals: RefusalLog) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._refusals = refusals
        self._one_at_a_time = threading.Lock()
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        self._nobody = _HASHER.hash(random.token_bytes(TOKEN_BYTES).hex())

    def log_in(self, name: str, password: str) -> Login:
        """Begin a login.

        Raises:
            RefusedError: ``E-LOGIN`` or ``E-LOGIN-LOCKED``.
        """
        if len(name) > 63 or len(password) > MOST_PASSWORD:
            raise RefusedError("E-LOGIN", "")
        if not self._one_at_a_time.acquire(timeout=TURN_SECONDS):
            raise RefusedError("E-LOGIN-LOCKED", "others are trying; try again in a moment")
        try:
            user = self._verified(name, password)
        finally:
            self._one_at_a_time.release()
        token, now = self._random.token_bytes(TOKEN_BYTES).hex(), int(self._clock.now())
        with self._store.begin() as connection:
            user_rows.add_login(connection, _hash(token), user.name, now=now, until=now + LOGIN_SECONDS)
        return Login(user, token)

    def _verified(self, name: str, password: str) -> UserRecord:
        self._check_lock(name)
        with self._store.read() as connection:
            user = user_rows.find_user(connection, name)
        if not _verifies(user.password if user else self._nobody, password) or user is None:
            self._failed(name)
            self._refusals.note("login-refused", name if user else "unknown user", "E-LOGIN")
            raise RefusedError("E-LOGIN", "")
        self._failures.pop(name, None)
        return user

    def find(self, token: str) -> Login | None:
        """Return the login that a browser's cookie names, if it goes on."""
        if len(token) != 2 * TOKEN_BYTES:
            return None
        with self._store.read() as connection:
            user = user_rows.find_login(connection, _hash(token), int(self._clock.now()))
        return None if user is None else Login(user, token)

    def log_out(self, login: Login) -> None:
        """End a login."""
        with self._store.begin() as connection:
            user_rows.end_login(connection, _hash(login.token))

    def _check_lock(self, name: str) -> None:
        known, now = self._failures.get(name), self._clock.monotonic()
        if known is not None and now - known.last > FORGOTTEN_SECONDS:
            del self._failures[name]
        elif known is not None and now < known.locked_until:
            self._refusals.note("login-refused", "a locked name", "E-LOGIN-LOCKED")
            raise RefusedError("E-LOGIN-LOCKED", f"{int(known.locked_until - now) + 1} seconds are left")

    def _failed(self, name: str) -> None:
        now, known = self._clock.monotonic(), self._failures.pop(name, _Failures(0, 0.0, 0.0))
        known.count, known.last = known.count + 1, now
        beyond = known.count - FREE_FAILURES
        if beyond >= 0:
            known.locked_until = now + min(LONGEST_LOCK_SECONDS, FIRST_LOCK_SECONDS * 2.0 ** min(beyond, 20))
        self._failures[name] = known
        while len(self._failures) > MOST_NAMES:
            self._failures.popitem(last=False)


def _verifies(password_hash: str, password: str) -> bool:
    try:
        return _HASHER.verify(password_hash, password)
    except (Argon2Error, InvalidHashError):
        return False


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
