"""An S3-compatible store on the loopback interface, by moto, that answers slowly, wrongly or not at all when told to.

Guarantees: what is not disturbed is moto's own answer; a disturbed request reaches moto or not, as its fault says.
"""

from __future__ import annotations

import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from coordinator.storage.configured import Storage
from coordinator.storage.objects import Keys, ObjectBlobs, Patience
from privacy.secret import SecretBytes
from simulation.ports import HOST, free_ports

if TYPE_CHECKING:
    from werkzeug.serving import BaseWSGIServer

KEY_ID, SECRET = "AKIDEXAMPLE", "not-a-secret-of-anybody"
SHORT = Patience(connect=0.5, request=1.0, retries=1, retry=2.0)
HANGS_SECONDS: Final = 3.0
Start = Callable[..., Any]
Application = Callable[[dict[str, Any], Start], Iterable[bytes]]


class Fault(Enum):
    """What a store does wrong."""

    ERRORS = "answers 500"
    REFUSES = "answers 403"
    HANGS = "answers nothing"
    LOSES_ANSWER = "does what it is asked, and answers 500"
    CUTS = "cuts a body short"
    CHANGES = "changes a byte of a body"
    SHORTENS = "sends fewer bytes than were asked for"
    NO_CONDITIONS = "does not know If-None-Match"


class ObjectServer:
    """The server, with one bucket; it runs until :meth:`close`."""

    bucket: Final = "a-bucket"

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # takes a while
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_: object, **__: object) -> None:
                """Say nothing."""

        self._moto: Application = DomainDispatcherApplication(create_backend_app)
        self._faults: list[list[Any]] = []  # fault, method, how often it is still done
        self.requests: list[str] = []  # method and path
        self.headers: list[dict[str, str]] = []  # of the same requests
        (port,) = free_ports(1)
        self.endpoint = f"http://{HOST}:{port}"
        self._server: BaseWSGIServer = make_server(HOST, port, self._answer, threaded=True, request_handler=Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        made = urllib.request.Request(f"{self.endpoint}/{self.bucket}", method="PUT")
        with urllib.request.urlopen(made, timeout=10) as answer:
            assert answer.status == 200

    def storage(self, prefix: str, directory: Path, *, bucket: str = "") -> Storage:
        """Return the section of coordinator.toml for a prefix; a file of credentials is put into a directory."""
        file = directory / "s3.toml"
        text = f'access_key_id = "{KEY_ID}"\nsecret_access_key = "{SECRET}"\n'
        with open(file, "w", opener=_private) as opened:
            opened.write(text)
        url = f"s3://{bucket or self.bucket}/{prefix}"
        return Storage(url=url, endpoint=self.endpoint, credentials=str(file))

    def blobs(self, prefix: str, *, bucket: str = "", patience: Patience = SHORT) -> ObjectBlobs:
        """Return the place under a prefix."""
        keys = Keys(KEY_ID, SecretBytes(SECRET.encode()))
        return ObjectBlobs(
            bucket or self.bucket, prefix, endpoint=self.endpoint, region="us-east-1", keys=keys, patience=patience
        )

    @contextmanager
    def fault(self, fault: Fault, method: str = "", *, times: int = 2**31) -> Iterator[None]:
        """Do something wrong, with requests of a method or with all, so often or while the block runs."""
        self._faults.append([fault, method, times])
        try:
            yield
        finally:
            self._faults.clear()

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        self.requests.append(f"{method} {environ['PATH_INFO']}")
        self.headers.append({name: str(value) for name, value in environ.items() if name.startswith("HTTP_")})
        self.headers[-1]["method"] = method
        match self._due(method):
            case None:
                return self._moto(environ, start)
            case Fault.HANGS:
                time.sleep(HANGS_SECONDS)
                return _error(start, "500 Internal Server Error", "InternalError")
            case Fault.ERRORS:
                return _error(start, "500 Internal Server Error", "InternalError")
            case Fault.REFUSES:
                return _error(start, "403 Forbidden", "AccessDenied")
            case Fault.NO_CONDITIONS:
                if "HTTP_IF_NONE_MATCH" in environ:
                    return _error(start, "501 Not Implemented", "NotImplemented")
                return self._moto(environ, start)
            case Fault.LOSES_ANSWER:
                b"".join(self._moto(environ, lambda *_: None))
                return _error(start, "500 Internal Server Error", "InternalError")
            case changed:
                return self._changed(environ, start, changed)

    def _due(self, method: str) -> Fault | None:
        for entry in self._faults:
            if entry[1] in ("", method) and entry[2]:
                entry[2] -= 1
                fault: Fault = entry[0]
                return fault
        return None

    def _changed(self, environ: dict[str, Any], start: Start, fault: Fault) -> Iterable[bytes]:
        said: list[Any] = []
        body = b"".join(self._moto(environ, lambda *words: said.extend(words)))
        status, headers = said[0], list(said[1])
        body = bytes([body[0] ^ 1]) + body[1:] if fault is Fault.CHANGES else body[: len(body) // 2]
        if fault is Fault.SHORTENS:
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
            headers.append(("Content-Length", str(len(body))))
        start(status, headers)
        return [body]


def _error(start: Start, status: str, code: str) -> Iterable[bytes]:
    body = f"<Error><Code>{code}</Code><Message>words of a stranger \x1b[31m</Message></Error>".encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
