"""The workers of one supervisor: replaced when they die, at any moment, and counted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.executors.stand_in import StandIn
from tests.unit.study.studies import ELSEWHERE, Desk, opened
from tunesafe.contracts import Notice
from tunesafe.errors import LeaseLostError, Preempted, SpecError, TunesafeError
from tunesafe.executors import crew
from tunesafe.executors.crew import Crew
from tunesafe.study.overseeing import Death, Overseer
from tunesafe.trial.preemption import SignalWatch
from tunesafe.worker.loop import Left

DONE = 'say("LeftWork", why="no work")'
GO = 'assert sys.stdin.readline() == "go\\n"'


@pytest.fixture
def desk(sqlite_url: str) -> Iterator[Desk]:
    """A study of three trials, of which another host's worker claims what the stand-ins say they hold."""
    with opened(sqlite_url, retries=2, n_workers=2) as study:
        yield Desk(study, ELSEWHERE)


class Watched:
    """A crew at work, and what was told."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.signals = desk, SignalWatch()
        self.told: list[Notice] = []

    def work(self) -> Left | BaseException:
        """Until none has anything to do."""
        with Crew(self.desk.study.spec, "one", Path("/"), self.signals) as workers:
            return workers.work(self.desk.study, self.told.append)

    def deaths(self) -> list[tuple[int | None, object]]:
        """Which trial's, and how many are counted."""
        return [(event.number, event.details.get("deaths")) for event in self.desk.events("died")]


def test_a_trainable_whose_process_dies_is_refused_but_not_one_that_was_killed(stand_in: StandIn, desk: Desk) -> None:
    """A segfault on import is the trainable's fault; a SIGKILL is somebody else's, and tried again."""
    with Crew(desk.study.spec, "one", Path("/"), SignalWatch()) as workers:
        stand_in.write("os.kill(os.getpid(), signal.SIGSEGV)")
        with pytest.raises(SpecError, match=r"its process died \(SIGSEGV\)"):
            workers.rehearse()
    with Crew(desk.study.spec, "one", Path("/"), SignalWatch()) as workers:
        stand_in.write('went_before("a") or os.kill(os.getpid(), signal.SIGKILL)\nsay("Ready")\ntime.sleep(600)')
        workers.rehearse()


def test_a_signal_ends_the_rehearsal(stand_in: StandIn, desk: Desk) -> None:
    """An import may take for ever."""
    signals = SignalWatch()
    signals.ask("SIGTERM")
    stand_in.write("time.sleep(600)")
    with Crew(desk.study.spec, "one", Path("/"), signals) as workers, pytest.raises(Preempted):
        workers.rehearse()


def test_a_machine_on_which_no_worker_lives_is_not_tried_for_ever(stand_in: StandIn, desk: Desk) -> None:
    """Three deaths before any claim stop the study, with what they died of."""
    stand_in.write("sys.exit(7)")
    with pytest.raises(TunesafeError, match=r"3 workers in a row died \(exit code 7\)"):
        Watched(desk).work()


def test_a_death_between_claim_and_notice_is_nobodys_but_the_worker_is_replaced(stand_in: StandIn, desk: Desk) -> None:
    """The supervisor cannot know what it held: it is not counted, and its trial is continued."""
    claim = desk.claim()
    stand_in.write(f'{GO}\nwent_before("a") or sys.exit(1)\n{DONE}')
    watched = Watched(desk)
    assert watched.work() is Left.NO_WORK
    assert watched.deaths() == [(None, None)]
    assert desk.row(claim.number).fence == claim.fence


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "1 / 0"])
def test_a_worker_that_ends_without_goodbye_has_died(end: str, stand_in: StandIn, desk: Desk) -> None:
    """Whatever its exit code says; the second death fails the trial, and the study goes on."""
    first = desk.claim()
    stand_in.write(f'{GO}\nif went_before("a") and went_before("b"):\n    {DONE}\nelse:\n    claim(0)\n    {end}')
    watched = Watched(desk)
    assert watched.work() is Left.NO_WORK
    assert watched.deaths() == [(0, 1), (0, 2)]
    row = desk.row(first.number)
    assert row.outcome is not None
    assert (row.outcome.reason or "").startswith("its process died 2 times in a row without progress, last by ")
    assert row.lease_expires_at == 0
    assert [event.number for event in desk.events("failed")] == [0]


