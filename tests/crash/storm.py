"""A storm over a study: supervisors side by side, and random signals to them, to their workers and to their database.

Nothing here waits for a time: blows fall so many batches after one another, at random places in
user code, in imports and in the database's transactions. A supervisor that ends before the study
does is started again, as a batch system or a person would; and so is a database server, after a
while in which the storm goes on.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from tests.integration.workers_project import Project, children_of, is_running
from tests.servers import Server
from tunesafe.store import tables

__all__ = ["INTERVAL", "Storm", "curves", "shared_fences", "study_of", "trained_again", "write_project"]

ROOT = Path(__file__).resolve().parents[2]
TRIAL_EXAMPLES, VIRTUAL_EPOCHS = 110, 5
INTERVAL = TRIAL_EXAMPLES // VIRTUAL_EPOCHS
"""Longest way between two checkpoints [examples]."""
_MARK = "TUNESAFE_TEST_STORM"
_GOES_ON = (-signal.SIGKILL, 5, 75)
"""Exit codes after which the same command is to be run again."""
_LONGEST_STOP_SECONDS = 8.0
_OUTAGE_SECONDS = (1.0, 5.0)
_MORE_SECONDS = 0.05

TRAIN = """\
import os, time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

FOLDER = Path(__file__).parent
X = torch.randn(48, 6, generator=torch.Generator().manual_seed(1))
Y = torch.tanh(X.sum(1, keepdim=True))


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index] + 0.01 * torch.randn(6), Y[index]


def note(trial, size):
    line = f"{trial.number} {trial.attempt} {trial.examples_seen} {size} {os.getpid()}\\n"
    log = os.open(FOLDER / "batches.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, line.encode())
    os.close(log)


def train(trial):
    hidden = trial.params["hidden"]
    layers = [nn.Linear(6, hidden), nn.BatchNorm1d(hidden), nn.Tanh(), nn.Dropout(0.2), nn.Linear(hidden, 1)]
    model = nn.Sequential(*layers)
    squares = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    trial.track(model=model, squares=squares)
    data, options = (X, Y), {}
    if trial.params["num_workers"]:
        data, options = Data(), {"num_workers": trial.params["num_workers"]}
    for epoch in trial.virtual_epochs(data, **options):
        model.train()
        for x, y in epoch:
            note(trial, len(x))
            time.sleep(trial.params["batch_seconds"])
            descend(model, squares, F.mse_loss(model(x), y), trial.params["lr"])
        model.eval()
        with torch.no_grad():
            trial.report(val_loss=F.mse_loss(model(X), Y).item())


def descend(model, squares, loss, lr):
    weights = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(weights.values()))
    with torch.no_grad():
        for (name, weight), gradient in zip(weights.items(), gradients):
            squares[name].mul_(0.9).addcmul_(gradient, gradient, value=0.1)
            weight.addcdiv_(gradient, squares[name].sqrt() + 1e-8, value=-lr)
"""
"""Descends by hand: the first optimizer of a process imports a compiler, and here is many a process."""


def study_of(num_trials: int, storage: str, *, batch_seconds: float, num_workers: Sequence[int]) -> dict[str, Any]:
    """A study file's content."""
    return {
        "name": "crew",
        "trainable": "train.py:train",
        "storage": storage,
        "objective": {"metric": "val_loss", "direction": "minimize"},
        "budget": {"examples": TRIAL_EXAMPLES, "virtual_epochs": VIRTUAL_EPOCHS},
        "parameters": {
            "batch_size": {"type": "categorical", "choices": [4, 7, 11]},
            "lr": {"type": "float", "low": 1e-3, "high": 0.3, "log": True},
            "hidden": {"type": "int", "low": 3, "high": 8},
            "num_workers": {"type": "categorical", "choices": list(num_workers)},
            "batch_seconds": batch_seconds,
        },
        "n_trials": num_trials,
        "threads_per_worker": 1,
        "seed": 5,
        "sampler": {"name": "tpe", "n_startup_trials": 4},
        "pruner": {"name": "median", "n_startup_trials": 4, "n_warmup_steps": 2},
        "retries": 1000,
        "lease": "2s",
    }


