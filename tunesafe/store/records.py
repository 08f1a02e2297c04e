"""Reports with their verdicts, written ahead of Optuna; one per trial and virtual epoch.

A record, once committed, is what happened: a later attempt that trains the same virtual epoch
again is answered from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select
from sqlalchemy.exc import IntegrityError

from tunesafe.contracts import AttributeWrite, Record, Report, Verdict
from tunesafe.errors import TunesafeError
from tunesafe.store import jsontext
from tunesafe.store.claims import advance
from tunesafe.store.engine import clock
from tunesafe.store.sealing import real, row_intact, seal, unseal, whole
from tunesafe.store.tables import records

__all__ = [
    "DuplicateRecordError",
    "all_records",
    "forget_trial",
    "insert_record",
    "metrics_texts",
    "numbers_in",
    "records_of",
    "sealed_place",
]


class DuplicateRecordError(TunesafeError):
    """This virtual epoch has a record; read it: it is what counts."""


def insert_record(connection: Connection, uuid: str, number: int, fence: int, record: Record) -> None:
    """Write one record and the progress it stands for; ``recorded_at`` is the database's time.

    Raises:
        LeaseLostError: Under a stale fence.
        DuplicateRecordError: If the virtual epoch has a record; the transaction stays usable.
        StateError: If the pruner wants something written that JSON cannot hold.
    """
    advance(connection, uuid, number, fence, record.report.examples_seen)
    # The fence's lock is held: whoever could write this row waits. So asking first is safe, and
    # spares a failed insert, which on PostgreSQL would end the transaction (Optuna's, perhaps).
    there = select(records.c.virtual_epoch).where(*_key(uuid, number, record.report.virtual_epoch))
    if connection.execute(there).first() is not None:
        raise _duplicate(number, record)
    values = {
        "study": uuid,
        "number": number,
        "virtual_epoch": record.report.virtual_epoch,
        "examples_seen": record.report.examples_seen,
        "verdict": record.verdict.value,
        "improved": int(record.improved),
        "writes_json": jsontext.dump([[write.key, write.value] for write in record.writes]),
        "attempt": record.attempt,
        "fence": fence,
    }
    metrics = {name: float(value) for name, value in record.report.metrics.items()}
    values["metrics_json"] = seal(metrics, *sealed_place(values))
    try:
        connection.execute(insert(records).values(recorded_at=clock(), **values))
    except IntegrityError as error:
        raise _duplicate(number, record) from error


def records_of(connection: Connection, uuid: str, number: int) -> list[Record]:
    """The records of one trial, by virtual epoch."""
    query = select(records).where(records.c.study == uuid, records.c.number == number)
    return [_record(row) for row in connection.execute(query.order_by(records.c.virtual_epoch))]


def all_records(connection: Connection, uuid: str) -> Iterator[tuple[int, Record]]:
    """Every record of a study with its trial's number, by number and virtual epoch."""
    query = select(records).where(records.c.study == uuid).order_by(records.c.number, records.c.virtual_epoch)
    for row in connection.execute(query):
        yield row.number, _record(row)


def metrics_texts(connection: Connection, uuid: str) -> dict[int, dict[int, str]]:
    """All reported metrics by number and virtual epoch, as they are stored: thousands are looked at, few are read."""
    query = select(records.c.number, records.c.virtual_epoch, records.c.metrics_json).where(records.c.study == uuid)
    found: dict[int, dict[int, str]] = {}
    for number, virtual_epoch, text in connection.execute(query):
        found.setdefault(number, {})[virtual_epoch] = text
    return found


def numbers_in(text: str, likely: float | None = None) -> list[float]:
    """The numbers among stored metrics; only the likely one, if it is among them, for that takes no reading.

    None, if the text is none of ours: whoever relies on it finds that its seal is broken.

    Example:
        >>> numbers_in('{"loss": 0.5, "acc": 0.75, "$seal": "0"}', 0.5)
        [0.5]
        >>> numbers_in('{"loss": 0.5, "acc": 0.75, "$seal": "0"}', 0.7)
        [0.5, 0.75]
    """
    try:
        if likely is not None and f": {likely!r}," in text:
            return [likely]
        metrics = jsontext.load(text)
    except (ValueError, TypeError):
        return []
    return [value for value in metrics.values() if isinstance(value, float)] if isinstance(metrics, dict) else []


def forget_trial(connection: Connection, uuid: str, number: int) -> None:
    """Delete the records of a trial that begins again."""
    connection.execute(delete(records).where(records.c.study == uuid, records.c.number == number))


def _key(uuid: str, number: int, virtual_epoch: int) -> tuple[Any, ...]:
    return records.c.study == uuid, records.c.number == number, records.c.virtual_epoch == virtual_epoch


def _duplicate(number: int, record: Record) -> DuplicateRecordError:
    return DuplicateRecordError(
        f"Virtual epoch {record.report.virtual_epoch} of trial {number} has a record already; it was not changed."
    )


def sealed_place(values: Mapping[Any, Any]) -> tuple[object, ...]:
    """What the seal of a record's metrics holds fast besides them."""
    return (
        "record",
        *(values[key] for key in ("study", "number", "virtual_epoch", "examples_seen")),
        *(values[key] for key in ("verdict", "improved", "writes_json")),
    )


def _record(row: Row[Any]) -> Record:
    with row_intact(f"The report of trial {row.number} at virtual epoch {row.virtual_epoch}"):
        return Record(
            report=Report(row.virtual_epoch, row.examples_seen, unseal(row.metrics_json, *sealed_place(row._mapping))),
            verdict=Verdict(row.verdict),
            improved=bool(row.improved),
            writes=tuple(AttributeWrite(key, value) for key, value in jsontext.load(row.writes_json)),
            attempt=whole(row.attempt),
            recorded_at=real(row.recorded_at),
        )
