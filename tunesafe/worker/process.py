"""A worker in a process of its own: ``python -m tunesafe.worker.process``, spoken to over pipes.

It imports the user's code before it is told to go on, so that a trainable which cannot be
imported leaves no database behind and the import runs beside the opening of the study. It
dies with its supervisor: by the kernel's parent-death signal where there is one, and
because its standard input closes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

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
from tunesafe.worker.wire import Failed, Job, LeftWork, Message, Ready, SignOfLife, encode

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Work on one study as the supervisor says; the exit code is that of the ending."""
    job = Job.from_line(sys.stdin.readline())
    _die_with(job.supervisor)
    sys.path[:] = job.path
    channel = _Channel(job.messages)
    with SignalWatch() as signals:
        ending = _work(job, channel, signals)
        channel.send(ending)
    return ending.exit_code if isinstance(ending, Failed) else ExitCode.OK


class _Channel:
    """Sends messages, from any thread, one line at a time."""

    def __init__(self, descriptor: int) -> None:
        self._pipe: BinaryIO = os.fdopen(descriptor, "wb", buffering=0)
        self._lock = threading.Lock()
        # Only this process speaks here: a loader's worker that outlives it must not keep the pipe open.
        os.set_inheritable(descriptor, False)
        os.register_at_fork(after_in_child=self._pipe.close)

    def send(self, message: Message) -> None:
        line = encode(message)
        with self._lock:
            while line:
                line = line[self._pipe.write(line) :]


def _work(job: Job, channel: _Channel, signals: SignalWatch) -> LeftWork | Failed:
    try:
        train = resolve(job.trainable, Path(job.folder))
        channel.send(Ready())
        if sys.stdin.readline() != "go\n":
            return LeftWork("preempted", "the supervisor had no work")
        threading.Thread(target=_die_at_end_of, args=(sys.stdin.fileno(),), daemon=True).start()
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
    folder = Path(job.folder)
    with attach_study(job.storage, job.name, folder, job.fingerprint, judges) as opened:
        worker = Worker(opened, lambda: train, signals, channel.send, folder, index=job.index)
        if opened.spec.stall_timeout is not None:
            interval = min(opened.spec.stall_timeout / 4, 1.0)
            threading.Thread(target=_pulse, args=(worker, channel, interval), daemon=True).start()
        return str(worker.run())


def _pulse(worker: Worker, channel: _Channel, interval_seconds: float) -> None:
    while not threading.Event().wait(interval_seconds):
        channel.send(SignOfLife(worker.num_signs_of_life))


def _die_with(supervisor: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it died before the kernel was asked
        os._exit(ExitCode.INTERRUPTED)


def _die_at_end_of(descriptor: int) -> None:
    # Not sys.stdin.read(): it holds the stream's lock, which a loader's forked worker would wait for for ever.
    while os.read(descriptor, 4096):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
