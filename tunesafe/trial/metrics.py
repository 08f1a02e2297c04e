"""What user code measured, as plain floats; and which virtual epoch a trial stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch

from tunesafe.errors import TrialError, a_or_an
from tunesafe.spec.faults import nearest
from tunesafe.spec.sections import Objective

__all__ = ["History", "require_objective", "selected_virtual_epoch", "to_float", "to_floats"]

History = dict[int, dict[str, float]]
"""Reported metrics by virtual epoch."""


def to_floats(call: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Convert what a call was given; errors as :func:`to_float`."""
    return {name: to_float(f"trial.{call}({name}=…)", value) for name, value in values.items()}


def to_float(what: str, value: Any) -> float:
    """A number, 0-d tensor or numpy scalar as a float; NaN and infinities pass.

    Args:
        what: The call and argument, for the error.
        value: What it was given.

    Raises:
        TrialError: If it is anything else; a bool, a text and a tensor with dimensions are.

    Example:
        >>> to_float("trial.report(loss=…)", torch.tensor(0.5))
        0.5
    """
    number = value
    if isinstance(value, (torch.Tensor, np.ndarray)):
        if value.ndim:
            raise TrialError(
                f"{what} got values of shape {tuple(value.shape)}; it takes one number: use .item() or .mean()."
            )
        number = value.item()
    if isinstance(number, (bool, np.bool_)) or not isinstance(number, Real):
        raise TrialError(
            f"{what} got {number!r}, {a_or_an(type(number).__name__)}; "
            f"it takes a number, a 0-d tensor or a numpy scalar{_fix(number)}."
        )
    try:
        return float(number)
    except OverflowError:
        raise TrialError(f"{what} got an integer too large for a float.") from None


def _fix(value: Any) -> str:
    return ": use float(…) if 0.0 and 1.0 are meant" if isinstance(value, (bool, np.bool_)) else ""


def require_objective(metrics: Mapping[str, float], objective: Objective | None) -> None:
    """Check that the objective's metric was reported.

    Raises:
        TrialError: If it was not; names what was, and the nearest.
    """
    if objective is None or objective.metric in metrics:
        return
    hint = nearest(objective.metric, list(metrics)) or "."
    raise TrialError(
        f"trial.report() got {', '.join(metrics) or 'no metrics'}, but not the study's objective "
        f"{objective.metric!r}{hint} Report it, or change objective.metric."
    )


def selected_virtual_epoch(history: Mapping[int, Mapping[str, float]], objective: Objective | None) -> int | None:
    """The virtual epoch a trial's value is of: the last, or the best; ties go to the earlier.

    Returns:
        1-based; ``None`` where no finite value stands for the trial.

    Example:
        >>> objective = Objective(metric="loss", direction="minimize", select="best")
        >>> selected_virtual_epoch({1: {"loss": 3.0}, 2: {"loss": 1.0}, 3: {"loss": 1.0}}, objective)
        2
    """
    if objective is None or not history:
        return None
    metric = objective.metric
    if objective.select == "last":
        last = max(history)
        return last if math.isfinite(history[last][metric]) else None
    finite = [epoch for epoch in sorted(history) if math.isfinite(history[epoch][metric])]
    sign = 1.0 if objective.direction == "minimize" else -1.0
    return min(finite, key=lambda epoch: sign * history[epoch][metric], default=None)
