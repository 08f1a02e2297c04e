"""A database server that is killed, and comes back, or does not come back in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.workers_project import Command, Project, started, wait_for
from tests.plain_optuna import optuna_trials
from tests.servers import PASSWORD, Server
from tunesafe.store import records

pytestmark = pytest.mark.timeout(400)

N_TRIALS = 5
STORAGE_FAILED = 3


def project_at(folder: Path, url: str | None, **keys: Any) -> Project:
    """A study of two workers on a database."""
    more = "\n".join(f"{key}: {value}" for key, value in {"n_workers": 2, **keys}.items())
    return Project.make(folder, n_trials=N_TRIALS, more=more, storage=url)


def curves(project: Project) -> dict[int, list[tuple[int, dict[str, float]]]]:
    """What every trial has reported, by number."""

    def read(connection: Any, uuid: str) -> dict[int, list[tuple[int, dict[str, float]]]]:
        found: dict[int, list[tuple[int, dict[str, float]]]] = {}
        for number, record in records.all_records(connection, uuid):
            found.setdefault(number, []).append((record.report.virtual_epoch, dict(record.report.metrics)))
        return found

    answer: dict[int, list[tuple[int, dict[str, float]]]] = project.read(read)
    return answer


def check_finished(project: Project, undisturbed: Project) -> None:
    """Exactly N, and every one as it would have been on a database that stays."""
    assert project.phases() == ["told"] * N_TRIALS
    trials = optuna_trials(project.storage, "crew")
    assert [(trial.number, trial.state.name) for trial in trials] == [(n, "COMPLETE") for n in range(N_TRIALS)]
    assert curves(project) == curves(undisturbed)
    assert [row.params for row in project.rows()] == [row.params for row in undisturbed.rows()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same study on SQLite, where nothing happens."""
    project = project_at(tmp_path_factory.mktemp("undisturbed"), None)
    with started(project) as command:
        assert command.wait() == 0, command.words
    return project


def kill_in_training(project: Project, command: Command, server: Server) -> None:
    """Kill the server while trial 1 is at example 24, and let training go on."""
    project.wait_until_held(1, 24)
    server.kill()
    project.let_go(1, 24)


def test_a_server_that_is_killed_and_restarted_costs_no_trial_and_no_attempt(
    own_server: Server, tmp_path: Path, undisturbed: Project
) -> None:
    """Training goes on up to the next report, waits there, and goes on when the server is back."""
    project = project_at(tmp_path, own_server.url)
    project.hold(1, 24)
    project.hold(3, 48)
    with started(project) as command:
        kill_in_training(project, command, own_server)
        wait_for(lambda: "storage_lost" in command.words)
        own_server.start()
        project.wait_until_held(3, 48)
        own_server.kill()
        own_server.start()
        project.let_go(3, 48)
        assert command.wait() == 0, command.words
        assert "storage_back" in command.words
        assert PASSWORD not in command.words
    check_finished(project, undisturbed)
    assert [row.attempt for row in project.rows()] == [1] * N_TRIALS
    assert project.events("storage_back")


@pytest.mark.slow
def test_a_server_that_stays_away_ends_the_command_and_the_same_command_continues(
    own_server: Server, tmp_path: Path, undisturbed: Project
) -> None:
    """Exit 3 after storage_timeout with one message; nothing that was reported is lost."""
    project = project_at(tmp_path, own_server.url, storage_timeout="3s")
    project.hold(1, 24)
    with started(project) as command:
        kill_in_training(project, command, own_server)
        assert command.wait() == STORAGE_FAILED, command.words
    assert command.words.count("storage_timeout: 3 s") == 1
    assert command.words.count("then run the same command: it continues") == 1
    assert "Traceback" not in command.words
    with started(project, name="still-away") as command:
        assert command.wait() == STORAGE_FAILED, command.words
    assert "cannot be reached" in command.words
    assert PASSWORD not in command.words
    own_server.start()
    with started(project, name="back") as command:
        assert command.wait() == 0, command.words
    check_finished(project, undisturbed)
