"""Which checkpoints a study no longer needs.

A live trial keeps its newest two, and the best ones it will be asked for; a complete one what the
study file asks to keep; a pruned or failed one nothing. Pure: values in, ids out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import groupby
from typing import Literal

from tunesafe.contracts import CheckpointInfo, Ending, Position

__all__ = ["Direction", "Keep", "Loss", "Need", "TrialKeep", "at_end_of", "dispensable", "surplus", "to_be_thinned"]

_LIVE_NEWEST = 2
"""One to resume from, and one to fall back on if that is damaged."""

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True, slots=True)
class Keep:
    """What the study file asks to keep.

    Args:
        last: Newest checkpoints of every complete trial.
        best: Checkpoints of every complete trial with its best objective values.
        study_best: Trials whose selected checkpoint is kept, best first.
        select_best: Whether a trial's result is its best virtual epoch, not its last.
        every: Those at the end of every so many virtual epochs, too, if any.
        weights_only: Whether a complete trial keeps no more of them than the weights.
    """

    last: int = 1
    best: int = 1
    study_best: int = 1
    select_best: bool = False
    every: int | None = None
    weights_only: bool = False


@dataclass(frozen=True, slots=True)
class TrialKeep:
    """What retention has to know of one trial.

    Args:
        ending: How it ended; ``None`` while it lives (or is held).
        value: Its objective value, if it is complete.
        selected_virtual_epoch: The virtual epoch that value is of.
        objectives: The objective at each reported boundary.
    """

    ending: Ending | None
    value: float | None = None
    selected_virtual_epoch: int | None = None
    objectives: Mapping[Position, float] = field(default_factory=dict)


def surplus(
    checkpoints: Iterable[CheckpointInfo], trials: Mapping[int, TrialKeep], keep: Keep, direction: Direction
) -> set[int]:
    """The ids of the checkpoints that may be removed.

    Args:
        checkpoints: All of the study, or all of some trials, in any order.
        trials: By number, the whole study's: who is best is decided among them. A checkpoint of
            a trial that is not in it is kept.
        keep: The rules.
        direction: Of the objective.

    Example:
        >>> infos = [CheckpointInfo(i, 0, Position(10 * i, i), 100, 0.0) for i in (1, 2, 3)]
        >>> surplus(infos, {0: TrialKeep(None)}, Keep(), "minimize")
        {1}
    """
    study_best = _best_trials(trials, keep.study_best, direction)
    ordered = sorted(checkpoints, key=lambda info: (info.number, info.position))
    removable: set[int] = set()
    for number, group in groupby(ordered, key=lambda info: info.number):
        infos = list(group)
        if (trial := trials.get(number)) is None:
            continue
        kept = _kept(infos, trial, keep, direction)
        if number in study_best:
            kept |= _selected(infos, trial)
        removable |= {info.checkpoint_id for info in infos} - kept
    return removable


def to_be_thinned(
    checkpoints: Iterable[CheckpointInfo], trials: Mapping[int, TrialKeep], keep: Keep
) -> list[CheckpointInfo]:
    """The checkpoints of which only the weights are kept, and that are still whole.

    Args:
        checkpoints: Those that ``surplus`` leaves.
        trials: By number; none that could still go on from one of them.
        keep: The rules.
    """
    complete = {number for number, trial in trials.items() if trial.ending is Ending.COMPLETE}
    return [info for info in checkpoints if keep.weights_only and info.number in complete and not info.weights_only]


class Need(IntEnum):
    """How much a study needs a checkpoint; where there is no room for all, the least needed goes first."""

    NONE = 0
    """Nobody asked to keep it."""
    STATE = 1
    """Of what is kept, all but the weights, of a trial that is over."""
    EVERY = 2
    """Kept to look back."""
    SPARE = 3
    """A trial's last or best, but not the one its value is of."""
    SELECTED = 4
    """The one a trial's value is of."""
    STUDY_BEST = 5
    """The same, of one of the study's best trials."""
    LIVE_BEST = 6
    """The best so far of a trial that lives."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Something a study can give up.

    Args:
        info: The checkpoint.
        need: How much it is needed.
        rule: Why it was kept: what the study file calls it; ``state`` for all but the weights.
    """

    info: CheckpointInfo
    need: Need
    rule: str


