"""Running a study in n worker processes, each on its own: one that dies is replaced at once.

The supervisor imports no user code and trains nothing. It opens the study and leaves the rest
to a crew of workers; a first signal asks these to leave in order, a second ends them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tunesafe.contracts import Notice
from tunesafe.errors import ExitCode, Preempted
from tunesafe.executors.crew import Crew
from tunesafe.executors.results import RunResult, opening_details, result_of
from tunesafe.executors.second_place import SecondPlace, one_at_a_time
from tunesafe.spec import StudySpec
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.depot_urls import packs_of
from tunesafe.study.claiming import Claimant
from tunesafe.study.lifecycle import Tally
from tunesafe.study.opening import open_study
from tunesafe.study.retaining import Retainer
from tunesafe.study.settling import Program
from tunesafe.trial.preemption import SignalWatch
from tunesafe.worker.judging import judges
from tunesafe.worker.loop import Left

__all__ = ["supervise"]


def supervise(
    spec: StudySpec,
    program: Program,
    *,
    folder: Path,
    watch: Callable[[Notice], None],
    new: bool,
    accept_changes: bool = False,
) -> RunResult:
    """Start a study, continue it, join it, or find that there is nothing to do.

    Args:
        spec: The study file.
        program: Its text and the trainable's sources.
        folder: Where relative paths and files beside the database are.
        watch: Told what happens, by one thread at a time.
        new: Whether the study is not there yet: then the trainable is imported first.
        accept_changes: Go on after a breaking change.

    Raises:
        SpecError: Something the user has to change.
        StorageError: The database cannot be used.
    """
    sampler, pruner = judges(spec)
    watch = one_at_a_time(watch)
    try:
        with SignalWatch() as signals, Crew(spec, program.fingerprint, folder, signals) as crew:
            if new:
                crew.rehearse()
            with open_study(spec, program, sampler, pruner, accept_changes=accept_changes) as opened:
                opened.patience.listen(watch, lambda: signals.reason)
                claimant = Claimant(opened)
                claimant.take_up_held()
                before = claimant.tally()
                watch(Notice("opened", None, opening_details(opened.spec, opened.changes, before)))
                for warning in opened.warnings:
                    watch(Notice("event", None, {"event": "storage_warning", "message": warning}))
                left: Left | BaseException = Left.NO_WORK
                with SecondPlace(opened, signals, watch):
                    if before.open or before.held:
                        left = crew.work(opened, watch)
                    if not isinstance(left, BaseException):
                        packs = packs_of(opened.engine.url, opened.row.uuid, spec.blobs)
                        Retainer(opened, CheckpointStore(opened.engine, opened.row.uuid, packs)).tidy_up()
                return result_of(spec, before, claimant.tally(), left)
    except Preempted as ending:  # a second signal, or one before the study was open: there is no time to count
        return RunResult(
            ExitCode.INTERRUPTED, f"interrupted by {ending}; run the same command again to continue", Tally()
        )
