"""What retention has to be shown of a study: its rules, and what is known of a trial."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sqlalchemy import Connection

from tunesafe.contracts import Position, Record, TrialPhase, TrialRow
from tunesafe.spec import StudySpec
from tunesafe.store import records
from tunesafe.store.retention import Keep, TrialKeep

__all__ = ["keep_of", "objectives_of", "trial_keep"]


def trial_keep(connection: Connection, uuid: str, spec: StudySpec, row: TrialRow) -> TrialKeep:
    """What retention has to know of a trial; one that may yet go on has no ending."""
    if row.outcome is None or row.phase is TrialPhase.HELD:
        return TrialKeep(None)
    outcome, history = row.outcome, records.records_of(connection, uuid, row.number)
    return TrialKeep(outcome.ending, outcome.value, outcome.selected_virtual_epoch, objectives_of(history, spec))


def objectives_of(history: Sequence[Record], spec: StudySpec) -> dict[Position, float]:
    """The objective at each reported boundary; NaN where it was not reported."""
    return {
        Position(record.report.examples_seen, record.report.virtual_epoch): record.report.metrics.get(
            spec.objective.metric, math.nan
        )
        for record in history
    }


def keep_of(spec: StudySpec) -> Keep:
    """The rules of a study file."""
    keep = spec.checkpoint.keep
    return Keep(
        keep.last,
        keep.best,
        keep.study_best,
        select_best=spec.objective.select == "best",
        every=keep.every,
        weights_only=keep.finished == "weights",
    )
