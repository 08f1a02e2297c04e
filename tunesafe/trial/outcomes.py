"""How a trial ended, in the form that is recorded."""

from __future__ import annotations

import traceback
from types import TracebackType

from tunesafe.contracts import Ending, Outcome
from tunesafe.trial.context import PRUNED_BECAUSE, Trial
from tunesafe.trial.metrics import selected_virtual_epoch

__all__ = ["complete", "concluded_earlier", "failed", "pruned"]


def complete(trial: Trial) -> Outcome:
    """Every virtual epoch trained, or stopped on purpose."""
    return _outcome(trial, Ending.COMPLETE, trial.memory.notes.stopped)


def pruned(trial: Trial, reason: str) -> Outcome:
    """Ended by a verdict, or by user code that raised Optuna's ``TrialPruned`` itself."""
    return _outcome(trial, Ending.PRUNED, reason)


def failed(trial: Trial, error: BaseException, at: TracebackType | None) -> Outcome:
    """Ended by an exception.

    Args:
        trial: Whose user code raised it.
        error: What it raised.
        at: Its traceback from user code on.
    """
    text = str(error).strip().partition("\n")[0]
    return Outcome(
        Ending.FAILED,
        value=None,
        selected_virtual_epoch=None,
        examples_seen=trial.examples_seen,
        reason=f"{type(error).__name__}: {text}" if text else type(error).__name__,
        result=dict(trial.memory.notes.result),
        traceback="".join(traceback.format_exception(type(error), error, at)),
    )


def concluded_earlier(trial: Trial) -> Outcome | None:
    """The outcome an earlier attempt came to but could not record; ``None`` if there is training left.

    A recorded verdict prunes without training again. A completed trial is concluded only
    from its final state: without it the final weights would be missing, so the last virtual
    epoch is trained again.
    """
    records = trial.assignment.records
    if records and records[-1].verdict in PRUNED_BECAUSE:
        for record in records:
            trial.memory.notes.history[record.report.virtual_epoch] = dict(record.report.metrics)
        last = records[-1]
        reason = PRUNED_BECAUSE[last.verdict].format(last.report.virtual_epoch)
        return _outcome(trial, Ending.PRUNED, reason, examples_seen=last.report.examples_seen)
    if trial.stored_notes is not None and trial.stored_notes.returned:
        trial.memory.notes = trial.stored_notes
        return complete(trial)
    return None


def _outcome(trial: Trial, ending: Ending, reason: str | None, examples_seen: int | None = None) -> Outcome:
    notes, objective = trial.memory.notes, trial.settings.objective
    selected = selected_virtual_epoch(notes.history, objective)
    value = notes.history[selected][objective.metric] if selected is not None and objective is not None else None
    return Outcome(
        ending,
        value=value,
        selected_virtual_epoch=selected,
        examples_seen=trial.examples_seen if examples_seen is None else examples_seen,
        reason=reason,
        result=dict(notes.result),
    )
