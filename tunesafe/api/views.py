"""What reading a study gives: plain frozen values, true at the moment they were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from tunesafe.contracts import Event, Owner, Parameter, Record, Report, TrialPhase, TrialRow
from tunesafe.errors import ExitCode
from tunesafe.spec import StudySpec
from tunesafe.store.backup_state import BackupState
from tunesafe.store.claims import is_takeable
from tunesafe.store.identity import is_provably_dead
from tunesafe.store.reading import ActiveTrial, BestTrial, StudySummary
from tunesafe.store.urls import display_url

__all__ = [
    "ENDED",
    "ActiveView",
    "BackupView",
    "RunResult",
    "StudyPlan",
    "StudyStatus",
    "TrialState",
    "TrialView",
    "utc",
    "view_status",
    "view_trial",
]


class TrialState(StrEnum):
    """Where a trial stands, in one word."""

    WAITING = "waiting"
    """Nobody has begun it."""
    RUNNING = "running"
    """A worker holds it."""
    INTERRUPTED = "interrupted"
    """Begun, and nobody holds it: the next run continues it."""
    HELD = "held"
    """It raised, in a streak that may stop the study: it runs again after the fix."""
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED)
"""The states of a trial that is over."""


@dataclass(frozen=True, slots=True)
class TrialView:
    """One trial that has begun.

    Args:
        number: Its identity, 0..N-1.
        state: Where it stands.
        params: Sampled and constant parameters; empty until they are drawn.
        value: The objective's value it ended with, if it has one.
        reports: What it measured, one per virtual epoch, ascending.
        examples_seen: Examples consumed, as far as is durable [examples].
        attempts: Processes that have worked on it.
        selected_virtual_epoch: The virtual epoch its value and its exported weights are of.
        result: Final metrics that are not judged.
        reason: Why it ended, in one line.
        traceback: The full traceback of a trial that raised.
        started: When it was first claimed, UTC.
        ended: When its outcome was recorded, UTC.
        worker: ``host:pid`` of who holds or last held it.
    """

    number: int
    state: TrialState
    params: Mapping[str, Parameter]
    value: float | None
    reports: tuple[Report, ...]
    examples_seen: int
    attempts: int
    selected_virtual_epoch: int | None
    result: Mapping[str, float]
    reason: str | None
    traceback: str | None
    started: datetime | None
    ended: datetime | None
    worker: str | None

    @property
    def metrics(self) -> dict[int, dict[str, float]]:
        """Reported metrics by virtual epoch."""
        return {report.virtual_epoch: dict(report.metrics) for report in self.reports}


@dataclass(frozen=True, slots=True)
class ActiveView:
    """A trial that has begun and not ended.

    Args:
        number: Which one.
        state: ``RUNNING``, ``INTERRUPTED`` or ``HELD``.
        attempt: Attempts so far.
        examples_seen: As of its newest record or checkpoint [examples].
        worker: ``host:pid`` of who holds or last held it.
        lease_seconds: What is left of its lease; 0 where nobody holds it [s].
    """

    number: int
    state: TrialState
    attempt: int
    examples_seen: int
    worker: str | None
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class BackupView:
    """How the copying to the second place goes.

    Args:
        url: The second place.
        newest: When the newest copy was taken, UTC; ``None`` if there is none yet.
        num_bytes: Its size, packs included [bytes].
        failing_since: Since when copying fails, UTC; ``None`` while it works.
        why: Why it fails.
        lost: Whether the place belongs to somebody else now: nothing is copied there any more.
    """

    url: str
    newest: datetime | None
    num_bytes: int
    failing_since: datetime | None
    why: str | None
    lost: bool


@dataclass(frozen=True, slots=True)
class StudyStatus:
    """Where a study stands.

    Args:
        name: The study.
        storage: Its database, password masked.
        metric: The objective's metric.
        direction: ``minimize`` or ``maximize``.
        n_trials: Trials in all.
        counts: Trials by state, zeros included; they add up to ``n_trials``.
        finished: Whether every trial has ended and Optuna has been told.
        paused: Whether its ``timeout`` is used up.
        best: The complete trial with the best value; the lowest number among equals.
        active: Trials begun and not ended, by number.
        num_attempts: Attempts of all trials.
        num_resumed: Trials with more than one attempt.
        examples_seen: By all trials [examples].
        total_examples: Length of one trial; ``None`` until the first has seen the data [examples].
        virtual_epochs: In each trial.
        batching: ``exact`` or ``whole``: whether virtual epochs end on their example or with a full batch.
        live_seconds: Time with a live lease, summed over restarts [s].
        timeout_seconds: After how much of that it pauses [s].
        notes: How often something happened that one should know of, by kind of event.
        events: The latest events, the newest last.
        backup: How the copying to its second place goes; ``None`` without one.
        blobs: Where its large checkpoints are, if neither in its database nor beside it.
    """

    name: str
    storage: str
    metric: str
    direction: str
    n_trials: int
    counts: Mapping[TrialState, int]
    finished: bool
    paused: bool
    best: BestTrial | None
    active: tuple[ActiveView, ...]
    num_attempts: int
    num_resumed: int
    examples_seen: int
    total_examples: int | None
    virtual_epochs: int
    batching: str
    live_seconds: float
    timeout_seconds: float | None
    notes: Mapping[str, int]
    events: tuple[Event, ...]
    backup: BackupView | None = None
    blobs: str | None = None

    @property
    def num_ended(self) -> int:
        """Trials that have ended, one way or another."""
        return sum(self.counts[state] for state in ENDED)


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    Args:
        exit_code: What the command exits with.
        message: One sentence: what ended, and what to do next.
    """

    exit_code: ExitCode
    message: str


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """What a study will do, as far as it can be known without training.

    Args:
        name: The study.
        storage: Its database, password masked.
        trainable: Where its training code is.
        objective: ``minimize val_loss``.
        n_trials: Trials in all.
        searched: Names of the searched parameters.
        conditional: Those among them that are not always active.
        sampler: Class of the sampler.
        pruner: Class of the pruner.
        virtual_epochs: In each trial.
        total_examples: Length of each trial [examples]; ``None`` until the first trial has seen the data.
        num_batches: Batches in the first virtual epoch, by batch size, for the smallest and the largest.
    """

    name: str
    storage: str
    trainable: str
    objective: str
    n_trials: int
    searched: tuple[str, ...]
    conditional: tuple[str, ...]
    sampler: str
    pruner: str
    virtual_epochs: int
    total_examples: int | None
    num_batches: Mapping[int, int]


