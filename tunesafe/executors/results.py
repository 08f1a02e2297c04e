"""How a run begins and ends, in an exit code and a sentence, whoever did the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesafe.errors import ExitCode, LeaseLostError, Preempted
from tunesafe.spec import StudySpec
from tunesafe.spec.changes import Change
from tunesafe.study import lifecycle
from tunesafe.study.sampling import grid_size
from tunesafe.study.suggest import distributions
from tunesafe.worker.loop import Left

__all__ = ["RunResult", "opening_details", "result_of"]


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    Args:
        exit_code: What the command exits with.
        message: One sentence for the last line.
        tally: The study's trials by where they are.
    """

    exit_code: ExitCode
    message: str
    tally: lifecycle.Tally


def opening_details(spec: StudySpec, changes: Sequence[Change], tally: lifecycle.Tally) -> dict[str, Any]:
    """What the first line of a run says; ``grid_points`` only where they end the study early."""
    points = grid_size(spec.sampler.name, spec.sampler.options, distributions(spec))
    ends_early = points is not None and points + sum(map(bool, spec.initial_trials)) < spec.n_trials
    return {
        "storage": spec.storage,
        "changes": changes,
        "n_trials": tally.open + tally.held + tally.ended,
        "ended": tally.ended,
        "begun": tally.ended + tally.claimed + tally.closing + tally.held,
        "grid_points": points if ends_early else None,
    }


def result_of(
    spec: StudySpec, before: lifecycle.Tally, tally: lifecycle.Tally, left: Left | BaseException
) -> RunResult:
    """How a run ended.

    Args:
        spec: The study file.
        before: The study's trials when it began.
        tally: And now.
        left: Why its last worker stopped.
    """
    code = lifecycle.exit_code(tally, spec.max_failures, paused=left is Left.TIMED_OUT)
    ended = f"{tally.ended} trials ({tally.complete} complete, {tally.pruned} pruned, {tally.failed} failed)"
    if code is ExitCode.USER_CODE:
        message = (
            f"stopped: {tally.held or tally.failed} trials in a row raised an exception; they keep their numbers and "
            "run again after the fix. See `tunesafe logs` and `tunesafe show`, then run the same command again."
        )
        return RunResult(code, message, tally)
    if lifecycle.standing(tally, spec.max_failures) is lifecycle.Standing.FINISHED:
        word = "nothing to do" if before == tally else "done"
        return RunResult(code, f"{word}: {ended}{_why_fewer(spec, tally)}", tally)
    if isinstance(left, LeaseLostError):
        return RunResult(ExitCode.LEASE_LOST, str(left), tally)
    if left is Left.TIMED_OUT:
        return RunResult(code, f"paused: the timeout is used up with {ended}; raise it to continue", tally)
    reason = f" by {left}" if isinstance(left, Preempted) else ""
    return RunResult(
        ExitCode.INTERRUPTED, f"interrupted{reason} with {ended}; run the same command again to continue", tally
    )


def _why_fewer(spec: StudySpec, tally: lifecycle.Tally) -> str:
    """Why a finished study has fewer trials than its file asks for; "" if it has not."""
    if tally.ended >= spec.n_trials:
        return ""
    points = grid_size(spec.sampler.name, spec.sampler.options, distributions(spec))
    tried = "every combination of its parameters was tried" if points is None else f"the grid has {points} points"
    return f"; {tried}, n_trials is {spec.n_trials}"
