"""Who is told what a run does: bars on a terminal if a person watches, else one plain line per notice.

The stream is taken once, at the start: while a trial trains, ``sys.stderr`` is captured.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tunesafe.api import Study
from tunesafe.cli.narration import Narrator
from tunesafe.contracts import Notice

__all__ = ["watching"]


@contextmanager
def watching(study: Study) -> Iterator[Callable[[Notice], None]]:
    """Somebody to tell notices to while the block runs."""
    stream = sys.stderr
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        # Brings rich, which takes its time.
        from tunesafe.cli import terminal  # noqa: PLC0415

        with terminal.scene(study, stream) as scene:
            yield scene
    else:
        narrate = Narrator(study.spec.name, study.spec.objective.metric)
        yield lambda notice: print(narrate(notice), file=stream, flush=True)
