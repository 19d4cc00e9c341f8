"""Blobs as objects of an S3-compatible store, through the library obstore.

Guarantees: every request ends within :data:`REQUEST_SECONDS`, and a call after a few tries; a put is acknowledged
before it returns, is refused where the name is taken (``If-None-Match``), and carries its SHA-256 for the server to
check; what a server says is shown as its status and its code alone.
Leaves to others: who compares hashes of what is read (``blobs``), where the keys come from (``configured``).
Source: Amazon S3 API Reference, PutObject and "conditional writes"; the crate object_store.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from coordinator.storage.blobs import BLOCK_BYTES, Blob, check_name, damaged
from host import durable
from privacy.errors import LocalError
from privacy.secret import SecretBytes

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Store

CONNECT_SECONDS: Final = 5.0
REQUEST_SECONDS: Final = 20.0  # for a block of 8 MiB: a line of 420 kB/s
RETRIES: Final = 3
RETRY_SECONDS: Final = 60.0  # after which a request is not tried again
PARTS_AT_ONCE: Final = 4
_STATUS: Final = re.compile(r"status code: (\d{3})\b")
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9]{1,64})</Code>")
_NO_BUCKET: Final = "NoSuchBucket"
_NOT_LET_IN: Final = ("status 401", "status 403")
_NO_CONDITIONS: Final = ("501", "NotImplemented")  # of a server that knows no If-None-Match


@dataclass(frozen=True, slots=True)
class Keys:
    """What signs requests."""

    access_key_id: str = field(repr=False)
    secret_access_key: SecretBytes
    session_token: SecretBytes | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is waited for, in seconds, and how often it is asked again."""

    connect: float = CONNECT_SECONDS
    request: float = REQUEST_SECONDS
    retries: int = RETRIES
    retry: float = RETRY_SECONDS


