"""A run in this process: what tunesafe says from another thread is told, and is no output of the trial at hand."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

import tunesafe
from tunesafe.contracts import Notice
from tunesafe.errors import ExitCode
from tunesafe.store.depots import DepotError
from tunesafe.store.folders import FolderDepot

LIMIT_SECONDS = 20


@pytest.mark.timeout(4 * LIMIT_SECONDS, method="thread")  # one that fails here hangs for ever, signals or not
def test_a_watcher_may_print_what_the_second_place_says_while_a_trial_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The thread that copies tells of a failure in mid-trial: no waiting for itself, and nothing in the trial's log."""
    training, told, done = threading.Event(), threading.Event(), False
    look = FolderDepot.look

    def away(self: FolderDepot, name: str) -> tuple[bytes, object] | None:
        if threading.current_thread().name != "tunesafe-backup" or done:
            return look(self, name)
        training.wait(LIMIT_SECONDS)
        raise DepotError("the place is away")

    def train(trial: tunesafe.Trial) -> None:
        nonlocal done
        model = torch.nn.Linear(2, 1)
        trial.track(model=model)
        for epoch in trial.virtual_epochs((torch.zeros(12, 2), torch.zeros(12, 1)), batch_size=4):
            for _ in epoch:
                print("the trial's own")
                training.set()
                done = told.wait(LIMIT_SECONDS)
            trial.report(loss=0.5)

    def notify(notice: Notice) -> None:
        if notice.kind == "event":
            print("told:", notice.details["event"])
            told.set()

    monkeypatch.setattr(FolderDepot, "look", away)
    study = tunesafe.Study(
        name="here",
        trainable=train,
        folder=tmp_path,
        objective={"metric": "loss", "direction": "minimize"},
        parameters={"lr": {"type": "float", "low": 0.01, "high": 0.1}},
        budget={"examples": 12, "virtual_epochs": 1},
        n_trials=1,
        threads_per_worker=1,
        backup=str(tmp_path / "place"),
    )
    assert study.run(notify=notify).exit_code is ExitCode.OK
    assert done
    assert "told: backup_failed" in capsys.readouterr().out
    assert "".join(chunk.text for chunk in study.logs(0)) == "the trial's own\n" * 3
