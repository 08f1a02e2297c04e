"""What our row of a trial says: read as a value, and written so that damage is found.

Parameters and outcome are sealed into the row they belong to; a column that is not what was written
is an error that names the trial, never another value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from sqlalchemy import Connection, Row, select

from tunesafe.contracts import Ending, Outcome, Owner, Parameter, TrialPhase, TrialRow
from tunesafe.store import jsontext
from tunesafe.store.sealing import moment, real, row_intact, seal, unseal, whole
from tunesafe.store.tables import trials

__all__ = [
    "ending_of",
    "outcome_json",
    "outcome_of",
    "owner_json",
    "owner_of",
    "params_json",
    "params_of",
    "phase_of",
    "rows_in",
    "trial_row",
    "trial_rows",
]


def trial_rows(connection: Connection, uuid: str) -> list[TrialRow]:
    """All trials of a study, free ones included, by number.

    Raises:
        DamagedError: If a row is not what was written; so do all that read here.
    """
    return _select_rows(connection, uuid)


def trial_row(connection: Connection, uuid: str, number: int) -> TrialRow | None:
    """One trial, if the study has this number."""
    return next(iter(_select_rows(connection, uuid, trials.c.number == number)), None)


def rows_in(connection: Connection, uuid: str, phases: Collection[TrialPhase]) -> list[TrialRow]:
    """Trials in one of some phases, by number."""
    return _select_rows(connection, uuid, trials.c.phase.in_(phases))


def _select_rows(connection: Connection, uuid: str, *where: Any) -> list[TrialRow]:
    query = select(trials).where(trials.c.study == uuid, *where).order_by(trials.c.number)
    return [_trial_row(row) for row in connection.execute(query)]


def _trial_row(row: Row[Any]) -> TrialRow:
    outcome = None if row.outcome_json is None else outcome_of(row)
    with row_intact(f"Trial {row.number}"):
        return TrialRow(
            number=row.number,
            phase=TrialPhase(row.phase),
            params=None if row.params_json is None else params_of(row),
            attempt=whole(row.attempt),
            fence=whole(row.fence),
            owner=owner_of(row),
            lease_expires_at=real(row.lease_expires_at),
            examples_seen=whole(row.examples_seen) if outcome is None else outcome.examples_seen,
            outcome=outcome,
            claimed_at=None if row.claimed_at is None else moment(row.claimed_at),
            ended_at=None if row.ended_at is None else moment(row.ended_at),
        )


def outcome_json(outcome: Outcome, uuid: str, number: int) -> str:
    """How a trial ended, for its row alone."""
    # Not asdict(): it copies deeply, which a read-only view of the result cannot do.
    values = {field.name: getattr(outcome, field.name) for field in fields(outcome)}
    return seal(values | {"result": dict(outcome.result)}, "outcome", uuid, number)


def outcome_of(row: Any) -> Outcome:
    """How a trial ended, as its row says.

    Raises:
        DamagedError: If the row is not what was written.
    """
    with row_intact(f"Trial {row.number}"):
        outcome = Outcome(**unseal(row.outcome_json, "outcome", row.study, row.number))
        return replace(outcome, ending=Ending(outcome.ending))


def params_json(params: Mapping[str, Parameter], uuid: str, number: int) -> str:
    """A trial's parameters, for its row alone."""
    return seal(params, "params", uuid, number)


def params_of(row: Any) -> dict[str, Parameter]:
    """A trial's parameters, as its row says; errors as ``outcome_of``."""
    with row_intact(f"Trial {row.number}"):
        return unseal(row.params_json, "params", row.study, row.number)


def owner_json(owner: Owner) -> str:
    """Who claims a trial, for its row."""
    return jsontext.dump(asdict(owner))


def owner_of(row: Any) -> Owner | None:
    """Who has or had a trial; nobody, if the row does not say: its lease then decides alone."""
    try:
        return None if row.owner_json is None else Owner(**jsontext.load(row.owner_json))
    except (ValueError, TypeError):
        return None


def ending_of(value: Any) -> Ending:
    """A column's ending; errors as ``phase_of``."""
    with row_intact("A trial"):
        return Ending(value)


def phase_of(value: Any) -> TrialPhase:
    """A column's phase.

    Raises:
        DamagedError: If it is none.
    """
    with row_intact("A trial"):
        return TrialPhase(value)
