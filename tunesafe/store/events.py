"""What happened to a study: who claimed, died, resumed, was reclaimed, when and on which host."""

from __future__ import annotations

import os
import socket

from sqlalchemy import Connection, insert, select

from tunesafe.contracts import Event
from tunesafe.store import jsontext
from tunesafe.store.engine import clock
from tunesafe.store.tables import events

__all__ = ["append_event", "events_of"]


def append_event(connection: Connection, uuid: str, event: Event) -> None:
    """Add an event at the database's time, with this host and process.

    Raises:
        StateError: If its details are not plain values.
    """
    connection.execute(
        insert(events).values(
            study=uuid,
            number=event.number,
            kind=event.kind,
            details_json=jsontext.dump(dict(event.details)),
            host=socket.gethostname()[:255],
            pid=os.getpid(),
            at=clock(),
        )
    )


def events_of(
    connection: Connection, uuid: str, *, number: int | None = None, newest: int | None = None
) -> list[Event]:
    """Events in the order they happened, all or of one trial, all or the ``newest`` so many.

    ``host`` and ``pid`` are among the details.
    """
    query = select(events).where(events.c.study == uuid)
    if number is not None:
        query = query.where(events.c.number == number)
    rows = connection.execute(query.order_by(events.c.event_id.desc()).limit(newest)).all()
    return [
        Event(row.kind, row.number, {**jsontext.load(row.details_json), "host": row.host, "pid": row.pid}, row.at)
        for row in reversed(rows)
    ]
