"""How many bytes a study's checkpoints are, and where; counted in the database, nothing is changed.

Equal bytes are stored once, so what a checkpoint holds and what would be free without it are two
numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from sqlalchemy import Connection, case, exists, func, select

from tunesafe.store.blobs import StoredBytes, chunkless, needed_places, orphans
from tunesafe.store.packs import Packs
from tunesafe.store.tables import blobs, checkpoint_blobs, checkpoints

__all__ = ["StoredSum", "bytes_of_each_alone", "bytes_of_these_alone", "left_behind", "stored_bytes"]

_IDS_AT_ONCE = 500
_LOOKS_BETWEEN_COUNTS = 64


def stored_bytes(connection: Connection, uuid: str) -> StoredBytes:
    """All bytes of a study's states, each content once; with what killed processes left without a name."""
    in_packs = func.sum(case((blobs.c.pack.is_not(None), blobs.c.num_bytes), else_=0))
    row = connection.execute(select(func.sum(blobs.c.num_bytes), in_packs).where(blobs.c.study == uuid)).one()
    # MySQL and PostgreSQL sum integers to decimals, and every database nothing to NULL.
    both, packed = (int(value or 0) for value in row)
    return StoredBytes(both - packed, packed)


class StoredSum:
    """How many bytes a study's states take, without counting all of them each time.

    Counted are the blobs that are new since the last time, whoever stored them; what others have
    removed meanwhile is not seen, so the sum is too large rather than too small until all are
    counted again. (On servers a commit may be overtaken by a younger one and not be seen: a
    recount now and then finds it.)

    Args:
        uuid: The study.
    """

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid
        self._num_bytes, self._newest, self._num_looks = 0, 0, 0

    def at_most(self, connection: Connection) -> int:
        """About how many there are, and hardly ever more [bytes]."""
        if self._num_looks % _LOOKS_BETWEEN_COUNTS == 0:
            return self.exactly(connection)
        self._num_looks += 1
        # No condition on the study: with one, SQLite would walk through all of the study's blobs by their hashes.
        query = select(blobs.c.blob_id, blobs.c.study, blobs.c.num_bytes).where(blobs.c.blob_id > self._newest)
        for blob_id, study, num_bytes in connection.execute(query):
            self._newest = max(self._newest, blob_id)
            self._num_bytes += num_bytes if study == self._uuid else 0
        return self._num_bytes

    def exactly(self, connection: Connection) -> int:
        """How many there are, all of them counted [bytes]."""
        self._num_looks = 1
        self._newest = connection.execute(select(func.max(blobs.c.blob_id))).scalar_one_or_none() or 0
        stored = stored_bytes(connection, self._uuid)
        self._num_bytes = stored.in_database + stored.in_packs
        return self._num_bytes


def bytes_of_each_alone(connection: Connection, uuid: str, number: int | None = None) -> dict[int, int]:
    """How much only one checkpoint holds [bytes], by its id; one that shares everything is not in it.

    Args:
        connection: In a transaction.
        uuid: The study.
        number: Of one trial only; shared or not is a question of the whole study.
    """
    mine, other = checkpoint_blobs, checkpoint_blobs.alias()
    shared = exists().where(other.c.blob_id == mine.c.blob_id, other.c.checkpoint_id != mine.c.checkpoint_id)
    query = (
        select(mine.c.checkpoint_id, func.sum(blobs.c.num_bytes))
        .join(blobs, blobs.c.blob_id == mine.c.blob_id)
        .join(checkpoints, checkpoints.c.checkpoint_id == mine.c.checkpoint_id)
        .where(checkpoints.c.study == uuid, ~shared)
        .group_by(mine.c.checkpoint_id)
    )
    if number is not None:
        query = query.where(checkpoints.c.number == number)
    return {checkpoint_id: int(num_bytes) for checkpoint_id, num_bytes in connection.execute(query)}


def bytes_of_these_alone(connection: Connection, checkpoint_ids: Collection[int]) -> StoredBytes:
    """How much no other checkpoint than these holds: what is free once all of them are removed."""
    named: dict[int, int] = {}
    for some in _groups(checkpoint_ids):
        query = select(checkpoint_blobs.c.blob_id, func.count()).where(checkpoint_blobs.c.checkpoint_id.in_(some))
        for blob_id, count in connection.execute(query.group_by(checkpoint_blobs.c.blob_id)):
            named[blob_id] = named.get(blob_id, 0) + count
    total = StoredBytes()
    for some in _groups(named):
        query = (
            select(blobs.c.blob_id, blobs.c.num_bytes, blobs.c.pack.is_not(None), func.count())
            .join(checkpoint_blobs, checkpoint_blobs.c.blob_id == blobs.c.blob_id)
            .where(blobs.c.blob_id.in_(some))
            .group_by(blobs.c.blob_id, blobs.c.num_bytes, blobs.c.pack)
        )
        for blob_id, num_bytes, packed, count in connection.execute(query):
            if count == named[blob_id]:
                total += StoredBytes(in_packs=num_bytes) if packed else StoredBytes(in_database=num_bytes)
    return total


def left_behind(
    connection: Connection, uuid: str, packs: Packs | None, older_than_seconds: float = 3600.0
) -> StoredBytes:
    """About what ``CheckpointStore.sweep_orphans`` would remove."""
    total = StoredBytes(in_database=sum(chunkless(connection).values()))
    for some in _groups(orphans(connection, uuid, older_than_seconds)):
        query = select(blobs.c.num_bytes, blobs.c.pack.is_not(None)).where(blobs.c.blob_id.in_(some))
        for num_bytes, packed in connection.execute(query):
            total += StoredBytes(in_packs=num_bytes) if packed else StoredBytes(in_database=num_bytes)
    if packs is None:
        return total
    return total + StoredBytes(in_packs=packs.left_behind(needed_places(connection), older_than_seconds))


def _groups(ids: Collection[int]) -> Iterator[list[int]]:
    """Lists short enough for the parameters of one statement."""
    everything = list(ids)
    for start in range(0, len(everything), _IDS_AT_ONCE):
        yield everything[start : start + _IDS_AT_ONCE]
