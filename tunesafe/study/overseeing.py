"""What a supervisor sees of a study: how much is left to claim, and the deaths of its workers.

It claims nothing and never waits for a database that went away: whoever supervises has
workers and signals to attend to, and asks again later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from tunesafe.contracts import Ending, Event, Outcome, TrialPhase
from tunesafe.store import claims
from tunesafe.store.engine import database_now, reading, writing
from tunesafe.store.events import append_event, events_of
from tunesafe.store.trial_rows import trial_row
from tunesafe.study import lifecycle
from tunesafe.study.claiming import count
from tunesafe.study.opening import OpenStudy

__all__ = ["Death", "Overseer"]


@dataclass(frozen=True, slots=True)
class Death:
    """A worker's end that a living supervisor has seen.

    Args:
        pid: The worker's process id.
        how: A signal's name, an exit code, or why it was killed.
        number: The trial its user code was training, if any.
        fence: Under which it held that trial.
    """

    pid: int
    how: str
    number: int | None = None
    fence: int | None = None


class Overseer:
    """Looks at a study, and keeps count of deaths.

    Args:
        opened: The study.
    """

    def __init__(self, opened: OpenStudy) -> None:
        self._engine, self._uuid, self._spec = opened.engine, opened.row.uuid, opened.spec

    def num_claimable(self) -> int:
        """How many trials could be claimed now.

        Raises:
            StorageError: If the database cannot be read.
        """
        with reading(self._engine) as connection:
            tally = count(connection, self._uuid)
            if lifecycle.standing(tally, self._spec.max_failures) is not lifecycle.Standing.RUNNING:
                return 0
            now = database_now(connection)
            abandoned = sum(claims.is_takeable(row, now) for row in claims.claimable(connection, self._uuid))
        return tally.free + abandoned + (tally.held if not tally.open else 0)

    def record_death(self, death: Death) -> dict[str, Any]:
        """Keep a death, and count it against its trial; the last one allowed fails the trial.

        Recording it again changes nothing.

        Returns:
            The event's details.

        Raises:
            StorageError: If the database cannot be written.
        """
        with writing(self._engine) as connection:
            details: dict[str, Any] = {"how": death.how, "worker": death.pid}
            if death.number is not None and death.fence is not None:
                details["fence"] = death.fence
                for event in events_of(connection, self._uuid, number=death.number):
                    if event.kind == "died" and details.items() <= event.details.items():
                        return dict(event.details)
                num_deaths = self._count(connection, death, death.number, death.fence)
                if num_deaths is not None:
                    details |= {"deaths": num_deaths, "retries": self._spec.retries}
            self._note(connection, "died", death.number, details)
            return details

    def note(self, kind: str, number: int | None, **details: Any) -> None:
        """Keep an event for ``status`` and the report.

        Raises:
            StorageError: If the database cannot be written.
        """
        with writing(self._engine) as connection:
            self._note(connection, kind, number, details)

    def _count(self, connection: Connection, death: Death, number: int, fence: int) -> int | None:
        """How many deaths there were since the last durable progress; ``None`` if this one does not count."""
        num_deaths = claims.count_death(connection, self._uuid, number, fence)
        if num_deaths is None:
            return self._count_late(connection, death.pid, number)
        if num_deaths >= max(self._spec.retries, 1):
            self._fail(connection, number, fence, num_deaths, death.how)
        return num_deaths

    def _count_late(self, connection: Connection, pid: int, number: int) -> int | None:
        """Count a death whose trial another worker has claimed in the meantime, unless there was progress since.

        That worker may be at it: if the limit is reached, its own death will fail the trial.
        """
        row = trial_row(connection, self._uuid, number)
        taken = [
            event.details.get("examples_seen")
            for event in events_of(connection, self._uuid, number=number)
            if event.kind == "reclaimed" and event.details.get("from_pid") == pid
        ]
        if row is None or row.phase is not TrialPhase.CLAIMED or taken[-1:] != [row.examples_seen]:
            return None
        return claims.count_death(connection, self._uuid, number, row.fence)

    def _fail(self, connection: Connection, number: int, fence: int, num_deaths: int, how: str) -> None:
        row = trial_row(connection, self._uuid, number)
        assert row is not None, "its death has just been counted there"
        reason = f"its process died {num_deaths} times in a row without progress, last by {how}"
        outcome = Outcome(Ending.FAILED, None, None, row.examples_seen, reason)
        claims.record_outcome(connection, self._uuid, number, fence, outcome)
        claims.release(connection, self._uuid, number, fence)
        self._note(connection, "failed", number, {"reason": reason, "value": None})

    def _note(self, connection: Connection, kind: str, number: int | None, details: dict[str, Any]) -> None:
        append_event(connection, self._uuid, Event(kind, number, details))
