"""Reading a study: ``status``, ``show``, ``best``, ``logs``. Imports neither torch nor Optuna, creates nothing."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated

import typer

from tunesafe.api import Study, TrialView
from tunesafe.cli import documents, pages
from tunesafe.cli.targets import AnyStudy, AsJson, StudyAndNumber, open_target, split_number
from tunesafe.errors import SpecError, TunesafeError

__all__ = ["best", "logs", "show", "status"]

_WATCH_SECONDS = 1.0
"""How often ``status --watch`` looks [s]."""


def status(
    study: AnyStudy = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every second until the study is done.")] = False,
) -> None:
    """Show where a study stands: trials by state, the best so far, who works on what."""
    opened = open_target(study)
    if watch and as_json:
        raise SpecError("--watch draws a page and --json prints a value: give one of them")
    if watch:
        _watch(opened)
        return
    found = opened.status()
    print(documents.to_json(documents.status_document(found)) if as_json else pages.status_page(found))


def show(words: StudyAndNumber, as_json: AsJson = False) -> None:
    """Show one trial: its parameters, reports and story."""
    study, number = split_number(words)
    opened = open_target(study)
    _show(opened, opened.trial(number), as_json)


def best(study: AnyStudy = None, as_json: AsJson = False) -> None:
    """Show the best trial."""
    opened = open_target(study)
    trial = opened.best_trial
    if trial is None:
        raise TunesafeError(f"study {opened.spec.name!r} has no complete trial yet, so none is the best")
    _show(opened, trial, as_json)


def logs(words: StudyAndNumber, as_json: AsJson = False) -> None:
    """Print what a trial's code printed, attempt by attempt."""
    study, number = split_number(words)
    chunks = open_target(study).logs(number)
    if as_json:
        print(documents.to_json(documents.log_document(number, chunks)))
        return
    if not chunks:
        print(f"trial {number} has printed nothing", file=sys.stderr)
    attempt = 1
    for chunk in chunks:
        if chunk.attempt != attempt:
            attempt = chunk.attempt
            print(f"--- attempt {attempt}", file=sys.stderr, flush=True)
        print(chunk.text, end="", flush=True)


def _show(opened: Study, trial: TrialView, as_json: bool) -> None:
    events = opened.events(trial.number)
    if as_json:
        print(documents.to_json(documents.trial_document(trial, events)))
    else:
        print(pages.trial_page(trial, events, opened.spec.objective.metric))


def _watch(opened: Study) -> None:
    # Brings rich, which takes its time.
    from tunesafe.cli import terminal  # noqa: PLC0415

    def page() -> tuple[str, bool]:
        found = opened.status()
        return pages.status_page(found), found.finished

    with suppress(KeyboardInterrupt):
        terminal.redrawn(page, _WATCH_SECONDS)
