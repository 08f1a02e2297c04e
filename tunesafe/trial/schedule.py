"""Learning rates as a function of progress: as fair as the budget.

A scheduler that counts steps or epochs decays at another place for every batch size. One
that is a function of the share of the budget consumed treats all trials alike, and has
next to nothing to restore: the base rates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["Schedule"]


class Schedule:
    """Multiplies an optimizer's base learning rates by a function of progress.

    The base rates are those of the parameter groups when the schedule is made; a group
    added later brings its own. They are remembered in the trial's state, so an optimizer
    restored with a scaled rate is not scaled twice.

    Args:
        optimizer: Whose ``param_groups`` are set.
        factor: From progress in ``[0, 1)`` to the multiplier of the base rates.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, factor: Callable[[float], float]) -> None:
        self._optimizer = optimizer
        self._factor = factor
        self._base: list[float] = []
        self._note_new_groups()

    def _note_new_groups(self) -> None:
        groups = self._optimizer.param_groups
        self._base += [float(group["lr"]) for group in groups[len(self._base) :]]

    def apply(self, progress: float) -> None:
        """Set the rates for ``progress``; called before every batch."""
        groups = self._optimizer.param_groups
        if len(groups) > len(self._base):
            self._note_new_groups()
        factor = float(self._factor(progress))
        for group, base in zip(groups, self._base, strict=False):
            rate = group["lr"]
            if isinstance(rate, torch.Tensor):  # capturable optimizers read it in place
                rate.fill_(base * factor)
            else:
                group["lr"] = base * factor

    def step(self, *_: object) -> None:
        """Do nothing: the rate follows the trial's progress, not the number of calls."""

    def get_last_lr(self) -> list[float]:
        """The rates now in force, one per parameter group."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """The base rates."""
        return {"base_rates": list(self._base)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from stored base rates."""
        self._base = list(state["base_rates"])
