"""Waiting for a database that went away, and doing again what it did not confirm.

What is repeated is always a whole operation: one that may find its own work done, because the
reply to a COMMIT can be lost after the COMMIT has happened. While an operation waits, the lease
thread and the training of other workers go on; after ``storage_timeout`` the operation fails
for good.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay

from tunesafe.contracts import Notice
from tunesafe.errors import Preempted, StorageError
from tunesafe.store.faults import TransientStorageError

__all__ = ["Patience", "patiently"]

_FIRST_SECONDS, _LONGEST_SECONDS = 0.05, 3.0
"""Between two attempts [s]; it doubles."""
_WORTH_TELLING_SECONDS = 1.0
"""A wait that is over sooner is nobody's business [s]: a lock, a deadlock that was resolved."""
_FORBEARANCE_SECONDS = 15.0
"""After a wait, for which others are given time to renew their leases [s]: longer than a connection attempt."""
_JITTER = random.SystemRandom()
"""Not ``random``'s own generator: it is the user's, and a wait must not change what it draws."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Patience:
    """Repeats operations that a database refused for a reason that passes.

    Args:
        timeout_seconds: How long one operation is tried [s].
        keep: Keeps the event of a wait that is over; may raise ``StorageError``, which is ignored.
        sleep: Waits some seconds.
    """

    def __init__(
        self,
        timeout_seconds: float,
        *,
        keep: Callable[[str, dict[str, Any]], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._timeout, self._keep, self._sleep = timeout_seconds, keep, sleep
        self._elder: Patience | None = None
        self._watch: Callable[[Notice], None] | None = None
        self._why_leave: Callable[[], str | None] = lambda: None
        self._told = False
        self.repeating = False
        """Whether the operation at hand has been tried before: what it writes may be there already."""
        self._away_seconds, self._back_at = 0.0, -_FORBEARANCE_SECONDS
        self.num_attempts = 0
        """How often a wait has ended in another attempt; whoever waits is not stuck."""

    def of_another_thread(self) -> Patience:
        """One for a thread beside this one's: a wait there counts as one here for whoever asks about other's leases."""
        other = Patience(self._timeout, keep=self._keep, sleep=self._sleep)
        other._elder = self
        return other

    def listen(self, watch: Callable[[Notice], None], why_leave: Callable[[], str | None]) -> None:
        """Tell ``watch`` when a wait begins and when it is over; wait no longer when ``why_leave`` has a reason."""
        self._watch, self._why_leave = watch, why_leave

    @property
    def forbearance_seconds(self) -> float:
        """How long leases may have run out only because nobody could renew them, just after a wait [s]; else 0."""
        since_back = time.monotonic() - self._back_at
        return self._away_seconds + since_back if since_back < _FORBEARANCE_SECONDS else 0.0

    def __call__(self, operation: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call an operation until the database has confirmed it.

        Raises:
            StorageError: The database was away for the whole time allowed, or fails for a reason that stays.
            Preempted: There is a reason to leave, and it is away.
        """
        if self.repeating:  # part of an operation that is being repeated: that one's time counts
            return operation(*args, **kwargs)
        began = time.monotonic()
        retrying = Retrying(
            retry=retry_if_exception_type(TransientStorageError),
            wait=_backoff,
            stop=stop_before_delay(self._timeout),
            sleep=self._sleep,
            before_sleep=self._before_sleep,
            reraise=True,
        )
        try:
            result = retrying(operation, *args, **kwargs)
        except TransientStorageError as error:
            raise StorageError(
                f"{error}\nTried for {time.monotonic() - began:.0f} s (storage_timeout: {self._timeout:g} s)."
            ) from error
        finally:
            told, self._told, self.repeating = self._told, False, False
        if told:
            self._over(time.monotonic() - began)
        return result

    def _before_sleep(self, state: RetryCallState) -> None:
        if (reason := self._why_leave()) is not None:
            raise Preempted(reason)
        self.repeating = True
        self.num_attempts += 1
        if self._told or (state.seconds_since_start or 0.0) + state.upcoming_sleep < _WORTH_TELLING_SECONDS:
            return
        self._told = True
        error = state.outcome.exception() if state.outcome is not None else None
        self._tell("storage_lost", {"why": str(error).partition("\n")[0], "waits_seconds": self._timeout})

    def _over(self, seconds: float) -> None:
        self._away_seconds, self._back_at = seconds, time.monotonic()
        if self._elder is not None:
            self._elder._away_seconds, self._elder._back_at = self._away_seconds, self._back_at
        details = {"seconds": round(seconds, 1)}
        if self._keep is not None:
            try:
                self._keep("storage_back", details)
            except StorageError:  # gone again: the next operation will say so
                return
        self._tell("storage_back", details)

    def _tell(self, kind: str, details: dict[str, Any]) -> None:
        if self._watch is not None:
            self._watch(Notice("event", None, {"event": kind, **details}))


class _Patient(Protocol):
    _patience: Patience


_Self = TypeVar("_Self", bound=_Patient)


def patiently(
    method: Callable[Concatenate[_Self, _P], _T],
) -> Callable[Concatenate[_Self, _P], _T]:
    """Make a method of an object with ``_patience`` wait for the database; the method must be idempotent."""

    @wraps(method)
    def wrapper(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self._patience(method, self, *args, **kwargs)

    return wrapper


def _backoff(state: RetryCallState) -> float:
    return _JITTER.uniform(0.0, min(_FIRST_SECONDS * 2.0**state.attempt_number, _LONGEST_SECONDS))
