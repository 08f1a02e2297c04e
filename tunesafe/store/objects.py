"""A depot in an object store (S3, Google Cloud Storage, Azure), through the library obstore.

The library makes an upload whole or not at all, enforces the condition of a conditional put, and
tries again what a network loses; credentials and addresses come from the environment, as with
every other tool for the store at hand. Imported only where a study has such a place.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PreconditionError
from obstore.store import from_url

from tunesafe.store.depots import ConflictError, DepotError, Entry, UnreachableDepotError, unusable

__all__ = ["ObjectDepot"]

_CONNECT_SECONDS, _REQUEST_SECONDS = 10, 300
"""How long to wait for a connection, and for the answer to one request, with up to one part of a file [s]."""
_QUICK_SECONDS = 5
_RETRIES, _RETRY_SECONDS = 3, 30
"""How often one request is tried again by the library, within how long [s]: whoever calls has a longer patience."""
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.4, 15
"""How long the library waits before it does, at least and at most [s]. All together more than the one second in which
Google Cloud Storage takes one object once."""
_PART_BYTES = 8 << 20
_MOST_PARTS_AT_ONCE = 4
_CAUSE_CHARACTERS = 300
_ALLOW_HTTP = ("AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_ALLOW_HTTP")
"""Variables that allow a server without a certificate."""


class ObjectDepot:
    """A bucket, or a prefix in one.

    Args:
        url: As ``tunesafe.spec`` gives it: no credentials in it.
        quick: Whether to give up at once where nobody answers.

    Raises:
        DepotError: If the URL and the environment do not make a store.
    """

    def __init__(self, url: str, *, quick: bool = False) -> None:
        self._url = url
        seconds = _QUICK_SECONDS if quick else _REQUEST_SECONDS
        with self._translated():
            self._store = from_url(
                url,
                client_options={
                    "connect_timeout": timedelta(seconds=min(_CONNECT_SECONDS, seconds)),
                    "timeout": timedelta(seconds=seconds),
                    # The library reads it by itself only where nothing else is set.
                    "allow_http": any(os.environ.get(name, "").lower() in ("1", "true", "yes") for name in _ALLOW_HTTP),
                },
                retry_config={
                    "max_retries": 1 if quick else _RETRIES,
                    "retry_timeout": timedelta(seconds=_QUICK_SECONDS if quick else _RETRY_SECONDS),
                    "backoff": {
                        "init_backoff": timedelta(seconds=_PAUSE_SECONDS),
                        "max_backoff": timedelta(seconds=_LONGEST_PAUSE_SECONDS),
                        "base": 2,
                    },
                },
            )

    @property
    def url(self) -> str:
        """Its URL."""
        return self._url

    def put(self, name: str, content: bytes | Iterator[bytes]) -> None:
        """See ``Depot``."""
        with self._translated():
            obstore.put(self._store, name, content, chunk_size=_PART_BYTES, max_concurrency=_MOST_PARTS_AT_ONCE)

    def get(self, name: str) -> bytes | None:
        """See ``Depot``."""
        found = self.look(name)
        return None if found is None else found[0]

    def blocks(self, name: str) -> Iterator[bytes] | None:
        """See ``Depot``."""
        with self._translated():
            try:
                found = obstore.get(self._store, name)
            except FileNotFoundError:
                return None
        return self._through(bytes(block) for block in found.stream(min_chunk_size=_PART_BYTES))

    def _through(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        with self._translated():
            yield from blocks

    def part(self, name: str, start: int, num_bytes: int) -> memoryview | None:
        """See ``Depot``."""
        with self._translated():
            try:
                if num_bytes > 0:
                    with suppress(GenericError):  # of a part beyond the end, too: then its size is asked for
                        return memoryview(obstore.get_range(self._store, name, start=start, length=num_bytes))
                size = obstore.head(self._store, name)["size"]
                length = max(min(num_bytes, size - start), 0)
                if not length:
                    return memoryview(b"")
                return memoryview(obstore.get_range(self._store, name, start=start, length=length))
            except FileNotFoundError:
                return None

    def entries(self, folder: str) -> list[Entry]:
        """See ``Depot``."""
        with self._translated():
            return [
                Entry(str(each["path"]), each["size"], each["last_modified"].timestamp())
                for block in obstore.list(self._store, folder)
                for each in block
            ]

    def delete(self, names: Collection[str]) -> None:
        """See ``Depot``."""
        with self._translated():
            try:
                if names:
                    obstore.delete(self._store, list(names))
            except FileNotFoundError:
                # S3 does not mind; where a store does, the rest of the list may not have been looked at.
                for name in names if len(names) > 1 else ():
                    self.delete([name])

    def look(self, name: str) -> tuple[bytes, object] | None:
        """See ``Depot``."""
        with self._translated():
            try:
                found = obstore.get(self._store, name)
            except FileNotFoundError:
                return None
            version = {key: found.meta[key] for key in ("e_tag", "version") if found.meta[key] is not None}
            return bytes(found.bytes()), version

    def replace(self, name: str, content: bytes, version: object | None) -> None:
        """See ``Depot``."""
        with self._translated():
            try:
                obstore.put(self._store, name, content, mode="create" if version is None else cast("Any", version))
            except (AlreadyExistsError, PreconditionError) as error:
                raise ConflictError(f"{self.url}/{name} was replaced by somebody else; nothing was written.") from error

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            cause = " ".join(str(error).partition("Debug source")[0].split())[:_CAUSE_CHARACTERS]
            # An upload in parts is gone if the answer to its completion was lost, and the library asked again.
            is_gone = isinstance(error, FileNotFoundError) and "uploadId=" in str(error)
            kind = UnreachableDepotError if is_gone or isinstance(error, GenericError) else DepotError
            raise kind(unusable(self.url, cause)) from error
