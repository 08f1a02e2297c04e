"""A restart is invisible whatever is trained: other precisions and layouts, tied, averaged, unfrozen, one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.optim import swa_utils

from tests.unit.state.trainings import NUM_STEPS, Net, Training, assert_a_restart_is_invisible, loss_of, training


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["Adam", "SGD", "Adafactor"])
def test_other_precisions_continue_bit_exactly(name: str, dtype: torch.dtype) -> None:
    """Parameters and optimizer state in double and in half precision."""
    assert_a_restart_is_invisible(lambda: training(lambda model: getattr(optim, name)(model.parameters()), dtype=dtype))


def test_channels_last_continues_bit_exactly() -> None:
    """The memory format of weights and of optimizer state decides which kernels run."""

    def build() -> Training:
        model = Net().to(memory_format=torch.channels_last)
        return training(lambda model: optim.Adam(model.parameters()), model=model)

    assert_a_restart_is_invisible(build)


def test_tied_weights_continue_bit_exactly_and_stay_tied() -> None:
    """An embedding that is also the output layer."""

    def build() -> Training:
        embedding, head = nn.Embedding(5, 3), nn.Linear(3, 5)
        head.weight = embedding.weight
        model = nn.Sequential(embedding, head)
        optimizer = optim.Adam(model.parameters())

        def step() -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randint(0, 5, (8,))), torch.randint(0, 5, (8,))).backward()
            optimizer.step()
            assert head.weight is embedding.weight

        return Training({"model": model, "optimizer": optimizer}, step)

    assert_a_restart_is_invisible(build)


def test_sparse_gradients_continue_bit_exactly_with_dense_momentum() -> None:
    """SGD and Adagrad take sparse gradients too; momentum itself becomes a sparse tensor."""

    def build() -> Training:
        model = nn.Embedding(9, 2, sparse=True)
        momentum = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        adagrad = optim.Adagrad(model.parameters(), lr=0.1)

        def step() -> None:
            for optimizer in (momentum, adagrad):
                optimizer.zero_grad()
                model(torch.randint(0, 9, (3,))).square().sum().backward()
                optimizer.step()

        return Training({"model": model, "momentum": momentum, "adagrad": adagrad}, step)

    with torch.sparse.check_sparse_tensor_invariants(enable=True):  # torch warns unless this is decided
        assert_a_restart_is_invisible(build)


def test_a_gradient_scaler_continues_bit_exactly() -> None:
    """Its scale grows and shrinks; a disabled one has an empty state."""

    def build() -> Training:
        model = Net()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", growth_interval=2)
        disabled = torch.amp.GradScaler("cpu", enabled=False)

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

        return Training({"scaler": scaler, "disabled": disabled, "model": model, "optimizer": optimizer}, step)

    assert_a_restart_is_invisible(build)


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_averaged_models_continue_bit_exactly(average: str) -> None:
    """EMA and SWA from torch.optim.swa_utils, with the SWA learning rate."""

    def build() -> Training:
        made = training(lambda model: optim.SGD(model.parameters(), lr=0.1), lambda o: swa_utils.SWALR(o, 0.05))
        make = swa_utils.get_ema_multi_avg_fn if average == "ema" else swa_utils.get_swa_multi_avg_fn
        averaged = swa_utils.AveragedModel(made.tracked["model"], multi_avg_fn=make(), use_buffers=average == "ema")

        def step() -> None:
            made.step()
            averaged.update_parameters(made.tracked["model"])

        return Training({"averaged": averaged, **made.tracked}, step)

    assert_a_restart_is_invisible(build)


class Shadow:
    """A user's own moving average, which keeps the very dict it is given."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.average = {name: value.detach().clone() for name, value in model.named_parameters()}
        self.num_updates = 0

    def update(self) -> None:
        """Follow the model."""
        self.num_updates += 1
        for name, value in self.model.named_parameters():
            self.average[name].lerp_(value.detach(), 1 / (1 + self.num_updates))

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average, self.num_updates = state["average"], state["num_updates"]


def test_objects_of_ones_own_and_plain_dicts_continue_bit_exactly() -> None:
    """An average, a dict with counters and histories, and a tensor that an optimizer trains."""

    def build() -> Training:
        made = training(lambda model: optim.Adam(model.parameters()))
        shadow = Shadow(made.tracked["model"])
        log: dict[str, Any] = {"losses": [], "best": None, "temperature": torch.ones(1, requires_grad=True)}
        tuner = optim.SGD([log["temperature"]], lr=0.1, momentum=0.9)

        def step() -> None:
            made.step()
            shadow.update()
            tuner.zero_grad()
            (log["temperature"] * loss_of(made.tracked["model"])).backward()
            tuner.step()
            log["losses"].append(float(log["temperature"].detach()))
            log["best"] = min(log["losses"]), len(log["losses"])

        return Training({"log": log, "tuner": tuner, "shadow": shadow, **made.tracked}, step)

    assert_a_restart_is_invisible(build)


def test_layers_unfrozen_in_mid_training_continue_bit_exactly() -> None:
    """The parameter group added on the way is added again by user code before the restore."""

    def build(*, seen: int = 0) -> Training:
        model = Net()
        for parameter in model.convolution.parameters():
            parameter.requires_grad_(False)
        others = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = optim.Adam(others)
        progress = {"seen": seen}

        def unfreeze() -> None:
            for parameter in model.convolution.parameters():
                parameter.requires_grad_(True)
            optimizer.add_param_group({"params": list(model.convolution.parameters()), "lr": 1e-4})

        def step() -> None:
            if progress["seen"] == 3:
                unfreeze()
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
            progress["seen"] += 1

        if seen > 3:
            unfreeze()
        return Training({"model": model, "optimizer": optimizer, "progress": progress}, step)

    assert_a_restart_is_invisible(build, lambda: build(seen=NUM_STEPS))
    assert_a_restart_is_invisible(build, before=2)
