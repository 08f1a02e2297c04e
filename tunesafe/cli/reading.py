"""Reading a study: ``status``, ``show``, ``best``, ``logs``. Imports neither torch nor Optuna, creates nothing."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from tunesafe.api import Study, TrialView
from tunesafe.cli import documents, pages
from tunesafe.cli.targets import AnyStudy, AsJson, StudyAndNumber, open_target, split_number
from tunesafe.errors import TunesafeError

__all__ = ["best", "logs", "show", "status"]

WATCH_SECONDS = 1.0
"""How often ``status --watch`` looks [s]."""


def status(
    study: AnyStudy = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every second until the study is done.")] = False,
) -> None:
    """Show where a study stands: trials by state, the best so far, who works on what."""
    opened = open_target(study)
    if watch and not as_json:
        _watch(opened)
        return
    while True:
        found = opened.status()
        print(documents.to_json(documents.status_document(found)) if as_json else pages.status_page(found), flush=True)
        if not watch or found.finished:
            return
        time.sleep(WATCH_SECONDS)


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
    from rich.console import Console  # noqa: PLC0415 - 40 ms that only --watch needs
    from rich.live import Live  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    try:
        with Live(console=Console(), auto_refresh=False) as live:
            while True:
                found = opened.status()
                live.update(Text(pages.status_page(found)), refresh=True)
                if found.finished:
                    return
                time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return
