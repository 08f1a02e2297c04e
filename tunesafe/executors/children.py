"""A worker process as its supervisor sees it: started, listened to, waited for, killed.

That it has ended is learnt from the kernel, not from its pipe: processes it forked may hold
that open, and user code may close it.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from time import monotonic

from tunesafe.contracts import Notice
from tunesafe.worker.wire import GO, LEAVE, Failed, Job, LeftWork, Message, SignOfLife, decode

__all__ = ["Child", "Died", "Heard"]

_PROGRAM = ("-P", "-m", "tunesafe.worker.process")
"""-P: a folder that holds a file such as queue.py must not be in the way of our own imports."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_ENDS = ("completed", "pruned", "failed", "released")
_LOOK_SECONDS = 0.1
_LOWEST_DESCRIPTOR = 3
"""Below are the standard streams, even where they are closed: a library's words must not become messages."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A message from a worker."""

    child: Child
    message: Message


@dataclass(frozen=True, slots=True)
class Died:
    """A worker's process has ended; all it said has been heard.

    Args:
        child: Which.
    """

    child: Child


@dataclass(slots=True, eq=False)
class Child:
    """One worker process.

    Args:
        index: Which of the supervisor's workers it is, 0-based.
        process: The process.
        holds: Number and fence of the trial its user code trains, if any.
        goodbye: Its last message, if it ends in order and not by a death.
        killed_because: Why the supervisor killed it, if it did.
        lively_since: When user code last came by [s, monotonic]; after the goodbye, when that came.
    """

    index: int
    process: subprocess.Popen[bytes]
    holds: tuple[int, int] | None = None
    goodbye: LeftWork | Failed | None = None
    killed_because: str | None = None
    num_signs_of_life: int = 0
    lively_since: float = field(default_factory=monotonic)
    _ended: str | None = None

    @classmethod
    def start(cls, job: Job, num_threads: int | None, hear: Callable[[Heard | Died], None], *, fresh: bool) -> Child:
        """Start a worker and listen to it.

        Args:
            job: What it is told; the descriptor for its messages is filled in.
            num_threads: Threads of numerical libraries, if settled.
            hear: Called with everything it says, from a thread of its own.
            fresh: Whether it stands for no other that died: only then tests may kill it.
        """
        reading, writing = _pipe()
        words = _words()
        process = subprocess.Popen(
            [sys.executable, *_PROGRAM],
            stdin=subprocess.PIPE,
            stdout=words,
            stderr=words,
            env=_environment(job, num_threads, fresh=fresh),
            pass_fds=(writing,),
            # A terminal's Ctrl-C goes to the supervisor, which passes it on; and all it forks can be killed with it.
            start_new_session=True,
        )
        os.close(writing)
        os.close(words)
        child = cls(job.index, process)
        child._tell(replace(job, messages=writing).to_line())
        threading.Thread(target=_listen, args=(child, reading, hear), daemon=True).start()
        return child

    def go(self) -> None:
        """Let it begin."""
        self._tell(GO)

    def leave(self, reason: str) -> None:
        """Ask it to leave in order.

        Not by a signal: a batch system may have sent it one, and a second would mean "at once".
        """
        self._tell(f"{LEAVE} {reason}")

    def _tell(self, order: str) -> None:
        assert self.process.stdin is not None, "started with a pipe"
        with suppress(BrokenPipeError):  # the dead hear nothing
            self.process.stdin.write(order.encode() + b"\n")
            self.process.stdin.flush()

    def note(self, message: Message) -> None:
        """Keep track of what it is doing."""
        match message:
            case SignOfLife(count):
                if count != self.num_signs_of_life:
                    self.num_signs_of_life, self.lively_since = count, monotonic()
            case Notice(kind="claimed" | "resumed", number=int(number), details=details):
                self.holds, self.lively_since = (number, int(details["fence"])), monotonic()
            case Notice(kind=kind) if kind in _ENDS:
                self.holds = None
            case LeftWork() | Failed():
                self.goodbye, self.lively_since = message, monotonic()

    @property
    def silent_seconds(self) -> float:
        """How long it has not given a sign of life, while that is expected; how long ago it said goodbye."""
        return monotonic() - self.lively_since if self.holds is not None or self.goodbye is not None else 0.0

    def kill(self, because: str | None = None) -> None:
        """End it now, with every process it has forked."""
        self.killed_because = self.killed_because or because
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def bury(self) -> str:
        """Wait for its end, and end what a death left behind; returns how it came, in words."""
        how = self.cause_of_death()
        self.process.wait()
        assert self.process.stdin is not None, "started with a pipe"
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        return how

    def cause_of_death(self) -> str:
        """The same without burying it, where there is a way: until then its colleagues leave its trial alone."""
        if self._ended is None:
            self._ended = self._end()
        return self._ended

    def _end(self) -> str:
        if self.goodbye is None and self.process.returncode is None:
            self.kill()  # while it is not waited for, its pid and its group are nobody else's
        code = _exit_code(self.process)
        if self.killed_because is not None:
            return self.killed_because
        if code >= 0:
            return f"exit code {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"

    @property
    def was_killed_from_outside(self) -> bool:
        """Whether it died of a signal that programs do not send themselves by mistake."""
        return _exit_code(self.process) in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)


