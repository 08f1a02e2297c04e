"""Large bytes beside a SQLite database: one new file, a *pack*, for all that one save has to write.

SQLite would write them twice and keep every other process waiting meanwhile. A pack is complete
and durable before the transaction that names it: temporary file, fsync, rename, fsync of the
folder. It is never written to again, and no location is ever used again: bytes nobody needs
become a hole in their pack, and a pack without needed bytes is deleted, both after the rows
are. What a death leaves behind is found by its age and swept. Whoever copies packs elsewhere pins
them meanwhile, for that may take longer than their bytes are needed here.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import uuid4

from sqlalchemy import URL

from tunesafe.errors import StorageError, TunesafeError
from tunesafe.failpoints import failpoint
from tunesafe.store.memory import ALIGNMENT, aligned_memory
from tunesafe.store.urls import sqlite_path

__all__ = ["PackFolder", "Packs", "Place", "packs_beside", "sync_folder"]

_MOST_AT_ONCE = min(os.sysconf("SC_IOV_MAX"), 1024)
_WRITEBACK_BYTES = 16 << 20
_BLOCK_BYTES = 512
"""What ``st_blocks`` counts in, whatever the file system's own blocks are."""
_NAME = re.compile("[0-9a-f]{32}")
_ENDING, _UNFINISHED, _PIN = ".pack", ".tmp", ".pin"
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_START_WRITEBACK = 2


class Place(NamedTuple):
    """Where bytes are.

    Args:
        pack: The file, without its ending.
        offset: Of the first byte [bytes].
        num_bytes: How many.
    """

    pack: str
    offset: int
    num_bytes: int


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

    def write(self, contents: Iterable[memoryview]) -> list[Place]:
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

    def write(self, contents: Iterable[memoryview]) -> list[Place]:
        """Make bytes durable in a new pack.

        Args:
            contents: One-dimensional views of bytes; not copied. Asked for as they are written.

        Returns:
            Where each of them is now.

        Raises:
            OSError: If they cannot be written; nothing is left of the attempt.
        """
        self._make_folder()
        name = uuid4().hex
        unfinished, finished = self.path / (name + _UNFINISHED), self.file(name)
        try:
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                places = _write_all(descriptor, name, contents)
                failpoint("pack.written")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            unfinished.rename(finished)
            sync_folder(self.path)
            failpoint("pack.durable")
        except (OSError, TunesafeError):
            for file in (unfinished, finished):
                file.unlink(missing_ok=True)
            raise
        return places

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
                for offset, num_bytes in _gaps(needed[name], os.fstat(descriptor).st_size):
                    if any(start < offset + num_bytes and offset < end for start, end in freed):
                        _punch(descriptor, offset, num_bytes)

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
                for offset, num_bytes in _gaps(needed[name], status.st_size):
                    _punch(descriptor, offset, num_bytes)
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


def _write_all(descriptor: int, name: str, contents: Iterable[memoryview]) -> list[Place]:
    places, waiting, end, started = [], [], 0, 0
    for data in contents:
        padding = -end % ALIGNMENT
        places.append(Place(name, end + padding, data.nbytes))
        waiting += [memoryview(bytes(padding)), data]
        end += padding + data.nbytes
        if len(waiting) > _MOST_AT_ONCE - 2 or end - started > _WRITEBACK_BYTES:
            started = _flush(descriptor, waiting, started)
    _flush(descriptor, waiting, started)
    return places


def _flush(descriptor: int, waiting: list[memoryview], started: int) -> int:
    """Write what waits, let the disk begin with it, and return the end of the file."""
    left = [view for view in waiting if view.nbytes]
    waiting.clear()
    end = started
    while left:
        count = os.writev(descriptor, left[:_MOST_AT_ONCE])
        end += count
        while left and count >= left[0].nbytes:
            count -= left.pop(0).nbytes
        if count:
            left[0] = left[0][count:]
        _start_writeback(descriptor, started, end - started)
    return end


def _gaps(needed: Collection[Place], size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of what lies between some places."""
    end = 0
    for place in sorted(needed, key=lambda place: place.offset):
        if place.offset > end:
            yield end, place.offset - end
        end = max(end, place.offset + place.num_bytes)
    if size > end:
        yield end, size - end


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some file systems sync no folder
            raise
    finally:
        os.close(descriptor)


# Linux only; where they are missing, or a file system does not know them, space returns with the whole pack.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _start_writeback(descriptor: int, offset: int, num_bytes: int) -> None:
    if _LIBC is not None:
        _LIBC.sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(num_bytes), _START_WRITEBACK)


def _punch(descriptor: int, offset: int, num_bytes: int) -> None:
    if _LIBC is not None and num_bytes:
        mode = _PUNCH_HOLE | _KEEP_SIZE
        _LIBC.fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(num_bytes))
