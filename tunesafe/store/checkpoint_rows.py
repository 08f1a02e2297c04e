"""Rows of checkpoints: read, inserted, thinned, and deleted with what only they named; in a caller's transaction."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from tunesafe.contracts import CheckpointInfo, Position
from tunesafe.store import blobs
from tunesafe.store.blobs import Gone
from tunesafe.store.engine import database_now
from tunesafe.store.manifests import digest_of, parts_of
from tunesafe.store.tables import checkpoint_blobs, checkpoints

__all__ = [
    "ONE_TRANSACTION_BYTES",
    "at",
    "delete_rows",
    "forget",
    "forget_trial",
    "info_of",
    "infos_of",
    "insert_row",
    "is_there",
    "keep_only",
]

ONE_TRANSACTION_BYTES = 1 << 20
"""Bytes up to this size are written or deleted in the transaction that names or forgets them."""


def infos_of(connection: Connection, uuid: str, number: int | None) -> list[CheckpointInfo]:
    """The checkpoints of one trial, or of the whole study; newest first within a trial."""
    columns = [column for column in checkpoints.c if column.name not in ("manifest_json", "digest")]
    query = select(*columns).where(checkpoints.c.study == uuid)
    if number is not None:
        query = query.where(checkpoints.c.number == number)
    newest_first = (checkpoints.c.examples_seen.desc(), checkpoints.c.virtual_epoch.desc())
    return [info_of(row) for row in connection.execute(query.order_by(checkpoints.c.number, *newest_first))]


def info_of(row: Row[Any]) -> CheckpointInfo:
    """A row as a value."""
    # SQLite keeps whatever is put into a column. At a place that is none, the manifest does not match: that is damage.
    place = [value if type(value) is int else -1 for value in (row.examples_seen, row.virtual_epoch)]
    position = Position(*place)
    thinned = bool(row.weights_only)
    return CheckpointInfo(row.checkpoint_id, row.number, position, row.num_bytes, row.created_at, thinned)


def is_there(connection: Connection, info: CheckpointInfo) -> bool:
    """Whether a checkpoint still has its row."""
    query = select(checkpoints.c.checkpoint_id).where(checkpoints.c.checkpoint_id == info.checkpoint_id)
    return connection.execute(query).one_or_none() is not None


def at(uuid: str, number: int, position: Position) -> tuple[Any, ...]:
    """What selects the row of a trial's checkpoint at one position."""
    return (
        checkpoints.c.study == uuid,
        checkpoints.c.number == number,
        checkpoints.c.virtual_epoch == position.virtual_epoch,
        checkpoints.c.examples_seen == position.examples_seen,
    )


def forget(connection: Connection, checkpoint_ids: Collection[int], loose: Collection[int] = ()) -> Gone:
    """Delete checkpoints and the blobs that now have no name, the bytes in chunks too if they are few.

    Args:
        connection: In a transaction.
        checkpoint_ids: Which checkpoints.
        loose: Blobs that have just lost another.

    Returns:
        The blobs whose bytes are still to be deleted.
    """
    named = {*delete_rows(connection, checkpoint_ids), *loose}
    return _few_at_once(connection, blobs.delete_unreferenced(connection, named))


def keep_only(connection: Connection, uuid: str, info: CheckpointInfo, manifest_json: str) -> Gone:
    """Put another row, under another id, in the place of a checkpoint's: one that names fewer bytes.

    Args:
        connection: In a write transaction.
        uuid: The study.
        info: The checkpoint; one that is gone stays gone.
        manifest_json: Lists what is kept.

    Returns:
        The blobs whose bytes are still to be deleted.
    """
    by_id = checkpoints.c.checkpoint_id == info.checkpoint_id
    # The old row names the same bytes until this commits: no sweep can take them.
    old = connection.execute(select(checkpoints).where(by_id).with_for_update()).one_or_none()
    if old is None:
        return Gone()
    parts = parts_of(manifest_json)
    named = delete_rows(connection, [info.checkpoint_id])
    ids = set(blobs.find_known(connection, uuid, {part.hash for part in parts}).values())
    row = {
        "number": info.number,
        "virtual_epoch": info.position.virtual_epoch,
        "examples_seen": info.position.examples_seen,
        "manifest_json": manifest_json,
        "digest": digest_of(uuid, info.number, info.position, manifest_json),
        "num_bytes": sum(part.num_bytes for part in parts),
        "fence": old.fence,
        "weights_only": 1,
    }
    insert_row(connection, uuid, row, ids, old.created_at)
    return _few_at_once(connection, blobs.delete_unreferenced(connection, set(named) - ids))


def insert_row(
    connection: Connection, uuid: str, row: dict[str, Any], blob_ids: Collection[int], created_at: float | None = None
) -> CheckpointInfo:
    """Make a checkpoint of bytes that are there.

    Args:
        connection: In a write transaction, in which those bytes cannot be swept.
        uuid: The study.
        row: All other columns.
        blob_ids: The bytes it names.
        created_at: When it was made [seconds since the epoch]; by default now.
    """
    now = database_now(connection) if created_at is None else created_at
    values = {**row, "study": uuid, "created_at": now}
    (checkpoint_id,) = connection.execute(insert(checkpoints).values(values)).inserted_primary_key or (0,)
    named = [{"checkpoint_id": checkpoint_id, "blob_id": blob_id} for blob_id in blob_ids]
    connection.execute(insert(checkpoint_blobs), named)
    position = Position(row["examples_seen"], row["virtual_epoch"])
    return CheckpointInfo(checkpoint_id, row["number"], position, row["num_bytes"], now, bool(row["weights_only"]))


def _few_at_once(connection: Connection, gone: Gone) -> Gone:
    """Delete bytes in chunks, if they are few; return what is still to be deleted."""
    if sum(gone.chunks.values()) > ONE_TRANSACTION_BYTES:
        return gone
    blobs.delete_chunks(connection, gone.chunks)
    return Gone(places=gone.places, done=sum(gone.chunks.values()))


def delete_rows(connection: Connection, checkpoint_ids: Collection[int]) -> list[int]:
    """Delete checkpoints; return the ids of the blobs they named."""
    ids = list(checkpoint_ids)
    query = select(checkpoint_blobs.c.blob_id).where(checkpoint_blobs.c.checkpoint_id.in_(ids)).distinct()
    named = list(connection.execute(query).scalars())
    connection.execute(delete(checkpoint_blobs).where(checkpoint_blobs.c.checkpoint_id.in_(ids)))
    connection.execute(delete(checkpoints).where(checkpoints.c.checkpoint_id.in_(ids)))
    return named


def forget_trial(connection: Connection, uuid: str, number: int) -> int:
    """Forget all checkpoints of a trial that begins again; return how many. Its bytes go with the next sweep."""
    ids = [info.checkpoint_id for info in infos_of(connection, uuid, number)]
    delete_rows(connection, ids)
    return len(ids)
