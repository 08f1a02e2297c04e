"""Running a study in n worker processes, each on its own: one that dies is replaced at once.

The supervisor imports no torch and trains nothing. It opens the study, starts the workers,
passes signals on, and keeps count of deaths it has seen, so that a trial that kills its
process again and again fails instead of stopping the study.
"""

from __future__ import annotations

import queue
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from os import getpid
from pathlib import Path
from time import monotonic

from tunesafe.contracts import Notice
from tunesafe.errors import LeaseLostError, Preempted, SpecError, TunesafeError
from tunesafe.executors.children import Child, Died, Heard
from tunesafe.executors.results import RunResult, opening_details, result_of
from tunesafe.spec import StudySpec
from tunesafe.study.claiming import Claimant
from tunesafe.study.opening import OpenStudy, Program, open_study
from tunesafe.trial.preemption import SignalWatch
from tunesafe.worker.judging import judges
from tunesafe.worker.loop import Left
from tunesafe.worker.wire import Failed, Job, LeftWork, Ready

__all__ = ["supervise"]

_TICK_SECONDS = 0.25
_MOST_STILLBORN = 3
"""Workers in a row that may die before they have claimed anything."""
_AFTER_GRACE_SECONDS = 30.0
"""What a worker may take beyond the grace period to save and leave [s]."""


def supervise(
    spec: StudySpec,
    program: Program,
    *,
    folder: Path,
    watch: Callable[[Notice], None],
    new: bool,
    accept_changes: bool = False,
) -> RunResult:
    """Start a study, continue it, join it, or find that there is nothing to do.

    Args:
        spec: The study file.
        program: Its text and the trainable's sources.
        folder: Where relative paths and files beside the database are.
        watch: Told what happens, in this thread.
        new: Whether the study is not there yet: then the trainable is imported first.
        accept_changes: Go on after a breaking change.

    Raises:
        SpecError: Something the user has to change.
        StorageError: The database cannot be used.
    """
    sampler, pruner = judges(spec)
    with SignalWatch() as signals, _Crew(spec, program, folder, signals) as crew:
        if new:
            crew.rehearse()
        with open_study(spec, program, sampler, pruner, accept_changes=accept_changes) as opened:
            claimant = Claimant(opened)
            claimant.take_up_held()
            before = claimant.tally()
            watch(Notice("opened", None, opening_details(opened, before)))
            left: Left | BaseException = Left.NO_WORK
            if before.open or before.held:
                left = crew.work(opened, claimant, watch)
            return result_of(spec, before, claimant.tally(), left)


@dataclass(slots=True)
class _Endings:
    """How workers have ended so far."""

    error: TunesafeError | None = None
    lost: LeaseLostError | None = None
    timed_out: bool = False
    num_stillborn: int = 0


