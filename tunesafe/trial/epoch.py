"""One virtual epoch: the batches between two boundaries.

The generator below is the hot loop of all training: per batch it costs a few Python
operations beside what the data and the user's step cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tunesafe.clock import Batch
from tunesafe.errors import TrialError
from tunesafe.trial.endings import STICKY, Latch

__all__ = ["Epoch"]


class Epoch:
    """Iterate it once, to the end: ``for batch in epoch``.

    A batch counts when the next one is asked for, so wrappers that look ahead
    (``list(epoch)``, ``zip(epoch, …)``) count batches that are not trained on yet.

    Attributes:
        index: Which virtual epoch, 1-based.
        resumed: Whether this attempt enters it part-way; only its remaining batches are given.
        step_due: Whether the optimizer should step after this batch.
        loss_scale: What to multiply this batch's mean loss by when accumulating.
        begun: Whether its batches have been asked for.
        left_early: Whether the batch loop was left before its end.
    """

    def __init__(
        self,
        index: int,
        batches: Iterator[Batch],
        data: Iterator[Any],
        *,
        num_batches: Callable[[], int],
        resumed: bool,
        before: Callable[[Batch], None] | None,
        consumed: Callable[[Batch], None],
        first: Callable[[], None],
        latch: Latch,
    ) -> None:
        self.index = index
        self.resumed = resumed
        self.step_due = True
        self.loss_scale = 1.0
        self.begun = False
        self._num_batches = num_batches
        self.left_early = False
        self._batches, self._data = batches, data
        self._before, self._consumed, self._first, self._latch = before, consumed, first, latch

    def __iter__(self) -> Iterator[Any]:
        with self._latch.holding():
            if self.begun:
                raise TrialError(
                    f"Virtual epoch {self.index} is iterated a second time; its batches come once. "
                    f"To look at the data again, iterate the data set itself."
                )
        self.begun = True
        # Not kept: leaving the loop by `break` then closes the generator, and is noticed.
        return self._train()

    def __len__(self) -> int:
        """Batches it gives, for progress bars."""
        return self._num_batches()

    def _train(self) -> Iterator[Any]:
        before, consumed, data = self._before, self._consumed, self._data
        try:
            self._first()
            for batch in self._batches:
                self.step_due, self.loss_scale = batch.step_due, batch.loss_scale
                if before is not None:
                    before(batch)
                yield next(data)
                consumed(batch)
        except GeneratorExit:
            self.left_early = True
            raise
        except STICKY as ending:
            self._latch.hold(ending)
            raise
