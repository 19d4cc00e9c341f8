"""The section ``[storage]`` of coordinator.toml, and the place that it names.

Guarantees: no key is in coordinator.toml: they come from a file that only its owner can read, from the environment, or
from the machine's role; beyond this machine a server is spoken to over TLS.
Leaves to others: what lies there (``content``, ``coordinator.runs.uploads``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from coordinator.storage.blobs import Blobs, DirectoryBlobs
from host.credentials import check_private
from host.events.event import is_loopback
from host.settings import Section, parse
from privacy.errors import LocalError
from privacy.secret import SecretBytes

_BUCKET: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/(?!\.)[A-Za-z0-9._-]+)*)/?")
_FORM: Final = "a storage is s3://BUCKET/PREFIX, or file:///DIRECTORY that all coordinators see"
_FILE: Final = "file://"
KEY_ID, SECRET, TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"


def _url(value: str) -> str:
    if value.startswith(_FILE) and Path(value.removeprefix(_FILE)).is_absolute():
        return value
    if _BUCKET.fullmatch(value) is None:
        raise ValueError(_FORM)
    return value


def _endpoint(value: str) -> str:
    if not value:
        return value
    form = "an endpoint is https://HOST, with a port if it is not 443, and nothing after it"
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(form) from None
    if not host or parts.username is not None or parts.path or parts.query or parts.fragment:
        raise ValueError(form)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ValueError("an endpoint is https://, or on this machine: what is stored would travel in the clear")
    return value


class Storage(Section):
    """Where uploads and runs are kept, if not in this machine's directory."""

    url: Annotated[str, AfterValidator(_url)]
    endpoint: Annotated[str, AfterValidator(_endpoint)] = ""  # of a server that is not Amazon's
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] = "us-east-1"
    credentials: str = ""  # a file, 0600; empty: the environment, or the role of the machine

    @model_validator(mode="after")
    def _of_a_bucket(self) -> Self:
        if self.url.startswith(_FILE) and (self.endpoint or self.credentials):
            raise ValueError("endpoint and credentials are a bucket's: a directory has neither")
        file = Path(self.credentials)
        if self.credentials and not file.is_absolute() and file.name != self.credentials:
            raise ValueError("credentials is the name of a file in this directory, or a whole path")
        return self


class KeyFile(Section):
    """The file of credentials."""

    access_key_id: Annotated[str, Field(min_length=1, repr=False)]
    secret_access_key: Annotated[str, Field(min_length=1, repr=False)]
    session_token: Annotated[str, Field(repr=False)] = ""


def open_blobs(storage: Storage, directory: Path, environment: Mapping[str, str] = os.environ) -> Blobs:
    """Return the place that a section names; nothing is asked of it yet.

    Args:
        storage: the section.
        directory: of the coordinator, from which a relative path of a file of credentials is taken.
        environment: where keys may be.

    Raises:
        LocalError: ``E-EXTRA-MISSING``; ``E-CONFIG-MISSING``, ``E-CONFIG-INVALID``, ``E-CONFIG-UNKNOWN-KEY`` or
            ``E-PERMISSIONS``, of the credentials.
    """
    if storage.url.startswith(_FILE):
        return DirectoryBlobs(Path(storage.url.removeprefix(_FILE)))
    named = _BUCKET.fullmatch(storage.url)
    if named is None:
        raise LocalError("E-CONFIG-INVALID", _FORM)
    from coordinator.storage.objects import Keys, ObjectBlobs

    known = _keys(storage, directory, environment)
    keys = None
    if known is not None:
        token = SecretBytes(known.session_token.encode()) if known.session_token else None
        keys = Keys(known.access_key_id, SecretBytes(known.secret_access_key.encode()), token)
    return ObjectBlobs(named[1], named[2].strip("/"), endpoint=storage.endpoint, region=storage.region, keys=keys)


def _keys(storage: Storage, directory: Path, environment: Mapping[str, str]) -> KeyFile | None:
    """Return the keys of the file or of the environment, or ``None``: the machine's role signs, if it has one."""
    if storage.credentials:
        path = directory / storage.credentials
        check_private(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise LocalError("E-CONFIG-INVALID", f"{path} cannot be read as text") from None
        return parse(text, KeyFile, file=path.name)
    if KEY_ID in environment or SECRET in environment:
        try:
            return KeyFile(
                access_key_id=environment[KEY_ID],
                secret_access_key=environment[SECRET],
                session_token=environment.get(TOKEN, ""),
            )
        except (KeyError, ValueError):
            raise LocalError("E-CONFIG-MISSING", f"the environment has one of {KEY_ID} and {SECRET} alone") from None
    return None
