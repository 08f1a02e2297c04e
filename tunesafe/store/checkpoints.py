"""Whole states, stored whole or not at all, read back only as they were.

Bytes first, in a pack beside the database or in transactions of their own; last, in one
transaction, the row that makes them a checkpoint: it checks the fence, locks the blobs it names
against a sweep, says how far the trial has come, and (in SQLite) forgets the checkpoints this one
makes superfluous. A small state then costs one commit altogether. Everything has a hash (the
manifest too), and everything is verified when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Row, delete, insert, select

from tunesafe.contracts import CheckpointInfo, Position, Snapshot, StoredState
from tunesafe.errors import DamagedError, StorageError, TunesafeError
from tunesafe.failpoints import failpoint
from tunesafe.store import blobs
from tunesafe.store.blobs import Gone, StoredBytes, is_named
from tunesafe.store.claims import advance, check_fence
from tunesafe.store.damage import FoundDamaged, RemovedError, damaged, removed
from tunesafe.store.engine import database_now, reading, writing
from tunesafe.store.faults import CorruptStorageError, TransientStorageError, UnreachableStorageError, translated
from tunesafe.store.manifests import Described, describe, is_digest, parts_of
from tunesafe.store.packs import PackFolder, Place
from tunesafe.store.tables import checkpoint_blobs, checkpoints

__all__ = ["CheckpointStore", "Surplus", "forget_trial"]

Surplus = Callable[[Sequence[CheckpointInfo]], Collection[int]]
"""Given all checkpoints of a trial, the ids of those that may be removed."""

_ONE_TRANSACTION_BYTES = 1 << 20
"""Bytes up to this size are written or deleted in the transaction that names or forgets them."""
_SAVE_ATTEMPTS = 5
_T = TypeVar("_T")


class CheckpointStore:
    """The checkpoints of one study.

    Args:
        engine: From ``open_engine``; one from ``read_only_engine`` can list and load.
        uuid: The study.
        packs: Where large bytes are, from ``packs_beside``; ``None`` for in the database as well.
    """

    def __init__(self, engine: Engine, uuid: str, packs: PackFolder | None) -> None:
        self._engine, self._uuid, self._packs = engine, uuid, packs

    def save(
        self, snapshot: Snapshot, *, number: int, fence: int, surplus: Surplus = lambda infos: ()
    ) -> CheckpointInfo:
        """Make a state durable; what is there already, bytes or all of it, is not written again.

        Args:
            snapshot: The state; its memory must not change until this returns.
            number: The trial it belongs to.
            fence: Of the claim under which it is saved.
            surplus: Chooses what to remove now that this checkpoint is there; never this one itself.

        Raises:
            LeaseLostError: If the trial has been claimed again since; no checkpoint was made.
            StorageError: If the database cannot be written; no checkpoint was made, older ones are unharmed.
        """
        described = describe(snapshot, self._uuid, number)
        places: Mapping[str, Place] = {}  # what a failed attempt has written to a pack serves the next one
        try:
            for attempt in range(1, _SAVE_ATTEMPTS + 1):
                try:
                    places = self._write_large(described, number, fence, places)
                    info, left = self._commit(described, number, fence, surplus, places)
                    break
                except UnreachableStorageError:
                    raise  # every attempt may take half a minute to find that out: whoever waits has to be told
                except TransientStorageError:
                    if attempt == _SAVE_ATTEMPTS:
                        raise
        except TunesafeError:
            with suppress(StorageError):  # else a sweep finds them; on a full disk they had better go at once
                self._delete_bytes(Gone(places=tuple(places.values())))
            raise
        self._delete_bytes(left)
        failpoint("checkpoint.swept")
        return info

    def infos(self, number: int | None = None) -> list[CheckpointInfo]:
        """The checkpoints of one trial, or of the whole study; newest first within a trial."""
        with reading(self._engine) as connection:
            return _infos(connection, self._uuid, number)

    def load(self, info: CheckpointInfo) -> StoredState:
        """Read a checkpoint back and verify every byte of it.

        Raises:
            DamagedError: If anything is missing or is not what was written; the message names trial,
                example and tensor. Nothing is changed.
            RemovedError: If another process removes it at this moment.
            StorageError: If the database cannot be read.
        """
        return self._read(info, self._load)

    def manifest(self, info: CheckpointInfo) -> str:
        """The list of a checkpoint's bytes, verified; of the bytes themselves nothing is read.

        Raises:
            DamagedError, StorageError: As ``load``.
        """
        return self._read(info, self._manifest)

    def newest_intact(self, number: int, on_damage: Callable[[DamagedError], None]) -> StoredState | None:
        """The newest checkpoint of a trial that is what was written; ``None`` if there is none.

        Args:
            number: The trial.
            on_damage: Told of each newer one that is not. Its bytes are marked, and written again by
                the next save that holds them.
        """
        for info in self.infos(number):
            try:
                return self.load(info)
            except RemovedError:
                continue
            except DamagedError as error:
                if isinstance(error, FoundDamaged) and error.blob_ids:
                    with writing(self._engine) as connection:
                        blobs.mark_damaged(connection, error.blob_ids)
                on_damage(error)
        return None

    def remove(self, checkpoint_ids: Collection[int]) -> StoredBytes:
        """Forget checkpoints, and the bytes no other checkpoint names: rows first, then bytes.

        Returns:
            How many bytes that were.
        """
        left = Gone()
        if checkpoint_ids:
            with writing(self._engine) as connection:
                left = _forget(connection, checkpoint_ids)
            self._delete_bytes(left)
        failpoint("checkpoint.swept")
        return left.num_bytes

    def sweep_orphans(self, older_than_seconds: float = 3600.0) -> StoredBytes:
        """Remove what killed saves and sweeps left behind; a save in progress is younger than that.

        Returns:
            How many bytes that were.
        """
        with writing(self._engine) as connection:
            gone = blobs.delete_unreferenced(connection, blobs.orphans(connection, self._uuid, older_than_seconds))
            left = Gone(blobs.chunkless(connection)) | gone
        self._delete_bytes(left)
        if self._packs is not None:
            # Under the write lock: a saver that was held up for so long finds in its transaction that its pack is gone.
            with writing(self._engine) as connection:
                needed = blobs.needed_places(connection)
                return left.num_bytes + StoredBytes(in_packs=self._packs.sweep(needed, older_than_seconds))
        return left.num_bytes

    def _delete_bytes(self, gone: Gone) -> None:
        # A few megabytes at a time: a sweep of gigabytes must not keep others' leases waiting.
        for batch in _batches(gone.chunks.items(), lambda item: item[1]):
            with writing(self._engine) as connection:
                blobs.delete_chunks(connection, [blob_id for blob_id, _ in batch])
        if gone.places and self._packs is not None:
            with reading(self._engine) as connection:
                needed = blobs.needed_places(connection, {place.pack for place in gone.places})
            named = {place for places in needed.values() for place in places}
            with translated(self._engine.url):
                self._packs.free([place for place in gone.places if place not in named], needed)

    def _write_large(
        self, described: Described, number: int, fence: int, places: Mapping[str, Place]
    ) -> Mapping[str, Place]:
        """Write new bytes ahead of the commit, if they are too many for its transaction.

        Returns:
            Where they are, by hash, if that is in packs; with what an earlier attempt has written.
        """
        if described.num_bytes <= _ONE_TRANSACTION_BYTES:
            return places
        with reading(self._engine) as connection:
            check_fence(connection, self._uuid, number, fence)
            there = blobs.find_intact(connection, self._uuid, described.contents)
        if self._packs is not None:
            places = self._packs.present(places)
        new = [c for name, c in described.contents.items() if name not in there and name not in places]
        if sum(content.data.nbytes for content in new) <= _ONE_TRANSACTION_BYTES:
            return places
        with translated(self._engine.url):
            if self._packs is not None:
                written = self._packs.write([content.data for content in new])
                return {**places, **{content.hash: place for content, place in zip(new, written, strict=True)}}
            for batch in _batches(new, lambda content: content.data.nbytes):
                with writing(self._engine) as connection:
                    blobs.write_blobs(connection, self._uuid, batch)
                for _ in batch:
                    failpoint("blob.written")
        return places

    def _commit(
        self, described: Described, number: int, fence: int, surplus: Surplus, places: Mapping[str, Place]
    ) -> tuple[CheckpointInfo, Gone]:
        """Make it a checkpoint; also return the blobs whose bytes are still to be deleted."""

        def forget(connection: Connection) -> Gone:
            unwanted = set(surplus(_infos(connection, self._uuid, number))) - {info.checkpoint_id}
            return _forget(connection, unwanted, loose) if unwanted or loose else Gone()

        # Where writers take turns, one commit does it all. Where they do not, two savers would wait for each
        # other: each locks the bytes it names, and then those it forgets, which the other may be about to name.
        together = self._engine.dialect.name == "sqlite"
        left = Gone()
        with writing(self._engine) as connection:
            advance(connection, self._uuid, number, fence, described.position.examples_seen)
            info, loose, unused = self._put(connection, described, number, fence, places)
            if together:
                left = forget(connection)
            failpoint("checkpoint.in_transaction")
        failpoint("checkpoint.committed")
        if not together:
            with writing(self._engine) as connection:
                left = forget(connection)
        return info, left | Gone(places=tuple(unused))

    def _put(
        self, connection: Connection, described: Described, number: int, fence: int, places: Mapping[str, Place]
    ) -> tuple[CheckpointInfo, Collection[int], Collection[Place]]:
        """Write row and missing bytes.

        Returns:
            The checkpoint, the blobs that a row in its place has named until now, and bytes that were
            written to a pack although another worker had stored them meanwhile.
        """
        position, uuid = described.position, self._uuid
        ids = blobs.lock_intact(connection, uuid, described.contents)
        new = [content for name, content in described.contents.items() if name not in ids]
        if self._packs is not None and len(self._packs.present(places)) < len(places):
            raise TransientStorageError("A pack was swept before it was named; it is written again.")
        if new:
            ids |= blobs.write_blobs(connection, uuid, new, places)
            for _ in new:
                failpoint("blob.written")
        written = {content.hash for content in new}
        unused = [place for name, place in places.items() if name not in written]
        old = connection.execute(select(checkpoints).where(*_at(uuid, number, position))).one_or_none()
        loose: Collection[int] = ()
        if old is not None:
            if not new and (old.manifest_json, old.digest) == (described.manifest_json, described.digest):
                return _info(old), loose, unused
            # Damaged since, or trained again and come out differently: what is true now counts.
            loose = _delete_rows(connection, [old.checkpoint_id])
        now = database_now(connection)
        values = {
            "study": uuid,
            "number": number,
            "virtual_epoch": position.virtual_epoch,
            "examples_seen": position.examples_seen,
            "manifest_json": described.manifest_json,
            "digest": described.digest,
            "num_bytes": described.num_bytes,
            "fence": fence,
            "created_at": now,
        }
        (checkpoint_id,) = connection.execute(insert(checkpoints).values(values)).inserted_primary_key or (0,)
        named = [{"checkpoint_id": checkpoint_id, "blob_id": blob_id} for blob_id in ids.values()]
        connection.execute(insert(checkpoint_blobs), named)
        return CheckpointInfo(checkpoint_id, number, position, described.num_bytes, now), loose, unused

    def _read(self, info: CheckpointInfo, what: Callable[[Connection, CheckpointInfo], _T]) -> _T:
        try:
            with reading(self._engine) as connection:
                return what(connection, info)
        except CorruptStorageError as error:
            raise damaged(info, f"the database cannot read it ({error})") from error
        except DamagedError as error:
            # Rows go before bytes: what is read in mid-removal has lost its row when we look again.
            if any(other.checkpoint_id == info.checkpoint_id for other in self.infos(info.number)):
                raise
            raise removed(info) from error

    def _manifest(self, connection: Connection, info: CheckpointInfo) -> str:
        by_id = checkpoints.c.checkpoint_id == info.checkpoint_id
        row = connection.execute(select(checkpoints.c.manifest_json, checkpoints.c.digest).where(by_id)).one_or_none()
        if row is None:
            raise damaged(info, "it has been removed")
        if not is_digest(row.digest, self._uuid, info.number, info.position, row.manifest_json):
            raise damaged(info, "its manifest no longer matches its hash")
        return str(row.manifest_json)

    def _load(self, connection: Connection, info: CheckpointInfo) -> StoredState:
        parts = parts_of(self._manifest(connection, info))
        sizes = {part.hash: part.num_bytes for part in parts}
        ids = blobs.find_blobs(connection, self._uuid, sizes)
        names = {blob_id: name for name, blob_id in ids.items()}
        intact: dict[str, bytearray] = {}
        for blob_id, data in blobs.read_blobs(connection, {ids[name]: sizes[name] for name in ids}, self._packs):
            if is_named(data, names[blob_id]):
                intact[names[blob_id]] = data
        for part in parts:
            if part.hash not in intact:
                found = "no longer matches its hash" if part.hash in ids else "is missing"
                raise damaged(info, f"{part.what} {found}", [ids[name] for name in ids if name not in intact])
        structure = intact[parts[0].hash].decode("utf-8", "surrogatepass")
        return StoredState(info, structure, _own_bytes(intact, [part.hash for part in parts[1:]]))


def forget_trial(connection: Connection, uuid: str, number: int) -> int:
    """Forget all checkpoints of a trial that begins again; return how many. Its bytes go with the next sweep."""
    ids = [info.checkpoint_id for info in _infos(connection, uuid, number)]
    _delete_rows(connection, ids)
    return len(ids)


def _batches(items: Iterable[_T], size: Callable[[_T], int]) -> Iterable[list[_T]]:
    """Small items together, up to a chunk's size [bytes]; a larger one by itself."""
    batch: list[_T] = []
    num_bytes = 0
    for item in items:
        if batch and num_bytes + size(item) > blobs.CHUNK_BYTES:
            yield batch
            batch, num_bytes = [], 0
        batch.append(item)
        num_bytes += size(item)
    if batch:
        yield batch


