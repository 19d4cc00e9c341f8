"""The signature of a webhook's events: from a file to the header, and as the documents say to verify it."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any

import pytest
from pydantic import ValidationError

import onlysum
from host.events import webhook
from host.events.announcer import Announcer, Told
from host.events.event import Event, Events
from host.events.signature import HEADER, LEAST_BYTES, MOST_BYTES, load_secret, signature
from host.logs import configure
from privacy.errors import LocalError
from privacy.secret import SecretBytes
from tests.worlds.enrolled import authority, enrol

DOCUMENT = Path(__file__).parents[2] / "docs" / "operator.md"
SECRET = b"0123456789abcdef"
EVENT = Event("run-ended", 0, "clinics", "coordinator", "ab" * 16, "run abababab is completed")
SETTINGS = Events(webhook="https://hooks.example.org/onlysum", secret_file="webhook.secret")
PATIENCE = 20.0


def secret_in(directory: Path, content: bytes, *, mode: int = 0o600) -> Path:
    file = directory / "webhook.secret"
    file.write_bytes(content)
    file.chmod(mode)
    return file


def documented() -> Callable[..., bool]:
    """Return the function that the documents show to receivers, compiled from there."""
    section = DOCUMENT.read_text().partition("## Told without looking")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(DOCUMENT), "exec"), names)
    verifies: Callable[..., bool] = names["is_genuine"]
    return verifies


# --- the secret ---


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_secret_is_the_content_of_its_file_without_the_last_line_break(tmp_path: Path, end: bytes) -> None:
    secret_in(tmp_path, SECRET + end)
    loaded = load_secret(tmp_path, SETTINGS)
    assert loaded is not None
    assert loaded.reveal() == SECRET
    assert SECRET.decode() not in repr(loaded)


def test_a_secret_may_lie_anywhere_and_need_not_be(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    named = SETTINGS.model_copy(update={"secret_file": str(secret_in(elsewhere, SECRET))})
    loaded = load_secret(tmp_path, named)
    assert loaded is not None
    assert load_secret(tmp_path, Events(webhook=SETTINGS.webhook)) is None


REFUSED: dict[str, tuple[bytes, int, str]] = {
    "others can read it": (SECRET, 0o640, "E-PERMISSIONS"),
    "everybody can read it": (SECRET, 0o604, "E-PERMISSIONS"),
    "it is empty": (b"\n", 0o600, "E-CONFIG-INVALID"),
    "it is too short": (b"x" * (LEAST_BYTES - 1), 0o600, "E-CONFIG-INVALID"),
    "it is too long": (b"x" * (MOST_BYTES + 1), 0o600, "E-CONFIG-INVALID"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_secret_is_refused_if(case: str, tmp_path: Path) -> None:
    content, mode, code = REFUSED[case]
    secret_in(tmp_path, content, mode=mode)
    with pytest.raises(LocalError) as refused:
        load_secret(tmp_path, SETTINGS)
    assert refused.value.code == code
    assert SECRET.decode() not in refused.value.detail


def test_a_secret_that_is_missing_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="E-CONFIG-MISSING"):
        load_secret(tmp_path, SETTINGS)
    (tmp_path / "webhook.secret").mkdir(mode=0o700)
    with pytest.raises(LocalError, match="E-DISK-FAILED"):
        load_secret(tmp_path, SETTINGS)


def test_a_secret_without_a_webhook_is_a_mistake() -> None:
    with pytest.raises(ValidationError):
        Events(command=("true",), secret_file="webhook.secret")


@pytest.mark.parametrize("kind", ["coordinator", "participant"])
def test_neither_daemon_starts_without_the_secret_that_its_configuration_names(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / kind
    if kind == "coordinator":
        words = ["coordinator", "init", str(home), "--name", "clinics", "--operator", "I", "--address", "localhost:1"]
        assert onlysum.run(words) == 0
    else:
        enrol(home, authority())
    with (home / f"{kind}.toml").open("a") as file:
        file.write('\n[events]\nwebhook = "https://hooks.example.org/x"\nsecret_file = "webhook.secret"\n')
    capsys.readouterr()
    assert onlysum.run([kind, "start", "--config", str(home)]) == 2
    assert "E-CONFIG-MISSING" in capsys.readouterr().err
    onlysum.run([kind, "doctor", "--config", str(home), "--json"])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert not checks["configuration"]["ok"]
    assert "webhook.secret is missing" in checks["configuration"]["detail"]


# --- the header ---


def test_the_header_is_an_hmac_over_the_time_and_the_body() -> None:
    body = EVENT.to_bytes()
    expected = hmac.new(SECRET, b"1700000000." + body, hashlib.sha256).hexdigest()
    assert signature(SecretBytes(SECRET), body, at=1_700_000_000) == f"t=1700000000,v1={expected}"


def test_the_lines_in_the_documents_take_what_is_signed_and_nothing_else() -> None:
    is_genuine, body, now = documented(), EVENT.to_bytes(), int(time.time())
    header = signature(SecretBytes(SECRET), body, at=now)
    assert is_genuine(SECRET, header, body)
    assert not is_genuine(SECRET, header, body + b" ")
    assert not is_genuine(SECRET[:-1] + b"x", header, body)
    assert not is_genuine(SECRET, header.replace(f"t={now}", f"t={now + 1}"), body)
    assert not is_genuine(SECRET, signature(SecretBytes(SECRET), body, at=now - 3600), body)
    for broken in (
        "",
        "t=,v1=",
        "v1=" + "0" * 64,
        f"t={now}",
        f"t={now},v1=\u00e9",
        "t=\u00b2,v1=x",
        "t=" + "1" * 5000 + ",v1=x",
        ",,=,==",
    ):
        assert not is_genuine(SECRET, broken, body)


class Receiver(HTTPServer):
    """A webhook that refuses the first try and keeps what came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heard: list[tuple[str, bytes]] = []
        self.twice = Flag()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.headers.get(HEADER, ""), body))
        self.send_response(204 if len(self.server.heard) > 1 else 500)
        self.end_headers()
        if len(self.server.heard) > 1:
            self.server.twice.set()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as the base class names it
        """Say nothing."""


