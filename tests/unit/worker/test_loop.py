"""One worker's life, with user code that does what user code does."""

from __future__ import annotations

import itertools
import logging
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import TrialState
from sqlalchemy import update

import tunesafe
from tests.unit.study.studies import DEAD, Desk, opened
from tests.unit.study.test_ledger import tell_elsewhere
from tests.unit.worker.training import Bench, X, fine, report_all
from tunesafe.cli.narration import Narrator
from tunesafe.contracts import Ending, Outcome, TrialPhase, Verdict
from tunesafe.errors import ExitCode, SpecError
from tunesafe.store import claims
from tunesafe.store.engine import reading, writing
from tunesafe.store.logs import logs_of
from tunesafe.store.tables import trials
from tunesafe.store.trial_rows import trial_row
from tunesafe.study.claiming import Claimant
from tunesafe.study.lifecycle import Tally


@pytest.fixture
def bench(tmp_path: Path, sqlite_url: str) -> Bench:
    """A study of three trials."""
    return Bench(tmp_path, sqlite_url)


def test_a_trials_story_is_told_in_order(bench: Bench) -> None:
    """Claimed, reported at every virtual epoch, completed; and Optuna is told before anybody watches it end."""
    assert bench.run(fine).tally == Tally(complete=3)
    assert bench.kinds(1) == ["claimed", *["reported"] * 4, "completed"]
    assert bench.look(lambda desk: [trial.value for trial in desk.plain().trials]) == [0.25] * 3


def test_an_abandoned_trial_is_continued_under_its_number(bench: Bench) -> None:
    """From the reports of the dead attempt: they are answered from their records, and the worker says it resumes."""
    with opened(bench.url) as study:
        dead = Desk(study, DEAD)
        claim = dead.claim()
        dead.ledger.draw(claim)
        dead.report(claim, 1.0, 0.5)
    bench.run(fine)
    assert bench.kinds(0)[0] == "resumed"
    assert bench.look(lambda desk: [record.attempt for record in desk.records(0)]) == [1, 1, 2, 2]
    assert bench.look(lambda desk: desk.plain().trials[0].user_attrs["attempts"]) == 2
    assert bench.look(lambda desk: desk.events("not_deterministic")) == []


