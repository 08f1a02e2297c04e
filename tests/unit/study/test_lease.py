"""Leases: renewed while a trial is held, lost once, counted over restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection

from tests.unit.study.studies import DEAD, Desk, opened
from tunesafe.contracts import Claim
from tunesafe.errors import LeaseLostError, StorageError
from tunesafe.store import studies
from tunesafe.store.engine import reading
from tunesafe.study import lease
from tunesafe.study.lease import LeaseKeeper


class Passenger:
    """Counts how often it was on board, and how often it arrived."""

    def __init__(self) -> None:
        self.boarded: list[int] = []
        self.arrivals = 0

    def board(self, connection: Connection, claim: Claim) -> None:
        """Ride along."""
        self.boarded.append(claim.number)

    def arrived(self) -> None:
        """Get off."""
        self.arrivals += 1


@pytest.fixture
def desk(sqlite_url: str) -> Iterator[Desk]:
    """A study of three trials."""
    with opened(sqlite_url) as study:
        yield Desk(study)


def keeper_of(desk: Desk, passenger: Passenger | None = None, **options: Any) -> LeaseKeeper:
    """A keeper that is not running: a test beats by hand."""
    keys: dict[str, Any] = {"lease_seconds": 60.0, "timeout_seconds": None, "live_seconds": 0.0, **options}
    return LeaseKeeper(desk.engine, desk.uuid, passenger=passenger or Passenger(), **keys)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def test_a_lease_is_renewed_while_its_trial_is_held(desk: Desk) -> None:
    """By a thread, three times within its length; and no longer than that."""
    claim, passenger = desk.claim(), Passenger()
    with keeper_of(desk, passenger, lease_seconds=0.03) as keeper:
        with keeper.holding(claim):
            wait_until(lambda: passenger.arrivals >= 4)
        assert any(thread.name == "tunesafe-lease" and thread.daemon for thread in threading.enumerate())
        expiry = desk.row(0).lease_expires_at
        keeper.beat()
    assert set(passenger.boarded) == {0}
    assert desk.row(0).lease_expires_at == expiry
    assert all(thread.name != "tunesafe-lease" for thread in threading.enumerate())


def test_a_lost_lease_is_found_and_stays_lost(desk: Desk) -> None:
    """The worker is told at its next question; what rode along was not written."""
    old, passenger = Desk(desk.study, DEAD), Passenger()
    stale = old.claim()
    keeper = keeper_of(desk, passenger)
    with keeper.holding(stale):
        keeper.check()
        fresh = desk.claim()
        expiry = desk.row(0).lease_expires_at
        for _ in range(2):
            keeper.beat()
            with pytest.raises(LeaseLostError):
                keeper.check()
    assert (desk.row(0).fence, desk.row(0).lease_expires_at) == (fresh.fence, expiry)
    assert passenger.arrivals == 1


def test_the_next_trial_starts_without_the_last_ones_loss(desk: Desk) -> None:
    """One keeper serves all trials of a worker."""
    stale = Desk(desk.study, DEAD).claim()
    desk.claim()
    keeper = keeper_of(desk)
    with keeper.holding(stale), pytest.raises(LeaseLostError):
        keeper.check()
    with keeper.holding(desk.claim()):
        keeper.check()


def test_a_database_that_does_not_answer_is_no_loss(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on up to the next report; what rides along is kept for the next time."""
    claim, passenger = desk.claim(), Passenger()
    keeper = keeper_of(desk, passenger)

    def refuse(*arguments: object) -> None:
        raise StorageError("the server is away")

    with monkeypatch.context() as patch:
        patch.setattr(lease.claims, "renew", refuse)
        with keeper.holding(claim):
            keeper.check()
    assert passenger.arrivals == 0
    with keeper.holding(claim):
        assert passenger.arrivals == 1


def test_live_time_adds_up_over_restarts_and_leaves_out_the_time_between(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database's clock says what was lived; a silence longer than a lease was no work."""
    now = 1000.0
    monkeypatch.setattr(lease, "database_now", lambda connection: now)
    monkeypatch.setattr(lease, "monotonic", lambda: now)
    claim = desk.claim()
    for begun in (1000.0, 5000.0):  # two runs, with an hour between them
        now = begun
        keeper = keeper_of(desk, timeout_seconds=140.0, live_seconds=live_seconds(desk))
        with keeper.holding(claim):
            assert not keeper.timed_out
            for _ in range(2):
                now += 40.0
                keeper.beat()
    assert live_seconds(desk) == 160.0
    assert keeper.timed_out


def test_a_timeout_is_seen_between_two_beats(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time since the last beat counts before it is written."""
    now = 1000.0
    monkeypatch.setattr(lease, "database_now", lambda connection: now)
    monkeypatch.setattr(lease, "monotonic", lambda: now)
    keeper = keeper_of(desk, timeout_seconds=50.0)
    with keeper.holding(desk.claim()):
        assert not keeper.timed_out
        now += 50.0
        assert keeper.timed_out


def test_a_study_that_has_used_up_its_timeout_is_known_before_anything_is_claimed(desk: Desk) -> None:
    """Else every run would train a little more of it."""
    assert keeper_of(desk, timeout_seconds=50.0, live_seconds=51.0).timed_out
    assert not keeper_of(desk, timeout_seconds=None, live_seconds=51.0).timed_out


def live_seconds(desk: Desk) -> float:
    """The study's time so far."""
    with reading(desk.engine) as connection:
        row = studies.find_study(connection, "s")
    assert row is not None
    return row.live_seconds
