"""A second supervisor: the same command again, from another shell or another host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.workers_project import Project, started, wait_for
from tunesafe.errors import ExitCode

pytestmark = pytest.mark.timeout(240)


def test_a_second_supervisor_joins_and_brings_a_change_the_first_ones_workers_follow(tmp_path: Path) -> None:
    """Both work, more trials are asked for in between, the total is exact, and nobody was stopped."""
    project = Project.make(tmp_path, n_trials=2)
    for number in range(3):
        project.hold(number)
    with started(project, "-w", "1", name="first") as first:
        one = project.wait_until_held(0)
        project.rewrite(n_trials=5)
        with started(project, "-w", "2", name="second") as second:
            wait_for(lambda: len({batch.pid for batch in project.batches()}) == 3)
            project.let_go(0)
            # The first supervisor's worker finds the study changed: another one takes its place.
            wait_for(lambda: len(project.batches()) > 0 and one not in first.workers())
            for number in (1, 2):
                project.let_go(number)
            assert first.wait() == ExitCode.OK, first.words
            assert second.wait() == ExitCode.OK, second.words
    assert "n_trials" in second.words
    assert "n_workers" not in second.words
    assert project.optuna_states() == [(number, "COMPLETE") for number in range(5)]
    assert [row.attempt for row in project.rows()] == [1] * 5
    assert project.events("died", "reclaimed", "released") == []


def test_no_more_workers_are_started_than_there_are_trials(tmp_path: Path) -> None:
    """Eight are allowed, two have something to do."""
    project = Project.make(tmp_path, n_trials=2)
    project.hold(0)
    project.hold(1)
    with started(project, "-w", "8") as run:
        project.wait_until_held(0)
        project.wait_until_held(1)
        assert len(run.workers()) == 2
        project.let_go(0)
        project.let_go(1)
        assert run.wait() == ExitCode.OK, run.words
    assert {event.details["pid"] for event in project.events("claimed")} == {b.pid for b in project.batches()}
