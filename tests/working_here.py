"""Studies whose one worker works in this process: what a process of its own takes longest for is to import torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from tunesafe.api import running
from tunesafe.executors import RunResult, run_study
from tunesafe.trial.resolve import resolve

__all__ = ["working_here"]


@contextmanager
def working_here() -> Iterator[None]:
    """Let ``tunesafe run`` work as it does for a function from a notebook, while the block runs."""

    def here(spec: Any, program: Any, *, folder: Path, watch: Any, new: bool, accept_changes: bool) -> RunResult:
        return run_study(
            spec,
            lambda: resolve(spec.trainable, folder),
            program,
            folder=folder,
            watch=watch,
            accept_changes=accept_changes,
        )

    with mock.patch.object(running, "supervise", here):
        yield
