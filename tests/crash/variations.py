"""The studies of the crash tests: one base, and what each variation of it changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ALL_IN_PACKS", "BASE", "PRUNERS", "SAMPLERS", "VARIATIONS", "Variation"]

TRIAL_EXAMPLES, VIRTUAL_EPOCHS = 220, 4

_BASE: dict[str, Any] = {
    "name": "crash",
    "trainable": "train.py:train",
    "objective": {"metric": "val_loss", "direction": "minimize"},
    "budget": {"passes": 2.3, "virtual_epochs": VIRTUAL_EPOCHS},  # 220 of 96 examples: 55 to a virtual epoch
    "parameters": {
        "batch_size": {"type": "categorical", "choices": [7, 16, 25]},
        "lr": {"type": "float", "low": 1e-3, "high": 0.3, "log": True},
        "hidden": {"type": "int", "low": 3, "high": 8},
    },
    "n_trials": 7,
    "threads_per_worker": 1,
    "lease": "5s",  # only over where an owner cannot be told dead; somebody waits for it then
    "seed": 5,
    "sampler": {"name": "tpe", "n_startup_trials": 2},
    "pruner": {"name": "median", "n_startup_trials": 2, "n_warmup_steps": 1},
}


@dataclass(frozen=True)
class Variation:
    """One study.

    Args:
        name: For the table.
        changes: Keys of the study file unlike the base's; ``parameters`` are added to the base's.
        interval: Longest way between two checkpoints [examples].
        num_trials: How many trials it ends with.
        shows: What must be found in its outcome, or it is not the study it is named after.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    interval: int = TRIAL_EXAMPLES // VIRTUAL_EPOCHS
    num_trials: int = _BASE["n_trials"]
    shows: str = "PRUNED"

    @property
    def virtual_epoch_examples(self) -> int:
        """Length of a virtual epoch [examples]; the same in all of them."""
        return TRIAL_EXAMPLES // VIRTUAL_EPOCHS

    @property
    def study(self) -> dict[str, Any]:
        """The study file's content."""
        changes = dict(self.changes)
        parameters = {**_BASE["parameters"], **changes.pop("parameters", {})}
        return {**_BASE, "n_trials": self.num_trials, "parameters": parameters, **changes}

    def write(self, folder: Path, storage: str | None = None) -> Path:
        """Write study file and trainable into a new folder; returns the folder."""
        folder.mkdir(parents=True)
        study = self.study if storage is None else {**self.study, "storage": storage}
        (folder / "study.yaml").write_text(json.dumps(study, indent=1))  # JSON is YAML
        shutil.copy(Path(__file__).with_name("user_code.py"), folder / "train.py")
        return folder


BASE = Variation("base")
ALL_IN_PACKS = Variation("all in packs", {"checkpoint": {"in_database": "off"}})

_FLOATS_ONLY = {"lr": _BASE["parameters"]["lr"], "dropout": {"type": "float", "low": 0.0, "high": 0.5}}
_GRID = {
    "batch_size": 16,
    "lr": {"type": "categorical", "choices": [0.01, 0.1]},
    "hidden": {"type": "categorical", "choices": [3, 5, 8]},
}

_NONE = {"name": "nop"}  # most samplers learn from complete trials only

SAMPLERS = (
    Variation(
        "sampler tpe, grouped",
        {"sampler": {"name": "tpe", "n_startup_trials": 2, "group": True}},
        shows="tpe:relative_params",
    ),
    Variation("sampler random", {"sampler": {"name": "random"}}),
    Variation(
        "sampler cmaes",
        {
            "sampler": {"name": "cmaes", "n_startup_trials": 2},
            "pruner": _NONE,
            "parameters": {"batch_size": 16, **_FLOATS_ONLY},
        },
        shows="tunesafe:cma:generation",
    ),
    Variation(
        "sampler gp",
        {"sampler": {"name": "gp", "n_startup_trials": 2}, "pruner": _NONE},
        num_trials=6,
        shows="gp:relative_params",
    ),
    Variation(
        "sampler nsgaii",
        {"sampler": {"name": "nsgaii", "population_size": 3}, "pruner": _NONE},
        num_trials=9,
        shows="NSGAIISampler:generation",
    ),
    Variation("sampler qmc", {"sampler": {"name": "qmc"}, "parameters": {"batch_size": 16, **_FLOATS_ONLY}}),
    # Six points for ten trials: the study ends with six.
    Variation("sampler grid", {"sampler": {"name": "grid"}, "parameters": _GRID, "n_trials": 10}, num_trials=6),
)

