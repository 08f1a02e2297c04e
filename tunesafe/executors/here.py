"""Running a study here: one worker, in this process.

For training functions that no other process can import, such as a notebook's. Everything
else runs under ``executors.supervisor``, where a worker that dies is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesafe.contracts import Notice
from tunesafe.errors import LeaseLostError, Preempted
from tunesafe.executors.results import RunResult, opening_details, result_of
from tunesafe.executors.second_place import SecondPlace, one_at_a_time
from tunesafe.spec import StudySpec
from tunesafe.study.claiming import Claimant
from tunesafe.study.opening import open_study
from tunesafe.study.settling import Program
from tunesafe.trial.preemption import SignalWatch
from tunesafe.worker.judging import judges
from tunesafe.worker.loop import Left, Worker

__all__ = ["run_study"]


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
        watch: Told what happens, by one thread at a time.
        accept_changes: Go on after a breaking change.

    Raises:
        SpecError: Something the user has to change; nothing was started.
        StorageError: The database cannot be used.
    """
    sampler, pruner = judges(spec)
    watch = one_at_a_time(watch)
    with open_study(spec, program, sampler, pruner, accept_changes=accept_changes) as opened:
        claimant = Claimant(opened)
        claimant.take_up_held()
        before = claimant.tally()
        watch(Notice("opened", None, opening_details(opened.spec, opened.changes, before)))
        for warning in opened.warnings:
            watch(Notice("event", None, {"event": "storage_warning", "message": warning}))
        left: Left | BaseException
        with SignalWatch() as signals:
            worker = Worker(opened, trainable, signals, watch, folder)
            with SecondPlace(opened, signals, worker.tell):  # what is printed there must not be captured
                try:
                    left = worker.run()
                except (Preempted, LeaseLostError) as error:
                    left = error
        return result_of(spec, before, claimant.tally(), left)
