"""Grids: which points there are, and one order of them for the whole study.

Grid and brute-force search need parameters with finitely many values; this is where the
values of a parameter are counted.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import GridSampler, RandomSampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.trial import FrozenTrial, TrialState

from tunesafe.contracts import Parameter
from tunesafe.errors import SpecError
from tunesafe.options import suggestion

__all__ = ["ReusableGridSampler", "check_finite", "check_value", "grid_values"]

_MOST_POINTS = 1_000_000
_MOST_BYTES = 60_000  # Optuna writes the lists into an attribute of every trial: 64 KB on MySQL


def _num_values(distribution: BaseDistribution) -> float:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return len(choices)
        case IntDistribution() | FloatDistribution() if distribution.single():
            return 1
        case IntDistribution(low=low, high=high, step=step):
            return (high - low) // step + 1
        case FloatDistribution(low=low, high=high, step=float(step)):
            return int((Decimal(str(high)) - Decimal(str(low))) / Decimal(str(step))) + 1
    return math.inf


def check_finite(where: str, search_space: Mapping[str, BaseDistribution]) -> None:
    """Make sure every parameter has finitely many values.

    Raises:
        SpecError: Naming the first that has not.
    """
    for name, distribution in search_space.items():
        if math.isinf(_num_values(distribution)):
            raise SpecError(
                f"parameter {name!r} has infinitely many values. "
                "Give it a step, make it categorical with choices, or use another sampler.",
                key=where,
            )


def _values(distribution: BaseDistribution) -> list[Parameter]:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return list(choices)
        case IntDistribution(low=low, high=high, step=step):
            return list(range(low, high + 1, step))
        case FloatDistribution(low=low, step=step):
            start, width = Decimal(str(low)), Decimal(str(step or 0))
            return [float(start + i * width) for i in range(int(_num_values(distribution)))]
    raise AssertionError(f"unknown distribution {distribution!r}")


def grid_values(
    where: str, search_space: Mapping[str, BaseDistribution], given: object = None
) -> dict[str, list[Parameter]]:
    """The values a grid tries, by parameter: the given list, else all the parameter has.

    Args:
        where: The sampler's key path, for errors.
        search_space: The study's parameters.
        given: The grid's ``search_space`` option: lists by parameter name.

    Raises:
        SpecError: For an unknown parameter, a value outside its range, a parameter with
            infinitely many values and no list, or a grid that is too large.
    """
    lists = _check_lists(f"{where}.search_space", search_space, given or {})
    rest = {name: distribution for name, distribution in search_space.items() if name not in lists}
    check_finite(where, rest)
    num_points = math.prod(len(values) for values in lists.values()) * math.prod(map(_num_values, rest.values()))
    if num_points > _MOST_POINTS:
        raise SpecError(f"the grid has {num_points:,.0f} points; at most {_MOST_POINTS:,} are possible.", key=where)
    grid = {name: list(lists[name]) if name in lists else _values(search_space[name]) for name in search_space}
    if len(json.dumps(grid)) > _MOST_BYTES:
        raise SpecError(f"the grid's lists of values exceed {_MOST_BYTES:,} bytes. Give larger steps.", key=where)
    return grid


def _check_lists(
    where: str, search_space: Mapping[str, BaseDistribution], given: object
) -> Mapping[str, Sequence[Parameter]]:
    if not isinstance(given, Mapping):
        raise SpecError(f"{given!r} is not a mapping from parameters to lists of values.", key=where)
    for name, values in given.items():
        if name not in search_space:
            raise SpecError(f"there is no such parameter. {suggestion(name, search_space)}", key=f"{where}.{name}")
        if not isinstance(values, list | tuple) or not values:
            raise SpecError(f"{values!r} is not a list of values.", key=f"{where}.{name}")
        for value in values:
            check_value(f"{where}.{name}", search_space[name], value)
    return given


def check_value(where: str, distribution: BaseDistribution, value: Any) -> None:
    """Make sure a parameter can have a value.

    Raises:
        SpecError: If it cannot, with what it could be.
    """
    try:
        fits = distribution._contains(distribution.to_internal_repr(value))
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise SpecError(f"{value!r} is not a value of {distribution}.", key=where)


class ReusableGridSampler(GridSampler):
    """Optuna's grid, laid out once and used for every trial; trial n takes point n while there are any.

    A trial whose parameters are given (``initial_trials``) is not on the grid; what it leaves
    open is drawn at random.
    """

    def at(self, seed: int) -> ReusableGridSampler:
        """The same grid with another generator; sharing the points, which may be many."""
        grid = copy.copy(self)
        grid._rng = LazyRandomState(seed)
        return grid

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The parameter's value at the trial's point."""
        if "grid_id" not in trial.system_attrs:
            seed = int(self._rng.rng.randint(2**31))
            return RandomSampler(seed).sample_independent(study, trial, param_name, param_distribution)
        return super().sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Stop the study when no point is left."""
        left = set(self._get_unvisited_grid_ids(study))
        if left <= {study._storage.get_trial_system_attrs(trial._trial_id).get("grid_id")}:
            study.stop()
