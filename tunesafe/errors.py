"""Every error tunesafe raises on purpose, and the exit code each one ends a command with.

    TunesafeError                    1
    ├── SpecError                    2   the study file, the command line, or what they name
    │   ├── ChangeRefusedError       2   a breaking change to a study that already has results
    │   └── StudyChangedError        2   another command changed the study under a worker
    ├── StorageError                 3   the database cannot be used
    ├── DamagedError                 4   asked-for state or a row is damaged and nothing can stand in for it
    ├── LeaseLostError               5   another worker holds the trial now
    ├── TrialError                   -   fails its trial: user code broke a rule of the loop
    │   └── StateError               -   tracked state that cannot be written or came back changed
    └── MissingExtraError            2   an optional dependency is not installed

    Interruption (BaseException)     -   ends user code without being an error of it
    └── Preempted                   75   the machine is being taken away; run again to continue

``TrialPruned`` derives from Optuna's class of that name and therefore lives where Optuna
may be imported: ``tunesafe.trial.endings``.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import ClassVar

__all__ = [
    "ChangeRefusedError",
    "DamagedError",
    "ExitCode",
    "Interruption",
    "LeaseLostError",
    "MissingExtraError",
    "Preempted",
    "SpecError",
    "StateError",
    "StorageError",
    "StudyChangedError",
    "TrialError",
    "TunesafeError",
    "a_or_an",
]


class ExitCode(IntEnum):
    """What a command's exit code means; stable and documented."""

    OK = 0
    """N trials ended, at least one complete; or nothing to do, or timed out."""
    FAILED = 1
    """Anything that has no code of its own."""
    USAGE = 2
    """The command line or the study file is wrong; nothing was started or created."""
    STORAGE = 3
    """The database cannot be used."""
    DAMAGED = 4
    """Asked-for state is damaged and nothing can stand in for it."""
    LEASE_LOST = 5
    """Every worker lost its lease."""
    USER_CODE = 6
    """``max_failures`` exceptions in a row, or no trial completed and all raised."""
    INTERRUPTED = 75
    """Interrupted; the same command continues."""


class TunesafeError(Exception):
    """Base of every error raised on purpose."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED


class SpecError(TunesafeError):
    """The study file, the command line, or something they name is wrong.

    Args:
        message: What is wrong, the value found, and the nearest right one.
        file: The file it stands in, as the user named it.
        line: Line in that file, 1-based.
        column: Column in that line, 1-based.
        key: The study file's key it is about, as ``--set`` writes it, where the place is not known.
    """

    exit_code = ExitCode.USAGE

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
        key: str | None = None,
    ) -> None:
        self.message, self.file, self.line, self.column, self.key = message, file, line, column, key
        place = ":".join(str(part) for part in (file, line, column) if part is not None) or (key or "")
        super().__init__(f"{place}: {message}" if place else message)


class ChangeRefusedError(SpecError):
    """A change that would make finished trials mean something else; carries the diff in its message."""


class StudyChangedError(SpecError):
    """Another command changed the study while this worker ran; a new worker goes on with what is there now."""


class MissingExtraError(TunesafeError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    exit_code = ExitCode.USAGE


class StorageError(TunesafeError):
    """The database cannot be reached, opened or written."""

    exit_code = ExitCode.STORAGE


class DamagedError(TunesafeError):
    """Stored bytes do not match their hash, or are missing."""

    exit_code = ExitCode.DAMAGED


class LeaseLostError(TunesafeError):
    """Another worker has claimed the trial; whatever this one writes is refused."""

    exit_code = ExitCode.LEASE_LOST


class TrialError(TunesafeError):
    """User code broke a rule of the training loop; its trial fails with this message."""


class StateError(TrialError):
    """A tracked object holds something that cannot be stored, or came back different."""


class Interruption(BaseException):
    """Ends user code from outside. Not an ``Exception``: ``except Exception`` must not swallow it."""


class Preempted(Interruption):
    """The machine is being taken away (a signal, a timeout). State is saved; run again to continue.

    Args:
        reason: What asked for it, for the event and the last line on the terminal.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def a_or_an(noun: str) -> str:
    """A name in a message with its article, as it is spoken.

    Example:
        >>> [a_or_an(noun) for noun in ("int", "list", "uint8", "OneCycleLR", "UnknownThing")]
        ['an int', 'a list', 'a uint8', 'a OneCycleLR', 'an UnknownThing']
    """
    return f"{'an' if re.match('(?!one|eu)[aeio]|un(?!i)|nd', noun, re.IGNORECASE) else 'a'} {noun}"
