"""Who works on which trial."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from sqlalchemy import update

from tests.unit.study.studies import DEAD, ELSEWHERE, PRUNED, Desk, complete, dying_at, opened
from tunesafe.contracts import Claim, Notice, Owner, TrialPhase
from tunesafe.errors import LeaseLostError, SpecError
from tunesafe.store import claims, identity
from tunesafe.store.engine import writing
from tunesafe.store.tables import trials
from tunesafe.study.claiming import Claimant
from tunesafe.study.lifecycle import Tally

ROOT = Path(__file__).parents[3]


@pytest.fixture
def desk(sqlite_url: str) -> Iterator[Desk]:
    """A study of three trials."""
    with opened(sqlite_url) as study:
        yield Desk(study)


def test_numbers_are_taken_in_order_until_none_is_left(desk: Desk) -> None:
    """Ours and Optuna's tables give the same numbers, and a fourth claim creates nothing."""
    assert [desk.claim().number for _ in range(3)] == [0, 1, 2]
    assert desk.claimant.claim() is None
    assert [trial.number for trial in desk.plain().trials] == [0, 1, 2]


def test_outcomes_nobody_told_come_first_then_trials_of_the_dead_then_a_free_number(desk: Desk) -> None:
    """One order for everyone."""
    theirs = Desk(desk.study, ELSEWHERE)
    abandoned, finished = theirs.claim(), theirs.claim()
    theirs.ledger.finish(finished, PRUNED)
    desk.expire(abandoned.number)
    desk.expire(finished.number)
    taken = [desk.claim() for _ in range(3)]
    assert [claim.number for claim in taken] == [finished.number, abandoned.number, 2]
    assert [claim.phase for claim in taken] == [TrialPhase.CLOSING, TrialPhase.CLAIMED, TrialPhase.CLAIMED]
    assert [claim.attempt for claim in taken] == [1, 2, 1]
    assert [event.kind for event in desk.events("closing", "reclaimed")] == ["closing", "reclaimed"]


def test_a_live_trial_is_left_alone_until_its_lease_is_over(desk: Desk) -> None:
    """Elsewhere may be alive: only time tells, and then the fence takes its right away."""
    theirs = Desk(desk.study, ELSEWHERE)
    lost = theirs.claim()
    renew(desk, lost)
    assert desk.claimant.claim() is None  # whoever renews next is at work
    renew(desk, lost)
    assert [desk.claim().number, desk.claim().number] == [1, 2]
    assert desk.claimant.claim() is None
    desk.expire(0)
    claim = desk.claim()
    assert (claim.number, claim.attempt) == (0, 2)
    assert claim.fence > lost.fence
    with pytest.raises(LeaseLostError):
        theirs.ledger.finish(lost, PRUNED)
    assert desk.row(0).outcome is None


