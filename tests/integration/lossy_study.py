"""A small study that runs in this process, and all that it has come to, as plain values."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import select

from tests.plain_optuna import optuna_trials
from tunesafe.contracts import Notice
from tunesafe.errors import ExitCode
from tunesafe.executors.here import run_study
from tunesafe.spec import StudySpec, spec_from_mapping
from tunesafe.store import tables
from tunesafe.store.engine import read_only_engine, reading
from tunesafe.study.settling import Program

__all__ = ["outcome", "run", "spec_at"]

PROGRAM = Program("name: lossy\n", {"train.py": "x = 1\n"}, "one")
LEFT_OUT = ("study", "recorded_at", "created_at", "claimed_at", "ended_at", "at", "host", "pid", "token")
SEAL = re.compile(r'(, )?"\$seal": "\w+"')
"""Of the row and the study it stands in, which are not the same in two studies."""
LEFT_OUT += ("owner_json", "lease_expires_at", "event_id", "checkpoint_id", "digest")


def train(trial: Any) -> None:
    """A line is fitted, with momentum, noise and words."""
    print(f"hello from trial {trial.number}")
    data = torch.arange(24.0).reshape(24, 1) / 24
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=trial.params["lr"], momentum=trial.params["momentum"])
    trial.track(model=model, optimizer=optimizer)
    for epoch in trial.virtual_epochs((data, 2 * data), batch_size=8):
        for x, y in epoch:
            loss = ((model(x + 0.01 * torch.randn_like(x)) - y) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            trial.report(loss=((model(data) - 2 * data) ** 2).mean())
    trial.result(test_loss=1.0)


def spec_at(url: str, **changes: Any) -> StudySpec:
    """The study file's content."""
    keys: dict[str, Any] = {
        "name": "lossy",
        "trainable": "train.py:train",
        "storage": url,
        "objective": {"metric": "loss", "direction": "minimize"},
        "budget": {"examples": 72, "virtual_epochs": 3},
        "parameters": {
            "lr": {"type": "float", "low": 0.001, "high": 0.5, "log": True},
            "momentum": {"type": "float", "low": 0.0, "high": 0.9},
        },
        "n_trials": 5,
        "seed": 3,
        "sampler": {"name": "tpe", "n_startup_trials": 2},
        "pruner": {"name": "successive_halving", "min_resource": 1, "reduction_factor": 2},
        "threads_per_worker": 1,
    }
    return spec_from_mapping(keys | changes, base=Path("/"))


def run(spec: StudySpec, folder: Path, watch: Callable[[Notice], None] = lambda notice: None) -> None:
    """The study in this process; it must end well."""
    result = run_study(spec, lambda: train, PROGRAM, folder=folder, watch=watch)
    assert result.exit_code is ExitCode.OK, result


def outcome(spec: StudySpec) -> dict[str, Any]:
    """All that a study has come to, ours and Optuna's: fences, events and words included; when and where left out."""
    found: dict[str, Any] = {}
    engine = read_only_engine(spec.storage)
    with reading(engine) as connection:
        for table in (tables.trials, tables.records, tables.checkpoints, tables.logs):
            columns = [column for column in table.c if column.name not in LEFT_OUT]
            found[table.name] = sorted(SEAL.sub("", repr(row)) for row in connection.execute(select(*columns)))
        found["text"] = sorted(
            (row.number, row.text) for row in connection.execute(select(tables.logs.c.number, tables.logs.c.text))
        )
        found["events"] = Counter(
            (row.kind, row.number, row.details_json)
            for row in connection.execute(select(tables.events))
            if row.kind != "storage_back"
        )
        found["blobs"] = sorted(connection.execute(select(tables.blobs.c.hash)).scalars())
    engine.dispose()
    found["optuna"] = [
        (
            t.number,
            t.state,
            t.values,
            t.params,
            t.intermediate_values,
            t.user_attrs,
            json.dumps(t.system_attrs, sort_keys=True),
        )
        for t in optuna_trials(spec.storage, spec.name)
    ]
    return found
