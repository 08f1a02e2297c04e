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


MAIN = {
    "random": ours("random"),
    "tpe": ours("tpe", n_startup_trials=0),
    "nsga-ii": ours("nsgaii", population_size=4),
    "cma-es": ours("cmaes", n_startup_trials=0),
}
OTHERS = {
    "tpe, univariate": ours("tpe", n_startup_trials=0, multivariate=False),
    "tpe, group": ours("tpe", n_startup_trials=0, multivariate=True, group=True),
    "nsga-iii": ours("nsgaiii", population_size=4),
    "qmc": ours("qmc"),
    "cma-es, margin": ours("cmaes", n_startup_trials=0, with_margin=True),
    "cma-es, separable": ours("cmaes", n_startup_trials=0, use_separable_cma=True),
    "cma-es, learning rate": ours("cmaes", n_startup_trials=0, lr_adapt=True),
    "gp": ours("gp", n_startup_trials=3),
}


def each(*names: str) -> Any:
    """A fixture that is each of these samplers in turn."""
    samplers = [(MAIN | OTHERS)[name] for name in names]
    return pytest.fixture(params=samplers, ids=names)(lambda self, request: request.param)


class TestMainSamplers(published.BasicSamplerTestCase):
    sampler = each(*MAIN)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Separable CMA-ES does not operate meaningfully")
class TestOtherSamplers(published.BasicSamplerTestCase):
    sampler = each(*OTHERS)


# These draw from a space that was not inferred first, which grouped TPE and the genetic samplers cannot do.
class TestJointDraws(published.RelativeSamplerTestCase):
    sampler = each("tpe")


@pytest.mark.slow
class TestOtherJointDraws(published.RelativeSamplerTestCase):
    sampler = each("qmc")


@pytest.mark.slow
class TestManyObjectives(published.MultiObjectiveSamplerTestCase):
    sampler = each("random", "tpe", "nsga-ii")


class TestOneObjective(published.SingleOnlySamplerTestCase):
    sampler = each("cma-es", "cma-es, margin", "cma-es, separable", "cma-es, learning rate")
