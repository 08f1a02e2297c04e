"""The lock under which a database is opened for the first time.

Creating tables is not something databases do well twice at once (of 18 concurrent first opens, 5
failed on SQLite and 8 on PostgreSQL). The lock leaves nothing behind: on SQLite it is taken on
the folder, on servers it is one of their named locks, and it is gone with its process.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import URL, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from tunesafe.errors import StorageError
from tunesafe.store.engine import open_engine
from tunesafe.store.faults import translated
from tunesafe.store.servers import lock_seconds
from tunesafe.store.urls import canonical_url, display_url, sqlite_path

__all__ = ["first_open_lock"]

_WAIT_SECONDS = 600
_LOCK_NOT_AVAILABLE = "55P03"
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
    folder = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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
        try:
            with translated(url):
                _acquire(connection, url)
            yield
        finally:
            # Closing the connection releases the lock, also where this process dies. Where the server has, there is
            # none left, and what was done under it has said so.
            with suppress(SQLAlchemyError):
                connection.close()
    finally:
        engine.dispose()


def _acquire(connection: Connection, url: URL) -> None:
    """Wait for the lock, in statements that are each over before the server's silence would mean that it is gone."""
    deadline = time.monotonic() + _WAIT_SECONDS
    acquire = _acquire_postgres if url.get_backend_name() == "postgresql" else _acquire_mysql
    while not acquire(connection, url):
        if time.monotonic() > deadline:
            raise StorageError(
                f"Another process has been opening {display_url(url)} for ten minutes. Nothing was changed. "
                "Run the same command again; if it stays so, look for a stopped tunesafe process and end it."
            )


def _acquire_postgres(connection: Connection, url: URL) -> bool:
    try:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _POSTGRES_KEY})
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        return False
    return True


def _acquire_mysql(connection: Connection, url: URL) -> bool:
    # MySQL's named locks are the server's: the database is part of the name, which has 64 characters.
    name = "tunesafe-" + hashlib.sha256((url.database or "").encode()).hexdigest()[:48]
    query = text("SELECT GET_LOCK(:name, :wait)")
    return bool(connection.execute(query, {"name": name, "wait": lock_seconds()}).scalar() == 1)
