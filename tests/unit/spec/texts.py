"""Study files for the tests: the one of the design, and ways to spoil it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesafe.errors import ExitCode, SpecError
from tunesafe.spec import StudySpec, load_spec, spec_from_mapping

STUDY = """\
# yaml-language-server: $schema=study.schema.json
name: digits
trainable: digits.py:train          # FILE.py:NAME relative to this file, or package.module:NAME
storage: sqlite:///digits.db
objective: {metric: val_loss, direction: minimize, select: last}   # select: last | best

budget:
  passes: 14.3                      # times over the training set, may be fractional
  virtual_epochs: 15
  examples_per_pass: 1437
  batching: exact                   # exact | whole

parameters:                         # a mapping is searched, a bare scalar is a constant
  batch_size: {type: categorical, choices: [16, 32, 64, 128]}
  optimizer:  {type: categorical, choices: [sgd, adam]}
  lr:         {type: float, low: 1.0e-4, high: 1.0e-1, log: true}
  hidden:     {type: int, low: 16, high: 256, step: 16}
  momentum:   {type: float, low: 0.0, high: 0.99, when: {optimizer: sgd}}
  weight_decay: 1.0e-4

n_trials: 50
n_workers: 1
threads_per_worker: 1
seed: 17
timeout: 2h
sampler: {name: tpe}
pruner: {name: hyperband, reduction_factor: 3}
initial_trials: [{lr: 0.01, batch_size: 32}]
early_stopping: {patience: 5, min_delta: 0.0}
checkpoint:
  every: {virtual_epochs: 1}
  mid_epoch: false
  keep: {last: 1, best: 1, study_best: 1}
retries: 3
max_failures: 5
lease: 60s
trackers: [tensorboard]
"""
"""The example of the design, line for line."""


def load(text: str | bytes, folder: Path, *overrides: str) -> StudySpec:
    """Read a study file of this content."""
    file = folder / "study.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_spec(file, overrides)


def spoil(old: str, new: str) -> str:
    """The study with its first ``old`` replaced."""
    assert old in STUDY
    return STUDY.replace(old, new, 1)


def refusal(text: str | bytes, folder: Path, *overrides: str) -> str:
    """The error that reading it gives, with the folder left out; nothing may have been created."""
    with pytest.raises(SpecError) as caught:
        load(text, folder, *overrides)
    assert caught.value.exit_code == ExitCode.USAGE
    assert [entry.name for entry in folder.iterdir()] == ["study.yaml"]
    return str(caught.value).replace(f"{folder}/", "")


def mapping(**changes: Any) -> dict[str, Any]:
    """A small study for the Python door."""
    small = {
        "name": "small",
        "objective": {"metric": "loss", "direction": "minimize"},
        "budget": {"examples": 1000, "virtual_epochs": 4},
        "parameters": {"lr": {"type": "float", "low": 0.001, "high": 1.0, "log": True}, "batch_size": 10},
        "n_trials": 5,
    }
    return small | changes


def small(**changes: Any) -> StudySpec:
    """The small study, validated."""
    return spec_from_mapping(mapping(**changes), base=Path("/somewhere"))
