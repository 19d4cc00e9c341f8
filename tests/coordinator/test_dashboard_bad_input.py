"""The dashboard and bad input: forged orders, guessed passwords, garbage, idle connections, a broken inside."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.daemon.refusals import RefusalLog
from coordinator.dashboard import accounts
from coordinator.dashboard.accounts import new_user
from coordinator.database import user_rows
from coordinator.database.tables import logins
from coordinator.database.user_rows import UserRole
from host.web import serving
from privacy.errors import LocalError, RefusedError
from tests.worlds.coordinator import RUN_ID
from tests.worlds.dashboard import AUDITOR, OPERATOR, Dashboard, Seeded, seed, served


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Seeded:
    return seed(tmp_path_factory.mktemp("dashboard"), n=3)


@pytest.fixture(scope="module")
def site(seeded: Seeded) -> Iterator[Dashboard]:
    with served(seeded.opened, seeded.clock) as running:
        yield running


# --- forged ---

FORGED: dict[str, tuple[str, dict[str, str]]] = {
    "no token": ("", {}),
    "a token of another login": ("0" * 64, {}),
    "a token that is no text of ASCII": ("é" * 32, {}),
    "another site's origin": ("own", {"Origin": "https://evil.example"}),
    "no origin": ("own", {"Origin": ""}),
    "a name of another site that leads here": ("own", {"Host": "evil.example:8445"}),
}


@pytest.mark.parametrize("case", FORGED)
@pytest.mark.parametrize("path", [f"/runs/{RUN_ID}/pause", "/members/hospital-basel/revoke"])
def test_a_forged_order_changes_nothing(site: Dashboard, path: str, case: str) -> None:
    token, headers = FORGED[case]
    cookie = site.log_in(OPERATOR)
    fields = {"form_token": site.form_token(cookie) if token == "own" else token}
    answer, page = site.ask("POST", path, cookie=cookie, fields=fields, headers=headers)
    assert (answer.status, "E-WEB-ORIGIN" in page) == (403, True)
    assert not site.paused()
    assert site.security_rows("revoked") == []


@pytest.mark.parametrize("cookie", ["", "onlysum-login=" + "0" * 64, "onlysum-login=" + "x" * 5000, "onlysum-login=é"])
def test_a_forged_cookie_is_no_login(site: Dashboard, cookie: str) -> None:
    answer, _ = site.ask("GET", "/", headers={"Cookie": cookie.encode().decode("latin-1")})
    assert (answer.status, answer.getheader("Location")) == (303, "/login")


WRONG_INVITATIONS = {
    "a name that is none": {"name": "<script>", "role": "participant", "days": "2"},
    "no days": {"name": "x", "role": "participant", "days": ""},
    "too many days": {"name": "x", "role": "participant", "days": "999999999"},
    "days behind zeros": {"name": "x", "role": "participant", "days": "0001900"},
    "digits that int reads and nobody types": {"name": "x", "role": "participant", "days": "²"},
    "another role": {"name": "x", "role": "operator", "days": "2"},
}


@pytest.mark.parametrize("case", WRONG_INVITATIONS)
def test_a_wrong_invitation_is_refused_and_its_text_is_escaped(site: Dashboard, case: str) -> None:
    cookie = site.log_in(OPERATOR)
    fields = {"form_token": site.form_token(cookie), **WRONG_INVITATIONS[case]}
    answer, page = site.ask("POST", "/invitations", cookie=cookie, fields=fields)
    assert (answer.status, "E-USAGE" in page, "<script>" in page) == (400, True, False)


@pytest.mark.parametrize("path", ["/members?shown=%00", "/security?kind=%00"])
def test_a_character_that_postgresql_has_not_is_refused_before_it_is_looked_for(site: Dashboard, path: str) -> None:
    answer, page = site.ask("GET", path, cookie=site.log_in(OPERATOR))
    assert (answer.status, "E-WEB-FORM" in page) == (400, True)
    answer, page = site.ask("POST", "/login", fields={"name": "\0", "password": "x"})
    assert (answer.status, "E-WEB-FORM" in page) == (400, True)


# --- passwords ---


def test_a_wrong_password_a_hundred_times_locks_the_name_and_leaves_few_rows(tmp_path: Path) -> None:
    world = seed(tmp_path, n=3)
    with served(world.opened, world.clock) as site:
        statuses = [
            site.ask("POST", "/login", fields={"name": OPERATOR, "password": f"wrong {number}"})[0].status
            for number in range(100)
        ]
        assert statuses == [401] * accounts.FREE_FAILURES + [429] * (100 - accounts.FREE_FAILURES)
        assert site.log_in(OPERATOR) == ""  # the right one does not count either
        assert site.log_in(AUDITOR) != ""  # others are not locked
        assert len(site.security_rows("login-refused")) == 2
        world.clock.seconds += accounts.FIRST_LOCK_SECONDS + 1
        assert site.log_in(OPERATOR) != ""


def test_a_name_that_nobody_has_is_locked_like_one_that_somebody_has(tmp_path: Path) -> None:
    world = seed(tmp_path, n=3)
    with served(world.opened, world.clock) as site:
        ask = {"name": "nobody", "password": "wrong wrong wrong"}
        statuses = [site.ask("POST", "/login", fields=ask)[0].status for _ in range(7)]
    assert statuses == [401] * accounts.FREE_FAILURES + [429] * 2


def test_locks_grow_and_the_names_that_are_remembered_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = seed(tmp_path, n=3)
    monkeypatch.setattr(accounts, "MOST_NAMES", 10)
    monkeypatch.setattr(accounts, "_verifies", lambda known, given: False)
    known = accounts.Accounts(world.opened.store, world.clock, _Fixed(), _Silent())
    waits = []
    for _ in range(12):
        world.clock.seconds += accounts.LONGEST_LOCK_SECONDS
        with pytest.raises(RefusedError) as refused:
            known.log_in("anna", "wrong")
        assert refused.value.code == "E-LOGIN"
        waits.append(known._failures["anna"].locked_until - world.clock.monotonic())
    assert waits[5:10] == [60, 120, 240, 480, 900]
    for number in range(50):
        with pytest.raises(RefusedError):
            known.log_in(f"name-{number}", "wrong")
    assert len(known._failures) == 10


class _Fixed:
    def token_bytes(self, count: int) -> bytes:
        return bytes(count)


class _Silent(RefusalLog):
    def __init__(self) -> None:
        """Note nothing."""

    def note(self, kind: str, subject: str, code: str) -> None:
        """Note nothing."""


def test_who_is_removed_is_logged_out_and_a_login_ends_by_itself(tmp_path: Path) -> None:
    world = seed(tmp_path, n=3)
    with served(world.opened, world.clock) as site:
        operator, auditor = site.log_in(OPERATOR), site.log_in(AUDITOR)
        with world.opened.store.begin() as connection:
            user_rows.remove_user(connection, OPERATOR, 0)
        assert site.ask("GET", "/", cookie=operator)[0].status == 303
        assert site.ask("GET", "/", cookie=auditor)[0].status == 200
        world.clock.seconds += accounts.LOGIN_SECONDS + 1
        assert site.ask("GET", "/", cookie=auditor)[0].status == 303


def test_logging_out_ends_the_login_itself_not_only_the_cookie(site: Dashboard) -> None:
    cookie = site.log_in(OPERATOR)
    answer, _ = site.ask("POST", "/logout", cookie=cookie, fields={"form_token": site.form_token(cookie)})
    assert answer.status == 303
    assert site.ask("GET", "/", cookie=cookie)[0].getheader("Location") == "/login"


@pytest.mark.parametrize(
    ("name", "password"), [("Anna", "x" * 12), ("anna", "x" * 11), ("anna", "x" * 257), ("", "x" * 12)]
)
def test_a_user_needs_a_name_and_a_long_password(name: str, password: str) -> None:
    with pytest.raises(LocalError) as refused:
        new_user(name, UserRole.OPERATOR, password, 0)
    assert refused.value.code == "E-USAGE"


def test_a_password_is_kept_as_argon2id_and_a_login_as_a_hash(site: Dashboard) -> None:
    cookie = site.log_in(OPERATOR).partition("=")[2]
    with site.opened.store.read() as connection:
        user = user_rows.find_user(connection, OPERATOR)
        hashes = [bytes(row.token_hash) for row in connection.execute(logins.select())]
    assert user is not None
    assert user.password.startswith("$argon2id$")
    assert hashlib.sha256(cookie.encode()).digest() in hashes


# --- garbage ---

FORMS: dict[str, tuple[bytes, str]] = {
    "too large": (b"name=" + b"x" * 20_000, "application/x-www-form-urlencoded"),
    "too many fields": (b"&".join(b"a%d=1" % number for number in range(100)), "application/x-www-form-urlencoded"),
    "a field twice": (b"name=a&name=b", "application/x-www-form-urlencoded"),
    "not UTF-8": (b"name=\xff\xfe", "application/x-www-form-urlencoded"),
    "percent signs that are not UTF-8": (b"name=%ff%fe", "application/x-www-form-urlencoded"),
    "JSON": (b'{"name": "a"}', "application/json"),
    "several parts": (b"--x\r\n", "multipart/form-data; boundary=x"),
}


@pytest.mark.parametrize("case", FORMS)
def test_a_form_that_is_none_is_refused_by_its_code(site: Dashboard, case: str) -> None:
    body, kind = FORMS[case]
    host, _, port = site.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST /login HTTP/1.1\r\nHost: {site.address}\r\nOrigin: {site.url}\r\nContent-Type: {kind}\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    assert said.startswith(b"HTTP/1.1 400")
    assert b"E-WEB-FORM" in said


GARBAGE = {
    "bytes": bytes(range(256)) * 20,
    "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an endless header": b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000,
    "a length that is none": b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
}


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_is_refused_and_the_next_request_is_served(site: Dashboard, case: str) -> None:
    host, _, port = site.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(GARBAGE[case])
        connection.settimeout(10)
        try:
            said = connection.recv(65536)
        except ConnectionResetError:
            said = b""
    assert said == b"" or said.startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))
    assert site.ask("GET", "/livez")[0].status == 200


def test_idle_connections_are_bounded_and_do_not_stay(
    seeded: Seeded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(serving, "REQUEST_SECONDS", 1.0)
    world = seed(tmp_path, n=3)
    with served(world.opened, world.clock) as site:
        host, _, port = site.address.rpartition(":")
        idle = [socket.create_connection((host, int(port)), timeout=5) for _ in range(400)]
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                if site.ask("GET", "/livez")[0].status == 200:
                    break
            except OSError:
                time.sleep(0.1)
        else:
            pytest.fail("the idle connections keep everybody else out")
        for connection in idle:
            connection.close()


UNKNOWN = [
    "/nothing",
    "/runs/ffff",
    "/members/nobody",
    "/static/../app.py",
    "/static/nothing.js",
    "/runs/%00",
    "/runs/" + "f" * 4000,
]


@pytest.mark.parametrize("path", UNKNOWN)
def test_a_page_that_is_not_there_is_an_error_with_a_code(site: Dashboard, path: str) -> None:
    answer, page = site.ask("GET", path, cookie=site.log_in(OPERATOR))
    assert (answer.status, "E-NOT-FOUND" in page) == (404, True)


def test_what_goes_wrong_inside_is_not_shown(site: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*anything: object, **more: object) -> None:
        raise ValueError("a secret of the inside")

    cookie = site.log_in(OPERATOR)
    monkeypatch.setattr("coordinator.dashboard.reading.member_list", broken)
    answer, page = site.ask("GET", "/members", cookie=cookie)
    assert (answer.status, "E-BUG" in page, "secret" in page) == (500, True, False)
