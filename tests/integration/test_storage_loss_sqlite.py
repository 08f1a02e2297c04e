"""One SQLite file, many processes at once: workers, and whoever looks on."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.integration.workers_project import Project, started
from tests.plain_optuna import optuna_trials

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

N_TRIALS, N_WORKERS = 24, 8


class Onlooker(threading.Thread):
    """Polls as optuna-dashboard's page does, through its real WSGI application."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url, self._enough = url, threading.Event()
        self.num_polls = 0
        self.errors: list[Any] = []

    def run(self) -> None:
        """Look until it is enough."""
        import optuna_dashboard

        storage = optuna.storages.RDBStorage(self._url)
        application = optuna_dashboard.wsgi(storage)
        while not self._enough.wait(0.05):
            for path in ("/api/studies", "/api/studies/1"):
                self._ask(application, path)
        storage.scoped_session.remove()
        storage.engine.dispose()

    def _ask(self, application: Any, path: str) -> None:
        status: list[str] = []
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "after=0", "SERVER_NAME": "here"}
        environ |= {"SERVER_PORT": "80", "wsgi.url_scheme": "http"}
        body = b"".join(application(environ, lambda code, headers, *_: status.append(code)))
        self.num_polls += 1
        if not status[0].startswith("200"):
            self.errors.append((status, path, body[:200]))
        else:
            json.loads(body)

    def stop(self) -> None:
        """It is enough."""
        self._enough.set()
        self.join()


@pytest.mark.filterwarnings("ignore")
def test_eight_workers_and_a_dashboard_share_one_file(tmp_path: Path) -> None:
    """Nobody is told that the database is locked, and the study has exactly N trials."""
    project = Project.make(tmp_path, n_trials=N_TRIALS, more=f"n_workers: {N_WORKERS}\nstorage_timeout: 1s")
    project.hold(0)
    with started(project) as command:
        project.wait_until_held(0)
        onlooker = Onlooker(project.storage)
        onlooker.start()
        project.let_go(0)
        try:
            assert command.wait() == 0, command.words
        finally:
            onlooker.stop()
        assert "locked" not in command.words
        assert "storage_lost" not in command.words
    assert onlooker.errors == []
    assert onlooker.num_polls > 10
    assert project.phases() == ["told"] * N_TRIALS
    trials = optuna_trials(project.storage, "crew")
    assert [(trial.number, trial.state.name) for trial in trials] == [(n, "COMPLETE") for n in range(N_TRIALS)]
    assert [row.attempt for row in project.rows()] == [1] * N_TRIALS


def test_many_commands_may_open_a_new_study_at_once(tmp_path: Path) -> None:
    """First opens are serialised; whoever comes later joins."""
    project = Project.make(tmp_path, n_trials=8)
    with (
        started(project, name="one") as one,
        started(project, name="two") as two,
        started(project, name="three") as three,
        started(project, name="four") as four,
    ):
        for command in (one, two, three, four):
            assert command.wait() == 0, command.words
    assert project.phases() == ["told"] * 8
