"""The lock under which a database is opened for the first time.

Creating tables is not something databases do well twice at once (of 18 concurrent first opens, 5
failed on SQLite and 8 on PostgreSQL). The lock leaves nothing behind: on SQLite it is taken on
the folder, on servers it is one of their named locks, and it is gone with its process.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import URL, text
from sqlalchemy.engine import Connection

from tunesafe.errors import StorageError
from tunesafe.store.engine import open_engine
from tunesafe.store.faults import translated
from tunesafe.store.urls import canonical_url, display_url, sqlite_path

__all__ = ["first_open_lock"]

_WAIT_SECONDS = 600
_POSTGRES_KEY = int.from_bytes(hashlib.sha256(b"tunesafe first open").digest()[:7], "big")


@contextmanager
def first_open_lock(url: str | URL) -> Iterator[None]:
    """Hold the one lock that serialises first opens of a database. Not re-entrant.

    Raises:
        SpecError: If the folder of a SQLite file does not exist.
        StorageError: If a server cannot be reached, or another process holds the lock for ten minutes.
    """
    canonical = canonical_url(url)
    path = sqlite_path(canonical)
    if path is None:
        with _server_lock(canonical):
            yield
        return
    open_engine(canonical).dispose()  # refuses what cannot be a database; creates nothing
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network file systems cannot lock folders; SQLite's own lock is what is left there.
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@contextmanager
def _server_lock(url: URL) -> Iterator[None]:
    engine = open_engine(url)
    try:
        with translated(url):
            connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        with connection:
            with translated(url):
                _acquire(connection, url)
            yield
    finally:
        # Closing the connection releases the lock, also where this process dies.
        engine.dispose()


def _acquire(connection: Connection, url: URL) -> None:
    if url.get_backend_name() == "postgresql":
        connection.execute(text(f"SET lock_timeout = '{_WAIT_SECONDS}s'"))
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _POSTGRES_KEY})
        return
    # MySQL's named locks are the server's: the database is part of the name, which has 64 characters.
    name = "tunesafe-" + hashlib.sha256((url.database or "").encode()).hexdigest()[:48]
    if connection.execute(text("SELECT GET_LOCK(:name, :wait)"), {"name": name, "wait": _WAIT_SECONDS}).scalar() != 1:
        raise StorageError(
            f"Another process has been opening {display_url(url)} for ten minutes. Nothing was changed. "
            "Run the same command again; if it stays so, look for a stopped tunesafe process and end it."
        )
