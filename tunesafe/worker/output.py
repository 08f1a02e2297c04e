"""Captured output: what user code prints goes to the log, and on to whoever watches.

Python's own streams only: a C library that writes to file descriptor 1 is not captured.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

from sqlalchemy import Connection

from tunesafe.contracts import Claim, LogChunk
from tunesafe.store.logs import append_log, num_chunks

__all__ = ["Capture", "stand_in"]


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
        self._boarded = self._num_arrived = 0
        self._attempt: tuple[int, int] | None = None
        self._line = ""
        self._aside = threading.local()

    def board(self, connection: Connection, claim: Claim) -> None:
        """Write what is pending, inside the caller's transaction."""
        if (claim.number, claim.attempt) != self._attempt:
            self._attempt, self._num_arrived = (claim.number, claim.attempt), 0
        # A renewal that failed may have been committed all the same: then what boarded it is there.
        if self._boarded and num_chunks(connection, self._uuid, *self._attempt) > self._num_arrived:
            self.arrived()
        with self._lock:
            text, self._boarded = "".join(self._pending), len(self._pending)
        if text:
            append_log(connection, self._uuid, LogChunk(claim.number, claim.attempt, text))

    def arrived(self) -> None:
        """Forget what is durable now."""
        with self._lock:
            self._num_arrived += self._boarded > 0
            del self._pending[: self._boarded]
            self._boarded = 0

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Capture ``sys.stdout`` and ``sys.stderr`` while the block runs."""
        out, err = _tee(sys.stdout), _tee(sys.stderr)
        before = out.capture, err.capture
        out.capture = err.capture = self
        try:
            with redirect_stdout(out), redirect_stderr(err):
                yield
        finally:
            out.capture, err.capture = before
            if self._line:
                self.take("\n")

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Let this thread print past the capture: what tunesafe itself has to say is no user output."""
        before, self._aside.on = self.is_suspended, True
        try:
            yield
        finally:
            self._aside.on = before

    @property
    def is_suspended(self) -> bool:
        """Whether this thread prints past the capture."""
        return getattr(self._aside, "on", False)

    def take(self, text: str) -> None:
        """Keep printed text, and pass on the lines it completes."""
        with self._lock:
            self._pending.append(text)
            *lines, self._line = (self._line + text).split("\n")
        with self.suspended():
            for line in lines:
                self._echo(line)


def stand_in() -> None:
    """Put streams that can be captured later in place of this process's, before user code is imported.

    A logging handler made while a module is imported keeps the stream it finds.
    """
    sys.stdout, sys.stderr = _tee(sys.stdout), _tee(sys.stderr)


def _tee(stream: Any) -> _Tee:
    return stream if isinstance(stream, _Tee) else _Tee(stream)


class _Tee(io.TextIOBase):
    """Stands for a stream: captured text goes to the capture, the rest where it always went."""

    def __init__(self, stream: TextIO) -> None:
        self.capture: Capture | None = None
        self._stream, self._pid = stream, os.getpid()

    @property
    def buffer(self) -> Any:
        """The stream's own bytes: what is written to them is not captured."""
        return self._stream.buffer

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the stream's own, where its base has None
        return self._stream.encoding or "utf-8"

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return not self._is_captured and self._stream.isatty()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        capture = self.capture
        if capture is None or not self._is_captured:
            return self._stream.write(text)
        capture.take(text)
        return len(text)

    @property
    def _is_captured(self) -> bool:
        # A loader's worker inherits the stream, but nobody would hear it.
        return self.capture is not None and not self.capture.is_suspended and os.getpid() == self._pid

    def flush(self) -> None:
        self._stream.flush()
