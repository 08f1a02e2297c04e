"""Studies that are killed, run again, and compared with the same study left alone.

A test asks a :class:`Laboratory` for a study; the laboratory has a zygote to run it in. Deaths
are asked for by failpoint and passing, or by time. A death that did not happen is an error
(:class:`NotReachedError`): a failpoint nobody passes proves nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.outcome import differences, flaws, without_spare_checkpoints
from tests.crash.variations import Variation

__all__ = [
    "ROOT",
    "Check",
    "Ended",
    "Kill",
    "Laboratory",
    "NotReachedError",
    "Reference",
    "Study",
    "Survival",
    "assert_survived",
    "laboratory",
]

ROOT = Path(__file__).resolve().parents[2]
SIGKILLED = -9


class NotReachedError(AssertionError):
    """A run ended before it came to the place where it was to die."""


@dataclass(frozen=True)
class Kill:
    """Where a run dies.

    Args:
        failpoint: Its name.
        passing: At which passing in that run, 1-based.
    """

    failpoint: str
    passing: int = 1

    def __str__(self) -> str:
        return f"{self.failpoint}:{self.passing}"


@dataclass(frozen=True)
class Ended:
    """How one run ended.

    Args:
        code: Exit code; negative for a signal.
        killed: Whether the laboratory killed it, after ``kill_after``.
        seconds: How long it took [s].
        output: What it said.
    """

    code: int
    killed: bool
    seconds: float
    output: str


@dataclass(frozen=True)
class Batch:
    """One batch that was trained, as user code counted it."""

    number: int
    attempt: int
    start: int
    size: int


class Study:
    """One study in one folder.

    Args:
        laboratory: Where it runs.
        variation: What it is.
        folder: Where it lives; made here unless it exists.
        storage: Its database; a SQLite file in the folder by default.
    """

    def __init__(self, laboratory: Laboratory, variation: Variation, folder: Path, storage: str | None = None) -> None:
        self._laboratory, self.variation, self.folder = laboratory, variation, folder
        if not folder.exists():
            variation.write(folder, storage)

    def copy(self) -> Study:
        """The same study as it lies, in a folder that the next copy takes over."""
        folder = self._laboratory.folder / "copied"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder, folder)
        return Study(self._laboratory, self.variation, folder)

    def rewrite(self, statement: str) -> int:
        """Change rows of its SQLite file behind everybody's back; how many they were."""
        with closing(sqlite3.connect(self.folder / "crash.db")) as database, database:
            return database.execute(statement).rowcount

    def run(self, **job: Any) -> Ended:
        """``tunesafe run study.yaml`` once; see ``zygote`` for what a job may say."""
        log = self.folder / "output.log"
        before = log.stat().st_size if log.exists() else 0
        ended = self._laboratory.perform(do="run", folder=str(self.folder), **job)
        output = log.read_bytes()[before:].decode() if log.exists() else ""
        assert not ended["hung"], f"a run did not end:\n{output}"
        return Ended(ended["code"], ended["killed"], ended["seconds"], output)

    def run_and_die(self, kill: Kill) -> Ended:
        """One run that is killed at a failpoint.

        Raises:
            NotReachedError: If it came to its end instead.
        """
        ended = self.run(failpoint=kill.failpoint, passing=kill.passing)
        if ended.code != SIGKILLED:
            raise NotReachedError(f"{kill} was not reached; exit code {ended.code}:\n{ended.output[-2000:]}")
        return ended

    def finish(self) -> Ended:
        """One run that nothing disturbs; it must end the study."""
        ended = self.run()
        assert ended.code == 0, f"exit code {ended.code}:\n{ended.output[-4000:]}"
        return ended

    def outcome(self) -> dict[str, Any]:
        """All that the study has come to."""
        ended = self._laboratory.perform(do="read", folder=str(self.folder))
        assert ended["code"] == 0, (self.folder / "output.log").read_text()[-4000:]
        outcome: dict[str, Any] = json.loads((self.folder / "outcome.json").read_text())
        return outcome

    def batches(self) -> list[Batch]:
        """Every batch trained so far, over all attempts, in order."""
        log = self.folder / "batches.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [Batch(*map(int, line.split())) for line in lines]

    def trained_again(self) -> list[int]:
        """Per attempt that trained at all: examples of earlier attempts it trained again [examples]."""
        reached: dict[int, int] = {}
        attempts: dict[tuple[int, int], int] = {}
        for batch in self.batches():
            attempts.setdefault((batch.number, batch.attempt), reached.get(batch.number, 0) - batch.start)
            reached[batch.number] = max(reached.get(batch.number, 0), batch.start + batch.size)
        return [max(lost, 0) for lost in attempts.values()]

    def misplaced_batches(self) -> list[Batch]:
        """Batches of later attempts that the first attempt at their place had with another size."""
        sizes: dict[tuple[int, int], int] = {}
        return [b for b in self.batches() if sizes.setdefault((b.number, b.start), b.size) != b.size]


