"""Studies that train in a moment, run by one worker in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tunesafe
from tests.unit.study.studies import PROGRAM, Desk, opened, spec_of
from tunesafe.contracts import Notice
from tunesafe.executors import RunResult, run_study
from tunesafe.study.settling import Program

X = torch.arange(10.0).reshape(10, 1)

Train = Callable[[tunesafe.Trial], None]


class Bench:
    """A study in a folder, run as often as a test wants.

    Args:
        folder: Its own.
        url: Its database.
        keys: What is unlike the base's in its study file.
    """

    def __init__(self, folder: Path, url: str, **keys: Any) -> None:
        self.folder, self.url, self.keys = folder, url, keys
        self.told: list[Notice] = []

    def run(self, train: Train, program: Program = PROGRAM, **changes: Any) -> RunResult:
        """``tunesafe run``, once."""
        self.told.clear()
        spec = spec_of(self.url, **{**self.keys, **changes})
        return run_study(spec, lambda: train, program, folder=self.folder, watch=self.told.append)

    def kinds(self, number: int | None = None) -> list[str]:
        """What was told of a trial, or of the study."""
        return [notice.kind for notice in self.told if notice.number == number]

    def look(self, question: Callable[[Desk], Any]) -> Any:
        """Ask what is stored."""
        with opened(self.url, **self.keys) as study:
            return question(Desk(study))


def report_all(trial: tunesafe.Trial, value: Callable[[int], float]) -> None:
    """A whole trial that trains nothing and reports what it is told to."""
    trial.track(notes={"seen": 0})
    for epoch in trial.virtual_epochs((X,), batch_size=5):
        for _ in epoch:
            pass
        trial.report(loss=value(epoch.index))


def fine(trial: tunesafe.Trial) -> None:
    """A trial that improves."""
    report_all(trial, lambda virtual_epoch: 1.0 / virtual_epoch)
