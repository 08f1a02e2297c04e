"""A small study with several workers, whose user code does what a test wants, and its command in the background."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from tests.integration.cli_project import command, environment
from tests.plain_optuna import optuna_trials
from tunesafe.contracts import Event, TrialRow
from tunesafe.store import events, studies
from tunesafe.store.engine import database_now, read_only_engine, reading
from tunesafe.store.trial_rows import trial_rows

__all__ = ["Batch", "Command", "Project", "children_of", "is_running", "started", "wait_for"]

LIMIT_SECONDS = 200

STUDY = """\
name: crew
trainable: train.py:train
storage: {storage}
objective: {{metric: loss, direction: minimize}}
budget: {{examples: 64, virtual_epochs: 4, batching: exact}}
parameters:
  lr: {{type: float, low: 1.0e-3, high: 1.0e-1, log: true}}
  batch_size: 8
n_trials: {n_trials}
seed: 1
threads_per_worker: 1
sampler: {{name: random}}
pruner: {{name: nop}}
{more}
"""

TRAIN = """\
import ctypes, os, signal, subprocess, sys, threading, time
from pathlib import Path

import torch
from torch.nn import functional as F

FOLDER = Path(__file__).parent


def note(trial, size):
    line = f"{trial.number} {trial.attempt} {trial.examples_seen} {size} {os.getpid()}\\n"
    log = os.open(FOLDER / "batches.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, line.encode())
    os.close(log)


def hold(name):
    (FOLDER / f"{name}.reached").touch()
    while (FOLDER / name).exists():
        time.sleep(0.005)


def train(trial):
    x = torch.arange(32.0).reshape(32, 1) / 32
    model = torch.nn.Linear(1, 1)
    trial.track(model=model)
    for epoch in trial.virtual_epochs((x, 2 * x)):
        for inputs, targets in epoch:
            note(trial, len(inputs))
            act(trial, trial.examples_seen)
            descend(model, F.mse_loss(model(inputs), targets), trial.params["lr"])
        with torch.no_grad():
            trial.report(loss=F.mse_loss(model(x), 2 * x))


def descend(model, loss, lr):
    weights = list(model.parameters())
    with torch.no_grad():
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights)):
            weight -= lr * gradient


def act(trial, seen):
    hold(f"hold-{trial.number}-{seen}")
"""
"""User code that waits in a batch while the file ``hold-NUMBER-EXAMPLES`` is there.

Descends by hand: the first optimizer of a process imports a compiler, and here is many a process.
"""


@dataclass(frozen=True)
class Batch:
    """One batch, noted before it was trained on."""

    number: int
    attempt: int
    start: int
    size: int
    pid: int


@dataclass
class Project:
    """One study in one folder."""

    folder: Path
    storage: str

    @classmethod
    def make(
        cls, folder: Path, *, act: str | None = None, n_trials: int = 3, more: str = "", storage: str | None = None
    ) -> Project:
        """Write it.

        Args:
            folder: Where.
            act: Body of ``act(trial, seen)``, called in every batch; by default it waits for files to vanish.
            n_trials: The study file's.
            more: More lines for the study file.
            storage: The database; a file beside the study by default.
        """
        folder.mkdir(parents=True, exist_ok=True)
        project = cls(folder, storage or f"sqlite:///{folder / 'crew.db'}")
        project.rewrite(n_trials=n_trials, more=more)
        body = "" if act is None else "\n\ndef act(trial, seen):\n" + "".join(f"    {x}\n" for x in act.splitlines())
        (folder / "train.py").write_text(TRAIN + body)
        return project

    def rewrite(self, *, n_trials: int, more: str = "") -> None:
        """Write the study file again."""
        (self.folder / "study.yaml").write_text(STUDY.format(storage=self.storage, n_trials=n_trials, more=more))

    # --- files by which user code is held ---------------------------------------------------

    def hold(self, number: int, seen: int = 0) -> None:
        """Let user code wait in a batch of this trial."""
        (self.folder / f"hold-{number}-{seen}").touch()

    def let_go(self, number: int, seen: int = 0) -> None:
        """Let it go on."""
        (self.folder / f"hold-{number}-{seen}").unlink()

    def wait_until_held(self, number: int, seen: int = 0) -> int:
        """Wait until user code waits there; which process it is."""
        wait_for(lambda: any((b.number, b.start) == (number, seen) for b in self.batches()))
        wait_for((self.folder / f"hold-{number}-{seen}.reached").exists)
        return self.batches_of(number)[-1].pid

    # --- what has become of it --------------------------------------------------------------

    def batches(self) -> list[Batch]:
        """Every batch so far, in order."""
        log = self.folder / "batches.log"
        lines = log.read_text().split("\n")[:-1] if log.exists() else []
        return [Batch(*map(int, line.split())) for line in lines]

    def batches_of(self, number: int) -> list[Batch]:
        """Every batch of one trial so far."""
        return [batch for batch in self.batches() if batch.number == number]

    def read(self, query: Callable[[Connection, str], Any]) -> Any:
        """Ask the database."""
        engine = read_only_engine(self.storage)
        try:
            with reading(engine) as connection:
                row = studies.find_study(connection, "crew")
                assert row is not None
                return query(connection, row.uuid)
        finally:
            engine.dispose()

    def rows(self) -> list[TrialRow]:
        """Every trial, by number."""
        rows: list[TrialRow] = self.read(trial_rows)
        return rows

    def phases(self) -> list[str]:
        """Where every trial is, by number."""
        return [str(row.phase) for row in self.rows()]

    def events(self, *kinds: str) -> list[Event]:
        """What has happened, of these kinds."""
        found: list[Event] = self.read(events.events_of)
        return [event for event in found if event.kind in kinds]

    def wait_for_database_time(self, seconds: float) -> None:
        """Wait until the database's clock shows this time [seconds since the epoch]."""
        wait_for(lambda: self.read(lambda connection, _: database_now(connection)) > seconds)

    def optuna_states(self) -> list[tuple[int, str]]:
        """Every trial's number and state, as plain Optuna has it."""
        return [(trial.number, trial.state.name) for trial in optuna_trials(self.storage, "crew")]


class Command:
    """``tunesafe run`` in the background."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process, self._log = process, log

    @property
    def words(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code."""
        try:
            return self.process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"the command did not end:\n{self.words}") from error

    def workers(self) -> list[int]:
        """Its worker processes that are alive."""
        return children_of(self.process.pid)


@contextmanager
def started(
    project: Project, *options: str, name: str = "command", first: str = "", **environ: str
) -> Iterator[Command]:
    """Start ``tunesafe run study.yaml``, in its process some code of the test's ``first``; it ends with the block."""
    words = command("run", "study.yaml", *options)
    if first:
        words[1:3] = ["-c", f"{first}\nfrom tunesafe.cli import main\nmain()"]
    log = project.folder / f"{name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            words,
            cwd=project.folder,
            env=environment() | environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
        )
    try:
        yield Command(process, log)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    with suppress(OSError):
        return _stat(pid)[0] not in "ZX"
    return False


def children_of(pid: int) -> list[int]:
    """The processes a process has started, without those that have ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent, *_ = _stat(int(folder.name))
            if int(parent) == pid and state not in "ZX":
                found.append(int(folder.name))
    return sorted(found)


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
