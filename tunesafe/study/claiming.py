"""Claims: who works on which trial, and what happens to the trials of the dead.

One order for everyone: outcomes that Optuna has not been told, trials whose owner is gone,
then a free number. A free number is taken inside the transaction in which Optuna creates
the trial, so the two tables cannot disagree: exactly N, whoever dies when.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection

from tunesafe.contracts import Claim, Event, Notice, Owner, TrialPhase, TrialRow
from tunesafe.errors import SpecError, StudyChangedError
from tunesafe.failpoints import failpoint
from tunesafe.store import claims, identity, studies, tallies
from tunesafe.store.engine import database_now, reading, writing
from tunesafe.store.events import append_event, events_of
from tunesafe.study import lifecycle
from tunesafe.study.opening import OpenStudy
from tunesafe.study.optuna_tables import number_of_newest_trial
from tunesafe.study.patience import patiently

__all__ = ["Claimant", "count", "release_held"]


class _NumberTakenError(Exception):
    """The number Optuna gave is not free in our table; its transaction is rolled back."""


class _ClaimedBeforeError(Exception):
    """An earlier attempt was committed after all; the transaction that would make a second trial is rolled back."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        super().__init__(claim)


class Claimant:
    """Takes trials of one study for one owner.

    Args:
        opened: The study.
        owner: Who claims; this process by default.
        supervisor: Process id of who counts the deaths of this worker and its colleagues, if anybody does.
        watch: Told what this worker waits for.
    """

    def __init__(
        self,
        opened: OpenStudy,
        owner: Owner | None = None,
        *,
        supervisor: int | None = None,
        watch: Callable[[Notice], None] | None = None,
    ) -> None:
        self._opened, self._engine, self._storage = opened, opened.engine, opened.storage
        self._uuid, self._spec = opened.row.uuid, opened.spec
        self._patience = opened.patience
        self._owner = owner or identity.this_process()
        self._supervisor, self._watch = supervisor, watch
        self._unheard: dict[int, float] | None = None
        self._said: set[tuple[int, int]] = set()

    def claim(self) -> Claim | None:
        """Take the next trial to tell or to train; ``None`` if there is none to take now.

        Raises:
            StudyChangedError: If another command changed the study since this worker opened it.
            SpecError: If somebody else put trials into it.
        """
        failpoint("claim.before")
        # The token is made first: an attempt whose reply was lost is found by it, not made twice.
        claim = self._patience(self._claim, claims.new_token())
        if claim is not None:
            failpoint("claim.after")
        return claim

    def _claim(self, token: str) -> Claim | None:
        with writing(self._engine) as connection:
            if (made := self._claimed_before(connection, token)) is not None:
                return made
            tally = self._check_revision(connection)
            if lifecycle.held_to_be_told(tally, self._spec.max_failures):
                release_held(connection, self._uuid, TrialPhase.CLOSING)
                tally = count(connection, self._uuid)
            if lifecycle.standing(tally, self._spec.max_failures) is not lifecycle.Standing.RUNNING:
                return None
            claim = self._retake(connection, token)
            wait = claim is None and (self._predecessor_may_be_gone(connection) or not tally.free)
            waits = self._note_waits(connection) if wait else {}
        self._say(waits)
        return claim if claim is not None or wait else self._take_free(token)

    def _predecessor_may_be_gone(self, connection: Connection) -> bool:
        """Whether a single worker should wait before it takes a free number.

        A lease from another machine, or of who knows whom, that was live when we began is either a
        colleague's, who renews it soon, or a predecessor's, whose trial comes first: taken out of
        order, later suggestions would see other trials than if nobody had died. The same goes for an
        orphan that our supervisor has adopted, as the first process of a container does: nobody
        counts its death.
        """
        if self._spec.n_workers > 1 or self._unheard == {}:
            return False
        now = database_now(connection)
        leases = {
            row.number: row.lease_expires_at
            for row in claims.claimable(connection, self._uuid)
            if row.lease_expires_at > now
            and (row.owner is None or not self._is_here(row.owner) or self._is_to_be_counted(row))
        }
        begun_with = leases if self._unheard is None else self._unheard
        self._unheard = {number: expires for number, expires in begun_with.items() if leases.get(number) == expires}
        return bool(self._unheard)

    def _note_waits(self, connection: Connection) -> dict[tuple[int, int], Notice]:
        """Keep an event of each lease that is waited for although its owner may be gone, once of each.

        Returns:
            What to say of them, by number and fence; once of each.
        """
        now, waits = database_now(connection), dict[tuple[int, int], Notice]()
        for row in claims.claimable(connection, self._uuid):
            unknown = row.owner is None or row.number in (self._unheard or ())
            if not unknown or row.lease_expires_at <= now or (row.number, row.fence) in self._said:
                continue
            details = {"why": self._why_wait(row.owner), "fence": row.fence}
            if not any(
                event.kind == "lease_awaited" and event.details.get("fence") == row.fence
                for event in events_of(connection, self._uuid, number=row.number)
            ):
                self._note(connection, "lease_awaited", row.number, details)
            seconds = round(row.lease_expires_at - now, 1)
            said = {"event": "lease_awaited", "waits_seconds": seconds, "why": details["why"]}
            waits[row.number, row.fence] = Notice("event", row.number, said)
        return waits

    def _why_wait(self, owner: Owner | None) -> str:
        if owner is not None and self._is_here(owner):
            return f"its process {owner.pid} has ended and nobody counts that; it is continued then; nothing is harmed"
        who = "its owner cannot be read and"
        if owner is not None:
            who = f"nobody here has seen the end of its owner, process {owner.pid} on {owner.host}, which"
        return f"{who} may be alive; unless it renews its lease, the trial is continued then; nothing is harmed"

    def _say(self, waits: Mapping[tuple[int, int], Notice]) -> None:
        self._said |= waits.keys()
        if self._watch is not None:
            for notice in waits.values():
                self._watch(notice)

    def _is_here(self, owner: Owner) -> bool:
        ours = (self._owner.machine_id, self._owner.boot_id, self._owner.pid_namespace)
        return (owner.machine_id, owner.boot_id, owner.pid_namespace) == ours

    def _is_to_be_counted(self, row: TrialRow) -> bool:
        """Whether a trial's owner is a colleague whose death our supervisor has yet to count.

        It may be the last death allowed: whoever took the trial before that would die of it once more.
        """
        if self._supervisor is None or row.owner is None:
            return False
        return self._is_here(row.owner) and identity.is_zombie_of(row.owner, self._supervisor)

    def _claimed_before(self, connection: Connection, token: str) -> Claim | None:
        return claims.find_token(connection, self._uuid, token) if self._patience.repeating else None

    @patiently
    def release(self, claim: Claim) -> None:
        """Give a trial back unfinished; the next claim continues it."""
        with writing(self._engine) as connection:
            claims.release(connection, self._uuid, claim.number, claim.fence)
            self._note(connection, "released", claim.number, {"attempt": claim.attempt})

    @patiently
    def take_up_held(self) -> None:
        """Take up again the trials over whose exceptions the study had stopped."""
        with writing(self._engine) as connection:
            if lifecycle.held_run_again(count(connection, self._uuid), self._spec.max_failures):
                release_held(connection, self._uuid, TrialPhase.CLAIMED)

    def wait_for_others(self, seconds: float) -> bool:
        """Wait while others hold trials that may yet fall to this worker.

        Returns:
            Whether there is a reason to try to claim again.
        """
        tally = self.tally()
        if lifecycle.standing(tally, self._spec.max_failures) is not lifecycle.Standing.RUNNING or not tally.open:
            return False
        time.sleep(seconds)
        return True

    @patiently
    def tally(self) -> lifecycle.Tally:
        """The study's trials by where they are now."""
        with reading(self._engine) as connection:
            return count(connection, self._uuid)

    def _check_revision(self, connection: Connection) -> lifecycle.Tally:
        self._require_revision(connection)
        return count(connection, self._uuid)

    def _require_revision(self, connection: Connection, *, lock: bool = False) -> None:
        if studies.revision_of(connection, self._uuid, lock=lock) != self._opened.row.revision:
            raise StudyChangedError(
                f"study {self._spec.name!r} was changed by another command while this worker ran; "
                "its finished trials are safe; run the same command again to go on with the new version"
            )

    def _retake(self, connection: Connection, token: str) -> Claim | None:
        # Where the database was away, the living could not renew: the dead are known, the others get a moment.
        now = database_now(connection) - self._patience.forbearance_seconds
        for row in claims.claimable(connection, self._uuid):
            if not claims.is_takeable(row, now) or (row.lease_expires_at > now and self._is_to_be_counted(row)):
                continue
            claim = claims.retake(connection, self._uuid, row, self._owner, self._spec.lease, token)
            if claim is not None:
                self._note(connection, *_story_of(row, claim))
                return claim
        return None

    def _take_free(self, token: str) -> Claim | None:
        taken: list[Claim] = []

        def take(connection: Connection) -> None:
            # Asked again under Optuna's lock on the study: the earlier commit may have been on its way until now.
            if (made := self._claimed_before(connection, token)) is not None:
                raise _ClaimedBeforeError(made)
            self._require_revision(connection, lock=True)  # a change may have been accepted since the other transaction
            number = number_of_newest_trial(connection, self._opened.study_id)
            claim = claims.claim_free(
                connection, self._uuid, number, self._spec.n_trials, self._owner, self._spec.lease, token
            )
            if claim is None:
                raise _NumberTakenError(number)
            self._note(connection, "claimed", number, {"attempt": 1})
            taken.append(claim)
            failpoint("claim.in_transaction")

        try:
            with self._storage.carrying(take):
                self._storage.create_new_trial(self._opened.study_id)
        except _ClaimedBeforeError as before:
            return before.claim
        except _NumberTakenError as error:
            with reading(self._engine) as connection:
                tally = self._check_revision(connection)  # there may be more numbers than this worker knows of
            if not tally.free:
                return None  # another worker was faster, and its number was the last
            raise SpecError(
                f"Optuna's study {self._spec.name!r} would number its next trial {error}, which is not free in "
                "tunesafe's table: a program other than tunesafe added or removed trials. Nothing was written. "
                "Continue under a new name, or remove the foreign trials."
            ) from None
        return taken[-1]

    def _note(self, connection: Connection, kind: str, number: int | None, details: dict[str, Any]) -> None:
        append_event(connection, self._uuid, Event(kind, number, details), again=self._patience.repeating)


def count(connection: Connection, uuid: str) -> lifecycle.Tally:
    """Count a study's trials by where they are."""
    return lifecycle.Tally(**tallies.count_by_standing(connection, uuid))


def release_held(connection: Connection, uuid: str, phase: TrialPhase) -> None:
    """Let the held trials go: to be told as failures, or to run again."""
    numbers = [row.number for row in claims.held(connection, uuid)]
    if numbers:
        claims.unhold(connection, uuid, numbers, phase)


def _story_of(row: TrialRow, claim: Claim) -> tuple[str, int, dict[str, Any]]:
    """Which event a second or later claim is."""
    if row.phase is TrialPhase.CLOSING:
        kind = "closing"
    elif row.lease_expires_at == 0:
        kind = "resumed"
    else:
        kind = "reclaimed"
    details: dict[str, Any] = {"attempt": claim.attempt, "examples_seen": row.examples_seen}
    if row.owner is not None:
        details |= {"from_host": row.owner.host, "from_pid": row.owner.pid}
    return kind, claim.number, details
