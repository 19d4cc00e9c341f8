"""Strangers on the two HTTP listeners, the operator's dashboard and the owner's page: garbage, and much of it.

Whatever comes, the answer is the stated limit or an error with its code, and whoever asks properly is served.
"""

from __future__ import annotations

import logging
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from coordinator.dashboard.app import OPEN_PATHS
from host.web import guard, serving
from participant.owner.policy import policy_template
from participant.page.app import COOKIE, make_app
from tests.worlds.dashboard import OPERATOR, seed, served
from tests.worlds.enrolled import authority, enrol, equip, propose
from tests.worlds.owner import owned_plan
from tests.worlds.sites import Site, running

KEY = "k" * 64
PLAN = owned_plan()
MANY = 2_000
SERVED_SECONDS = 5.0  # within which somebody is served whatever strangers do
GROWTH_BYTES = 64 * 2**20  # of this process, which has both ends of all connections
SHORT_SECONDS = 1.0  # in place of the limits that are longer

pytestmark = pytest.mark.early


class Listener(Site):
    """A site, how to be let in there, and a page that only who is let in sees."""

    def __init__(self, address: str, let_in: Callable[[Site], str], secret: str) -> None:
        super().__init__(address)
        self.cookie = let_in(self)
        self.secret = secret

    def serves(self) -> None:
        """Ask for the first page as a user, once."""
        begun = time.monotonic()
        answer, page = self.ask("GET", "/", cookie=self.cookie)
        assert (answer.status, self.secret in page) == (200, True)
        assert time.monotonic() - begun < SERVED_SECONDS

    def connection(self, timeout: float = 10.0) -> socket.socket:
        """Connect, and say nothing yet."""
        host, _, port = self.address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=timeout)

    def head(self, method: str = "GET", path: str = "/", **headers: str) -> bytes:
        """Return the head of a request of somebody who is let in."""
        given = {"Host": self.address, "Cookie": self.cookie, "Origin": self.url}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items() if value)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


@contextmanager
def _dashboard(place: Path) -> Iterator[Listener]:
    made = seed(place, n=3)
    with served(made.opened, made.clock) as site:
        yield Listener(site.address, lambda _: site.log_in(OPERATOR), "Chest X-ray findings")


@contextmanager
def _owners_page(place: Path) -> Iterator[Listener]:
    made = authority()
    home = enrol(place / "alice", made)
    equip(home, made, PLAN)
    home.policy.write_text(policy_template(made.fingerprint))
    propose(home, made, PLAN)
    with running(lambda address: make_app(home.directory, address=address, key=KEY)) as address:
        yield Listener(address, lambda _: f"{COOKIE}={KEY}", PLAN.run_id[:8])


SITES = {"the dashboard": _dashboard, "the owner's page": _owners_page}


@pytest.fixture(scope="module", params=SITES)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    with SITES[request.param](tmp_path_factory.mktemp("site")) as listener:
        yield listener


