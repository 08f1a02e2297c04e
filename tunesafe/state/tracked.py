"""The objects a trial tracks: their state taken out, and put back together.

What one ``load_state_dict`` sets, building or loading another may spoil (a scheduler writes
learning rates into its optimizer), so everything is restored in one go: modules, then
optimizers, then schedulers, then all else, dicts last. Then every object is asked for its
state again, and a bit that did not come back is repaired or is an error. The caller restores
the random generators after that.
"""

from __future__ import annotations

import copy
import types
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import chain, repeat
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler

from tunesafe.errors import StateError, TrialError, a_or_an
from tunesafe.state.compare import first_difference, same

__all__ = ["capture", "check_trackable", "restore"]


def check_trackable(name: str, obj: object) -> None:
    """Refuse an object that cannot be tracked.

    Args:
        name: Its name in ``trial.track``.
        obj: Should have ``state_dict`` and ``load_state_dict``, or be a dict.

    Raises:
        TrialError: If it has and is neither; the message says what to pass instead.
    """
    stateful = callable(getattr(obj, "state_dict", None)) and callable(getattr(obj, "load_state_dict", None))
    if (stateful or isinstance(obj, dict)) and not isinstance(obj, type):
        return
    raise TrialError(
        f"trial.track({name}=...) got {a_or_an(type(obj).__name__)}, which has no state_dict() and load_state_dict(), "
        f"nor is it a dict. Nothing was tracked. {_advice(name, obj)}"
    )


def _advice(name: str, obj: object) -> str:
    if isinstance(obj, type):
        return f"It is a class: pass the object you made of it, {name}={obj.__name__}(...)."
    if isinstance(obj, (torch.Tensor, np.ndarray, int, float, str)):
        return f'Keep it in a dict, and track that: {name}={{"value": ...}}.'
    if isinstance(obj, (list, tuple)):
        return "Track its elements each under a name of its own (modules also fit in a torch.nn.ModuleList)."
    if isinstance(obj, (torch.Generator, np.random.Generator)):
        return "Track a small object whose state_dict() returns the generator's state."
    if isinstance(obj, torch.utils.data.DataLoader):
        return "Give its dataset to trial.virtual_epochs or trial.stream, which keep their place themselves."
    return "Give it those two methods, or keep what must survive in a dict and track the dict."


def capture(tracked: Mapping[str, object]) -> dict[str, Any]:
    """The state of every tracked object, by name.

    The tree refers to live tensors: encode it before training goes on.
    """
    return {name: _state_of(obj) for name, obj in tracked.items()}


def restore(tracked: Mapping[str, object], tree: Mapping[str, Any]) -> None:
    """Put a captured state back into the objects, all of them together.

    Args:
        tracked: The objects as user code has built them anew, by name.
        tree: What :func:`capture` returned; the objects may keep parts of it.

    Raises:
        StateError: If the names differ from the captured ones, an object refuses its state, or
            one gives back another state than it was given.
    """
    _check_names(set(tracked), set(tree))
    order = sorted(tracked, key=lambda name: _rank(tracked[name]))
    for name in order:
        _load(name, tracked[name], tree[name])
    for name in order:
        _verify(name, tracked[name], tree[name])


def _check_names(tracked: set[str], stored: set[str]) -> None:
    if tracked == stored:
        return
    parts = []
    if stored - tracked:
        parts.append(f"the checkpoint also holds {_quoted(stored - tracked)}")
    if tracked - stored:
        parts.append(f"it does not hold {_quoted(tracked - stored)}")
    raise StateError(
        f"trial.track(...) names other objects than when the checkpoint was written: {' and '.join(parts)}. The"
        " checkpoint was not changed. Track the same names, or start the study under a new name."
    )


def _rank(obj: object) -> int:
    kinds = (torch.nn.Module, torch.optim.Optimizer, LRScheduler)
    stateful = len(kinds) + (isinstance(obj, dict) and not hasattr(obj, "load_state_dict"))
    return next((rank for rank, kind in enumerate(kinds) if isinstance(obj, kind)), stateful)


def _state_of(obj: Any) -> Any:
    if not hasattr(obj, "state_dict"):
        return obj
    state = _unwrapped(obj).state_dict()
    if isinstance(obj, LRScheduler):
        # torch's schedulers give all of their __dict__: functions in it are code, made anew by the constructor.
        return {key: value for key, value in state.items() if not _is_code(value)}
    return state


def _is_code(value: object) -> bool:
    return isinstance(value, (types.FunctionType, types.MethodType, types.BuiltinFunctionType))


def _unwrapped(obj: Any) -> Any:
    """The module inside torch.compile's and DDP's wrappers: names without their prefixes."""
    while isinstance(obj, torch.nn.Module):
        parallel = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
        # OptimizedModule by name: importing its module costs more than a second.
        inner = "_orig_mod" if type(obj).__name__ == "OptimizedModule" else "module"
        if inner == "module" and not isinstance(obj, parallel):
            break
        obj = getattr(obj, inner)
    return obj