def dispensable(
    checkpoints: Iterable[CheckpointInfo], trials: Mapping[int, TrialKeep], keep: Keep, direction: Direction
) -> list[Loss]:
    """What can be given up, the least needed first.

    Never a live trial's newest two, nor its best where that is what counts; never the checkpoint
    that the study's best value is of. Of equal need the trials farthest from the best go first.

    Args:
        checkpoints: All of the study, in any order.
        trials: By number; those that are over, and a live one whose checkpoints nobody else
            removes. A checkpoint of any other trial stays.
        keep: The rules.
        direction: Of the objective.
    """
    everything = sorted(checkpoints, key=lambda info: (info.number, info.position))
    unwanted = surplus(everything, trials, keep, direction)
    standing = {number: place for place, number in enumerate(_ranked_trials(trials, direction))}
    losses: list[tuple[tuple[Need, float, Position], Loss]] = []
    for number, group in groupby(everything, key=lambda info: info.number):
        infos = list(group)
        if (trial := trials.get(number)) is None:
            continue
        distance = -standing.get(number, math.inf) if trial.ending is not None else 1.0
        for info in infos:
            found: tuple[Need, str] | None = (Need.NONE, "surplus")
            if info.checkpoint_id not in unwanted:
                found = _need(info, infos, trial, keep, direction, standing.get(number))
            if found is None:
                continue
            needs = [found]
            if found[0] is not Need.NONE and trial.ending is not None and not info.weights_only:
                needs.append((Need.STATE, "state"))
            losses += [((need, distance, info.position), Loss(info, need, rule)) for need, rule in needs]
    return [loss for _, loss in sorted(losses, key=lambda item: item[0])]


def _need(
    info: CheckpointInfo,
    infos: Sequence[CheckpointInfo],
    trial: TrialKeep,
    keep: Keep,
    direction: Direction,
    standing: int | None,
) -> tuple[Need, str] | None:
    """How much a checkpoint that is kept is needed, and by which rule; ``None`` if it must stay."""

    def among(ids: set[int]) -> bool:
        return info.checkpoint_id in ids

    if trial.ending is None:
        if among(_newest(infos, _LIVE_NEWEST) | _best(infos, trial, int(keep.select_best), direction)):
            return None
        return (Need.LIVE_BEST, "best") if among(_best(infos, trial, keep.best, direction)) else (Need.EVERY, "every")
    if among(_selected(infos, trial)):
        if standing == 0:
            return None
        is_best = standing is not None and standing < keep.study_best
        return (Need.STUDY_BEST, "study_best") if is_best else (Need.SELECTED, "selected")
    if among(_newest(infos, keep.last)):
        return Need.SPARE, "last"
    return (Need.SPARE, "best") if among(_best(infos, trial, keep.best, direction)) else (Need.EVERY, "every")


def at_end_of(infos: Iterable[CheckpointInfo], virtual_epoch: int | None) -> CheckpointInfo | None:
    """A trial's checkpoint at the end of a virtual epoch, not part-way in the next; ``None`` if there is none."""
    at = [info for info in infos if info.position.virtual_epoch == virtual_epoch]
    return min(at, key=lambda info: info.position, default=None)


def _kept(infos: Sequence[CheckpointInfo], trial: TrialKeep, keep: Keep, direction: Direction) -> set[int]:
    match trial.ending:
        case None:
            best = max(keep.best, int(keep.select_best))
            return _newest(infos, _LIVE_NEWEST) | _best(infos, trial, best, direction) | _every(infos, trial, keep)
        case Ending.COMPLETE:
            return _newest(infos, keep.last) | _best(infos, trial, keep.best, direction) | _every(infos, trial, keep)
        case _:
            return set()


def _every(infos: Sequence[CheckpointInfo], trial: TrialKeep, keep: Keep) -> set[int]:
    """Checkpoints at every so manieth boundary; those part-way in a virtual epoch are none."""
    if keep.every is None:
        return set()
    at = [info for info in infos if info.position in trial.objectives]
    return {info.checkpoint_id for info in at if info.position.virtual_epoch % keep.every == 0}


def _newest(infos: Sequence[CheckpointInfo], count: int) -> set[int]:
    return {info.checkpoint_id for info in sorted(infos, key=lambda i: i.position, reverse=True)[:count]}


def _best(infos: Sequence[CheckpointInfo], trial: TrialKeep, count: int, direction: Direction) -> set[int]:
    """Checkpoints at boundaries, best objective first, the earlier one on a tie."""
    ranked = sorted(
        (_rank(trial.objectives[info.position], direction), info.position, info.checkpoint_id)
        for info in infos
        if math.isfinite(trial.objectives.get(info.position, math.nan))
    )
    return {checkpoint_id for _, _, checkpoint_id in ranked[:count]}


def _selected(infos: Sequence[CheckpointInfo], trial: TrialKeep) -> set[int]:
    """The checkpoint the trial's value is of."""
    selected = at_end_of(infos, trial.selected_virtual_epoch)
    return set() if selected is None else {selected.checkpoint_id}


def _best_trials(trials: Mapping[int, TrialKeep], count: int, direction: Direction) -> set[int]:
    return set(_ranked_trials(trials, direction)[:count])


def _ranked_trials(trials: Mapping[int, TrialKeep], direction: Direction) -> list[int]:
    """Complete trials, best first, the lower number on a tie."""
    ranked = sorted(
        (_rank(trial.value, direction), number)
        for number, trial in trials.items()
        if trial.ending is Ending.COMPLETE and trial.value is not None and math.isfinite(trial.value)
    )
    return [number for _, number in ranked]


def _rank(value: float, direction: Direction) -> float:
    return value if direction == "minimize" else -value
