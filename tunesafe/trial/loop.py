"""The training loop's course: virtual epochs, their batches, and what happens between them.

``Loop.epochs`` is the generator a user iterates. Everything it does beside giving batches
happens at two kinds of point: after an optimizer step (leave in order, save inside a
virtual epoch) and at a boundary (check the rules, save, leave in order).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tunesafe.clock import Batch, Plan
from tunesafe.contracts import Position
from tunesafe.errors import Preempted, TrialError
from tunesafe.failpoints import failpoint
from tunesafe.trial.checkpointer import Checkpointer
from tunesafe.trial.endings import Latch
from tunesafe.trial.epoch import Epoch
from tunesafe.trial.memory import Memory
from tunesafe.trial.preemption import SignalWatch, can_finish
from tunesafe.trial.services import TrialServices
from tunesafe.trial.settings import TrialSettings
from tunesafe.trial.triggers import due_at_boundary, due_at_step

__all__ = ["Loop"]


class Loop:
    """One attempt's way through its remaining virtual epochs.

    Args:
        plan: Every batch of the trial.
        data: The remaining batches of the whole trial, in the plan's order.
        position: Where this attempt starts.
        memory: What is captured and restored.
        checkpointer: Who does it.
        settings: When.
        services: Asked per batch whether to leave.
        signals: The other reason to leave.
        latch: What ends the trial for good.
        now: A monotonic clock [s].
    """

    def __init__(
        self,
        plan: Plan,
        data: Iterator[Any],
        position: Position,
        memory: Memory,
        checkpointer: Checkpointer,
        settings: TrialSettings,
        services: TrialServices,
        signals: SignalWatch,
        latch: Latch,
        now: Callable[[], float],
    ) -> None:
        self.plan, self.examples_seen, self.virtual_epoch = plan, position.examples_seen, position.virtual_epoch
        self.epoch: Epoch | None = None
        self.improved = False
        self._data, self._memory, self._checkpointer = data, memory, checkpointer
        self._settings, self._cadence = settings, settings.cadence
        self._mid_epoch = settings.checkpoint.mid_epoch
        self._interruption, self._signals, self._latch, self._now = services.interruption, signals, latch, now
        self._reason: str | None = None
        self._asked_at = 0.0
        self._entered = (0.0, 0)
        self._exhausted_at = 0.0
        self._boundary_seconds = 0.0

    @property
    def position(self) -> Position:
        """Where the trial is, in completed virtual epochs and consumed examples."""
        return Position(self.examples_seen, self.virtual_epoch)

    @property
    def ended(self) -> bool:
        """Whether no virtual epoch is left to train, and the last one has reported."""
        notes = self._memory.notes
        return notes.stopped is not None or self.plan.virtual_epochs in notes.history

    def epochs(self) -> Iterator[Epoch]:
        """The remaining virtual epochs. The state is restored when the first is asked for."""
        with self._latch.holding():
            restore_generators = self._checkpointer.restore(self._memory)
            inside = self._memory.notes.inside
            self._memory.notes.total = self.plan.total
        while not self.ended:
            with self._latch.holding():
                epoch = self._enter(resumed=inside, first=restore_generators if inside else _nothing)
            inside = False
            yield epoch
            if self._latch.pruned:
                return
            with self._latch.holding():
                self.leave("The next virtual epoch was asked for")
                if not self.ended:
                    self._at_boundary()

    def _enter(self, *, resumed: bool, first: Callable[[], None]) -> Epoch:
        if not resumed:
            self._memory.means.clear()
        self._exhausted_at = self._now()  # for a virtual epoch without batches
        self._entered = self._exhausted_at, self.examples_seen
        self.improved = False
        self._checkpointer.batch_begins()
        self.epoch = Epoch(
            self.virtual_epoch + 1,
            self.plan.epoch_batches(self.position),
            self._data,
            num_batches=partial(_count, self.plan, self.position),
            resumed=resumed,
            before=self._schedule if self._memory.schedules else None,
            consumed=self._consumed,
            first=first,
            latch=self._latch,
        )
        return self.epoch

    # ------------------------------------------------------------------ inside a virtual epoch

    def _schedule(self, batch: Batch) -> None:
        for schedule in self._memory.schedules:
            schedule.apply(batch.start / self.plan.total)

    def _consumed(self, batch: Batch) -> None:
        self.examples_seen = batch.start + batch.size
        failpoint("train.batch")
        if self._cadence.auto:
            self._checkpointer.batch_ends(batch.size)
        if batch.ends_epoch:
            self._exhausted_at = self._now()
        reason = self._reason or self._asked_to_leave()
        if reason is not None:
            self._leave_in_order(reason, batch)
        elif self._mid_epoch and batch.step_due and not batch.ends_epoch and self._due_here():
            self._save(inside=True)

    def _due_here(self) -> bool:
        return due_at_step(self._cadence, self.examples_seen, self._checkpointer.since_newest())

    def _asked_to_leave(self) -> str | None:
        """Why the loop is to leave, if it is; once asked, it will."""
        reason = self._signals.reason or self._interruption()
        if reason is not None:
            since = self._signals.since
            self._reason, self._asked_at = reason, self._now() if since is None else since
        return reason

    def _leave_in_order(self, reason: str, batch: Batch) -> None:
        """Leave now, after saving if that is allowed here; or go on to the boundary if there is time."""
        if self._signals.urgent:
            raise Preempted(reason)
        now, (since, start) = self._now(), self._entered
        if self._mid_epoch:
            # After its last batch the report comes first: what user code holds in plain variables is for it.
            reports = batch.ends_epoch and can_finish(
                self._boundary_seconds, self._settings.grace_seconds, now - self._asked_at
            )
            if batch.step_due and not reports:
                self._save(inside=True)
                raise Preempted(reason)
            return
        left = self.plan.epoch_end(self.position) - self.examples_seen
        expected = (now - since) / (self.examples_seen - start) * left + self._boundary_seconds
        if not can_finish(expected, self._settings.grace_seconds, now - self._asked_at):
            raise Preempted(reason)

    # ------------------------------------------------------------------ between virtual epochs

    def require_exhausted(self, what: str) -> None:
        """Check that the open virtual epoch's batches are consumed.

        Args:
            what: What has come too early if they are not.

        Raises:
            TrialError: If batches are left.
        """
        epoch, end = self.epoch, self.plan.epoch_end(self.position)
        if epoch is None or self.examples_seen >= end:
            return
        where = f"at example {self.examples_seen:,}, before its end at {end:,}"
        if epoch.left_early:
            raise TrialError(
                f"The batch loop of virtual epoch {epoch.index} was left early, {where}. Every trial consumes its "
                f"whole budget: do not break out of the batch loop; to end early, call trial.stop() after a report."
            )
        if not epoch.begun:
            raise TrialError(
                f"{what} in virtual epoch {epoch.index} came {where}: its batches were not iterated at all. "
                f"Iterate the epoch: for batch in epoch."
            )
        raise TrialError(
            f"{what} in virtual epoch {epoch.index} came too early, {where}. "
            f"It belongs after the batch loop, once the loop has ended by itself."
        )

    def leave(self, what: str) -> None:
        """Complete the open virtual epoch, if there is one.

        Raises:
            TrialError: If batches are left, or there was no report.
        """
        epoch = self.epoch
        if epoch is None:
            return
        self.require_exhausted(what)
        if epoch.index not in self._memory.notes.history:
            raise TrialError(
                f"{what}, but virtual epoch {epoch.index} had no trial.report(). "
                f"Report once in every virtual epoch, after its batches."
            )
        self.virtual_epoch += 1
        self.epoch = None

    def _at_boundary(self) -> None:
        reason = self._reason or self._asked_to_leave()
        due = due_at_boundary(
            self._cadence,
            self.virtual_epoch,
            self.examples_seen,
            self._checkpointer.since_newest(),
            improved=self.improved,
            selects_best=self._settings.selects_best,
        )
        if due or reason is not None:
            self._save(inside=False)
        if reason is not None:
            raise Preempted(reason)
        self._boundary_seconds = self._now() - self._exhausted_at

    def finish(self) -> None:
        """Check that user code was right to return, and save the trial's final state.

        Raises:
            TrialError: If virtual epochs are left, or a rule was broken in the last one.
        """
        self.leave("User code returned")
        if not self.ended:
            raise TrialError(
                f"User code returned after {self.virtual_epoch} of {self.plan.virtual_epochs} virtual epochs. Train "
                f"all that trial.virtual_epochs() gives; to end a trial early on purpose, call trial.stop(reason)."
            )
        self._memory.notes.returned = True
        self._save(inside=False)

    def _save(self, *, inside: bool) -> None:
        self._memory.notes.inside = inside
        self._checkpointer.save(self.position, self._memory)


def _count(plan: Plan, position: Position) -> int:
    return sum(1 for _ in plan.epoch_batches(position))


def _nothing() -> None:
    """Stand in for what is to be done before the first batch."""
