"""Databases of a benchmark's own: SQLite files, and databases made on the servers that run here and dropped again.

``TUNESAFE_TEST_POSTGRES`` and ``TUNESAFE_TEST_MARIADB`` name other servers than the local ones, as for
the tests. What a commit costs depends on how durable a server makes it, so that is printed, too.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

__all__ = ["KINDS", "UnreachableError", "copied", "database", "settings"]

KINDS = ("SQLite", "PostgreSQL", "MariaDB")
_SERVERS = {
    "PostgreSQL": os.environ.get("TUNESAFE_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/test"),
    "MariaDB": os.environ.get("TUNESAFE_TEST_MARIADB", "mysql+pymysql://root@127.0.0.1:3306/test"),
}
_SETTINGS = {
    "postgresql": "SELECT 'fsync ' || current_setting('fsync') || ', synchronous_commit ' || "
    "current_setting('synchronous_commit') || ', version ' || current_setting('server_version')",
    "mysql": "SELECT CONCAT('innodb_flush_log_at_trx_commit ', @@innodb_flush_log_at_trx_commit, ', log_bin ', "
    "@@log_bin, ', version ', VERSION())",
}


class UnreachableError(Exception):
    """There is no such server here; the message says why."""


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """URL of an empty database, gone after the block.

    Args:
        kind: One of ``KINDS``.
        folder: Where a SQLite file is put.

    Raises:
        UnreachableError: If the server does not answer.
    """
    name = f"tunesafe_bench_{uuid.uuid4().hex}"
    if kind == "SQLite":
        file = folder / f"{name}.db"
        try:
            yield f"sqlite:///{file}"
        finally:
            for leftover in folder.glob(f"{name}.db*"):
                leftover.unlink()
        return
    with _made(make_url(_SERVERS[kind]), f"CREATE DATABASE {name}", name) as url:
        yield url


@contextmanager
def copied(url: str) -> Iterator[str]:
    """URL of a copy of a database to which nobody is connected, gone after the block; not on MariaDB."""
    original = make_url(url)
    assert original.database is not None, "it was made by `database`"
    name = f"tunesafe_bench_{uuid.uuid4().hex}"
    if original.get_backend_name() == "sqlite":
        path = Path(original.database)
        assert not path.with_name(f"{path.name}-wal").exists(), "somebody is connected: the file alone is not all of it"
        copy = path.with_name(f"{name}.db")
        shutil.copy(path, copy)
        try:
            yield f"sqlite:///{copy}"
        finally:
            for leftover in path.parent.glob(f"{name}.db*"):
                leftover.unlink()
        return
    with _made(original.set(database="postgres"), f"CREATE DATABASE {name} TEMPLATE {original.database}", name) as made:
        yield made


def settings(url: str) -> str:
    """How durable a commit is there, in the server's own words."""
    parsed = make_url(url)
    query = _SETTINGS.get(parsed.get_backend_name())
    if query is None:
        return "WAL, synchronous FULL"
    with _administrator(parsed).connect() as connection:
        return str(connection.execute(text(query)).scalar_one())


@contextmanager
def _made(server: URL, statement: str, name: str) -> Iterator[str]:
    engine = _administrator(server)
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    except (ModuleNotFoundError, OperationalError) as error:
        raise UnreachableError(f"{server.render_as_string()}: {str(error).splitlines()[0]}") from error
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            force = " WITH (FORCE)" if engine.dialect.name == "postgresql" else ""
            connection.execute(text(f"DROP DATABASE {name}{force}"))


def _administrator(server: URL) -> Engine:
    return create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool, connect_args={"connect_timeout": 5})
