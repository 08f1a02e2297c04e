"""From the study file's ``sampler`` to the sampler a study uses.

Every sampler of Optuna's can be named, its options are its constructor's, and what comes out
suggests the same after a restart as before it (``samplers.seeded``).
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from optuna import samplers
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, nsgaii
from optuna.samplers.nsgaii import BaseCrossover, BaseMutation

from tunesafe.errors import SpecError
from tunesafe.options import (
    check_options,
    classes_of,
    construct,
    find_class,
    parameters_of,
    require,
    split_name,
    suggestion,
)
from tunesafe.seeds import derive
from tunesafe.study.samplers.cmaes import JsonCmaEsSampler
from tunesafe.study.samplers.finite import ReusableGridSampler, check_finite, check_value, grid_values
from tunesafe.study.samplers.qmc import NumberedQMCSampler
from tunesafe.study.samplers.seeded import Recipe, SeededSampler

__all__ = ["DEFAULT_SAMPLER", "SeededSampler", "build_sampler", "grid_size"]

DEFAULT_SAMPLER = "tpe"

_CLASSES = classes_of(samplers, BaseSampler, "Sampler")  # type: ignore[type-abstract]  # only a bound, never called
_SAMPLERS = ("base_sampler", "independent_sampler")
_OPERATORS: dict[str, tuple[type, str]] = {
    "crossover": (BaseCrossover, "Crossover"),
    "mutation": (BaseMutation, "Mutation"),
}
_OURS: dict[type[BaseSampler], type[BaseSampler]] = {
    samplers.CmaEsSampler: JsonCmaEsSampler,
    samplers.QMCSampler: NumberedQMCSampler,
}
_NEEDS = {
    samplers.CmaEsSampler: (("cmaes", "cmaes"),),
    samplers.GPSampler: (("scipy", "gp"), ("torch", "gp")),
    samplers.QMCSampler: (("scipy", "gp"),),
}
_REFUSED = {
    "seed": "the study's own seed is the one; remove this.",
    "restart_strategy": "Optuna ignores it since 4.4; remove this.",
    "inc_popsize": "Optuna ignores it since 4.4; remove this.",
}
_AT_LEAST = {"n_startup_trials": 0, "n_ei_candidates": 1, "popsize": 2, "population_size": 2}

_Maker = Callable[[int], Any]
"""Makes one argument of a sampler from the seed of a draw."""

_quiet = threading.Lock()


def build_sampler(
    name: str,
    options: Mapping[str, Any],
    *,
    seed: int,
    search_space: Mapping[str, BaseDistribution],
    where: str = "sampler",
) -> SeededSampler:
    """One of Optuna's samplers, made resumable.

    Args:
        name: Optuna's class name, or it without suffix, ignoring case and underscores.
        options: Arguments of its constructor; a nested sampler, crossover or mutation is itself
            a ``{name: …}``.
        seed: The study's seed.
        search_space: The study's parameters, constants left out, conditional ones included.
        where: The key path it stands at in the study file, for errors.

    Raises:
        SpecError: For an unknown name or option, a value it does not accept, or parameters it
            cannot search.
        MissingExtraError: If it needs a library that is not installed.

    Example:
        >>> build_sampler("tpe", {"n_startup_trials": 20}, seed=17, search_space={})
        SeededSampler(TPESampler, seed=17)
    """
    recipe = _recipe(where, name, options, derive(seed, "sampler"), search_space)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        recipe(0)
    return SeededSampler(_silently(recipe), seed=seed, search_space=search_space)


def grid_size(
    name: str, options: Mapping[str, Any], search_space: Mapping[str, BaseDistribution], *, where: str = "sampler"
) -> int | None:
    """How many points a grid has, so that a study can say it will end before ``n_trials``.

    Every combination counts, those of inactive conditional parameters too; brute force does
    not try these twice, so its size is not known beforehand.

    Returns:
        The number of points; ``None`` for every other sampler.

    Raises:
        SpecError: As ``build_sampler``.
    """
    if find_class(where, name, _CLASSES, "Sampler") is not samplers.GridSampler:
        return None
    return math.prod(len(values) for values in grid_values(where, search_space, options.get("search_space")).values())


def _silently(recipe: Recipe) -> Recipe:
    """Warnings about a sampler come once, when it is built, not for every trial."""

    def make(seed: int) -> BaseSampler:
        # Filters are the process's: two threads must not restore each other's.
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return recipe(seed)

    return make


def _recipe(
    where: str, name: str, options: Mapping[str, Any], study_seed: int, space: Mapping[str, BaseDistribution]
) -> Recipe:
    """Check a sampler's options once; what is returned makes it as often as needed."""
    cls = find_class(where, name, _CLASSES, "Sampler")
    check_options(where, cls, options, refused=_REFUSED, structured=[*_SAMPLERS, *_OPERATORS, *_CONVERTERS])
    for option, least in _AT_LEAST.items():
        if options.get(option) is not None and options[option] < least:
            raise SpecError(f"{options[option]} is less than {least}.", key=f"{where}.{option}")
    for module, extra in _NEEDS.get(cls, ()):
        require(f"{where}: {cls.__name__}", module, extra)
    if cls is samplers.GridSampler:
        values = grid_values(where, space, options.get("search_space"))
        return construct(where, ReusableGridSampler, {"search_space": values, "seed": study_seed}).at
    if cls is samplers.BruteForceSampler:
        check_finite(where, space)
    makers = {key: _maker(f"{where}.{key}", key, value, study_seed, space) for key, value in options.items()}
    known = parameters_of(cls)
    if "seed" in known:
        makers["seed"] = _constant(study_seed) if cls is samplers.QMCSampler else _itself
    if "independent_sampler" in known:
        makers.setdefault("independent_sampler", samplers.RandomSampler)
        makers.setdefault("warn_independent_sampling", _constant(False))  # else a line for every trial

    def make(seed: int) -> BaseSampler:
        arguments = {key: maker(seed if key == "seed" else derive(seed, key)) for key, maker in makers.items()}
        return construct(where, _OURS.get(cls, cls), arguments)

    return make


