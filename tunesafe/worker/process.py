"""A worker in a process of its own: ``python -m tunesafe.worker.process``, spoken to over pipes.

It imports the user's code before it is told to go on, so that a trainable which cannot be
imported leaves no database behind and the import runs beside the opening of the study. It
dies with its supervisor: by the kernel's parent-death signal where there is one, and
because its standard input closes.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

from tunesafe.contracts import Notice
from tunesafe.data.orphans import die_with_parent
from tunesafe.errors import (
    ExitCode,
    LeaseLostError,
    Preempted,
    StudyChangedError,
    TunesafeError,
)
from tunesafe.study.opening import attach_study
from tunesafe.trial.preemption import SignalWatch
from tunesafe.trial.resolve import resolve
from tunesafe.worker.judging import judges
from tunesafe.worker.loop import Worker
from tunesafe.worker.output import stand_in
from tunesafe.worker.wire import GO, LEAVE, Failed, Job, LeftWork, Message, Ready, SignOfLife, encode

__all__ = ["main"]

_FOR_WATCHERS = ("output", "reported", "event")
"""Notices that nothing but a display depends on."""


def main() -> int:
    """Work on one study as the supervisor says; the exit code is that of the ending."""
    orders = _take_standard_input()
    line = orders.readline()
    if not line.endswith("\n"):  # the supervisor died before it had said what to do
        return ExitCode.INTERRUPTED
    job = Job.from_line(line)
    die_with_parent()
    if os.getppid() != job.supervisor:  # it died before the kernel was asked
        return ExitCode.INTERRUPTED
    sys.path[:] = job.path
    if job.python_path is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = job.python_path
    channel = _Channel(job.messages)
    with SignalWatch() as signals:
        begin = threading.Event()
        threading.Thread(target=_obey, args=(orders, signals, begin), daemon=True).start()
        ending = _work(job, channel, signals, begin)
        channel.send(ending)
    return ending.exit_code if isinstance(ending, Failed) else ExitCode.OK


def _take_standard_input() -> TextIO:
    """Orders come on a descriptor of their own: user code that reads its standard input finds it empty."""
    orders = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return orders


def _obey(orders: TextIO, signals: SignalWatch, begin: threading.Event) -> None:
    """Follow the supervisor's orders; they end when it does."""
    with suppress(OSError, ValueError):
        for line in orders:
            order, _, reason = line.rstrip("\n").partition(" ")
            if order == LEAVE:
                signals.ask(reason)
            if order in (GO, LEAVE):
                begin.set()
    os.kill(os.getpid(), signal.SIGKILL)


class _Channel:
    """Sends messages, from any thread, one line at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_inheritable(descriptor, False)
        self._lock = threading.Lock()
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)

    def send(self, message: Message) -> None:
        """Send it; if nobody listens (the supervisor is stopped, or gone), training does not wait for watchers."""
        line = encode(message)
        with self._lock, suppress(OSError):
            if _is_for_watchers(message) and not self._room.poll(0):
                return
            while line:
                line = line[os.write(self._descriptor, line) :]


def _is_for_watchers(message: Message) -> bool:
    return isinstance(message, SignOfLife) or (isinstance(message, Notice) and message.kind in _FOR_WATCHERS)


def _work(job: Job, channel: _Channel, signals: SignalWatch, begin: threading.Event) -> LeftWork | Failed:
    stand_in()
    try:
        train = resolve(job.trainable, Path(job.folder))
        channel.send(Ready())
        begin.wait()
        return LeftWork(_attach_and_work(job, train, channel, signals))
    except Preempted as ending:
        return LeftWork("preempted", str(ending))
    except StudyChangedError as ending:
        return LeftWork("study changed", str(ending))
    except LeaseLostError as ending:
        return LeftWork("lease lost", str(ending))
    except TunesafeError as error:
        return Failed.of(error)


def _attach_and_work(job: Job, train: Callable[..., Any], channel: _Channel, signals: SignalWatch) -> str:
    if signals.reason is not None:
        raise Preempted(signals.reason)
    folder = Path(job.folder)
    with attach_study(job.storage, job.name, folder, job.fingerprint, judges, job.storage_timeout) as opened:
        worker = Worker(
            opened, lambda: train, signals, channel.send, folder, index=job.index, supervisor=job.supervisor
        )
        if opened.spec.stall_timeout is not None:
            interval = min(opened.spec.stall_timeout / 4, 1.0)
            threading.Thread(target=_pulse, args=(worker, channel, interval), daemon=True).start()
        return str(worker.run())


def _pulse(worker: Worker, channel: _Channel, interval_seconds: float) -> None:
    while not threading.Event().wait(interval_seconds):
        channel.send(SignOfLife(worker.num_signs_of_life))


def _leave(code: int) -> NoReturn:
    """End this process as ``sys.exit`` would, but without taking torch's modules apart: that takes a second."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for user code's threads and ends its pools
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main())
