"""One way to open each database, to write to it and to read from it; and the database's clock.

A write transaction takes SQLite's write lock at its start (``BEGIN IMMEDIATE``), because a
transaction that reads first and writes later can find the lock gone when it needs it. On servers
the isolation level is READ COMMITTED: a statement that waited for a lock then sees what the
other one committed, which claims and sweeps rely on.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Double, Engine, create_engine, event, select
from sqlalchemy.exc import NoSuchModuleError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from tunesafe.errors import MissingExtraError, SpecError, StorageError
from tunesafe.store.faults import translated
from tunesafe.store.servers import server_kwargs
from tunesafe.store.urls import canonical_url, display_url, sqlite_path

__all__ = [
    "apply_pragmas",
    "check_address",
    "clock",
    "connect_kwargs",
    "database_now",
    "open_engine",
    "read_only_engine",
    "reading",
    "writing",
]

_BUSY_SECONDS = 60
"""How long a SQLite connection waits for another's write lock [seconds]."""
_SQLITE_HEADER = b"SQLite format 3\0"


class clock(FunctionElement[float]):  # noqa: N801 - a SQL function, written like SQLAlchemy's own
    """The database's clock as an SQL expression [seconds since the epoch]."""

    type = Double()
    inherit_cache = True


_NOW = select(clock())


@compiles(clock, "sqlite")
def _clock_sqlite(element: clock, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(clock, "postgresql")
def _clock_postgresql(element: clock, compiler: Any, **options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(clock, "mysql")
@compiles(clock, "mariadb")
def _clock_mysql(element: clock, compiler: Any, **options: Any) -> str:
    # Not UNIX_TIMESTAMP(): it goes through local time, in which an hour comes twice a year.
    return "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1e6)"


def connect_kwargs(url: str | URL) -> dict[str, Any]:
    """Arguments for ``create_engine`` that make any engine wait and reconnect as ours do.

    Meant for ``optuna.storages.RDBStorage(url, engine_kwargs=connect_kwargs(url))``; call
    ``apply_pragmas`` on that engine, too.
    """
    canonical = canonical_url(url)
    if canonical.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": _BUSY_SECONDS}}
    return server_kwargs(canonical)


def check_address(url: str | URL) -> None:
    """Refuse the address of a SQLite file that cannot be a study's database; servers are not asked.

    Raises:
        SpecError: If there can be none: no such folder, not writable, not SQLite.
    """
    path = sqlite_path(canonical_url(url))
    if path is not None:
        _check_file(path, must_exist=False)


def open_engine(url: str | URL) -> Engine:
    """Open a study's database for reading and writing; a SQLite file is created at the first write.

    Raises:
        SpecError: If the address cannot name a database: unknown kind, no such folder, not writable, not SQLite.
        MissingExtraError: If the driver is not installed; the message names the extra.
        StorageError: If the server does not answer.
    """
    canonical = canonical_url(url)
    path = sqlite_path(canonical)
    if path is not None:
        _check_file(path, must_exist=False)
        engine = _create(canonical)
        apply_pragmas(engine)
        _begin_explicitly(engine)
        return engine
    return _open_server(canonical)


def read_only_engine(url: str | URL) -> Engine:
    """Open a database that exists, for reading: creates nothing and can write nothing.

    Raises:
        StorageError: If there is no such file, or the server does not answer.
        SpecError, MissingExtraError: As ``open_engine``.
    """
    canonical = canonical_url(url)
    path = sqlite_path(canonical)
    if path is None:
        return _open_server(canonical, read_only=True)
    _check_file(path, must_exist=True)
    engine = _create(canonical, creator=lambda: _connect_read_only(path))
    _begin_explicitly(engine)
    return engine


def apply_pragmas(engine: Engine) -> None:
    """Give every new SQLite connection of an engine our settings: WAL, FULL, and the long wait.

    For Optuna's own engine as well. Does nothing on a server.
    """
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, record: object) -> None:
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")
        _switch_to_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        # Debian's SQLite overwrites what it deletes: 279 ms for 140 MB of blobs, 18 without.
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One write transaction: committed at the end of the block, rolled back if it raises.

    Raises:
        TransientStorageError: If the database was locked, clashed, or went away; trying again may help.
        StorageError: If it cannot be written: disk full, read-only, damaged.
    """
    with translated(engine.url), engine.connect() as connection:
        connection.execution_options(tunesafe_writes=True)
        with connection.begin():
            yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One read transaction; on SQLite it sees the database as of its first statement.

    Raises:
        StorageError: If the database cannot be read.
    """
    with translated(engine.url), engine.connect() as connection, connection.begin():
        yield connection


def database_now(connection: Connection) -> float:
    """The database's clock, the only one leases are measured by [seconds since the epoch]."""
    return float(connection.execute(_NOW).scalar_one())


def _create(url: URL, **options: Any) -> Engine:
    try:
        # Parameters are hidden: an error message must not carry a state's bytes.
        return create_engine(url, hide_parameters=True, **(connect_kwargs(url) | options))
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        extra = "postgres" if url.get_backend_name() == "postgresql" else "mysql"
        raise MissingExtraError(
            f"The driver for {display_url(url)} is not installed. Install it with: pip install 'tunesafe[{extra}]'"
        ) from error


def _open_server(url: URL, *, read_only: bool = False) -> Engine:
    engine = _create(url, isolation_level="READ COMMITTED")
    # Many rows are one statement; PostgreSQL's driver would otherwise send them one by one.
    engine.dialect.use_insertmanyvalues_wo_returning = engine.dialect.use_insertmanyvalues

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, record: object) -> None:
        if read_only and engine.dialect.name == "postgresql":
            connection.read_only = True
        elif read_only:
            connection.cursor().execute("SET SESSION TRANSACTION READ ONLY")

    try:
        with translated(url):
            engine.connect().close()
    except BaseException:
        engine.dispose()
        raise
    return engine


