"""Plain Optuna's side of ``untrained.py``: the same trials of the same study by ask, suggest, report and tell.

``python bench/plain_untrained.py SETTINGS`` takes a trial for every line it reads, and prints its stamps.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter
from typing import Any

import optuna
from large import NAME, SEED, VIRTUAL_EPOCHS, Stamps, made_up_value

from tunesafe.store.engine import apply_pragmas, connect_kwargs


def main(settings: dict[str, Any]) -> None:
    """Load a study and add trials to it.

    Args:
        settings: ``url`` of its database, the ``sampler`` and the ``pruner`` by name.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    stamps = Stamps(imported=perf_counter())
    storage = optuna.storages.RDBStorage(settings["url"], engine_kwargs=connect_kwargs(settings["url"]))
    apply_pragmas(storage.engine)  # WAL and FULL, as ours
    storage.engine.dispose()
    sampler = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}[settings["sampler"]]
    pruner = {"median": optuna.pruners.MedianPruner, "nop": optuna.pruners.NopPruner}[settings["pruner"]]
    study = optuna.load_study(study_name=NAME, storage=storage, sampler=sampler(seed=SEED), pruner=pruner())
    for _ in sys.stdin:
        stamps.ordered = perf_counter()
        trial = study.ask()
        stamps.asked = perf_counter()
        _suggest(trial)
        stamps.drawn = perf_counter()
        for epoch in range(1, VIRTUAL_EPOCHS + 1):
            value = made_up_value(trial.number, epoch)
            trial.report(value, epoch)
            if trial.should_prune():
                raise SystemExit("A trial was to be pruned that is better than all others.")
        study.tell(trial, value)
        stamps.ended = perf_counter()
        stamps.say()


def _suggest(trial: optuna.Trial) -> None:
    trial.suggest_categorical("batch_size", [16, 32, 64, 128, 256])
    trial.suggest_categorical("optimizer", ["sgd", "adam"])
    trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    trial.suggest_float("momentum", 0.0, 0.99)
    trial.suggest_int("hidden", 16, 256, step=16)
    trial.suggest_float("dropout", 0.0, 0.5)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
