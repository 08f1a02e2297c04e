"""The values that cross floors.

Plain frozen values: no torch, no database, no Optuna. Whatever two rooms say to each other
is said in these words, so each room can be tested with the others absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = [
    "Assignment",
    "AttributeWrite",
    "CheckpointInfo",
    "Claim",
    "Ending",
    "Event",
    "Judgement",
    "LogChunk",
    "Metrics",
    "Notice",
    "Outcome",
    "Owner",
    "Parameter",
    "Position",
    "Record",
    "Report",
    "Snapshot",
    "StoredState",
    "TensorBytes",
    "TrialPhase",
    "TrialRow",
    "Verdict",
]

Parameter = bool | int | float | str | None
"""A sampled or constant value, as the user's code sees it."""
Metrics = Mapping[str, float]
"""What one report measured; every value a Python float (NaN and infinities included)."""


class TrialPhase(StrEnum):
    """Where a number is in its life, in our own table."""

    FREE = "free"
    """Nobody has had it; Optuna has no trial of this number."""
    CLAIMED = "claimed"
    """Begun. Whether someone works on it now, the lease says."""
    CLOSING = "closing"
    """Its outcome is recorded; Optuna has not been told."""
    HELD = "held"
    """It raised, in a streak that may yet reach ``max_failures``; Optuna has not been told."""
    TOLD = "told"
    """Ended, in our tables and in Optuna's."""


