"""The Python door."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import tunesafe
from tunesafe.api import Study, TrialState
from tunesafe.contracts import Notice
from tunesafe.errors import ExitCode, SpecError, StorageError, TunesafeError

OBJECTIVE = {"metric": "loss", "direction": "minimize"}
BUDGET = {"examples": 24, "virtual_epochs": 2}
LR = {"lr": {"type": "float", "low": 0.01, "high": 0.1}}


class Tied(nn.Module):
    """Two names for one weight, in half precision, and one stored column by column."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(3, 3, bias=False).to(torch.bfloat16)
        self.decode = nn.Linear(3, 3, bias=False)
        self.decode.weight = self.encode.weight
        self.columns = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())


def train(trial: tunesafe.Trial) -> None:
    """Train next to nothing."""
    print("training", trial.number)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=trial.params["lr"])
    trial.track(anything=model, optimizer=optimizer)
    follow(trial, model, optimizer)


def train_two(trial: tunesafe.Trial) -> None:
    """Track two modules beside what is none."""
    model, optimized = Tied(), nn.Linear(1, 1)
    optimizer = torch.optim.SGD(optimized.parameters(), lr=trial.params["lr"])
    trial.track(model=model, generator=optimized, optimizer=optimizer, notes={"weight": torch.ones(2)})
    follow(trial, optimized, optimizer)


