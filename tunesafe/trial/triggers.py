"""Whether a checkpoint is due.

Pure: positions and measured times in, a yes or no out. Cadences that count virtual epochs
or examples fire at multiples, so a resumed trial makes the same checkpoints as one that
was never interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MAX_SHARE", "Cadence", "Since", "due_at_boundary", "due_at_step"]

MAX_SHARE = 0.03
"""Largest share of the time that ``every: auto`` gives to checkpoints."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """How often to checkpoint; whichever is due first.

    Args:
        virtual_epochs: Every so many virtual epochs.
        examples: Every so many examples [examples].
        seconds: When so much time has passed [s].
        auto: As often as costs at most ``MAX_SHARE`` of the time.
        kept_virtual_epochs: Every so many virtual epochs the study file asks to keep a checkpoint.
    """

    virtual_epochs: int | None = 1
    examples: int | None = None
    seconds: float | None = None
    auto: bool = False
    kept_virtual_epochs: int | None = None


@dataclass(frozen=True, slots=True)
class Since:
    """The newest checkpoint, as seen from now.

    Args:
        examples_seen: Its position [examples]; 0 when there is none.
        seconds: Time since it, or since training began [s].
        cost_seconds: What one costs training [s], see ``costs``; 0 while unknown.
        is_saving: Whether it is still on its way to the disk: another would have to wait for it.
    """

    examples_seen: int
    seconds: float
    cost_seconds: float
    is_saving: bool = False


def due_at_step(cadence: Cadence, examples_seen: int, since: Since) -> bool:
    """Whether a checkpoint is due inside a virtual epoch, after an optimizer step.

    Example:
        >>> due_at_step(Cadence(examples=100), 230, Since(190, 0.0, 0.0))
        True
        >>> due_at_step(Cadence(examples=100), 190, Since(110, 0.0, 0.0))
        False
    """
    return (
        (cadence.examples is not None and examples_seen // cadence.examples > since.examples_seen // cadence.examples)
        or (cadence.seconds is not None and since.seconds >= cadence.seconds)
        or (cadence.auto and not since.is_saving and since.cost_seconds <= MAX_SHARE * since.seconds)
    )


def due_at_boundary(
    cadence: Cadence, virtual_epoch: int, examples_seen: int, since: Since, *, improved: bool, selects_best: bool
) -> bool:
    """Whether a checkpoint is due after a virtual epoch that is not the trial's last.

    Args:
        cadence: How often.
        virtual_epoch: The one that ended, 1-based.
        examples_seen: Its end [examples].
        since: The newest checkpoint.
        improved: Whether its objective is the trial's best so far.
        selects_best: Whether the study selects the best checkpoint of a trial.

    Example:
        >>> due_at_boundary(Cadence(5), 3, 300, Since(0, 0.0, 0.0), improved=True, selects_best=True)
        True
    """
    return (
        (improved and selects_best)
        or any(every and virtual_epoch % every == 0 for every in (cadence.virtual_epochs, cadence.kept_virtual_epochs))
        or due_at_step(cadence, examples_seen, since)
    )
