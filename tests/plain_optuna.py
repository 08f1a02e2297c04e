"""A study as anybody's Optuna has it, which knows nothing of ours."""

from __future__ import annotations

import optuna

__all__ = ["optuna_trials"]


def optuna_trials(url: str, study_name: str) -> list[optuna.trial.FrozenTrial]:
    """A study's trials; the connections are given back, which PostgreSQL's driver demands."""
    storage = optuna.storages.RDBStorage(url)
    try:
        return optuna.load_study(study_name=study_name, storage=storage).trials
    finally:
        storage.scoped_session.remove()
        storage.engine.dispose()
