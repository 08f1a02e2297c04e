"""Keeps a study's second place up to date while the study runs: one thread of the supervisor.

The supervisor, because it imports no torch and trains nothing, and there is one on a host however
many workers die; a thread, because what takes time (SQLite's copy, hashing, the network) does not
hold Python's lock. Whatever goes wrong there never stops the study: it is an event, once until it
works again, and tried again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_when_event_set, wait_exponential

from tunesafe.contracts import Event, Notice
from tunesafe.errors import StorageError, TunesafeError
from tunesafe.failpoints import failpoint
from tunesafe.store.backup_state import BackupState, backups_beside
from tunesafe.store.depot_urls import open_depot
from tunesafe.store.engine import writing
from tunesafe.store.events import append_event, newest_event_of
from tunesafe.study.copying import Copier, PlaceLostError
from tunesafe.study.opening import OpenStudy
from tunesafe.trial.preemption import SignalWatch

__all__ = ["SecondPlace", "one_at_a_time"]

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 60.0
"""Between two attempts while it fails [s]; it doubles."""
_LAST_PAUSE_SECONDS = 1.0
"""The same at the end, where time is short [s]."""
_LEAST_SECONDS = 10.0
"""What the last copy is given at least after a signal, even if trials took the whole grace [s]."""
_FAILING_SECONDS = 30.0
"""How long a place that fails is tried at the end of a run [s]."""
_WORTH_TELLING_SECONDS = 2.0
"""A last copy that takes longer is announced [s]: the study is over, and the command is not."""
_LOOK_SECONDS = 0.1


class SecondPlace:
    """Copies a study now, then again and again, and a last time when the block ends; nothing without ``backup``.

    Args:
        opened: The study.
        signals: Entered by the caller: a signal makes the last copy brief.
        watch: Told of what fails; called from another thread too (see ``one_at_a_time``).
    """

    def __init__(self, opened: OpenStudy, signals: SignalWatch, watch: Callable[[Notice], None]) -> None:
        self._opened, self._signals, self._watch = opened, signals, watch
        self._closing, self._abandoned, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._state: BackupState | None = None
        self._fails = self._is_lost = self._given_up = False
        backup, self._folder = opened.spec.backup, backups_beside(opened.engine.url, opened.row.uuid)
        self._thread: threading.Thread | None = None
        if backup is not None and self._folder is not None:
            self._url, self._every = backup.url, backup.every
            self._thread = threading.Thread(target=self._run, name="tunesafe-backup", daemon=True)

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        if self._thread is None:
            return
        self._closing.set()
        # A second signal, or what is no error of ours, leaves at once.
        in_order = kind is None or issubclass(kind, TunesafeError)
        finished = in_order and self._wait()
        self._abandoned.set()
        if in_order and not finished:
            self._tell("backup_unfinished", {"url": self._url, "newest_copy": self._age()}, keep=False)

    def _wait(self) -> bool:
        """Wait for the last copy, within a bound; whether it was made."""
        began, spec, told = time.monotonic(), self._opened.spec, False
        deadline = began + spec.storage_timeout
        while not self._ended.wait(_LOOK_SECONDS):
            if not told and time.monotonic() - began > _WORTH_TELLING_SECONDS:
                told = True
                self._tell("backup_awaited", {"url": self._url, "newest_copy": self._age()}, keep=False)
            if self._fails:  # nothing is better for a longer wait: the copy before counts
                deadline = min(deadline, began + _FAILING_SECONDS)
            since = self._signals.since
            if since is not None:
                deadline = min(deadline, max(since + spec.grace, began + _LEAST_SECONDS))
            if time.monotonic() > deadline:
                return False
        return not self._given_up

    # ------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        try:
            assert self._folder is not None, "else there is no thread"
            before = self._folder.state()
            self._state = before if before is not None and before.url == self._url else None
            with Copier(self._opened.engine, self._opened.row, open_depot(self._url), self._folder) as copier:
                last = False
                while not last:
                    last = self._closing.is_set()
                    try:
                        self._patiently(copier)
                    except PlaceLostError as error:
                        self._lost(error)  # looked at again: whoever took it over may give it back
                    # Once more, at the end of the run.
                    except Exception as error:
                        if last or self._abandoned.is_set():
                            raise
                        self._failed(error)
                    self._closing.wait(self._every)
        # Its thread must not die without a word; the study goes on.
        except Exception as error:  # noqa: BLE001
            if not self._abandoned.is_set():
                self._failed(error)
            self._given_up = True
        finally:
            self._ended.set()

    def _patiently(self, copier: Copier) -> None:
        """Make one copy, however long it takes; none if another process does."""
        retrying = Retrying(
            retry=retry_if_exception(self._may_pass),
            # Without jitter: that would come from the generator of the user's code.
            wait=wait_exponential(_FIRST_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS),
            stop=stop_when_event_set(self._abandoned),
            sleep=self._pause,
            before_sleep=self._before_sleep,
            reraise=True,
        )
        retrying(self._copy, copier)

    def _may_pass(self, error: BaseException) -> bool:
        """What nobody has thought of may pass, too, but the end of a run does not wait for it."""
        if isinstance(error, (StorageError, OSError)):
            return True
        return isinstance(error, Exception) and not isinstance(error, PlaceLostError) and not self._closing.is_set()

    def _copy(self, copier: Copier) -> None:
        if not copier.take():
            return
        state = replace(copier.copy(), url=self._url)
        was, self._state = self._state, state
        self._keep_state(state)
        failpoint("backup.kept")
        self._fails = self._is_lost = False
        if was is not None and was.failing_since is not None:  # in this run or in one before
            self._tell("backup_back", {"seconds": round(time.time() - was.failing_since, 1)})

    def _pause(self, seconds: float) -> None:
        if self._closing.is_set():
            self._abandoned.wait(min(seconds, _LAST_PAUSE_SECONDS))
        else:
            self._closing.wait(seconds)

    def _before_sleep(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        assert error is not None, "else nothing would be tried again"
        self._failed(error)

    def _failed(self, error: BaseException) -> None:
        why = str(error).partition("\n")[0]
        if not isinstance(error, (TunesafeError, OSError)):
            why = f"{type(error).__name__}: {why}"
        before = self._state or BackupState(self._url)
        why_kept = before.why if before.lost else why  # that it belongs to another is what to act on
        self._state = replace(before, failing_since=before.failing_since or time.time(), why=why_kept)
        self._keep_state(self._state)
        if not self._fails:
            self._fails = True
            self._tell("backup_failed", {"why": why, "url": self._url})

    def _lost(self, error: PlaceLostError) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        before = self._state or BackupState(self._url)
        since = before.failing_since or time.time()
        self._state = replace(before, failing_since=since, why=str(error), lost=True)
        self._keep_state(self._state)
        self._tell("backup_lost", {"why": str(error)})

    # ------------------------------------------------------------------ small print

    def _keep_state(self, state: BackupState) -> None:
        assert self._folder is not None, "else there is no thread"
        self._folder.keep(state)

    def _tell(self, kind: str, details: dict[str, Any], *, keep: bool = True) -> None:
        if keep:
            with suppress(StorageError), writing(self._opened.engine) as connection:
                newest = newest_event_of(connection, self._opened.row.uuid, kind)
                if kind != "backup_lost" or newest is None or newest.details != details:
                    append_event(connection, self._opened.row.uuid, Event(kind, None, details))
        self._watch(Notice("event", None, {"event": kind, **details}))

    def _age(self) -> str:
        at = None if self._state is None else self._state.at
        return "none" if at is None else f"{time.time() - at:.0f} s old"


def one_at_a_time(watch: Callable[[Notice], None]) -> Callable[[Notice], None]:
    """A watcher that threads may call at the same moment."""
    lock = threading.Lock()

    def watching(notice: Notice) -> None:
        with lock:
            watch(notice)

    return watching
