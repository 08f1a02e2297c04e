"""Whole states, stored whole or not at all, read back only as they were.

Bytes first, in a pack beside the database or in transactions of their own; last, in one
transaction, the row that makes them a checkpoint: it checks the fence, locks the blobs it names
against a sweep, says how far the trial has come, and (in SQLite) forgets the checkpoints this one
makes superfluous. A small state then costs one commit altogether. Everything has a hash (the
manifest too), and everything is verified when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import TypeVar

from sqlalchemy import Connection, Engine

from tunesafe.contracts import CheckpointInfo, Snapshot, StoredState
from tunesafe.errors import DamagedError, StorageError, TunesafeError
from tunesafe.failpoints import failpoint
from tunesafe.store import blobs
from tunesafe.store.blobs import Gone, StoredBytes
from tunesafe.store.checkpoint_rows import ONE_TRANSACTION_BYTES, forget, infos_of, keep_only, manifest_at
from tunesafe.store.damage import FoundDamaged, RemovedError, damaged, removed
from tunesafe.store.engine import reading, writing
from tunesafe.store.faults import CorruptStorageError, TransientStorageError, translated
from tunesafe.store.hashing import Buffer
from tunesafe.store.loading import Wanted, load_blobs
from tunesafe.store.manifests import Part, is_digest, layout_of, read_manifest, with_only
from tunesafe.store.packs import Packs
from tunesafe.store.saving import Saving, Surplus, batches
from tunesafe.store.segments import Layout

__all__ = ["CheckpointStore"]

_Also = Callable[[Connection], None]
"""Something to do in a transaction."""
_T = TypeVar("_T")


class CheckpointStore:
    """The checkpoints of one study.

    Args:
        engine: From ``open_engine``; one from ``read_only_engine`` can list and load.
        uuid: The study.
        packs: Where large bytes are, from ``packs_beside``; ``None`` for in the database as well.
        small_bytes: Up to so many new bytes of a state are written in the transaction that names them.
    """

    def __init__(
        self, engine: Engine, uuid: str, packs: Packs | None, small_bytes: int = ONE_TRANSACTION_BYTES
    ) -> None:
        self._engine, self._uuid, self._packs, self._small_bytes = engine, uuid, packs, small_bytes
        self._newest: tuple[int, Layout] | None = None
        """The trial of the last save, and what its checkpoint consists of."""

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
        before = self._newest[1] if self._newest and self._newest[0] == number else self._layout(number)
        saving = Saving(
            self._engine,
            self._uuid,
            self._packs,
            snapshot,
            number=number,
            fence=fence,
            surplus=surplus,
            small_bytes=self._small_bytes,
            before=before,
        )
        try:
            info, left, layout = saving.run()
        except TunesafeError as error:
            # A server whose answer was lost may still be about to commit rows that name them: a sweep is late enough.
            if self._engine.dialect.name == "sqlite" or not isinstance(error, TransientStorageError):
                with suppress(StorageError):  # on a full disk they had better go at once
                    self._delete_bytes(Gone(places=saving.places))
            raise
        self._newest = number, layout
        self._delete_bytes(left)
        failpoint("checkpoint.swept")
        return info

    def infos(self, number: int | None = None) -> list[CheckpointInfo]:
        """The checkpoints of one trial, or of the whole study; newest first within a trial."""
        with reading(self._engine) as connection:
            return infos_of(connection, self._uuid, number)

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
        """The newest whole checkpoint of a trial that is what was written; ``None`` if there is none.

        Args:
            number: The trial.
            on_damage: Told of each newer one that is not; see ``mark_damaged``.
        """
        for info in self.infos(number):
            if info.weights_only:
                continue
            try:
                return self.load(info)
            except RemovedError:
                continue
            except DamagedError as error:
                on_damage(error)
        return None

    def mark_damaged(self, damage: Iterable[DamagedError]) -> None:
        """Let the next save that holds the bytes of damaged checkpoints write them again.

        Args:
            damage: What ``newest_intact`` has found, and somebody has kept: once it is healed, nobody finds it again.
        """
        blob_ids = sorted({each for error in damage if isinstance(error, FoundDamaged) for each in error.blob_ids})
        if blob_ids:
            with writing(self._engine) as connection:
                blobs.mark_damaged(connection, blob_ids)

    def remove(self, checkpoint_ids: Collection[int], also: _Also | None = None) -> StoredBytes:
        """Forget checkpoints, and the bytes no other checkpoint names: rows first, then bytes.

        Args:
            checkpoint_ids: Which ones; those that are gone already do no harm.
            also: What is to happen in the same transaction, before.

        Returns:
            How many bytes that were.
        """
        left = Gone()
        if checkpoint_ids or also is not None:
            with writing(self._engine) as connection:
                if also is not None:
                    also(connection)
                left = forget(connection, checkpoint_ids)
                failpoint("forget.in_transaction")
            failpoint("forget.committed")
            self._delete_bytes(left)
        failpoint("checkpoint.swept")
        return left.num_bytes

    def keep_weights(
        self, info: CheckpointInfo, weights_in: Callable[[str], Collection[int]], also: _Also | None = None
    ) -> StoredBytes:
        """Give up all of a checkpoint but its weights: another row, under another id, names fewer bytes.

        No byte is copied. What has been given up already, or is gone, is left as it is; so is a state without weights.

        Args:
            info: Of a trial that will not go on.
            weights_in: Finds the tensors to keep, by index, in the text of a structure.
            also: What is to happen in the same transaction, before.

        Returns:
            How many bytes are free now.

        Raises:
            DamagedError: If the list of its bytes, or its structure, is not what was written; nothing is changed.
            RemovedError: If another process has removed it.
        """
        kept = self.weights(info, weights_in)
        if not kept:
            return StoredBytes()
        fewer = with_only(self.manifest(info), kept)
        with writing(self._engine) as connection:
            if also is not None:
                also(connection)
            left = keep_only(connection, self._uuid, info, fewer)
            failpoint("forget.in_transaction")
        failpoint("forget.committed")
        self._delete_bytes(left)
        failpoint("checkpoint.swept")
        return left.num_bytes

    def weights(self, info: CheckpointInfo, weights_in: Callable[[str], Collection[int]]) -> Collection[int]:
        """The tensors that ``keep_weights`` would keep, by index; none of a state it would leave as it is.

        Raises:
            DamagedError, RemovedError: As ``keep_weights``.
        """
        return () if info.weights_only else weights_in(self._read(info, self._structure))

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
        for batch in batches(gone.chunks.items(), lambda item: item[1], blobs.CHUNK_BYTES):
            with writing(self._engine) as connection:
                blobs.delete_chunks(connection, [blob_id for blob_id, _ in batch])
        if gone.places and self._packs is not None:
            with reading(self._engine) as connection:
                needed = blobs.needed_places(connection, {place.pack for place in gone.places})
            named = {place for places in needed.values() for place in places}
            with translated(self._engine.url):
                self._packs.free([place for place in gone.places if place not in named], needed)

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

    def _layout(self, number: int) -> Layout | None:
        """What a trial's newest checkpoint consists of; ``None`` without one, or with one that cannot be read."""
        for info in self.infos(number)[:1]:
            with suppress(DamagedError, RemovedError):
                return layout_of(self.manifest(info))
        return None

    def _manifest(self, connection: Connection, info: CheckpointInfo) -> str:
        found = manifest_at(connection, info.checkpoint_id)
        if found is None:
            raise damaged(info, "it has been removed")
        manifest, digest = found
        if not is_digest(digest, self._uuid, info.number, info.position, manifest):
            raise damaged(info, "its manifest no longer matches its hash")
        return str(manifest)

    def _structure(self, connection: Connection, info: CheckpointInfo) -> str:
        part = read_manifest(self._manifest(connection, info)).structure
        wanted = [Wanted(part.blob, part.blob_bytes, part.owner)]
        for data in load_blobs(connection, self._uuid, wanted, self._packs).intact.values():
            return bytes(data).decode("utf-8", "surrogatepass")
        raise damaged(info, f"{part.what} is missing or no longer matches its hash")

    def _load(self, connection: Connection, info: CheckpointInfo) -> StoredState:
        manifest = read_manifest(self._manifest(connection, info))
        # An object's tensors come and go together: a network's when they are copied into it, an optimizer's stay.
        parts = {part.blob: part for part in reversed(manifest.parts)}
        wanted = [Wanted(part.blob, part.blob_bytes, part.owner) for part in parts.values()]
        loaded = load_blobs(connection, self._uuid, wanted, self._packs)
        ids, intact = loaded.ids, loaded.intact
        for part in parts.values():
            if part.blob not in intact:
                found = "no longer matches its hash" if part.blob in ids else "is missing"
                others = sum(each.blob == part.blob for each in manifest.parts) - 1
                what = f"{part.what} (or one of {others} stored with it)" if others else part.what
                raise damaged(info, f"{what} {found}", [ids[name] for name in ids if name not in intact])
        if None in manifest.tensors and not info.weights_only:
            raise damaged(info, "its row says that it is whole, and it is not")
        structure = bytes(intact[manifest.structure.blob]).decode("utf-8", "surrogatepass")
        return StoredState(info, structure, _own_bytes(intact, manifest.tensors))


def _own_bytes(intact: Mapping[str, Buffer], parts: Iterable[Part | None]) -> tuple[Buffer | None, ...]:
    """Bytes by index; tensors that were equal get bytes of their own, for they are written to separately."""
    views = {name: memoryview(data) for name, data in intact.items()}
    given: dict[str, int] = {}
    tensors: list[Buffer | None] = []
    for part in parts:
        if part is None:
            tensors.append(None)
            continue
        end = part.offset + part.num_bytes
        data = views[part.blob][part.offset : end]
        # What lies before the end of what is given may be part of it: another tensor may be all of a segment.
        tensors.append(data if part.offset >= given.get(part.blob, 0) else bytearray(data))
        given[part.blob] = max(given.get(part.blob, 0), end)
    return tuple(tensors)