def utc(seconds: float | None) -> datetime | None:
    """Seconds since the epoch as an aware UTC time."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def view_trial(row: TrialRow, records: Sequence[Record], now: float) -> TrialView:
    """What a reader is shown of a trial.

    Args:
        row: The trial as our table has it; one that has begun.
        records: Its records, ascending.
        now: Database time [seconds since the epoch].
    """
    outcome = row.outcome
    return TrialView(
        number=row.number,
        state=_state(row, now),
        params=dict(row.params or {}),
        value=outcome.value if outcome else None,
        reports=tuple(record.report for record in records),
        examples_seen=row.examples_seen,
        attempts=row.attempt,
        selected_virtual_epoch=outcome.selected_virtual_epoch if outcome else None,
        result=dict(outcome.result) if outcome else {},
        reason=outcome.reason if outcome else None,
        traceback=outcome.traceback if outcome else None,
        started=utc(row.claimed_at),
        ended=utc(row.ended_at),
        worker=_worker(row.owner),
    )


def _state(row: TrialRow, now: float) -> TrialState:
    if row.phase is TrialPhase.HELD:
        return TrialState.HELD
    if row.outcome is not None:
        return TrialState(row.outcome.ending)
    return TrialState.INTERRUPTED if is_takeable(row, now) else TrialState.RUNNING


def view_status(
    summary: StudySummary, spec: StudySpec, url: str, notes: Mapping[str, int], copying: BackupState | None = None
) -> StudyStatus:
    """What a reader is shown of a study.

    Args:
        summary: Our tables' counts.
        spec: The study file it last ran with.
        url: Its database.
        notes: How often events of note happened, by kind.
        copying: How the copying to its second place went last.
    """
    active = tuple(_active(trial) for trial in summary.active if trial.phase is not TrialPhase.CLOSING)
    counts = dict.fromkeys(TrialState, 0)
    counts[TrialState.WAITING] = summary.phases[TrialPhase.FREE]
    for trial in active:
        counts[trial.state] += 1
    for ending, count in summary.endings.items():
        counts[TrialState(ending)] += count
    study, budget = summary.study, spec.budget
    per_pass = budget.examples_per_pass or study.examples_per_pass
    known = budget.examples is not None or per_pass is not None
    return StudyStatus(
        name=study.name,
        storage=display_url(url),
        metric=spec.objective.metric,
        direction=spec.objective.direction,
        n_trials=summary.num_trials,
        counts=counts,
        finished=summary.phases[TrialPhase.TOLD] == summary.num_trials,
        paused=spec.timeout is not None and study.live_seconds >= spec.timeout,
        best=summary.best,
        active=active,
        num_attempts=summary.num_attempts,
        num_resumed=summary.num_resumed,
        examples_seen=summary.examples_seen,
        total_examples=budget.total_examples(per_pass or 0) if known else None,
        virtual_epochs=budget.virtual_epochs,
        batching=budget.batching,
        live_seconds=study.live_seconds,
        timeout_seconds=spec.timeout,
        notes={kind: count for kind, count in notes.items() if count},
        events=tuple(summary.events),
        backup=_backup(spec, copying),
        blobs=spec.blobs,
    )


def _backup(spec: StudySpec, state: BackupState | None) -> BackupView | None:
    if spec.backup is None and state is None:
        return None
    if state is None or (spec.backup is not None and spec.backup.url != state.url):
        state = BackupState("" if spec.backup is None else spec.backup.url)
    return BackupView(state.url, utc(state.at), state.num_bytes, utc(state.failing_since), state.why, state.lost)


def _active(trial: ActiveTrial) -> ActiveView:
    alive = trial.lease_seconds > 0 and trial.owner is not None and not is_provably_dead(trial.owner)
    state = TrialState.RUNNING if alive else TrialState.INTERRUPTED
    return ActiveView(
        number=trial.number,
        state=TrialState.HELD if trial.phase is TrialPhase.HELD else state,
        attempt=trial.attempt,
        examples_seen=trial.examples_seen,
        worker=_worker(trial.owner),
        lease_seconds=trial.lease_seconds if alive else 0.0,
    )


def _worker(owner: Owner | None) -> str | None:
    return None if owner is None else f"{owner.host}:{owner.pid}"
