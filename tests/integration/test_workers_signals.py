"""Workers and supervisors that are stopped, asked to leave, or killed."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.workers_project import Project, children_of, is_running, started, wait_for
from tunesafe.errors import ExitCode

pytestmark = pytest.mark.timeout(240)


DATA = """

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        return torch.tensor([index / 32]), torch.tensor([index / 16])
"""


def test_sigterm_reaches_every_worker_and_the_same_command_continues(tmp_path: Path) -> None:
    """Exit 75; both trials are given back where they stand, and go on under their numbers."""
    project = Project.make(tmp_path, n_trials=3, more="grace: 0s")
    project.hold(0, 24)
    project.hold(1, 24)
    with started(project, "-w", "2") as run:
        workers = [project.wait_until_held(0, 24), project.wait_until_held(1, 24)]
        # As a batch system does it: the signal goes to every process of the job.
        for pid in (run.process.pid, *workers):
            os.kill(pid, signal.SIGTERM)
        project.let_go(0, 24)
        project.let_go(1, 24)
        assert run.wait() == ExitCode.INTERRUPTED, run.words
        assert "interrupted by SIGTERM" in run.words
        assert not any(map(is_running, workers))
    assert project.phases()[:2] == ["claimed", "claimed"]
    assert sorted(event.number or 0 for event in project.events("released")) == [0, 1]
    with started(project, "-w", "2") as run:
        assert run.wait() == ExitCode.OK, run.words
    assert [row.attempt for row in project.rows()] == [2, 2, 1]
    assert project.events("reclaimed", "died") == []
    assert min(batch.start for batch in project.batches_of(0) if batch.attempt == 2) == 16


def test_a_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    """Workers in the middle of a batch are killed; their trials are continued by the next command."""
    project = Project.make(tmp_path, n_trials=2)
    project.hold(0, 24)
    with started(project) as run:
        worker = project.wait_until_held(0, 24)
        run.signal(signal.SIGINT)
        run.signal(signal.SIGTERM)
        assert run.wait() == ExitCode.INTERRUPTED, run.words
        assert not is_running(worker)
        assert "Traceback" not in run.words


def test_a_worker_that_alone_is_told_to_leave_is_replaced(tmp_path: Path) -> None:
    """Somebody else's signal costs its trial nothing but a release, and no other worker anything."""
    project = Project.make(tmp_path, n_trials=2)
    project.hold(0, 24)
    with started(project) as run:
        os.kill(project.wait_until_held(0, 24), signal.SIGTERM)
        project.let_go(0, 24)
        assert run.wait() == ExitCode.OK, run.words
    assert project.events("died") == []
    assert len({batch.pid for batch in project.batches()}) <= 2


def with_loader(folder: Path) -> Project:
    """A study of one trial that reads its data through a loader's worker, with a lease nobody waits for."""
    project = Project.make(folder, n_trials=1, more="lease: 1h")
    source = (
        (folder / "train.py").read_text().replace("virtual_epochs((x, 2 * x))", "virtual_epochs(Data(), num_workers=1)")
    )
    (folder / "train.py").write_text(source + DATA)
    return project


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_workers_and_their_loaders_die_with_their_supervisor(stopped: bool, tmp_path: Path) -> None:
    """Whatever state it was killed in; and the next command takes the trial up at once, without its lease."""
    project = with_loader(tmp_path)
    project.hold(0, 24)
    with started(project) as run:
        worker = project.wait_until_held(0, 24)
        family = [worker, *children_of(worker)]
        assert len(family) == 2
        if stopped:
            run.signal(signal.SIGSTOP)
        run.process.kill()
        wait_for(lambda: not any(map(is_running, family)))
    project.let_go(0, 24)
    with started(project) as run:
        assert run.wait() == ExitCode.OK, run.words
    assert [event.number for event in project.events("reclaimed")] == [0]


def test_a_loader_dies_with_its_worker_and_the_supervisor_replaces_it(tmp_path: Path) -> None:
    """At once: neither waits for the other's pipes."""
    project = with_loader(tmp_path)
    project.hold(0, 24)
    with started(project) as run:
        worker = project.wait_until_held(0, 24)
        [loader_worker] = children_of(worker)
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: not is_running(loader_worker))
        project.let_go(0, 24)
        assert run.wait() == ExitCode.OK, run.words
    [died] = project.events("died")
    assert (died.number, died.details["how"], died.details["deaths"]) == (0, "SIGKILL", 1)


def stop(project: Project, worker: int) -> None:
    """Stop a worker, but not in the middle of a write: SQLite's lock would be kept from everybody with it."""

    def is_stopped_outside_a_write() -> bool:
        os.kill(worker, signal.SIGSTOP)
        wait_for(lambda: "State:\tT" in Path(f"/proc/{worker}/status").read_text())
        with closing(sqlite3.connect(project.storage.removeprefix("sqlite:///"), timeout=0)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                os.kill(worker, signal.SIGCONT)
                return False
        return True

    wait_for(is_stopped_outside_a_write)


def test_a_worker_that_sleeps_past_its_lease_writes_nothing_if_another_has_claimed(tmp_path: Path) -> None:
    """Exit 5 for the supervisor whose only worker lost its trial; the other ends the study."""
    project = Project.make(tmp_path, n_trials=1, more="lease: 1s")
    project.hold(0, 24)
    project.hold(0, 40)
    with started(project, name="first") as first:
        sleeper = project.wait_until_held(0, 24)
        stop(project, sleeper)
        with started(project, name="second") as second:
            wait_for(lambda: any(batch.pid != sleeper for batch in project.batches()))
            os.kill(sleeper, signal.SIGCONT)
            project.let_go(0, 24)
            assert first.wait() == ExitCode.LEASE_LOST, first.words
            assert "claimed by another worker" in first.words
            project.let_go(0, 40)
            assert second.wait() == ExitCode.OK, second.words
    [row] = project.rows()
    assert (row.attempt, row.examples_seen) == (2, 64)
    assert max(batch.start for batch in project.batches() if batch.pid == sleeper) == 24
    assert [event.details["pid"] for event in project.events("completed")] != [sleeper]


def test_a_worker_that_sleeps_past_its_lease_goes_on_if_nobody_has_claimed(tmp_path: Path) -> None:
    """Its lease is over, its right is not: only a claim takes that away."""
    project = Project.make(tmp_path, n_trials=1, more="lease: 1s")
    project.hold(0, 24)
    with started(project) as run:
        sleeper = project.wait_until_held(0, 24)
        stop(project, sleeper)
        [row] = project.rows()
        expiry = row.lease_expires_at
        project.wait_for_database_time(expiry + 0.5)
        os.kill(sleeper, signal.SIGCONT)
        project.let_go(0, 24)
        assert run.wait() == ExitCode.OK, run.words
    assert {batch.pid for batch in project.batches()} == {sleeper}
    assert [row.attempt for row in project.rows()] == [1]


def test_a_stuck_worker_is_killed_and_its_trial_continued(tmp_path: Path) -> None:
    """No batch for ``stall_timeout``: whatever it waits for, a new process begins at the last checkpoint."""
    act = 'if seen == 24 and trial.attempt == 1:\n    hold("stuck")'
    project = Project.make(tmp_path, act=act, n_trials=1, more="stall_timeout: 4s")
    (tmp_path / "stuck").touch()
    with started(project) as run:
        assert run.wait() == ExitCode.OK, run.words
    assert [event.number for event in project.events("stalled")] == [0]
    [died] = project.events("died")
    assert died.details["how"].startswith("no batch for")
    assert [row.attempt for row in project.rows()] == [2]
