"""What a worker process and its supervisor say to each other: lines of JSON, plain values only.

A process is handed a job (where the study is, where the code is) and then orders, on its
standard input; never live objects. It answers with messages on a pipe of its own, so nothing
that user code or a library prints can be taken for one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunesafe.contracts import Notice
from tunesafe.errors import ExitCode, SpecError, StorageError, TunesafeError

__all__ = ["GO", "LEAVE", "Failed", "Job", "LeftWork", "Message", "Ready", "SignOfLife", "decode", "encode"]

GO = "go"
"""Order to a worker: the study is open, begin."""
LEAVE = "leave"
"""Order to a worker: save what can be saved and leave; the reason follows on the same line."""


@dataclass(frozen=True, slots=True)
class Job:
    """Everything a worker process is told.

    Args:
        storage: Database URL.
        name: The study in it.
        folder: The study file's folder.
        trainable: The training code, as the study file names it.
        fingerprint: Of that code, as the supervisor found it.
        index: Which of the supervisor's workers this is, 0-based; deals out devices.
        messages: File descriptor for answers.
        supervisor: Process id of the supervisor.
        path: Its ``sys.path``.
    """

    storage: str
    name: str
    folder: str
    trainable: str
    fingerprint: str
    index: int
    messages: int
    supervisor: int
    path: Sequence[str]
    python_path: str | None
    storage_timeout: float = 600.0

    def to_line(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: str) -> Job:
        """Read it back."""
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True)
class Ready:
    """The user's code is imported; the worker waits for the study to be open."""


@dataclass(frozen=True, slots=True)
class SignOfLife:
    """How often user code has asked for something, batches included, since the worker began."""

    count: int


@dataclass(frozen=True, slots=True)
class LeftWork:
    """The worker ends in order.

    Args:
        why: ``no work``, ``timed out``, ``preempted``, ``lease lost`` or ``study changed``.
        detail: One sentence, or a signal's name.
    """

    why: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker ends with an error that is the study's, not a trial's.

    Args:
        exit_code: What the command ends with.
        message: What to tell the user.
        file: Where in the user's files it is, if it is in one.
        line: 1-based.
        column: 1-based.
        key: The study file's key it is about, where the worker does not know the place.
    """

    exit_code: ExitCode
    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None
    key: str | None = None

    @classmethod
    def of(cls, error: TunesafeError) -> Failed:
        """What an error says."""
        if isinstance(error, SpecError):
            return cls(error.exit_code, error.message, error.file, error.line, error.column, error.key)
        return cls(error.exit_code, str(error))

    def as_error(self) -> TunesafeError:
        """The error it stands for."""
        if self.exit_code == ExitCode.USAGE:
            return SpecError(self.message, file=self.file, line=self.line, column=self.column, key=self.key)
        return StorageError(self.message) if self.exit_code == ExitCode.STORAGE else TunesafeError(self.message)


Message = Ready | SignOfLife | LeftWork | Failed | Notice
_TYPES: Mapping[str, type[Any]] = {cls.__name__: cls for cls in (Ready, SignOfLife, LeftWork, Failed, Notice)}


def encode(message: Message) -> bytes:
    """As one line; it begins with a line end, too, so that a message cut short before it spoils only itself."""
    return ("\n" + json.dumps({"type": type(message).__name__, **asdict(message)}, default=str) + "\n").encode()


def decode(line: bytes) -> Message | None:
    """Read a line back; ``None`` if it is no message: user code can write to any descriptor."""
    try:
        values = json.loads(line)
        message: Message = _TYPES[values.pop("type")](**values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return message
