"""The class door: it trains as the function door does, and says what a trainable forgets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.unit.trial import support
from tests.unit.trial.support import X, Y, contents, new_trial, run_with_deaths
from tunesafe.trial import FixedTrial, MemoryServices, Trainable, Trial, run_trainable, run_trial


def test_the_class_door_trains_as_the_function_door_does() -> None:
    """The same bits for the same training."""

    def function(trial: Trial) -> None:
        model = support.net()
        optimizer = torch.optim.SGD(model.parameters(), lr=trial.params["lr"], momentum=0.9)
        trial.track(model=model, optimizer=optimizer)
        for epoch in trial.virtual_epochs((X, Y)):
            for x, y in epoch:
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                optimizer.step()
            trial.report(loss=support.evaluate(model))

    how = support.settings()
    results = [run_with_deaths(train, how, []) for train in (function, support.AsClass)]
    assert results[0][0] == results[1][0]
    assert contents(results[0][1].snapshot) == contents(results[1][1].snapshot)


def test_validation_puts_every_module_back_as_it_was() -> None:
    """A frozen part stays in evaluation mode, the rest in training mode."""
    modes = []

    class Partly(support.AsClass):
        def setup(self, trial: Trial) -> None:
            super().setup(trial)
            self.model[2].eval()

        def train_step(self, batch: Any) -> None:
            modes.append((self.model.training, self.model[2].training))

        def validate(self) -> dict[str, float]:
            assert not torch.is_grad_enabled()
            return super().validate()

    run_trainable(Partly, FixedTrial({"batch_size": 16, "lr": 0.1}, examples=60, virtual_epochs=2))
    assert set(modes) == {(True, False)}


def test_a_trainable_may_track_for_itself_and_choose_loader_options() -> None:
    """Then nothing is tracked behind its back."""

    class Own(support.AsClass):
        def setup(self, trial: Trial) -> None:
            super().setup(trial)
            self.loader_options = {"batch_size": 5, "accumulate": 2}
            self.extra = [nn.Linear(1, 1)]
            trial.track(net=self.model)
            self.sizes: list[int] = []

        def train_step(self, batch: Any) -> None:
            self.sizes.append(len(batch[0]))
            assert isinstance(self.epoch.step_due, bool)

    trial = FixedTrial({"lr": 0.1}, examples=60)
    run_trainable(Own, trial)
    assert set(trial.tracked) == {"net"}


def test_a_trainable_that_is_a_module_is_tracked_as_one() -> None:
    """The habit of other frameworks."""

    class Both(nn.Module, Trainable):  # type: ignore[misc]  # nn.Module is no abstract class
        def setup(self, trial: Trial) -> None:
            self.train_data = (X, Y)
            self.layer = nn.Linear(6, 1)
            self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

        def train_step(self, batch: Any) -> None:
            self.optimizer.zero_grad()
            F.mse_loss(self.layer(batch[0]), batch[1]).backward()
            self.optimizer.step()

        def validate(self) -> dict[str, float]:
            return {"loss": 1.0}

    trial = FixedTrial({"batch_size": 9})
    run_trainable(Both, trial)
    assert set(trial.tracked) == {"model", "optimizer"}


class _NoData(support.AsClass):
    def setup(self, trial: Trial) -> None:
        """Forget the data."""


class _Hidden(support.AsClass):
    def setup(self, trial: Trial) -> None:
        super().setup(trial)
        self.heads = [nn.Linear(1, 1)]


class _NoMetrics(support.AsClass):
    def validate(self) -> Any:
        return 0.3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (_NoData, "_NoData.setup() set no self.train_data"),
        (_Hidden, "self.heads is a list that holds objects with state, which would not be saved"),
        (_NoMetrics, "_NoMetrics.validate() returned a float"),
    ],
)
def test_what_a_trainable_forgets_is_an_error(wrong: type[Trainable], message: str) -> None:
    """Rather than a study that cannot resume."""
    outcome = run_trial(wrong, new_trial(MemoryServices(), support.settings()))
    assert outcome.ending == "failed"
    assert message in str(outcome.reason)
