"""A restart is invisible: training continued from a stored state ends with the same bits.

Each recipe builds a training from a seed. One is trained straight through; another is stored
half way, built anew from *another* seed, restored from text and bytes, and trained on. The
recipes are looked up by the classes that the installed torch has, so that a new optimizer or
scheduler fails here until somebody says how it is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler, swa_utils

from tunesafe.state.codec import decode, encode
from tunesafe.state.compare import first_difference
from tunesafe.state.generators import capture_generators, restore_generators
from tunesafe.state.tracked import capture, restore

NUM_STEPS = 5


@dataclass
class Training:
    """What is tracked, and one step of it."""

    tracked: dict[str, Any]
    step: Callable[[], None]


Recipe = Callable[[], Training]


def assert_a_restart_is_invisible(build: Recipe, rebuild: Recipe | None = None, *, before: int = NUM_STEPS) -> None:
    """Train straight through and with a restart after ``before`` steps; compare every bit."""
    torch.manual_seed(1)
    straight = build()
    for _ in range(before):
        straight.step()
    structure, blobs = encode({"tracked": capture(straight.tracked), "generators": capture_generators()})
    for _ in range(NUM_STEPS):
        straight.step()
    expected = capture(straight.tracked)

    torch.manual_seed(2)
    resumed = (rebuild or build)()
    tree = decode(structure, [bytearray(blob.data) for blob in blobs])
    restore(resumed.tracked, tree["tracked"])
    restore_generators(tree["generators"])
    for _ in range(NUM_STEPS):
        resumed.step()
    assert first_difference(expected, capture(resumed.tracked)) is None


class Net(nn.Module):
    """Convolution, batch norm, dropout (draws from the generator), and a matrix for Muon."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3 * 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images ``[batch, 1, 4, 4]`` to scores ``[batch, 4]``."""
        x = self.norm(self.convolution(x)).relu().flatten(1)
        out: torch.Tensor = self.head(nn.functional.dropout(x, 0.2))
        return out


