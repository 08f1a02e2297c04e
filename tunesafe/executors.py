"""Running a study with n workers: here, in this process, for one.

Opens the study, sets up the process the way its numbers depend on (threads), lets the
worker work, and says in an exit code and one sentence how it ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner

from tunesafe.contracts import Notice
from tunesafe.errors import ExitCode, LeaseLostError, Preempted
from tunesafe.schedulers.pruning import build_pruner
from tunesafe.spec import StudySpec
from tunesafe.study import lifecycle
from tunesafe.study.claiming import Claimant
from tunesafe.study.opening import OpenStudy, Program, open_study
from tunesafe.study.sampling import SeededSampler, build_sampler
from tunesafe.study.suggest import distributions
from tunesafe.trackers import check_trackers
from tunesafe.trial.preemption import SignalWatch
from tunesafe.worker.loop import Left, Worker

__all__ = ["RunResult", "judges", "run_study"]


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    Args:
        exit_code: What the command exits with.
        message: One sentence for the last line.
        tally: The study's trials by where they are.
    """

    exit_code: ExitCode
    message: str
    tally: lifecycle.Tally


def run_study(
    spec: StudySpec,
    trainable: Callable[[], Callable[..., Any]],
    program: Program,
    *,
    folder: Path,
    watch: Callable[[Notice], None],
    accept_changes: bool = False,
) -> RunResult:
    """Start a study, continue it, or find that there is nothing to do.

    Args:
        spec: The study file.
        trainable: Gives the user's function or class; called once, when there is something to train.
        program: The study file's text and the trainable's sources.
        folder: Where files beside the database are kept.
        watch: Told what happens, in this thread and the one that prints.
        accept_changes: Go on after a breaking change.

    Raises:
        SpecError: Something the user has to change; nothing was started.
        StorageError: The database cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler, pruner = judges(spec)
    threads = max((os.cpu_count() or 1) // spec.n_workers, 1)
    opened = open_study(spec, program, sampler, pruner, threads_per_worker=threads, accept_changes=accept_changes)
    try:
        return _work(opened, trainable, folder, watch)
    finally:
        opened.close()


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


def _work(
    opened: OpenStudy, trainable: Callable[[], Callable[..., Any]], folder: Path, watch: Callable[[Notice], None]
) -> RunResult:
    spec = opened.spec
    claimant = Claimant(opened)
    before = claimant.tally()
    watch(Notice("opened", None, _opening(opened, before)))
    left: Left | BaseException
    with SignalWatch() as signals:
        try:
            left = Worker(opened, trainable, signals, watch, folder).run()
        except (Preempted, LeaseLostError) as error:
            left = error
    return _result(spec, before, claimant.tally(), left)


def _opening(opened: OpenStudy, tally: lifecycle.Tally) -> dict[str, Any]:
    return {
        "storage": opened.spec.storage,
        "changes": opened.changes,
        "n_trials": opened.spec.n_trials,
        "ended": tally.ended,
        "begun": tally.ended + tally.claimed + tally.closing + tally.held,
    }


def _result(spec: StudySpec, before: lifecycle.Tally, tally: lifecycle.Tally, left: Left | BaseException) -> RunResult:
    code = lifecycle.exit_code(tally, spec.max_failures, paused=left is Left.TIMED_OUT)
    ended = f"{tally.ended} trials ({tally.complete} complete, {tally.pruned} pruned, {tally.failed} failed)"
    if isinstance(left, LeaseLostError):
        return RunResult(ExitCode.LEASE_LOST, str(left), tally)
    if code is ExitCode.USER_CODE:
        message = (
            f"stopped: {tally.held or tally.failed} trials in a row raised an exception; they keep their numbers and "
            "run again after the fix. See `tunesafe logs` and `tunesafe show`, then run the same command again."
        )
        return RunResult(code, message, tally)
    if lifecycle.standing(tally, spec.max_failures) is lifecycle.Standing.FINISHED:
        word = "nothing to do" if before == tally else "done"
        return RunResult(code, f"{word}: {ended}", tally)
    if left is Left.TIMED_OUT:
        return RunResult(code, f"paused: the timeout is used up with {ended}; raise it to continue", tally)
    reason = f" by {left}" if isinstance(left, Preempted) else ""
    return RunResult(
        ExitCode.INTERRUPTED, f"interrupted{reason} with {ended}; run the same command again to continue", tally
    )
