"""What a study does next and how its command ends, as pure functions over counts.

No I/O, no database, no clock: every rule here is a table in its test.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tunesafe.errors import ExitCode

__all__ = ["Standing", "Tally", "exit_code", "held_run_again", "held_to_be_told", "standing"]


class Standing(StrEnum):
    """Where a whole study stands."""

    RUNNING = "running"
    """There is work left, or work that others hold."""
    FAILING = "failing"
    """It stopped: ``max_failures`` exceptions in a row, or nothing but exceptions."""
    FINISHED = "finished"
    """Every trial is told."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many trials of a study are where.

    Args:
        free: Not begun.
        claimed: Begun, without an outcome.
        closing: Outcome recorded, Optuna not told.
        held: Raised, in a streak that is not over; Optuna not told.
        complete: Told, complete.
        pruned: Told, pruned.
        failed: Told, failed.
    """

    free: int = 0
    claimed: int = 0
    closing: int = 0
    held: int = 0
    complete: int = 0
    pruned: int = 0
    failed: int = 0

    @property
    def open(self) -> int:
        """Trials that somebody still has to train or tell."""
        return self.free + self.claimed + self.closing

    @property
    def ended(self) -> int:
        """Trials told to Optuna."""
        return self.complete + self.pruned + self.failed


def _streak_stops(tally: Tally, max_failures: int) -> bool:
    return tally.held >= max_failures


def _nothing_but_exceptions(tally: Tally) -> bool:
    return tally.open == 0 and tally.held > 0 and tally.complete + tally.pruned == 0


def standing(tally: Tally, max_failures: int) -> Standing:
    """Where a study stands.

    Args:
        tally: Its trials.
        max_failures: Exceptions in a row that stop it.
    """
    if _streak_stops(tally, max_failures) or _nothing_but_exceptions(tally):
        return Standing.FAILING
    return Standing.RUNNING if tally.open or tally.held else Standing.FINISHED


def held_to_be_told(tally: Tally, max_failures: int) -> bool:
    """Whether the held trials are plain failures now: nothing is left that could lengthen their streak."""
    return tally.held > 0 and tally.open == 0 and standing(tally, max_failures) is Standing.RUNNING


def held_run_again(tally: Tally, max_failures: int) -> bool:
    """Whether a new command takes the held trials up again: the study had stopped over them."""
    return standing(tally, max_failures) is Standing.FAILING


def exit_code(tally: Tally, max_failures: int, *, paused: bool = False) -> ExitCode:
    """How the command that leaves a study like this ends.

    Args:
        tally: Its trials.
        max_failures: Exceptions in a row that stop it.
        paused: It reached its ``timeout``.
    """
    match standing(tally, max_failures):
        case Standing.FAILING:
            return ExitCode.USER_CODE
        case Standing.FINISHED if tally.complete:
            return ExitCode.OK
        case Standing.FINISHED:  # pruned, or failed by deaths: had they raised, it would be failing
            return ExitCode.FAILED
        case _:
            return ExitCode.OK if paused else ExitCode.INTERRUPTED
