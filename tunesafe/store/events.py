"""What happened to a study: who claimed, died, resumed, was reclaimed, when and on which host."""

from __future__ import annotations

import os
import socket
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from tunesafe.contracts import Event
from tunesafe.store import jsontext
from tunesafe.store.engine import clock
from tunesafe.store.sealing import moment
from tunesafe.store.tables import events

__all__ = ["append_event", "events_of", "newest_event_of"]


def append_event(connection: Connection, uuid: str, event: Event, *, again: bool = False) -> None:
    """Add an event at the database's time, with this host and process.

    Args:
        connection: In a write transaction.
        uuid: The study.
        event: What happened.
        again: Whether an earlier attempt may have been committed without our knowing: then what
            is there already is not added twice.

    Raises:
        StateError: If its details are not plain values.
    """
    details_json = jsontext.dump(dict(event.details))
    if again:
        newest = _newest_of_this_process(connection, uuid)
        if newest is not None and (newest.kind, newest.number, newest.details_json) == (
            event.kind,
            event.number,
            details_json,
        ):
            return
    connection.execute(
        insert(events).values(
            study=uuid,
            number=event.number,
            kind=event.kind,
            details_json=details_json,
            host=_host(),
            pid=os.getpid(),
            at=clock(),
        )
    )


def newest_event_of(connection: Connection, uuid: str, kind: str) -> Event | None:
    """The last event of a kind, without host and process id."""
    query = select(events).where(events.c.study == uuid, events.c.kind == kind)
    row = connection.execute(query.order_by(events.c.event_id.desc()).limit(1)).first()
    return None if row is None else _event(row, _details(row))


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
    return [_event(row, {**_details(row), "host": str(row.host), "pid": row.pid}) for row in reversed(rows)]


def _newest_of_this_process(connection: Connection, uuid: str) -> Row[Any] | None:
    ours = (events.c.study == uuid, events.c.host == _host(), events.c.pid == os.getpid())
    return connection.execute(select(events).where(*ours).order_by(events.c.event_id.desc()).limit(1)).first()


def _event(row: Row[Any], details: dict[str, Any]) -> Event:
    try:
        return Event(row.kind if isinstance(row.kind, str) else "damaged", row.number, details, moment(row.at))
    except (ValueError, TypeError):
        return Event("damaged", None, details, 0.0)


def _details(row: Row[Any]) -> dict[str, Any]:
    """An event is told, and decides nothing: of a damaged one, what there is."""
    try:
        return dict(jsontext.load(row.details_json))
    except (ValueError, TypeError):
        return {"details": "damaged"}


def _host() -> str:
    return socket.gethostname()[:255]
