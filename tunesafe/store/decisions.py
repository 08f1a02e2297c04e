"""What is decided of trials: how far they are, what was drawn for them, how they ended."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, select

from tunesafe.contracts import Outcome, Parameter, TrialPhase
from tunesafe.store.tables import trials
from tunesafe.store.trial_rows import outcome_of, params_of, phase_of

__all__ = ["Decided", "decided"]


class Decided(NamedTuple):
    """What is decided of a trial that has begun.

    Args:
        number: Which trial.
        phase: Where it is.
        params: Its parameters, once all are drawn.
        outcome: How it ended, if it has.
    """

    number: int
    phase: TrialPhase
    params: dict[str, Parameter] | None
    outcome: Outcome | None


def decided(connection: Connection, uuid: str) -> list[Decided]:
    """What is decided of all trials that have begun, by number.

    Raises:
        DamagedError: If a row is not what was written.
    """
    columns = (trials.c.study, trials.c.number, trials.c.phase, trials.c.params_json, trials.c.outcome_json)
    begun = (trials.c.study == uuid, trials.c.phase != TrialPhase.FREE)
    return [
        Decided(
            row.number,
            phase_of(row.phase),
            None if row.params_json is None else params_of(row),
            None if row.outcome_json is None else outcome_of(row),
        )
        for row in connection.execute(select(*columns).where(*begun).order_by(trials.c.number))
    ]
