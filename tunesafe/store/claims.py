"""Who may write to a trial: its phase, its lease and its fence.

A number is FREE, then CLAIMED, then CLOSING (or HELD), then TOLD. Every claim raises the fence
and every write names the fence it was claimed under, in the transaction of the write itself; a
write under an older one finds no row. That a lease has expired lets others claim; only a claim
takes the right away.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Update, bindparam, case, select, update

from tunesafe.contracts import Claim, Outcome, Owner, Parameter, TrialPhase, TrialRow
from tunesafe.errors import LeaseLostError
from tunesafe.store.engine import clock
from tunesafe.store.identity import is_provably_dead
from tunesafe.store.statements import run
from tunesafe.store.tables import trials
from tunesafe.store.trial_rows import outcome_json, owner_json, params_json, rows_in

__all__ = [
    "advance",
    "check_fence",
    "claim_free",
    "claimable",
    "count_death",
    "find_token",
    "held",
    "is_takeable",
    "mark_tidied",
    "mark_told",
    "new_token",
    "record_outcome",
    "release",
    "renew",
    "restart",
    "retake",
    "seal_params",
    "unended",
    "unhold",
    "untidied",
]

_CLAIMABLE = (TrialPhase.CLOSING, TrialPhase.CLAIMED)
"""Phases a trial can be claimed again in, in claim order."""

_FARTHER = trials.c.examples_seen < bindparam("examples")
_ADVANCE = (
    update(trials)
    .where(
        trials.c.study == bindparam("uuid"),
        trials.c.number == bindparam("trial"),
        trials.c.fence == bindparam("held_fence"),
    )
    .ordered_values(  # MySQL takes them one after the other: deaths while the old place is there
        (trials.c.deaths, case((_FARTHER, 0), else_=trials.c.deaths)),
        (trials.c.examples_seen, case((_FARTHER, bindparam("examples")), else_=trials.c.examples_seen)),
    )
)
"""Made once: it is part of every report and every checkpoint."""


def new_token() -> str:
    """A name for a claim that is about to be made; made beforehand, so that the claim can be looked for."""
    return uuids.uuid4().hex


def claim_free(
    connection: Connection,
    uuid: str,
    number: int,
    n_trials: int,
    owner: Owner,
    lease_seconds: float,
    token: str | None = None,
) -> Claim | None:
    """Claim a number nobody has had; ``None`` if it is beyond the study or not free.

    Meant for the transaction in which Optuna creates the trial of this number: on ``None`` roll it back.
    """
    if number >= n_trials:
        return None
    token = token or new_token()
    result = connection.execute(
        _trial_update(uuid, number)
        .where(trials.c.phase == TrialPhase.FREE)
        .values(
            phase=TrialPhase.CLAIMED,
            attempt=1,
            claimed_at=clock(),
            **_ownership(token, owner, lease_seconds),
        )
    )
    return find_token(connection, uuid, token) if result.rowcount == 1 else None


def claimable(connection: Connection, uuid: str) -> list[TrialRow]:
    """Trials begun and not told, in claim order: closing ones first, then by number.

    Ask ``is_takeable`` of each; a live owner's are among them.
    """
    rows = rows_in(connection, uuid, _CLAIMABLE)
    return sorted(rows, key=lambda row: (_CLAIMABLE.index(row.phase), row.number))


def is_takeable(row: TrialRow, now: float) -> bool:
    """Whether others may claim a trial: its lease is over (or released), or its owner is provably dead.

    Args:
        row: As read by ``claimable``.
        now: The database's time [seconds since the epoch].
    """
    return row.lease_expires_at <= now or (row.owner is not None and is_provably_dead(row.owner))


def retake(
    connection: Connection, uuid: str, row: TrialRow, owner: Owner, lease_seconds: float, token: str | None = None
) -> Claim | None:
    """Claim a trial as it was read; ``None`` if its fence or phase has changed since: somebody was faster."""
    if row.phase not in _CLAIMABLE:
        return None
    token = token or new_token()
    result = connection.execute(
        _trial_update(uuid, row.number)
        .where(trials.c.fence == row.fence, trials.c.phase == row.phase)
        .values(
            attempt=trials.c.attempt + (1 if row.phase is TrialPhase.CLAIMED else 0),
            **_ownership(token, owner, lease_seconds),
        )
    )
    return find_token(connection, uuid, token) if result.rowcount == 1 else None


def find_token(connection: Connection, uuid: str, token: str) -> Claim | None:
    """The claim a token names, if it stands: the answer to a lost COMMIT reply."""
    columns = (trials.c.number, trials.c.phase, trials.c.fence, trials.c.token, trials.c.attempt)
    query = select(*columns).where(trials.c.study == uuid, trials.c.token == token, trials.c.phase.in_(_CLAIMABLE))
    # A commit can arrive after its reply was given up for lost, beside the one made instead of it: either will do,
    # and nobody renews the other's lease.
    row = connection.execute(query.order_by(trials.c.number).limit(1)).one_or_none()
    return None if row is None else Claim(row.number, TrialPhase(row.phase), row.fence, row.token, row.attempt)


def check_fence(connection: Connection, uuid: str, number: int, fence: int) -> None:
    """Make sure a fence is the newest, and stays so until this transaction ends.

    Raises:
        LeaseLostError: If the trial has been claimed again since.
    """
    # For update, not for share: two writers that share a row and then both update it would deadlock.
    query = select(trials.c.fence).where(trials.c.study == uuid, trials.c.number == number).with_for_update()
    found = connection.execute(query).scalar_one_or_none()
    if found != fence:
        newer = "is not in the study any more" if found is None else "has been claimed by another worker"
        raise LeaseLostError(
            f"Trial {number} {newer} (fence {found}, this worker holds {fence}). Nothing of this write was stored; "
            "the trial goes on where it is held. This worker leaves it."
        )


def renew(connection: Connection, uuid: str, number: int, fence: int, lease_seconds: float) -> None:
    """Extend a lease from now. Raises ``LeaseLostError`` under a stale fence."""
    _fenced(connection, uuid, number, fence, lease_expires_at=clock() + lease_seconds)


def release(connection: Connection, uuid: str, number: int, fence: int) -> bool:
    """Let others claim the trial at once; the owner is kept for history. ``False`` if it was not ours any more."""
    statement = _trial_update(uuid, number).where(trials.c.fence == fence)
    return connection.execute(statement.values(lease_expires_at=0.0)).rowcount == 1


def seal_params(connection: Connection, uuid: str, number: int, fence: int, params: Mapping[str, Parameter]) -> None:
    """Keep a trial's parameters once all are drawn. Raises ``LeaseLostError`` under a stale fence."""
    _fenced(connection, uuid, number, fence, params_json=params_json(params, uuid, number))


