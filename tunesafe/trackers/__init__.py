"""Where metrics also go while a study runs, for people who watch. Never read back.

A tracker is a convenience: what counts is in the records. After a resumption it is told
where training continues, so that a curve has no second branch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from tunesafe.errors import SpecError
from tunesafe.trackers.tensorboard import TensorBoardTracker

__all__ = ["TRACKERS", "Tracker", "Trackers", "check_trackers"]


class Tracker(Protocol):
    """One place metrics go to, for one attempt at one trial."""

    def log(self, values: Mapping[str, float], examples_seen: int) -> None:
        """Add points to curves over examples."""

    def close(self) -> None:
        """Write what is pending."""


TRACKERS: Mapping[str, Callable[[Path, int, int], Tracker]] = {"tensorboard": TensorBoardTracker}
"""By name: made of the folder beside the database, the trial's number, and where it continues [examples]."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse names there are no trackers of.

    Raises:
        SpecError: Names the ones there are.
    """
    for index, name in enumerate(names):
        if name not in TRACKERS:
            raise SpecError(f"there is no tracker {name!r}; there are: {', '.join(TRACKERS)}", key=f"trackers.{index}")


class Trackers:
    """All trackers of one attempt; opened when there is something to say.

    Args:
        names: From the study file.
        folder: Where they keep files.
        number: The trial.
    """

    def __init__(self, names: Sequence[str], folder: Path, number: int) -> None:
        self._names, self._folder, self._number = names, folder, number
        self._open: list[Tracker] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def log(self, values: Mapping[str, float], examples_seen: int) -> None:
        """Pass values on to every tracker."""
        if self._open is None:
            self._open = [TRACKERS[name](self._folder, self._number, examples_seen) for name in self._names]
            for tracker in self._open:
                self._stack.callback(tracker.close)
        for tracker in self._open:
            tracker.log(values, examples_seen)
