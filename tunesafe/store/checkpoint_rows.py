"""Rows of checkpoints: read, inserted, thinned, and deleted with what only they named; in a caller's transaction."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any

from sqlalchemy import BigInteger, Connection, Insert, Row, and_, bindparam, delete, insert, select

from tunesafe.contracts import CheckpointInfo, Position
from tunesafe.store import blobs
from tunesafe.store.blobs import Gone
from tunesafe.store.engine import clock
from tunesafe.store.manifests import digest_of, read_manifest
from tunesafe.store.statements import insert_one, run
from tunesafe.store.tables import blobs as blob_rows
from tunesafe.store.tables import checkpoint_blobs, checkpoints

__all__ = [
    "ONE_TRANSACTION_BYTES",
    "delete_rows",
    "forget",
    "forget_trial",
    "infos_of",
    "insert_row",
    "is_there",
    "keep_only",
    "manifest_at",
    "standing",
]

ONE_TRANSACTION_BYTES = 512 << 10
"""Bytes up to this size are written or deleted in the transaction that names or forgets them."""


# Made once: to put these together takes as long as to run them, and they are part of every save.
_INFO = tuple(column for column in checkpoints.c if column.name not in ("manifest_json", "digest"))
_NEWEST_FIRST = (checkpoints.c.examples_seen.desc(), checkpoints.c.virtual_epoch.desc())
_INFOS = select(*_INFO).where(checkpoints.c.study == bindparam("uuid")).order_by(checkpoints.c.number, *_NEWEST_FIRST)
_MANIFEST = select(checkpoints.c.manifest_json, checkpoints.c.digest).where(
    checkpoints.c.checkpoint_id == bindparam("id")
)
_INFOS_OF_TRIAL = _INFOS.where(checkpoints.c.number == bindparam("trial"))
_TIME = select(clock().label("now")).subquery()
_STANDING = (
    select(_TIME.c.now, *_INFO)
    .select_from(
        _TIME.outerjoin(
            checkpoints, and_(checkpoints.c.study == bindparam("uuid"), checkpoints.c.number == bindparam("trial"))
        )
    )
    .order_by(*_NEWEST_FIRST)
)
_INSERT = insert(checkpoints)


@lru_cache
def _naming(count: int) -> Insert:
    """Names so many blobs as a checkpoint's."""
    columns = bindparam("checkpoint", type_=BigInteger), blob_rows.c.blob_id
    return insert(checkpoint_blobs).from_select(["checkpoint_id", "blob_id"], blobs.named(count, *columns))


def infos_of(connection: Connection, uuid: str, number: int | None) -> list[CheckpointInfo]:
    """The checkpoints of one trial, or of the whole study; newest first within a trial."""
    query, values = (_INFOS, {"uuid": uuid}) if number is None else (_INFOS_OF_TRIAL, {"uuid": uuid, "trial": number})
    return [_info_of(row) for row in connection.execute(query, values)]


def standing(connection: Connection, uuid: str, number: int) -> tuple[float, list[CheckpointInfo]]:
    """The database's time [seconds since the epoch], and the checkpoints of a trial, newest first: in one question."""
    rows = run(connection, _STANDING, {"uuid": uuid, "trial": number}).all()
    return float(rows[0].now), [_info_of(row) for row in rows if row.checkpoint_id is not None]


def manifest_at(connection: Connection, checkpoint_id: int) -> tuple[str, str] | None:
    """A checkpoint's manifest and its digest; ``None`` if it has been removed."""
    row = connection.execute(_MANIFEST, {"id": checkpoint_id}).one_or_none()
    return None if row is None else (row.manifest_json, row.digest)


def _info_of(row: Row[Any]) -> CheckpointInfo:
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


def forget(connection: Connection, checkpoint_ids: Collection[int], loose: Collection[int] = ()) -> Gone:
    """Delete checkpoints and the blobs that now have no name, the bytes in chunks too if they are few.

    Args:
        connection: In a transaction.
        checkpoint_ids: Which checkpoints.
        loose: Blobs that have just lost another.

    Returns:
        The blobs whose bytes are still to be deleted.
    """
    candidates = {*delete_rows(connection, checkpoint_ids), *loose}
    return _few_at_once(connection, blobs.delete_unreferenced(connection, candidates))


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
    parts = read_manifest(manifest_json).parts
    candidates = set(delete_rows(connection, [info.checkpoint_id]))
    names = {part.blob for part in parts}
    ids = set(blobs.find_known(connection, uuid, names).values())
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
    insert_row(connection, uuid, row, names, old.created_at)
    return _few_at_once(connection, blobs.delete_unreferenced(connection, candidates - ids))


def insert_row(
    connection: Connection, uuid: str, row: dict[str, Any], names: Collection[str], created_at: float
) -> CheckpointInfo:
    """Make a checkpoint of bytes that are there.

    Args:
        connection: In a write transaction, in which those bytes cannot be swept.
        uuid: The study.
        row: All other columns.
        names: The blobs it consists of.
        created_at: When it was made [seconds since the epoch].
    """
    values = {**row, "study": uuid, "created_at": created_at}
    checkpoint_id = insert_one(connection, _INSERT, values)
    for count, values in blobs.groups_by_name(uuid, names):
        run(connection, _naming(count), {"checkpoint": checkpoint_id, **values})
    position = Position(row["examples_seen"], row["virtual_epoch"])
    thinned = bool(row["weights_only"])
    return CheckpointInfo(checkpoint_id, row["number"], position, row["num_bytes"], created_at, thinned)


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
    candidates = list(connection.execute(query).scalars())
    connection.execute(delete(checkpoint_blobs).where(checkpoint_blobs.c.checkpoint_id.in_(ids)))
    connection.execute(delete(checkpoints).where(checkpoints.c.checkpoint_id.in_(ids)))
    return candidates


def forget_trial(connection: Connection, uuid: str, number: int) -> int:
    """Forget all checkpoints of a trial that begins again; return how many. Its bytes go with the next sweep."""
    ids = [info.checkpoint_id for info in infos_of(connection, uuid, number)]
    delete_rows(connection, ids)
    return len(ids)