def advance(connection: Connection, uuid: str, number: int, fence: int, examples_seen: int) -> None:
    """Note durable progress, which forgives earlier deaths; going back is not noted.

    Raises:
        LeaseLostError: Under a stale fence.
    """
    values = {"uuid": uuid, "trial": number, "held_fence": fence, "examples": examples_seen}
    if run(connection, _ADVANCE, values).rowcount != 1:
        check_fence(connection, uuid, number, fence)


def count_death(connection: Connection, uuid: str, number: int, fence: int) -> int | None:
    """Count a death of the trial's process; return how many there were since its last durable progress.

    ``None`` if the trial has been claimed again since: the death is not this claim's.
    """
    statement = _trial_update(uuid, number).where(trials.c.fence == fence, trials.c.phase == TrialPhase.CLAIMED)
    if connection.execute(statement.values(deaths=trials.c.deaths + 1)).rowcount != 1:
        return None
    query = select(trials.c.deaths).where(trials.c.study == uuid, trials.c.number == number)
    return int(connection.execute(query).scalar_one())


def record_outcome(
    connection: Connection,
    uuid: str,
    number: int,
    fence: int,
    outcome: Outcome,
    phase: TrialPhase = TrialPhase.CLOSING,
) -> None:
    """Record how a trial ended, before Optuna is told; of a trial already told nothing is changed.

    The phase is ``CLOSING``, or ``HELD`` for an exception in a streak.

    Raises:
        LeaseLostError: Under a stale fence.
    """
    check_fence(connection, uuid, number, fence)
    connection.execute(
        _trial_update(uuid, number)
        .where(trials.c.phase != TrialPhase.TOLD)
        .values(
            phase=phase,
            outcome_json=outcome_json(outcome, uuid, number),
            ending=outcome.ending,
            value=outcome.value,
            examples_seen=outcome.examples_seen,
            ended_at=clock(),
        )
    )


