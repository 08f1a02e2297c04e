"""Holding a study's ``disk_limit``: what is needed least is given up, and said to be.

In which order is ``store.retention``'s pure decision. Looked at after every checkpoint, after
every trial's end and when a worker begins; as long as all fits, a look is one small query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from tunesafe.contracts import Event, Notice, Record, TrialPhase, TrialRow
from tunesafe.errors import DamagedError
from tunesafe.state.weights import weights_in
from tunesafe.store import claims
from tunesafe.store.checkpoint_rows import is_there
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.damage import RemovedError
from tunesafe.store.engine import reading, writing
from tunesafe.store.events import append_event, newest_event_of
from tunesafe.store.inventory import StoredSum
from tunesafe.store.retention import Loss, Need, TrialKeep, dispensable
from tunesafe.store.trial_rows import trial_rows
from tunesafe.study.keeping import keep_of, objectives_of, trial_keep
from tunesafe.study.opening import OpenStudy
from tunesafe.study.patience import Patience

__all__ = ["DiskLimit", "Live"]


@dataclass(frozen=True, slots=True)
class Live:
    """The trial that whoever looks is training.

    Args:
        number: Which one.
        fence: Of the claim under which it is trained; once it is stale, others know more of the trial.
        history: Its reports.
    """

    number: int
    fence: int
    history: Sequence[Record]


class DiskLimit:
    """Gives up checkpoints while a study stores more than it may.

    Args:
        opened: The study.
        checkpoints: Its checkpoints.
        watch: Told of what is kept as an event.
    """

    def __init__(
        self, opened: OpenStudy, checkpoints: CheckpointStore, watch: Callable[[Notice], None] = lambda notice: None
    ) -> None:
        self._engine, self._uuid, self._spec = opened.engine, opened.row.uuid, opened.spec
        self._checkpoints, self._watch = checkpoints, watch
        self._limit = opened.spec.disk_limit
        self._sum = StoredSum(opened.row.uuid)
        self._said: set[str] = set()
        self._exhausted = False

    def hold(self, patience: Patience, live: Live | None = None) -> None:
        """Give up what is needed least until the rest fits; say so if it does not.

        Of trials that live only the caller's own is touched: what others may need is theirs to know.

        Args:
            patience: Of the thread that calls.
            live: The trial the caller is training, if it has just saved it.

        Raises:
            LeaseLostError: If another worker has the live trial; nothing of it is given up.
            StorageError: If the database cannot be written. What is given up by then is what was to be.
        """
        if self._limit is None or patience(self._at_most) <= self._limit or not self._is_over(patience):
            return
        if live is None:
            self._exhausted = False
        # First what nobody asked for, and what weights can do without: a thinned checkpoint has another id after it.
        for is_turn in (lambda need: need <= Need.STATE, lambda need: need is not Need.STATE):
            for loss in patience(self._losses, live):
                if not is_turn(loss.need):
                    continue
                if not self._is_over(patience):
                    return
                self._give_up(patience, loss, live)
        if self._is_over(patience):
            self._exhausted = True
            self._say_once(patience, "over_disk_limit", _NOTHING_LEFT)

    def _at_most(self) -> int:
        with reading(self._engine) as connection:
            return self._sum.at_most(connection)

    def _exactly(self) -> int:
        with reading(self._engine) as connection:
            return self._sum.exactly(connection)

    def _is_over(self, patience: Patience) -> bool:
        return self._limit is not None and patience(self._exactly) > self._limit

    def _losses(self, live: Live | None) -> list[Loss]:
        """What could be given up; where all that is over has been given up already, only of the live trial."""
        known: dict[int, TrialKeep] = {}
        if live is not None:
            known[live.number] = TrialKeep(None, objectives=objectives_of(live.history, self._spec))
        infos = self._checkpoints.infos(live.number if live is not None and self._exhausted else None)
        mine = set(known)
        with reading(self._engine) as connection:
            rows = [] if self._exhausted else trial_rows(connection, self._uuid)
            there = {info.number for info in infos}
            for row in rows:
                if row.outcome is not None and row.phase is not TrialPhase.HELD:
                    known[row.number] = self._known(connection, row, there)
                    if row.phase is TrialPhase.TOLD:
                        mine.add(row.number)
        infos = [info for info in infos if info.number in mine]
        return dispensable(infos, known, keep_of(self._spec), self._spec.objective.direction)

    def _known(self, connection: Connection, row: TrialRow, there: set[int]) -> TrialKeep:
        assert row.outcome is not None
        if row.number in there:
            return trial_keep(connection, self._uuid, self._spec, row)
        return TrialKeep(row.outcome.ending, row.outcome.value)  # only its place among the best counts

    def _give_up(self, patience: Patience, loss: Loss, live: Live | None) -> None:
        info, details = loss.info, {"virtual_epoch": loss.info.position.virtual_epoch, "what": loss.rule}
        given_up = False

        def note(connection: Connection) -> None:
            nonlocal given_up
            if live is not None and live.number == info.number:
                claims.check_fence(connection, self._uuid, live.number, live.fence)
            if loss.need is not Need.NONE and is_there(connection, info):
                given_up = True
                append_event(connection, self._uuid, Event("given_up", info.number, details), again=patience.repeating)

        if loss.need is not Need.NONE:
            self._say_once(patience, "disk_limit", _GIVES_UP)
        if loss.need is Need.STATE:
            with suppress(DamagedError, RemovedError):  # then there is nothing to be had from it
                patience(self._checkpoints.keep_weights, info, weights_in, note)
        else:
            patience(self._checkpoints.remove, [info.checkpoint_id], note)
        if given_up:
            self._watch(Notice("event", info.number, {"event": "given_up", **details}))

    def _say_once(self, patience: Patience, kind: str, message: str) -> None:
        """Keep an event and tell it; one of a kind for every limit a study has had."""
        if kind in self._said or self._limit is None:
            return
        self._said.add(kind)
        stored = patience(self._exactly)
        details = {"limit_bytes": self._limit, "stored_bytes": stored}
        details_and_words = {**details, "message": message.format(limit=f"{self._limit:,}", stored=f"{stored:,}")}
        if patience(self._note_once, kind, details_and_words, patience):
            self._watch(Notice("event", None, {"event": kind, **details_and_words}))

    def _note_once(self, kind: str, details: dict[str, Any], patience: Patience) -> bool:
        with writing(self._engine) as connection:
            earlier = newest_event_of(connection, self._uuid, kind)
            if earlier is not None and earlier.details.get("limit_bytes") == self._limit:
                return patience.repeating  # this attempt's own, perhaps
            append_event(connection, self._uuid, Event(kind, None, details), again=patience.repeating)
        return True


_GIVES_UP = (
    "The study's checkpoints take {stored} bytes, more than its disk_limit of {limit}. From now on it gives up what is "
    "needed least, although checkpoint.keep asks for it; each loss is an event of its trial. Results, reports, the "
    "newest two checkpoints of live trials and the study's best stay. To keep more, raise disk_limit."
)
_NOTHING_LEFT = (
    "The study's checkpoints take {stored} bytes, more than its disk_limit of {limit}, and nothing is left that it "
    "could give up: live trials keep their newest two, and the study its best. Training goes on, and nothing is lost. "
    "Raise disk_limit, or run fewer workers at a time."
)