def _listen(child: Child, descriptor: int, hear: Callable[[Heard | Died], None]) -> None:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    rest, ended = b"", False
    while True:
        if poller.poll(_LOOK_SECONDS * 1000):
            block = os.read(descriptor, 1 << 16)
            if not block:
                break
            *lines, rest = (rest + block).split(b"\n")
            for message in map(decode, filter(None, lines)):
                if message is not None:
                    hear(Heard(child, message))
        elif ended:
            break
        else:
            ended = _has_ended(child.process, at_once=True)
    os.close(descriptor)
    _has_ended(child.process)
    hear(Died(child))


def _has_ended(process: subprocess.Popen[bytes], *, at_once: bool = False) -> bool:
    """Whether a child has ended, at once or as soon as it has; it stays to be waited for, if there is a way."""
    if not hasattr(os, "waitid"):  # macOS, before Python 3.13
        return (process.poll() if at_once else process.wait()) is not None
    try:
        options = os.WEXITED | os.WNOWAIT | (os.WNOHANG if at_once else 0)
        return os.waitid(os.P_PID, process.pid, options) is not None
    except ChildProcessError:  # who runs us ignores SIGCHLD: the kernel has waited for it
        return True


def _exit_code(process: subprocess.Popen[bytes]) -> int:
    """How it ended, negative for a signal, once it has; it stays to be waited for."""
    if process.returncode is not None or not hasattr(os, "waitid"):
        return process.wait()
    try:
        end = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:  # who runs us ignores SIGCHLD: nobody will know
        return process.wait()
    assert end is not None, "waited for without WNOHANG"
    return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status


def _pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    if writing >= _LOWEST_DESCRIPTOR:
        return reading, writing
    higher = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, _LOWEST_DESCRIPTOR)
    os.close(writing)
    return reading, higher


def _words() -> int:
    """Where a worker's own words go: with ours, to standard error, if that is open."""
    with suppress(AttributeError, OSError, ValueError):  # a notebook's has no descriptor
        return os.dup(sys.stderr.fileno())
    with suppress(OSError):
        return os.dup(2)
    return os.open(os.devnull, os.O_WRONLY)


def _environment(job: Job, num_threads: int | None, *, fresh: bool) -> dict[str, str]:
    environment = dict(os.environ)
    if num_threads is not None:
        environment |= dict.fromkeys(_THREAD_VARIABLES, str(num_threads))
    if not fresh:
        environment.pop("TUNESAFE_FAILPOINT", None)
    return environment | {"PYTHONPATH": os.pathsep.join(filter(None, job.path))}
