"""The endings user code cannot be talked out of.

A verdict, a lost lease or a broken rule reaches user code as an exception, and user code
may swallow it. A latch keeps the first one: whatever the loop does next, the trial ends
the way it was going to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import optuna

from tunesafe.errors import DamagedError, Interruption, LeaseLostError, SpecError, StorageError, TrialError

__all__ = ["STICKY", "WITHOUT_OUTCOME", "Latch", "TrialPruned"]


class TrialPruned(optuna.TrialPruned):
    """The trial is pruned: let it pass, or clean up and leave.

    Derives from Optuna's class, so code written for Optuna keeps working. Swallowing it
    changes nothing: the loop ends, and the outcome is pruned.
    """


WITHOUT_OUTCOME = (Interruption, LeaseLostError, StorageError, DamagedError, SpecError)
"""Endings of the attempt, not of the trial: someone continues it later."""

STICKY = (*WITHOUT_OUTCOME, TrialPruned, TrialError)
"""What a latch holds on to; anything else is between user code and itself."""


class Latch:
    """Holds the first ending raised through it, and raises it again.

    Example:
        >>> latch = Latch()
        >>> try:
        ...     with latch.holding():
        ...         raise TrialError("reported twice")
        ... except Exception:
        ...     pass
        >>> latch.check()
        Traceback (most recent call last):
        tunesafe.errors.TrialError: reported twice
    """

    def __init__(self) -> None:
        self.ending: BaseException | None = None

    @property
    def pruned(self) -> bool:
        """Whether the ending held is a verdict."""
        return isinstance(self.ending, TrialPruned)

    def check(self) -> None:
        """Raise the ending held, if any."""
        if self.ending is not None:
            raise self.ending

    def hold(self, ending: BaseException) -> BaseException:
        """Keep an ending unless one is held already; returns the one to raise."""
        if self.ending is None:
            self.ending = ending
        return self.ending

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Raise what is held; then hold what the body raises."""
        self.check()
        with self.catching():
            yield

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Hold what the body raises, whatever is held already."""
        try:
            yield
        except STICKY as ending:
            self.hold(ending)
            raise