def follow(trial: tunesafe.Trial, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The loop of both."""
    x = torch.linspace(0, 1, 12).reshape(12, 1)
    for epoch in trial.virtual_epochs((x, 2 * x), batch_size=4):
        for inputs, targets in epoch:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()
        with torch.no_grad():
            trial.report(loss=nn.functional.mse_loss(model(x), 2 * x))


def make(folder: Path, trainable: Callable[..., Any] | str = train, **options: Any) -> Study:
    """A study of two trials in a folder."""
    keys = {"n_trials": 2, "threads_per_worker": 1, "pruner": {"name": "nop"}, **options}
    return Study(
        name="door", trainable=trainable, parameters=LR, budget=BUDGET, objective=OBJECTIVE, folder=folder, **keys
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, list[Notice]]:
    """A study that has run, and what it told meanwhile."""
    study, told = make(tmp_path_factory.mktemp("door")), list[Notice]()
    result = study.run(told.append)
    assert result.exit_code is ExitCode.OK, result.message
    return study, told


def test_a_run_tells_what_happens(finished: tuple[Study, list[Notice]]) -> None:
    """Every trial's start, reports and end, in order."""
    _, told = finished
    assert [notice.kind for notice in told if notice.number == 1] == [
        "claimed", "output", "reported", "reported", "completed",
    ]  # fmt: skip
    assert told[0].kind == "opened"


def test_running_again_finds_nothing_to_do(finished: tuple[Study, list[Notice]]) -> None:
    """Same command, same answer."""
    study, _ = finished
    before = study.trials
    result = study.run()
    assert result.exit_code is ExitCode.OK
    assert "nothing to do" in result.message
    assert study.trials == before


def test_trials_are_values(finished: tuple[Study, list[Notice]]) -> None:
    """All there is to know of a trial, frozen, with aware times."""
    study, _ = finished
    for number, trial in enumerate(study.trials):
        assert (trial.number, trial.state, trial.attempts) == (number, TrialState.COMPLETE, 1)
        assert set(trial.params) == {"lr"}
        assert list(trial.metrics) == [1, 2]
        assert trial.value == trial.metrics[2]["loss"]
        assert trial.examples_seen == 24
        assert trial.selected_virtual_epoch == 2
        assert trial.started is not None
        assert trial.ended is not None
        assert trial.started.tzinfo is UTC
        assert trial.started <= trial.ended
        assert study.trial(number) == trial
        assert [chunk.text for chunk in study.logs(number)] == [f"training {number}\n"]
        assert [event.kind for event in study.events(number)] == ["claimed", "completed"]


def test_the_best_trial_has_the_least_value(finished: tuple[Study, list[Notice]]) -> None:
    """And ``status`` names the same."""
    study, _ = finished
    best, status = study.best_trial, study.status()
    assert best == min(study.trials, key=lambda trial: (trial.value, trial.number))
    assert status.best is not None
    assert best is not None
    assert status.best.number == best.number
    assert status.finished
    assert status.counts[TrialState.COMPLETE] == status.num_ended == status.n_trials == 2
    assert status.total_examples == 24


def test_a_stored_study_is_read_by_its_place_and_not_run(finished: tuple[Study, list[Notice]]) -> None:
    """Everything but running works without the file and the code."""
    study, _ = finished
    stored = tunesafe.open_stored(study.spec.storage, "door")
    assert stored.trials == study.trials
    assert stored.spec == study.spec
    assert tunesafe.open_stored(study.spec.storage).spec.name == "door"
    with pytest.raises(SpecError, match="name its study file"):
        stored.run()
    with pytest.raises(StorageError, match="It holds: door"):
        tunesafe.open_stored(study.spec.storage, "other")


def test_a_watcher_that_fails_harms_no_trial(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A closed terminal is no reason to fail a trial: the run goes on, and a log says so once."""

    def gone(notice: Notice) -> None:
        raise BrokenPipeError("nobody reads this")

    study = make(tmp_path)
    assert study.run(gone).exit_code is ExitCode.OK
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    assert [record.name for record in caplog.records if "watched" in record.message] == ["tunesafe.api.running"]


@pytest.mark.parametrize("number", [2, 99, -1])
def test_a_trial_that_is_not_there_is_an_error(number: int, finished: tuple[Study, list[Notice]]) -> None:
    """That names those there are."""
    with pytest.raises(SpecError, match="its trials are 0 to 1"):
        finished[0].trial(number)


def test_reading_a_study_that_was_never_run_creates_nothing(tmp_path: Path) -> None:
    """Not even a file."""
    study = make(tmp_path)
    for read in (study.status, lambda: study.trials, lambda: study.best_trial, lambda: study.export(tmp_path / "out")):
        with pytest.raises(StorageError, match="Nothing was created"):
            read()
    assert list(tmp_path.iterdir()) == []


def test_checking_creates_nothing(tmp_path: Path) -> None:
    """And says how long a trial is, where that is known."""
    plan = make(tmp_path).check()
    assert plan.total_examples == 24
    assert plan.searched == ("lr",)
    assert list(tmp_path.iterdir()) == []


def test_a_function_of_a_notebook_runs_alone(tmp_path: Path) -> None:
    """It needs no name that another process could find; its text is stored with the study."""

    def inner(trial: tunesafe.Trial) -> None:
        train(trial)

    assert make(tmp_path, inner).run().exit_code is ExitCode.OK
    make(tmp_path).export(tmp_path / "out")
    assert "def inner(" in (tmp_path / "out" / "source" / "notebook.py").read_text()


def test_a_function_of_a_notebook_is_refused_for_several_workers(tmp_path: Path) -> None:
    """With the reason and the two ways out."""
    with pytest.raises(SpecError, match="another function") as refused:
        make(tmp_path, lambda trial: None, n_workers=2)
    assert "n_workers=1" in str(refused.value)
    assert make(tmp_path, train, n_workers=2).spec.n_workers == 2


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"n_trails": 3}, "n_trails"),
        ({"seed": -1}, "seed"),
        ({"trainable": 3}, "trainable"),
        ({"n_trials": 0}, "n_trials"),
    ],
)
def test_wrong_keys_are_refused(options: dict[str, Any], fragment: str, tmp_path: Path) -> None:
    """As in a study file, by key path."""
    with pytest.raises(SpecError, match=fragment):
        make(tmp_path, **options)


def test_the_only_module_is_exported_as_model(finished: tuple[Study, list[Notice]], tmp_path: Path) -> None:
    """Whatever name it was tracked under; with the trial's whole story."""
    study, _ = finished
    folder = study.export(tmp_path / "deep" / "out", trial=1)
    model = nn.Linear(1, 1)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    story = json.loads((folder / "trial.json").read_text())
    assert story["number"] == 1
    assert story["parameters"] == dict(study.trial(1).params)
    assert story["weights"] == {"model": "model.safetensors"}
    assert story["seeds"]["trial"] != story["seeds"]["study"]
    assert ["def train(" in file.read_text() for file in folder.rglob("test_api.py")] == [True]
    x = torch.linspace(0, 1, 12).reshape(12, 1)
    with torch.no_grad():
        assert nn.functional.mse_loss(model(x), 2 * x).item() == study.trial(1).value


def test_tied_half_precision_and_transposed_weights_survive_export(tmp_path: Path) -> None:
    """Every name is in the file, with its element type; other modules are files of their own."""
    study = make(tmp_path, train_two, n_trials=1)
    assert study.run().exit_code is ExitCode.OK
    folder = study.export(tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors", "generator.safetensors", "trial.json", "source",
    }  # fmt: skip
    weights, fresh = load_file(folder / "model.safetensors"), Tied()
    fresh.load_state_dict(weights)
    assert weights["encode.weight"].dtype is torch.bfloat16
    assert torch.equal(weights["encode.weight"], weights["decode.weight"])
    assert torch.equal(weights["columns"], torch.arange(6.0).reshape(2, 3).t())


def test_export_wants_a_folder_of_its_own(finished: tuple[Study, list[Notice]], tmp_path: Path) -> None:
    """An empty one will do; nothing is ever overwritten, and nothing half-written is left."""
    study, _ = finished
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SpecError, match="not an empty folder"):
        study.export(tmp_path)
    (tmp_path / "empty").mkdir()
    study.export(tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "mine.txt"]


def test_a_checkpoint_that_is_not_kept_is_an_error(finished: tuple[Study, list[Notice]], tmp_path: Path) -> None:
    """That names those there are."""
    with pytest.raises(SpecError, match="It has those of virtual epoch 2"):
        finished[0].export(tmp_path / "out", trial=0, virtual_epoch=1)


def test_a_trial_without_a_module_has_no_weights(tmp_path: Path) -> None:
    """And the error says what to track."""

    def notes_only(trial: tunesafe.Trial) -> None:
        trial.track(notes={})
        for epoch in trial.virtual_epochs((torch.zeros(12, 1),), batch_size=4):
            for _ in epoch:
                pass
            trial.report(loss=1.0)

    study = make(tmp_path, notes_only, n_trials=1)
    assert study.run().exit_code is ExitCode.OK
    with pytest.raises(TunesafeError, match=r"trial\.track\(model="):
        study.export(tmp_path / "out")
