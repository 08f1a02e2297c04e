"""Training time, counted in examples.

A trial's one clock is the number of training examples it has consumed. Which batches are
still to come, where the virtual epoch ends and when an optimizer step is due is arithmetic
on that integer, so a resumed trial continues in constant time and replays nothing.

Pure: no I/O, no torch, no wall time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from tunesafe.contracts import Position
from tunesafe.errors import SpecError, TrialError

__all__ = ["Batch", "Batching", "Plan", "boundary"]

Batching = Literal["exact", "whole"]
"""``exact``: batches end on every boundary. ``whole``: full batches, boundaries reached by the first to cross them."""

_AHEAD = 256


def boundary(total: int, virtual_epochs: int, k: int) -> int:
    """Where virtual epoch ``k`` of a trial ends [examples]; ``k = 0`` is the trial's start.

    Example:
        >>> [boundary(total=10, virtual_epochs=3, k=k) for k in range(4)]
        [0, 3, 6, 10]
    """
    return k * total // virtual_epochs


class Batch(NamedTuple):
    """One batch to train on.

    Args:
        start: Position of its first example in the endless stream [examples].
        size: Its length [examples].
        virtual_epoch: The virtual epoch it belongs to, 1-based.
        step_due: Whether the optimizer steps after it; False inside an accumulation.
        loss_scale: What to multiply its mean loss by, so that the sum over a step is the mean over the step's examples.
        ends_epoch: Whether it is the last of its virtual epoch.
    """

    start: int
    size: int
    virtual_epoch: int
    step_due: bool
    loss_scale: float
    ends_epoch: bool


class _Steps(NamedTuple):
    """The optimizer steps of one virtual epoch: ``num_full`` of ``step`` examples, then those in ``last``."""

    start: int
    step: int
    num_full: int
    last: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.start + self.num_full * self.step + sum(self.last)

    def from_(self, position: int) -> Iterator[int] | None:
        """Sizes of the steps from ``position`` on, or None where no step starts."""
        done, inside = divmod(position - self.start, self.step)
        if done < self.num_full:
            return None if inside else self._sizes(self.num_full - done, self.last)
        left = self.end - position
        for count in range(len(self.last) + 1):
            if sum(self.last[count:]) == left:
                return self._sizes(0, self.last[count:])
        return None

    def _sizes(self, num_full: int, last: tuple[int, ...]) -> Iterator[int]:
        for _ in range(num_full):
            yield self.step
        yield from last


@dataclass(frozen=True, slots=True)
class Plan:
    """Every batch of one trial, computed rather than stored.

    With ``batching="exact"`` a virtual epoch is full steps up to its boundary; a remainder is
    evened out over the last two, and joins the last where it would leave a step of one example.
    With ``"whole"`` every step is full, a virtual epoch ends with the first step that reaches
    its boundary (it may have none of its own), and the trial's last step is cut at ``total``.

    A step of S examples is ``accumulate`` batches, or as many of at most ``batch_size`` as it
    needs, their sizes differing by at most one, larger ones first. (One batch fewer where
    ``batch_size`` is 2 and an odd step would leave a batch of one, which BatchNorm refuses.)

    Args:
        total: Length of the whole trial [examples], at least 1.
        virtual_epochs: Boundaries in it, ``1 <= virtual_epochs <= total``.
        batch_size: Length of a full batch [examples], at least 1.
        batching: ``"exact"`` or ``"whole"``.
        accumulate: Batches in an optimizer step, at least 1.

    Raises:
        SpecError: If a size is out of range; the message echoes it.

    Example:
        >>> plan = Plan(total=103, virtual_epochs=2, batch_size=20)
        >>> [batch.size for batch in plan.epoch_batches(Position(0, 0))]
        [20, 16, 15]
    """

    total: int
    virtual_epochs: int
    batch_size: int
    batching: Batching = "exact"
    accumulate: int = 1

    def __post_init__(self) -> None:
        units = {
            "total": "examples",
            "virtual_epochs": "virtual epochs",
            "batch_size": "examples",
            "accumulate": "batches",
        }
        for name, word in units.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise SpecError(f"{name} is {value!r}; it counts {word} and must be an integer.")
            if value < 1:
                raise SpecError(f"{name} is {value} {word}; it must be at least 1.")
        if self.virtual_epochs > self.total:
            raise SpecError(
                f"{self.virtual_epochs} virtual epochs do not fit into a trial of {self.total} examples: each needs "
                f"at least one. Ask for at most {self.total} virtual epochs, or for a larger budget."
            )
        if self.batching not in ("exact", "whole"):
            raise SpecError(f"batching is {self.batching!r}; it must be 'exact' or 'whole'.")

    @property
    def step_size(self) -> int:
        """Length of a full optimizer step [examples]."""
        return self.batch_size * self.accumulate

    @property
    def small_epochs(self) -> bool:
        """Whether some virtual epoch is shorter than a full step: worth telling the user once."""
        return self.total // self.virtual_epochs < self.step_size

    def epoch_end(self, position: Position) -> int:
        """Where the batches of the current virtual epoch end [examples]; ``total`` after the last.

        Raises:
            TrialError: If ``position`` is not one of this plan.
        """
        return self._end(min(self._checked(position).virtual_epoch + 1, self.virtual_epochs))

    def epoch_batches(self, position: Position) -> Iterator[Batch]:
        """The batches left in the current virtual epoch; none after the last virtual epoch.

        Args:
            position: Any point at which an optimizer step starts, in the virtual epoch of that point.

        Raises:
            TrialError: If no step of this plan starts there.
        """
        self._checked(position)
        if position.virtual_epoch == self.virtual_epochs:
            return iter(())
        steps = self._steps(position.virtual_epoch + 1)
        sizes = steps.from_(position.examples_seen)
        if sizes is None:
            raise self._misplaced(position, "no optimizer step starts there")
        return _ahead(self._split(sizes, position.examples_seen, steps.end, position.virtual_epoch + 1))

    def batches(self, position: Position) -> Iterator[Batch]:
        """The batches left in the whole trial, over all its remaining virtual epochs.

        Raises:
            TrialError: If no step of this plan starts at ``position``.
        """
        first = self.epoch_batches(position)
        return _ahead(self._chain(first, position.virtual_epoch + 1))

    def _chain(self, first: Iterator[Batch], done: int) -> Iterator[Batch]:
        yield from first
        for k in range(done, self.virtual_epochs):
            yield from self.epoch_batches(Position(self._end(k), k))

    def _split(self, sizes: Iterator[int], start: int, end: int, virtual_epoch: int) -> Iterator[Batch]:
        full, accumulate = self.step_size, self.accumulate
        for step in sizes:
            count = accumulate if step == full else self._num_batches(step)
            if count == 1:
                yield Batch(start, step, virtual_epoch, True, 1.0, start + step == end)
                start += step
                continue
            small, larger = divmod(step, count)
            for i in range(count):
                size = small + (i < larger)
                due = i == count - 1
                yield Batch(start, size, virtual_epoch, due, size / step, due and start + size == end)
                start += size

    def _num_batches(self, step: int) -> int:
        count = -(-step // self.batch_size)
        return count - 1 if self.batch_size == 2 and step % 2 and count > 1 else count

    def _end(self, k: int) -> int:
        """Where the batches of virtual epoch ``k`` end, and those of the next begin."""
        end = boundary(self.total, self.virtual_epochs, k)
        if self.batching == "whole":
            end = min(-(-end // self.step_size) * self.step_size, self.total)
        return end

    def _steps(self, virtual_epoch: int) -> _Steps:
        start, end, step = self._end(virtual_epoch - 1), self._end(virtual_epoch), self.step_size
        num_full, rest = divmod(end - start, step)
        last: tuple[int, ...] = (rest,) if rest else ()
        if rest and num_full and self.batching == "exact":
            num_full, both = num_full - 1, step + rest
            last = (both,) if both // 2 == 1 else (both - both // 2, both // 2)
        return _Steps(start, step, num_full, last)

    def _checked(self, position: Position) -> Position:
        if not 0 <= position.virtual_epoch <= self.virtual_epochs:
            raise self._misplaced(position, f"there are {self.virtual_epochs} virtual epochs")
        start, end = self._end(position.virtual_epoch), self._end(min(position.virtual_epoch + 1, self.virtual_epochs))
        if not start <= position.examples_seen <= end:
            raise self._misplaced(position, f"that virtual epoch goes from example {start} to {end}")
        return position

    def _misplaced(self, position: Position, why: str) -> TrialError:
        return TrialError(
            f"Training cannot continue at example {position.examples_seen} after {position.virtual_epoch} virtual "
            f"epochs: {why} ({self}). The checkpoint is untouched. This happens when the batch size, accumulation or "
            f"budget of a trial is changed after it has begun; change it back, or start the study under a new name."
        )


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, computed some hundreds at a time: one by one, between training steps, each costs several µs."""
    while some := list(islice(batches, _AHEAD)):
        yield from some
