"""What ``tunesafe run`` says while it works: moving bars on a terminal, else one line per notice.

The stream is taken once, at the start: while a trial trains, ``sys.stderr`` is captured.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from tunesafe.api import Study
from tunesafe.cli import render
from tunesafe.contracts import Notice
from tunesafe.spec import mask_password, render_diff

__all__ = ["Narrator", "Scene", "watching"]

Say = Callable[[Notice], None]
_ENDINGS = {"completed": "complete", "pruned": "pruned", "failed": "failed"}


class Narrator:
    """Notices as lines of text.

    Args:
        name: The study.
        metric: The objective's metric; it comes first among the reported ones.

    Example:
        >>> details = {"virtual_epoch": 5, "virtual_epochs": 15, "metrics": {"accuracy": 0.9, "val_loss": 0.43123}}
        >>> Narrator("digits", "val_loss")(Notice("reported", 3, details))
        'trial 3  virtual epoch 5/15  val_loss=0.4312  accuracy=0.9'
    """

    def __init__(self, name: str, metric: str) -> None:
        self._name, self._metric = name, metric

    def __call__(self, notice: Notice) -> str:
        """The notice in words; may be several lines."""
        details = dict(notice.details)
        match notice.kind:
            case "opened":
                return self._opened(details)
            case "claimed":
                return self._of(notice, f"starts  {render.assignments(details.get('params') or {})}")
            case "resumed" | "reclaimed":
                return self._of(notice, self._continued(details))
            case "reported":
                return self._of(notice, self._reported(details))
            case "completed" | "pruned" | "failed":
                return self._of(notice, self._ended(notice.kind, details))
            case "released":
                return self._of(notice, f"given back: {details.get('reason') or 'it continues with the next run'}")
            case "output":
                return f"trial {notice.number} | {details['text']}".rstrip()
            case _:
                kind = details.pop("event", notice.kind)
                return self._of(notice, f"event {kind}  {render.assignments(details)}".rstrip())

    def _of(self, notice: Notice, text: str) -> str:
        return text if notice.number is None else f"trial {notice.number}  {text}"

    def _opened(self, details: dict[str, Any]) -> str:
        ended, total = details["ended"], details["n_trials"]
        standing = "finished" if ended >= total else "continuing" if details.get("begun", ended) else "starting"
        storage = mask_password(details["storage"])
        line = f"study {self._name}: {ended} of {total} trials ended, {standing}; storage {storage}"
        changes = details.get("changes")
        return f"{line}\nchanged since the last run:\n{render_diff(changes)}" if changes else line

    def _continued(self, details: dict[str, Any]) -> str:
        seen = details.get("examples_seen")
        where = f" at example {render.examples(seen)}" if seen is not None else ""
        return f"continues{where}  attempt {details.get('attempt')}"

    def _reported(self, details: dict[str, Any]) -> str:
        metrics = dict(details["metrics"])
        first = {self._metric: metrics.pop(self._metric)} if self._metric in metrics else {}
        return (
            f"virtual epoch {details['virtual_epoch']}/{details['virtual_epochs']}  "
            f"{render.assignments({**first, **metrics})}"
        )

    def _ended(self, kind: str, details: dict[str, Any]) -> str:
        parts = [_ENDINGS[kind]]
        if details.get("value") is not None:
            parts.append(f"{self._metric}={render.number(details['value'])}")
        if details.get("reason"):
            parts.append(f"({details['reason']})")
        line = "  ".join(parts)
        trace = details.get("traceback")
        return f"{line}\n{render.indented(trace)}" if trace else line


class _Bars(Protocol):
    """The little of rich's ``Progress`` that is used here."""

    def add_task(self, description: str, *, total: float | None = ..., completed: int = ..., **fields: Any) -> Any: ...
    def update(
        self, task_id: Any, *, completed: float | None = ..., total: float | None = ..., **fields: Any
    ) -> None: ...
    def remove_task(self, task_id: Any) -> None: ...


class Scene:
    """One bar for the study and one for each trial at work; endings scroll past above them.

    Args:
        study: What is watched.
        bars: Where the bars are.
        say: Writes a line above them.
    """

    def __init__(self, study: Study, bars: _Bars, say: Callable[[str], None]) -> None:
        objective = study.spec.objective
        self._narrate = Narrator(study.spec.name, objective.metric)
        self._metric, self._sign = objective.metric, 1 if objective.direction == "minimize" else -1
        self._bars, self._say, self._epochs = bars, say, study.spec.budget.virtual_epochs
        self._study = bars.add_task(study.spec.name, total=study.spec.n_trials, note="")
        self._trials: dict[int, Any] = {}
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
        elif number is not None and notice.kind in (*_ENDINGS, "released"):
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
def watching(study: Study) -> Iterator[Say]:
    """Somebody to tell notices to while the block runs: bars if a person watches, else lines."""
    stream = sys.stderr
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        with _bars(study, stream) as say:
            yield say
    else:
        narrate = Narrator(study.spec.name, study.spec.objective.metric)
        yield lambda notice: print(narrate(notice), file=stream, flush=True)


@contextmanager
def _bars(study: Study, stream: TextIO) -> Iterator[Say]:
    from rich.console import Console  # noqa: PLC0415 - 40 ms that no command but this one needs
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - as above

    console = Console(file=stream, highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[note]}")
    # No redirection: user code's streams are captured, and what it prints arrives as notices.
    with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as bars:
        yield Scene(study, bars, lambda text: console.print(text, markup=False, soft_wrap=True))
