"""How many trials of a study are where, in one query each."""

from __future__ import annotations

from sqlalchemy import Connection, exists, func, select

from tunesafe.contracts import Ending, TrialPhase
from tunesafe.store.tables import checkpoints, events, records, trials
from tunesafe.store.trial_rows import ending_of, phase_of

__all__ = ["any_progress", "best_numbers", "count_by_standing", "count_events", "highest_begun"]


def count_by_standing(connection: Connection, uuid: str) -> dict[str, int]:
    """Trials by phase, those told by how they ended: ``free``, ``claimed``, …, ``complete``, ``pruned``, ``failed``."""
    query = (
        select(trials.c.phase, trials.c.ending, func.count())
        .where(trials.c.study == uuid)
        .group_by(trials.c.phase, trials.c.ending)
    )
    tally: dict[str, int] = {}
    for phase, ending, number in connection.execute(query):
        standing = phase_of(phase)
        key = str(ending_of(ending) if standing is TrialPhase.TOLD else standing)
        tally[key] = tally.get(key, 0) + number
    return tally


def highest_begun(connection: Connection, uuid: str) -> int:
    """The highest number that is not free; -1 if none has begun."""
    query = select(func.max(trials.c.number)).where(trials.c.study == uuid, trials.c.phase != TrialPhase.FREE)
    highest = connection.execute(query).scalar_one_or_none()
    return -1 if highest is None else int(highest)


def any_progress(connection: Connection, uuid: str) -> bool:
    """Whether any trial has left something durable: a record, a checkpoint, an end Optuna knows of."""
    told = select(trials.c.number).where(trials.c.study == uuid, trials.c.phase == TrialPhase.TOLD)
    reported = select(records.c.number).where(records.c.study == uuid)
    saved = select(checkpoints.c.number).where(checkpoints.c.study == uuid)
    return any(bool(connection.execute(select(exists(query))).scalar()) for query in (told, reported, saved))


def count_events(connection: Connection, uuid: str, kind: str) -> int:
    """How often something happened to a study."""
    query = select(func.count()).where(events.c.study == uuid, events.c.kind == kind)
    return int(connection.execute(query).scalar_one())


def best_numbers(connection: Connection, uuid: str, direction: str, limit: int) -> list[int]:
    """The numbers of the best complete trials, best first, the lower number on a tie."""
    ranked = trials.c.value.asc() if direction == "minimize" else trials.c.value.desc()
    query = (
        select(trials.c.number)
        .where(trials.c.study == uuid, trials.c.ending == Ending.COMPLETE, trials.c.value.is_not(None))
        .order_by(ranked, trials.c.number)
        .limit(limit)
    )
    return list(connection.execute(query).scalars())