class Ticking:
    """A clock that is a second later each time."""

    def __init__(self) -> None:
        self.seconds = time.time()

    def now(self) -> float:
        """Return seconds since the Unix epoch."""
        self.seconds += 1
        return self.seconds

    def monotonic(self) -> float:
        """Return seconds that never go backwards."""
        return self.seconds


def test_each_try_is_signed_anew_and_no_log_has_the_secret(tmp_path: Path) -> None:
    log, receiver = StringIO(), Receiver()
    configure(log, "debug", tracebacks=False)
    Thread(target=receiver.serve_forever, daemon=True).start()
    announcer = Announcer(
        Events(webhook=receiver.url),
        Told(tmp_path / "events.json"),
        secret=SecretBytes(SECRET),
        clock=Ticking(),
        post=webhook.post,
        pauses=(0.01, 0.01),
    )
    announcer.start()
    announcer.announce("a", EVENT)
    assert receiver.twice.wait(PATIENCE)
    announcer.close()
    announcer.join(PATIENCE)
    receiver.shutdown()
    receiver.server_close()
    (first, body), (second, again) = receiver.heard
    assert body == again == EVENT.to_bytes()
    assert first != second
    assert all(documented()(SECRET, header, body) for header in (first, second))
    assert json.loads(body)["kind"] == "run-ended"
    assert SECRET.decode() not in log.getvalue() + repr(announcer.__dict__)


def test_without_a_secret_nothing_is_signed(tmp_path: Path) -> None:
    receiver = Receiver()
    receiver.heard.append(("", b""))  # so that the first try is taken
    Thread(target=receiver.serve_forever, daemon=True).start()
    announcer = Announcer(Events(webhook=receiver.url), Told(tmp_path / "events.json"))
    announcer.start()
    announcer.announce("a", EVENT)
    assert receiver.twice.wait(PATIENCE)
    announcer.close()
    announcer.join(PATIENCE)
    receiver.shutdown()
    receiver.server_close()
    assert receiver.heard[1] == ("", EVENT.to_bytes())
