"""A worker process as its supervisor sees it: started, listened to, waited for, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from time import monotonic

from tunesafe.contracts import Notice
from tunesafe.worker.wire import Job, Message, SignOfLife, decode

__all__ = ["Child", "Died", "Heard"]

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_ENDS = ("completed", "pruned", "failed", "released")


@dataclass(frozen=True, slots=True)
class Heard:
    """A message from a worker."""

    child: Child
    message: Message


@dataclass(frozen=True, slots=True)
class Died:
    """A worker's pipe closed: it has ended, or is about to.

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
        said_goodbye: Whether it ended in order: by a last message, not by a death.
        lively_since: When user code last came by [s, monotonic].
    """

    index: int
    process: subprocess.Popen[bytes]
    holds: tuple[int, int] | None = None
    said_goodbye: bool = False
    signs_of_life: int = 0
    lively_since: float = field(default_factory=monotonic)

    @classmethod
    def start(cls, job: Job, num_threads: int | None, hear: Callable[[Heard | Died], None], *, fresh: bool) -> Child:
        """Start a worker and listen to it.

        Args:
            job: What it is told; the descriptor for its messages is filled in.
            num_threads: Threads of numerical libraries, if settled.
            hear: Called with everything it says, from a thread of its own.
            fresh: Whether it stands for no other that died: only then tests may kill it.
        """
        reading, writing = os.pipe()
        environment = dict(os.environ)
        if num_threads is not None:
            environment |= dict.fromkeys(_THREAD_VARIABLES, str(num_threads))
        if not fresh:
            environment.pop("TUNESAFE_FAILPOINT", None)
        process = subprocess.Popen(
            [sys.executable, "-m", "tunesafe.worker.process"],
            stdin=subprocess.PIPE,
            stdout=sys.stderr if _has_descriptor(sys.stderr) else subprocess.DEVNULL,
            env=environment | {"PYTHONPATH": os.pathsep.join(entry for entry in job.path if entry)},
            pass_fds=(writing,),
            # A terminal's Ctrl-C goes to the supervisor, which passes it on; twice would mean "at once".
            start_new_session=True,
        )
        os.close(writing)
        child = cls(job.index, process)
        child.tell(replace(job, messages=writing).to_line() + "\n")
        threading.Thread(target=_listen, args=(child, reading, hear), daemon=True).start()
        return child

    def tell(self, text: str) -> None:
        """Write to its standard input; a worker that is dead hears nothing."""
        assert self.process.stdin is not None, "started with a pipe"
        with suppress(BrokenPipeError):
            self.process.stdin.write(text.encode())
            self.process.stdin.flush()

    def note(self, message: Message) -> None:
        """Keep track of what it is doing."""
        match message:
            case SignOfLife(count):
                if count != self.signs_of_life:
                    self.signs_of_life, self.lively_since = count, monotonic()
            case Notice(kind="claimed" | "resumed", number=int(number), details=details):
                self.holds, self.lively_since = (number, int(details["fence"])), monotonic()
            case Notice(kind=kind) if kind in _ENDS:
                self.holds = None

    def silent_seconds(self) -> float:
        """How long user code has not come by; 0 where none is at work."""
        return monotonic() - self.lively_since if self.holds is not None else 0.0

    def leave(self, number: signal.Signals) -> None:
        """Ask it to leave in order."""
        self._signal(number)

    def kill(self) -> None:
        """End it now."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def bury(self) -> str:
        """Wait for its end; returns how it came, in words."""
        code = self.process.wait()
        assert self.process.stdin is not None, "started with a pipe"
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        if code >= 0:
            return f"exit code {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"


def _listen(child: Child, descriptor: int, hear: Callable[[Heard | Died], None]) -> None:
    with os.fdopen(descriptor, "rb") as pipe:
        for line in pipe:
            if line.endswith(b"\n"):  # a last line without an end is a message cut off by death
                hear(Heard(child, decode(line)))
    hear(Died(child))


def _has_descriptor(stream: object) -> bool:
    try:
        stream.fileno()  # type: ignore[attr-defined]  # asked for just that
    except (AttributeError, OSError, ValueError):
        return False
    return True