def test_a_death_counts_although_another_worker_was_faster(stand_in: StandIn, desk: Desk) -> None:
    """Provably dead, its trial is claimed before its supervisor looks; unless there was progress since."""
    overseer, claim = Overseer(desk.study), desk.claim()
    death = Death(ELSEWHERE.pid, "SIGKILL", claim.number, claim.fence)
    for pid, progress in ((101, False), (102, True)):
        desk.expire(0)
        successor = Desk(desk.study, replace(ELSEWHERE, pid=pid))
        taken = successor.claim()
        if progress:
            successor.report(taken, 0.5)
        assert overseer.record_death(death).get("deaths") == (None if progress else 1)
        assert overseer.record_death(death) == desk.events("died")[-1].details
        death = Death(pid, "SIGKILL", taken.number, taken.fence)
    assert overseer.record_death(death)["deaths"] == 1
    assert desk.row(0).outcome is None


def test_a_worker_whose_threads_outlive_its_goodbye_is_ended(
    stand_in: StandIn, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """User code's threads may never end; the study does."""
    monkeypatch.setattr(crew, "_AFTER_GOODBYE_SECONDS", 0.2)
    stand_in.write(f"{GO}\n{DONE}\ntime.sleep(600)")
    watched = Watched(desk)
    assert watched.work() is Left.NO_WORK
    assert watched.deaths() == []


def test_workers_that_all_lost_their_leases_stop_the_command(stand_in: StandIn, desk: Desk) -> None:
    """Each was taken from: there is nothing here that could be trusted to go on."""
    stand_in.write(f'{GO}\nclaim(0)\nsay("LeftWork", why="lease lost", detail="taken")')
    ended = Watched(desk).work()
    assert isinstance(ended, LeaseLostError)
    assert str(ended) == "taken"


def test_a_worker_that_alone_lost_its_lease_works_on_something_else(stand_in: StandIn, desk: Desk) -> None:
    """While another has a trial of its own."""
    stand_in.write(
        f"""
{GO}
if went_before("first"):
    if went_before("second"):
        went_before("third")
    else:
        claim(1)
        while not os.path.exists(os.path.dirname(__file__) + "/third"):
            time.sleep(0.01)
    {DONE}
else:
    claim(0)
    while not os.path.exists(os.path.dirname(__file__) + "/second"):
        time.sleep(0.01)
    say("LeftWork", why="lease lost", detail="taken")
"""
    )
    assert Watched(desk).work() is Left.NO_WORK


@pytest.mark.parametrize("why", ["study changed", "preempted"])
def test_a_worker_that_alone_has_reason_to_leave_is_replaced(why: str, stand_in: StandIn, desk: Desk) -> None:
    """And that is no death."""
    stand_in.write(f'{GO}\nif went_before("a"):\n    {DONE}\nelse:\n    say("LeftWork", why="{why}")')
    watched = Watched(desk)
    assert watched.work() is Left.NO_WORK
    assert watched.deaths() == []
    assert (stand_in.file.parent / "a").exists()


def test_a_signal_reaches_every_worker_as_a_word_and_none_is_replaced(stand_in: StandIn, desk: Desk) -> None:
    """One that dies while it leaves is not counted: the machine is being taken away."""
    stand_in.write(
        f"""
{GO}
assert sys.stdin.readline() == "leave SIGTERM\\n"
went_before("a") and went_before("b") and went_before("c")
claim(0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    watched = Watched(desk)
    watched.signals.ask("SIGTERM")
    ended = watched.work()
    assert isinstance(ended, Preempted)
    assert str(ended) == "SIGTERM"
    assert watched.deaths() == []
    assert [(stand_in.file.parent / name).exists() for name in "abc"] == [True, True, False]


def test_an_error_of_one_worker_that_is_the_studys_stops_all(stand_in: StandIn, desk: Desk) -> None:
    """With the error it had, at the place it had."""
    failed = 'say("Failed", exit_code=2, message="no such metric", file="study.yaml", line=3, column=5)'
    stand_in.write(f'{GO}\nif went_before("a"):\n    sys.stdin.readline()\n    {DONE}\nelse:\n    {failed}')
    with pytest.raises(SpecError, match=r"^study\.yaml:3:5: no such metric$"):
        Watched(desk).work()


def test_a_supervisor_without_standard_error_has_workers_all_the_same(
    stand_in: StandIn, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads their words; their messages come on a pipe of their own."""
    monkeypatch.setattr(sys, "stderr", None)
    stand_in.write(f'{GO}\nos.write(1, b"words")\nos.write(2, b"words")\n{DONE}')
    assert Watched(desk).work() is Left.NO_WORK


def test_no_more_workers_are_started_than_can_claim_something(stand_in: StandIn, desk: Desk) -> None:
    """Two are allowed; two of three trials are another's, who lives."""
    desk.claim()
    desk.claim()
    stand_in.write(f'{GO}\nwent_before("a") and went_before("b")\n{DONE}')
    assert Watched(desk).work() is Left.NO_WORK
    assert [(stand_in.file.parent / name).exists() for name in "ab"] == [True, False]
