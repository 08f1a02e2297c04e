"""What checkpoints cost training: the loop's stall, and what the writing beside it takes from its steps.

Pure: measured times in, a cost out.
"""

from __future__ import annotations

__all__ = ["Costs"]

_MEMORY = 0.8
"""How much of what was measured counts still, after one more checkpoint."""


class Costs:
    """The cost of one checkpoint, from what the newest ones have cost.

    Two parts, both measured where they are felt, in the training loop:

    *stall*: the loop copies its state, or waits until the checkpoint before has been written.

    *drag*: while a checkpoint is being written, steps take longer: the writer hashes, holds Python's
    lock now and then, moves bytes through memory. The time of the batches during which one was in
    flight, less what as many examples take when none is:
    ``seconds_beside - examples_beside * seconds_alone / examples_alone``. Per example, because
    batches differ in size. As long as no batch was ever alone, all of the time beside counts.

    Not the processor time of the writer's thread: it waits for the disk
    most of the time, and takes nothing from training where a core is idle. What counts is how much
    later training ends.

    Example:
        >>> costs = Costs()
        >>> costs.trained(1.0, 100, beside=False)
        >>> costs.stalled(0.25)
        >>> costs.trained(1.5, 100, beside=True)
        >>> costs.of_one
        0.75
    """

    def __init__(self) -> None:
        self._num_checkpoints = self._stalls = 0.0
        self._alone = self._beside = (0.0, 0.0)

    @property
    def of_one(self) -> float:
        """What a checkpoint costs [s]; 0 while none was made."""
        return (self._stalls + self._drag()) / self._num_checkpoints if self._num_checkpoints else 0.0

    def stalled(self, seconds: float) -> None:
        """A checkpoint was captured; the loop stood still for so long [s]."""
        self._num_checkpoints = _MEMORY * self._num_checkpoints + 1.0
        self._stalls = _MEMORY * self._stalls + seconds
        self._alone, self._beside = (
            (_MEMORY * so_far, _MEMORY * examples) for so_far, examples in (self._alone, self._beside)
        )

    def trained(self, seconds: float, num_examples: int, *, beside: bool) -> None:
        """A batch was trained.

        Args:
            seconds: From the batch before to the end of this one [s].
            num_examples: Its length [examples].
            beside: Whether a checkpoint was being written meanwhile, at its beginning or at its end.
        """
        if beside:
            self._beside = self._beside[0] + seconds, self._beside[1] + num_examples
        else:
            self._alone = self._alone[0] + seconds, self._alone[1] + num_examples

    def _drag(self) -> float:
        (seconds, examples), (seconds_alone, examples_alone) = self._beside, self._alone
        expected = examples * seconds_alone / examples_alone if examples_alone else 0.0
        return max(0.0, seconds - expected)
