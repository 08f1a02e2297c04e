"""Optuna's own published tests of samplers, run on ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing import pytest_samplers as published

from tunesafe.study.sampling import build_sampler

optuna.logging.set_verbosity(optuna.logging.ERROR)


def ours(name: str, **options: Any) -> Callable[[], BaseSampler]:
    """Makes one of our samplers, as Optuna's tests want it."""
    return lambda: build_sampler(name, options, seed=0, search_space={})


ANY = {
    "random": ours("random"),
    "tpe": ours("tpe", n_startup_trials=0),
    "nsga-ii": ours("nsgaii", population_size=4),
    "nsga-iii": ours("nsgaiii", population_size=4),
    "qmc": ours("qmc"),
}
CMAES = {
    "cma-es": ours("cmaes", n_startup_trials=0),
    "cma-es, margin": ours("cmaes", n_startup_trials=0, with_margin=True),
}
VARIANTS = {
    "tpe, univariate": ours("tpe", n_startup_trials=0, multivariate=False),
    "tpe, group": ours("tpe", n_startup_trials=0, multivariate=True, group=True),
    "cma-es, separable": ours("cmaes", n_startup_trials=0, use_separable_cma=True),
    "cma-es, learning rate": ours("cmaes", n_startup_trials=0, lr_adapt=True),
    "gp": ours("gp", n_startup_trials=3),
}


def each(samplers: dict[str, Callable[[], BaseSampler]]) -> Any:
    """A fixture that is each of them in turn."""
    return pytest.fixture(params=samplers.values(), ids=samplers.keys())(lambda self, request: request.param)


class TestEverySampler(published.BasicSamplerTestCase):
    sampler = each(ANY | CMAES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Separable CMA-ES does not operate meaningfully")
class TestEveryVariant(published.BasicSamplerTestCase):
    sampler = each(VARIANTS)


class TestJointDraws(published.RelativeSamplerTestCase):
    sampler = each({name: ANY[name] for name in ("tpe", "qmc")})

    # They draw from a space without inferring it first, which grouped TPE and the genetic samplers cannot do.


class TestManyObjectives(published.MultiObjectiveSamplerTestCase):
    sampler = each({name: ANY[name] for name in ("random", "tpe", "nsga-ii", "nsga-iii", "qmc")})


class TestOneObjective(published.SingleOnlySamplerTestCase):
    sampler = each(CMAES)
