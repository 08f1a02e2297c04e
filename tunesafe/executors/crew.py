"""The workers of one supervisor: started, replaced when they die, asked to leave.

It keeps count of the deaths it sees, so that a trial that kills its process again and again
fails instead of stopping the study, and of deaths before any work, so that a broken machine
stops it instead of being tried forever.
"""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Self

from tunesafe.contracts import Notice
from tunesafe.errors import LeaseLostError, Preempted, SpecError, StorageError, TunesafeError
from tunesafe.executors.children import Child, Died, Heard
from tunesafe.spec import StudySpec
from tunesafe.study.opening import OpenStudy
from tunesafe.study.overseeing import Death, Overseer
from tunesafe.trial.preemption import SignalWatch
from tunesafe.worker.loop import Left
from tunesafe.worker.wire import Failed, Job, LeftWork, Message, Ready

__all__ = ["Crew"]

_TICK_SECONDS = 0.25
_HELD_UP_SECONDS = 2.0
"""A supervisor that did nothing for so long was itself stopped: its workers' silence says nothing [s]."""
_LOOK_SECONDS = 5.0
"""How often a crew that is not complete looks for more work [s]."""
_MOST_STILLBORN = 3
"""Workers in a row that may die before they have claimed anything."""
_MOST_KILLED = 20
"""The same for those that were killed, as by somebody who tests us; memory may also just be short."""
_AFTER_GRACE_SECONDS = 30.0
"""What a worker may take beyond the grace period to save and leave [s]."""
_AFTER_GOODBYE_SECONDS = 10.0
"""What a process may take to end after its last message: threads of user code may hold it forever [s]."""


@dataclass(slots=True)
class _Endings:
    """How workers have ended so far.

    Args:
        error: What stopped them all.
        timed_out: Whether the study's ``timeout`` is used up.
        num_stillborn: Workers in a row that died before any had claimed anything.
        lost: By index, what the last worker lost that has not been made up for by a new claim.
    """

    error: TunesafeError | None = None
    timed_out: bool = False
    num_stillborn: int = 0
    lost: dict[int, LeaseLostError] = field(default_factory=dict)


