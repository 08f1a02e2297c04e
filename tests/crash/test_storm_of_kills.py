"""Two supervisors, workers that are killed and stopped at random: nothing is lost and nothing is doubled."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.crash.places import SERVERS, one_now
from tests.crash.storm import INTERVAL, Storm, curves, shared_fences, study_of, trained_again, write_project
from tests.integration.cli_project import tunesafe
from tests.servers import Server

pytestmark = pytest.mark.crash


def survive(
    folder: Path,
    storage: str,
    *,
    num_trials: int,
    num_workers: tuple[int, int],
    num_kills: int,
    num_stops: int,
    loader_workers: tuple[int, ...] = (0,),
    server: Server | None = None,
    num_outages: int = 0,
) -> None:
    """Let a storm rage over a study, and hold what it has come to against what was promised."""
    study = study_of(num_trials, storage, batch_seconds=0.05, num_workers=loader_workers)
    project = write_project(folder / "storm", study)
    storm = Storm(project, num_workers, seed=num_trials, server=server)
    storm.rage(num_kills, num_stops, num_outages)
    assert gone_within(storm, seconds=60)
    assert (len(storm.kills), storm.stops, storm.outages) == (num_kills, num_stops, num_outages)
    states = project.optuna_states()
    assert [number for number, _ in states] == list(range(num_trials))
    assert {state for _, state in states} <= {"COMPLETE", "PRUNED"}, storm.words()
    assert project.phases() == ["told"] * num_trials
    assert shared_fences(project) == []
    lost = trained_again(project)
    assert max(lost) <= 2 * INTERVAL
    assert sum(lost) <= 2 * INTERVAL * (num_kills * max(num_workers) + num_stops + num_outages * sum(num_workers))
    params = [dict(row.params or {}) for row in project.rows()]
    alone = train_alone(folder / "alone", study, params)
    for number, curve in curves(project).items():
        assert curve == alone[number][: len(curve)], f"trial {number}"
    assert project.events("not_deterministic", "damaged") == []


def gone_within(storm: Storm, seconds: float) -> bool:
    """Whether every process of a storm is gone in time."""
    deadline = time.monotonic() + seconds
    while storm.processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not storm.processes()


def train_alone(folder: Path, study: dict[str, Any], params: list[dict[str, Any]]) -> dict[int, Any]:
    """The curves of the same parameters under the same numbers, one after another, undisturbed and unpruned."""
    searched = [name for name, parameter in study["parameters"].items() if isinstance(parameter, dict)]
    keys = {
        "storage": f"sqlite:///{folder / 'alone.db'}",
        "parameters": study["parameters"] | {"batch_seconds": 0.0},
        "pruner": {"name": "nop"},
        "sampler": {"name": "random"},
        "initial_trials": [{name: values[name] for name in searched} for values in params],
    }
    project = write_project(folder, study | keys)
    run = tunesafe("run", "study.yaml", cwd=folder)
    assert run.code == 0, run.err
    return curves(project)


@pytest.mark.timeout(400)
def test_a_study_in_a_storm_loses_nothing(tmp_path: Path, sqlite_url: str) -> None:
    """Three workers of two supervisors, five kills and a worker that is stopped and wakes."""
    survive(tmp_path, sqlite_url, num_trials=6, num_workers=(2, 1), num_kills=5, num_stops=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_long_study_in_a_long_storm_loses_nothing(tmp_path: Path, database_url: str) -> None:
    """Forty trials, six workers of two supervisors, sixty kills and ten stops, on every database."""
    survive(
        tmp_path,
        database_url,
        num_trials=40,
        num_workers=(3, 3),
        num_kills=60,
        num_stops=10,
        loader_workers=(0, 1),
    )


@pytest.mark.timeout(400)
@pytest.mark.parametrize("own_server", one_now(SERVERS, "mariadb"), indirect=True)
def test_a_study_in_a_storm_that_takes_its_server_away_loses_nothing(tmp_path: Path, own_server: Server) -> None:
    """A worker each of two supervisors; three kills, and the database server killed and restarted in between."""
    survive(
        tmp_path,
        own_server.url,
        num_trials=4,
        num_workers=(1, 1),
        num_kills=3,
        num_stops=0,
        server=own_server,
        num_outages=1,
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_long_study_in_a_long_storm_that_takes_its_server_away_loses_nothing(
    tmp_path: Path, own_server: Server
) -> None:
    """As the long storm; and the server is killed and restarted three times in between."""
    survive(
        tmp_path,
        own_server.url,
        num_trials=40,
        num_workers=(3, 3),
        num_kills=60,
        num_stops=10,
        loader_workers=(0, 1),
        server=own_server,
        num_outages=3,
    )