@dataclass
class Survival:
    """What became of a study that was killed.

    Args:
        variation: Which study.
        deaths: Where it died.
        lost: Examples trained again, per attempt [examples].
        problems: What is unlike the uninterrupted study; empty is the promise.
    """

    variation: Variation
    deaths: list[str]
    lost: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """For the table."""
        return {
            "study": self.variation.name,
            "deaths": self.deaths,
            "lost": sum(self.lost),
            "most": max(self.lost, default=0),
            "interval": self.variation.interval,
            "result": "; ".join(self.problems) or "identical",
        }


Check = Callable[[Survival | Sequence[Survival]], None]
"""Puts survivals into the table, and fails if one is not identical: the fixture ``survived``."""


class Laboratory:
    """Runs studies in a zygote of its own, and knows how they end undisturbed.

    Args:
        folder: Where studies live.
        zygote: What runs them.
    """

    def __init__(self, folder: Path, zygote: subprocess.Popen[str]) -> None:
        self.folder, self._zygote = folder, zygote
        self.environment: dict[str, str] = {}
        """Variables that jobs find in addition to those of the tests."""
        self._count = 0
        self._references: dict[str, Reference] = {}

    def perform(self, **job: Any) -> dict[str, Any]:
        """Hand one job to the zygote."""
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._zygote.stdin.write(json.dumps({"environment": self.environment, **job}) + "\n")
        self._zygote.stdin.flush()
        line = self._zygote.stdout.readline()
        assert line, "the zygote is gone"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def study(self, variation: Variation, storage: str | None = None) -> Study:
        """A new study."""
        self._count += 1
        return Study(self, variation, self.folder / f"{self._count:04d}", storage)

    def reference(self, variation: Variation) -> Reference:
        """The same study, never interrupted; run once."""
        if variation.name not in self._references:
            study = self.study(variation)
            ended = study.run(census=True)
            assert ended.code == 0, f"{variation.name}: exit code {ended.code}:\n{ended.output[-4000:]}"
            outcome = study.outcome()
            assert not flaws(outcome, variation.num_trials), flaws(outcome, variation.num_trials)
            assert variation.shows in json.dumps(outcome), f"{variation.name} shows no {variation.shows}"
            passings = json.loads((study.folder / "census.json").read_text())
            self._references[variation.name] = Reference(outcome, passings, ended.seconds, study.batches())
        return self._references[variation.name]

    def kill_at(self, variation: Variation, kills: Iterable[Kill], storage: str | None = None) -> Survival:
        """Start a study, kill it at each of these places in turn, let it finish, and compare.

        On whatever database it is: the one it is compared with is on SQLite.
        """
        self.reference(variation)
        study, deaths = self.study(variation, storage), []
        for kill in kills:
            study.run_and_die(kill)
            deaths.append(str(kill))
        return self.conclude(study, deaths)

    def conclude(self, study: Study, deaths: list[str]) -> Survival:
        """Let a study finish, and compare it with the one that was never interrupted."""
        study.finish()
        return self.compare(study, deaths)

    def compare(self, study: Study, deaths: list[str]) -> Survival:
        """Compare a finished study with the one that was never interrupted."""
        variation, outcome = study.variation, study.outcome()
        lost = study.trained_again()
        problems = flaws(outcome, variation.num_trials)
        expected = self.reference(variation).outcome
        # A machine taken away at a boundary where no checkpoint was due has one all the same; it may be a trial's best.
        spare = sum(death.startswith(("SIGTERM", "SIGINT", "SIGUSR1")) for death in deaths)
        problems += differences(expected, without_spare_checkpoints(outcome, expected, spare))
        problems += [f"trained again with another batch: {batch}" for batch in study.misplaced_batches()[:3]]
        # Promise 3: one interval, and one checkpoint in flight.
        bound = 2 * variation.interval
        problems += [f"{x} examples trained again, more than {bound}" for x in lost if x > bound]
        return Survival(variation, deaths, lost, problems)


@dataclass(frozen=True)
class Reference:
    """An uninterrupted study.

    Args:
        outcome: What it came to.
        passings: How often it passed each failpoint.
        seconds: How long it took [s].
        batches: What it trained.
    """

    outcome: dict[str, Any]
    passings: dict[str, int]
    seconds: float
    batches: list[Batch]

    def passing(self, failpoint: str, which: str) -> Kill:
        """The first, middle or last passing of a failpoint in an uninterrupted run."""
        count = self.passings.get(failpoint, 0)
        return Kill(failpoint, {"first": 1, "middle": count // 2 + 1, "last": count}[which])


@contextmanager
def laboratory(folder: Path) -> Iterator[Laboratory]:
    """A laboratory, and the zygote it ends with."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.crash.zygote"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as zygote:
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        assert zygote.stdout.readline(), "the zygote did not start"
        try:
            yield Laboratory(folder, zygote)
        finally:
            zygote.stdin.close()


def assert_survived(survivals: Sequence[Survival]) -> None:
    """Fail with every difference of every study that is not what it would have been."""
    broken = [s for s in survivals if s.problems]
    text = "\n".join(
        f"{s.variation.name}, killed at {', '.join(s.deaths)}:\n  " + "\n  ".join(s.problems) for s in broken
    )
    assert not broken, f"\n{text}"