class Ending(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


class Verdict(StrEnum):
    """What a report led to."""

    CONTINUE = "continue"
    PRUNE = "prune"
    """The pruner's decision."""
    DIVERGED = "diverged"
    """The objective is NaN or infinite: pruned, whatever the pruner."""
    STOP = "stop"
    """Early stopping: the trial is complete."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A point in one trial's training at which it can be resumed.

    Args:
        examples_seen: Examples consumed so far [examples].
        virtual_epoch: Virtual epochs completed and reported so far.
    """

    examples_seen: int
    virtual_epoch: int


@dataclass(frozen=True, slots=True)
class TensorBytes:
    """One tensor of a state, as raw bytes.

    Args:
        path: Where it stands in the state, e.g. ``optimizer/state/3/exp_avg``.
        dtype: Its element type's name, e.g. ``float32``.
        shape: Its shape.
        data: Its elements, contiguous, little-endian: ``len(data) == nbytes``.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A trial's whole state at one position, copied out of live memory.

    Args:
        position: Where in training it was taken.
        structure: The tree of the state as JSON text; leaves name tensors by index.
        tensors: The bytes of those tensors, by index.
    """

    position: Position
    structure: str
    tensors: tuple[TensorBytes, ...]


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """A durable checkpoint without its bytes.

    Args:
        checkpoint_id: Its row; never reused.
        number: The trial it belongs to.
        position: Where in training it was taken.
        num_bytes: Size of its state [bytes], shared blobs counted in full.
        created_at: Database time of its commit [seconds since the epoch].
        weights_only: Whether all but the weights has been given up: enough to export, not to go on from.
    """

    checkpoint_id: int
    number: int
    position: Position
    num_bytes: int
    created_at: float
    weights_only: bool = False


@dataclass(frozen=True, slots=True)
class StoredState:
    """A checkpoint read back and verified.

    Args:
        info: Which checkpoint it is.
        structure: The tree of the state as JSON text.
        tensors: Bytes of its tensors, by index, in memory that may be written to; ``None`` for those that
            have been given up.
    """

    info: CheckpointInfo
    structure: str
    tensors: tuple[memoryview | bytes | bytearray | None, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What user code measured at the end of one virtual epoch.

    Args:
        virtual_epoch: Which one, 1-based; Optuna's step.
        examples_seen: Position of its last example [examples].
        metrics: All reported values, the objective's among them.
    """

    virtual_epoch: int
    examples_seen: int
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class AttributeWrite:
    """A trial system attribute a pruner or sampler wants written to Optuna."""

    key: str
    value: Any


@dataclass(frozen=True, slots=True)
class Record:
    """A report with its verdict: the durable, written-ahead form.

    Args:
        report: What was measured.
        verdict: What it led to; sticky.
        improved: Whether the objective was the trial's best so far.
        writes: What the pruner wants in Optuna; applied after the record, idempotently.
        attempt: The attempt that wrote it, 1-based.
        recorded_at: Database time [seconds since the epoch].
    """

    report: Report
    verdict: Verdict
    improved: bool
    writes: tuple[AttributeWrite, ...]
    attempt: int
    recorded_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """The answer to a report.

    Args:
        verdict: Continue, or why not.
        improved: Whether the objective is the trial's best so far.
    """

    verdict: Verdict
    improved: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended, as recorded before Optuna is told.

    Args:
        ending: Complete, pruned or failed.
        value: The objective value of the trial; ``None`` unless it has one that is finite.
        selected_virtual_epoch: Virtual epoch the value (and the exported checkpoint) is of.
        examples_seen: Examples consumed [examples].
        reason: One line: the verdict, what ``trial.stop`` gave, or the exception.
        result: Final metrics from ``trial.result``; not judged.
        traceback: Full traceback of a failed trial.
    """

    ending: Ending
    value: float | None
    selected_virtual_epoch: int | None
    examples_seen: int
    reason: str | None = None
    result: Mapping[str, float] = field(default_factory=dict)
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that holds leases, told apart from every other process that ever was.

    ``boot_id`` is shared by all containers of a host, hence machine and pid namespace too.

    Args:
        host: Host name, for people.
        machine_id: The installation, e.g. from /etc/machine-id.
        boot_id: This boot of the kernel.
        pid_namespace: The namespace ``pid`` counts in.
        pid: Process id.
        started: Start time of that process [clock ticks since boot].
    """

    host: str
    machine_id: str
    boot_id: str
    pid_namespace: str
    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Claim:
    """The exclusive right to one trial.

    Args:
        number: Which trial.
        phase: ``CLAIMED`` (train it) or ``CLOSING`` (tell it).
        fence: Grows with every claim of this number; writes under an older one are refused.
        token: Names this claim; a lost COMMIT reply is answered by looking for it.
        attempt: Claims for training so far, 1-based.
    """

    number: int
    phase: TrialPhase
    fence: int
    token: str
    attempt: int


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial as our own table has it; what ``status`` shows.

    Args:
        number: Its identity, 0..N-1.
        phase: Where it is in its life.
        params: Sampled and constant parameters; ``None`` until they are sealed.
        attempt: Attempts so far.
        fence: Of the newest claim.
        owner: Who holds or last held it.
        lease_expires_at: Database time [seconds since the epoch]; 0 when released.
        examples_seen: As of the newest record, checkpoint or outcome [examples].
        outcome: Set from ``CLOSING`` (or ``HELD``) on.
        claimed_at: First claim, database time [seconds since the epoch].
        ended_at: When the outcome was recorded.
    """

    number: int
    phase: TrialPhase
    params: Mapping[str, Parameter] | None
    attempt: int
    fence: int
    owner: Owner | None
    lease_expires_at: float
    examples_seen: int
    outcome: Outcome | None
    claimed_at: float | None
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a study, kept for ``status`` and the report.

    Args:
        kind: ``claimed``, ``resumed``, ``reclaimed``, ``not_deterministic``, …
        number: The trial it happened to, if to one.
        details: More, as JSON values; ``host`` and ``pid`` are added by the store.
        at: Database time [seconds since the epoch].
    """

    kind: str
    number: int | None
    details: Mapping[str, Any]
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person watching a run wants to see now; not kept.

    Args:
        kind: ``opened``, ``claimed``, ``resumed``, ``reclaimed``, ``reported``, ``completed``,
            ``pruned``, ``failed``, ``released``, ``output`` or ``event``.
        number: The trial it is about, if about one.
        details: The rest, as plain values.
    """

    kind: str
    number: int | None
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Captured output of one attempt."""

    number: int
    attempt: int
    text: str


@dataclass(frozen=True, slots=True)
class Assignment:
    """One attempt at one trial: all its process needs to know, as plain values.

    Args:
        study_name: The study.
        number: The trial.
        attempt: 1-based.
        seed: Derived from study seed and number.
        params: Sampled and constant parameters.
        records: Reports of earlier attempts, by virtual epoch, ascending.
    """

    study_name: str
    number: int
    attempt: int
    seed: int
    params: Mapping[str, Parameter]
    records: Sequence[Record] = ()
