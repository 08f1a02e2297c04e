"""What is tracked comes back together, in place, and not silently changed."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch

from tunesafe.errors import StateError, TrialError
from tunesafe.state.codec import decode, encode
from tunesafe.state.compare import same
from tunesafe.state.tracked import capture, check_trackable, restore


def stored(tracked: dict[str, Any]) -> Any:
    """The tracked objects' state as a restart reads it."""
    structure, blobs = encode(capture(tracked))
    return decode(structure, [bytearray(blob.data) for blob in blobs])


class Meter:
    """A user's own stateful object."""

    def __init__(self) -> None:
        self.history: list[Any] = []
        self.weight = torch.zeros(2)

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = state.pop("history")
        self.weight = state.pop("weight")


@pytest.mark.parametrize(
    "obj",
    [torch.nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1)]), {}, Meter(), torch.amp.GradScaler("cpu", enabled=False)],
    ids=lambda obj: type(obj).__name__,
)
def test_anything_with_the_two_methods_and_any_dict_can_be_tracked(obj: object) -> None:
    """Modules, optimizers, dicts and objects of one's own."""
    check_trackable("obj", obj)


@pytest.mark.parametrize(
    ("obj", "words"),
    [
        (torch.nn.Linear, "Linear(...)"),
        (torch.zeros(1), "in a dict"),
        ([torch.nn.Linear(1, 1)], "ModuleList"),
        (torch.Generator(), "state_dict()"),
        (torch.utils.data.DataLoader([1]), "trial.virtual_epochs"),
        (object(), "those two methods"),
        (None, "those two methods"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_anything_else_is_refused_with_what_to_do(obj: object, words: str) -> None:
    """The message says what it got and what to pass instead."""
    with pytest.raises(TrialError, match=r"trial.track\(thing=...\) got a") as caught:
        check_trackable("thing", obj)
    assert words in str(caught.value)


def test_paths_read_like_the_code() -> None:
    """The label of a tensor says which object's which part it is."""
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2)).backward()
    optimizer.step()
    paths = [blob.path for blob in encode(capture({"model": model, "optimizer": optimizer}))[1]]
    assert "model/weight" in paths
    assert "optimizer/state/1/exp_avg" in paths


def test_names_that_changed_are_named() -> None:
    """Which track(...) changed is said in both directions."""
    state = stored({"model": Meter(), "ema": Meter()})
    with pytest.raises(StateError, match="also holds 'ema' and it does not hold 'average'"):
        restore({"model": Meter(), "average": Meter()}, state)


def test_a_dict_is_restored_in_place_down_to_its_tensors() -> None:
    """An optimizer may hold the very tensor that the dict holds: replacing it would train another one."""

    def build() -> dict[str, Any]:
        return {
            "z": torch.zeros(2, requires_grad=True),
            "nested": {"history": [1], "array": np.zeros(3)},
            "queue": deque([1, 2], maxlen=3),
            "seen": {1},
        }

    first = build()
    with torch.no_grad():
        first["z"].fill_(5)
    first["nested"]["history"] += [2, 3]
    first["nested"]["array"][:] = 7
    first["nested"]["new"] = torch.ones(2)
    first["queue"].append(9)
    first["seen"].add(4)
    first["same"] = first["nested"]["history"]
    second = build()
    held = [*second.values(), *second["nested"].values()]
    second["surplus"] = 1
    restore({"state": second}, stored({"state": first}))
    assert same(first, second)
    now = [*second.values(), *second["nested"].values()]
    assert {id(part) for part in held} <= {id(part) for part in now}
    assert second["same"] is second["nested"]["history"]
    assert second["z"].requires_grad


def test_tensors_that_only_the_new_dict_shares_are_replaced() -> None:
    """Writing both values into one tensor would lose one of them."""
    tied = torch.zeros(2)
    second = {"a": tied, "b": tied}
    restore({"state": second}, stored({"state": {"a": torch.ones(2), "b": torch.full((2,), 2.0)}}))
    assert second["a"].tolist() == [1, 1]
    assert second["b"].tolist() == [2, 2]


def test_a_loader_may_take_its_state_apart() -> None:
    """What an object pops from its state is still there to compare with."""
    first, second = Meter(), Meter()
    first.history, first.weight = [1, (2, None)], torch.ones(2)
    restore({"meter": second}, stored({"meter": first}))
    assert second.history == [1, (2, None)]
    assert second.weight.eq(1).all()


class Forgetful(Meter):
    """Restores less than it saves."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = list(state["history"])


class Rounding(Meter):
    """Changes a type on the way."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history, self.weight = state["history"], state["weight"].half()


@pytest.mark.parametrize("kind", [Forgetful, Rounding])
def test_what_load_state_dict_changed_is_found_and_named(kind: type[Meter]) -> None:
    """The path, the stored value and the one that came back."""
    first = Meter()
    first.weight = torch.ones(2)
    with pytest.raises(StateError, match="'meter/weight' was a Tensor float32") as caught:
        restore({"meter": kind()}, stored({"meter": first}))
    assert "element 0 is 1.0" in str(caught.value) or "float16" in str(caught.value)


def test_a_state_that_is_refused_names_the_object_and_the_reason() -> None:
    """Torch's own words are kept."""
    state = stored({"model": torch.nn.Linear(2, 1)})
    with pytest.raises(
        StateError, match=r"'model' \(Linear\) refused its saved state: RuntimeError: .*\n.*size mismatch"
    ):
        restore({"model": torch.nn.Linear(3, 1)}, state)


def test_a_module_built_in_another_dtype_is_an_error() -> None:
    """Torch would cast in silence."""
    state = stored({"model": torch.nn.Linear(2, 1)})
    with pytest.raises(StateError, match=r"'model/weight' was a Tensor float32.* and is a Tensor bfloat16"):
        restore({"model": torch.nn.Linear(2, 1).bfloat16()}, state)


def test_full_precision_optimizer_state_of_half_precision_parameters_survives() -> None:
    """Optimizer.load_state_dict casts it to the parameters' dtype; it is set right afterwards."""

    def build() -> dict[str, Any]:
        weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        return {"optimizer": optimizer}

    first, second = build(), build()
    parameter = first["optimizer"].param_groups[0]["params"][0]
    first["optimizer"].state[parameter] = {
        "momentum_buffer": torch.full((3,), 1 / 3),
        "note": "text",
        "window": deque([1.0], maxlen=2),
    }
    restore(second, stored(first))
    assert same(capture(first), capture(second))
    assert second["optimizer"].state_dict()["state"][0]["momentum_buffer"].dtype is torch.float32


def test_wrappers_of_a_module_leave_no_trace_in_its_names() -> None:
    """A checkpoint written under torch.compile resumes without it, and the other way round."""
    plain = torch.nn.Linear(2, 1)
    compiled: Any = torch.compile(torch.nn.Linear(2, 1), backend="eager")
    parallel = torch.nn.DataParallel(torch.nn.Linear(2, 1))
    state = stored({"model": compiled})
    assert list(state["model"]) == ["weight", "bias"]
    restore({"model": plain}, state)
    restore({"model": parallel}, stored({"model": plain}))
    assert same(compiled._orig_mod.state_dict(), parallel.module.state_dict())


class Scheduled(torch.optim.lr_scheduler.LRScheduler):
    """A user's scheduler that keeps a function, as torch's own once did."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.rule = lambda step: 0.5**step
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        return [base * self.rule(self.last_epoch) for base in self.base_lrs]


def test_functions_kept_by_a_scheduler_are_code_not_state() -> None:
    """They come from the constructor, as they do for torch's LambdaLR."""

    def build() -> dict[str, Any]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        return {"schedule": Scheduled(optimizer), "optimizer": optimizer}

    first, second = build(), build()
    for _ in range(2):
        first["optimizer"].step()
        first["schedule"].step()
    restore(second, stored(first))
    second["optimizer"].step()
    second["schedule"].step()
    assert second["optimizer"].param_groups[0]["lr"] == 0.125
