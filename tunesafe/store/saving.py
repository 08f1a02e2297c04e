"""A checkpoint on its way to disk: hashed, written and named, again where a step may be tried again.

Many new bytes are written to a pack, or in transactions of their own, before the transaction that
names them; few go with it. What a failed attempt has hashed and written serves the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from contextlib import suppress
from typing import TypeVar

from sqlalchemy import Connection, Engine

from tunesafe.contracts import CheckpointInfo, Snapshot
from tunesafe.errors import LeaseLostError
from tunesafe.failpoints import failpoint
from tunesafe.store import blobs
from tunesafe.store.blobs import Content, Gone
from tunesafe.store.checkpoint_rows import (
    ONE_TRANSACTION_BYTES,
    delete_rows,
    forget,
    infos_of,
    insert_row,
    manifest_at,
    standing,
)
from tunesafe.store.claims import advance, check_fence
from tunesafe.store.engine import reading, writing
from tunesafe.store.faults import TransientStorageError, UnreachableStorageError, translated
from tunesafe.store.hashing import state_hash
from tunesafe.store.manifests import Composed, compose, digest_of, manifest_of, views_of
from tunesafe.store.pack_file import OpenPack, Place
from tunesafe.store.packs import PackFolder, Packs
from tunesafe.store.segments import Layout

__all__ = ["Saving", "Surplus", "batches"]

Surplus = Callable[[Sequence[CheckpointInfo]], Collection[int]]
"""Given all checkpoints of a trial, the ids of those that may be removed."""

_ATTEMPTS = 5
_TRANSACTION_BYTES = 16 << 20
"""What is written to a server at a time: fewer commits, and nobody waits for its locks."""
_OVERLAPPED_BYTES = 4 << 20
"""A pack up to this size is on its way to the disk while the statements that name it are made."""
_T = TypeVar("_T")


class Saving:
    """One state of one trial, until it is a checkpoint.

    Args:
        engine: The database.
        uuid: The study.
        packs: Where large bytes go; ``None`` for into the database as well.
        snapshot: The state; its memory must not change meanwhile.
        number: The trial it belongs to.
        fence: Of the claim under which it is saved.
        surplus: Chooses what to forget now that this checkpoint is there; never this one itself.
        small_bytes: Up to so many new bytes go into the transaction that names them.
        before: What the trial's newest checkpoint consists of, if that is known.
    """

    def __init__(
        self,
        engine: Engine,
        uuid: str,
        packs: Packs | None,
        snapshot: Snapshot,
        *,
        number: int,
        fence: int,
        surplus: Surplus,
        small_bytes: int,
        before: Layout | None,
    ) -> None:
        self._engine, self._uuid, self._packs = engine, uuid, packs
        self._snapshot, self._number, self._fence, self._surplus = snapshot, number, fence, surplus
        self._small_bytes, self._before = small_bytes, before
        self._views = views_of(snapshot)
        self._names: list[str] = []
        self._places: dict[str, Place] = {}
        self._ahead: set[str] = set()
        """What has been written to the database before the transaction that names it."""
        self._pack: OpenPack | None = None
        """The newest of these, while the disk still works on it."""
        self._trusting = True
        """Whether bytes that have changed since the checkpoint before are taken for new without being looked for."""

    @property
    def places(self) -> tuple[Place, ...]:
        """What has been written to packs for it."""
        return tuple(self._places.values())

    def run(self) -> tuple[CheckpointInfo, Gone, Layout]:
        """Write and commit; also return the blobs whose bytes are still to be deleted, and what it consists of.

        Raises:
            LeaseLostError, StorageError: As ``CheckpointStore.save``.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                composed = self._write()
                return *self._commit(composed), composed.layout
            except UnreachableStorageError:
                raise  # every attempt may take half a minute to find that out: whoever waits has to be told
            except TransientStorageError:
                if attempt == _ATTEMPTS:
                    raise
                self._trusting = False
            finally:
                if self._pack is not None:
                    self._pack.discard()
        raise AssertionError("unreachable")

    def _write(self) -> Composed:
        """Name all bytes, and write new ones ahead of the commit if they are too many for its transaction."""
        self._names = self._names or [state_hash(view) for view in self._views]
        composed = compose(self._snapshot, self._views, self._names, self._before)
        if self._packs is not None:
            self._places = self._packs.present(self._places)
        if composed.num_bytes > self._small_bytes:
            there = self._places.keys() | self._stored(self._doubtful(composed))
            self._write_new([content for name, content in composed.contents.items() if name not in there])
        return composed

    def _doubtful(self, composed: Composed) -> Collection[str]:
        """Those contents that are looked for before they are written; of a large state all, for that takes no time."""
        trusting = self._trusting and composed.num_bytes <= _OVERLAPPED_BYTES
        return composed.doubtful if trusting else composed.contents.keys()

    def _stored(self, names: Collection[str]) -> Collection[str]:
        """Those that have intact bytes."""
        if not names and isinstance(self._packs, PackFolder):
            return ()
        with reading(self._engine) as connection:
            check_fence(connection, self._uuid, self._number, self._fence)
            return blobs.find_intact(connection, self._uuid, names).keys()

    def _write_new(self, new: Sequence[Content]) -> None:
        if sum(content.num_bytes for content in new) <= self._small_bytes:
            return  # they go into the transaction that names them
        with translated(self._engine.url):
            if self._packs is not None:
                large = self._for_pack(new, self._packs.least_bytes)
                if large:
                    places = self._write_pack(self._packs, large)
                    self._places |= {content.hash: place for content, place in zip(large, places, strict=True)}
                return
            for batch in batches(new, lambda content: content.num_bytes, _TRANSACTION_BYTES):
                with writing(self._engine) as connection:
                    blobs.write_blobs(connection, self._uuid, batch)
                for content in batch:
                    self._ahead.add(content.hash)
                    failpoint("blob.written")

    def _write_pack(self, packs: Packs, contents: Sequence[Content]) -> list[Place]:
        pieces = [content.pieces for content in contents]
        if isinstance(packs, PackFolder) and sum(content.num_bytes for content in contents) <= _OVERLAPPED_BYTES:
            self._pack = packs.begin(pieces)
            return self._pack.places
        return packs.write(pieces)

    def _for_pack(self, new: Sequence[Content], least_bytes: int) -> list[Content]:
        """What goes into a pack; the rest, never more than a transaction's worth, goes with the row that names it."""
        left, large = max(self._small_bytes, ONE_TRANSACTION_BYTES), []
        for content in new:
            if content.num_bytes < least_bytes and content.num_bytes <= left:
                left -= content.num_bytes
            else:
                large.append(content)
        return large

    def _commit(self, composed: Composed) -> tuple[CheckpointInfo, Gone]:
        """Make it a checkpoint; also return the blobs whose bytes are still to be deleted."""
        manifest = manifest_of(self._snapshot, composed)
        # Where writers take turns, one commit does it all. Where they do not, two savers would wait for each
        # other: each locks the bytes it names, and then those it forgets, which the other may be about to name.
        together = self._engine.dialect.name == "sqlite"
        left = Gone()
        with writing(self._engine) as connection:
            advance(connection, self._uuid, self._number, self._fence, self._snapshot.position.examples_seen)
            there = self._put_bytes(connection, composed)
            info, infos, loose = self._put_row(connection, composed, manifest, there)
            if together:
                left = self._forget_surplus(connection, info, infos, loose)
            if self._pack is not None:
                with translated(self._engine.url):
                    self._pack.finish()
            failpoint("checkpoint.in_transaction")
        failpoint("checkpoint.committed")
        if not together:
            # Whoever has the trial by now knows better what it needs.
            with writing(self._engine) as connection, suppress(LeaseLostError):
                check_fence(connection, self._uuid, self._number, self._fence)
                infos = infos_of(connection, self._uuid, self._number)
                left = self._forget_surplus(connection, info, infos, loose)
        failpoint("surplus.committed")
        # What has been written to a pack although it was stored meanwhile, or for an attempt that came to nothing.
        unused = tuple(place for name, place in self._places.items() if name in there or name not in composed.contents)
        return info, left | Gone(places=unused)

    def _forget_surplus(
        self, connection: Connection, info: CheckpointInfo, infos: Sequence[CheckpointInfo], loose: Collection[int]
    ) -> Gone:
        unwanted = set(self._surplus(infos)) - {info.checkpoint_id}
        left = forget(connection, unwanted, loose) if unwanted or loose else Gone()
        failpoint("surplus.in_transaction")
        return left

    def _put_bytes(self, connection: Connection, composed: Composed) -> Set[str]:
        """Write those that are missing; return the names of the others."""
        uuid, places = self._uuid, self._places
        doubtful = self._doubtful(composed)
        there = blobs.lock_intact(connection, uuid, {*doubtful, *composed.needed, *self._ahead})
        if not composed.needed <= there.keys():
            self._before = None
            raise TransientStorageError("Bytes of the checkpoint before are gone; this one is written without them.")
        new = [content for name, content in composed.contents.items() if name not in there]
        if self._packs is not None and len(self._packs.present(places)) < len(places):
            raise TransientStorageError("A pack was swept before it was named; it is written again.")
        if new:
            blobs.write_blobs(connection, uuid, new, places, doubtful)
            for _ in new:
                failpoint("blob.written")
        return there.keys()

    def _put_row(
        self, connection: Connection, composed: Composed, manifest: str, there: Set[str]
    ) -> tuple[CheckpointInfo, list[CheckpointInfo], Collection[int]]:
        """Name its bytes, some of which were there.

        Returns:
            The checkpoint, all of the trial's with it, and the blobs that a row in its place has named until now.
        """
        position = self._snapshot.position
        digest = digest_of(self._uuid, self._number, position, manifest)
        names = composed.contents.keys() | composed.needed
        now, infos = standing(connection, self._uuid, self._number)
        loose: Collection[int] = ()
        for old in infos:
            if old.position == position:
                same = manifest_at(connection, old.checkpoint_id) == (manifest, digest)
                if same and names <= there:
                    return old, infos, loose
                # Damaged since, or trained again and come out differently: what is true now counts.
                loose = delete_rows(connection, [old.checkpoint_id])
        row = {
            "number": self._number,
            "virtual_epoch": position.virtual_epoch,
            "examples_seen": position.examples_seen,
            "manifest_json": manifest,
            "digest": digest,
            "num_bytes": composed.num_bytes,
            "fence": self._fence,
            "weights_only": 0,
        }
        info = insert_row(connection, self._uuid, row, names, now)
        others = [other for other in infos if other.position != position]
        newest_first = sorted([*others, info], key=_age, reverse=True)
        return info, newest_first, loose


def batches(items: Iterable[_T], size: Callable[[_T], int], most: int) -> Iterator[list[_T]]:
    """Small items together, up to a size [bytes]; a larger one by itself."""
    batch: list[_T] = []
    num_bytes = 0
    for item in items:
        if batch and num_bytes + size(item) > most:
            yield batch
            batch, num_bytes = [], 0
        batch.append(item)
        num_bytes += size(item)
    if batch:
        yield batch


def _age(info: CheckpointInfo) -> tuple[int, int]:
    return info.position.examples_seen, info.position.virtual_epoch
