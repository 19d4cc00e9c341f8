"""A proxy that does not open the way is named; the coordinator behind it is not blamed."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from participant.link import proxy
from participant.link.proxy import dialled, explain_proxy
from privacy.errors import NetworkError

HOST = "127.0.0.1"
TARGET = "sum.example.org:8443"
ANSWERS = {
    "a login is asked for": (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "E-NET-PROXY", "another login"),
    "the address is not allowed": (b"HTTP/1.1 403 Forbidden\r\n\r\n", "E-NET-PROXY", "does not let .*8443 pass .*403"),
    "CONNECT is not known": (b"HTTP/1.0 405 Method\r\n\r\n", "E-NET-PROXY", "does not let .*405"),
    "the coordinator is silent": (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "E-NET-REFUSED", "cannot reach sum.ex"),
    "no HTTP is spoken": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "E-NET-PROXY", "no HTTP proxy"),
    "nothing is said": (b"", "E-NET-PROXY", "no HTTP proxy"),
    "headers have no end": (b"HTTP/1.1 200 OK\r\n" + b"x" * proxy.MAX_PROXY_ANSWER, "", ""),
}


@contextlib.contextmanager
def answering(answer: bytes, asked: list[bytes]) -> Iterator[str]:
    """Give the address of a server that answers one request with these bytes and closes."""
    with socket.create_server((HOST, 0)) as server:

        def serve() -> None:
            caller, _ = server.accept()
            with caller:
                asked.append(caller.recv(4096))
                caller.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"{HOST}:{server.getsockname()[1]}"
        thread.join(5)


@pytest.mark.parametrize("sentence", ANSWERS)
def test_what_a_proxy_answers_is_told_apart(sentence: str) -> None:
    answer, code, words = ANSWERS[sentence]
    asked: list[bytes] = []
    with answering(answer, asked) as address:
        error = explain_proxy(TARGET, f"http://anna:secret@{address}")
    assert asked[0].startswith(b"CONNECT sum.example.org:8443 HTTP/1.1\r\n")
    if not code:
        assert error is None
        return
    assert error is not None
    assert error.code == code
    with pytest.raises(NetworkError, match=f"the proxy {address}.*{words}"):
        raise error
    assert "secret" not in str(error)


def test_a_proxy_that_is_not_there_is_named_by_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((HOST, 0)) as server:
        silent = f"{HOST}:{server.getsockname()[1]}"
        monkeypatch.setattr(proxy, "PROBE_SECONDS", 0.2)
        told = explain_proxy(TARGET, f"http://{silent}")
    gone = explain_proxy(TARGET, f"http://{silent}")
    nameless = explain_proxy(TARGET, "http://proxy.invalid:3128")
    assert [error.code for error in (told, gone, nameless) if error] == ["E-NET-PROXY"] * 3
    assert told is not None
    assert told.detail == f"the proxy {silent}: it took the connection and then did not answer"
    assert gone is not None
    assert gone.detail == f"the proxy {silent}: it does not answer: Connection refused"
    assert nameless is not None
    assert nameless.detail == "the proxy proxy.invalid:3128: its name does not resolve"


def test_without_a_proxy_an_address_is_dialled_itself_ipv6_too() -> None:
    with socket.create_server((HOST, 0)) as server, dialled(f"{HOST}:{server.getsockname()[1]}", "") as raw:
        assert raw.getpeername() == server.getsockname()
    with pytest.raises(OSError, match=r"refused|unreachable|assign"), dialled("[::1]:9", ""):
        pass