def test_a_single_worker_waits_for_its_vanished_predecessors_trial(desk: Desk) -> None:
    """A lease from elsewhere that nobody renews: its trial comes before a free number, as if nobody had died."""
    lost = Desk(desk.study, ELSEWHERE).claim()
    assert [desk.claimant.claim(), desk.claimant.claim()] == [None, None]
    desk.expire(lost.number)
    assert [desk.claim().number for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("owner_json", ["x", "{}", '{"host": "elsewhere"', "[]"])
def test_an_owner_who_cannot_be_read_is_waited_for_and_that_is_said_at_once(owner_json: str, desk: Desk) -> None:
    """Every doubt counts as alive: no other number is taken meanwhile; one event, and one line, however long."""
    lost, told = Desk(desk.study, DEAD).claim(), list[Notice]()
    desk.claimant = Claimant(desk.study, watch=told.append)
    rewrite_owner(desk, owner_json)
    assert [desk.claimant.claim(), desk.claimant.claim()] == [None, None]
    [event], [notice] = desk.events("lease_awaited"), told
    assert event.number == notice.number == lost.number
    assert event.details["why"] == notice.details["why"]
    assert 0 < notice.details["waits_seconds"] <= desk.study.spec.lease
    assert notice.details["why"].startswith("its owner cannot be read and may be alive; ")
    desk.expire(lost.number)
    assert [desk.claim().number for _ in range(3)] == [0, 1, 2]
    assert len(told) == 1


def test_a_vanished_predecessor_is_waited_for_aloud(desk: Desk) -> None:
    """A machine that may be gone; one that renews its lease is a colleague, and nothing is said of it again."""
    told = list[Notice]()
    desk.claimant = Claimant(desk.study, watch=told.append)
    claim = Desk(desk.study, ELSEWHERE).claim()
    assert desk.claimant.claim() is None
    renew(desk, claim)
    assert [desk.claim().number, desk.claim().number, desk.claimant.claim()] == [1, 2, None]
    [notice] = told
    assert notice.number == claim.number
    assert "its owner, process 4 on elsewhere, which may be alive" in notice.details["why"]
    assert len(desk.events("lease_awaited")) == 1


def test_several_workers_wait_for_an_unreadable_owner_last_and_say_so(sqlite_url: str) -> None:
    """Free numbers come first, as they would with a colleague at work."""
    with opened(sqlite_url, n_workers=2) as study:
        desk, told = Desk(study), list[Notice]()
        Desk(study, DEAD).claim()
        rewrite_owner(desk, "x")
        desk.claimant = Claimant(study, watch=told.append)
        assert [desk.claim().number, desk.claim().number] == [1, 2]
        assert not told
        assert [desk.claimant.claim(), desk.claimant.claim()] == [None, None]
        colleague = Claimant(study, watch=told.append)
        assert colleague.claim() is None
        assert [notice.number for notice in told] == [0, 0]
        assert len(desk.events("lease_awaited")) == 1


def rewrite_owner(desk: Desk, owner_json: str) -> None:
    """Damage what says who has the first trial."""
    with writing(desk.engine) as connection:
        connection.execute(update(trials).where(trials.c.number == 0).values(owner_json=owner_json))


@pytest.fixture
def zombie() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has ended, and that its parent, this one, has not taken note of."""
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process


def owner_of(process: subprocess.Popen[bytes]) -> Owner:
    """Who it was."""
    started = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
    return replace(identity.this_process(), pid=process.pid, started=started)


def test_a_colleagues_death_is_counted_before_its_trial_is_taken(
    zombie: subprocess.Popen[bytes], sqlite_url: str
) -> None:
    """Until their supervisor has buried it; meanwhile there are other trials."""
    with opened(sqlite_url, n_workers=2) as study:
        Desk(study, owner_of(zombie)).claim()
        claimant = Claimant(study, supervisor=os.getpid())
        others = [claimant.claim(), claimant.claim()]
        assert [claim.number for claim in others if claim is not None] == [1, 2]
        assert claimant.claim() is None
        zombie.wait()
        late = claimant.claim()
        assert late is not None
        assert (late.number, late.attempt) == (0, 2)


def test_a_single_worker_takes_nothing_before_the_trial_of_an_orphan_its_supervisor_never_buries(
    zombie: subprocess.Popen[bytes], desk: Desk
) -> None:
    """Adopted from a supervisor that was killed: only the end of its lease lets its trial go, and no other is next."""
    Desk(desk.study, owner_of(zombie)).claim()
    told = list[Notice]()
    claimant = Claimant(desk.study, supervisor=os.getpid(), watch=told.append)
    assert [claimant.claim(), claimant.claim()] == [None, None]
    assert [f"process {zombie.pid} has ended" in notice.details["why"] for notice in told] == [True]
    desk.expire(0)
    taken = [claimant.claim() for _ in range(3)]
    assert [claim.number for claim in taken if claim is not None] == [0, 1, 2]


def renew(desk: Desk, claim: Claim) -> None:
    """Renew a lease, as its keeper would."""
    with writing(desk.engine) as connection:
        claims.renew(connection, desk.uuid, claim.number, claim.fence, 60.0)


def test_a_trial_given_back_is_taken_up_at_once_by_anybody(desk: Desk) -> None:
    """Its lease ends with its release; who had it stays known."""
    theirs = Desk(desk.study, ELSEWHERE)
    theirs.claimant.release(theirs.claim())
    claim = desk.claim()
    assert (claim.number, claim.attempt) == (0, 2)
    [event] = desk.events("resumed")
    assert event.details["from_host"] == "elsewhere"


def test_a_release_under_a_stale_fence_takes_nothing_from_the_new_owner(desk: Desk) -> None:
    """A worker that was slow to leave does not end its successor's lease."""
    old = Desk(desk.study, DEAD)
    stale = old.claim()
    fresh = desk.claim()
    old.claimant.release(stale)
    assert desk.row(0).fence == fresh.fence
    assert desk.row(0).lease_expires_at > 0


def test_waiting_is_for_trials_that_others_hold(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing open there is nothing to wait for."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    theirs = Desk(desk.study, ELSEWHERE)
    held = [theirs.claim() for _ in range(3)]
    assert desk.claimant.wait_for_others(0.25)
    for claim in held:
        theirs.ledger.draw(claim)
        theirs.ledger.finish(claim, complete(1.0))
        theirs.ledger.close(claim)
    assert not desk.claimant.wait_for_others(0.25)
    assert waited == [0.25]
    assert desk.claimant.tally() == Tally(complete=3)


@pytest.mark.parametrize("point", ["claim.before", "claim.in_transaction", "claim.after"])
def test_a_death_while_claiming_costs_no_number(point: str, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours and Optuna's rows appear together or not at all."""
    with opened(sqlite_url) as study, dying_at(monkeypatch, point):
        Desk(study, DEAD).claim()
    with opened(sqlite_url) as study:
        desk = Desk(study)
        assert [desk.claim().number for _ in range(3)] == [0, 1, 2]
        assert desk.claimant.claim() is None
        assert [trial.number for trial in desk.plain().trials] == [0, 1, 2]


@pytest.mark.parametrize("how", ["ask", "enqueue_trial"])
def test_trials_of_other_programs_stop_the_study_with_an_error(how: str, desk: Desk) -> None:
    """Optuna would number our next trial 2, which is not what is free: the error says whose fault it is."""
    desk.claim()
    foreign = desk.plain()
    foreign.ask() if how == "ask" else foreign.enqueue_trial({"lr": 0.05})
    desk.claim()  # Optuna's number 2 is free in our table, too
    before = len(desk.plain().trials)
    with pytest.raises(SpecError, match=r"number its next trial 3.*other than tunesafe"):
        desk.claimant.claim()
    assert len(desk.plain().trials) == before
    assert desk.phases() == ["claimed", "free", "claimed"]


def test_a_worker_that_runs_an_old_version_of_the_study_claims_nothing(desk: Desk) -> None:
    """Another command has changed the study file since."""
    with opened(desk.study.spec.storage, n_trials=5) as changed:
        assert changed.row.revision == 2
    with pytest.raises(SpecError, match="changed by another command"):
        desk.claimant.claim()


def test_a_study_that_is_gone_is_no_study_to_work_on(desk: Desk) -> None:
    """Somebody removed its row: nothing is created in its place."""
    from tunesafe.errors import StorageError
    from tunesafe.store.tables import studies as table

    with writing(desk.engine) as connection:
        connection.execute(table.delete())
    with pytest.raises(StorageError, match="no longer in its database"):
        desk.claimant.claim()


_CLAIM_ALL = """
import json, sys
import optuna
from tests.unit.study.studies import Desk, complete, opened
url, n_trials = sys.argv[1], int(sys.argv[2])
with opened(url, n_trials=n_trials) as study:
    desk, mine = Desk(study), []
    print("ready", flush=True)
    sys.stdin.readline()
    while (claim := desk.claimant.claim()) is not None:
        mine.append(claim.number)
        desk.ledger.draw(claim)
        desk.ledger.finish(claim, complete(float(claim.number)))
        desk.ledger.close(claim)
print(json.dumps(mine))
"""


def test_several_processes_open_and_share_exactly_n_trials(sqlite_url: str) -> None:
    """Three processes open the study at once, and every number is claimed by one of them, once."""
    n_trials = 14
    command = [sys.executable, "-c", _CLAIM_ALL, sqlite_url, str(n_trials)]
    workers = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    outputs = [worker.communicate("go\n")[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert sorted(number for output in outputs for number in json.loads(output)) == list(range(n_trials))
    study = optuna.load_study(study_name="s", storage=sqlite_url)
    assert [(trial.number, trial.value) for trial in study.trials] == [(n, float(n)) for n in range(n_trials)]
    with opened(sqlite_url, n_trials=n_trials) as again:
        assert Claimant(again).tally() == Tally(complete=n_trials)


def test_a_study_knows_its_numbers_only(sqlite_url: str) -> None:
    """Two studies of one database do not take each other's trials."""
    with opened(sqlite_url) as one, opened(sqlite_url, name="other", n_trials=1) as other:
        assert Desk(one).claim().number == 0
        assert Desk(other).claim().number == 0
        assert Claimant(other).claim() is None


def test_the_last_number_may_go_to_somebody_faster(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at what is free and Optuna's transaction another worker claims: no trial, and no fault."""
    with opened(sqlite_url, n_trials=1) as one, opened(sqlite_url, n_trials=1) as other:
        there, here = Desk(one, ELSEWHERE), Desk(other)
        take_free = here.claimant._take_free

        def too_late(token: str) -> Claim | None:
            assert there.claim().number == 0
            return take_free(token)

        monkeypatch.setattr(here.claimant, "_take_free", too_late)
        assert here.claimant.claim() is None
        assert here.phases() == ["claimed"]
        assert len(here.plain().trials) == 1