def _forget(connection: Connection, checkpoint_ids: Collection[int], loose: Collection[int] = ()) -> Gone:
    """Delete checkpoints and the blobs that now have no name, the bytes in chunks too if they are few.

    Args:
        connection: In a transaction.
        checkpoint_ids: Which checkpoints.
        loose: Blobs that have just lost another.

    Returns:
        The blobs whose bytes are still to be deleted.
    """
    gone = blobs.delete_unreferenced(connection, {*_delete_rows(connection, checkpoint_ids), *loose})
    if sum(gone.chunks.values()) > _ONE_TRANSACTION_BYTES:
        return gone
    blobs.delete_chunks(connection, gone.chunks)
    return Gone(places=gone.places, done=sum(gone.chunks.values()))


def _delete_rows(connection: Connection, checkpoint_ids: Collection[int]) -> list[int]:
    """Delete checkpoints; return the ids of the blobs they named."""
    ids = list(checkpoint_ids)
    query = select(checkpoint_blobs.c.blob_id).where(checkpoint_blobs.c.checkpoint_id.in_(ids)).distinct()
    named = list(connection.execute(query).scalars())
    connection.execute(delete(checkpoint_blobs).where(checkpoint_blobs.c.checkpoint_id.in_(ids)))
    connection.execute(delete(checkpoints).where(checkpoints.c.checkpoint_id.in_(ids)))
    return named


