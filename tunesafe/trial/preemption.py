"""Leaving in order when the machine is taken away.

A first SIGTERM, SIGINT or SIGUSR1 is noted, and the loop leaves at the next safe point; a
second one leaves at once. Handlers are put back on exit. Whether the virtual epoch can
still be finished within the grace period is arithmetic on what was measured.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from tunesafe.errors import Preempted

__all__ = ["SIGNALS", "SignalWatch", "can_finish"]

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
"""What a scheduler, a person and a batch system send before they kill."""


def can_finish(remaining_seconds: float | None, grace_seconds: float, waited_seconds: float) -> bool:
    """Whether a virtual epoch is expected to end within the grace period.

    Args:
        remaining_seconds: Expected time to its end [s]; ``None`` when nothing was measured.
        grace_seconds: Time from the request to the kill [s].
        waited_seconds: Time since the request [s].

    Example:
        >>> can_finish(10.0, grace_seconds=90.0, waited_seconds=75.0)
        True
        >>> can_finish(10.0, grace_seconds=90.0, waited_seconds=85.0)
        False
    """
    return remaining_seconds is not None and waited_seconds + remaining_seconds <= grace_seconds


class SignalWatch:
    """Notes signals instead of dying of them, while it is entered.

    Outside the main thread Python delivers no signals, and entering does nothing. A worker
    may hold one for its whole life and lend it to every trial; entering it again adds nothing.

    Args:
        now: A monotonic clock [s].

    Example:
        >>> with SignalWatch() as watch:
        ...     signal.raise_signal(signal.SIGUSR1)
        ...     watch.reason
        'SIGUSR1'
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.reason: str | None = None
        """The first signal's name, once one has come."""
        self.since: float | None = None
        """When it came, on the clock given [s]."""
        self.urgent = False
        """Whether a second one has come: nothing more is to be finished."""
        self._now = now
        self._came: str | None = None
        self._depth = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalWatch:
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._depth -= 1
        if self._depth:
            return
        for number, handler in self._previous.items():
            # None stands for a handler that was not installed from Python: it cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def ask(self, reason: str) -> None:
        """Ask to leave as a first signal does, from any thread.

        It makes no signal the second one: a batch system may signal every process of a job, while a
        supervisor asks its workers as well.
        """
        if self.reason is None:
            self.since, self.reason = self._now(), reason

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._came is not None:
            self.urgent = True
            raise Preempted(f"{name} after {self._came}")
        self._came = name
        self.ask(name)
