"""The study that trials without training are taken from: the digits study's parameters, budget and reports.

Light: whoever measures how long imports take imports this first.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

__all__ = [
    "EXAMPLES_PER_PASS",
    "FINGERPRINT",
    "NAME",
    "SEED",
    "TOTAL_EXAMPLES",
    "VIRTUAL_EPOCHS",
    "Stamps",
    "keys",
    "made_up_value",
]

NAME, FINGERPRINT, SEED = "large", "one", 17
VIRTUAL_EPOCHS, EXAMPLES_PER_PASS = 15, 1437
_PASSES = 10
TOTAL_EXAMPLES = _PASSES * EXAMPLES_PER_PASS


@dataclass(slots=True)
class Stamps:
    """When a process had what of a trial [s]; the clock is the same in all processes of a machine.

    Args:
        imported: It had imported what it needs.
        ordered: It was told to take the trial.
        asked: It had a number.
        drawn: It had all parameters.
        ended: The trial was told.
    """

    imported: float = 0.0
    ordered: float = 0.0
    asked: float = 0.0
    drawn: float = 0.0
    ended: float = 0.0

    def say(self) -> None:
        """Print it, as a line of JSON."""
        print(json.dumps(asdict(self)), flush=True)


def keys(url: str, n_trials: int, sampler: str, pruner: str, n_workers: int = 1) -> dict[str, Any]:
    """The study file's content."""
    return {
        "name": NAME,
        "trainable": "train.py:train",
        "storage": url,
        "objective": {"metric": "val_loss", "direction": "minimize"},
        "budget": {"passes": _PASSES, "virtual_epochs": VIRTUAL_EPOCHS},
        "parameters": {
            "batch_size": {"type": "categorical", "choices": [16, 32, 64, 128, 256]},
            "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
            "lr": {"type": "float", "low": 1.0e-4, "high": 1.0e-1, "log": True},
            "momentum": {"type": "float", "low": 0.0, "high": 0.99},
            "hidden": {"type": "int", "low": 16, "high": 256, "step": 16},
            "dropout": {"type": "float", "low": 0.0, "high": 0.5},
        },
        "n_trials": n_trials,
        "n_workers": n_workers,
        "threads_per_worker": 1,
        "seed": SEED,
        "sampler": {"name": sampler},
        "pruner": {"name": pruner},
    }


def made_up_value(number: int, virtual_epoch: int) -> float:
    """What a trial reports: every trial is better than all before it, so no pruner ends one."""
    return -number - virtual_epoch / (VIRTUAL_EPOCHS + 1)