def loss_of(model: nn.Module, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The loss of a random batch: both come from the global generator."""
    x, y = torch.randn(6, 1, 4, 4, dtype=dtype), torch.randint(0, 4, (6,))
    return nn.functional.cross_entropy(model(x), y)


def training(
    make_optimizer: Callable[[nn.Module], optim.Optimizer],
    make_scheduler: Callable[[optim.Optimizer], Any] | None = None,
    *,
    model: nn.Module | None = None,
    dtype: torch.dtype = torch.float32,
) -> Training:
    """A model and its optimizer; a scheduler is tracked *before* the optimizer, the hard order."""
    model = (Net() if model is None else model).to(dtype)
    optimizer = make_optimizer(model)
    scheduler = make_scheduler(optimizer) if make_scheduler else None

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, dtype)
        loss.backward()
        return loss

    def step() -> None:
        # A closure makes LBFGS and all others the same.
        loss = optimizer.step(closure)
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(loss.item())
        elif scheduler is not None:
            scheduler.step()

    tracked: dict[str, Any] = {} if scheduler is None else {"scheduler": scheduler}
    return Training({**tracked, "optimizer": optimizer, "model": model}, step)


def sparse_training() -> Training:
    """SparseAdam wants sparse gradients, as an embedding gives them."""
    model = nn.Embedding(7, 3, sparse=True)
    optimizer = optim.SparseAdam(list(model.parameters()), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        model(torch.randint(0, 7, (4,))).square().sum().backward()
        optimizer.step()

    return Training({"optimizer": optimizer, "model": model}, step)


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The parameters Muon takes."""
    return [parameter for parameter in model.parameters() if parameter.ndim == 2]


def plain(kind: type[optim.Optimizer], **options: Any) -> Recipe:
    """An optimizer over all parameters."""
    return lambda: training(lambda model: kind(model.parameters(), **options))


OPTIMIZERS: dict[str, list[Recipe]] = {
    "ASGD": [plain(optim.ASGD)],
    "Adadelta": [plain(optim.Adadelta, lr=0.5)],
    "Adafactor": [plain(optim.Adafactor)],
    "Adagrad": [plain(optim.Adagrad, lr_decay=0.1), plain(optim.Adagrad, fused=True)],
    "Adam": [
        plain(optim.Adam),
        plain(optim.Adam, amsgrad=True, weight_decay=0.1, foreach=True),
        plain(optim.Adam, fused=True),
        plain(optim.Adam, lr=torch.tensor(0.01), foreach=False),
    ],
    "AdamW": [plain(optim.AdamW, maximize=True), plain(optim.AdamW, fused=True, amsgrad=True)],
    "Adamax": [plain(optim.Adamax)],
    "LBFGS": [plain(optim.LBFGS, max_iter=3, history_size=3), plain(optim.LBFGS, line_search_fn="strong_wolfe")],
    "Muon": [lambda: training(lambda model: optim.Muon(matrices(model)))],
    "NAdam": [plain(optim.NAdam, decoupled_weight_decay=True)],
    "RAdam": [plain(optim.RAdam)],
    "RMSprop": [plain(optim.RMSprop, centered=True, momentum=0.9)],
    "Rprop": [plain(optim.Rprop)],
    "SGD": [
        plain(optim.SGD),
        plain(optim.SGD, momentum=0.9, nesterov=True, lr=0.1),
        plain(optim.SGD, momentum=0.9, fused=True),
        plain(optim.SGD, momentum=0.9, foreach=True),
    ],
    "SparseAdam": [sparse_training],
}


def scheduled(make: Callable[[optim.Optimizer], Any]) -> Recipe:
    """A scheduler over SGD with two parameter groups."""

    def optimizer(model: nn.Module) -> optim.Optimizer:
        first, *others = model.parameters()
        return optim.SGD([{"params": [first], "lr": 0.2}, {"params": others}], lr=0.1, momentum=0.9)

    return lambda: training(optimizer, make)


class Decay:
    """A learning-rate rule with state of its own, which LambdaLR stores."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, epoch: int) -> float:
        self.calls += 1
        return 0.9**self.calls


def sequential(optimizer: optim.Optimizer) -> lr_scheduler.SequentialLR:
    """A warm-up, then cosine, switched after the restart."""
    warm_up = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, 8)
    return lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], milestones=[NUM_STEPS + 2])


def chained(optimizer: optim.Optimizer) -> lr_scheduler.ChainedScheduler:
    """Two schedulers that act at once."""
    return lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer, 0.5, 7), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    )


SCHEDULERS: dict[str, list[Recipe]] = {
    "ChainedScheduler": [scheduled(chained)],
    "ConstantLR": [scheduled(lambda o: lr_scheduler.ConstantLR(o, 0.5, NUM_STEPS + 2))],
    "CosineAnnealingLR": [scheduled(lambda o: lr_scheduler.CosineAnnealingLR(o, 7))],
    "CosineAnnealingWarmRestarts": [scheduled(lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2))],
    "CyclicLR": [
        scheduled(lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3, mode="exp_range", gamma=0.9)),
        scheduled(lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3, scale_fn=Decay())),
    ],
    "ExponentialLR": [scheduled(lambda o: lr_scheduler.ExponentialLR(o, 0.9))],
    "LambdaLR": [
        scheduled(lambda o: lr_scheduler.LambdaLR(o, [lambda step: 0.9**step, Decay()])),
    ],
    "LinearLR": [scheduled(lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=8))],
    "MultiStepLR": [scheduled(lambda o: lr_scheduler.MultiStepLR(o, [2, 7, 7]))],
    "MultiplicativeLR": [scheduled(lambda o: lr_scheduler.MultiplicativeLR(o, [lambda step: 0.9, Decay()]))],
    "OneCycleLR": [scheduled(lambda o: lr_scheduler.OneCycleLR(o, 0.3, total_steps=2 * NUM_STEPS + 1))],
    "PolynomialLR": [scheduled(lambda o: lr_scheduler.PolynomialLR(o, 8, 2.0))],
    "ReduceLROnPlateau": [scheduled(lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, cooldown=1))],
    "SequentialLR": [scheduled(sequential)],
    "StepLR": [scheduled(lambda o: lr_scheduler.StepLR(o, 2))],
    "SWALR": [scheduled(lambda o: swa_utils.SWALR(o, 0.01, anneal_epochs=8))],
}


def classes(module: Any, base: type) -> list[str]:
    """Names of the concrete classes that a module of torch offers."""
    found = {kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, base)}
    abstract = {optim.Optimizer, lr_scheduler.LRScheduler, lr_scheduler._LRScheduler}
    return sorted(kind.__name__ for kind in found - abstract)


@pytest.mark.parametrize("name", classes(optim, optim.Optimizer))
@pytest.mark.parametrize("before", [0, 1, NUM_STEPS])
def test_every_optimizer_of_torch_continues_bit_exactly(name: str, before: int) -> None:
    """Restarted before the first step, after it, and later."""
    for recipe in OPTIMIZERS[name]:
        assert_a_restart_is_invisible(recipe, before=before)


@pytest.mark.parametrize("name", sorted({*classes(lr_scheduler, lr_scheduler.LRScheduler), "SWALR"}))
@pytest.mark.parametrize("before", [0, 1, NUM_STEPS])
def test_every_scheduler_of_torch_continues_bit_exactly(name: str, before: int) -> None:
    """Restored together with its optimizer, whichever was tracked first."""
    for recipe in SCHEDULERS[name]:
        assert_a_restart_is_invisible(recipe, before=before)


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