def _begin_explicitly(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, record: object) -> None:
        # Otherwise the driver begins by itself, deferred, and only before some statements.
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("tunesafe_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    # The switch does not wait for locks as other statements do; it persists, so only first openers race.
    deadline = time.monotonic() + _BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _connect_read_only(path: Path) -> sqlite3.Connection:
    try:
        # Not mode=ro: the last reader could not clear away the files of the WAL, and they would stay.
        connection = _connect_and_try(f"file:{quote(str(path))}?mode=rw")
        connection.execute("PRAGMA query_only = ON")
        return connection
    except sqlite3.OperationalError:
        # A reader of a WAL database needs a file of shared memory beside it, which a read-only folder
        # refuses. Where there is no WAL nobody is writing, and the file alone is the database.
        wal = path.with_name(f"{path.name}-wal")
        if wal.exists() and wal.stat().st_size > 0:
            raise
        return _connect_and_try(f"file:{quote(str(path))}?immutable=1")


def _connect_and_try(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False)
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_file(path: Path, *, must_exist: bool) -> None:
    """Refuse what cannot be a study's database before SQLite creates or touches anything."""
    if not path.exists():
        if must_exist:
            raise StorageError(
                f"There is no database {path}. Nothing was created. Start the study with `tunesafe run`, or name the "
                "file it was started with."
            )
        if not path.parent.is_dir():
            raise SpecError(
                f"the folder {path.parent} does not exist. Nothing was created. Create it first.", key="storage"
            )
        _check_folder(path.parent)
        return
    if path.is_dir():
        raise SpecError(
            f"{path} is a folder. Nothing was changed. Name a file in it: sqlite:///{path}/study.db", key="storage"
        )
    try:
        with path.open("rb") as file:
            head = file.read(len(_SQLITE_HEADER))
    except OSError as error:
        raise SpecError(f"{path} cannot be read ({error.strerror}). Nothing was changed.", key="storage") from error
    if head and head != _SQLITE_HEADER:
        raise SpecError(f"{path} is not a SQLite database. Nothing was changed. Name another file.", key="storage")
    if not must_exist and not os.access(path, os.W_OK):
        raise SpecError(f"{path} cannot be written. Nothing was changed. Check its permissions.", key="storage")


def _check_folder(folder: Path) -> None:
    """Refuse a folder in which no file can be made: by trying, for root may write where the kernel lets nobody."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            return  # the right place, but a disk in trouble: that is for the first write to say
        raise SpecError(
            f"no file can be made in the folder {folder} ({error.strerror}). Nothing was created. Name another place.",
            key="storage",
        ) from error