def _infos(connection: Connection, uuid: str, number: int | None) -> list[CheckpointInfo]:
    columns = [column for column in checkpoints.c if column.name not in ("manifest_json", "digest")]
    query = select(*columns).where(checkpoints.c.study == uuid)
    if number is not None:
        query = query.where(checkpoints.c.number == number)
    newest_first = (checkpoints.c.examples_seen.desc(), checkpoints.c.virtual_epoch.desc())
    return [_info(row) for row in connection.execute(query.order_by(checkpoints.c.number, *newest_first))]


def _own_bytes(intact: dict[str, bytearray], names: Iterable[str]) -> tuple[bytearray, ...]:
    """Bytes by index; tensors that were equal get bytes of their own, for they are written to separately."""
    given: set[str] = set()
    tensors: list[bytearray] = []
    for name in names:
        tensors.append(bytearray(intact[name]) if name in given else intact[name])
        given.add(name)
    return tuple(tensors)


def _at(uuid: str, number: int, position: Position) -> tuple[Any, ...]:
    return (
        checkpoints.c.study == uuid,
        checkpoints.c.number == number,
        checkpoints.c.virtual_epoch == position.virtual_epoch,
        checkpoints.c.examples_seen == position.examples_seen,
    )


def _info(row: Row[Any]) -> CheckpointInfo:
    position = Position(row.examples_seen, row.virtual_epoch)
    return CheckpointInfo(row.checkpoint_id, row.number, position, row.num_bytes, row.created_at)
