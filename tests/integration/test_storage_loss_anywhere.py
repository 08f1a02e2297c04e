"""A database that goes away at any statement and any commit changes nothing in a study."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select

from tests.integration.lossy import Fault, Losses, losing, now_and_then, optuna_trials
from tunesafe.contracts import Notice
from tunesafe.errors import ExitCode
from tunesafe.executors.here import run_study
from tunesafe.spec import StudySpec, spec_from_mapping
from tunesafe.store import tables
from tunesafe.store.engine import read_only_engine, reading
from tunesafe.study import opening, patience
from tunesafe.study.settling import Program

pytestmark = pytest.mark.timeout(300)

PROGRAM = Program("name: lossy\n", {"train.py": "x = 1\n"}, "one")
LEFT_OUT = ("study", "recorded_at", "created_at", "claimed_at", "ended_at", "at", "host", "pid", "token")
LEFT_OUT += ("owner_json", "lease_expires_at", "event_id", "checkpoint_id", "digest")


def train(trial: Any) -> None:
    """A line is fitted, with momentum, noise and words."""
    print(f"hello from trial {trial.number}")
    data = torch.arange(24.0).reshape(24, 1) / 24
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=trial.params["lr"], momentum=trial.params["momentum"])
    trial.track(model=model, optimizer=optimizer)
    for epoch in trial.virtual_epochs((data, 2 * data), batch_size=8):
        for x, y in epoch:
            loss = ((model(x + 0.01 * torch.randn_like(x)) - y) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            trial.report(loss=((model(data) - 2 * data) ** 2).mean())
    trial.result(test_loss=1.0)


def spec_at(url: str, **changes: Any) -> StudySpec:
    """The study file's content."""
    keys: dict[str, Any] = {
        "name": "lossy",
        "trainable": "train.py:train",
        "storage": url,
        "objective": {"metric": "loss", "direction": "minimize"},
        "budget": {"examples": 72, "virtual_epochs": 3},
        "parameters": {
            "lr": {"type": "float", "low": 0.001, "high": 0.5, "log": True},
            "momentum": {"type": "float", "low": 0.0, "high": 0.9},
        },
        "n_trials": 5,
        "seed": 3,
        "sampler": {"name": "tpe", "n_startup_trials": 2},
        "pruner": {"name": "successive_halving", "min_resource": 1, "reduction_factor": 2},
        "threads_per_worker": 1,
    }
    return spec_from_mapping(keys | changes, base=Path("/"))


def run(spec: StudySpec, folder: Path) -> list[Notice]:
    """The study in this process; it must end well."""
    notices: list[Notice] = []
    result = run_study(spec, lambda: train, PROGRAM, folder=folder, watch=notices.append)
    assert result.exit_code is ExitCode.OK, result
    return notices


def outcome(spec: StudySpec) -> dict[str, Any]:
    """All that a study has come to, ours and Optuna's: fences, events and words included; when and where left out."""
    found: dict[str, Any] = {}
    engine = read_only_engine(spec.storage)
    with reading(engine) as connection:
        for table in (tables.trials, tables.records, tables.checkpoints, tables.logs):
            columns = [column for column in table.c if column.name not in LEFT_OUT]
            found[table.name] = sorted(map(repr, connection.execute(select(*columns))))
        found["text"] = sorted(
            (row.number, row.text) for row in connection.execute(select(tables.logs.c.number, tables.logs.c.text))
        )
        found["events"] = Counter(
            (row.kind, row.number, row.details_json)
            for row in connection.execute(select(tables.events))
            if row.kind != "storage_back"
        )
        found["blobs"] = sorted(connection.execute(select(tables.blobs.c.hash)).scalars())
    engine.dispose()
    found["optuna"] = [
        (
            t.number,
            t.state,
            t.values,
            t.params,
            t.intermediate_values,
            t.user_attrs,
            json.dumps(t.system_attrs, sort_keys=True),
        )
        for t in optuna_trials(spec.storage, spec.name)
    ]
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the study comes to where nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    spec = spec_at(f"sqlite:///{folder / 'study.db'}")
    run(spec, folder)
    return outcome(spec)


@pytest.fixture(
    params=[pytest.param("postgres", marks=pytest.mark.postgres), pytest.param("mariadb", marks=pytest.mark.mariadb)]
)
def server_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty database on each server in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits between two attempts; and an opening has many statements that can fail."""
    monkeypatch.setattr(patience, "_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(opening, "_OPENING_SECONDS", 600.0)


def disturbed(spec: StudySpec, folder: Path, losses: Losses) -> dict[str, Any]:
    """What the study comes to under these losses."""
    with losing(losses):
        run(spec, folder)
    return outcome(spec)


@pytest.mark.parametrize("kinds", [(fault,) for fault in Fault], ids=str)
def test_a_study_on_a_database_that_comes_and_goes_ends_as_one_undisturbed(
    kinds: tuple[Fault, ...], sqlite_url: str, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    """Nothing is lost, nothing is written twice, no number is drawn again."""
    share = 0.02 if kinds[0] in (Fault.REFUSED, Fault.GONE) else 0.1
    losses = Losses(kinds, now_and_then(5, share))
    assert disturbed(spec_at(sqlite_url), tmp_path, losses) == undisturbed
    assert len(losses.happened) >= 5


# SQLAlchemy forgets a connection that fails in its first statements.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*BaseConnection:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
def test_a_server_that_comes_and_goes_changes_nothing_either(
    server_url: str, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    """The same study, bit for bit, on every database, whatever happens to its connections."""
    losses = Losses(tuple(Fault), now_and_then(7, 0.015))
    assert disturbed(spec_at(server_url), tmp_path, losses) == undisturbed
    assert {fault for fault, _ in losses.happened} == set(Fault)


@pytest.mark.parametrize("sampler", ["grid", "cmaes", pytest.param("nsgaii", marks=pytest.mark.slow)])
def test_samplers_that_write_are_interrupted_harmlessly(sampler: str, sqlite_url: str, tmp_path: Path) -> None:
    """What a sampler draws and notes does not depend on how often the database had to be asked."""
    changes: dict[str, Any] = {"sampler": {"name": sampler}, "pruner": {"name": "nop"}, "n_trials": 4}
    if sampler == "grid":
        values = {name: {"type": "categorical", "choices": [0.1, 0.2]} for name in ("lr", "momentum")}
        changes |= {"parameters": values, "n_trials": 9}
    calm = spec_at(f"sqlite:///{tmp_path / 'calm.db'}", **changes)
    run(calm, tmp_path)
    losses = Losses(tuple(Fault), now_and_then(11, 0.02))
    assert disturbed(spec_at(sqlite_url, **changes), tmp_path, losses) == outcome(calm)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", list(Fault), ids=str)
def test_every_single_statement_and_commit_may_fail(fault: Fault, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """One loss at each place in turn; that the run comes to its end is how we know that none is left."""
    place = 0
    while True:
        place += 1
        losses = Losses((fault,), lambda seen, place=place: seen == place)
        folder = tmp_path / str(place)
        folder.mkdir()
        found = disturbed(spec_at(f"sqlite:///{folder / 'study.db'}"), folder, losses)
        if not losses.happened:
            break
        assert found == undisturbed, f"{fault} at {place}: {losses.happened}"
        shutil.rmtree(folder)
    assert place > 100
