"""tunesafe: hyperparameter tuning on Optuna that survives the machine it runs on.

Every name is imported when it is first used: ``tunesafe status`` must not wait for torch.
Type checkers and editors read ``__init__.pyi`` beside this file.
"""

from __future__ import annotations

from importlib import import_module

__all__ = [
    "ChangeRefusedError",
    "DamagedError",
    "ExitCode",
    "FixedTrial",
    "LeaseLostError",
    "MissingExtraError",
    "Preempted",
    "SpecError",
    "StateError",
    "StorageError",
    "Study",
    "Trainable",
    "Trial",
    "TrialError",
    "TrialPruned",
    "TrialView",
    "TunesafeError",
    "__version__",
    "load_study",
    "open_stored",
]

__version__ = "0.1.0"

_HOME_OF = {
    "FixedTrial": "tunesafe.trial.fixed",
    "Study": "tunesafe.api",
    "Trainable": "tunesafe.trial.trainable",
    "Trial": "tunesafe.trial.context",
    "TrialPruned": "tunesafe.trial.endings",
    "TrialView": "tunesafe.api",
    "load_study": "tunesafe.api",
    "open_stored": "tunesafe.api",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'tunesafe' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME_OF.get(name, "tunesafe.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
