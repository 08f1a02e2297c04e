"""Between every engine of this process and its driver: where tests let statements and commits fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect

__all__ = ["intercepting"]


@contextmanager
def intercepting(
    on_statement: Callable[[Any, str], None], on_commit: Callable[[Any, Callable[[], None]], None]
) -> Iterator[None]:
    """Let a test fail what it likes while the block runs, whatever the database.

    Args:
        on_statement: Called with the driver's cursor and a statement, before it is run.
        on_commit: Called with the driver's connection and what commits it, in place of the commit.
    """
    do_commit = DefaultDialect.do_commit

    def execute(cursor: Any, statement: str, *_: Any) -> None:
        on_statement(cursor, statement)

    def commit(dialect: DefaultDialect, connection: Any) -> None:
        on_commit(connection, lambda: do_commit(dialect, connection))

    moments = ("do_execute", "do_execute_no_params")
    for moment in moments:
        event.listen(Engine, moment, execute)
    try:
        with mock.patch.object(DefaultDialect, "do_commit", commit):
            yield
    finally:
        for moment in moments:
            event.remove(Engine, moment, execute)
