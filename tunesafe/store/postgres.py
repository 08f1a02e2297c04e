"""Connections to PostgreSQL that are given up when the server falls silent.

psycopg waits for an answer as long as the connection seems to be there. Ours counts how long
nothing has come, and closes the connection then: SQLAlchemy knows a closed one for lost. The
server counts how long a transaction is left open, but not after a pipeline, which is how psycopg
sends many rows (seen with PostgreSQL 15 and psycopg 3.3): so ours sends them one by one, and
whoever has many to insert says so in one statement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from functools import cache
from time import monotonic
from typing import Any

from sqlalchemy import URL

__all__ = ["connector"]


def connector(url: URL, *, connect_seconds: int, silence_seconds: int, lock_seconds: int) -> Callable[[], Any]:
    """What makes connections to an address, for ``create_engine(creator=…)``.

    Args:
        url: Canonical, of a PostgreSQL.
        connect_seconds: How long to wait for a connection [s].
        silence_seconds: For an answer, and the server for the next statement of a transaction [s].
        lock_seconds: A statement for the locks of other transactions [s].

    Raises:
        ModuleNotFoundError: If psycopg is not installed.
    """
    impatient = _impatient()
    words, of_address = url.get_dialect()().create_connect_args(url)
    # Where nothing but the kernel is between the two ends, it notices a line that is idle, too; at either end.
    alive = {
        "keepalives_idle": max(silence_seconds // 2, 1),
        "keepalives_interval": max(silence_seconds // 6, 1),
        "keepalives_count": 3,
    }
    user_timeout = {"tcp_user_timeout": silence_seconds * 1000}
    settings = {
        "extra_float_digits": 3,  # every digit of a number, whatever the server's own setting
        "lock_timeout": lock_seconds * 1000,
        "idle_in_transaction_session_timeout": silence_seconds * 1000,
        **{f"tcp_{name}": value for name, value in alive.items()},
        **user_timeout,
    }
    # Not as start-up options: those of the address would be lost, and poolers in between refuse them.
    statements = "; ".join(f"SET {name} = {value}" for name, value in settings.items())
    options = {"connect_timeout": connect_seconds, **alive, **user_timeout, **of_address}

    def connect() -> Any:
        connection = impatient.connect(*words, autocommit=True, **options)
        try:
            connection.silence_seconds = silence_seconds
            connection.execute(statements)
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return connection

    return connect


@cache
def _impatient() -> Any:
    """A class of connections on which no wait is endless; psycopg does all its waiting in ``wait``."""
    import psycopg  # noqa: PLC0415 - an extra, and slow to import

    class Cursor(psycopg.Cursor[Any]):
        def executemany(self, query: Any, params_seq: Any, *, returning: bool = False) -> None:
            if returning:
                raise NotImplementedError("many results at once need a pipeline, which has no limit at the server")
            total = 0
            for params in params_seq:
                total += max(self.execute(query, params).rowcount, 0)
            self._rowcount = total

    class Impatient(psycopg.Connection[Any]):
        silence_seconds = math.inf

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.cursor_factory = Cursor

        def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
            return super().wait(self._while_it_answers(gen), *args, **kwargs)

        def _while_it_answers(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
            heard_at = monotonic()
            try:
                wanted = next(gen)
                while True:
                    ready = yield wanted
                    if ready:
                        heard_at = monotonic()
                    elif monotonic() - heard_at > self.silence_seconds:
                        self.close()
                        raise psycopg.OperationalError(f"no answer for {self.silence_seconds:g} s")
                    wanted = gen.send(ready)
            except StopIteration as end:
                return end.value

    return Impatient
