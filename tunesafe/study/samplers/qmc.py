"""Quasi-Monte Carlo points, counted by trial number.

Optuna counts the points of a sequence in a study attribute, before it uses them: a process
that dies in between skips one. The number of the trial is a counter nobody can lose.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import QMCSampler
from optuna.trial import FrozenTrial

__all__ = ["NumberedQMCSampler"]


class NumberedQMCSampler(QMCSampler):
    """Trial n takes point n - 1; trial 0, from which the space is learnt, is drawn independently."""

    _point = 0

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """One point of the sequence."""
        self._point = max(0, trial.number - 1)
        return super().sample_relative(study, trial, search_space)

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._point
