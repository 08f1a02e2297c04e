"""Drawing on a terminal, with rich: a run's bars, and a page that is redrawn.

Imported only where a person watches: rich takes longer to import than ``status`` to answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from tunesafe.api import Study
from tunesafe.cli import render
from tunesafe.cli.narration import ENDINGS, Narrator
from tunesafe.contracts import Notice

__all__ = ["Scene", "redrawn", "scene"]


class Scene:
    """One bar for the study and one for each trial at work; endings scroll past above them.

    Args:
        study: What is watched.
        bars: Where the bars are.
        say: Writes a line above them.
    """

    def __init__(self, study: Study, bars: Progress, say: Callable[[str], None]) -> None:
        objective = study.spec.objective
        self._narrate = Narrator(study.spec.name, objective.metric)
        self._metric, self._sign = objective.metric, 1 if objective.direction == "minimize" else -1
        self._bars, self._say, self._epochs = bars, say, study.spec.budget.virtual_epochs
        self._study = bars.add_task(study.spec.name, total=study.spec.n_trials, note="")
        self._trials: dict[int, TaskID] = {}
        self._bests: dict[int, float] = {}
        self._ended_before, self._ended_now = 0, set[int]()
        self._best: tuple[float, int] | None = None

    def __call__(self, notice: Notice) -> None:
        """Draw the notice."""
        number = notice.number
        if notice.kind == "opened":
            self._ended_before = notice.details["ended"]
        elif number is not None and notice.kind in ("claimed", "resumed", "reclaimed"):
            self._enter(number)
        elif number is not None and notice.kind == "reported":
            self._advance(number, notice.details)
            return
        elif number is not None and notice.kind in (*ENDINGS, "released"):
            self._leave(number, notice)
        self._say(self._narrate(notice))
        self._update_study()

    def _enter(self, number: int) -> None:
        if number not in self._trials:
            self._trials[number] = self._bars.add_task(f"  trial {number}", total=self._epochs, note="")

    def _advance(self, number: int, details: Any) -> None:
        self._enter(number)
        value, epoch = details["value"], details["virtual_epoch"]
        best = self._bests.get(number)
        if best is None or self._sign * value < self._sign * best:
            best = self._bests[number] = value
        note = (
            f"virtual epoch {epoch}/{self._epochs}  {render.examples(details['examples_seen'])} examples  "
            f"{self._metric} {render.number(value)}  best {render.number(best)}"
        )
        self._bars.update(self._trials[number], completed=epoch, note=note)

    def _leave(self, number: int, notice: Notice) -> None:
        if number in self._trials:
            self._bars.remove_task(self._trials.pop(number))
        if notice.kind != "released":
            self._ended_now.add(number)
        value = notice.details.get("value")
        if notice.kind == "completed" and value is not None:
            self._best = min(self._best or (self._sign * value, number), (self._sign * value, number))

    def _update_study(self) -> None:
        ended = self._ended_before + len(self._ended_now)
        note = f"{ended} ended"
        if self._best is not None:
            note += f"  best trial {self._best[1]} with {self._metric} {render.number(self._sign * self._best[0])}"
        self._bars.update(self._study, completed=ended, note=note)


@contextmanager
def scene(study: Study, stream: TextIO) -> Iterator[Scene]:
    """A scene on a terminal while the block runs."""
    console = Console(file=stream, highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[note]}")
    # No redirection: user code's streams are captured, and what it prints arrives as notices.
    bars = Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False)
    bars.start()
    try:
        yield Scene(study, bars, lambda text: console.print(text, markup=False, soft_wrap=True))
    finally:
        with suppress(OSError):  # the terminal is gone; how the run ended is what counts
            bars.stop()


def redrawn(page: Callable[[], tuple[str, bool]], seconds: float) -> None:
    """Draw a page over and over.

    Args:
        page: Gives its text, and whether it is the last.
        seconds: Time between two looks [s].
    """
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            text, last = page()
            live.update(Text(text), refresh=True)
            if last:
                return
            time.sleep(seconds)
