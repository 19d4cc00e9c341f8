"""The dashboard: who may see and press what, and what the bad input of a browser, or of no browser, comes to."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
import socket
import time
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from coordinator.config import Admin, parse_settings, settings_template
from coordinator.daemon.refusals import RefusalLog
from coordinator.dashboard import accounts
from coordinator.dashboard.accounts import new_user
from coordinator.database import member_rows, run_rows, user_rows
from coordinator.database.tables import logins
from coordinator.database.user_rows import UserRole
from coordinator.enrolment.authority import save_authority
from coordinator.opened import OpenHome
from coordinator.views.members import member_list
from coordinator.views.overview import overview
from coordinator.views.security import check_exported
from coordinator.views.sentence import run_sentence
from host.web import serving
from privacy.errors import LocalError, RefusedError, VerificationError
from protos.invitation import decode_invitation
from tests.worlds.coordinator import RUN_ID, World
from tests.worlds.dashboard import PASSWORD, Dashboard, Seeded, seed, served

OPERATOR, AUDITOR = "operator-ann", "auditor-ann"
PAGES = ("/", "/members", "/members/hospital-basel", f"/runs/{RUN_ID}", "/inbox", "/reports", "/security")


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Seeded:
    return seed(tmp_path_factory.mktemp("dashboard"), n=3)


@pytest.fixture(scope="module")
def site(seeded: Seeded) -> Iterator[Dashboard]:
    with served(seeded.opened, seeded.clock) as running:
        yield running


def form_token(site: Dashboard, cookie: str) -> str:
    _, page = site.ask("GET", "/", cookie=cookie)
    found = re.search(r'name="form_token" value="([0-9a-f]{64})"', page)
    assert found
    return found[1]


def paused(site: Dashboard) -> bool:
    with site.opened.store.read() as connection:
        return run_rows.find_run(connection, RUN_ID).paused


def security_rows(site: Dashboard, kind: str) -> list[tuple[str, str]]:
    with site.opened.store.read() as connection:
        return [(row.subject, row.detail) for row in member_rows.security_log(connection) if row.kind == kind]


# --- who may see ---


@pytest.mark.parametrize("path", [*PAGES, "/security.json", f"/runs/{RUN_ID}/report.json"])
def test_without_a_login_every_page_leads_to_it(site: Dashboard, path: str) -> None:
    answer, page = site.ask("GET", path)
    assert (answer.status, answer.getheader("Location"), page) == (303, "/login", "")


@pytest.mark.parametrize("user", [OPERATOR, AUDITOR])
@pytest.mark.parametrize("path", PAGES)
def test_operators_and_auditors_read_every_page_under_a_strict_policy(site: Dashboard, path: str, user: str) -> None:
    answer, page = site.ask("GET", path, cookie=site.log_in(user))
    assert answer.status == 200
    assert f"{user}, " in page
    policy = answer.getheader("Content-Security-Policy") or ""
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<style|style=|<script(?! src=)| on[a-z]+=", page)
    assert answer.getheader("Cache-Control") == "no-store"


def test_an_auditor_starts_at_the_reports_and_sees_no_button(site: Dashboard) -> None:
    answer, _ = site.ask("POST", "/login", fields={"name": AUDITOR, "password": PASSWORD})
    assert (answer.status, answer.getheader("Location")) == (303, "/reports")
    cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
    for path in PAGES:
        _, page = site.ask("GET", path, cookie=cookie)
        assert set(re.findall(r'action="([^"]+)"', page)) <= {"/logout", "/security"}


def test_a_cookie_is_out_of_reach_of_scripts_and_other_sites(site: Dashboard) -> None:
    answer, _ = site.ask("POST", "/login", fields={"name": OPERATOR, "password": PASSWORD})
    cookie = (answer.getheader("Set-Cookie") or "").lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


# --- who may press ---

ORDERS: dict[str, dict[str, str]] = {
    f"/runs/{RUN_ID}/pause": {},
    f"/runs/{RUN_ID}/resume": {},
    f"/runs/{RUN_ID}/abort": {},
    f"/runs/{RUN_ID}/exclude": {"member": "hospital-basel"},
    f"/runs/{RUN_ID}/include": {"member": "hospital-basel"},
    f"/runs/{RUN_ID}/export": {},
    "/members/hospital-basel/revoke": {},
    "/invitations": {"name": "newcomer", "role": "participant", "days": "7"},
}


@pytest.mark.parametrize("path", ORDERS)
def test_an_auditor_who_presses_a_button_anyway_is_refused(site: Dashboard, path: str) -> None:
    cookie = site.log_in(AUDITOR)
    answer, page = site.ask(
        "POST", path, cookie=cookie, fields={**ORDERS[path], "form_token": form_token(site, cookie)}
    )
    assert (answer.status, "E-LOGIN-ROLE" in page) == (403, True)


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
    fields = {"form_token": form_token(site, cookie) if token == "own" else token}
    answer, page = site.ask("POST", path, cookie=cookie, fields=fields, headers=headers)
    assert (answer.status, "E-WEB-ORIGIN" in page) == (403, True)
    assert not paused(site)
    assert security_rows(site, "revoked") == []


@pytest.mark.parametrize("cookie", ["", "onlysum-login=" + "0" * 64, "onlysum-login=" + "x" * 5000, "onlysum-login=é"])
def test_a_forged_cookie_is_no_login(site: Dashboard, cookie: str) -> None:
    answer, _ = site.ask("GET", "/", headers={"Cookie": cookie.encode().decode("latin-1")})
    assert (answer.status, answer.getheader("Location")) == (303, "/login")


def test_an_operator_pauses_and_resumes_and_the_security_log_says_who(site: Dashboard) -> None:
    cookie = site.log_in(OPERATOR)
    fields = {"form_token": form_token(site, cookie)}
    answer, _ = site.ask("POST", f"/runs/{RUN_ID}/pause", cookie=cookie, fields=fields)
    assert (answer.status, answer.getheader("Location"), paused(site)) == (303, f"/runs/{RUN_ID}", True)
    assert "Resume" in site.ask("GET", f"/runs/{RUN_ID}", cookie=cookie)[1]
    site.ask("POST", f"/runs/{RUN_ID}/resume", cookie=cookie, fields=fields)
    assert not paused(site)
    assert security_rows(site, "ordered")[-2:] == [(OPERATOR, f"pause {RUN_ID}"), (OPERATOR, f"resume {RUN_ID}")]


def test_an_order_that_the_command_would_refuse_is_refused_here_with_the_same_words(site: Dashboard) -> None:
    cookie = site.log_in(OPERATOR)
    fields = {"form_token": form_token(site, cookie), "member": "hospital-basel"}
    answer, page = site.ask("POST", f"/runs/{RUN_ID}/exclude", cookie=cookie, fields=fields)
    assert answer.status == 400
    assert "without hospital-basel 2 of 3 would be left" in page


def test_an_invitation_is_shown_once_and_is_the_one_that_the_database_knows(site: Dashboard) -> None:
    cookie = site.log_in(OPERATOR)
    fields = {"form_token": form_token(site, cookie), "name": "clinic-bern", "role": "evaluator", "days": "2"}
    answer, page = site.ask("POST", "/invitations", cookie=cookie, fields=fields)
    token = re.search(r'class="token">([^<]+)<', page)
    assert answer.status == 200
    assert token
    made = decode_invitation(token[1])
    with site.opened.store.read() as connection:
        known = {each.token_id: each for each in member_rows.list_tokens(connection)}
    assert (known[made.token_id].name, known[made.token_id].role.value) == ("clinic-bern", "evaluator")


WRONG_INVITATIONS = {
    "a name that is none": {"name": "<script>", "role": "participant", "days": "2"},
    "no days": {"name": "x", "role": "participant", "days": ""},
    "too many days": {"name": "x", "role": "participant", "days": "999999999"},
    "digits that int reads and nobody types": {"name": "x", "role": "participant", "days": "²"},
    "another role": {"name": "x", "role": "operator", "days": "2"},
}


@pytest.mark.parametrize("case", WRONG_INVITATIONS)
def test_a_wrong_invitation_is_refused_and_its_text_is_escaped(site: Dashboard, case: str) -> None:
    cookie = site.log_in(OPERATOR)
    fields = {"form_token": form_token(site, cookie), **WRONG_INVITATIONS[case]}
    answer, page = site.ask("POST", "/invitations", cookie=cookie, fields=fields)
    assert (answer.status, "E-USAGE" in page, "<script>" in page) == (400, True, False)


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
        assert len(security_rows(site, "login-refused")) == 2
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
    answer, _ = site.ask("POST", "/logout", cookie=cookie, fields={"form_token": form_token(site, cookie)})
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


# --- what is shown ---


def test_the_pages_show_the_values_that_the_commands_print(site: Dashboard, seeded: Seeded) -> None:
    cookie, now = site.log_in(OPERATOR), int(seeded.clock.now())
    said = run_sentence(overview(site.opened, RUN_ID), now)
    assert f"{said.text}." in site.ask("GET", "/", cookie=cookie)[1]
    assert f"{said.text}." in site.ask("GET", f"/runs/{RUN_ID}", cookie=cookie)[1]
    _, page = site.ask("GET", "/members", cookie=cookie)
    shown = re.findall(r'id="m-([^"]+)".*?class="state [a-z]+">([a-z]+)<', page, re.DOTALL)
    assert shown == [(member.name, member.presence.value) for member in member_list(site.opened).members]


def test_the_security_log_is_filtered_and_exported_with_its_chain(site: Dashboard) -> None:
    cookie = site.log_in(OPERATOR)
    _, page = site.ask("GET", "/security?kind=enrolled&subject=basel", cookie=cookie)
    assert re.findall(r"<td>(enrolled|[a-z-]+added)</td><td>([^<]*)</td>", page) == [("enrolled", "hospital-basel")]
    _, data = site.ask("GET", "/security.json", cookie=cookie)
    rows = check_exported(data.encode())
    assert rows[-1].kind == "login"
    document = json.loads(data)
    document["rows"][3]["subject"] = "somebody-else"
    with pytest.raises(VerificationError, match="row 4"):
        check_exported(json.dumps(document).encode())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Dashboard]]:
    """A run that real members have brought to its end."""
    directory = tmp_path_factory.mktemp("finished")
    world = World(directory, rounds=2, evaluated=True)
    asyncio.run(world.settle())
    save_authority(world.home.authority, world.authority)
    with world.store.begin() as connection:
        for role in UserRole:
            user_rows.add_user(connection, new_user(f"{role.value}-ann", role, PASSWORD, 0))
    with served(OpenHome(world.home, world.settings, world.store), world.clock) as site:
        yield world, site


def test_an_auditor_reads_the_report_as_a_page_and_as_the_signed_file(finished: tuple[World, Dashboard]) -> None:
    world, site = finished
    cookie = site.log_in(AUDITOR)
    assert f'href="/runs/{RUN_ID}/report"' in site.ask("GET", "/reports", cookie=cookie)[1]
    answer, page = site.ask("GET", f"/runs/{RUN_ID}/report", cookie=cookie)
    assert (answer.status, "Privacy report" in page) == (200, True)
    assert "style-src 'sha256-" in (answer.getheader("Content-Security-Policy") or "")
    _, data = site.ask("GET", f"/runs/{RUN_ID}/report.json", cookie=cookie)
    assert data.encode() == (world.home.run(RUN_ID) / "report.json").read_bytes()


def test_an_operator_exports_what_the_command_exports(finished: tuple[World, Dashboard]) -> None:
    world, site = finished
    cookie, host = site.log_in(OPERATOR), site.address
    fields = {"form_token": form_token(site, cookie)}
    from http.client import HTTPConnection
    from urllib.parse import urlencode

    connection = HTTPConnection(host, timeout=20)
    headers = {"Cookie": cookie, "Origin": site.url, "Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", f"/runs/{RUN_ID}/export", body=urlencode(fields), headers=headers)
    packed = zipfile.ZipFile(io.BytesIO(connection.getresponse().read()))
    connection.close()
    assert packed.read("plan.json") == world.plan.to_bytes()
    assert {"adapter/adapter_model.safetensors", "report.json", "plan.sig", "evaluations.json"} <= {*packed.namelist()}


# --- machines ---


def test_metrics_tell_of_runs_and_of_nobody(finished: tuple[World, Dashboard]) -> None:
    world, site = finished
    answer, text = site.ask("GET", "/metrics", headers={"Host": "10.0.0.7:9"})
    assert answer.status == 200
    assert (answer.getheader("Content-Type") or "").startswith("text/plain; version=0.0.4")
    run = f'{{run="{RUN_ID}"}}'
    expected = {
        'onlysum_runs{state="completed"}': 1,
        'onlysum_runs{state="running"}': 0,
        f"onlysum_run_rounds_completed_total{run}": 2,
        f"onlysum_run_dropouts_total{run}": 0,
        f"onlysum_run_participants{run}": 3,
        f"onlysum_run_uploaded_bytes_total{run}": 2 * 3 * 48,
        'onlysum_members{role="participant",state="away"}': 3,
    }
    found = {
        name: float(value) for name, value in re.findall(r"^([a-z_]+(?:\{[^}]*\})?) ([0-9.e+-]+)$", text, re.MULTILINE)
    }
    assert {name: found.get(name) for name in expected} == expected
    assert not [name for name in world.members if name in text]


def test_metrics_of_an_open_phase_count_who_has_answered(site: Dashboard) -> None:
    _, text = site.ask("GET", "/metrics")
    assert f'onlysum_run_phase{{phase="COLLECT_MASKED",run="{RUN_ID}"}} 1.0' in text
    assert f'onlysum_run_phase_expected{{run="{RUN_ID}"}} 3.0' in text
    assert not re.search(r"hospital-|clinic-", text)


def test_a_listener_is_alive_and_ready_and_says_why_it_is_not(tmp_path: Path) -> None:
    world = seed(tmp_path, n=3)
    with served(world.opened, world.clock) as site:
        assert [site.ask("GET", path)[0].status for path in ("/livez", "/readyz")] == [200, 200]
        world.opened.home.status_file.unlink()
        answer, said = site.ask("GET", "/readyz")
        assert (answer.status, said) == (503, "starting\n")


# --- configuration and files ---


def test_vendored_files_are_those_of_the_list_and_their_licences_travel_with_them() -> None:
    folder = files("host.web")
    listed = tomllib.loads(folder.joinpath("vendored/vendored.toml").read_text())["package"]
    assert [(each["name"], each["version"], each["licence"]) for each in listed] == [
        ("htmx.org", "2.0.11", "0BSD"),
        ("uplot", "1.6.32", "MIT"),
    ]
    for each in listed:
        assert "Permission" in folder.joinpath(f"vendored/{each['licence_file']}").read_text()
        for name, digest in each["files"].items():
            assert hashlib.sha256(folder.joinpath(f"static/{name}").read_bytes()).hexdigest() == digest


ADMINS = {
    "this machine": ('listen = "127.0.0.1:8445"', True),
    "this machine by name": ('listen = "localhost:8445"', True),
    "everybody, in the clear": ('listen = "0.0.0.0:8445"', False),
    "everybody, behind a proxy with TLS": ('listen = "0.0.0.0:8445"\norigin = "https://sum.example.org"', True),
    "an origin in the clear": ('listen = "127.0.0.1:8445"\norigin = "http://sum.example.org"', False),
    "an origin with a path": ('listen = "127.0.0.1:8445"\norigin = "https://sum.example.org/x"', False),
    "an unknown key": ('listen = "127.0.0.1:8445"\nlisten_on = 1', False),
}


@pytest.mark.parametrize("case", ADMINS)
def test_the_dashboard_is_served_beyond_this_machine_only_behind_tls(case: str) -> None:
    lines, allowed = ADMINS[case]
    text = settings_template(federation="a", operator="I", also=[], participants="h:1", enrolment="h:2")
    text += f"\n[admin]\n{lines}\n"
    if allowed:
        assert isinstance(parse_settings(text).admin, Admin)
        return
    with pytest.raises(LocalError) as refused:
        parse_settings(text)
    assert refused.value.code in ("E-CONFIG-INVALID", "E-CONFIG-UNKNOWN-KEY")


def test_a_port_that_is_taken_is_an_error_with_a_code() -> None:
    with serving.bind("127.0.0.1:0") as taken, pytest.raises(LocalError) as refused:
        serving.bind(f"127.0.0.1:{taken.getsockname()[1]}")
    assert refused.value.code == "E-PORT"
