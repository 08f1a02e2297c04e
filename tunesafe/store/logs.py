"""What user code printed, by trial and attempt."""

from __future__ import annotations

from sqlalchemy import Connection, func, insert, select

from tunesafe.contracts import LogChunk
from tunesafe.store.tables import logs

__all__ = ["append_log", "logs_of", "num_chunks"]


def num_chunks(connection: Connection, uuid: str, number: int, attempt: int) -> int:
    """How many pieces of an attempt's output are there."""
    key = (logs.c.study == uuid, logs.c.number == number, logs.c.attempt == attempt)
    last = connection.execute(select(func.max(logs.c.seq)).where(*key)).scalar_one_or_none()
    return 0 if last is None else int(last) + 1


def append_log(connection: Connection, uuid: str, chunk: LogChunk) -> None:
    """Add a piece of an attempt's output after what is there. One process writes an attempt's log."""
    connection.execute(
        insert(logs).values(
            study=uuid,
            number=chunk.number,
            attempt=chunk.attempt,
            seq=num_chunks(connection, uuid, chunk.number, chunk.attempt),
            text=_storable(chunk.text),
        )
    )


def logs_of(connection: Connection, uuid: str, number: int) -> list[LogChunk]:
    """The output of a trial, attempt by attempt."""
    query = (
        select(logs.c.attempt, logs.c.text)
        .where(logs.c.study == uuid, logs.c.number == number)
        .order_by(logs.c.attempt, logs.c.seq)
    )
    return [LogChunk(number, row.attempt, row.text) for row in connection.execute(query)]


def _storable(text: str) -> str:
    """PostgreSQL has no NUL in text, and nobody has lone surrogates."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
