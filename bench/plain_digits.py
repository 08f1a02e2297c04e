"""The digits study by plain Optuna and a loop written by hand, without checkpoints.

``python bench/plain_digits.py SETTINGS`` prints what it measured as JSON. It trains the very trials
that tunesafe has trained, to the last bit: it is given their parameters by ``enqueue_trial`` (its
sampler draws all the same, as it always does), and its loop takes their seeds and their order.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import optuna
import torch
from torch.nn import functional as F

from tunesafe.clock import Plan
from tunesafe.contracts import Position
from tunesafe.data.order import Order
from tunesafe.data.seeding import seed_everything
from tunesafe.seeds import trial_seed
from tunesafe.store.engine import apply_pragmas, connect_kwargs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "studies"))
from digits import build, digits

_SEED, _VIRTUAL_EPOCHS = 17, 15


def main(settings: dict[str, Any]) -> list[list[float]]:
    """Run the study; the objective's values, by trial and virtual epoch."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(settings["storage"], engine_kwargs=connect_kwargs(settings["storage"]))
    apply_pragmas(storage.engine)  # WAL and FULL, as ours
    storage.engine.dispose()
    study = optuna.create_study(
        storage=storage,
        sampler=optuna.samplers.TPESampler(n_startup_trials=8, seed=_SEED),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=3),
    )
    for params in settings["params"]:
        study.enqueue_trial(params)
    study.optimize(lambda trial: _train(trial, settings["passes"]), n_trials=len(settings["params"]))
    return [list(trial.intermediate_values.values()) for trial in study.trials]


def _train(trial: optuna.Trial, passes: int) -> float:
    (x, y), (x_valid, y_valid) = digits()
    batch_size = trial.suggest_categorical("batch_size", [16, 32, 64, 128, 256])
    name = trial.suggest_categorical("optimizer", ["sgd", "adam"])
    lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    momentum = trial.suggest_float("momentum", 0.0, 0.99) if name == "sgd" else 0.0
    hidden = trial.suggest_int("hidden", 16, 256, step=16)
    dropout = trial.suggest_float("dropout", 0.0, 0.5)
    seed = trial_seed(_SEED, trial.number)
    seed_everything(seed)
    model = build(hidden, dropout)
    if name == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=1e-4)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=1e-4)
    plan = Plan(passes * len(x), _VIRTUAL_EPOCHS, batch_size)
    order = torch.from_numpy(Order(len(x), seed).indices(0, plan.total))
    values = []
    start = 0
    for epoch in range(_VIRTUAL_EPOCHS):
        model.train()
        for batch in plan.epoch_batches(Position(start, epoch)):
            indices = order[batch.start : batch.start + batch.size]
            loss = F.cross_entropy(model(x[indices]), y[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            start = batch.start + batch.size
        model.eval()
        with torch.no_grad():
            logits = model(x_valid)
        values.append(float(F.cross_entropy(logits, y_valid)))
        (logits.argmax(1) == y_valid).float().mean().item()  # measured as ours is, reported nowhere
        trial.report(values[-1], epoch + 1)
        if trial.should_prune():
            raise optuna.TrialPruned
    return min(values)


if __name__ == "__main__":
    json.dump(main(json.loads(sys.argv[1])), sys.stdout)
