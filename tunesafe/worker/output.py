"""Captured output: what user code prints goes to the log, and on to whoever watches.

Python's own streams only: a C library that writes to file descriptor 1 is not captured.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from sqlalchemy import Connection

from tunesafe.contracts import Claim, LogChunk
from tunesafe.store.logs import append_log

__all__ = ["Capture"]


class Capture:
    """Collects printed text and stores it with the trial whenever its lease is renewed.

    Args:
        uuid: The study.
        echo: Called with every complete line, in the thread that printed it.
    """

    def __init__(self, uuid: str, echo: Callable[[str], None]) -> None:
        self._uuid, self._echo = uuid, echo
        self._lock = threading.Lock()
        self._pending: list[str] = []
        self._boarded = 0
        self._line = ""

    def board(self, connection: Connection, claim: Claim) -> None:
        """Write what is pending, inside the caller's transaction."""
        with self._lock:
            text, self._boarded = "".join(self._pending), len(self._pending)
        if text:
            append_log(connection, self._uuid, LogChunk(claim.number, claim.attempt, text))

    def arrived(self) -> None:
        """Forget what is durable now."""
        with self._lock:
            del self._pending[: self._boarded]
            self._boarded = 0

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Capture ``sys.stdout`` and ``sys.stderr`` while the block runs."""
        stream = _Tee(self._write)
        with redirect_stdout(stream), redirect_stderr(stream):
            yield
        if self._line:
            self._write("\n")

    def _write(self, text: str) -> None:
        with self._lock:
            self._pending.append(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._echo(line)


class _Tee(io.TextIOBase):
    def __init__(self, write: Callable[[str], None]) -> None:
        self._forward = write

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._forward(text)
        return len(text)