def _maker(where: str, key: str, value: object, study_seed: int, space: Mapping[str, BaseDistribution]) -> _Maker:
    """What makes one argument of a sampler."""
    if value is None:
        return _constant(None)
    if key in _SAMPLERS:
        return _recipe(where, *split_name(where, value), study_seed, space)
    if key in _OPERATORS:
        return _operator(where, value, *_OPERATORS[key])
    if key in _CONVERTERS:
        return _constant(_CONVERTERS[key](where, value, space))
    return _constant(value)


def _constant(value: object) -> _Maker:
    return lambda _: value


def _itself(seed: int) -> int:
    return seed


def _operator(where: str, value: object, base: type, suffix: str) -> _Maker:
    """A genetic operator; its generator is the sampler's."""
    name, options = split_name(where, value)
    cls: type = find_class(where, name, classes_of(nsgaii, base, suffix), suffix)
    check_options(where, cls, options, refused={}, structured=())
    return lambda _: construct(where, cls, options)


def _params(where: str, value: object, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Values by parameter name, each one its parameter can have."""
    if not isinstance(value, Mapping):
        raise SpecError(f"{value!r} is not a mapping from parameters to values.", key=where)
    for name, chosen in value.items():
        if name not in space:
            raise SpecError(f"there is no such parameter. {suggestion(name, space)}", key=f"{where}.{name}")
        check_value(f"{where}.{name}", space[name], chosen)
    return dict(value)


def _points(where: str, value: object, space: Mapping[str, BaseDistribution]) -> np.ndarray:
    """Reference points of NSGA-III: [points, objectives]."""
    try:
        points = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.ndim != 2:
        raise SpecError(f"{value!r} is not a list of points, each a list of numbers.", key=where)
    return points


_CONVERTERS: dict[str, Callable[[str, object, Mapping[str, BaseDistribution]], Any]] = {
    "fixed_params": _params,
    "reference_points": _points,
    "search_space": lambda where, value, space: value,
    "x0": _params,
}
