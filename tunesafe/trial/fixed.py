"""A trial without a study: the same interface for scripts, tests and notebooks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ValidationError

from tunesafe.contracts import (
    Assignment,
    CheckpointInfo,
    Judgement,
    Outcome,
    Parameter,
    Report,
    Snapshot,
    StoredState,
    Verdict,
)
from tunesafe.data.seeding import seed_everything
from tunesafe.errors import SpecError
from tunesafe.spec.budget import Budget
from tunesafe.spec.faults import faults_of
from tunesafe.spec.sections import Objective
from tunesafe.state.memory import aligned_buffer
from tunesafe.trial.context import Trial
from tunesafe.trial.outcomes import complete
from tunesafe.trial.settings import TrialSettings

__all__ = ["FixedTrial", "MemoryServices"]

_Model = TypeVar("_Model", bound=BaseModel)


class MemoryServices:
    """The world outside a trial, in memory: everything it hears is kept, nothing is pruned.

    Args:
        objective: Whose values count as improved or diverged, if any.

    Attributes:
        reports: By virtual epoch, ascending.
        judgements: The answers to them, by virtual epoch.
        snapshot: The newest checkpoint.
        logs: What was logged, as (examples seen, values).
        artifacts: Files that were to be kept; nothing is copied.
        events: As (kind, details).
        request: Why the trial should leave, if it should.
    """

    def __init__(self, objective: Objective | None = None) -> None:
        self.reports: list[Report] = []
        self.judgements: dict[int, Judgement] = {}
        self.snapshot: Snapshot | None = None
        self.logs: list[tuple[int, dict[str, float]]] = []
        self.artifacts: list[Path] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.request: str | None = None
        self._objective = objective

    def settle_examples_per_pass(self, num_examples: int) -> int:
        """Take the length of the data as it is."""
        return num_examples

    def newest_state(self) -> StoredState | None:
        """Read back a copy of the newest checkpoint."""
        snapshot = self.snapshot
        if snapshot is None:
            return None
        tensors = tuple(bytearray(tensor.data) for tensor in snapshot.tensors)
        info = CheckpointInfo(1, 0, snapshot.position, sum(map(len, tensors)), 0.0)
        return StoredState(info, snapshot.structure, tensors)

    def record(self, report: Report) -> Judgement:
        """Keep a report; a repeated one gets the earlier answer."""
        if report.virtual_epoch not in self.judgements:
            self.judgements[report.virtual_epoch] = self.judge(report)
            self.reports.append(report)
        return self.judgements[report.virtual_epoch]

    def judge(self, report: Report) -> Judgement:
        """Diverged or not, improved or not."""
        if self._objective is None:
            return Judgement(Verdict.CONTINUE, improved=False)
        metric, sign = self._objective.metric, 1.0 if self._objective.direction == "minimize" else -1.0
        value = sign * report.metrics[metric]
        if not math.isfinite(value):
            return Judgement(Verdict.DIVERGED, improved=False)
        improved = all(value < sign * earlier.metrics[metric] for earlier in self.reports)
        return Judgement(Verdict.CONTINUE, improved)

    def memory(self, num_bytes: int) -> memoryview:
        """New memory for every checkpoint: the newest is kept where it is."""
        return aligned_buffer(num_bytes)

    def save(self, snapshot: Snapshot) -> None:
        """Keep a checkpoint in place of the one before."""
        self.snapshot = snapshot

    def is_saving(self) -> bool:
        """Never: there is no disk."""
        return False

    def interruption(self) -> str | None:
        """Whatever ``request`` says."""
        return self.request

    def log(self, values: Mapping[str, float], examples_seen: int) -> None:
        """Keep logged values."""
        self.logs.append((examples_seen, dict(values)))

    def artifact(self, path: Path) -> None:
        """Keep a file's name."""
        self.artifacts.append(path)

    def event(self, kind: str, **details: Any) -> None:
        """Keep an event."""
        self.events.append((kind, details))


class FixedTrial(Trial):
    """A trial with given parameters, outside of any study.

    Python's, numpy's and torch's generators are seeded here, so a script that builds one
    and trains gives the same numbers every time. Nothing is pruned; an objective that is
    NaN or infinite ends the trial as in a study.

    Args:
        params: What ``trial.params`` shows.
        examples: Length of the trial [examples]; give this or ``passes``.
        passes: Length of the trial [passes over the data], default one; ``0.29`` of 100 examples is 29.
        virtual_epochs: How often it validates and reports.
        seed: Of the order of the data and the generators.
        metric: The objective's metric; reports must hold it if given.
        direction: Whether less or more of it is better.
        select: Which virtual epoch the outcome's value is of.
        batching: ``"exact"`` or ``"whole"``.
        number: What ``trial.number`` shows.
        device: What ``trial.device`` shows.

    Attributes:
        services: What the trial was told: reports, logs, events.

    Raises:
        SpecError: If an argument is out of range.

    Example:
        >>> def train(trial):
        ...     for epoch in trial.virtual_epochs((torch.arange(10.0),)):
        ...         total = sum(x.sum().item() for (x,) in epoch)
        ...         trial.report(total=total)
        >>> trial = FixedTrial({"batch_size": 4}, examples=20, virtual_epochs=2, metric="total")
        >>> train(trial)
        >>> trial.outcome.ending.value, trial.outcome.value
        ('complete', 45.0)
    """

    services: MemoryServices

    def __init__(
        self,
        params: Mapping[str, Parameter] | None = None,
        *,
        examples: int | None = None,
        passes: float | Decimal | None = None,
        virtual_epochs: int = 1,
        seed: int = 0,
        metric: str | None = None,
        direction: Literal["minimize", "maximize"] = "minimize",
        select: Literal["last", "best"] = "last",
        batching: Literal["exact", "whole"] = "exact",
        number: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        if examples is None and passes is None:
            passes = 1
        budget = {"examples": examples, "passes": passes, "virtual_epochs": virtual_epochs, "batching": batching}
        objective = None
        if metric is not None:
            objective = _checked(Objective, {"metric": metric, "direction": direction, "select": select})
        self.services = MemoryServices(objective)
        super().__init__(
            Assignment("fixed", number, attempt=1, seed=seed, params=dict(params or {})),
            TrialSettings(_checked(Budget, budget), objective),
            self.services,
            device=device,
        )
        seed_everything(seed)

    @property
    def reports(self) -> list[Report]:
        """What was reported so far."""
        return self.services.reports

    @property
    def outcome(self) -> Outcome | None:
        """How the trial ended; ``None`` while virtual epochs are left."""
        if self._outcome is None and self.ended:
            return complete(self)
        return self._outcome

    @outcome.setter
    def outcome(self, outcome: Outcome | None) -> None:
        self._outcome = outcome


def _checked(model: type[_Model], data: dict[str, Any]) -> _Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = "; ".join(f"{fault.sentence}" for fault in faults_of(error, data))
        raise SpecError(f"FixedTrial: {faults}.") from error
