"""One pack: a file that is written once, one content after the other, and the holes that are made in it."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from tunesafe.errors import TunesafeError
from tunesafe.failpoints import failpoint
from tunesafe.store.memory import ALIGNMENT

__all__ = ["OpenPack", "Place", "begin_pack", "gaps", "punch", "sync_folder"]

_MOST_AT_ONCE = min(os.sysconf("SC_IOV_MAX"), 1024)
_WRITEBACK_BYTES = 16 << 20
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_START_WRITEBACK = 2
_NUM_BYTES = attrgetter("nbytes")


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


@dataclass(slots=True)
class OpenPack:
    """A pack that is written and not yet durable.

    Args:
        file: The pack.
        places: Where each of its contents is.
    """

    file: Path
    places: list[Place]
    _descriptor: int | None

    def finish(self) -> None:
        """Make it durable; a second time does nothing.

        Raises:
            OSError: If that fails; nothing is left of it.
        """
        try:
            if self._descriptor is not None:
                os.fsync(self._descriptor)
                self._close()
                sync_folder(self.file.parent)
                failpoint("pack.durable")
        except (OSError, TunesafeError):
            self.file.unlink(missing_ok=True)
            raise
        finally:
            self._close()

    def discard(self) -> None:
        """Remove it, unless it is finished."""
        if self._descriptor is not None:
            self._close()
            self.file.unlink(missing_ok=True)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None  # closed once, even if that fails
        if descriptor is not None:
            os.close(descriptor)


def begin_pack(file: Path, name: str, contents: Iterable[Sequence[memoryview]]) -> OpenPack:
    """Write a new pack; the disk works on it while the caller does something else.

    Args:
        file: Where; there is nothing yet.
        name: What places call it.
        contents: Each in pieces, which follow each other; not copied.

    Raises:
        OSError: If it cannot be written; nothing is left of it.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            places = _write_all(descriptor, name, contents)
            failpoint("pack.written")
        except BaseException:
            os.close(descriptor)
            raise
    except (OSError, TunesafeError):
        file.unlink(missing_ok=True)
        raise
    return OpenPack(file, places, descriptor)


def _write_all(descriptor: int, name: str, contents: Iterable[Sequence[memoryview]]) -> list[Place]:
    places: list[Place] = []
    waiting: list[memoryview] = []
    end = started = 0
    for pieces in contents:
        padding = -end % ALIGNMENT
        num_bytes = sum(map(_NUM_BYTES, pieces))
        places.append(Place(name, end + padding, num_bytes))
        if padding:
            waiting.append(memoryview(bytes(padding)))
        waiting += pieces
        end += padding + num_bytes
        if len(waiting) > _MOST_AT_ONCE - 2 or end - started > _WRITEBACK_BYTES:
            started = _flush(descriptor, waiting, started)
    _flush(descriptor, waiting, started)
    return places


def _flush(descriptor: int, waiting: list[memoryview], started: int) -> int:
    """Write what waits, let the disk begin with it, and return the end of the file."""
    left = list(filter(_NUM_BYTES, waiting))
    waiting.clear()
    end = started
    while left:
        count = os.writev(descriptor, left[:_MOST_AT_ONCE])
        end += count
        left = _after(left, count)
        _start_writeback(descriptor, started, end - started)
    return end


def _after(views: list[memoryview], num_bytes: int) -> list[memoryview]:
    """What is left of some views after their first bytes."""
    for index, end in enumerate(accumulate(map(_NUM_BYTES, views))):
        if end > num_bytes:
            return [views[index][views[index].nbytes - (end - num_bytes) :], *views[index + 1 :]]
    return []


def gaps(needed: Collection[Place], size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of what lies between some places of a file of this size."""
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


def punch(descriptor: int, offset: int, num_bytes: int) -> None:
    """Give back the space of some bytes, where the file system can."""
    if _LIBC is not None and num_bytes:
        mode = _PUNCH_HOLE | _KEEP_SIZE
        _LIBC.fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(num_bytes))
