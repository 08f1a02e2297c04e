"""CMA-ES whose state is numbers in JSON.

Optuna's sampler pickles its optimizer into trial attributes and unpickles what it finds
there: whoever can write to the database can run code in every worker. Here the optimizer is
written as JSON, arrays as base64 of their bytes, under names of our own; reading it can only
ever give numbers. Suggestions are bit for bit Optuna's.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import optuna
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.samplers import CmaEsSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from tunesafe.study.samplers.memo import read_text, text_writes

__all__ = ["JsonCmaEsSampler", "decode_optimizer", "encode_optimizer"]

_OPTIMIZERS = ("CMA", "SepCMA", "CMAwM")


class JsonCmaEsSampler(CmaEsSampler):
    """Optuna's CMA-ES in every variant (separable, with margin, learning-rate adaptation), without pickles."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._attr_prefix = f"tunesafe:{self._attr_prefix}"
        self._optimizer: Any = None
        self._names: frozenset[str] = frozenset()

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """One point of the current generation."""
        self._names = frozenset(search_space)
        return super().sample_relative(study, trial, search_space)

    def _init_optimizer(self, trans: _SearchSpaceTransform, direction: StudyDirection) -> Any:
        self._optimizer = super()._init_optimizer(trans, direction)
        # cmaes leaves this history uninitialised; what is stored shall not depend on old memory.
        getattr(self._optimizer, "_cma", self._optimizer)._funhist_values[:] = 0.0
        return self._optimizer

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            text = read_text(self._attr_key_optimizer, trial.system_attrs)
            if text is not None:
                self._optimizer = decode_optimizer(text)
                return self._optimizer
        return None

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, str]:
        # Optuna hands over a pickle it has just made, and the optimizer it is of is ours: encode that.
        writes = text_writes(self._attr_key_optimizer, encode_optimizer(self._optimizer))
        return {write.key: write.value for write in writes}

    def _get_solution_trials(self, trials: list[FrozenTrial], generation: int) -> list[FrozenTrial]:
        # In a conditional space, trials of this generation may be points of another, larger or
        # smaller space; Optuna fails on them.
        solutions = super()._get_solution_trials(trials, generation)
        return [trial for trial in solutions if self._names <= trial.params.keys() and self._has_point(trial)]

    def _has_point(self, trial: FrozenTrial) -> bool:
        return not self._with_margin or len(trial.system_attrs["x_for_tell"]) == self._optimizer.dim


def encode_optimizer(optimizer: Any) -> str:
    """An optimizer of ``cmaes`` as JSON text; its generator is left out, each trial seeds its own.

    Args:
        optimizer: A ``CMA``, ``SepCMA`` or ``CMAwM``.
    """
    return json.dumps(_encode(optimizer), separators=(",", ":"), sort_keys=True)


def decode_optimizer(text: str) -> Any:
    """The optimizer of such a text; nothing in the text can be more than a number or a name."""
    return _decode(json.loads(text))


def _encode(value: Any) -> Any:
    if value is None or isinstance(value, str) or type(value) in (bool, int, float):
        return value
    if isinstance(value, np.generic):
        return {"scalar": value.dtype.str, "data": _to_text(value.tobytes())}
    if isinstance(value, np.ndarray):
        # The order in memory decides which kernel multiplies, and with it the last bit.
        order: Literal["C", "F"] = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        data = _to_text(value.tobytes(order))
        return {"array": value.dtype.str, "shape": value.shape, "order": order, "data": data}
    kind = type(value).__name__
    assert kind in _OPTIMIZERS, f"cmaes keeps a {kind}, which the codec does not know"
    return {"optimizer": kind, "state": {name: _encode(v) for name, v in value.__getstate__().items()}}


def _decode(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "scalar" in value:
        return np.frombuffer(_to_bytes(value["data"]), np.dtype(value["scalar"]))[0]
    if "array" in value:
        flat = np.frombuffer(_to_bytes(value["data"]), np.dtype(value["array"]))
        return flat.reshape(value["shape"], order=value["order"]).copy("K")
    return _restore(value["optimizer"], {name: _decode(v) for name, v in value["state"].items()})


def _restore(kind: str, state: dict[str, Any]) -> Any:
    # An extra: studies with other samplers do without it.
    import cmaes  # noqa: PLC0415

    optimizer = object.__new__({"CMA": cmaes.CMA, "SepCMA": cmaes.SepCMA, "CMAwM": cmaes.CMAwM}[kind])
    if hasattr(optimizer, "__setstate__"):
        optimizer.__setstate__(state)
    else:
        optimizer.__dict__.update(state)
    return optimizer


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _to_bytes(text: str) -> bytes:
    return base64.b64decode(text)
