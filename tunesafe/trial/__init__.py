"""One trial: what user code holds, how it is run, and how it ends.

Knows neither Optuna's studies nor any database: what it needs of the world is the
``TrialServices`` protocol.
"""

from __future__ import annotations

from tunesafe.trial.context import Trial
from tunesafe.trial.endings import TrialPruned
from tunesafe.trial.fixed import FixedTrial, MemoryServices
from tunesafe.trial.preemption import SignalWatch
from tunesafe.trial.resolve import resolve
from tunesafe.trial.runner import run_trial
from tunesafe.trial.settings import TrialSettings
from tunesafe.trial.sources import fingerprint, locate, sources
from tunesafe.trial.trainable import Trainable, run_trainable

__all__ = [
    "FixedTrial",
    "MemoryServices",
    "SignalWatch",
    "Trainable",
    "Trial",
    "TrialPruned",
    "TrialSettings",
    "fingerprint",
    "locate",
    "resolve",
    "run_trainable",
    "run_trial",
    "sources",
]
