"""Large bytes beside a SQLite database: one new file, a *pack*, for all that one save has to write.

SQLite would write them twice and keep every other process waiting meanwhile. A pack is complete
and durable before the transaction that names it: written, fsync, fsync of the folder. It is never
written to again, and no location is ever used again: bytes nobody needs become a hole in their
pack, and a pack without needed bytes is deleted, both after the rows are. What a death leaves
behind is found by its age and swept. Whoever copies packs elsewhere pins them meanwhile, for that
may take longer than their bytes are needed here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from sqlalchemy import URL

from tunesafe.errors import StorageError
from tunesafe.store.memory import aligned_memory
from tunesafe.store.pack_file import OpenPack, Place, begin_pack, gaps, punch, sync_folder
from tunesafe.store.urls import sqlite_path

__all__ = ["PackFolder", "Packs", "packs_beside"]

_BLOCK_BYTES = 512
"""What ``st_blocks`` counts in, whatever the file system's own blocks are."""
_NAME = re.compile("[0-9a-f]{32}")
_ENDING, _UNFINISHED, _PIN = ".pack", ".tmp", ".pin"


class Packs(Protocol):
    """Where large bytes are: beside a SQLite file (``PackFolder``), or elsewhere (``DistantPacks``)."""

    @property
    def least_bytes(self) -> int:
        """Pieces smaller than this are better kept in the database, as long as they are few [bytes]."""
        ...

    @property
    def is_near(self) -> bool:
        """Whether a small piece is read in less time than it takes to begin a thread."""
        ...

    def write(self, contents: Collection[Sequence[memoryview]]) -> list[Place]:
        """See ``PackFolder``."""
        ...

    def read(self, place: Place, into: memoryview | None = None) -> memoryview:
        """See ``PackFolder``."""
        ...

    def present(self, places: Mapping[str, Place]) -> dict[str, Place]:
        """See ``PackFolder``."""
        ...

    def free(self, places: Collection[Place], needed: Mapping[str, Collection[Place]]) -> None:
        """See ``PackFolder``."""
        ...

    def sweep(self, needed: Mapping[str, Collection[Place]], older_than_seconds: float) -> int:
        """See ``PackFolder``."""
        ...

    def left_behind(self, needed: Mapping[str, Collection[Place]], older_than_seconds: float) -> int:
        """See ``PackFolder``."""
        ...


