"""``tunesafe run``: start a study, continue it, or find that there is nothing to do."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated

import typer

from tunesafe.api import Study, load_study
from tunesafe.cli import render
from tunesafe.cli.targets import Overrides, StudyFile
from tunesafe.cli.watching import watching
from tunesafe.errors import ExitCode

__all__ = ["run"]


def run(
    study: StudyFile,
    workers: Annotated[
        int | None, typer.Option("-w", "--workers", metavar="N", help="Same as --set n_workers=N.", show_default=False)
    ] = None,
    overrides: Overrides = None,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes", help="Go on although finished trials were made with another study file or other code."
        ),
    ] = False,
) -> None:
    """Start a study, continue an interrupted one, or join one at work."""
    settings = [*(overrides or ()), *([f"n_workers={workers}"] if workers is not None else ())]
    loaded = load_study(study, settings)
    try:
        with watching(loaded) as watch:
            result = loaded.run(watch, accept_changes=accept_changes)
    except KeyboardInterrupt:  # before the trials' own handlers stand: nothing was begun
        _say("interrupted: run the same command again to continue")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    _say(result.message + _best(loaded, result.exit_code))
    raise typer.Exit(result.exit_code)


def _say(line: str) -> None:
    with suppress(OSError):  # nobody is there to read it; the exit code still is
        print(line, file=sys.stderr, flush=True)


def _best(study: Study, code: ExitCode) -> str:
    best = study.status().best if code is ExitCode.OK else None
    if best is None:
        return ""
    return f"; best is trial {best.number} with {study.spec.objective.metric} {render.number(best.value)}"