class Crew:
    """Up to ``n_workers`` worker processes; all are gone when the block ends.

    Args:
        spec: The study file.
        fingerprint: Of the trainable's sources.
        folder: The study file's folder.
        signals: Entered by the caller.
    """

    def __init__(self, spec: StudySpec, fingerprint: str, folder: Path, signals: SignalWatch) -> None:
        self._spec, self._fingerprint, self._folder, self._signals = spec, fingerprint, folder, signals
        self._inbox: queue.SimpleQueue[Heard | Died] = queue.SimpleQueue()
        self._children: list[Child] = []
        self._endings = _Endings()
        self._num_threads = spec.threads_per_worker
        self._asked_at: float | None = None
        self._ticked_at = self._looked_at = monotonic()
        self._unrecorded: list[tuple[Death, Child]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._kill_all()
        for child in (*self._children, *(child for _, child in self._unrecorded)):
            child.bury()

    # ------------------------------------------------------------------ before the study is open

    def rehearse(self) -> None:
        """Start the first worker and wait until it has imported the user's code.

        Raises:
            SpecError: If it cannot.
            Preempted: If a signal came.
        """
        self._start(0, fresh=True)
        while self._signals.reason is None:
            match self._next():
                case Heard(message=Ready()):
                    return
                case Heard(message=Failed() as failed):
                    with self._spec.placing("trainable"):
                        raise failed.as_error()
                case Died(child=child):
                    how = child.bury()
                    self._children.remove(child)
                    self._endings.num_stillborn += 1
                    if not child.was_killed_from_outside or self._endings.num_stillborn >= _MOST_STILLBORN:
                        raise SpecError(
                            f"{self._spec.trainable} cannot be imported: its process died ({how}). "
                            "Nothing was started or created."
                        )
                    self._start(0, fresh=False)
        raise Preempted(self._signals.reason)

    # ------------------------------------------------------------------ while the study runs

    def work(self, opened: OpenStudy, watch: Callable[[Notice], None]) -> Left | BaseException:
        """Keep workers at work until none has anything to do.

        Returns:
            Why the last of them stopped.

        Raises:
            SpecError, StorageError: What stopped them all.
            Preempted: A second signal came.
        """
        self._num_threads = opened.row.threads_per_worker
        overseer = Overseer(opened)
        for child in self._children:
            child.go()
        self._complete(overseer)
        if not self._children:  # all that is left is with others: one waits for what becomes of it
            self._start(0, fresh=True).go()
        while self._children:
            self._tick(overseer)
            match self._next():
                case Heard(child=child, message=message):
                    child.note(message)
                    self._heard(child, message, watch)
                case Died(child=child):
                    self._children.remove(child)
                    self._ended(child, overseer, watch)
        return self._why()

    def _tick(self, overseer: Overseer) -> None:
        now, held_up = monotonic(), monotonic() - self._ticked_at > _HELD_UP_SECONDS
        self._ticked_at = now
        if held_up:
            for child in self._children:
                child.lively_since = now
        self._pass_signals_on()
        self._kill_the_stuck(overseer)
        if now - self._looked_at > _LOOK_SECONDS:
            self._look(overseer)

    def _look(self, overseer: Overseer) -> None:
        self._looked_at = monotonic()
        self._record(overseer)
        self._complete(overseer)

    def _complete(self, overseer: Overseer) -> None:
        """Start workers for what nobody works on; those without a trial will take theirs first."""
        missing = self._spec.n_workers - len(self._children)
        if missing <= 0 or self._leaving or self._endings.timed_out:
            return
        with suppress(StorageError):  # nobody can begin while the database is away
            idle = sum(child.holds is None for child in self._children)
            for _ in range(min(missing, overseer.num_claimable() - idle)):
                taken = {child.index for child in self._children}
                self._start(min(set(range(self._spec.n_workers)) - taken), fresh=True).go()

    def _heard(self, child: Child, message: Message, watch: Callable[[Notice], None]) -> None:
        match message:
            case Notice(kind=kind):
                if kind != "event":  # before its first claim a worker may say what it waits for
                    self._endings.num_stillborn = 0
                if kind in ("claimed", "resumed"):
                    self._endings.lost.pop(child.index, None)
                watch(message)
            case Failed():
                self._stop(message.as_error())
            case LeftWork(why=Left.TIMED_OUT):
                self._endings.timed_out = True

    def _ended(self, child: Child, overseer: Overseer, watch: Callable[[Notice], None]) -> None:
        if child.goodbye is None and not self._leaving:
            self._died(child, overseer, watch)
            return
        child.bury()
        if self._leaving:
            return
        match child.goodbye:
            case LeftWork(why="lease lost", detail=detail):
                self._lost(child, LeaseLostError(detail))
            case LeftWork(why="study changed" | "preempted"):  # it alone had a signal: its place is free
                self._replace(child)

    def _died(self, child: Child, overseer: Overseer, watch: Callable[[Notice], None]) -> None:
        how = child.cause_of_death()
        number, fence = child.holds or (None, None)
        self._unrecorded.append((Death(child.process.pid, how, number, fence), child))
        details = self._record(overseer) or {"how": how}
        watch(Notice("event", number, {"event": "died", **details}))
        if child.holds is None:
            self._endings.num_stillborn += 1
            if self._endings.num_stillborn >= (_MOST_KILLED if child.was_killed_from_outside else _MOST_STILLBORN):
                self._stop(TunesafeError(_stillborn(self._endings.num_stillborn, how)))
                return
        self._replace(child)

    def _record(self, overseer: Overseer) -> dict[str, Any]:
        """Record deaths in their order, and bury whose is: until then its colleagues leave its trial alone.

        Returns:
            The last one's details, if there was one and all are recorded.
        """
        details: dict[str, Any] = {}
        with suppress(StorageError):  # its workers wait for the database; we try again with every look
            while self._unrecorded:
                death, child = self._unrecorded[0]
                details = overseer.record_death(death)
                child.bury()
                del self._unrecorded[0]
            return details
        return {}

    def _lost(self, child: Child, error: LeaseLostError) -> None:
        """One that lost its trial works on another, unless all of them have lost theirs."""
        self._endings.lost[child.index] = error
        if all(other.index in self._endings.lost for other in self._children):
            self._stop(error)
            self._kill_all()
        else:
            self._replace(child)

    def _kill_the_stuck(self, overseer: Overseer) -> None:
        limit = self._spec.stall_timeout
        for child in self._children:
            seconds = child.silent_seconds
            if child.goodbye is not None:
                if seconds > _AFTER_GOODBYE_SECONDS:
                    child.kill()
            elif limit is not None and seconds > limit and child.holds is not None and child.killed_because is None:
                child.kill(f"no batch for {seconds:.0f} s")
                with suppress(StorageError):
                    overseer.note("stalled", child.holds[0], seconds=round(seconds, 1))

    # ------------------------------------------------------------------ leaving

    @property
    def _leaving(self) -> bool:
        return self._asked_at is not None

    def _pass_signals_on(self) -> None:
        if self._signals.reason is not None and not self._leaving:
            self._ask_to_leave(self._signals.reason)
        elif self._asked_at is not None and monotonic() - self._asked_at > self._spec.grace + _AFTER_GRACE_SECONDS:
            self._kill_all()

    def _ask_to_leave(self, reason: str) -> None:
        self._asked_at = monotonic()
        for child in self._children:
            child.leave(reason)

    def _stop(self, error: TunesafeError) -> None:
        if self._endings.error is None:
            self._endings.error = error
        if not self._leaving:
            self._ask_to_leave("an error that stops the study")

    def _kill_all(self) -> None:
        for child in self._children:
            child.kill()

    def _why(self) -> Left | BaseException:
        error = self._endings.error
        if isinstance(error, LeaseLostError):
            return error
        if error is not None:
            with self._spec.placing():  # a worker knows the key, we where it stands
                raise error
        if self._signals.reason is not None:
            return Preempted(self._signals.reason)
        return Left.TIMED_OUT if self._endings.timed_out else Left.NO_WORK

    # ------------------------------------------------------------------ small print

    def _next(self) -> Heard | Died | None:
        try:
            return self._inbox.get(timeout=_TICK_SECONDS)
        except queue.Empty:
            return None

    def _replace(self, child: Child) -> None:
        self._start(child.index, fresh=False).go()

    def _start(self, index: int, *, fresh: bool) -> Child:
        assert self._spec.trainable is not None, "only a study with a trainable that can be imported is supervised"
        job = Job(
            storage=self._spec.storage,
            name=self._spec.name,
            folder=str(self._folder),
            trainable=self._spec.trainable,
            fingerprint=self._fingerprint,
            index=index,
            messages=-1,
            supervisor=os.getpid(),
            path=list(sys.path),
            python_path=os.environ.get("PYTHONPATH"),
            storage_timeout=self._spec.storage_timeout,
        )
        child = Child.start(job, self._num_threads, self._inbox.put, fresh=fresh)
        self._children.append(child)
        return child


def _stillborn(count: int, how: str) -> str:
    return (
        f"{count} workers in a row died ({how}) before they had claimed a trial. Finished trials are safe. "
        "See what they printed above; then run the same command again."
    )
