"""A database that goes away at any statement and any commit changes nothing in a study."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.integration.lossy import Fault, Losses, Role, losing, now_and_then
from tests.integration.lossy_study import outcome, run, spec_at
from tunesafe.spec import StudySpec
from tunesafe.study import opening, patience

pytestmark = pytest.mark.timeout(300)


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


def test_a_server_that_comes_and_goes_changes_nothing_either(
    server_url: str, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    """The same study, bit for bit, on every database, whatever happens to its connections."""
    losses = Losses(tuple(Fault), now_and_then(7, 0.015))
    assert disturbed(spec_at(server_url), tmp_path, losses) == undisturbed
    assert {fault for _, fault, _ in losses.happened} == set(Fault)
    assert {who for who, _, _ in losses.happened} == set(Role)


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


SHORT: dict[str, Any] = {
    "n_trials": 2,
    "budget": {"examples": 48, "virtual_epochs": 2},
    "sampler": {"name": "tpe", "n_startup_trials": 1},
}
"""Every kind of statement there is: one trial completes, and one that is drawn from what it has shown is pruned."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", list(Fault), ids=str)
@pytest.mark.parametrize("who", list(Role), ids=lambda who: who.name.lower())
def test_every_single_statement_and_commit_may_fail(who: Role, fault: Fault, tmp_path: Path) -> None:
    """One loss at each place in turn; that the run comes to its end is how we know that none is left."""
    calm = spec_at(f"sqlite:///{tmp_path / 'calm.db'}", **SHORT)
    run(calm, tmp_path)
    undisturbed = outcome(calm)
    assert [trial[1].name for trial in undisturbed["optuna"]] == ["COMPLETE", "PRUNED"]
    place = 0
    while True:
        place += 1
        losses = Losses((fault,), lambda role, seen, place=place: (role, seen) == (who, place))
        folder = tmp_path / str(place)
        folder.mkdir()
        found = disturbed(spec_at(f"sqlite:///{folder / 'study.db'}", **SHORT), folder, losses)
        if not losses.happened:
            break
        assert found == undisturbed, f"{fault} at {place}: {losses.happened}"
        shutil.rmtree(folder)
    assert place > {Role.LOOP: 50, Role.WRITER: 2}[who]