def write_project(folder: Path, study: dict[str, Any]) -> Project:
    """Write study file and trainable."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(json.dumps(study))  # JSON is YAML
    (folder / "train.py").write_text(TRAIN)
    return Project(folder, study["storage"])


@dataclass
class Storm:
    """Two supervisors at work on one study, and what befalls them.

    Args:
        project: The study.
        num_workers: Of each supervisor.
        seed: Of what is drawn.
        server: The database's, if it may be killed, too.
    """

    project: Project
    num_workers: Sequence[int]
    seed: int
    server: Server | None = None
    kills: list[str] = field(default_factory=list)
    stops: int = 0
    outages: int = 0
    _commands: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _stopped: dict[int, float] = field(default_factory=dict)
    _back_at: float | None = None

    def __post_init__(self) -> None:
        self._random, self._mark = random.Random(self.seed), uuid.uuid4().hex

    # --- what happens -------------------------------------------------------------------

    def rage(self, num_kills: int, num_stops: int, num_outages: int = 0) -> None:
        """Let so many blows fall, then let the study come to its end."""
        blows = ["kill"] * num_kills + ["stop"] * num_stops + ["outage"] * num_outages
        self._random.shuffle(blows)
        with self._at_work():
            while blows and not self._is_over():
                self._wait_for_batches(self._random.choice([0, 1, 2, 4, 7]))
                if self._blow(blows[-1]):
                    blows.pop()
            self._let_all_go_on()
            self._until(self._is_over, "the study did not end")
        assert not blows, f"the study ended before {len(blows)} of its blows"

    def _blow(self, kind: str) -> bool:
        """One signal to one process; whether it fell."""
        if kind == "outage":
            return self._take_server_away()
        workers = [pid for command in self._commands for pid in children_of(command.pid) if pid not in self._stopped]
        supervisors = [command.pid for command in self._commands if command.poll() is None]
        which = supervisors if kind == "kill" and self._random.random() < 1 / 6 else workers
        if not which:
            return False
        pid = self._random.choice(which)
        if kind == "kill":
            self.kills.append("supervisor" if pid in supervisors else "worker")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        else:
            self.stops += 1
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
            self._stopped[pid] = time.monotonic() + self._random.uniform(0.0, _LONGEST_STOP_SECONDS)
        return True

    def _take_server_away(self) -> bool:
        assert self.server is not None, "a storm without a server has no outages"
        if self._back_at is not None:
            return False
        self.outages += 1
        self.server.kill()
        self._back_at = time.monotonic() + self._random.uniform(*_OUTAGE_SECONDS)
        return True

    def _tend(self) -> None:
        """Bring back, each in its time, what was taken away: the server, stopped workers, ended supervisors."""
        now = time.monotonic()
        if self._back_at is not None and self._back_at < now:
            assert self.server is not None
            self.server.start()
            self._back_at = None
        for pid in [pid for pid, until in self._stopped.items() if until < now]:
            self._go_on(pid)
        for place, command in enumerate(self._commands):
            code = command.poll()
            if code in _GOES_ON:
                self._commands[place] = self._start(place)
            elif code not in (None, 0):
                raise AssertionError(f"a supervisor ended with {code}:\n{self.words()}")

    def _go_on(self, pid: int) -> None:
        del self._stopped[pid]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def _let_all_go_on(self) -> None:
        for pid in list(self._stopped):
            self._go_on(pid)

    # --- supervisors --------------------------------------------------------------------

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._commands = [self._start(place) for place in range(len(self.num_workers))]
        try:
            yield
        finally:
            for command in self._commands:
                command.kill()
                command.wait()

    def _start(self, place: int) -> subprocess.Popen[bytes]:
        with (self.project.folder / f"supervisor-{place}.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "tunesafe", "run", "study.yaml", "-w", str(self.num_workers[place])],
                cwd=self.project.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", _MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def words(self) -> str:
        """What the supervisors have said last."""
        logs = sorted(self.project.folder.glob("supervisor-*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}" for log in logs)

    def processes(self) -> list[int]:
        """Every process of this storm that is still there, however it came to be."""
        found, mark = [], f"{_MARK}={self._mark}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0") and is_running(int(folder.name)):
                    found.append(int(folder.name))
        return found

    # --- waiting ------------------------------------------------------------------------

    def _wait_for_batches(self, count: int) -> None:
        aim = len(self.project.batches()) + count
        self._until(lambda: len(self.project.batches()) >= aim or self._is_over(), "no batch was trained")

    def _is_over(self) -> bool:
        return all(command.poll() == 0 for command in self._commands)

    def _until(self, condition: Callable[[], bool], what: str, limit_seconds: float = 300.0) -> None:
        deadline = time.monotonic() + limit_seconds
        while not condition():
            self._tend()
            assert time.monotonic() < deadline, f"{what}:\n{self.words()}"
            time.sleep(_MORE_SECONDS)


# --- what must hold afterwards -----------------------------------------------------------


def curves(project: Project) -> dict[int, list[tuple[int, Any]]]:
    """Every trial's records: virtual epoch and metrics, by number."""

    def query(connection: Connection, uuid: str) -> dict[int, list[tuple[int, Any]]]:
        found: dict[int, list[tuple[int, Any]]] = {}
        for row in _records(connection, uuid):
            metrics = json.loads(row.metrics_json)
            del metrics["$seal"]  # of this study alone
            found.setdefault(row.number, []).append((row.virtual_epoch, metrics))
        return found

    result: dict[int, list[tuple[int, Any]]] = project.read(query)
    return result


