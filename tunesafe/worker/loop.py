"""One worker's life: claim, run, finish, until none is left.

The one place where study, trial and schedulers meet. Each attempt is the same few lines
whether the trial is new, resumed, or only waits for Optuna to be told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Any

from tunesafe.contracts import Assignment, Claim, Ending, Notice, Outcome, TrialPhase
from tunesafe.errors import Preempted, SpecError
from tunesafe.failpoints import failpoint
from tunesafe.seeds import trial_seed
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.depot_urls import packs_of
from tunesafe.study.claiming import Claimant
from tunesafe.study.lease import LeaseKeeper
from tunesafe.study.ledger import Ledger
from tunesafe.study.opening import OpenStudy
from tunesafe.study.retaining import Retainer
from tunesafe.trackers import Trackers
from tunesafe.trial.preemption import SignalWatch
from tunesafe.worker.judging import judge_of
from tunesafe.worker.output import Capture
from tunesafe.worker.services import LedgerServices, Watcher
from tunesafe.worker.writing import CheckpointWriter

__all__ = ["Left", "Worker"]

_POLL_SECONDS = 1.0
"""How often a worker without work looks whether somebody else's lease has expired [s]."""
_SWEEP_SECONDS = 600.0
"""Between two sweeps by one worker, at least [s]."""


class Left(StrEnum):
    """Why a worker stopped without an error."""

    NO_WORK = "no work"
    """Nothing is left that it could claim, now or later."""
    TIMED_OUT = "timed out"
    """The study's ``timeout`` is used up."""