def test_a_worker_says_at_once_that_it_waits_for_an_owner_it_cannot_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease decides; when that is over, the trial is continued before any other begins."""
    with opened(bench.url) as study:
        dead = Desk(study, DEAD)
        dead.claim()
        with writing(study.engine) as connection:
            connection.execute(update(trials).values(owner_json="x"))

        def wait(claimant: Claimant, seconds: float) -> bool:
            if dead.row(0).lease_expires_at == 0:  # told
                return False
            dead.expire(0)
            return True

        monkeypatch.setattr(Claimant, "wait_for_others", wait)
        assert bench.run(fine).tally == Tally(complete=3)
    story = [(notice.kind, notice.number) for notice in bench.told if notice.kind not in ("opened", "reported")]
    assert story[:3] == [("event", 0), ("resumed", 0), ("completed", 0)]
    assert re.fullmatch(
        r"trial 0  event lease_awaited  waits_seconds=[\d.]+  why=its owner cannot be read and may be alive; unless it "
        "renews its lease, the trial is continued then; nothing is harmed",
        Narrator("s", "loss")(bench.told[1]),
    )


def test_training_that_is_not_deterministic_is_noticed_and_its_records_stand(bench: Bench) -> None:
    """The recorded value is what was judged and told."""
    with opened(bench.url) as study:
        dead = Desk(study, DEAD)
        claim = dead.claim()
        dead.ledger.draw(claim)
        dead.report(claim, 1.0, 0.75)
    bench.run(fine)
    [event] = bench.look(lambda desk: desk.events("not_deterministic"))
    assert (event.number, event.details["virtual_epoch"]) == (0, 2)
    assert (event.details["recorded"], event.details["now"]) == ({"loss": 0.75}, {"loss": 0.5})
    assert bench.look(lambda desk: desk.plain().trials[0].intermediate_values[2]) == 0.75
    assert [notice.details["event"] for notice in bench.told if notice.kind == "event"] == ["not_deterministic"]


def test_a_trial_whose_outcome_was_recorded_is_told_without_user_code(bench: Bench) -> None:
    """Nothing is trained, nothing imported."""

    def refuse(trial: tunesafe.Trial) -> None:
        raise AssertionError("user code ran")

    with opened(bench.url, n_trials=1) as study:
        dead = Desk(study, DEAD)
        claim = dead.claim()
        dead.ledger.draw(claim)
        dead.report(claim, 0.5)
        dead.ledger.finish(claim, Outcome(Ending.COMPLETE, 0.5, 4, 40))
    assert bench.run(refuse, n_trials=1).tally == Tally(complete=1)
    assert bench.kinds(0) == ["completed"]


def test_every_way_a_trial_ends(bench: Bench) -> None:
    """Complete, diverged, raised, stopped, pruned by user code: each under its own number, in one study."""

    def train(trial: tunesafe.Trial) -> None:
        if trial.number == 1:
            report_all(trial, lambda epoch: float("nan"))
        elif trial.number == 2:
            raise ValueError("no")
        elif trial.number == 3:
            trial.track(notes={})
            for epoch in trial.virtual_epochs((X,), batch_size=5):
                for _ in epoch:
                    pass
                trial.report(loss=0.5)
                trial.result(test_loss=0.75)
                trial.stop("good enough")
        else:
            fine(trial)

    result = bench.run(train, n_trials=5)
    assert result.exit_code is ExitCode.OK
    assert result.tally == Tally(complete=3, pruned=1, failed=1)
    trials = Bench(bench.folder, bench.url, n_trials=5).look(lambda desk: desk.plain().trials)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[2].user_attrs["reason"] == "ValueError: no"
    assert trials[3].user_attrs["reason"] == "good enough"
    assert trials[3].user_attrs["result:test_loss"] == 0.75


def test_pruning_comes_before_early_stopping(bench: Bench) -> None:
    """Both at once is pruned: what is no good is not complete."""
    keys: dict[str, Any] = {
        "pruner": {"name": "threshold", "upper": 5.0},
        "early_stopping": {"patience": 2},
        "n_trials": 2,
    }
    bench.run(
        lambda trial: report_all(trial, lambda epoch: [1.0, 2.0, 9.0 if trial.number else 3.0][epoch - 1]), **keys
    )
    stored = Bench(bench.folder, bench.url, **keys)
    verdicts = [stored.look(lambda desk, n=number: desk.records(n)[-1].verdict) for number in (0, 1)]
    assert verdicts == [Verdict.STOP, Verdict.PRUNE]
    assert stored.look(lambda desk: desk.claimant.tally()) == Tally(complete=1, pruned=1)


def test_output_is_kept_with_its_trial_and_attempt(bench: Bench) -> None:
    """And passed on to whoever watches, line by line."""

    def chatty(trial: tunesafe.Trial) -> None:
        print("hello from", trial.number)
        logging.getLogger("user").warning("not printed")
        fine(trial)

    bench.run(chatty)
    assert [notice.details["text"] for notice in bench.told if notice.kind == "output"] == [
        f"hello from {number}" for number in range(3)
    ]

    def read(desk: Desk) -> list[Any]:
        with reading(desk.engine) as connection:
            return logs_of(connection, desk.uuid, 1)

    [chunk] = bench.look(read)
    assert (chunk.number, chunk.attempt, chunk.text) == (1, 1, "hello from 1\n")


def test_artifacts_and_trackers_are_beside_the_database(bench: Bench) -> None:
    """A file the trial attached, and its curves."""

    def train(trial: tunesafe.Trial) -> None:
        file = bench.folder / "note.txt"
        file.write_text(f"trial {trial.number}")
        trial.artifact(file)
        fine(trial)

    bench.run(train, n_trials=1, trackers=["tensorboard"])
    with opened(bench.url, n_trials=1, trackers=["tensorboard"]) as study:
        [meta] = get_all_artifact_meta(Desk(study).plain().trials[0], storage=Desk(study).plain()._storage)
    assert (bench.folder / "artifacts" / meta.artifact_id).read_text() == "trial 0"
    assert list((next(bench.folder.glob("*.runs")) / "tensorboard" / "0").iterdir())


def test_a_signal_releases_the_trial_and_the_next_run_continues_it(bench: Bench) -> None:
    """Exit 75; nobody has to wait for the lease to end."""

    def interrupted(trial: tunesafe.Trial) -> None:
        report_all(trial, lambda epoch: os.kill(os.getpid(), signal.SIGTERM) or 1.0 if epoch == 2 else 1.0 / epoch)

    result = bench.run(interrupted, n_trials=1)
    assert result.exit_code is ExitCode.INTERRUPTED
    assert "SIGTERM" in result.message
    assert bench.kinds(0)[-1] == "released"
    stored = Bench(bench.folder, bench.url, n_trials=1)
    assert stored.look(lambda desk: desk.row(0).lease_expires_at) == 0
    assert stored.look(lambda desk: len(desk.records(0))) == 2
    again = bench.run(fine, n_trials=1)
    assert again.exit_code is ExitCode.OK
    assert bench.kinds(0)[0] == "resumed"


def test_a_worker_whose_trial_another_has_claimed_leaves_it(bench: Bench) -> None:
    """Exit 5, and nothing of it is written: the other goes on."""
    fences: list[int] = []

    def robbed(trial: tunesafe.Trial) -> None:
        with opened(bench.url) as study, writing(study.engine) as connection:
            row = trial_row(connection, study.row.uuid, trial.number)
            assert row is not None
            other = claims.retake(connection, study.row.uuid, row, Desk(study).row(0).owner, 60.0)  # type: ignore[arg-type]
            assert other is not None
            fences.append(other.fence)
        fine(trial)

    result = bench.run(robbed)
    assert result.exit_code is ExitCode.LEASE_LOST
    assert "claimed by another worker" in result.message
    row = bench.look(lambda desk: desk.row(0))
    assert (row.phase, row.fence, row.outcome) == (TrialPhase.CLAIMED, fences[0], None)
    assert bench.look(lambda desk: desk.records(0)) == []


def test_data_of_another_length_stops_the_command_and_gives_the_trial_back(bench: Bench) -> None:
    """It is the user's to decide: no trial fails over it."""
    lengths = itertools.chain([10], itertools.repeat(11))

    def train(trial: tunesafe.Trial) -> None:
        trial.track(notes={})
        for epoch in trial.virtual_epochs((torch.zeros(next(lengths), 1),), batch_size=5):
            for _ in epoch:
                pass
            trial.report(loss=1.0)

    keys: dict[str, Any] = {"budget": {"passes": 4, "virtual_epochs": 4}}
    with pytest.raises(SpecError, match="has 11 examples now; this study counts 10"):
        bench.run(train, **keys)
    stored = Bench(bench.folder, bench.url, **keys)
    assert stored.look(lambda desk: desk.phases()) == ["told", "claimed", "free"]
    assert stored.look(lambda desk: desk.row(1).lease_expires_at) == 0


def test_a_trial_that_somebody_ended_in_the_dashboard_ends_here_too(bench: Bench) -> None:
    """While it trains; the study goes on with the next one, and the two agree."""

    def train(trial: tunesafe.Trial) -> None:
        def value(epoch: int) -> float:
            if trial.number == 1 and epoch == 2:
                with opened(bench.url) as study:
                    tell_elsewhere(Desk(study), 1, TrialState.FAIL)
            return 1.0 / epoch

        report_all(trial, value)

    result = bench.run(train)
    assert result.exit_code is ExitCode.OK
    assert result.tally == Tally(complete=2, failed=1)
    states = bench.look(lambda desk: [trial.state.name for trial in desk.plain().trials])
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    assert bench.look(lambda desk: len(desk.records(1))) == 2