@pytest.fixture(autouse=True)
def _no_traceback(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Look, after each test, whether anything was logged that a stranger should not be able to write there."""
    with caplog.at_level(logging.WARNING):
        yield
    assert not [record for record in caplog.get_records("call") if record.name != "asyncio" or record.exc_info]
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "page failed" not in said.out + said.err


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the limits of time be short."""
    monkeypatch.setattr(serving, "REQUEST_SECONDS", SHORT_SECONDS)
    monkeypatch.setattr(guard, "FORM_SECONDS", SHORT_SECONDS)
    monkeypatch.setattr(serving, "ANSWER_SECONDS", 2 * SHORT_SECONDS)


def everything(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    said = b""
    with suppress(ConnectionResetError, BrokenPipeError):
        while data := connection.recv(65536):
            said += data
    return said


def status(said: bytes) -> int:
    """Return the status of the last answer in what came; 0: there is none."""
    lines = [line for line in said.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    return int(lines[-1].split()[1]) if lines else 0


# --- what is no request ---

GARBAGE = {
    "every byte": bytes(range(256)) * 20,
    "a mebibyte of zeros": bytes(2**20),
    "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "a header of 200 kB": b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000,
    "a request line of 200 kB": b"GET /" + b"x" * 200_000,
    "20 000 headers": b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 20_000,
    "headers without a name": b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a length that is none": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    "a negative length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "chunks that are none": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n",
    "a chunk without end": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 40_000,
    "bytes above ASCII in the path": b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
    "an upgrade to a socket": (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ),
}


@pytest.mark.parametrize("case", GARBAGE)
@pytest.mark.usefixtures("short")
def test_garbage_is_refused_and_whoever_asks_properly_is_served(site: Listener, case: str) -> None:
    with site.connection() as connection:
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(GARBAGE[case])
        said = everything(connection)
    assert status(said) in (0, 400, 403)
    assert site.secret.encode() not in said
    site.serves()


# --- half of one, held open ---

HALVES: dict[str, tuple[str, bool]] = {
    "a letter": ("G", False),
    "half of the request line": ("GET / HT", False),
    "half of the headers": ("GET / HTTP/1.1\r\nHost: ", False),
    "half of the next request": ("GET / HT", True),
    "headers without an end of the next request": ("GET / HTTP/1.1\r\nHost: a\r\n", True),
}


@pytest.mark.parametrize("case", HALVES)
@pytest.mark.usefixtures("short")
def test_half_of_a_request_is_not_waited_for_longer_than_stated(site: Listener, case: str) -> None:
    half, after_a_whole_one = HALVES[case]
    with site.connection() as connection:
        if after_a_whole_one:
            connection.sendall(site.head())
            connection.recv(65536)
        connection.sendall(half.encode())
        begun = time.monotonic()
        everything(connection)
        assert time.monotonic() - begun < SERVED_SECONDS
    site.serves()


@pytest.mark.usefixtures("short")
def test_a_letter_now_and_then_does_not_keep_a_connection(site: Listener) -> None:
    with site.connection() as connection, suppress(ConnectionResetError, BrokenPipeError):
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        begun = time.monotonic()
        while time.monotonic() - begun < 4 * SHORT_SECONDS:
            connection.sendall(b"x")
            time.sleep(SHORT_SECONDS / 10)
        pytest.fail("it was kept")


@pytest.mark.usefixtures("short")
def test_a_form_that_does_not_come_is_refused_with_a_code(site: Listener) -> None:
    head = site.head("POST", _button(site), Content_Type=guard.FORM_TYPE, Content_Length="1000", Connection="close")
    with site.connection() as connection:
        connection.sendall(head + b"form_token=")
        said = everything(connection)
    assert (status(said), b"E-WEB-FORM" in said) == (400, True)
    site.serves()


def test_who_goes_away_in_the_middle_of_a_form_leaves_no_trace(site: Listener) -> None:
    for _ in range(5):
        with site.connection() as connection:
            head = site.head("POST", _button(site), Content_Type=guard.FORM_TYPE, Content_Length="1000")
            connection.sendall(head + b"form_token=")
            time.sleep(0.05)
    site.serves()


# --- more than there is room for ---


@pytest.mark.usefixtures("short")
def test_a_body_without_end_is_not_taken(site: Listener) -> None:
    """Neither one that is too long for a form, nor one that goes on after it was answered."""
    head = site.head("POST", _button(site), Content_Type=guard.FORM_TYPE, Content_Length=str(2**40))
    before, sent = _resident_bytes(), 0
    with site.connection() as connection, suppress(ConnectionResetError, BrokenPipeError, TimeoutError):
        connection.sendall(head)
        begun = time.monotonic()
        while time.monotonic() - begun < SERVED_SECONDS:
            connection.sendall(b"x" * 65536)
            sent += 65536
        pytest.fail("it was taken")
    assert sent > guard.MOST_BYTES
    assert _resident_bytes() - before < GROWTH_BYTES
    site.serves()


def test_a_form_that_is_too_long_is_refused_with_a_code(site: Listener) -> None:
    body = b"form_token=" + b"x" * guard.MOST_BYTES
    head = site.head(
        "POST", _button(site), Content_Type=guard.FORM_TYPE, Content_Length=str(len(body)), Connection="close"
    )
    with site.connection() as connection:
        connection.sendall(head + body)
        said = everything(connection)
    assert (status(said), b"E-WEB-FORM" in said) == (400, True)


@pytest.mark.usefixtures("short")
def test_answers_that_nobody_reads_are_not_waited_for(site: Listener) -> None:
    """A hundred requests on one connection, of which not one answer is read."""
    with ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(site.connection())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(SHORT_SECONDS)
            with suppress(TimeoutError, ConnectionResetError, BrokenPipeError):
                connection.sendall(site.head() * 100)
        site.serves()
        connection.settimeout(SERVED_SECONDS)
        everything(connection)  # fails with a timeout where it is kept
    site.serves()


def test_two_thousand_connections_that_say_nothing_keep_nobody_out_and_are_bounded(site: Listener) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before = _resident_bytes()
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        idle = [stack.enter_context(site.connection()) for _ in range(MANY)]
        site.serves()
        deadline = time.monotonic() + SERVED_SECONDS
        while (kept := sum(map(_is_open, idle))) > serving.MOST_CONNECTIONS and time.monotonic() < deadline:
            time.sleep(0.1)
        assert kept <= serving.MOST_CONNECTIONS
        site.serves()
        assert _resident_bytes() - before < GROWTH_BYTES


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


# --- whom it names, and where it comes from ---

HOSTS: dict[str, Callable[[Listener], str]] = {
    "another name": lambda site: "evil.example",
    "another name with the port": lambda site: f"evil.example:{_port(site)}",
    "another port": lambda site: "127.0.0.1:1",
    "no port": lambda site: "127.0.0.1",
    "a name that ends like its own": lambda site: f"evil.{site.address}",
    "a name with a dot behind it": lambda site: f"localhost.:{_port(site)}",
    "its address as a number": lambda site: f"2130706433:{_port(site)}",
    "a user before its name": lambda site: f"evil@{site.address}",
    "a path behind its name": lambda site: f"{site.address}/",
    "a path that needs no name": lambda site: "evil.example/metrics?",
    "half of a bracket": lambda site: "[",
    "nothing": lambda site: "",
}


@pytest.mark.parametrize("case", HOSTS)
@pytest.mark.parametrize("path", ["/", "/nothing", "/static/page.css"])
def test_a_page_is_asked_for_under_its_own_name_or_refused(site: Listener, path: str, case: str) -> None:
    with site.connection() as connection:
        connection.sendall(site.head(path=path, Host=HOSTS[case](site), Connection="close"))
        said = everything(connection)
    assert status(said) == (400 if case == "nothing" else 403)  # HTTP/1.1 asks for a host
    assert site.secret.encode() not in said
    assert b"Set-Cookie" not in said


def test_under_its_other_names_on_this_machine_it_is_served(site: Listener) -> None:
    for name in ("localhost", "127.0.0.1", "[::1]"):
        answer, _ = site.ask("GET", "/", cookie=site.cookie, headers={"Host": f"{name}:{_port(site)}"})
        assert answer.status == 200


ORIGINS: dict[str, Callable[[Listener], str]] = {
    "none": lambda site: "",
    "a file": lambda site: "null",
    "another site": lambda site: "http://evil.example",
    "another port of this machine": lambda site: "http://127.0.0.1:1",
    "TLS": lambda site: f"https://{site.address}",
    "a name that begins like its own": lambda site: f"http://{site.address}.evil.example",
}


@pytest.mark.parametrize("case", ORIGINS)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "NONSENSE"])
def test_what_changes_something_comes_from_its_own_page_or_is_refused(site: Listener, case: str, method: str) -> None:
    with site.connection() as connection:
        head = site.head(method, _button(site), Origin=ORIGINS[case](site), Content_Length="0", Connection="close")
        connection.sendall(head)
        said = everything(connection)
    assert (status(said), b"E-WEB-ORIGIN" in said) == (403, True)


TRAVERSALS = [
    "/../../etc/passwd",
    "/static/../../../../etc/passwd",
    "/static/..%2f..%2f..%2fetc%2fpasswd",
    "/static/%2e%2e/%2e%2e/etc/passwd",
    "/static//etc/passwd",
    "/static/%2fetc%2fpasswd",
    "/static/page.css%00.js",
    "/static/..%5c..%5cwindows",
    "/runs/..%2f..%2fauthority%2foperator.key/report",
    "/runs/../report.json",
    "/runs/%2e%2e/report",
    "/plans/..",
    "/plans/%2e%2e%2fidentity",
    "/reports/..%2f..%2fidentity",
    "/reports/%2e%2e",
    "//evil.example/",
    "/%2f%2fevil.example",
    "/plans/" + "f" * 4000,
    "/" + "a/" * 2000,
]


@pytest.mark.parametrize("path", TRAVERSALS, ids=[path[:40] for path in TRAVERSALS])
def test_no_path_leads_out_of_the_pages(site: Listener, path: str) -> None:
    with site.connection() as connection:
        connection.sendall(site.head(path=path, Connection="close"))
        said = everything(connection)
    assert (status(said), b"E-NOT-FOUND" in said) == (404, True)
    assert not any(words in said for words in (b"root:", b"PRIVATE KEY", b"Location"))


def test_metrics_and_health_alone_are_there_for_machines_under_any_name(site: Listener) -> None:
    for path in OPEN_PATHS:
        answer, page = site.ask("GET", path, headers={"Host": "prometheus.example"})
        assert (answer.status in (200, 503)) == ("onlysum-login" in site.cookie)
        assert site.secret not in page


def _port(site: Listener) -> str:
    return site.address.rpartition(":")[2]


def _button(site: Listener) -> str:
    """Return where a form of the site leads."""
    return f"/plans/{PLAN.run_id}/refuse" if COOKIE in site.cookie else "/invitations"


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
