"""Where metrics also go while a study runs, for people who watch. Never read back.

A tracker is a convenience: what counts is in the records. After a resumption it is told
where training continues, so that a curve has no second branch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from tunesafe.errors import MissingExtraError, SpecError
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


_NEEDS = {"tensorboard": "tensorboard"}
"""The package each tracker needs; the extra that brings it has the same name."""
_log = logging.getLogger(__name__)


def check_trackers(names: Sequence[str]) -> None:
    """Refuse names there are no trackers of, and trackers that cannot work here.

    Raises:
        SpecError: Names the ones there are.
        MissingExtraError: Names the extra that brings what is missing.
    """
    for index, name in enumerate(names):
        if name not in TRACKERS:
            raise SpecError(f"there is no tracker {name!r}; there are: {', '.join(TRACKERS)}", key=f"trackers.{index}")
        if find_spec(_NEEDS[name]) is None:
            raise MissingExtraError(
                f"trackers: [{name}] needs the package {_NEEDS[name]}, which is not installed. Nothing was started. "
                f"Install it: pip install 'tunesafe[{name}]', or take {name} out of the study file."
            )


class Trackers:
    """All trackers of one attempt; opened when there is something to say.

    One that fails (a full disk) is closed and says so in the log: no trial ends over it.

    Args:
        names: From the study file.
        folder: Where they keep files.
        number: The trial.
    """

    def __init__(self, names: Sequence[str], folder: Path, number: int) -> None:
        self._folder, self._number = folder, number
        self._waiting = tuple(names)
        self._open: dict[str, Tracker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in tuple(self._open):
            with self._harmlessly(name):
                self._open.pop(name).close()

    def log(self, values: Mapping[str, float], examples_seen: int) -> None:
        """Pass values on to every tracker."""
        for name in self._waiting:
            with self._harmlessly(name):
                self._open[name] = TRACKERS[name](self._folder, self._number, examples_seen)
        self._waiting = ()
        for name, tracker in tuple(self._open.items()):
            with self._harmlessly(name):
                tracker.log(values, examples_seen)

    @contextmanager
    def _harmlessly(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception:  # noqa: BLE001 - whatever a tracker's library raises; it is logged
            self._open.pop(name, None)
            _log.warning("tracker %s has failed; trial %d goes on without it", name, self._number, exc_info=True)
