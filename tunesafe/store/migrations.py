"""Brings a database to the newest schema, one version at a time.

A step takes a connection from version n to n + 1 and may be begun again after a death in its
middle (MySQL commits every CREATE by itself). Databases of every released schema are kept in
``tests/golden`` and upgraded in a test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Column, Connection, Engine, Row, delete, insert, inspect, select, text, update

from tunesafe.contracts import TrialPhase
from tunesafe.errors import StorageError
from tunesafe.store.engine import reading, writing
from tunesafe.store.records import sealed_place
from tunesafe.store.sealing import is_sealed, sealed
from tunesafe.store.tables import blobs, checkpoints, metadata, records, schema, studies, trials
from tunesafe.store.urls import display_url

__all__ = ["SCHEMA_VERSION", "STEPS", "Step", "is_ours", "schema_version", "upgrade"]

Step = Callable[[Connection], None]
"""Takes a database from one version to the next; safe to run again."""


def _create_tables(connection: Connection) -> None:
    metadata.create_all(connection, checkfirst=True)


def _add_packs(connection: Connection) -> None:
    """Schema 2: bytes may be in a pack beside the database instead of in chunks."""
    _add_columns(connection, blobs.c.pack, blobs.c.pack_offset)
    (index,) = blobs.indexes
    index.create(connection, checkfirst=True)


def _add_tidying(connection: Connection) -> None:
    """Schema 3: a checkpoint may have given up all but its weights; and whether a trial's surplus is gone is known."""
    _add_columns(connection, checkpoints.c.weights_only)
    _add_columns(connection, trials.c.tidied)
    # What had ended by then is left as it is: rules that have changed since apply to it by hand only.
    connection.execute(update(trials).where(trials.c.phase == TrialPhase.TOLD).values(tidied=1))


def _seal_rows(connection: Connection) -> None:
    """Schema 4: rows that decide a result carry a seal."""
    _shut_out_older_workers(connection)  # they know no seals; nor can a row change between being read and being sealed
    for row in connection.execute(select(studies)).all():
        place = ("study", row.uuid, row.direction, row.spec_json, row.source_text)
        _seal(connection, row, studies.c.fingerprint_json, place)
        _seal(connection, row, studies.c.environment_json, ("environment", row.uuid))
    for row in connection.execute(select(trials)).all():
        _seal(connection, row, trials.c.params_json, ("params", row.study, row.number))
        _seal(connection, row, trials.c.outcome_json, ("outcome", row.study, row.number))
    for row in connection.execute(select(records)).all():
        _seal(connection, row, records.c.metrics_json, sealed_place(row._mapping))


def _name_faster(connection: Connection) -> None:
    """Schema 5: states' bytes may be named by XXH3."""
    _shut_out_older_workers(connection)  # they would take what they cannot verify for damaged


def _merge_small_tensors(connection: Connection) -> None:
    """Schema 6: small tensors that change may share a blob."""
    _shut_out_older_workers(connection)  # they would look for a blob of each


def _shut_out_older_workers(connection: Connection) -> None:
    """What workers of the version before still hold is taken from them, and they stop at their next claim."""
    begun = trials.c.phase.in_((TrialPhase.CLAIMED, TrialPhase.CLOSING, TrialPhase.HELD))
    connection.execute(update(studies).values(revision=studies.c.revision + 1))
    connection.execute(update(trials).where(begun).values(fence=trials.c.fence + 1, lease_expires_at=0.0))


def _seal(connection: Connection, row: Row[Any], column: Column[Any], place: Sequence[object]) -> None:
    text_there = getattr(row, column.name)
    if text_there is not None and not is_sealed(text_there):
        key = [own == getattr(row, own.name) for own in column.table.primary_key]
        connection.execute(update(column.table).where(*key).values({column: sealed(text_there, *place)}))


def _add_columns(connection: Connection, *columns: Column[Any]) -> None:
    """Add those of one table's columns that are not there; rows that are have NULL in them."""
    table = columns[0].table.description
    there = {column["name"] for column in inspect(connection).get_columns(table)}
    for column in columns:
        if column.name not in there:
            kind = column.type.compile(connection.dialect)
            connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {column.name} {kind}"))


STEPS: Sequence[Step] = (_create_tables, _add_packs, _add_tidying, _seal_rows, _name_faster, _merge_small_tensors)
"""``STEPS[n]`` leads from version n to n + 1. Version 0 has no tables of ours."""
SCHEMA_VERSION = len(STEPS)
"""The schema this version of tunesafe reads and writes."""


def schema_version(connection: Connection) -> int:
    """The schema a database has; 0 if it has no tables of ours."""
    if not inspect(connection).has_table(schema.name):
        return 0
    return connection.execute(select(schema.c.version)).scalar() or 0


def is_ours(connection: Connection) -> bool:
    """Whether a database has our tables, for those who only read and cannot upgrade.

    Raises:
        StorageError: If they are of another schema than this version of tunesafe reads.
    """
    found = schema_version(connection)
    if found > SCHEMA_VERSION:
        raise _newer(connection.engine, found, SCHEMA_VERSION)
    if 0 < found < SCHEMA_VERSION:
        raise StorageError(
            f"The database {display_url(connection.engine.url)} has schema {found}; this tunesafe reads schema "
            f"{SCHEMA_VERSION}. Nothing was changed. `tunesafe run` of one of its studies upgrades it."
        )
    return found > 0


def upgrade(engine: Engine, steps: Sequence[Step] = STEPS) -> None:
    """Create or upgrade our tables; nothing happens to a database that is up to date.

    Call it with ``first_open_lock`` held.

    Raises:
        StorageError: If the database was written by a newer tunesafe, or cannot be written.
    """
    newest = len(steps)
    with reading(engine) as connection:
        found = schema_version(connection)
    if found > newest:
        raise _newer(engine, found, newest)
    for version in range(found, newest):
        with writing(engine) as connection:
            if schema_version(connection) != version:
                continue
            steps[version](connection)
            connection.execute(delete(schema))
            connection.execute(insert(schema).values(version=version + 1))


def _newer(engine: Engine, found: int, newest: int) -> StorageError:
    return StorageError(
        f"The database {display_url(engine.url)} has schema {found}, written by a newer tunesafe; this one knows "
        f"schemas up to {newest}. Nothing was changed. Upgrade tunesafe: pip install --upgrade tunesafe"
    )
