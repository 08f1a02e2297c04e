"""A database that goes away where a test says so: at the level of its driver, whatever the database."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.interception import intercepting

__all__ = ["Fault", "Losses", "Role", "losing", "now_and_then", "role"]


class Fault(StrEnum):
    """What becomes of a statement or a commit."""

    REFUSED = "refused"
    """A statement is not run (locked, deadlock); the connection stays."""
    GONE = "gone"
    """The connection is gone before the statement."""
    UNCOMMITTED = "uncommitted"
    """The connection is gone before the commit."""
    REPLY_LOST = "reply lost"
    """The commit is done, and its reply is lost with the connection."""


class Role(StrEnum):
    """Who uses the database."""

    LOOP = "the training loop"
    WRITER = "the thread that writes checkpoints"


def role() -> Role | None:
    """Of the thread at hand; others, such as the one that keeps the lease, may do as much as they have time for."""
    thread = threading.current_thread()
    if thread is threading.main_thread():
        return Role.LOOP
    return Role.WRITER if thread.name == "tunesafe-checkpoint" else None


@dataclass
class Losses:
    """When faults happen, and how many there have been.

    Args:
        kinds: Which faults.
        strikes: Asked at every statement and commit: by whom, and the number of theirs so far.
    """

    kinds: tuple[Fault, ...]
    strikes: Callable[[Role, int], bool]
    seen: dict[Role, int] = field(default_factory=lambda: dict.fromkeys(Role, 0))
    happened: list[tuple[Role, Fault, str]] = field(default_factory=list)

    def choose(self, what: str, *possible: Fault) -> Fault | None:
        """The fault that happens here, if one does."""
        kinds, who = [kind for kind in self.kinds if kind in possible], role()
        if not kinds or who is None:
            return None
        self.seen[who] += 1
        if not self.strikes(who, self.seen[who]):
            return None
        fault = kinds[self.seen[who] % len(kinds)]
        self.happened.append((who, fault, what))
        return fault


def now_and_then(seed: int, share: float) -> Callable[[Role, int], bool]:
    """Strikes at random, and the same way for the same seed; a checkpoint's few statements more often."""
    generators = {who: random.Random(f"{seed} {who}") for who in Role}
    shares = {Role.LOOP: share, Role.WRITER: min(10 * share, 0.3)}
    return lambda who, _: generators[who].random() < shares[who]


@contextmanager
def losing(losses: Losses) -> Iterator[Losses]:
    """Let every engine of this process suffer these losses."""
    refused: list[Any] = []

    def on_statement(cursor: Any, statement: str) -> None:
        fault = losses.choose(statement, Fault.REFUSED, Fault.GONE)
        if fault is Fault.REFUSED:
            refused.append(cursor.connection)
            raise _refusal(cursor.connection)
        if fault is Fault.GONE:
            raise _gone(cursor.connection)

    def on_commit(connection: Any, commit: Callable[[], None]) -> None:
        fault = losses.choose("COMMIT", Fault.UNCOMMITTED, Fault.REPLY_LOST)
        if fault is Fault.UNCOMMITTED:
            raise _gone(connection)
        commit()
        if fault is Fault.REPLY_LOST:
            raise _gone(connection)

    try:
        with intercepting(on_statement, on_commit):
            yield losses
    finally:
        for connection in refused:
            # SQLAlchemy forgets a connection whose first statements of all are refused, which no server does.
            if _driver(connection) == "psycopg":
                connection.close()


def _refusal(connection: Any) -> Exception:
    driver = _driver(connection)
    if driver == "sqlite3":
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_BUSY, "SQLITE_BUSY"
        return error
    if driver == "psycopg":
        import psycopg

        return psycopg.errors.SerializationFailure("could not serialize access")
    import pymysql

    return pymysql.err.OperationalError(1213, "Deadlock found when trying to get lock")


def _gone(connection: Any) -> Exception:
    # SQLAlchemy lends cursors of the driver's own connection, and commits through its wrapper.
    connection = getattr(connection, "driver_connection", connection)
    driver = _driver(connection)
    getattr(connection, "_force_close", connection.close)()  # PyMySQL complains about what is closed twice
    if driver == "sqlite3":
        return sqlite3.ProgrammingError("Cannot operate on a closed database.")
    if driver == "psycopg":
        import psycopg

        return psycopg.OperationalError("server closed the connection unexpectedly")
    import pymysql

    return pymysql.err.OperationalError(2013, "Lost connection to server during query")


def _driver(connection: Any) -> str:
    roots = [kind.__module__.partition(".")[0] for kind in type(connection).__mro__]  # ours may be a subclass
    return next(root for root in roots if root in ("sqlite3", "psycopg", "pymysql"))