@dataclass(frozen=True, slots=True)
class PackFolder:
    """The packs of one database.

    Args:
        path: Their folder; made when there is something to write.
    """

    path: Path

    @property
    def least_bytes(self) -> int:
        """None are too small: what surrounds them becomes a hole once it is not needed."""
        return 0

    @property
    def is_near(self) -> bool:
        """On a disk of this machine, or one that is as quick."""
        return True

    def write(self, contents: Collection[Sequence[memoryview]]) -> list[Place]:
        """Make bytes durable in a new pack.

        Args:
            contents: Each in pieces, one-dimensional views of bytes, which follow each other; not copied.

        Returns:
            Where each of them is now.

        Raises:
            OSError: If they cannot be written; nothing is left of the attempt.
        """
        pack = self.begin(contents)
        pack.finish()
        return pack.places

    def begin(self, contents: Collection[Sequence[memoryview]]) -> OpenPack:
        """As ``write``, but not durable yet: the disk works on it while the caller does something else.

        Raises:
            OSError: As ``write``.
        """
        self._make_folder()
        # Under its last name from the start: nobody reads a pack before a row names it.
        name = uuid4().hex
        return begin_pack(self.file(name), name, contents)

    def read(self, place: Place, into: memoryview | None = None) -> memoryview:
        """The bytes at a place; fewer where the pack is shorter, unreadable or gone: verify them.

        Args:
            place: Where they are.
            into: Where to put them, as large as the place; aligned memory of their own unless given.

        Raises:
            StorageError: If the whole folder is gone: that is no damage, but a database without its other half.
            OSError: If it cannot be opened for a reason that is not the pack's own.
        """
        if not self.path.is_dir():
            raise StorageError(
                f"The folder {self.path} is not there. It holds the large checkpoints of the database beside it; "
                "nothing was changed. Put it back: a database and its folder of packs are moved and copied together. "
                "(If it is lost, make an empty folder of that name: trials then go on from what is left.)"
            )
        data = aligned_memory(place.num_bytes) if into is None else into
        done = 0
        try:
            with self._opened(place.pack, os.O_RDONLY) as descriptor:
                while done < place.num_bytes:
                    count = os.preadv(descriptor, [data[done:]], place.offset + done)
                    if not count:
                        break
                    done += count
        except OSError as error:
            # A pack that is gone, a sector that cannot be read, a place that is none: what is there will not match.
            if error.errno not in (errno.ENOENT, errno.EIO, errno.EINVAL):
                raise
        return data[:done]

    def present(self, places: Mapping[str, Place]) -> dict[str, Place]:
        """Those of some places, by any name, whose pack is there."""
        there = {name: self.file(name).exists() for name in {place.pack for place in places.values()}}
        return {name: place for name, place in places.items() if there[place.pack]}

    def file(self, name: str) -> Path:
        """The file of a pack, there or not."""
        # A name read from a damaged database must not lead out of the folder.
        return self.path / ((name if _NAME.fullmatch(name) else "no such name") + _ENDING)

    @contextmanager
    def pinned(self, names: Collection[str]) -> Iterator[None]:
        """Let nobody remove these packs, or bytes of them, while the block runs.

        What rows have given up meanwhile stays: ``free`` it afterwards. A pin ends with its process, however
        that ends.

        Raises:
            OSError: If the pin cannot be written.
        """
        if not names or not self.path.is_dir():
            yield
            return
        unfinished = self.path / (uuid4().hex + _UNFINISHED)
        pin = unfinished.with_suffix(_PIN)
        with unfinished.open("x") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)  # before anybody sees it: one that is not locked is a dead process's
                file.write("\n".join(sorted(names)))
                file.flush()
                unfinished.rename(pin)
                yield
            finally:
                for left in (unfinished, pin):
                    left.unlink(missing_ok=True)

    def _pinned(self) -> set[str]:
        """The packs that somebody alive has pinned."""
        names: set[str] = set()
        for pin in self.path.glob(f"*{_PIN}"):
            with suppress(FileNotFoundError), pin.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    names.update(file.read().split())
                else:
                    pin.unlink(missing_ok=True)  # its process is gone
        return names

    def free(self, places: Collection[Place], needed: Mapping[str, Collection[Place]]) -> None:
        """Give back the space of bytes that no row names any more.

        Args:
            places: Where they are.
            needed: By pack, all places in it that a row names.
        """
        for name in {place.pack for place in places} - self._pinned():
            if name not in needed:
                self.file(name).unlink(missing_ok=True)
                continue
            freed = [(place.offset, place.offset + place.num_bytes) for place in places if place.pack == name]
            with suppress(FileNotFoundError), self._opened(name, os.O_RDWR) as descriptor:
                # All that lies between needed bytes: of two neighbours that go one after the other, the block
                # in which they meet is free only now.
                for offset, num_bytes in gaps(needed[name], os.fstat(descriptor).st_size):
                    if any(start < offset + num_bytes and offset < end for start, end in freed):
                        punch(descriptor, offset, num_bytes)

    def sweep(self, needed: Mapping[str, Collection[Place]], older_than_seconds: float) -> int:
        """Remove what killed saves and sweeps left behind; a save in progress is younger than that.

        Args:
            needed: By pack, all places in it that a row names.
            older_than_seconds: Least age of what is removed [s].

        Returns:
            How much space that gave back [bytes].
        """
        freed = 0
        for name, file, status in self._left_behind(needed, older_than_seconds):
            if name is None:
                file.unlink(missing_ok=True)
                freed += status.st_blocks * _BLOCK_BYTES
                continue
            with suppress(FileNotFoundError), self._opened(name, os.O_RDWR) as descriptor:
                for offset, num_bytes in gaps(needed[name], status.st_size):
                    punch(descriptor, offset, num_bytes)
                freed += max(status.st_blocks - os.fstat(descriptor).st_blocks, 0) * _BLOCK_BYTES
        return freed

    def left_behind(self, needed: Mapping[str, Collection[Place]], older_than_seconds: float) -> int:
        """About how much space ``sweep`` would give back [bytes]; nothing is changed."""
        return sum(
            status.st_blocks * _BLOCK_BYTES - (0 if name is None else sum(place.num_bytes for place in needed[name]))
            for name, _, status in self._left_behind(needed, older_than_seconds)
        )

    def _left_behind(
        self, needed: Mapping[str, Collection[Place]], older_than_seconds: float
    ) -> Iterator[tuple[str | None, Path, os.stat_result]]:
        """Files nobody needs, and packs that are larger than what is needed of them, these with their names."""
        pinned = self._pinned()
        for name, file, status in self._files():
            if time.time() - status.st_mtime < older_than_seconds or name in pinned:
                continue
            if file.suffix == _UNFINISHED or name not in needed:
                yield None, file, status
            elif status.st_blocks * _BLOCK_BYTES > sum(place.num_bytes for place in needed[name]) + (1 << 20):
                yield name, file, status

    def _files(self) -> Iterator[tuple[str, Path, os.stat_result]]:
        if not self.path.is_dir():
            return
        for file in self.path.iterdir():
            if file.suffix in (_ENDING, _UNFINISHED):
                with suppress(FileNotFoundError):  # another worker sweeps, too
                    yield file.stem, file, file.stat()

    def _make_folder(self) -> None:
        if not self.path.is_dir():
            self.path.mkdir(exist_ok=True)
            sync_folder(self.path.parent)

    @contextmanager
    def _opened(self, name: str, flags: int) -> Iterator[int]:
        descriptor = os.open(self.file(name), flags | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def packs_beside(url: URL) -> PackFolder | None:
    """Where the packs of a database are; ``None`` of a server, whose own backup is to find all bytes in its tables."""
    path = sqlite_path(url)
    if path is None:
        return None
    real = path.resolve()  # as SQLite itself does for its log: one database has one folder, whatever links lead to it
    return PackFolder(real.with_name(f"{real.name}.packs"))
