"""Names as people give them, through a whole study: drawn, trained with, shown, exported, continued."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest

from tests.integration.cli_project import TRAIN, tunesafe, tunesafe_here, write_project
from tunesafe.api import load_study
from tunesafe.cli import main

STUDY = """\
name: größere Versuche 1.2
trainable: train.py:train
objective: {metric: loss, direction: minimize}
budget: {examples: 64, virtual_epochs: 8, batching: whole}
parameters:
  optimizer: {type: categorical, choices: [sgd, adam]}
  optimizer.lr: {type: float, low: 1.0e-3, high: 1.0e-1, log: true}
  größe/x: {type: int, low: 1, high: 8, when: {optimizer.lr: 0.05}}
  学習 率: {type: float, low: 0, high: 1}
  batch_size: 16
  weight decay: 0.5
n_trials: 4
seed: 1
threads_per_worker: 1
pruner: {name: nop}
"""
CODE = TRAIN.replace('trial.params["lr"]', 'trial.params["optimizer.lr"] * trial.params["学習 率"]').replace(
    "    x = torch", '    assert trial.params["weight decay"] == 0.5\n    x = torch'
)
SETTINGS = [
    "--set", "parameters.optimizer.lr.high=0.2",
    "--set", "initial_trials.0.optimizer.lr=0.05",
    "--set", "initial_trials.0.größe/x=3",
    "--set", "sampler.n_startup_trials=2",
]  # fmt: skip


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints to standard output; it must end with 0."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    assert not ended.value.code, printed.err
    return printed.out


def test_a_study_of_names_with_dots_spaces_and_letters_of_any_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Drawn by Optuna after its startup trials too, under the same names everywhere, and found again."""
    folder = tmp_path / "a folder, 100%41 größer"
    write_project(folder, study=STUDY, train=CODE)
    monkeypatch.chdir(folder)
    run = tunesafe("run", "study.yaml", *SETTINGS, cwd=folder)
    assert run.code == 0, run.err
    database = folder / "größere Versuche 1.2.db"
    assert database.exists()

    drawn = {"optimizer", "optimizer.lr", "学習 率"}
    everything = {*drawn, "batch_size", "weight decay"}
    trials = load_study("study.yaml").trials
    assert [set(trial.params) for trial in trials] == [{*everything, "größe/x"}, *[everything] * 3]
    assert (trials[0].params["optimizer.lr"], trials[0].params["größe/x"]) == (0.05, 3)
    study = optuna.load_study(study_name="größere Versuche 1.2", storage=load_study("study.yaml").spec.storage)
    assert [set(trial.params) for trial in study.trials] == [{*drawn, "größe/x"}, *[drawn] * 3]

    page = said(capsys, "status", "study.yaml")
    assert "study größere Versuche 1.2: 4 of 4 trials ended (4 complete)" in page
    assert "  学習 率=0." in page
    assert "batch size of at least one trial: some may have no batch of their own" in page
    url = page.splitlines()[1].removeprefix("storage ")
    shown = json.loads(said(capsys, "show", f"{url}#größere Versuche 1.2", "0", "--json"))
    assert shown["parameters"] == dict(trials[0].params)
    assert "\n    größe/x = 3\n" in said(capsys, "show", "0")

    exported = json.loads(said(capsys, "export", url, "--trial", "0", "-o", "out", "--json"))
    assert exported == {
        "study": "größere Versuche 1.2", "number": 0, "state": "complete", "value": trials[0].value,
        "virtual_epoch": 8, "examples_seen": 64, "directory": str(folder / "out"),
        "files": ["model.safetensors", "source/train.py", "trial.json"],
    }  # fmt: skip
    assert json.loads((folder / "out" / "trial.json").read_text())["parameters"] == dict(trials[0].params)

    again = tunesafe_here("run", "study.yaml", *SETTINGS, cwd=folder)
    assert again.code == 0, again.err
    assert again.err.splitlines()[-1].startswith("nothing to do: 4 trials")
