"""``tunesafe restore``: a study brought back from its second place. Imports neither torch nor Optuna."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from tunesafe.api import Restored
from tunesafe.api import restore as bring_back
from tunesafe.cli import render

__all__ = ["restore"]


def restore(
    url: Annotated[str, typer.Argument(metavar="URL", help="What the study file names as backup.", show_default=False)],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.", show_default=False)],
) -> None:
    """Bring a study back from its second place, on this machine.

    From then on the machine it came from copies nothing there any more; if it is still alive, end the
    study there. What it decided after the copy was made is decided again.
    """
    restored = bring_back(url, directory, _say)
    _say(
        f"restored study {restored.name!r} as of {render.duration(time.time() - restored.at)} ago into {directory} "
        f"({render.size(restored.num_bytes)})"
    )
    for line in _warnings(restored):
        _say(line)
    _say(f"to continue it: tunesafe run {directory / restored.study_file.name}")


def _warnings(restored: Restored) -> list[str]:
    lines = []
    if restored.num_damaged:
        lines.append(
            f"{restored.num_damaged} pieces of its checkpoints are missing or damaged: trials go on from what is intact"
        )
    if restored.not_restored:
        lines.append(f"not restored, because outside of its folder: {', '.join(restored.not_restored)}")
    if not restored.copied_on:
        lines.append("its study file names no backup: give --set backup=URL as before, or add the key")
    return lines


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
