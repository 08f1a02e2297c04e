"""Keeping a lease: one thread that renews it, counts the study's time and carries logs along.

A daemon thread, so it dies with its process: a worker that was killed stops renewing at
once. It only ever extends what it holds; that a lease was lost is found here early and
enforced by the fence in every write.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol, Self

from sqlalchemy import Connection, Engine

from tunesafe.contracts import Claim
from tunesafe.errors import LeaseLostError, StorageError
from tunesafe.store import claims, studies
from tunesafe.store.engine import database_now, writing

__all__ = ["LeaseKeeper", "Passenger"]


_SOON_SECONDS = 1.0
"""Until the next try, where a renewal failed [s]."""


class Passenger(Protocol):
    """Something that rides along in the renewing transaction, e.g. captured output."""

    def board(self, connection: Connection, claim: Claim) -> None:
        """Write what is pending."""

    def arrived(self) -> None:
        """What was written is durable; without this call it is written again next time."""


class LeaseKeeper:
    """Renews the lease of the trial at hand, three times within its length.

    Args:
        engine: Connections of its own; it never shares a transaction with the worker.
        uuid: The study.
        lease_seconds: Length of a lease [s].
        timeout_seconds: Time with a live lease after which the study pauses [s]; ``None`` for never.
        live_seconds: That time so far, over all earlier runs [s].
        passenger: Rides along in each renewing transaction.
    """

    def __init__(
        self,
        engine: Engine,
        uuid: str,
        *,
        lease_seconds: float,
        timeout_seconds: float | None,
        live_seconds: float,
        passenger: Passenger,
    ) -> None:
        self._engine, self._uuid = engine, uuid
        self._lease, self._timeout = lease_seconds, timeout_seconds
        self._passenger = passenger
        self.num_checks = 0
        """How often user code has come by: at every batch, report and checkpoint."""
        self._claim: Claim | None = None
        self._lost: LeaseLostError | None = None
        self._live, self._beaten = live_seconds, monotonic()
        self._busy = threading.Lock()
        self._wake = threading.Event()
        self._closed = self._missed = False
        self._thread = threading.Thread(target=self._run, name="tunesafe-lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join()

    @contextmanager
    def holding(self, claim: Claim) -> Iterator[None]:
        """Renew this trial's lease while the block runs."""
        with self._busy:
            self._claim, self._lost = claim, None
        self.beat()
        try:
            yield
        finally:
            with self._busy:
                self._claim = None

    def beat(self) -> None:
        """Renew now; what the database refuses is remembered for :meth:`check`."""
        try:
            self.renew()
        except StorageError:
            # Training goes on up to the next report, which says what is wrong; we try again soon, so that
            # nobody takes a lease that expired only because the database was away.
            self._missed = True

    def renew(self) -> None:
        """As :meth:`beat`, but a passenger must not be left behind.

        Raises:
            StorageError: The database failed; repeating it is harmless.
        """
        with self._busy:
            claim = self._claim
            if claim is None or self._lost is not None:
                return
            try:
                with writing(self._engine) as connection:
                    claims.renew(connection, self._uuid, claim.number, claim.fence, self._lease)
                    self._live = studies.beat_study(connection, self._uuid, database_now(connection), self._lease)
                    self._passenger.board(connection, claim)
                self._passenger.arrived()
                self._beaten, self._missed = monotonic(), False
            except LeaseLostError as error:
                self._lost = error

    def check(self) -> None:
        """Raise if the lease is known to be lost.

        Raises:
            LeaseLostError: Another worker has the trial.
        """
        self.num_checks += 1
        if self._lost is not None:
            raise self._lost

    @property
    def timed_out(self) -> bool:
        """Whether the study has used up its ``timeout``."""
        return self._timeout is not None and self._live + (monotonic() - self._beaten) >= self._timeout

    def _run(self) -> None:
        while not self._wake.wait(self._pause_seconds()) and not self._closed:
            self.beat()

    def _pause_seconds(self) -> float:
        return min(self._lease / 3, _SOON_SECONDS) if self._missed else self._lease / 3
