"""``tunesafe export``: a trial as files that need no tunesafe."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tunesafe.cli import documents
from tunesafe.cli.targets import AnyStudy, AsJson, open_target

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
    as_json: AsJson = False,
) -> None:
    """Write a trial's weights (safetensors), its story (trial.json) and its code into a folder."""
    folder = open_target(study).export(directory, trial=trial, virtual_epoch=virtual_epoch)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    if as_json:
        story = json.loads((folder / "trial.json").read_text(encoding="utf-8"))
        print(documents.to_json(documents.export_document(folder.absolute(), files, story)))
    else:
        print(f"wrote {', '.join(files)} to {folder}", file=sys.stderr)
