"""(f, g) What thousands of finished trials cost: our part of every further trial, and the start of a worker.

(f) is the time of one trial with all that a worker does beside training, from its claim until it is told, less
what plain Optuna takes for the same trial of the same study (ask, suggest, 15 reports, tell): once with 5,000
finished trials, once with 100. The two take turns, trial by trial. In plain Optuna's own time a sampler's
arithmetic grows; that is not ours. (g) is from the end of a process's imports until user code would be called
with the parameters of its first trial, against ``optuna.load_study`` and ``ask`` until it has parameters.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from copies import make_study
from databases import UnreachableError, copied, database
from pairs import Comparison, Information, compare

__all__ = ["growth", "start"]

_HERE = Path(__file__).resolve().parent
_SCRIPTS = {"ours": "untrained.py", "plain": "plain_untrained.py"}
_FEW, _MANY = 100, 5_000
_TURNS = 5
"""Trials of each side in one measurement."""


def growth(pairs: int, quick: bool) -> Iterator[Comparison | Information]:
    """(f) with the samplers and pruners named, on SQLite and, for information, on PostgreSQL."""
    cases = [
        ("SQLite", "tpe", "median", False, 1.5),
        ("SQLite", "random", "nop", False, 1.5),
        ("SQLite", "tpe", "median", True, None),
        ("PostgreSQL", "tpe", "median", False, None),
    ]
    for kind, sampler, pruner, states, bound in cases[:2] if quick else cases:
        what = f"{kind}, {sampler} and {pruner}{', with states' if states else ''}"
        try:
            with (
                _studies(kind, sampler, pruner, (_FEW, _MANY), _TURNS * pairs + 1) as studies,
                _Excess(studies[_FEW], states) as few,
                _Excess(studies[_MANY], states) as many,
            ):
                claim = f"{what}: our part at {_MANY:,} trials, against {_FEW}"
                sides = (many.measure, few.measure)
                yield compare(claim, *sides, pairs=pairs, unit="s/trial", warm_up=False, at_most=bound)
                print(f"    whole trials: {many.describe()} at {_MANY:,}; {few.describe()} at {_FEW}")
        except UnreachableError as error:
            yield Information(what, f"NOT MEASURED: {error}")


def start(pairs: int, quick: bool) -> Iterator[Comparison | Information]:
    """(g) on SQLite and, for information, on PostgreSQL."""
    for kind, bound in (("SQLite", 1.0), ("PostgreSQL", None)):
        what = f"{kind}, {_MANY:,} trials: worker, against load_study and ask"
        try:
            with _studies(kind, "tpe", "median", (_MANY,), 1) as studies:
                ours, plain = (_Start(studies[_MANY], side) for side in _SCRIPTS)
                yield compare(what, ours.measure, plain.measure, pairs=pairs, unit="s", at_most=bound)
                print(f"    ours: {ours.describe()}; theirs: {plain.describe()}")
        except UnreachableError as error:
            yield Information(what, f"NOT MEASURED: {error}")


@dataclass(frozen=True, slots=True)
class _Study:
    """A study that is copied for each process.

    Args:
        url: Its database.
        sampler: By name.
        pruner: By name.
    """

    url: str
    sampler: str
    pruner: str

    @contextmanager
    def process(self, side: str, states: bool = False) -> Iterator[_Process]:
        """A process that takes trials of a copy of its own."""
        with copied(self.url) as url:
            settings = {"url": url, "states": states, "sampler": self.sampler, "pruner": self.pruner}
            command = [sys.executable, str(_HERE / _SCRIPTS[side]), json.dumps(settings)]
            begun = perf_counter()
            with subprocess.Popen(
                command,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as process:
                yield _Process(process, begun)
                assert process.stdin is not None, "started with a pipe"
                process.stdin.close()


class _Process:
    """Takes trials.

    Args:
        process: One of our scripts.
        begun: When it was started [s].
    """

    def __init__(self, process: subprocess.Popen[str], begun: float) -> None:
        self._process, self.begun = process, begun

    def take_trial(self) -> dict[str, float]:
        """Let it take one; its stamps."""
        assert self._process.stdin is not None, "started with a pipe"
        assert self._process.stdout is not None, "started with a pipe"
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a process ended with {self._process.wait()}; see above")
        stamps: dict[str, float] = json.loads(line)
        return stamps


class _Excess:
    """Our time for a trial less plain Optuna's, two processes taking turns.

    Args:
        study: The study.
        states: Whether ours keeps states.
    """

    def __init__(self, study: _Study, states: bool) -> None:
        self._study, self._states = study, states
        self._stack = ExitStack()
        self._processes: dict[str, _Process] = {}
        self._seconds: dict[str, list[float]] = {side: [] for side in _SCRIPTS}

    def __enter__(self) -> _Excess:
        for side in _SCRIPTS:
            process = self._stack.enter_context(self._study.process(side, self._states and side == "ours"))
            process.take_trial()  # the first finds nothing loaded
            self._processes[side] = process
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def measure(self) -> float:
        """The difference of both sides' medians over some trials [s]."""
        taken: dict[str, list[float]] = {side: [] for side in _SCRIPTS}
        for _ in range(_TURNS):
            for side, process in self._processes.items():
                stamps = process.take_trial()
                taken[side].append(stamps["ended"] - stamps["ordered"])
        ours, plain = (statistics.median(taken[side]) for side in _SCRIPTS)
        for side in _SCRIPTS:
            self._seconds[side] += taken[side]
        return ours - plain

    def describe(self) -> str:
        """Medians of all, in words."""
        ours, plain = (1000 * statistics.median(self._seconds[side]) for side in _SCRIPTS)
        return f"ours {ours:.0f} ms, plain Optuna's {plain:.0f} ms"


@dataclass
class _Start:
    """How long a fresh process takes until it has a trial with its parameters."""

    study: _Study
    side: str
    runs: list[dict[str, float]] = field(default_factory=list)

    def measure(self) -> float:
        """From the end of imports [s]."""
        with self.study.process(self.side) as process:
            stamps = process.take_trial()
        self.runs.append({"begun": process.begun, **stamps})
        return stamps["drawn"] - stamps["imported"]

    def describe(self) -> str:
        """Medians, in words."""
        number, whole = (self._median(*ends) for ends in (("imported", "asked"), ("begun", "drawn")))
        return f"{number:.2f} s until it had a number, {whole:.2f} s from the start of the process"

    def _median(self, since: str, until: str) -> float:
        return statistics.median(run[until] - run[since] for run in self.runs)


@contextmanager
def _studies(
    kind: str, sampler: str, pruner: str, sizes: tuple[int, ...], num_free: int
) -> Iterator[dict[int, _Study]]:
    """Studies of several sizes, each in a database of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tunesafe-bench-")))
        studies = {}
        for size in sizes:
            url = stack.enter_context(database(kind, folder))
            make_study(url, size, num_free, sampler=sampler, pruner=pruner)
            studies[size] = _Study(url, sampler, pruner)
        yield studies
