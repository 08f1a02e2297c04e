"""(c) What it costs to look at a study of a thousand trials, told in starts of ``import sqlalchemy``."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from copies import report_of
from pairs import Comparison, compare
from sqlalchemy import Connection, insert, select

import tunesafe
from tunesafe.contracts import TrialPhase
from tunesafe.store.engine import open_engine, writing
from tunesafe.store.sealing import seal, unseal
from tunesafe.store.tables import records, trials

__all__ = ["status"]

_NUM_TRIALS = 1_000
_TRAINABLE = """
import torch

def train(trial):
    for epoch in trial.virtual_epochs((torch.arange(150),), batch_size=50):
        for (x,) in epoch:
            pass
        trial.report(loss=trial.params["x"] / epoch.index)
"""
_STUDY = {
    "name": "large",
    "trainable": "large.py:train",
    "objective": {"metric": "loss", "direction": "minimize"},
    "budget": {"passes": 1, "virtual_epochs": 15},
    "parameters": {"x": {"type": "float", "low": 0.0, "high": 1.0}},
    "pruner": {"name": "nop"},
}
_SPY = """
import sys
from tunesafe.cli import main
try:
    main()
finally:
    print(*({"torch", "optuna"} & set(sys.modules)), file=sys.stderr)
"""


def status(pairs: int, quick: bool) -> Iterator[Comparison]:
    """The whole command ``tunesafe status``, as JSON."""
    with tempfile.TemporaryDirectory(prefix="tunesafe-bench-") as name:
        study = _large_study(Path(name))
        asked = [sys.executable, "-c", _SPY, "status", str(study), "--json"]
        found = subprocess.run(asked, check=True, capture_output=True, text=True)
        assert json.loads(found.stdout)["trials"]["complete"] == _NUM_TRIALS, found.stdout
        command = [sys.executable, "-m", "tunesafe", "status", str(study), "--json"]
        yield compare(
            f"status of {_NUM_TRIALS:,} trials, against python -c 'import sqlalchemy'",
            lambda: _seconds(command),
            lambda: _seconds([sys.executable, "-c", "import sqlalchemy"]),
            pairs=pairs if quick else 3 * pairs,
            unit="s",
            at_most=3.0,
        )
        print(f"    imports of torch and optuna: {found.stderr.strip() or 'none'}")
        if found.stderr.strip():
            raise SystemExit("`tunesafe status` imported what it must not.")


def _seconds(command: list[str]) -> float:
    begun = perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - begun


def _large_study(folder: Path) -> Path:
    """A study file whose database holds one trial that was trained, and its copies."""
    (folder / "large.py").write_text(_TRAINABLE, encoding="utf-8")
    file = folder / "large.yaml"
    file.write_text(json.dumps({**_STUDY, "n_trials": 1}), encoding="utf-8")  # JSON is YAML
    tunesafe.load_study(file).run()
    file.write_text(json.dumps({**_STUDY, "n_trials": _NUM_TRIALS}), encoding="utf-8")
    engine = open_engine(f"sqlite:///{folder}/large.db")
    with writing(engine) as connection:
        _copy_first(connection)
    engine.dispose()
    return file


def _copy_first(connection: Connection) -> None:
    (trial,) = connection.execute(select(trials)).mappings()
    reports = [dict(row) for row in connection.execute(select(records)).mappings()]
    numbers = range(1, _NUM_TRIALS)
    assert trial["phase"] == TrialPhase.TOLD, "the first trial was not told"
    connection.execute(insert(trials), [_trial_of(trial, number) for number in numbers])
    connection.execute(insert(records), [report_of(report, number) for number in numbers for report in reports])


def _trial_of(trial: Mapping[Any, Any], number: int) -> dict[str, Any]:
    """Another trial, the same but for its seals and a value of its own: the best has to be looked for."""
    study, original = trial["study"], trial["number"]
    params = unseal(trial["params_json"], "params", study, original)
    outcome = unseal(trial["outcome_json"], "outcome", study, original)
    outcome["value"] += number
    sealed = {
        "params_json": seal(params, "params", study, number),
        "outcome_json": seal(outcome, "outcome", study, number),
    }
    return {**trial, **sealed, "value": outcome["value"], "number": number, "token": f"{number:032}"}
