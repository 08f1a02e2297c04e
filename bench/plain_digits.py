"""The digits study by plain Optuna and a loop written by hand, without checkpoints.

``python bench/plain_digits.py SETTINGS`` prints what it measured as JSON. It trains the very trials
that tunesafe has trained, to the last bit: it is given their parameters by ``enqueue_trial`` (its
sampler draws all the same, as it always does), and its loop takes their seeds and their order.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import optuna
import torch
from by_hand import SEED, train_by_hand

from tunesafe.store.engine import apply_pragmas, connect_kwargs


def main(settings: dict[str, Any]) -> list[list[float]]:
    """Run the study; the objective's values, by trial and virtual epoch."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(settings["storage"], engine_kwargs=connect_kwargs(settings["storage"]))
    apply_pragmas(storage.engine)  # WAL and FULL, as ours
    storage.engine.dispose()
    study = optuna.create_study(
        storage=storage,
        sampler=optuna.samplers.TPESampler(n_startup_trials=8, seed=SEED),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=3),
    )
    for params in settings["params"]:
        study.enqueue_trial(params)
    study.optimize(lambda trial: _train(trial, settings["passes"]), n_trials=len(settings["params"]))
    return [list(trial.intermediate_values.values()) for trial in study.trials]


def _train(trial: optuna.Trial, passes: int) -> float:
    params: dict[str, Any] = {
        "batch_size": trial.suggest_categorical("batch_size", [16, 32, 64, 128, 256]),
        "optimizer": trial.suggest_categorical("optimizer", ["sgd", "adam"]),
        "lr": trial.suggest_float("lr", 1e-4, 1e-1, log=True),
    }
    if params["optimizer"] == "sgd":
        params["momentum"] = trial.suggest_float("momentum", 0.0, 0.99)
    params["hidden"] = trial.suggest_int("hidden", 16, 256, step=16)
    params["dropout"] = trial.suggest_float("dropout", 0.0, 0.5)
    values = []
    for value in train_by_hand(trial.number, params, passes):
        values.append(value)
        trial.report(value, len(values))
        if trial.should_prune():
            raise optuna.TrialPruned
    return min(values)


if __name__ == "__main__":
    json.dump(main(json.loads(sys.argv[1])), sys.stdout)