def mark_told(connection: Connection, uuid: str, number: int, fence: int) -> None:
    """End a trial: Optuna knows (in the transaction in which it is told). Raises ``LeaseLostError`` if stale."""
    _fenced(connection, uuid, number, fence, phase=TrialPhase.TOLD, lease_expires_at=0.0)


def untidied(connection: Connection, uuid: str) -> list[int]:
    """Trials that are told, and whose surplus checkpoints may still be there, by number."""
    told = (trials.c.study == uuid, trials.c.phase == TrialPhase.TOLD, trials.c.tidied.is_(None))
    return list(connection.execute(select(trials.c.number).where(*told).order_by(trials.c.number)).scalars())


def mark_tidied(connection: Connection, uuid: str, number: int) -> None:
    """Remember that the surplus checkpoints of a trial that is told are gone."""
    connection.execute(_trial_update(uuid, number).where(trials.c.phase == TrialPhase.TOLD).values(tidied=1))


def held(connection: Connection, uuid: str) -> list[TrialRow]:
    """Trials that raised and wait for what becomes of their streak, by number."""
    return rows_in(connection, uuid, (TrialPhase.HELD,))


def unhold(connection: Connection, uuid: str, numbers: Collection[int], to: TrialPhase) -> int:
    """Let held trials end (``CLOSING``) or run again under their numbers (``CLAIMED``, outcome forgotten).

    Either way they have no lease: whoever claims them next goes on. Returns how many were still held.
    """
    if to not in (TrialPhase.CLOSING, TrialPhase.CLAIMED):
        raise ValueError(f"a held trial becomes closing or claimed, not {to}")
    values: dict[str, Any] = {"phase": to, "lease_expires_at": 0.0}
    if to is TrialPhase.CLAIMED:
        values |= {"outcome_json": None, "ending": None, "value": None, "ended_at": None, "deaths": 0}
    where = (trials.c.study == uuid, trials.c.number.in_(numbers), trials.c.phase == TrialPhase.HELD)
    return connection.execute(update(trials).where(*where).values(values)).rowcount


def unended(connection: Connection, uuid: str) -> list[TrialRow]:
    """Trials that have begun and have no outcome that stands, by number: claimed or held."""
    return rows_in(connection, uuid, (TrialPhase.CLAIMED, TrialPhase.HELD))


def restart(connection: Connection, uuid: str, number: int, *, unsealed_only: bool = False) -> bool:
    """Put an unended trial back to its start; whoever works on it has lost it, and a held one runs again.

    Returns whether it still had no end, nor (``unsealed_only``) sealed parameters.
    """
    statement = _trial_update(uuid, number).where(trials.c.phase.in_((TrialPhase.CLAIMED, TrialPhase.HELD)))
    if unsealed_only:
        statement = statement.where(trials.c.params_json.is_(None))
    fresh: dict[str, Any] = {"outcome_json": None, "ending": None, "value": None, "ended_at": None}
    fresh |= {"phase": TrialPhase.CLAIMED, "lease_expires_at": 0.0, "examples_seen": 0, "deaths": 0}
    return connection.execute(statement.values(fence=trials.c.fence + 1, **fresh)).rowcount == 1


def _trial_update(uuid: str, number: int) -> Update:
    return update(trials).where(trials.c.study == uuid, trials.c.number == number)


def _fenced(connection: Connection, uuid: str, number: int, fence: int, **values: Any) -> None:
    statement = _trial_update(uuid, number).where(trials.c.fence == fence).values(**values)
    if connection.execute(statement).rowcount != 1:
        check_fence(connection, uuid, number, fence)


def _ownership(token: str, owner: Owner, lease_seconds: float) -> dict[str, Any]:
    return {
        "fence": trials.c.fence + 1,
        "token": token,
        "owner_json": owner_json(owner),
        "lease_expires_at": clock() + lease_seconds,
    }