class Worker:
    """Works on one study until there is nothing left to claim.

    Args:
        opened: The study.
        trainable: Gives the user's function or class; called when there is something to train.
        signals: Entered by the caller; asked between trials and lent to each.
        watch: Told what happens.
        folder: Where files beside the database are kept: artifacts, what trackers write.
        index: Which of several workers this is, 0-based; deals out devices.
        supervisor: Process id of who counts this worker's death, if anybody does.
    """

    def __init__(
        self,
        opened: OpenStudy,
        trainable: Callable[[], Callable[..., Any]],
        signals: SignalWatch,
        watch: Watcher,
        folder: Path,
        *,
        index: int = 0,
        supervisor: int | None = None,
    ) -> None:
        self._opened, self._trainable, self._signals = opened, trainable, signals
        self._observer = watch
        self._folder, self._index = folder, index
        self._spec = opened.spec
        self._claimant = Claimant(opened, supervisor=supervisor, watch=self.tell)
        self._ledger = Ledger(opened, judge_of(opened.spec), folder / "artifacts")
        packs = packs_of(opened.engine.url, opened.row.uuid, opened.spec.blobs)
        small_bytes = opened.spec.checkpoint.in_database or 0
        self._checkpoints = CheckpointStore(opened.engine, opened.row.uuid, packs, small_bytes)
        self._retainer = Retainer(opened, self._checkpoints, self.tell)
        self._capture = Capture(opened.row.uuid, self._echo)
        self._threads = opened.row.threads_per_worker or 1
        self._number: int | None = None
        self._keeper = LeaseKeeper(
            opened.engine,
            opened.row.uuid,
            lease_seconds=opened.spec.lease,
            timeout_seconds=opened.spec.timeout,
            live_seconds=opened.row.live_seconds,
            passenger=self._capture,
        )
        self._patience, self._writing_patience = opened.patience, opened.patience.of_another_thread()
        self._swept_at = -math.inf
        for patience in (self._patience, self._writing_patience):
            patience.listen(self.tell, self._why_leave)

    @property
    def num_signs_of_life(self) -> int:
        """How often user code has come by, or has waited for the database: at every batch, report and checkpoint."""
        return self._keeper.num_checks + self._patience.num_attempts + self._writing_patience.num_attempts

    def tell(self, notice: Notice) -> None:
        """Tell whoever watches; what that prints is no output of the trial at hand, whichever thread it is."""
        with self._capture.suspended():
            self._observer(notice)

    def _why_leave(self) -> str | None:
        """A database that is away may be back before the grace period is over; after it there is nothing to save."""
        since = self._signals.since
        return self._signals.reason if since is not None and monotonic() - since > self._spec.grace else None

    def _echo(self, line: str) -> None:
        self.tell(Notice("output", self._number, {"text": line}))

    def run(self) -> Left:
        """Claim, run and finish until nothing is left.

        Raises:
            Preempted: A signal came; the trial at hand is saved and released.
            LeaseLostError: Another worker took the trial at hand.
            SpecError: The study cannot go on as it is configured; the trial is released.
            StorageError: The database failed; the trial is continued by the next command.
        """
        with self._keeper as keeper:
            while not keeper.timed_out:
                if self._signals.reason is not None:
                    raise Preempted(self._signals.reason)
                self._sweep()
                claim = self._claimant.claim()
                if claim is None:
                    if not self._claimant.wait_for_others(_POLL_SECONDS):
                        return Left.NO_WORK
                elif claim.phase is TrialPhase.CLOSING:
                    self._close(claim)
                elif self._attempt(claim, keeper) is Left.TIMED_OUT:
                    return Left.TIMED_OUT
        return Left.TIMED_OUT

    def _sweep(self) -> None:
        """Remove what deaths have left behind, now and then: what is too young today is not tomorrow."""
        if monotonic() - self._swept_at > _SWEEP_SECONDS:
            self._retainer.tidy_up()
            self._patience(self._checkpoints.sweep_orphans)
            self._swept_at = monotonic()

    def _attempt(self, claim: Claim, keeper: LeaseKeeper) -> Left | None:
        self._number = claim.number
        with keeper.holding(claim):
            try:
                outcome = self._ledger.ended_elsewhere(claim) or self._train(claim, keeper)
            except (Preempted, SpecError) as ending:
                self._patience(keeper.renew)
                self._claimant.release(claim)
                self.tell(Notice("released", claim.number, {"reason": str(ending)}))
                if isinstance(ending, Preempted) and keeper.timed_out and self._signals.reason is None:
                    return Left.TIMED_OUT
                raise
            self._patience(keeper.renew)
            phase = self._ledger.finish(claim, outcome)
        if phase is TrialPhase.CLOSING:
            self._close(claim)
        else:
            self._tell_watcher(claim, outcome)
        return None

    def _train(self, claim: Claim, keeper: LeaseKeeper) -> Outcome:
        from tunesafe.worker.training import train_trial  # noqa: PLC0415 - brings torch, which telling does without

        params = self._ledger.draw(claim)
        records = self._ledger.records(claim)
        train = self._trainable()
        newest = next(iter(self._patience(self._checkpoints.infos, claim.number)), None)
        assignment = Assignment(
            study_name=self._spec.name,
            number=claim.number,
            attempt=claim.attempt,
            seed=trial_seed(self._spec.seed, claim.number),
            params=params,
            records=records,
        )
        details: Mapping[str, Any] = {
            "attempt": claim.attempt,
            "fence": claim.fence,
            "params": params,
            "reports": len(records),
            "examples_seen": 0 if newest is None else newest.position.examples_seen,
        }
        self.tell(Notice("claimed" if claim.attempt == 1 else "resumed", claim.number, details))
        with (
            Trackers(self._spec.trackers, self._folder / f"{self._spec.name}.runs", claim.number) as trackers,
            self._capture.capturing(),
            CheckpointWriter(self._signals) as writer,
        ):
            services = LedgerServices(
                self._ledger,
                self._checkpoints,
                self._retainer,
                keeper,
                claim,
                records,
                self.tell,
                trackers,
                self._patience,
                writer,
                self._writing_patience,
            )
            return train_trial(train, assignment, self._spec, services, self._signals, self._threads, self._index)

    def _close(self, claim: Claim) -> None:
        outcome = self._ledger.close(claim)
        self._retainer.after_end(claim.number)
        failpoint("finish.swept")
        if outcome.traceback is None:  # a failure was told when it happened
            self._tell_watcher(claim, outcome)

    def _tell_watcher(self, claim: Claim, outcome: Outcome) -> None:
        kind = {Ending.COMPLETE: "completed", Ending.PRUNED: "pruned", Ending.FAILED: "failed"}[outcome.ending]
        details = {"value": outcome.value, "reason": outcome.reason, "traceback": outcome.traceback}
        self.tell(Notice(kind, claim.number, details))
