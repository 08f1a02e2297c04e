"""Early stopping within one trial: end it, complete, when it no longer improves.

Unlike pruning it looks at no other trial, so it is a function of the trial's own history.
Pure: no I/O, no Optuna.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

__all__ = ["should_stop"]


def should_stop(
    history: Sequence[float], *, direction: Literal["minimize", "maximize"], patience: int, min_delta: float = 0.0
) -> bool:
    """Whether the last ``patience`` reports all failed to improve on the best before them.

    A report improves if it is better than the best so far by more than ``min_delta``; the best
    is the last value that did. NaN never improves.

    Args:
        history: Objective of every report so far, in order.
        direction: What better means.
        patience: Reports without improvement that are one too many, at least 1.
        min_delta: Smallest difference that counts, at least 0, in units of the objective.

    Example:
        >>> should_stop([3.0, 2.0, 2.5, 2.1], direction="minimize", patience=2)
        True
        >>> should_stop([3.0, 2.0, 2.5, 1.9], direction="minimize", patience=2)
        False
    """
    assert patience >= 1, "checked where the study file is read"
    assert min_delta >= 0, "checked where the study file is read"
    sign = 1 if direction == "minimize" else -1
    best, waited = float("inf"), 0
    for value in history:
        if sign * value < best - min_delta:
            best, waited = sign * value, 0
        else:
            waited += 1
    return waited >= patience
