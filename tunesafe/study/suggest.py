"""Drawing a trial's parameters through Optuna, condition by condition.

Constants are the user's, not Optuna's; a parameter whose ``when`` does not hold is absent
from both. The order is the study file's, parents first, so a draw that was cut off goes on
where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from tunesafe.contracts import Parameter
from tunesafe.failpoints import failpoint
from tunesafe.spec import (
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    Searched,
    StudySpec,
    holds,
    sampling_order,
)

__all__ = ["distribution", "distributions", "draw"]


def distribution(parameter: Searched) -> BaseDistribution:
    """Optuna's form of one searched parameter."""
    match parameter:
        case FloatParameter():
            return FloatDistribution(parameter.low, parameter.highest, log=parameter.log, step=parameter.step)
        case IntParameter():
            return IntDistribution(parameter.low, parameter.highest, log=parameter.log, step=parameter.step)
        case CategoricalParameter():
            return CategoricalDistribution(parameter.choices)


def distributions(spec: StudySpec) -> dict[str, BaseDistribution]:
    """Optuna's form of all searched parameters, in the order they are drawn."""
    return {name: distribution(_searched(spec, name)) for name in sampling_order(spec.parameters)}


def draw(
    study: optuna.Study,
    trial_id: int,
    number: int,
    spec: StudySpec,
    space: Mapping[str, BaseDistribution],
) -> dict[str, Parameter]:
    """All parameters of one trial, in file order; set ones are kept, missing ones are drawn.

    Args:
        study: With sampler, pruner and a storage whose writes are fenced.
        trial_id: Optuna's id of a running trial.
        number: Its number: the first ones take ``initial_trials``.
        spec: The study file.
        space: From :func:`distributions`.
    """
    if fixed := spec.initial_params(number):
        study._storage.set_trial_system_attr(trial_id, "fixed_params", fixed)
    trial = Trial(study, trial_id)
    params = {name: value for name, value in spec.parameters.items() if not isinstance(value, Searched)}
    for name, bounds in space.items():
        if holds(_searched(spec, name).when, params):
            params[name] = _suggest(trial, name, bounds)
            failpoint("sample.parameter")
    return {name: params[name] for name in spec.parameters if name in params}


def _suggest(trial: Trial, name: str, bounds: BaseDistribution) -> Parameter:
    match bounds:
        case FloatDistribution():
            return trial.suggest_float(name, bounds.low, bounds.high, log=bounds.log, step=bounds.step)
        case IntDistribution():
            return trial.suggest_int(name, bounds.low, bounds.high, log=bounds.log, step=bounds.step)
        case CategoricalDistribution():
            return trial.suggest_categorical(name, bounds.choices)
        case _:
            raise AssertionError(f"no parameter has the distribution {bounds}")


def _searched(spec: StudySpec, name: str) -> Searched:
    parameter = spec.parameters[name]
    assert isinstance(parameter, Searched)
    return parameter
