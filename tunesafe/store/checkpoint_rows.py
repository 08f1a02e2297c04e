"""Rows of checkpoints: read, and deleted with what only they named; always inside a caller's transaction."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Row, delete, select

from tunesafe.contracts import CheckpointInfo, Position
from tunesafe.store import blobs
from tunesafe.store.blobs import Gone
from tunesafe.store.tables import checkpoint_blobs, checkpoints

__all__ = ["ONE_TRANSACTION_BYTES", "at", "delete_rows", "forget", "forget_trial", "info_of", "infos_of"]

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
    position = Position(row.examples_seen, row.virtual_epoch)
    return CheckpointInfo(row.checkpoint_id, row.number, position, row.num_bytes, row.created_at)


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
    gone = blobs.delete_unreferenced(connection, {*delete_rows(connection, checkpoint_ids), *loose})
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
