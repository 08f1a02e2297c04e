"""Statements of every save, on their shortest way to SQLite.

SQLAlchemy takes longer to find the text of a statement that it has put together before than SQLite
takes to run it. So the text is kept here, and goes to the driver as it is. On servers a round trip
takes longer anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, CursorResult, Executable, Insert
from sqlalchemy.dialects import sqlite

__all__ = ["insert_one", "run"]

_SQLITE = sqlite.dialect()


def run(connection: Connection, statement: Executable, *rows: Mapping[str, Any]) -> CursorResult[Any]:
    """Execute a statement that is made once and for all, with one row of parameters or with several.

    Args:
        connection: In a transaction.
        statement: A constant of its module. Its values are plain: text, numbers, ``None``.
        rows: All of the same keys.
    """
    if connection.dialect.name != "sqlite":
        return connection.execute(statement, [dict(row) for row in rows])
    text, names, constants = _compiled(statement, tuple(rows[0]))
    values = [tuple([row[name] if name in row else constants[name] for name in names]) for row in rows]
    return connection.exec_driver_sql(text, values if len(values) > 1 else values[0])


def insert_one(connection: Connection, statement: Insert, row: Mapping[str, Any]) -> int:
    """Insert a row; return the key the database has given it."""
    if connection.dialect.name == "sqlite":
        return int(run(connection, statement, row).lastrowid)
    (key,) = connection.execute(statement, dict(row)).inserted_primary_key or (0,)
    return int(key)


@lru_cache
def _compiled(statement: Any, keys: Sequence[str]) -> tuple[str, Sequence[str], Mapping[str, Any]]:
    compiled = statement.compile(dialect=_SQLITE, column_keys=keys)
    return compiled.string, compiled.positiontup, compiled.params
