"""Who judges in a study: its sampler, its pruner, early stopping."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from tunesafe.contracts import Verdict
from tunesafe.schedulers.early_stopping import should_stop
from tunesafe.schedulers.pruning import build_pruner
from tunesafe.schedulers.pruning import judge as ask_pruner
from tunesafe.spec import StudySpec
from tunesafe.study.ledger import Decision, Judge
from tunesafe.study.sampling import SeededSampler, build_sampler
from tunesafe.study.suggest import distributions
from tunesafe.trackers import check_trackers

__all__ = ["judge_of", "judges"]


def judges(spec: StudySpec) -> tuple[SeededSampler, BasePruner]:
    """The sampler and the pruner a study file asks for.

    Raises:
        SpecError: At the place in the file, for an option that does not exist or does not fit.
        MissingExtraError: If one needs a library that is not installed.
    """
    with spec.placing():
        check_trackers(spec.trackers)
        return (
            build_sampler(spec.sampler.name, spec.sampler.options, seed=spec.seed, search_space=distributions(spec)),
            build_pruner(spec.pruner.name, spec.pruner.options, max_resource=spec.budget.virtual_epochs),
        )


def judge_of(spec: StudySpec) -> Judge:
    """How reports of a study are judged: the pruner first, then early stopping."""

    def judge(study: optuna.Study, trial: FrozenTrial, values: Sequence[float]) -> Decision:
        pruning = ask_pruner(study, trial)
        if pruning.prune:
            return Decision(Verdict.PRUNE, pruning.writes)
        early = spec.early_stopping
        if early is not None and should_stop(
            values, direction=spec.objective.direction, patience=early.patience, min_delta=early.min_delta
        ):
            return Decision(Verdict.STOP, pruning.writes)
        return Decision(Verdict.CONTINUE, pruning.writes)

    return judge
