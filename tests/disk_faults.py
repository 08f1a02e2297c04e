"""A disk that fails at the n-th call that changes it, or from there on: full, or broken.

At the level of Python's own calls, in this process and under given folders only: what is opened, written, synced,
renamed, made and removed. What SQLite writes itself is not seen here; ``failing_sql`` fails its statements instead.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from tests.interception import intercepting

__all__ = ["FailingDisk", "Fault", "failing_disk", "failing_sql", "until_none_fails"]

_ONLY_BROKEN = ("unlink", "open")
"""What a full disk does all the same."""
_ONLY_READING = ("SELECT", "BEGIN", "PRAGMA", "ROLLBACK")


@dataclass
class FailingDisk:
    """When a disk fails, and what has been asked of it.

    Args:
        at: At which call, 1-based.
        error: ``errno.ENOSPC`` or ``errno.EIO``.
        lasting: Whether all calls from then on fail, and not this one alone.
        folders: Where.
        thread: The name of the thread in which; all of them unless given.
    """

    at: int
    error: int
    lasting: bool = False
    folders: tuple[Path, ...] = ()
    thread: str | None = None
    calls: list[str] = field(default_factory=list)
    failed: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, call: str, what: object = "") -> bool:
        """Count a call; whether it fails."""
        if self.error == errno.ENOSPC and call in _ONLY_BROKEN:
            return False
        if self.thread is not None and threading.current_thread().name != self.thread:
            return False
        with self._lock:
            self.calls.append(f"{call} {what}")
            fails = len(self.calls) >= self.at if self.lasting else len(self.calls) == self.at
            if fails and self.failed is None:
                self.failed = self.calls[-1]
            return fails

    def check(self, call: str, *paths: object) -> None:
        """Fail a call on a path, or on an open file, if it is its turn."""
        for path in paths:
            where = self._where(path)
            if where is not None:
                if self.ask(call, where.name):
                    raise OSError(self.error, f"{os.strerror(self.error)} (injected)", str(where))
                return

    def _where(self, path: object) -> Path | None:
        """A path under the folders, absolute; ``None`` for any other."""
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return None
        if not isinstance(path, str | os.PathLike):
            return None
        where = Path(os.path.abspath(path))
        return where if any(where.is_relative_to(folder) for folder in self.folders) else None


@contextmanager
def failing_disk(
    at: int, error: int, *folders: Path, lasting: bool = False, thread: str | None = None
) -> Iterator[FailingDisk]:
    """Let calls on files under some folders fail while the block runs; see ``FailingDisk``."""
    disk = FailingDisk(at, error, lasting, tuple(Path(os.path.abspath(folder)) for folder in folders), thread)
    os_open, io_open = os.open, io.open

    def opening(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        disk.check("make" if flags & os.O_CREAT else "open", path)
        return os_open(path, flags, *args, **kwargs)

    def opening_file(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
        if disk._where(file) is None or isinstance(file, int):
            return io_open(file, mode, buffering, *args, **kwargs)
        disk.check("open" if mode.strip("bt") == "r" else "make", file)
        if mode.strip("bt") == "r":
            return io_open(file, mode, buffering, *args, **kwargs)
        raw = _Raw(disk, file, mode)
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *args, **kwargs)

    def checked(name: str, function: Callable[..., Any], num_paths: int = 1) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            disk.check(name, *args[:num_paths])
            return function(*args, **kwargs)

        return call

    patches: dict[str, Any] = {
        name: checked(name, getattr(os, name)) for name in ("write", "writev", "pwrite", "fsync", "mkdir", "rmdir")
    }
    patches |= {name: checked("rename", getattr(os, name), 2) for name in ("rename", "replace")}
    patches |= {name: checked("unlink", getattr(os, name)) for name in ("unlink", "remove")}
    with (
        mock.patch.multiple(os, open=opening, **patches),
        mock.patch.object(io, "open", opening_file),
        mock.patch("builtins.open", opening_file),
    ):
        yield disk


class _Raw(io.FileIO):
    """A file whose writes are counted."""

    def __init__(self, disk: FailingDisk, file: Any, mode: str) -> None:
        super().__init__(file, mode.replace("t", "").replace("b", ""))
        self._disk = disk

    def write(self, data: Any, /) -> int:
        self._disk.check("write", self.name)
        written = super().write(data)
        assert written is not None
        return written


@contextmanager
def failing_sql(at: int, error: int, *, lasting: bool = False, thread: str | None = None) -> Iterator[FailingDisk]:
    """Let statements and commits of every SQLite engine fail while the block runs, as SQLite fails on such a disk."""
    disk = FailingDisk(at, error, lasting, thread=thread)

    def fail() -> None:
        full = error == errno.ENOSPC
        failure = sqlite3.OperationalError("database or disk is full" if full else "disk I/O error")
        failure.sqlite_errorname = "SQLITE_FULL" if full else "SQLITE_IOERR_WRITE"
        failure.sqlite_errorcode = sqlite3.SQLITE_FULL if full else sqlite3.SQLITE_IOERR
        raise failure

    def on_statement(cursor: Any, statement: str) -> None:
        word = statement.split(maxsplit=1)[0].upper()
        counts = word not in _ONLY_READING or (error == errno.EIO and word == "SELECT")
        if counts and disk.ask(" ".join(statement.split())[:60]):
            fail()

    def on_commit(connection: Any, commit: Callable[[], None]) -> None:
        if connection.in_transaction and connection.total_changes and disk.ask("COMMIT"):
            fail()
        commit()

    with intercepting(on_statement, on_commit):
        yield disk


Fault = Callable[[int], AbstractContextManager[FailingDisk]]
"""What fails, for the number of the call at which it does."""


def until_none_fails(fault: Fault, least: int) -> Iterator[AbstractContextManager[FailingDisk]]:
    """A fault at the first call, the second, … until there is no such call."""
    for at in itertools.count(1):
        disks: list[FailingDisk] = []

        @contextmanager
        def failing(at: int = at, disks: list[FailingDisk] = disks) -> Iterator[FailingDisk]:
            with fault(at) as disk:
                disks.append(disk)
                yield disk

        yield failing()
        if disks[0].failed is None:
            assert at > least, f"only {at - 1} calls: {disks[0].calls}"
            return
