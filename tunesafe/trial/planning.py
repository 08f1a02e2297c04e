"""From a budget and the length of the data to the plan of one trial's batches."""

from __future__ import annotations

from operator import index
from typing import Any

from tunesafe.clock import Plan
from tunesafe.contracts import Assignment
from tunesafe.errors import TrialError
from tunesafe.trial.memory import Notes
from tunesafe.trial.services import TrialServices
from tunesafe.trial.settings import TrialSettings

__all__ = ["settle_plan"]


def settle_plan(
    assignment: Assignment,
    settings: TrialSettings,
    services: TrialServices,
    stored: Notes | None,
    length: int,
    batch_size: Any,
    accumulate: int,
) -> Plan:
    """Settle the length of a pass, and with it every batch of the trial.

    Args:
        assignment: Which trial; its parameters may give the batch size.
        settings: The study's budget.
        services: Who settles lengths, and hears of virtual epochs smaller than a batch.
        stored: Notes of the checkpoint this attempt continues from.
        length: Length of the training set [examples].
        batch_size: Length of a batch [examples], or ``None`` for the parameter of that name.
        accumulate: Batches per optimizer step.

    Raises:
        SpecError: If the budget does not fit the data.
        TrialError: If a size is missing or out of range, or the checkpoint is of another budget.
    """
    budget = settings.budget
    if batch_size is None and "batch_size" not in assignment.params:
        raise TrialError(
            "trial.virtual_epochs() got no batch_size, and the study has no parameter of that name. "
            "Give one: trial.virtual_epochs(data, batch_size=…)."
        )
    size = _whole("batch_size", assignment.params["batch_size"] if batch_size is None else batch_size)
    accumulate = _whole("accumulate", accumulate)
    total = budget.total_examples(services.settle_examples_per_pass(length))
    plan = Plan(total, budget.virtual_epochs, size, budget.batching, accumulate)
    if stored is not None and stored.total != total:
        raise TrialError(
            f"The checkpoint of trial {assignment.number} is of a trial of {stored.total:,} examples, and the budget "
            f"now makes it {total:,}. The checkpoint is untouched. Change the budget back, or use a new study name."
        )
    if plan.small_epochs and stored is None and not assignment.records:
        services.event(
            "small_virtual_epochs", batch_size=size, accumulate=accumulate, examples=total // plan.virtual_epochs
        )
    return plan


def _whole(name: str, value: Any) -> int:
    """A size that user code gives; numpy's integers are whole numbers, too."""
    try:
        size = index(value)
    except TypeError:
        size = 0
    if size < 1 or isinstance(value, bool):
        raise TrialError(f"trial.virtual_epochs() got {name}={value!r}; it must be a whole number of at least 1.")
    return size
