"""The Python door: what a user holds, and what the command line is made of.

    study      Study, load_study, open_stored
    views      what reading gives: frozen values
    stored     reading a stored study; checkpoints: what it has stored of states
    pruning    removing checkpoints nobody asked to keep (Optuna)
    restoring  bringing one back from its second place
    running    running and checking one (torch, Optuna, user code)
    exporting  a trial's weights, story and code as files (torch)

Importing it brings neither torch nor Optuna.
"""

from __future__ import annotations

from tunesafe.api.checkpoints import CheckpointContent, CheckpointList, CheckpointView, PruneResult, VerifiedCheckpoint
from tunesafe.api.restoring import Restored, restore
from tunesafe.api.study import Study, load_study, open_stored
from tunesafe.api.views import RunResult, StudyPlan, StudyStatus, TrialState, TrialView

__all__ = [
    "CheckpointContent",
    "CheckpointList",
    "CheckpointView",
    "PruneResult",
    "Restored",
    "RunResult",
    "Study",
    "StudyPlan",
    "StudyStatus",
    "TrialState",
    "TrialView",
    "VerifiedCheckpoint",
    "load_study",
    "open_stored",
    "restore",
]
