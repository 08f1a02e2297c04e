"""What a study file says about every one of its trials, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field

from tunesafe.spec.budget import Budget
from tunesafe.spec.sections import Checkpoint, Objective
from tunesafe.trial.triggers import Cadence

__all__ = ["TrialSettings"]


@dataclass(frozen=True, slots=True)
class TrialSettings:
    """What is the same for all trials of a study.

    Args:
        budget: How long a trial trains, and its virtual epochs.
        objective: What is judged; ``None`` only where nothing is (a ``FixedTrial``).
        checkpoint: When state is saved.
        grace_seconds: Time from a preemption's announcement to the kill [s].
    """

    budget: Budget
    objective: Objective | None = None
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    grace_seconds: float = 90.0

    @property
    def cadence(self) -> Cadence:
        """How often to checkpoint."""
        every, kept = self.checkpoint.every, self.checkpoint.keep.every
        if every == "auto":
            return Cadence(virtual_epochs=None, auto=True, kept_virtual_epochs=kept)
        return Cadence(every.virtual_epochs, every.examples, every.seconds, kept_virtual_epochs=kept)

    @property
    def selects_best(self) -> bool:
        """Whether the best checkpoint of a trial stands for it."""
        return self.objective is not None and self.objective.select == "best"
