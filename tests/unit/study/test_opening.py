"""Opening a study: the first time, again, half-made, changed, and somebody else's."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.unit.study.studies import (
    LR,
    PROGRAM,
    PRUNED,
    RAISED,
    Desk,
    complete,
    dying_at,
    opened,
    plain,
    spec_of,
    tables,
)
from tunesafe.errors import ChangeRefusedError, SpecError
from tunesafe.spec import ChangeKind
from tunesafe.store import studies
from tunesafe.store.engine import open_engine, reading
from tunesafe.study import environment
from tunesafe.study.settling import Program

ROOT = Path(__file__).parents[3]
FIXED = Program("name: s\n", {"train.py": "x = 2\n"}, "two")
GRID: dict[str, Any] = {
    "sampler": {"name": "grid"},
    "parameters": {"a": {"type": "categorical", "choices": [1, 2, 3]}},
}


def content(url: str) -> dict[str, list[Any]]:
    """The whole content of a database."""
    engine = open_engine(url)
    with reading(engine) as connection:
        found = tables(connection)
    engine.dispose()
    return found


# --- the first time ------------------------------------------------------------------------------


def test_the_first_opening_makes_an_ordinary_optuna_study(fresh_url: str) -> None:
    """With a direction, the metric's name, and the attribute that ties it to ours; and no trial yet."""
    with opened(fresh_url, objective={"metric": "accuracy", "direction": "maximize"}) as study:
        assert study.row.revision == 1
        assert study.changes == ()
        assert Desk(study).phases() == ["free"] * 3
        seen = plain(study.spec)
        assert seen.direction.name == "MAXIMIZE"
        assert seen.metric_names == ["accuracy"]
        assert seen.user_attrs == {"tunesafe:study": study.row.uuid}
        assert seen.trials == []


