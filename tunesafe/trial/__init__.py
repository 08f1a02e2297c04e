"""One trial: what user code holds, how it is run, and how it ends.

Knows neither Optuna's studies nor any database: what it needs of the world is the
``TrialServices`` protocol. Names are fetched when they are asked for: a supervisor needs
preemption and sources, and does without torch. ``resolve`` and ``sources`` share the names of
their modules, so they are only to be had there.
"""

from __future__ import annotations

from importlib import import_module

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
    "run_trainable",
    "run_trial",
]

_HOME_OF = {
    "FixedTrial": "tunesafe.trial.fixed",
    "MemoryServices": "tunesafe.trial.fixed",
    "SignalWatch": "tunesafe.trial.preemption",
    "Trainable": "tunesafe.trial.trainable",
    "Trial": "tunesafe.trial.context",
    "TrialPruned": "tunesafe.trial.endings",
    "TrialSettings": "tunesafe.trial.settings",
    "fingerprint": "tunesafe.trial.sources",
    "locate": "tunesafe.trial.sources",
    "run_trainable": "tunesafe.trial.trainable",
    "run_trial": "tunesafe.trial.runner",
}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value
