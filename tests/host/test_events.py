"""Events: what is sent and to whom, and that nobody who gets them can hold anything up."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from pydantic import ValidationError

from host.events import webhook
from host.events.announcer import ATTEMPTS, MOST_WAITING, Announcer, Told
from host.events.event import KINDS, MOST_SUBJECT, MOST_TEXT, Event, Events
from host.logs import configure

EVENT = Event("run-ended", 0, "clinics", "coordinator", "ab" * 16, "run abababab is completed")
HOOK = Events(webhook="https://hooks.example.org/a-secret-path")
PATIENCE = 20.0  # far more than any call may take


# --- configuration ---


@pytest.mark.parametrize(
    "address",
    [
        "http://hooks.example.org/x",
        "http://127.0.0.1.example.org/x",
        "http://10.0.0.5/x",
        "ftp://hooks.example.org/x",
        "hooks.example.org",
        "https://",
        "https://user:password@hooks.example.org/x",
        "https://user@hooks.example.org/x",
        "https://hooks.example.org/x#part",
        "https://hooks.example.org:99999/x",
        "https://hooks.example.org:0/x",
        "https://hooks.example.org/a b",
        "https://hooks.example.org/" + "x" * 2000,
        "https://[::1",
    ],
)
def test_a_webhook_is_https_or_on_this_machine_and_has_no_password(address: str) -> None:
    with pytest.raises(ValidationError):
        Events(webhook=address)


@pytest.mark.parametrize(
    "address",
    ["https://hooks.example.org/x?y=z", "https://[2001:db8::1]:8443/", "http://127.0.0.1:9000/x", "http://[::1]/x",
     "http://localhost/x", ""],
)  # fmt: skip
def test_a_webhook_may_be(address: str) -> None:
    assert Events(webhook=address).wanted == bool(address)


def test_kinds_without_anybody_who_gets_them_are_a_mistake() -> None:
    with pytest.raises(ValidationError):
        Events(kinds=("run-ended",))
    with pytest.raises(ValidationError):
        Events.model_validate({"webhook": "https://hooks.example.org", "kinds": ["everything"]})


def test_an_event_is_one_bounded_line_that_can_be_shown() -> None:
    nasty = "\x1b[2J\n" * 500
    data = Event("member-lost", 0, nasty, nasty, nasty, nasty).to_bytes()
    assert data.count(b"\n") == 1
    assert len(data) < 8 * (3 * MOST_SUBJECT + MOST_TEXT)
    value = json.loads(data)
    assert set(value) == {"version", "kind", "at", "federation", "reporter", "subject", "text"}
    assert all(text.isprintable() for text in value.values() if isinstance(text, str))


# --- one try ---


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Answer every connection by a function, in threads; yield the webhook's address."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answered, args=[client], daemon=True).start()

    def answered(client: socket.socket) -> None:
        with client:
            try:
                answer(client)
            except OSError:
                return  # cut, which is what several tests want

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/hook"
    finally:
        server.close()


def status(line: str, more: str = "") -> Callable[[socket.socket], None]:
    def answer(client: socket.socket) -> None:
        client.recv(65_536)
        client.sendall(f"HTTP/1.1 {line}\r\n{more}Content-Length: 0\r\n\r\n".encode())

    return answer


def test_the_body_arrives_as_it_is() -> None:
    got: list[bytes] = []

    def answer(client: socket.socket) -> None:
        while not b"".join(got).endswith(EVENT.to_bytes()):
            got.append(client.recv(65_536))
        client.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with listening(answer) as url:
        assert webhook.post(url, EVENT.to_bytes(), seconds=PATIENCE, headers={}) == ("", False)
    head, _, body = b"".join(got).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /hook HTTP/1.1")
    assert body == EVENT.to_bytes()


@pytest.mark.parametrize(
    ("line", "says", "again"),
    [("500 No", "status 500", True), ("429 Slow", "status 429", True), ("404 No", "status 404", False),
     ("403 No", "status 403", False)],
)  # fmt: skip
def test_what_may_pass_is_told_from_what_will_not(line: str, says: str, again: bool) -> None:
    with listening(status(line)) as url:
        assert webhook.post(url, b"{}\n", seconds=PATIENCE, headers={}) == (says, again)


def test_a_redirect_is_not_followed() -> None:
    elsewhere: list[bytes] = []
    with (
        listening(lambda client: elsewhere.append(client.recv(1))) as other,
        listening(status("307 There", f"Location: {other}\r\n")) as url,
    ):
        assert webhook.post(url, b"{}\n", seconds=PATIENCE, headers={}) == ("status 307", False)
    assert elsewhere == []


def silent(client: socket.socket) -> None:
    client.recv(65_536)
    threading.Event().wait(PATIENCE)


def dripping(client: socket.socket) -> None:
    client.recv(65_536)
    client.sendall(b"HTTP/1.1 200 ")
    while True:
        client.sendall(b"x")
        time.sleep(0.05)


@pytest.mark.parametrize("answer", [silent, dripping])
def test_a_webhook_that_hangs_is_cut(answer: Callable[[socket.socket], None]) -> None:
    began = time.monotonic()
    with listening(answer) as url:
        why, again = webhook.post(url, b"{}\n", seconds=0.5, headers={})
    assert why
    assert again
    assert time.monotonic() - began < PATIENCE / 2


def test_nobody_who_listens_is_a_failure_and_no_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert webhook.post(f"http://127.0.0.1:{port}/", b"", seconds=PATIENCE, headers={}) == (
        "ConnectionRefusedError",
        True,
    )
    assert webhook.post("https://\u00e4" + "x" * 80 + ".invalid/", b"", seconds=PATIENCE, headers={})[0]


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def test_a_command_reads_the_event_and_knows_no_secret_of_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "a-secret")
    out = tmp_path / "out"
    script = f"import os, sys; open({str(out)!r}, 'w').write(sys.stdin.read() + repr(dict(os.environ)))"
    assert webhook.run(python(script), EVENT.to_bytes(), seconds=PATIENCE) == ""
    text = out.read_text()
    assert text.startswith(EVENT.to_bytes().decode())
    assert "a-secret" not in text


def test_a_command_that_fails_is_not_there_or_hangs_says_so_and_ends(tmp_path: Path) -> None:
    assert webhook.run(python("raise SystemExit(7)"), b"", seconds=PATIENCE) == "exit code 7"
    assert webhook.run(["/nowhere"], b"", seconds=PATIENCE) == "FileNotFoundError"
    mark = tmp_path / "mark"
    late = f"import time; time.sleep(3); open({str(mark)!r}, 'w')"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {late!r}])"
    assert webhook.run(python(script), b"", seconds=1) == "not done within 1 s"
    time.sleep(3.5)
    assert not mark.exists()  # what it started ended with it


# --- telling ---


class Taken:
    """A webhook that answers as it is told, and counts."""

    def __init__(self, *answers: tuple[str, bool]) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.asked = threading.Event()

    def __call__(self, url: str, body: bytes, *, seconds: float, headers: Mapping[str, str]) -> tuple[str, bool]:
        self.bodies.append(body)
        self.headers.append(dict(headers))
        answer = self.answers.pop(0) if self.answers else ("", False)
        if not self.answers:
            self.asked.set()
        return answer


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def announcing(told: Told, post: Callable[..., tuple[str, bool]], settings: Events = HOOK) -> Iterator[Announcer]:
    announcer = Announcer(settings, told, post=post, pauses=(0.01, 0.01))
    announcer.start()
    try:
        yield announcer
    finally:
        announcer.close()
        announcer.join(PATIENCE)
        assert not announcer.is_alive()


def kept(path: Path) -> list[str]:
    return list(json.loads(path.read_text())) if path.exists() else []


def test_an_event_is_told_once_also_after_a_restart(tmp_path: Path) -> None:
    file, taken = tmp_path / "events.json", Taken()
    with announcing(Told(file), taken) as announcer:
        announcer.announce("a", EVENT)
        announcer.announce("a", EVENT)
        until(lambda: kept(file) == ["a"])
    with announcing(Told(file), taken) as announcer:
        announcer.announce("a", EVENT)
        announcer.announce("b", EVENT)
        until(lambda: kept(file) == ["a", "b"])
    assert len(taken.bodies) == 2


def test_what_fails_is_tried_a_stated_number_of_times_and_the_log_does_not_name_the_path(tmp_path: Path) -> None:
    log, file = StringIO(), tmp_path / "events.json"
    configure(log, "info", tracebacks=False)
    taken = Taken(*[("status 500", True)] * 10)
    with announcing(Told(file), taken) as announcer:
        announcer.announce("a", EVENT)
        until(lambda: kept(file) == ["a"])
    assert len(taken.bodies) == ATTEMPTS == 3
    assert "event-not-told" in log.getvalue()
    assert "hooks.example.org" in log.getvalue()
    assert "a-secret-path" not in log.getvalue()


def test_what_no_repetition_mends_is_tried_once(tmp_path: Path) -> None:
    file, taken = tmp_path / "events.json", Taken(("status 404", False), ("", False))
    with announcing(Told(file), taken) as announcer:
        announcer.announce("a", EVENT)
        until(lambda: kept(file) == ["a"])
    assert len(taken.bodies) == 1


def test_a_webhook_that_hangs_holds_up_nobody_who_announces(tmp_path: Path) -> None:
    release = threading.Event()

    def hangs(url: str, body: bytes, *, seconds: float, headers: Mapping[str, str]) -> tuple[str, bool]:
        release.wait(PATIENCE)
        return "", False

    log, began = StringIO(), time.monotonic()
    configure(log, "info", tracebacks=False)
    with announcing(Told(tmp_path / "events.json"), hangs) as announcer:
        for number in range(3 * MOST_WAITING):
            announcer.announce(str(number), EVENT)
        assert time.monotonic() - began < PATIENCE / 2
        assert "event-dropped" in log.getvalue()
        release.set()


def test_an_event_that_a_stop_interrupted_is_told_again(tmp_path: Path) -> None:
    file, taken = tmp_path / "events.json", Taken(("status 500", True))
    announcer = Announcer(HOOK, Told(file), post=taken, pauses=(PATIENCE, PATIENCE))
    announcer.start()
    announcer.announce("a", EVENT)
    assert taken.asked.wait(PATIENCE)
    announcer.close()
    announcer.join(PATIENCE)
    assert kept(file) == []
    with announcing(Told(file), taken) as again:
        again.announce("a", EVENT)
        until(lambda: kept(file) == ["a"])


def test_kinds_that_nobody_wants_are_told_nobody(tmp_path: Path) -> None:
    taken, file = Taken(), tmp_path / "events.json"
    few = Events(webhook=HOOK.webhook, kinds=("member-lost",))
    with announcing(Told(file), taken, few) as announcer:
        announcer.announce("a", EVENT)
        announcer.announce("b", Event("member-lost", 0, "clinics", "coordinator", "bob", "bob is away"))
        until(lambda: kept(file) == ["b"])
    assert [json.loads(body)["kind"] for body in taken.bodies] == ["member-lost"]
    assert "member-lost" in KINDS


def test_a_file_that_does_not_parse_counts_as_none(tmp_path: Path) -> None:
    file = tmp_path / "events.json"
    file.write_text("[1, ")
    told = Told(file)
    assert told.fresh
    assert told.begin("a")
    assert not told.begin("a")