@pytest.mark.parametrize("point", ["open.locked", "open.schema", "open.optuna", "open.study", "open.done"])
def test_a_death_while_opening_is_made_up_for(point: str, fresh_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our row comes first, Optuna's study second: half-made is told apart from somebody else's."""
    with dying_at(monkeypatch, point), opened(fresh_url):
        pass
    with opened(fresh_url) as study:
        assert Desk(study).claim().number == 0
        assert plain(study.spec).metric_names == ["loss"]
        with reading(study.engine) as connection:
            assert studies.study_names(connection) == ["s"]
    assert len(optuna.get_all_study_names(fresh_url)) == 1


@pytest.mark.parametrize("ours_there", [False, True])
def test_a_study_of_somebody_else_is_refused_and_not_touched(ours_there: bool, fresh_url: str) -> None:
    """Whether or not the database holds other studies of ours."""
    if ours_there:
        with opened(fresh_url, name="other"):
            pass
    foreign = optuna.create_study(study_name="s", storage=fresh_url)
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    before = content(fresh_url)
    with (
        pytest.raises(SpecError, match="already has an Optuna study named 's' that tunesafe did not make"),
        opened(fresh_url),
    ):
        pass
    assert content(fresh_url) == before


def test_a_study_shares_a_database_with_somebody_elses(fresh_url: str) -> None:
    """Under another name there is nothing to refuse, and theirs stays theirs."""
    optuna.create_study(study_name="theirs", storage=fresh_url).ask()
    with opened(fresh_url) as study:
        Desk(study).run()
    assert [trial.number for trial in optuna.load_study(study_name="theirs", storage=fresh_url).trials] == [0]


_OPEN = """
import sys
from tests.unit.study.studies import opened
print("ready", flush=True)
sys.stdin.readline()
with opened(sys.argv[1]) as study:
    print(study.row.uuid, study.study_id)
"""


def test_processes_that_open_a_new_database_at_once_open_one_study(fresh_url: str) -> None:
    """First opens are serialised: none fails, and all get the same study."""
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", _OPEN, fresh_url], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for opener in openers:
        assert opener.stdout is not None
        assert opener.stdout.readline() == "ready\n"
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write("go\n")
        opener.stdin.flush()
    outputs = {opener.communicate()[0] for opener in openers}
    assert [opener.returncode for opener in openers] == [0, 0, 0]
    assert len(outputs) == 1


# --- changes of the study file ---------------------------------------------------------------------


def begin(url: str, **changes: Any) -> None:
    """A study with one trial told and one at work."""
    with opened(url, **changes) as study:
        desk = Desk(study)
        desk.run(complete(0.5), reports=[0.5])
        desk.ledger.draw(desk.claim())


def test_opening_an_unchanged_study_writes_nothing(sqlite_url: str) -> None:
    """Same command, same answer."""
    begin(sqlite_url)
    before = content(sqlite_url)
    with opened(sqlite_url) as study:
        assert study.row.revision == 1
    assert content(sqlite_url) == before


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"timeout": 3600}, ChangeKind.HARMLESS),
        ({"n_trials": 5}, ChangeKind.HARMLESS),
        ({"n_trials": 2}, ChangeKind.HARMLESS),
        ({"trackers": ["tensorboard"]}, ChangeKind.HARMLESS),
        ({"parameters": {"lr": {**LR, "high": 0.2}}}, ChangeKind.EXTENDING),
    ],
)
def test_changes_that_results_survive_are_applied_and_recorded(
    changes: dict[str, Any], kind: ChangeKind, sqlite_url: str
) -> None:
    """The study goes on at its next revision, with an event that shows the difference."""
    begin(sqlite_url)
    with opened(sqlite_url, **changes) as study:
        assert [change.kind for change in study.changes] == [kind]
        assert study.row.revision == 2
        desk = Desk(study)
        [event] = desk.events("changed")
        assert study.changes[0].key in event.details["changes"]
        assert len(desk.phases()) == changes.get("n_trials", 3)
    with opened(sqlite_url, **changes) as study:
        assert study.changes == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": {"metric": "loss", "direction": "maximize"}},
        {"budget": {"examples": 44, "virtual_epochs": 4}},
        {"seed": 8},
        {"sampler": {"name": "tpe"}},
        {"parameters": {"lr": {**LR, "high": 0.05}}},
        {"parameters": {"lr": LR, "extra": 1}},
        {"threads_per_worker": 2},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_changes_that_results_do_not_survive_are_refused_unless_accepted(
    changes: dict[str, Any], sqlite_url: str
) -> None:
    """Refused, with the difference and what to do, and nothing written; accepted, recorded."""
    begin(sqlite_url)
    before = content(sqlite_url)
    with (
        pytest.raises(ChangeRefusedError, match=rf"(?s){next(iter(changes))}.*--accept-changes"),
        opened(sqlite_url, **changes),
    ):
        pass
    assert content(sqlite_url) == before
    with opened(sqlite_url, accept=True, **changes) as study:
        assert ChangeKind.BREAKING in {change.kind for change in study.changes}
        assert study.row.revision == 2
        assert Desk(study).phases() == ["told", "claimed", "free"]


def test_a_study_without_trials_may_change_in_any_way(sqlite_url: str) -> None:
    """There is nothing yet that could come to mean something else."""
    with opened(sqlite_url):
        pass
    with opened(sqlite_url, FIXED, seed=9, sampler={"name": "tpe"}, n_trials=2) as study:
        assert {change.kind for change in study.changes} == {ChangeKind.HARMLESS}
        assert Desk(study).phases() == ["free"] * 2


def test_a_widened_range_stays_in_the_joint_draw(sqlite_url: str) -> None:
    """Past trials are shown with the current range; Optuna's intersection would drop the parameter for good."""
    keys: dict[str, Any] = {"n_trials": 5, "sampler": {"name": "tpe", "n_startup_trials": 2}}
    with opened(sqlite_url, **keys) as study:
        desk = Desk(study)
        for value in (1.0, 0.5, 0.25):
            desk.run(complete(value))
    with opened(sqlite_url, parameters={"lr": {**LR, "high": 1.0}}, **keys) as study:
        desk = Desk(study)
        desk.run(complete(0.1))
        [memo] = [
            value for key, value in desk.plain().trials[3].system_attrs.items() if key.startswith("tunesafe:draw")
        ]
        assert "lr" in json.loads(memo.partition(":")[2])["params"]


def test_n_trials_cannot_fall_below_what_has_begun(sqlite_url: str) -> None:
    """No trial is ever removed, accepted or not."""
    begin(sqlite_url)
    with pytest.raises(SpecError, match="n_trials"), opened(sqlite_url, n_trials=1):
        pass
    with (
        pytest.raises(SpecError, match=r"n_trials: 1, but trial 1 has begun.*at least 2"),
        opened(sqlite_url, n_trials=1, accept=True),
    ):
        pass
    with opened(sqlite_url) as study:
        assert Desk(study).phases() == ["told", "claimed", "free"]


# --- changes of the code ---------------------------------------------------------------------------


def test_changed_code_is_refused_once_anything_is_durable(sqlite_url: str) -> None:
    """With a diff of the sources; accepting keeps both versions."""
    begin(sqlite_url)
    with pytest.raises(ChangeRefusedError, match=r"(?s)train\.py.*-x = 1.*\+x = 2"), opened(sqlite_url, FIXED):
        pass
    with opened(sqlite_url, FIXED, accept=True) as study:
        with reading(study.engine) as connection:
            kept = [studies.load_sources(connection, study.row.uuid, mark) for mark in ("one", "two")]
        assert kept == [dict(PROGRAM.sources), dict(FIXED.sources)]


def test_code_of_the_same_syntax_tree_is_the_same_code(sqlite_url: str) -> None:
    """A comment changes no fingerprint, so it changes no revision."""
    begin(sqlite_url)
    with opened(sqlite_url, replace(PROGRAM, sources={"train.py": "x = 1  # one\n"})) as study:
        assert study.row.revision == 1


def test_a_fix_needs_no_acceptance_while_nothing_is_durable(sqlite_url: str) -> None:
    """The first trial raised at once: whoever mends the code just runs it again."""
    with opened(sqlite_url) as study:
        desk = Desk(study)
        desk.ledger.finish(desk.claim(), RAISED)
    with opened(sqlite_url, FIXED) as study:
        assert [change.kind for change in study.changes] == [ChangeKind.HARMLESS]


def test_a_fix_needs_no_acceptance_after_exceptions_stopped_the_study(sqlite_url: str) -> None:
    """Finished trials stand; the streak waits for exactly this."""
    with opened(sqlite_url, n_trials=6, max_failures=2) as study:
        desk = Desk(study)
        for outcome in (complete(0.5), RAISED):
            desk.run(outcome, reports=[0.5])
    with pytest.raises(ChangeRefusedError), opened(sqlite_url, FIXED, n_trials=6, max_failures=2):
        pass
    with opened(sqlite_url, n_trials=6, max_failures=2) as study:
        Desk(study).run(RAISED)
    with opened(sqlite_url, FIXED, n_trials=6, max_failures=2) as study:
        desk = Desk(study)
        desk.claimant.take_up_held()
        assert desk.phases() == ["told", "claimed", "claimed", "free", "free", "free"]
    with pytest.raises(ChangeRefusedError), opened(sqlite_url, n_trials=6, max_failures=2):
        pass


# --- finite spaces and environments ------------------------------------------------------------------


def exhaust(url: str) -> None:
    """A grid of three points, run to its end by a study of nine trials."""
    with opened(url, n_trials=9, **GRID) as study:
        desk = Desk(study)
        while desk.claimant.tally().free:
            desk.run(complete(1.0))


@pytest.mark.parametrize("n_trials", [9, 20])
def test_an_exhausted_grid_is_not_opened_again(n_trials: int, sqlite_url: str) -> None:
    """Not by the same command, and not by asking for more trials: there are no more points."""
    exhaust(sqlite_url)
    with opened(sqlite_url, n_trials=n_trials, **GRID) as study:
        assert Desk(study).phases() == ["told"] * 3


def test_an_exhausted_grid_with_new_points_goes_on(sqlite_url: str) -> None:
    """An accepted change of the space, or of the sampler, makes room for the rest of the trials."""
    exhaust(sqlite_url)
    wider = {"parameters": {"a": {"type": "categorical", "choices": [1, 2, 3, 4]}}, "sampler": {"name": "random"}}
    with opened(sqlite_url, n_trials=5, accept=True, **wider) as study:
        desk = Desk(study)
        assert desk.phases() == ["told"] * 3 + ["free"] * 2
    with opened(sqlite_url, n_trials=5, **wider) as study:
        assert Desk(study).phases() == ["told"] * 3 + ["free"] * 2


def test_another_environment_is_an_event_and_no_obstacle(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers may differ from here on: the event says what is unlike the first run."""
    begin(sqlite_url)
    elsewhere = environment.describe() | {"version:torch": "3.0"}
    monkeypatch.setattr(environment, "describe", lambda: elsewhere)
    with opened(sqlite_url) as study:
        [event] = Desk(study).events("environment")
        assert event.number is None
        [(what, (then, now))] = event.details["differences"].items()
        assert (what, now) == ("version:torch", "3.0")
        assert then != now


def test_the_first_run_fixes_the_threads(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores divided by workers, at least one; a machine with more cores later changes nothing."""
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    with opened(sqlite_url, threads_per_worker=None, n_workers=2) as study:
        assert study.row.threads_per_worker == 3
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    with opened(sqlite_url, threads_per_worker=None, n_workers=2) as study:
        assert study.row.threads_per_worker == 3


def test_a_pruned_trial_is_a_result_to_protect(sqlite_url: str) -> None:
    """Not only complete ones: its verdict was about this code."""
    with opened(sqlite_url) as study:
        Desk(study).run(PRUNED)
    with pytest.raises(ChangeRefusedError), opened(sqlite_url, FIXED):
        pass
    assert spec_of(sqlite_url).name == "s"


def test_an_accepted_change_of_direction_reaches_optuna(fresh_url: str) -> None:
    """Samplers, pruners and everybody who opens the study read Optuna's direction."""
    with opened(fresh_url) as study:
        Desk(study).run(complete(1.0), [1.0])
    changed = {"objective": {"metric": "loss", "direction": "maximize"}}
    with opened(fresh_url, accept=True, **changed) as study:
        assert Desk(study).plain().direction is optuna.study.StudyDirection.MAXIMIZE
