"""What samplers and pruners see of past trials: as if their parameters had always been as they are now.

A change to the study that was accepted may have given a parameter another range. A parameter whose
range was widened keeps its place in the joint draw only if all past trials agree on its distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

__all__ = ["PastTrials"]


class PastTrials:
    """How trials look with the current distributions; a finished one is looked through once."""

    def __init__(self) -> None:
        self._current: Mapping[str, BaseDistribution] = {}
        self._shown: dict[int, FrozenTrial] = {}

    def show_with(self, distributions: Mapping[str, BaseDistribution]) -> None:
        """Set the current distributions."""
        if distributions != self._current:
            self._current = distributions
            self._shown.clear()

    def all_shown(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Trials as they look now; errors as ``shown``."""
        known = self._shown
        return [known.get(trial._trial_id) or self.shown(trial) for trial in trials]

    def shown(self, trial: FrozenTrial) -> FrozenTrial:
        """A trial as it looks now; not to be changed.

        Args:
            trial: As Optuna has stored it; it stays so.

        Raises:
            ValueError: If it has a value that is no number.
        """
        known = self._shown.get(trial._trial_id)
        if known is not None:
            return known
        measured = (*trial.intermediate_values.values(), *(trial._values or ()))
        if not all(isinstance(value, float) for value in measured):  # SQLite keeps whatever is put into a column
            raise ValueError(f"trial {trial.number} has a value that is no number")
        shown = trial
        if not all(_same(self._current.get(name, own), own) for name, own in trial.distributions.items()):
            shown = self._as_if_now(trial)
        if trial.state.is_finished():  # comparing thousands of trials' distributions takes longer than drawing
            self._shown[trial._trial_id] = shown
        return shown

    def _as_if_now(self, trial: FrozenTrial) -> FrozenTrial:
        shown, params = copy(trial), trial.params
        shown._distributions, shown.params = {}, {}
        for name, own in trial.distributions.items():
            current = self._current.get(name, own)
            if _fits(current, params[name]):
                shown._distributions[name], shown.params[name] = current, params[name]
            elif type(current) is type(own) and not isinstance(own, CategoricalDistribution):
                shown._distributions[name], shown.params[name] = own, params[name]
            # Else it is of a kind that the parameter no longer is: as if the trial had not had it.
        return shown


def _same(one: BaseDistribution, other: BaseDistribution) -> bool:
    # What is equal member by member is equal to Optuna, too, which compares choices one by one in Python.
    return one is other or (type(one) is type(other) and one.__dict__ == other.__dict__) or one == other


def _fits(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (TypeError, ValueError):
        return False
