"""Waiting for a database: what is repeated, how long, and who hears of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.study.studies import ELSEWHERE, Desk, opened
from tunesafe.contracts import Notice
from tunesafe.errors import LeaseLostError, Preempted, StorageError
from tunesafe.store.faults import TransientStorageError
from tunesafe.study import patience as module
from tunesafe.study.patience import Patience, patiently


class Time:
    """A clock that only sleeping moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Nobody waits."""
    return Time(monkeypatch)


def failing(times: float, error: Exception | None = None) -> Callable[[], str]:
    """An operation that fails so many times, then says that it is done."""
    left = times

    def operation() -> str:
        nonlocal left
        left -= 1
        if left >= 0:
            raise error or TransientStorageError("The database is away: no route.\nNothing was written.")
        return "done"

    return operation


def ears(patience: Patience, why_leave: Callable[[], str | None] = lambda: None) -> list[dict[str, Any]]:
    """What is heard from it."""
    heard: list[Notice] = []
    patience.listen(heard.append, why_leave)
    return heard  # type: ignore[return-value]


def test_an_operation_is_repeated_until_it_succeeds_and_told_of_once(time: Time) -> None:
    """One notice when the wait begins, one when it is over; an event is kept."""
    kept: list[str] = []
    patience = Patience(600.0, keep=lambda kind, details: kept.append(kind), sleep=time.sleep)
    heard = ears(patience)
    assert patience(failing(20)) == "done"
    assert [notice.details["event"] for notice in heard] == ["storage_lost", "storage_back"]
    assert heard[0].details["why"] == "The database is away: no route."
    assert kept == ["storage_back"]
    assert not patience.repeating


def test_a_lock_that_is_soon_free_is_not_worth_a_word(time: Time) -> None:
    """What is over within a second is nobody's business."""
    patience = Patience(600.0, sleep=time.sleep)
    heard = ears(patience)
    assert patience(failing(2)) == "done"
    assert heard == []


def test_after_the_time_allowed_the_error_stays_and_says_so(time: Time) -> None:
    """Not transient any more: an operation around it does not begin again."""
    patience = Patience(30.0, sleep=time.sleep)
    with pytest.raises(StorageError, match=r"(?s)away.*storage_timeout: 30 s") as ended:
        patience(failing(float("inf")))
    assert not isinstance(ended.value, TransientStorageError)
    assert time.now <= 1030.0
    assert not patience.repeating


@pytest.mark.parametrize("error", [StorageError("full"), LeaseLostError("lost"), ValueError("bug")])
def test_what_does_not_pass_is_not_waited_for(error: Exception, time: Time) -> None:
    """A full disk, a lost lease and a bug are what they are at once."""
    patience = Patience(600.0, sleep=time.sleep)
    with pytest.raises(type(error)):
        patience(failing(1, error))
    assert time.now == 1000.0


def test_a_reason_to_leave_ends_the_wait(time: Time) -> None:
    """Nothing can be saved where there is no database: the machine is taken away all the same."""
    patience = Patience(600.0, sleep=time.sleep)
    ears(patience, lambda: "SIGTERM" if time.now > 1010.0 else None)
    with pytest.raises(Preempted, match="SIGTERM"):
        patience(failing(float("inf")))
    assert time.now < 1020.0
    assert patience(failing(0)) == "done"


def test_an_operation_inside_a_repeated_one_leaves_the_waiting_to_it(time: Time) -> None:
    """So that an operation as a whole finds its own work, and its time is counted once."""
    patience = Patience(600.0, sleep=time.sleep)
    inner, outer, seen = failing(5), failing(2), []

    def operation() -> str:
        seen.append(patience.repeating)
        outer()
        return patience(inner)

    assert patience(operation) == "done"
    assert seen == [False] + [True] * 7


@given(st.integers())
def test_waiting_leaves_the_users_generator_alone(seed: int) -> None:
    """A wait inside user code must not change what that draws next."""
    random.seed(seed)
    before = random.getstate()
    assert Patience(600.0, sleep=lambda seconds: None)(failing(10)) == "done"
    assert random.getstate() == before


def test_a_patient_method_keeps_its_arguments_and_its_name() -> None:
    """The decorator is invisible where the database is there."""

    class Room:
        _patience = Patience(1.0)

        @patiently
        def add(self, one: int, *, other: int) -> int:
            """Add."""
            return one + other

    assert Room().add(1, other=2) == 3
    assert (Room.add.__name__, Room.add.__doc__) == ("add", "Add.")


def test_who_just_waited_takes_no_lease_that_ran_out_meanwhile(sqlite_url: str, time: Time) -> None:
    """The living could not renew it either; a moment later what is not renewed is abandoned."""
    with opened(sqlite_url, lease="10s") as one, opened(sqlite_url, lease="10s") as other:
        there, here = Desk(one, ELSEWHERE), Desk(other)
        number = there.claim().number
        there.expire(number)
        other.patience._sleep = time.sleep
        other.patience(failing(20))
        assert here.claim().number != number
        time.sleep(20.0)
        assert here.claim().number == number


def test_a_wait_in_another_thread_is_a_wait_for_the_leases_of_others_too(time: Time) -> None:
    """They could not be renewed meanwhile, whoever of us was waiting."""
    kept: list[str] = []
    patience = Patience(600.0, keep=lambda kind, details: kept.append(kind), sleep=time.sleep)
    other = patience.of_another_thread()
    ears(other)
    assert patience.forbearance_seconds == 0.0
    assert other(failing(20)) == "done"
    assert patience.forbearance_seconds == other.forbearance_seconds > 1.0
    assert kept == ["storage_back"]