def _load(name: str, obj: Any, stored: Any) -> None:
    if not hasattr(obj, "load_state_dict"):
        _refill(obj, stored, {})
        return
    try:
        # Some loaders pop from what they are given, all may keep it.
        _unwrapped(obj).load_state_dict(_copy_containers(stored))
    except Exception as error:
        raise StateError(
            f"'{name}' ({type(obj).__name__}) refused its saved state: {type(error).__name__}: {error}\nThe checkpoint"
            " was not changed. Your code must build it as it was when the checkpoint was written (layers, parameter"
            " groups); trial.examples_seen says how far training had come."
        ) from error


def _verify(name: str, obj: Any, stored: Any) -> None:
    if same(stored, _state_of(obj)):
        return
    if isinstance(obj, torch.optim.Optimizer):
        _repair_optimizer(obj, stored)
    elif not hasattr(obj, "load_state_dict"):
        obj.clear()
        obj.update(stored)
    difference = first_difference(stored, _state_of(obj), name)
    if difference is not None:
        raise StateError(
            f"'{name}' ({type(obj).__name__}) came back changed: '{difference.path}' was {difference.stored} in the"
            f" checkpoint and is {difference.live} after load_state_dict. Training on would give another result than"
            " an uninterrupted trial. The checkpoint was not changed. Make load_state_dict restore all that"
            " state_dict returns, with its types."
        )


def _repair_optimizer(optimizer: torch.optim.Optimizer, stored: Any) -> None:
    """Set what ``Optimizer.load_state_dict`` has cast: it gives state the dtype of its parameter."""
    parameters: dict[Any, torch.Tensor] = {}
    for group, saved in zip(optimizer.param_groups, stored["param_groups"], strict=True):
        parameters.update(zip(saved["params"], group["params"], strict=True))
        for key, value in saved.items():
            if key != "params" and not same(value, group.get(key)):
                group[key] = value
    for key, saved in stored["state"].items():
        owner = parameters.get(key, key)
        if not isinstance(saved, dict):
            optimizer.state[owner] = saved
            continue
        live = optimizer.state[owner]
        for item, value in saved.items():
            if not same(value, live.get(item)):
                moves = isinstance(value, torch.Tensor) and isinstance(live.get(item), torch.Tensor)
                live[item] = value.to(live[item].device) if moves else value


def _refill(live: Any, stored: Any, done: dict[int, Any]) -> Any:
    """Bring ``live`` to the stored value in place where it can be, for others may hold it too.

    Returns:
        What is to stand where ``live`` stood: itself, or the stored value.
    """
    if id(stored) in done:
        return done[id(stored)]
    if type(live) is not type(stored):
        live = stored  # nothing to keep, but what is inside may be shared with something that is kept
    result = stored
    if isinstance(stored, torch.Tensor):
        if _takes(live, stored):
            with torch.no_grad():
                result = live.copy_(stored)
    elif isinstance(stored, np.ndarray):
        if live.flags.writeable and (live.dtype, live.shape) == (stored.dtype, stored.shape):
            np.copyto(live, stored)
            result = live
    elif type(stored) is tuple:
        result = tuple(_refill_items(live, stored, done))
    elif isinstance(stored, (dict, list, set, deque)):
        result = done[id(stored)] = live
        _refill_container(live, stored, done)
    done[id(stored)] = result
    return result


def _refill_container(live: Any, stored: Any, done: dict[int, Any]) -> None:
    if isinstance(stored, dict):
        pairs = {key: _refill(live.get(key), value, done) for key, value in stored.items()}
        live.clear()
        live.update(pairs)
    elif isinstance(stored, set):
        members = set(stored)
        live.clear()
        live.update(members)
    else:
        items = _refill_items(live, stored, done)
        live.clear()
        live.extend(items)


def _refill_items(live: Iterable[Any], stored: Iterable[Any], done: dict[int, Any]) -> list[Any]:
    return [_refill(old, new, done) for new, old in zip(stored, chain(live, repeat(None)), strict=False)]


def _takes(live: torch.Tensor, stored: torch.Tensor) -> bool:
    same_kind = (live.dtype, live.shape, live.layout) == (stored.dtype, stored.shape, stored.layout)
    return live is not stored and same_kind and live.layout is torch.strided and not live.is_inference()


def _copy_containers(value: Any, done: dict[int, Any] | None = None) -> Any:
    """The same tree in containers of its own; tensors and other leaves are shared."""
    done = {} if done is None else done
    if id(value) in done:
        return done[id(value)]
    result = value
    if isinstance(value, dict):
        result = copy.copy(value)
        done[id(value)] = result
        for key, item in value.items():
            result[key] = _copy_containers(item, done)
    elif type(value) is tuple:
        result = tuple([_copy_containers(item, done) for item in value])
    elif isinstance(value, (list, deque)):
        result = copy.copy(value)
        for index, item in enumerate(value):
            result[index] = _copy_containers(item, done)
    elif isinstance(value, set):
        result = set(value)
    done[id(value)] = result
    return result


def _quoted(names: set[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))