def _records(connection: Connection, uuid: str) -> Any:
    records = tables.records
    query = select(records).where(records.c.study == uuid).order_by(records.c.number, records.c.virtual_epoch)
    return connection.execute(query).all()


def shared_fences(project: Project) -> list[str]:
    """Every sign that two processes wrote under one fence, or one after another had claimed its trial.

    Each claim leaves one event and raises the fence by one: the n-th claim of a trial is fence n.
    """
    claimed: dict[int, list[Any]] = {}
    for event in project.events("claimed", "resumed", "reclaimed", "closing"):
        assert event.number is not None
        claimed.setdefault(event.number, []).append(event)
    found = [
        f"trial {row.number} was claimed {len(claimed[row.number])} times and has fence {row.fence}"
        for row in project.rows()
        if len(claimed[row.number]) != row.fence
    ]
    pids: dict[tuple[int, int], int] = {}
    for batch in project.batches():
        if pids.setdefault((batch.number, batch.attempt), batch.pid) != batch.pid:
            found.append(f"two processes trained attempt {batch.attempt} of trial {batch.number}")
    for what, rows in project.read(_written).items():
        for row in rows:
            events = claimed[row.number]
            event = events[row.fence - 1]
            attempt = event.details["attempt"]
            if pids.get((row.number, attempt), event.details["pid"]) != event.details["pid"]:
                found.append(
                    f"{what} of trial {row.number} under fence {row.fence}: not by the process that claimed it"
                )
            later = events[row.fence].at if row.fence < len(events) else float("inf")
            if not event.at <= row.at <= later:
                found.append(f"{what} of trial {row.number} under fence {row.fence} was written after the next claim")
    return found


def _written(connection: Connection, uuid: str) -> dict[str, Any]:
    records, saved = tables.records, tables.checkpoints
    return {
        "a record": connection.execute(
            select(records.c.number, records.c.fence, records.c.recorded_at.label("at")).where(records.c.study == uuid)
        ).all(),
        "a checkpoint": connection.execute(
            select(saved.c.number, saved.c.fence, saved.c.created_at.label("at")).where(saved.c.study == uuid)
        ).all(),
    }


def trained_again(project: Project) -> list[int]:
    """Per attempt that trained at all: examples of earlier attempts it trained again [examples]."""
    reached: dict[int, int] = {}
    attempts: dict[tuple[int, int], int] = {}
    for batch in project.batches():
        attempts.setdefault((batch.number, batch.attempt), reached.get(batch.number, 0) - batch.start)
        reached[batch.number] = max(reached.get(batch.number, 0), batch.start + batch.size)
    return [max(lost, 0) for lost in attempts.values()]