class _Crew:
    """The workers of one supervisor."""

    def __init__(self, spec: StudySpec, program: Program, folder: Path, signals: SignalWatch) -> None:
        self._spec, self._folder, self._signals = spec, folder, signals
        self._fingerprint = program.fingerprint
        self._inbox: queue.SimpleQueue[Heard | Died] = queue.SimpleQueue()
        self._children: list[Child] = []
        self._endings = _Endings()
        self._num_threads = spec.threads_per_worker
        self._asked_at: float | None = None

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for child in self._children:
            child.kill()
            child.bury()

    # ------------------------------------------------------------------ before the study is open

    def rehearse(self) -> None:
        """Start the first worker and wait until it has imported the user's code.

        Raises:
            SpecError: If it cannot.
        """
        self._start(0, fresh=True)
        while True:
            match self._next():
                case Heard(message=Ready()):
                    return
                case Heard(message=Failed() as failed):
                    with self._spec.placing("trainable"):
                        raise failed.as_error()
                case Died(child=child):
                    raise SpecError(
                        f"{self._spec.trainable} cannot be imported: its process died ({child.bury()}). "
                        "Nothing was started or created."
                    )
            if self._signals.reason is not None:
                raise Preempted(self._signals.reason)

    # ------------------------------------------------------------------ while the study runs

    def work(self, opened: OpenStudy, claimant: Claimant, watch: Callable[[Notice], None]) -> Left | BaseException:
        """Keep n workers at work until none has anything to do.

        Returns:
            Why the last of them stopped.

        Raises:
            SpecError, StorageError: What stopped them all.
        """
        self._num_threads = opened.row.threads_per_worker
        for index in range(len(self._children), self._spec.n_workers):
            self._start(index, fresh=True)
        for child in self._children:
            child.tell("go\n")
        while self._children:
            self._pass_signals_on()
            self._kill_the_stuck(claimant)
            match self._next():
                case Heard(child=child, message=message):
                    child.note(message)
                    self._heard(child, message, watch)
                case Died(child=child):
                    self._children.remove(child)
                    self._ended(child, claimant, watch)
        return self._why()

    def _heard(self, child: Child, message: object, watch: Callable[[Notice], None]) -> None:
        match message:
            case Notice():
                self._endings.num_stillborn = 0
                watch(message)
            case Failed():
                child.said_goodbye = True
                self._stop(message.as_error())
            case LeftWork(why=why, detail=detail):
                child.said_goodbye = True
                if why == "lease lost":
                    self._endings.lost = LeaseLostError(detail)
                elif why == Left.TIMED_OUT:
                    self._endings.timed_out = True
                elif why == "study changed":
                    child.said_goodbye = False

    def _ended(self, child: Child, claimant: Claimant, watch: Callable[[Notice], None]) -> None:
        how = child.bury()
        if child.said_goodbye:
            if self._endings.lost is not None and self._children and not self._leaving:
                self._replace(child)  # the others still hold theirs: this one works on something else
            return
        if self._leaving:
            return
        if child.process.returncode != 0:
            self._endings.num_stillborn += 1
            details = claimant.record_death(child.holds, how)
            number = child.holds[0] if child.holds else None
            watch(Notice("event", number, {"event": "died", **details}))
            if self._endings.num_stillborn >= _MOST_STILLBORN:
                self._stop(TunesafeError(_stillborn(how)))
                return
        self._replace(child)

    def _kill_the_stuck(self, claimant: Claimant) -> None:
        limit = self._spec.stall_timeout
        for child in self._children if limit is not None else ():
            if limit is not None and child.silent_seconds() > limit and child.holds is not None:
                claimant.note("stalled", child.holds[0], seconds=round(child.silent_seconds(), 1))
                child.kill()
                child.lively_since = monotonic()

    # ------------------------------------------------------------------ leaving

    @property
    def _leaving(self) -> bool:
        return self._asked_at is not None

    def _pass_signals_on(self) -> None:
        if self._signals.urgent:
            for child in self._children:
                child.kill()
        elif self._signals.reason is not None and not self._leaving:
            self._ask_to_leave()
        elif self._leaving and monotonic() - (self._asked_at or 0.0) > self._spec.grace + _AFTER_GRACE_SECONDS:
            for child in self._children:
                child.kill()

    def _ask_to_leave(self) -> None:
        self._asked_at = monotonic()
        for child in self._children:
            child.leave(signal.SIGTERM)

    def _stop(self, error: TunesafeError) -> None:
        if self._endings.error is None:
            self._endings.error = error
        if not self._leaving:
            self._ask_to_leave()

    def _why(self) -> Left | BaseException:
        endings = self._endings
        if endings.error is not None:
            raise endings.error
        if self._signals.reason is not None:
            return Preempted(self._signals.reason)
        if endings.lost is not None:
            return endings.lost
        return Left.TIMED_OUT if endings.timed_out else Left.NO_WORK

    # ------------------------------------------------------------------ small print

    def _next(self) -> Heard | Died | None:
        try:
            return self._inbox.get(timeout=_TICK_SECONDS)
        except queue.Empty:
            return None

    def _replace(self, child: Child) -> None:
        self._start(child.index, fresh=False)
        self._children[-1].tell("go\n")

    def _start(self, index: int, *, fresh: bool) -> None:
        assert self._spec.trainable is not None, "only a study with a trainable that can be imported is supervised"
        job = Job(
            storage=self._spec.storage,
            name=self._spec.name,
            folder=str(self._folder),
            trainable=self._spec.trainable,
            fingerprint=self._fingerprint,
            index=index,
            messages=-1,
            supervisor=getpid(),
            path=list(sys.path),
        )
        self._children.append(Child.start(job, self._num_threads, self._inbox.put, fresh=fresh))


def _stillborn(how: str) -> str:
    return (
        f"{_MOST_STILLBORN} workers in a row died ({how}) before they had claimed a trial. Finished trials are safe. "
        "See what they printed above; then run the same command again."
    )
