"""Large bytes in a folder or an object store of the user's choice, for studies on servers above all.

The same as packs beside a SQLite file: one new object for all that one save has to write, whole and
durable before the transaction that names it, never written to again. But an object has no holes: it
goes when nothing in it is named any more. Objects of a study are under its UUID, so that several
studies and databases may share a place, and a mark says that it is theirs.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from uuid import uuid4

from tunesafe.errors import StorageError
from tunesafe.failpoints import failpoint
from tunesafe.store.depots import ConflictError, Depot, Entry
from tunesafe.store.memory import aligned_memory
from tunesafe.store.pack_file import Place

__all__ = ["DistantPacks"]

_MARK = "tunesafe-blobs"
_ENDING = ".pack"
_BLOCK_BYTES = 4 << 20
_SMALL_BYTES = 64 << 10
_CERTAIN_SECONDS = 1200.0
"""How long after it was written an object is there for certain: a sweep takes older ones only [s]."""


@dataclass(slots=True)
class DistantPacks:
    """The packs of one study in a depot.

    Args:
        depot: Where they are.
        uuid: The study.
    """

    depot: Depot
    uuid: str
    _written: dict[str, float] = field(default_factory=dict)
    _marked: bool = False

    @property
    def least_bytes(self) -> int:
        """A state's structure and small tensors, which hardly change, would keep a whole object from being removed."""
        return _SMALL_BYTES

    @property
    def is_near(self) -> bool:
        """Every piece is asked for over a network."""
        return False

    def write(self, contents: Collection[Sequence[memoryview]]) -> list[Place]:
        """As ``PackFolder.write``.

        Raises:
            StorageError: If they cannot be written; a reader finds nothing of the attempt.
        """
        self._mark()
        name = uuid4().hex

        def blocks() -> Iterator[bytes]:
            for data in chain.from_iterable(contents):
                for start in range(0, data.nbytes, _BLOCK_BYTES):
                    yield bytes(data[start : start + _BLOCK_BYTES])
            failpoint("pack.written")

        self.depot.put(self._object(name), blocks())
        failpoint("pack.durable")
        self._written[name] = time.monotonic()
        places, end = [], 0
        for pieces in contents:
            num_bytes = sum(piece.nbytes for piece in pieces)
            places.append(Place(name, end, num_bytes))
            end += num_bytes
        return places

    def read(self, place: Place, into: memoryview | None = None) -> memoryview:
        """As ``PackFolder.read``.

        Raises:
            StorageError: If the place cannot be reached, or is not this study's: that is no damage.
        """
        memory = aligned_memory(place.num_bytes) if into is None else into
        data = self.depot.part(self._object(place.pack), place.offset, place.num_bytes)
        if data is None:
            self._check_mark()
            return memory[:0]
        memory[: len(data)] = data
        return memory[: len(data)]

    def present(self, places: Mapping[str, Place]) -> dict[str, Place]:
        """As ``PackFolder.present``; nobody is asked about what was written a short while ago."""
        certain = time.monotonic() - _CERTAIN_SECONDS
        there = {
            name: self._written.get(name, -_CERTAIN_SECONDS) > certain
            or self.depot.part(self._object(name), 0, 0) is not None
            for name in {place.pack for place in places.values()}
        }
        return {name: place for name, place in places.items() if there[place.pack]}

    def free(self, places: Collection[Place], needed: Mapping[str, Collection[Place]]) -> None:
        """Remove objects of which no row names anything any more."""
        gone = {place.pack for place in places} - needed.keys()
        self.depot.delete([self._object(name) for name in gone])
        for name in gone:
            self._written.pop(name, None)

    def sweep(self, needed: Mapping[str, Collection[Place]], older_than_seconds: float) -> int:
        """As ``PackFolder.sweep``."""
        left = list(self._left_behind(needed, older_than_seconds))
        self.depot.delete([entry.name for entry in left])
        return sum(entry.num_bytes for entry in left)

    def left_behind(self, needed: Mapping[str, Collection[Place]], older_than_seconds: float) -> int:
        """As ``PackFolder.left_behind``."""
        return sum(entry.num_bytes for entry in self._left_behind(needed, older_than_seconds))

    def _left_behind(self, needed: Mapping[str, Collection[Place]], older_than_seconds: float) -> Iterator[Entry]:
        named = {self._object(name) for name in needed}
        for entry in self.depot.entries(self.uuid):
            is_old = time.time() - entry.modified_at >= older_than_seconds
            if is_old and entry.name not in named and entry.name != self._mark_object:
                yield entry

    def _object(self, name: str) -> str:
        # A name read from a damaged database must not lead elsewhere.
        return f"{self.uuid}/{name if name.isalnum() else 'none'}{_ENDING}"

    @property
    def _mark_object(self) -> str:
        return f"{self.uuid}/{_MARK}"

    def _mark(self) -> None:
        if not self._marked:
            with suppress(ConflictError):
                self.depot.replace(self._mark_object, b"checkpoints of a tunesafe study\n", None)
            self._marked = True

    def _check_mark(self) -> None:
        """Tell a lost object from a place that is not the right one.

        Raises:
            StorageError: If nothing of the study is there.
        """
        if self.depot.get(self._mark_object) is None:
            raise StorageError(
                f"{self.depot.url} does not hold the checkpoints of this study (there is no {self._mark_object}). "
                "Nothing was changed. Check `blobs` in the study file, and the environment that names the store."
            )
