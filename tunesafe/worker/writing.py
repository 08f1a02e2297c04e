"""Checkpoints become durable beside the training loop: one in flight, in memory that is used again.

The loop pays for a copy of its state. Hashing, writing and the commit happen in a thread; most of
it without Python's lock. The next checkpoint waits until the one before is durable, so the memory
is that of one state, and a death costs what a checkpoint in flight holds at most. What goes wrong
is raised in the loop, at its next report or checkpoint. Why a thread: docs/adr/0009.
"""

from __future__ import annotations

import mmap
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from tunesafe.errors import Preempted, StorageError, TunesafeError
from tunesafe.store.memory import mapped_memory
from tunesafe.trial.preemption import SignalWatch

__all__ = ["CheckpointWriter"]

_MADV_WIPEONFORK = 18
"""Linux's: a child finds zeros there; Python has no name for it."""


class CheckpointWriter:
    """Writes one checkpoint at a time; all of them are durable when the block has ended in order.

    Args:
        signals: A second signal leaves without waiting.
    """

    def __init__(self, signals: SignalWatch) -> None:
        self._signals = signals
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        # Not Thread.join: a signal handler that raises in it makes a running thread look finished.
        self._idle = threading.Event()
        self._idle.set()
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._signals.urgent:
            return
        self._wait()
        # The memory of a state must not wait for Python's collector, as a trial may that ended in an exception.
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        if error is None or isinstance(error, Preempted):
            self.check()

    def memory(self, num_bytes: int) -> memoryview:
        """Writable, page-aligned memory for the next snapshot, the same again if it is large enough.

        Waits while the checkpoint that was copied there before is being written.

        Args:
            num_bytes: How much at least [bytes].

        Raises:
            StorageError, LeaseLostError: The checkpoint before this one could not be written.
        """
        self._wait()
        self.check()
        if len(self._memory) < num_bytes:
            # Not closed: views of it may be left.
            self._memory = mapped_memory(num_bytes)
            if sys.platform == "linux":
                with suppress(OSError):  # a kernel that does not know it
                    # A forked loader never looks into it, and need not make every page be copied again. (The range
                    # stays taken: what the loader puts into a hole there would go with our object's last reference.)
                    self._memory.madvise(_MADV_WIPEONFORK)
        return memoryview(self._memory)

    def submit(self, write: Callable[[], object]) -> None:
        """Begin to write a checkpoint; returns at once, unless one is still being written.

        Raises:
            StorageError, LeaseLostError: The checkpoint before this one could not be written.
        """
        self._wait()
        self.check()
        # A daemon: whatever keeps it busy, this process can end; that is a death like any other.
        thread = threading.Thread(target=self._run, args=(write,), name="tunesafe-checkpoint", daemon=True)
        self._idle.clear()
        try:
            thread.start()
        except BaseException as error:
            self._idle.set()
            if isinstance(error, RuntimeError):
                raise _unwritten(error) from error
            raise

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return not self._idle.is_set()

    def check(self) -> None:
        """Raise what went wrong with a checkpoint, if anything did.

        Raises:
            StorageError, LeaseLostError: It could not be written.
        """
        if self._error is not None:
            raise self._error

    def _wait(self) -> None:
        self._idle.wait()

    def _run(self, write: Callable[[], object]) -> None:
        try:
            write()
        except (TunesafeError, Preempted) as error:
            self._error = error
        except BaseException as error:  # noqa: BLE001 - raised in the training loop, which can act on it
            self._error = _unwritten(error)
            self._error.__cause__ = error
        finally:
            self._idle.set()


def _unwritten(error: BaseException) -> StorageError:
    return StorageError(
        f"A checkpoint could not be written: {type(error).__name__}: {error}. Older checkpoints and all reports are "
        "unharmed. Run the same command again: it continues."
    )
