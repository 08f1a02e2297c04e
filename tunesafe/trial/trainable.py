"""The class door: a training loop written for the user.

``run_trainable`` is the whole of it, and it stands on ``tunesafe.Trial`` like any
function a user would write.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from tunesafe.errors import TrialError, a_or_an
from tunesafe.trial.context import Trial
from tunesafe.trial.epoch import Epoch

__all__ = ["Trainable", "run_trainable"]


class Trainable(ABC):
    """Something to train, as a class.

    ``setup`` builds; it must set ``self.train_data``. Every attribute it sets that has
    ``state_dict`` and ``load_state_dict`` (modules, optimizers, schedulers, …) is tracked
    under its name, unless ``setup`` calls ``trial.track`` itself, as it must for plain dicts
    and for objects in lists. ``train_step`` trains on one batch, optimizer step included.
    ``validate`` returns what to report; it runs without gradients and with tracked modules
    in evaluation mode, which are then put back as they were.

    Attributes:
        trial: The trial, set before ``setup``.
        epoch: The virtual epoch being trained, for ``epoch.step_due`` and ``.loss_scale``.
        train_data: A tuple of tensors or a map-style dataset.
        loader_options: Keyword arguments of ``trial.virtual_epochs``, e.g. ``num_workers``.

    Example:
        >>> class Line(Trainable):
        ...     def setup(self, trial):
        ...         x = torch.linspace(-1, 1, 64).unsqueeze(1)
        ...         self.train_data = (x, 3 * x)
        ...         self.model = torch.nn.Linear(1, 1)
        ...         self.optimizer = torch.optim.SGD(self.model.parameters(), lr=trial.params["lr"])
        ...
        ...     def train_step(self, batch):
        ...         x, y = batch
        ...         self.optimizer.zero_grad()
        ...         (self.model(x) - y).square().mean().backward()
        ...         self.optimizer.step()
        ...
        ...     def validate(self):
        ...         return {"error": abs(self.model.weight.item() - 3)}
        >>> from tunesafe.trial import FixedTrial
        >>> trial = FixedTrial({"lr": 0.1, "batch_size": 16}, examples=1000, virtual_epochs=2)
        >>> run_trainable(Line, trial)
        >>> [round(report.metrics["error"], 2) for report in trial.reports]
        [0.31, 0.03]
    """

    trial: Trial
    epoch: Epoch
    train_data: Any
    loader_options: Mapping[str, Any] = {}

    @abstractmethod
    def setup(self, trial: Trial) -> None:
        """Build data, model and optimizer from ``trial.params``."""

    @abstractmethod
    def train_step(self, batch: Any) -> None:
        """Train on one batch, as the data give it."""

    @abstractmethod
    def validate(self) -> Mapping[str, Any]:
        """Measure; the objective's metric is among the keys."""


def run_trainable(cls: type[Trainable], trial: Trial) -> None:
    """Train one instance of a class.

    Raises:
        TrialError: If ``setup`` sets no ``train_data``, or ``validate`` returns no mapping.
    """
    trainable = cls()
    trainable.trial = trial
    trainable.setup(trial)
    if getattr(trainable, "train_data", None) is None:
        raise TrialError(f"{cls.__name__}.setup() set no self.train_data: there is nothing to train on.")
    if not trial.tracked:
        trial.track(**_stateful(trainable))
    for epoch in trial.virtual_epochs(trainable.train_data, **trainable.loader_options):
        trainable.epoch = epoch
        for batch in epoch:
            trainable.train_step(batch)
        with torch.no_grad(), _evaluating(trial.tracked):
            metrics = trainable.validate()
        if not isinstance(metrics, Mapping):
            raise TrialError(
                f"{cls.__name__}.validate() returned {a_or_an(type(metrics).__name__)}; "
                f"it must return the metrics by name, e.g. {{'val_loss': 0.3}}."
            )
        trial.report(**metrics)


def _stateful(trainable: Trainable) -> dict[str, Any]:
    found: dict[str, Any] = {}
    not_ours = {"trial", "epoch", "train_data"}
    if isinstance(trainable, torch.nn.Module):
        found["model"] = trainable
        not_ours |= vars(torch.nn.Module()).keys()
    for name, value in vars(trainable).items():
        if name in not_ours:
            continue
        if _has_state(value):
            found[name] = value
        elif isinstance(value, (list, tuple, set, dict)):
            items = value.values() if isinstance(value, dict) else value
            if any(map(_has_state, items)):
                raise TrialError(
                    f"self.{name} is {a_or_an(type(value).__name__)} that holds objects with state, which would not "
                    f"be saved. Use a torch.nn.ModuleList or ModuleDict, or call trial.track(…) in setup()."
                )
    return found


def _has_state(value: object) -> bool:
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


@contextmanager
def _evaluating(tracked: Mapping[str, Any]) -> Iterator[None]:
    """Evaluation mode for tracked modules; afterwards every submodule's own mode, frozen ones included."""
    modules = [part for value in tracked.values() if isinstance(value, torch.nn.Module) for part in value.modules()]
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