PRUNERS = (
    Variation("pruner successive halving", {"pruner": {"name": "successive_halving", "reduction_factor": 2}}),
    Variation("pruner hyperband", {"pruner": {"name": "hyperband", "reduction_factor": 2}}, num_trials=9),
    Variation(
        "pruner patient",
        {
            "pruner": {
                "name": "patient",
                "patience": 0,
                "wrapped_pruner": {"name": "percentile", "percentile": 1.0, "n_startup_trials": 1},
            }
        },
    ),
    Variation("pruner none", {"pruner": _NONE}, shows="COMPLETE"),
)

_CONDITIONAL = {
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.95, "when": {"optimizer": "sgd"}},
    "dropout": {"type": "float", "low": 0.0, "high": 0.4},
}
_MID_EPOCH = {"mid_epoch": True, "every": {"examples": 30}}

VARIATIONS = (
    Variation("class door", {"trainable": "train.py:Net"}),
    Variation(
        "loader, 2 workers",
        {"trainable": "train.py:train_augmented", "parameters": {"num_workers": 2}},
        num_trials=4,
    ),
    Variation(
        "loader, mid epoch",
        {"trainable": "train.py:train_augmented", "parameters": {"num_workers": 0}, "checkpoint": _MID_EPOCH},
        interval=30 + 25,
    ),
    Variation(
        "select best",
        {
            "objective": {"metric": "val_loss", "direction": "minimize", "select": "best"},
            "checkpoint": {"every": {"virtual_epochs": 3}, "keep": {"last": 1, "best": 2, "study_best": 2}},
        },
        interval=3 * 55,
    ),
    Variation("accumulate", {"parameters": {"accumulate": 3, "batch_size": {"type": "int", "low": 2, "high": 9}}}),
    Variation(
        "batching whole", {"budget": {"passes": 2.3, "virtual_epochs": 4, "batching": "whole"}}, interval=55 + 25
    ),
    Variation("mid epoch", {"checkpoint": _MID_EPOCH}, interval=30 + 25),
    Variation(
        "mid epoch, whole, accumulate",
        {
            "budget": {"passes": 2.3, "virtual_epochs": 4, "batching": "whole"},
            "parameters": {"accumulate": 2, "batch_size": 6},
            "checkpoint": {"mid_epoch": True, "every": {"virtual_epochs": 2, "examples": 40}},
        },
        interval=40 + 12,
    ),
    Variation(
        "early stopping",
        {"early_stopping": {"patience": 1, "min_delta": 0.02}, "pruner": _NONE},
        shows="early stopping",
    ),
    Variation("conditional parameters", {"parameters": _CONDITIONAL}, num_trials=8, shows="momentum"),
    Variation(
        "initial trials",
        {"initial_trials": [{"lr": 0.01}, {"lr": 0.1, "batch_size": 7, "hidden": 4}, {"hidden": 8}]},
    ),
    Variation(
        "schedule and weights", {"trainable": "train.py:train_scheduled", "checkpoint": _MID_EPOCH}, interval=30 + 25
    ),
    Variation(
        "all that has state",
        {
            "trainable": "train.py:train_with_everything",
            "parameters": {"dropout": 0.3},
            "checkpoint": {"mid_epoch": True, "every": {"examples": 17}},
        },
        interval=17 + 25,
    ),
    Variation(
        "every ending", {"trainable": "train.py:train_until_enough", "pruner": _NONE}, num_trials=9, shows="FAIL"
    ),
    # When a checkpoint is due depends on the time here, so only the last of a trial is the same in every run.
    Variation(
        "checkpoint auto",
        {"checkpoint": {"mid_epoch": True, "every": "auto", "keep": {"last": 1, "best": 0, "study_best": 0}}},
        interval=TRIAL_EXAMPLES,
    ),
    Variation(
        "weights only",
        {"checkpoint": {"keep": {"last": 1, "best": 1, "every": 2, "finished": "weights"}}},
        shows="null, null",
    ),
    Variation("blobs elsewhere", {"blobs": "blobs"}),
    ALL_IN_PACKS,
    Variation("all in blobs elsewhere", {"blobs": "blobs", "checkpoint": {"in_database": "off"}}),
    Variation("maximize", {"objective": {"metric": "val_loss", "direction": "maximize"}}),
)
