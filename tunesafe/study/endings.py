"""How Optuna calls the ends of a trial, and how one of ours is known there."""

from __future__ import annotations

from optuna.trial import TrialState

from tunesafe.contracts import Ending

__all__ = ["STATES", "TOLD_WITH"]

STATES = {
    Ending.COMPLETE: TrialState.COMPLETE,
    Ending.PRUNED: TrialState.PRUNED,
    Ending.FAILED: TrialState.FAIL,
}

TOLD_WITH = "attempts"
"""An attribute that every trial has before we tell Optuna its end, and none that had ended before we came to that."""
