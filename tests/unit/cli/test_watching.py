"""What a run says while it works."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr
from typing import Any

import pytest

from tunesafe.api import Study
from tunesafe.cli.narration import Narrator
from tunesafe.cli.terminal import Scene, redrawn
from tunesafe.cli.watching import watching
from tunesafe.contracts import Notice

NARRATE = Narrator("digits", "val_loss")
OPENED = {"storage": "postgresql+psycopg://me:secret@db/x", "changes": (), "n_trials": 50, "ended": 12, "begun": 13}
REPORTED = {
    "virtual_epoch": 5,
    "virtual_epochs": 15,
    "examples_seen": 6849,
    "metrics": {"accuracy": 0.9, "val_loss": 0.43123},
    "value": 0.43123,
    "verdict": "continue",
}
ENDED = {"value": 0.0712, "reason": None, "traceback": None}


@pytest.fixture
def study() -> Study:
    """A study that is only looked at."""
    return Study(
        name="digits",
        trainable="digits.py:train",
        parameters={"lr": {"type": "float", "low": 0.1, "high": 1.0}},
        budget={"examples": 100, "virtual_epochs": 15},
        objective={"metric": "val_loss", "direction": "minimize"},
        n_trials=50,
    )


@pytest.mark.parametrize(
    ("notice", "line"),
    [
        (
            Notice("opened", None, OPENED),
            "study digits: 12 of 50 trials ended, continuing; storage postgresql+psycopg://me:***@db/x",
        ),
        (Notice("claimed", 3, {"attempt": 1, "params": {"lr": 0.1, "n": 2}}), "trial 3  starts  lr=0.1  n=2"),
        (
            Notice("resumed", 3, {"attempt": 2, "examples_seen": 4790}),
            "trial 3  continues at example 4,790  attempt 2",
        ),
        (
            Notice("resumed", 3, {"attempt": 2, "params": {}, "reports": 4}),
            "trial 3  continues after virtual epoch 4  attempt 2",
        ),
        (Notice("reported", 3, REPORTED), "trial 3  virtual epoch 5/15  val_loss=0.4312  accuracy=0.9"),
        (Notice("completed", 3, ENDED), "trial 3  complete  val_loss=0.0712"),
        (Notice("pruned", 3, {**ENDED, "reason": "why"}), "trial 3  pruned  val_loss=0.0712  (why)"),
        (Notice("failed", 3, {"traceback": "a\nb\n", "reason": "no"}), "trial 3  failed  (no)\n    a\n    b"),
        (Notice("released", 3, {"reason": "SIGTERM"}), "trial 3  given back: SIGTERM"),
        (Notice("output", 3, {"text": "hello"}), "trial 3 | hello"),
        (Notice("output", 3, {"text": ""}), "trial 3 |"),
        (Notice("event", 3, {"event": "damaged", "example": 7}), "trial 3  event damaged  example=7"),
        (Notice("event", None, {"event": "exhausted"}), "event exhausted"),
    ],
    ids=lambda value: value.kind if isinstance(value, Notice) else "",
)
def test_every_notice_is_a_line(notice: Notice, line: str) -> None:
    """Short, with the trial first and without passwords."""
    assert NARRATE(notice) == line


@pytest.mark.parametrize(("ended", "begun", "word"), [(0, 0, "starting"), (0, 1, "continuing"), (50, 50, "finished")])
def test_the_first_line_says_where_the_study_stands(ended: int, begun: int, word: str) -> None:
    """So that nobody wonders whether it went on or began again."""
    line = NARRATE(Notice("opened", None, {**OPENED, "ended": ended, "begun": begun}))
    assert f"{ended} of 50 trials ended, {word};" in line


def test_lines_go_to_the_stream_there_was_at_the_start(study: Study) -> None:
    """User code's streams are captured while it trains; writing there would come back as output."""
    stream, captured = io.StringIO(), io.StringIO()
    with redirect_stderr(stream), watching(study) as watch, redirect_stderr(captured):
        watch(Notice("completed", 3, ENDED))
    assert stream.getvalue() == "trial 3  complete  val_loss=0.0712\n"
    assert captured.getvalue() == ""


class Bars:
    """Stands in for rich's ``Progress``: what each bar shows."""

    def __init__(self) -> None:
        self.shown: dict[int, dict[str, Any]] = {}

    def add_task(self, description: str, **fields: Any) -> int:
        task = max(self.shown, default=-1) + 1
        self.shown[task] = {"description": description.strip(), **fields}
        return task

    def update(self, task_id: int, **fields: Any) -> None:
        self.shown[task_id].update(fields)

    def remove_task(self, task_id: int) -> None:
        del self.shown[task_id]


def test_a_terminal_shows_the_study_and_the_trials_at_work(study: Study) -> None:
    """One bar each; a trial's goes when it ends, and its last line scrolls past."""
    bars, said = Bars(), list[str]()
    scene = Scene(study, bars, said.append)
    scene(Notice("opened", None, OPENED))
    scene(Notice("claimed", 3, {"attempt": 1, "params": {}}))
    scene(Notice("reported", 3, REPORTED))
    scene(Notice("reported", 3, {**REPORTED, "virtual_epoch": 6, "value": 0.9}))
    of_study, of_trial = bars.shown.values()
    assert of_study["completed"] == 12
    assert of_trial["description"] == "trial 3"
    assert of_trial["completed"] == 6
    assert of_trial["note"] == "virtual epoch 6/15  6,849 examples  val_loss 0.9  best 0.4312"
    scene(Notice("completed", 3, ENDED))
    assert list(bars.shown.values()) == [of_study]
    assert of_study["completed"] == 13
    assert of_study["note"] == "13 ended  best trial 3 with val_loss 0.0712"
    assert said[-1] == "trial 3  complete  val_loss=0.0712"


def test_a_real_terminal_is_drawn_on(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich takes the bars as we give them, and leaves the standard streams alone."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    with watching(study) as watch:
        assert sys.stderr is terminal
        watch(Notice("opened", None, OPENED))
        watch(Notice("claimed", 3, {"attempt": 1, "params": {"lr": 0.1}}))
        watch(Notice("reported", 3, REPORTED))
        watch(Notice("output", 3, {"text": "[bold]not markup[/bold]"}))
        watch(Notice("completed", 3, ENDED))
    assert "[bold]not markup[/bold]" in terminal.getvalue()
    assert "best trial 3" in terminal.getvalue()


def test_a_watched_page_is_drawn_until_its_last(capsys: pytest.CaptureFixture[str]) -> None:
    """``status --watch`` ends by itself when the study does."""
    pages = iter([("one trial", False), ("two trials", True)])
    redrawn(lambda: next(pages), seconds=0)
    assert "two trials" in capsys.readouterr().out
    assert next(pages, None) is None
