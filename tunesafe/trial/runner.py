"""Runs user code on a trial, and says how the trial ended.

Whatever user code does with the exceptions it is given, the outcome is the one that was
due: the trial's latch remembers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import optuna

from tunesafe.contracts import Outcome
from tunesafe.data.seeding import seed_everything
from tunesafe.errors import Interruption, Preempted
from tunesafe.trial.context import Trial
from tunesafe.trial.endings import WITHOUT_OUTCOME, TrialPruned
from tunesafe.trial.outcomes import complete, concluded_earlier, failed, pruned
from tunesafe.trial.trainable import Trainable, run_trainable

__all__ = ["run_trial"]


def run_trial(train: Callable[[Trial], object] | type[Trainable], trial: Trial) -> Outcome:
    """Run one attempt to its end.

    Python's, numpy's and torch's generators are seeded first. While user code runs,
    signals are noted rather than deadly (in the main thread).

    Args:
        train: A function of one trial, or a subclass of ``Trainable``.
        trial: The attempt.

    Returns:
        How the trial ended. An exception of user code is an outcome: failed.

    Raises:
        Preempted: To be continued; what could be saved is with the services. A failure after a
            signal counts as this, too: loader workers may have been killed by the same signal.
        LeaseLostError, StorageError, SpecError: The attempt ended without an outcome.
        KeyboardInterrupt: Where signals are not noted.
    """
    error: BaseException | None = None
    with closing(trial), trial.signals:
        outcome = concluded_earlier(trial)
        if outcome is None:
            seed_everything(trial.seed)
            try:
                _call(train, trial)
                if trial.latch.ending is None:
                    trial.finish()
            except (KeyboardInterrupt, GeneratorExit, Interruption):
                raise
            except BaseException as raised:  # noqa: BLE001 (user code may raise anything; SystemExit is no better)
                error = raised
            outcome = _outcome(trial, error)
    trial.outcome = outcome
    return outcome


def _call(train: Any, trial: Trial) -> None:
    if isinstance(train, type) and issubclass(train, Trainable):
        run_trainable(train, trial)
    else:
        train(trial)


def _outcome(trial: Trial, error: BaseException | None) -> Outcome:
    held = trial.latch.ending
    if isinstance(held, WITHOUT_OUTCOME):
        raise held
    if isinstance(held, TrialPruned):
        return pruned(trial, str(held))
    if held is None and isinstance(error, WITHOUT_OUTCOME):
        raise error
    if held is None and isinstance(error, optuna.TrialPruned):
        return pruned(trial, str(error) or "user code raised TrialPruned")
    failure = held or error
    if failure is None:
        return complete(trial)
    if trial.signals.reason is not None:
        raise Preempted(trial.signals.reason) from failure
    traceback = failure.__traceback__
    # The first frame is this module's own.
    return failed(trial, failure, traceback.tb_next if traceback and traceback.tb_next else traceback)
