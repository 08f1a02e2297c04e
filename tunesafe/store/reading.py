"""What ``tunesafe status`` shows, in a handful of queries that count in the database.

Nothing here grows with the number of records. Read row by row are only trials somebody has begun
and not ended, and, to find the best, the sealed outcomes of complete ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from sqlalchemy import Connection, case, func, select

from tunesafe.contracts import Ending, Event, Outcome, Owner, Parameter, TrialPhase
from tunesafe.errors import SpecError
from tunesafe.store.engine import database_now
from tunesafe.store.events import events_of
from tunesafe.store.sealing import real, row_intact, whole
from tunesafe.store.studies import StudyRow, find_study, study_names
from tunesafe.store.tables import trials
from tunesafe.store.trial_rows import ending_of, outcome_of, owner_of, params_of, phase_of

__all__ = ["ActiveTrial", "BestTrial", "StudySummary", "summarise"]


@dataclass(frozen=True, slots=True)
class BestTrial:
    """The best complete trial; the lowest number on a tie.

    Args:
        number: Which trial.
        value: Its objective.
        params: Its parameters.
        selected_virtual_epoch: The virtual epoch its value is of.
    """

    number: int
    value: float
    params: Mapping[str, Parameter]
    selected_virtual_epoch: int | None


@dataclass(frozen=True, slots=True)
class ActiveTrial:
    """A trial begun and not ended, and who has it.

    Args:
        number: Which trial.
        phase: ``CLAIMED``, ``CLOSING`` or ``HELD``.
        attempt: Attempts so far.
        examples_seen: As of its newest record or checkpoint [examples].
        owner: Who holds or last held it.
        lease_seconds: What is left of the lease [seconds]; not positive if expired or released.
    """

    number: int
    phase: TrialPhase
    attempt: int
    examples_seen: int
    owner: Owner | None
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class StudySummary:
    """A study at one moment.

    Args:
        study: What is known of it as a whole.
        num_trials: N.
        phases: Trials by phase, zeros included; they add up to N.
        endings: Ended trials (told or about to be; not held ones) by ending, zeros included.
        num_resumed: Trials with more than one attempt.
        num_attempts: Attempts of all trials.
        examples_seen: By all trials [examples].
        best: The best complete trial so far.
        active: Trials begun and not ended, by number.
        events: The latest, in the order they happened.
        now: The database's time [seconds since the epoch].
    """

    study: StudyRow
    num_trials: int
    phases: Mapping[TrialPhase, int]
    endings: Mapping[Ending, int]
    num_resumed: int
    num_attempts: int
    examples_seen: int
    best: BestTrial | None
    active: Sequence[ActiveTrial]
    events: Sequence[Event]
    now: float


def summarise(connection: Connection, name: str, *, num_events: int = 10) -> StudySummary:
    """Sum up a study by its name.

    Raises:
        SpecError: If there is no such study; the message names those there are.
    """
    study = find_study(connection, name)
    if study is None:
        raise _unknown(name, study_names(connection))
    counts = [
        func.count(),
        func.sum(case((trials.c.attempt > 1, 1), else_=0)),
        func.sum(trials.c.attempt),
        func.sum(trials.c.examples_seen),
    ]
    query = select(trials.c.phase, trials.c.ending, *counts).where(trials.c.study == study.uuid)
    phases, endings = dict.fromkeys(TrialPhase, 0), dict.fromkeys(Ending, 0)
    num_resumed = num_attempts = examples_seen = 0
    for phase, ending, *sums in connection.execute(query.group_by(trials.c.phase, trials.c.ending)):
        # MySQL and PostgreSQL sum integers to decimals.
        count, resumed, attempts, examples = (int(value) for value in sums)
        phases[phase_of(phase)] += count
        if ending is not None and phase != TrialPhase.HELD:
            endings[ending_of(ending)] += count
        num_resumed += resumed
        num_attempts += attempts
        examples_seen += examples
    now = database_now(connection)
    return StudySummary(
        study=study,
        num_trials=sum(phases.values()),
        phases=phases,
        endings=endings,
        num_resumed=num_resumed,
        num_attempts=num_attempts,
        examples_seen=examples_seen,
        best=_best(connection, study),
        active=_active(connection, study.uuid, now),
        events=events_of(connection, study.uuid, newest=num_events),
        now=now,
    )


def _best(connection: Connection, study: StudyRow) -> BestTrial | None:
    columns = (trials.c.study, trials.c.number, trials.c.value, trials.c.params_json, trials.c.outcome_json)
    complete = (
        trials.c.study == study.uuid,
        trials.c.ending == Ending.COMPLETE,
        trials.c.phase != TrialPhase.HELD,
        trials.c.value.is_not(None),
    )
    query = select(*columns).where(*complete).order_by(trials.c.number)
    # Not by the database: its copy of the value carries no seal. Where both texts agree, reading one of them is enough.
    rows = list(connection.execute(query))
    for row in rows:
        if not (isinstance(row.outcome_json, str) and f'"value": {row.value!r},' in row.outcome_json):
            _outcome(row)
    if not rows:
        return None
    sign = 1 if study.direction == "minimize" else -1
    row = min(rows, key=lambda row: sign * row.value)
    params = params_of(row) if row.params_json else {}
    return BestTrial(row.number, row.value, params, _outcome(row).selected_virtual_epoch)


def _outcome(row: Any) -> Outcome:
    """How a complete trial ended; its value is the same in both of its places."""
    outcome = outcome_of(row)
    with row_intact(f"Trial {row.number}"):
        if outcome.value is None or outcome.value != row.value:
            raise ValueError(f"its value is {row.value} in one place and {outcome.value} in another")
    return outcome


def _active(connection: Connection, uuid: str, now: float) -> list[ActiveTrial]:
    columns = (trials.c.number, trials.c.phase, trials.c.attempt, trials.c.examples_seen)
    begun = trials.c.phase.in_((TrialPhase.CLAIMED, TrialPhase.CLOSING, TrialPhase.HELD))
    query = select(*columns, trials.c.owner_json, trials.c.lease_expires_at).where(trials.c.study == uuid, begun)
    return [_active_trial(row, now) for row in connection.execute(query.order_by(trials.c.number))]


def _active_trial(row: Any, now: float) -> ActiveTrial:
    with row_intact(f"Trial {row.number}"):
        return ActiveTrial(
            number=row.number,
            phase=phase_of(row.phase),
            attempt=whole(row.attempt),
            examples_seen=whole(row.examples_seen),
            owner=owner_of(row),
            lease_seconds=real(row.lease_expires_at) - now,
        )


def _unknown(name: str, names: Sequence[str]) -> SpecError:
    if not names:
        return SpecError(f"There is no study {name!r}: the database has none. Start it with `tunesafe run`.")
    near = get_close_matches(name, names, 1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    shown = ", ".join(repr(other) for other in names[:10]) + (", …" if len(names) > 10 else "")
    return SpecError(f"There is no study {name!r} in the database. {hint}It has: {shown}.")
