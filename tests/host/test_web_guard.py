"""Pages tell neither who asked nor the log what an error held, and no repr holds a key, a password or an update."""

from __future__ import annotations

import asyncio
import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from starlette.requests import Request
from starlette.responses import Response

from coordinator.dashboard.accounts import Login
from coordinator.database.user_rows import UserRecord, UserRole
from host.logs import configure
from host.web.guard import Guard, Origins
from host.web.pages import Pages
from methods.uploads import Steps
from participant.page.app import OwnerPage
from participant.protocol.transitions import EncodedUpdate

PAGES = Pages("participant.page", federation="clinics", site="alice")
ADDRESS = "127.0.0.1:8450"
USER = UserRecord("anna", UserRole.OPERATOR, "a-hash-to-guess-at", 0)
VALUES = np.full(3, 7351.0, dtype=np.float32)


async def broken(request: Request) -> Response:
    raise ValueError("row 3 says: zebra")


def asked(query: bytes) -> Request:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": query,
        "headers": [(b"host", ADDRESS.encode())],
    }
    return Request(scope)


def test_an_owners_page_that_fails_tells_its_log_what_kind_of_error_it_was_and_no_words_of_it() -> None:
    stream = StringIO()
    configure(stream, "info", tracebacks=False)
    response = asyncio.run(Guard(PAGES, Origins(ADDRESS))(asked(b"key=the-key"), broken))
    assert response.status_code == 500
    (line,) = (json.loads(text) for text in stream.getvalue().splitlines())
    assert (line["event"], line["kind"], line["method"]) == ("page failed", "ValueError", "GET")
    for text in (stream.getvalue(), bytes(response.body).decode()):
        assert "zebra" not in text
        assert "the-key" not in text


@pytest.mark.parametrize(
    ("value", "secret"),
    [
        (USER, "a-hash-to-guess-at"),
        (Login(USER, "a-token"), "a-token"),
        (OwnerPage(Path("alice"), PAGES, "a-key-of-a-page"), "a-key-of-a-page"),
        (EncodedUpdate(np.full(3, 7351, dtype=np.uint32)), "7351"),
        (Steps(number=1, start=np.zeros(3), end=VALUES.astype(np.float64), kept=VALUES, reach=np.ones(3)), "7351"),
    ],
    ids=["a user", "a login", "a page", "an update", "local steps"],
)
def test_a_repr_has_nothing_of(value: object, secret: str) -> None:
    assert secret not in repr(value)
