"""When which process trained which trial: lines of JSON in the file that ``TUNESAFE_BENCH_SPANS`` names.

The clock is the same in all processes of a machine. Copied beside the trainable it serves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

__all__ = ["Span", "examples_per_second", "keep_span", "read_spans"]


@dataclass(frozen=True, slots=True)
class Span:
    """One trial's training in one process, from ``begun`` to ``ended`` [s]."""

    pid: int
    number: int
    begun: float
    ended: float


@contextmanager
def keep_span(number: int) -> Iterator[None]:
    """Note when the block was entered and left, if it was left in order."""
    begun = perf_counter()
    yield
    line = json.dumps(asdict(Span(os.getpid(), number, begun, perf_counter()))) + "\n"
    file = os.open(os.environ["TUNESAFE_BENCH_SPANS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())  # one write, so that lines of two processes do not mix
    os.close(file)


def read_spans(file: Path) -> list[Span]:
    """All spans in a file."""
    return [Span(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def examples_per_second(spans: list[Span], examples_per_trial: int) -> tuple[float, float]:
    """What all processes trained together while all of them were at work.

    That is from when the last of them began its first trial until the first of them had ended its last;
    whatever they did between two trials counts as time, and a trial counts by its part in it.

    Returns:
        Examples per second, and the length of that time [s].
    """
    by_process: dict[int, list[Span]] = {}
    for span in spans:
        by_process.setdefault(span.pid, []).append(span)
    begun = max(min(span.begun for span in own) for own in by_process.values())
    ended = min(max(span.ended for span in own) for own in by_process.values())
    trained = sum(
        examples_per_trial * max(min(span.ended, ended) - max(span.begun, begun), 0.0) / (span.ended - span.begun)
        for span in spans
    )
    return trained / (ended - begun), ended - begun
