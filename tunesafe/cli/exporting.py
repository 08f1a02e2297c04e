"""``tunesafe export``: a trial as files that need no tunesafe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tunesafe.cli.targets import AnyStudy, open_target

__all__ = ["export"]


def export(
    study: AnyStudy = None,
    directory: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="A new or empty folder.", show_default=False)
    ] = ...,  # type: ignore[assignment]  # typer's way to say: required, although an option
    trial: Annotated[
        int | None, typer.Option("--trial", metavar="N", help="Which trial; the best by default.", show_default=False)
    ] = None,
    virtual_epoch: Annotated[
        int | None,
        typer.Option(
            "--virtual-epoch", metavar="K", help="Which checkpoint; the selected one by default.", show_default=False
        ),
    ] = None,
) -> None:
    """Write a trial's weights (safetensors), its story (trial.json) and its code into a folder."""
    folder = open_target(study).export(directory, trial=trial, virtual_epoch=virtual_epoch)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    print(f"wrote {', '.join(files)} to {folder}", file=sys.stderr)
