"""How Optuna calls the ends of a trial."""

from __future__ import annotations

from optuna.trial import TrialState

from tunesafe.contracts import Ending

__all__ = ["STATES"]

STATES = {
    Ending.COMPLETE: TrialState.COMPLETE,
    Ending.PRUNED: TrialState.PRUNED,
    Ending.FAILED: TrialState.FAIL,
}