class ObjectBlobs:
    """Blobs under a prefix of a bucket."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str = "",
        region: str,
        keys: Keys | None,
        patience: Patience = Patience(),  # frozen
    ) -> None:
        """Name a bucket; nothing is asked of it yet.

        Args:
            bucket: is there already.
            prefix: with which all names begin.
            endpoint: URL of the server; empty for Amazon's.
            region: in which it is.
            keys: that sign requests; ``None`` for those of the machine's role.
            patience: with the server.

        Raises:
            LocalError: ``E-EXTRA-MISSING``.
        """
        self._place = f"s3://{bucket}/{prefix}".rstrip("/") + (f" at {endpoint}" if endpoint else "")
        self._store = _store(bucket, prefix, endpoint, region, keys, patience)

    @property
    def place(self) -> str:
        """The bucket's URL, and its server's."""
        return self._place

    def put_new(self, name: str, source: Path, *, sha256: bytes) -> None:
        """As :meth:`Blobs.put_new`; one request up to 8 MiB, and in parts above, which have no condition."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        check_name(name)
        with self._refusals(name):
            try:
                if source.stat().st_size <= BLOCK_BYTES:
                    self._create(name, source.read_bytes())
                elif not self._has(name):
                    obstore.put(self._store, name, source, chunk_size=BLOCK_BYTES, max_concurrency=PARTS_AT_ONCE)
                else:
                    self._require_same(name, source, sha256)
            except AlreadyExistsError:
                self._require_same(name, source, sha256)

    def _create(self, name: str, data: bytes) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            obstore.put(self._store, name, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            raise
        except BaseError as error:
            if not any(words in _said(error) for words in _NO_CONDITIONS):
                raise
            if self._has(name):
                raise AlreadyExistsError from None
            obstore.put(self._store, name, data, use_multipart=False)

    def _has(self, name: str) -> bool:
        import obstore

        try:
            obstore.head(self._store, name)
        except FileNotFoundError as error:
            if _NO_BUCKET in str(error):
                raise
            return False
        return True

    def _require_same(self, name: str, source: Path, sha256: bytes) -> None:
        """Refuse a name that is taken by other bytes: an earlier try may have put the same, and lost the answer."""
        import hashlib

        digest = hashlib.sha256()
        for block in self.blocks(name, length=source.stat().st_size):
            digest.update(block)
        if digest.digest() != sha256:
            raise damaged(f"{name} in {self.place} has other bytes already")

    def blocks(self, name: str, *, length: int) -> Iterator[bytes]:
        """As :meth:`Blobs.blocks`: a request for each, so that a slow line is slow and not too slow."""
        import obstore

        check_name(name)
        for start in range(0, length, BLOCK_BYTES):
            asked = min(BLOCK_BYTES, length - start)
            with self._refusals(name):
                block = obstore.get_range(self._store, name, start=start, length=asked).to_bytes()
            if len(block) != asked:
                raise LocalError("E-STORAGE-AWAY", f"{name} in {self.place}: {len(block)} bytes came of {asked}")
            yield block

    def list(self, prefix: str) -> tuple[Blob, ...]:
        """As :meth:`Blobs.list`."""
        import obstore

        wanted = check_name(prefix) if prefix else ""
        with self._refusals(prefix or "the list of names"):
            listed = obstore.list(self._store, wanted or None)
            return tuple(sorted(Blob(each["path"], each["size"]) for page in listed for each in page))

    def delete(self, names: Collection[str]) -> None:
        """As :meth:`Blobs.delete`, one by one: not every server knows how to delete several at once."""
        import obstore

        for name in names:
            check_name(name)
            with self._refusals(name):
                try:
                    obstore.delete(self._store, name)
                except FileNotFoundError as error:
                    if _NO_BUCKET in str(error):
                        raise

    def delete_tree(self, prefix: str) -> None:
        """As :meth:`Blobs.delete_tree`."""
        self.delete([blob.name for blob in self.list(check_name(prefix))])

    @contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        """Turn what a server or the library says into an error that says what to do."""
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError, PermissionError) as error:
            raise self._refusal(error, what) from None
        except OSError as error:
            raise durable.disk_error(error, error.filename or what) from None

    def _refusal(self, error: Exception, what: str) -> LocalError:
        said, text = _said(error), str(error)
        if _NO_BUCKET in text:
            return LocalError("E-STORAGE-AWAY", f"{self.place}: there is no such bucket")
        if isinstance(error, FileNotFoundError):
            return damaged(f"{what} is not in {self.place} any more")
        if any(status in said for status in _NOT_LET_IN):
            return LocalError("E-STORAGE-AWAY", f"{self.place} refuses these keys: {said}")
        return LocalError("E-STORAGE-AWAY", f"{what} in {self.place}: {said}")


def _said(error: Exception) -> str:
    """Return what a server answered: its status and its code, and no other words of its own."""
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    words = [f"status {status[1]}" if status else "", code[1] if code else ""]
    return " ".join(word for word in words if word) or "it does not answer"


def _store(bucket: str, prefix: str, endpoint: str, region: str, keys: Keys | None, patience: Patience) -> S3Store:
    try:
        from obstore.store import S3Store
    except ModuleNotFoundError:
        raise LocalError("E-EXTRA-MISSING", "s3:// needs obstore: pip install 'onlysum[s3]'") from None
    config: S3Config = {
        "region": region,
        "checksum_algorithm": "sha256",
        "virtual_hosted_style_request": False,
    }
    if endpoint:
        config["endpoint"] = endpoint
    if keys is not None:
        config["access_key_id"] = keys.access_key_id
        config["secret_access_key"] = keys.secret_access_key.reveal().decode()
    if keys is not None and keys.session_token is not None:
        config["session_token"] = keys.session_token.reveal().decode()
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=patience.connect),
            "timeout": timedelta(seconds=patience.request),
        },
        retry_config={
            "max_retries": patience.retries,
            "retry_timeout": timedelta(seconds=patience.retry),
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
        },
    )
