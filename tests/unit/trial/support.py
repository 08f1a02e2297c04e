"""Small trainings, and a process that dies at a chosen point: what the tests of a trial share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn import functional as F

from tunesafe.contracts import Assignment, Outcome, Record, Snapshot
from tunesafe.errors import Interruption
from tunesafe.spec import Budget, Checkpoint, Objective
from tunesafe.trial import MemoryServices, Trainable, Trial, TrialSettings, run_trial

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
Y = torch.tanh(X.sum(1, keepdim=True))


class Death(Interruption):
    """SIGKILL, as far as one process can play it: nothing of the attempt survives but the services."""


def settings(
    *, examples: int = 100, virtual_epochs: int = 3, batching: str = "exact", select: str = "last", **checkpoint: Any
) -> TrialSettings:
    """Settings of a short trial that minimises ``loss``."""
    return TrialSettings(
        Budget.model_validate({"examples": examples, "virtual_epochs": virtual_epochs, "batching": batching}),
        Objective.model_validate({"metric": "loss", "direction": "minimize", "select": select}),
        Checkpoint.model_validate(checkpoint),
    )


def new_trial(
    services: MemoryServices, how: TrialSettings, *, batch_size: int = 16, attempt: int = 1, **more: Any
) -> Trial:
    """An attempt that finds whatever earlier ones left with the services."""
    records = [
        Record(report, judgement.verdict, judgement.improved, (), 1)
        for report, judgement in ((report, services.judgements[report.virtual_epoch]) for report in services.reports)
    ]
    params = {"batch_size": batch_size, "lr": 0.05}
    return Trial(Assignment("study", 3, attempt, 1234, params, records), how, services, **more)


@contextmanager
def dying_at(passing: int | None) -> Iterator[list[str]]:
    """Raise :class:`Death` at the given passing of any failpoint of trial/, counted from 1."""
    passed: list[str] = []

    def failpoint(name: str) -> None:
        passed.append(name)
        if len(passed) == passing:
            raise Death(name)

    with (
        mock.patch("tunesafe.trial.loop.failpoint", failpoint),
        mock.patch("tunesafe.trial.checkpointer.failpoint", failpoint),
    ):
        yield passed


def run_with_deaths(
    train: Any, how: TrialSettings, deaths: list[int], services: MemoryServices | None = None, batch_size: int = 16
) -> tuple[Outcome, MemoryServices]:
    """Run a trial that dies at each of ``deaths`` (passings of one attempt), and then no more."""
    services = MemoryServices(how.objective) if services is None else services
    for attempt, death in enumerate([*deaths, None], start=1):
        torch.manual_seed(attempt)  # a new process starts anywhere
        trial = new_trial(services, how, attempt=attempt, batch_size=batch_size)
        try:
            with dying_at(death):
                return run_trial(train, trial), services
        except Death:
            continue
    raise AssertionError("the last attempt does not die")


def contents(snapshot: Snapshot | None) -> tuple[Any, ...]:
    """Everything in a checkpoint, comparable bit by bit."""
    assert snapshot is not None
    return snapshot.position, snapshot.structure, [bytes(tensor.data) for tensor in snapshot.tensors]


def net() -> nn.Sequential:
    """A net that draws random numbers while it trains."""
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1))


def evaluate(model: nn.Module) -> float:
    """Loss over all data, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        loss = F.mse_loss(model(X), Y).item()
    model.train()
    return loss


def plain(trial: Trial) -> None:
    """The function door: momentum, dropout, a scheduler stepped after the report."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=trial.params["lr"], momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    trial.track(model=model, optimizer=optimizer, scheduler=scheduler)
    for epoch in trial.virtual_epochs((X, Y)):
        for x, y in epoch:
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        trial.report(loss=evaluate(model))
        scheduler.step()


def accumulating(trial: Trial) -> None:
    """Micro-batches, with Adam and a running mean."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=trial.params["lr"])
    trial.track(model=model, optimizer=optimizer)
    for epoch in trial.virtual_epochs((X, Y), batch_size=4, accumulate=3):
        for x, y in epoch:
            loss = F.mse_loss(model(x), y)
            (loss * epoch.loss_scale).backward()
            trial.mean("train_loss", loss, len(x))
            if epoch.step_due:
                optimizer.step()
                optimizer.zero_grad()
        trial.report(loss=evaluate(model), train_loss=trial.mean("train_loss", 0.0, 1))


def scheduled(trial: Trial) -> None:
    """A rate that follows progress, a second stream, and a result after the loop."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=trial.params["lr"])
    trial.track(model=model, optimizer=optimizer)
    handle = trial.schedule(optimizer, lambda progress: 1.0 - progress)
    noise = trial.stream("noise", (X,), batch_size=7)
    for epoch in trial.virtual_epochs((X, Y)):
        for x, y in epoch:
            (extra,) = next(noise)
            optimizer.zero_grad()
            (F.mse_loss(model(x), y) + 0.1 * model(extra).square().mean()).backward()
            optimizer.step()
            handle.step()
        trial.report(loss=evaluate(model), rate=handle.get_last_lr()[0])
    trial.result(test_loss=evaluate(model))


class AsClass(Trainable):
    """The class door; what it needs is tracked by itself."""

    def setup(self, trial: Trial) -> None:
        self.train_data = (X, Y)
        self.model = net()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=trial.params["lr"], momentum=0.9)

    def train_step(self, batch: Any) -> None:
        x, y = batch
        assert self.model.training
        self.optimizer.zero_grad()
        F.mse_loss(self.model(x), y).backward()
        self.optimizer.step()

    def validate(self) -> dict[str, float]:
        assert not self.model.training
        return {"loss": F.mse_loss(self.model(X), Y).item()}


def stopping(trial: Trial) -> None:
    """Ends on purpose at its second virtual epoch, by a bare return."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=trial.params["lr"])
    trial.track(model=model, optimizer=optimizer)
    for epoch in trial.virtual_epochs((X, Y)):
        for x, y in epoch:
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        trial.report(loss=evaluate(model))
        if epoch.index == 2:
            trial.result(final=1.0)
            trial.stop("good enough")
            return


def averaged_after(trial: Trial) -> None:
    """Changes a tracked module after the loop, as ``update_bn`` does."""
    model, averaged = net(), {"weights": torch.zeros(8, 6)}
    optimizer = torch.optim.SGD(model.parameters(), lr=trial.params["lr"])
    trial.track(model=model, optimizer=optimizer, averaged=averaged)
    for epoch in trial.virtual_epochs((X, Y)):
        for x, y in epoch:
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        trial.report(loss=evaluate(model))
    averaged["weights"] = averaged["weights"] + model[0].weight.detach() + torch.rand(())
    trial.result(test_loss=evaluate(model))


TRAININGS: dict[str, Callable[..., Any]] = {
    "plain": plain,
    "accumulating": accumulating,
    "scheduled": scheduled,
    "class": AsClass,
    "stopping": stopping,
    "averaged_after": averaged_after,
}


# ---------------------------------------------------------------------------- loops without training


def run(train: Callable[[Trial], object], services: MemoryServices | None = None, **how: Any) -> Outcome:
    """The outcome of a training in memory."""
    chosen = settings(**how)
    return run_trial(train, new_trial(services or MemoryServices(chosen.objective), chosen))


def well(trial: Trial) -> None:
    """Break nothing."""
    reporting(trial, loss=1)


def reporting(trial: Trial, **metrics: Any) -> None:
    """Report the same in every virtual epoch."""
    for epoch in trial.virtual_epochs((X,)):
        for _ in epoch:
            pass
        trial.report(**metrics)
