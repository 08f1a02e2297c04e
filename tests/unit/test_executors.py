"""How a run ends: its exit code, and the sentence that says why."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import tunesafe
from tests.unit.study.studies import PROGRAM, Desk
from tests.unit.worker.training import Bench, fine, report_all
from tunesafe.errors import ExitCode, SpecError
from tunesafe.study.lifecycle import Tally
from tunesafe.study.settling import Program

FIXED = Program("name: s\n", {"train.py": "x = 2\n"}, "two")
GRID: dict[str, Any] = {
    "sampler": {"name": "grid"},
    "parameters": {
        "a": {"type": "categorical", "choices": [1, 2]},
        "b": {"type": "int", "low": 1, "high": 3},
    },
}


@pytest.fixture
def bench(tmp_path: Path, sqlite_url: str) -> Bench:
    """A study of three trials."""
    return Bench(tmp_path, sqlite_url)


def raising(trial: tunesafe.Trial) -> None:
    """User code with a mistake in it."""
    raise ValueError("a mistake")


def test_a_finished_study_has_nothing_to_do(bench: Bench) -> None:
    """Exit 0 both times, and nothing is written the second time."""
    first = bench.run(fine)
    assert (first.exit_code, first.message) == (ExitCode.OK, "done: 3 trials (3 complete, 0 pruned, 0 failed)")
    before = bench.look(lambda desk: desk.events("claimed", "completed"))
    again = bench.run(raising)
    assert again.exit_code is ExitCode.OK
    assert again.message == "nothing to do: 3 trials (3 complete, 0 pruned, 0 failed)"
    assert bench.look(lambda desk: desk.events("claimed", "completed")) == before
    assert [notice.kind for notice in bench.told] == ["opened"]


def test_the_opening_says_where_the_study_stands(bench: Bench) -> None:
    """How many trials there are, ended and begun."""
    for n_trials, expected in ((3, (3, 0, 0)), (5, (5, 3, 3))):
        bench.run(fine, n_trials=n_trials)
        details = bench.told[0].details
        assert (details["n_trials"], details["ended"], details["begun"]) == expected
    assert [change.key for change in bench.told[0].details["changes"]] == ["n_trials"]


@pytest.mark.parametrize("sampler", ["grid", "brute_force"])
def test_a_space_with_fewer_points_than_trials_ends_with_those_and_says_so(sampler: str, bench: Bench) -> None:
    """Exit 0; the same command again has nothing to do, and asking for more finds no more."""
    keys = GRID | {"sampler": {"name": sampler}}
    why = "the grid has 6 points" if sampler == "grid" else "every combination of its parameters was tried"
    for n_trials, word in ((10, "done"), (10, "nothing to do"), (12, "nothing to do")):
        result = bench.run(fine, n_trials=n_trials, **keys)
        assert result.exit_code is ExitCode.OK
        assert result.tally == Tally(complete=6)
        assert result.message == (f"{word}: 6 trials (6 complete, 0 pruned, 0 failed); {why}, n_trials is {n_trials}")
    assert bench.told[0].details["n_trials"] == 6
    assert bench.told[0].details["grid_points"] == (6 if sampler == "grid" else None)


def test_initial_trials_come_on_top_of_a_grid(bench: Bench) -> None:
    """They are no points of it: all of these are tried as well."""
    keys = GRID | {"initial_trials": [{"a": 1, "b": 1}]}
    assert bench.run(fine, n_trials=7, **keys).tally == Tally(complete=7)
    assert bench.told[0].details["grid_points"] is None
    assert bench.run(fine, n_trials=10, **keys).tally == Tally(complete=7)


def test_a_grid_of_as_many_points_as_trials_is_no_news(bench: Bench) -> None:
    """The message speaks of it only where trials are missing."""
    assert bench.run(fine, n_trials=6, **GRID).message.endswith("0 failed)")
    assert bench.told[0].details["grid_points"] is None


def test_exceptions_in_a_row_stop_the_study_until_the_code_is_mended(bench: Bench) -> None:
    """Exit 6, the message says what to do; after the fix the same numbers run, without --accept-changes."""
    stopped = bench.run(raising, max_failures=2)
    assert stopped.exit_code is ExitCode.USER_CODE
    assert stopped.message.startswith("stopped: 2 trials in a row raised an exception")
    assert stopped.tally == Tally(free=1, held=2)
    assert bench.kinds(0) == ["claimed", "failed"]
    mended = bench.run(fine, FIXED, max_failures=2)
    assert mended.exit_code is ExitCode.OK
    assert mended.tally == Tally(complete=3)
    assert bench.kinds(0)[0] == "resumed"


def test_a_study_of_nothing_but_exceptions_is_user_codes_fault(bench: Bench) -> None:
    """Even if they are fewer than ``max_failures``."""
    result = bench.run(raising)
    assert (result.exit_code, result.tally) == (ExitCode.USER_CODE, Tally(held=3))
    assert bench.run(raising).tally == Tally(held=3)


def test_exceptions_in_between_are_plain_failures(bench: Bench) -> None:
    """The study goes on; those at its end are told as well."""

    def sometimes(trial: tunesafe.Trial) -> None:
        (raising if trial.number % 2 else fine)(trial)

    result = bench.run(sometimes, n_trials=4)
    assert (result.exit_code, result.tally) == (ExitCode.OK, Tally(complete=2, failed=2))


def test_a_study_without_a_complete_trial_fails(bench: Bench) -> None:
    """All diverged: it ended, and there is nothing to show for it."""
    result = bench.run(lambda trial: report_all(trial, lambda epoch: float("inf")))
    assert (result.exit_code, result.tally) == (ExitCode.FAILED, Tally(pruned=3))


def test_a_timeout_pauses_the_study_and_a_rerun_trains_nothing(bench: Bench) -> None:
    """Exit 0 both times, and a longer one continues."""
    first = bench.run(fine, timeout=0.000001)
    assert first.exit_code is ExitCode.OK
    assert first.message.startswith("paused: the timeout is used up")
    before = bench.look(lambda desk: (desk.phases(), [desk.row(0).attempt]))
    second = bench.run(fine, timeout=0.000001)
    assert (second.exit_code, second.message) == (first.exit_code, first.message)
    assert "claimed" not in bench.kinds(0)
    assert bench.look(lambda desk: (desk.phases(), [desk.row(0).attempt])) == before
    assert bench.run(fine, timeout=3600).tally == Tally(complete=3)


def test_a_study_that_cannot_be_built_is_refused_before_anything_is_made(bench: Bench) -> None:
    """Sampler, pruner and trackers are judged before the database is opened."""
    url = f"sqlite:///{bench.folder / 'new.db'}"
    for keys in ({"sampler": {"name": "tpee"}}, {"pruner": {"name": "mediann"}}, {"trackers": ["wandb"]}):
        with pytest.raises(SpecError):
            Bench(bench.folder, url, **keys).run(fine)
    assert not (bench.folder / "new.db").exists()


def test_a_copied_database_is_a_study_of_its_own(bench: Bench) -> None:
    """Everything it needs is in the file."""
    bench.run(fine, n_trials=1)
    shutil.copy(bench.folder / "study.db", bench.folder / "copy.db")
    copy = Bench(bench.folder, f"sqlite:///{bench.folder / 'copy.db'}")
    assert copy.run(fine, PROGRAM).tally == Tally(complete=3)
    assert Bench(bench.folder, bench.url, n_trials=1).look(Desk.phases) == ["told"]
