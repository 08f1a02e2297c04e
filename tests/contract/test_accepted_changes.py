"""An accepted change of what measures a study's trials, on every database."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from tests.unit.study.studies import LR, RAISED, Desk, complete, dying_at, opened, snapshot
from tunesafe.contracts import AttributeWrite, Verdict
from tunesafe.errors import ChangeRefusedError, LeaseLostError, StudyChangedError
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.packs import packs_beside
from tunesafe.store.saving import Saving
from tunesafe.study.ledger import Decision


@pytest.mark.parametrize(
    "changes",
    [
        {"budget": {"examples": 80, "virtual_epochs": 4}},
        {"objective": {"metric": "loss", "direction": "maximize"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_trials_in_mid_training_begin_again_when_what_measures_them_changes(
    changes: dict[str, Any], database_url: str
) -> None:
    """Nothing of the old budget or objective stays in them, here or in Optuna; their number and parameters do."""

    def judge(study: optuna.Study, trial: FrozenTrial, values: Sequence[float]) -> Decision:
        return Decision(Verdict.CONTINUE, (AttributeWrite(f"rung_{len(values)}", 1),))

    with opened(database_url) as study:
        desk = Desk(study, judge=judge)
        desk.run(complete(1.0), [1.0])
        claim = desk.claim()
        params = desk.ledger.draw(claim)
        desk.report(claim, 0.5, 0.25)
        store = CheckpointStore(study.engine, study.row.uuid, packs_beside(study.engine.url))
        store.save(snapshot(2), number=1, fence=claim.fence)
        with (
            pytest.raises(ChangeRefusedError, match="trials in mid-training begin again"),
            opened(database_url, **changes),
        ):
            pass
        assert len(desk.records(1)) == 2
        with opened(database_url, accept=True, **changes) as changed:
            after = Desk(changed)
            assert after.records(1) == []
            assert [
                info.number
                for info in CheckpointStore(changed.engine, changed.row.uuid, packs_beside(changed.engine.url)).infos()
            ] == []
            first, second = changed.optuna.trials
            assert (first.state.name, first.intermediate_values) == ("COMPLETE", {1: 1.0})
            assert second.intermediate_values == {}
            assert not [key for key in second.system_attrs if key.startswith("rung_")]
            assert [event.number for event in after.events("begun_again")] == [1]
            with pytest.raises(LeaseLostError):
                desk.report(claim, 0.1)
            again = after.claim()
            assert (again.number, after.ledger.draw(again)) == (1, params)
            after.report(again, 7.0)
            assert changed.optuna.trials[1].intermediate_values == {1: 7.0}


LONGER: dict[str, Any] = {"budget": {"examples": 80, "virtual_epochs": 4}}


@pytest.mark.parametrize("progress", [False, True], ids=["in an untouched study", "beside a finished trial"])
def test_whoever_is_in_its_first_virtual_epoch_has_lost_it_too(progress: bool, database_url: str) -> None:
    """Nothing of it is durable, and what it would report is of the old budget."""
    with opened(database_url) as study:
        desk = Desk(study)
        if progress:
            desk.run(complete(1.0), [1.0])
        claim = desk.claim()
        params = desk.ledger.draw(claim)
        with opened(database_url, accept=True, **LONGER) as changed:
            with pytest.raises(LeaseLostError):
                desk.report(claim, 0.1)
            after = Desk(changed)
            again = after.claim()
            assert (again.number, after.ledger.draw(again)) == (claim.number, params)
            assert after.events("begun_again") == []


SHIFTED: dict[str, Any] = {"parameters": {"lr": {"type": "float", "low": 1.0, "high": 2.0}, "l2": LR}}


def test_whoever_draws_when_parameters_change_has_lost_its_trial_and_the_draw_begins_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has drawn so far is nowhere any more, and what it would draw further is of the old study."""
    with opened(database_url, parameters={"lr": LR, "l2": LR}) as study:
        desk = Desk(study)
        sealed = desk.run(complete(1.0), [1.0])
        claim = desk.claim()
        with dying_at(monkeypatch, "sample.parameter"):
            desk.ledger.draw(claim)
        with opened(database_url, accept=True, **SHIFTED) as changed:
            with pytest.raises(LeaseLostError):
                desk.ledger.draw(claim)
            before, trial = changed.optuna.trials
            assert (before.params, trial.params, trial.system_attrs) == (desk.row(sealed.number).params, {}, {})
            after = Desk(changed)
            again = after.claim()
            params = after.ledger.draw(again)
            assert again.number == claim.number
            assert changed.optuna.trials[again.number].params == params == after.row(again.number).params
            assert params["lr"] >= 1.0


def test_a_draw_goes_on_where_it_stopped_when_what_it_is_by_has_not_changed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accepted change of something else takes nothing from it."""
    with opened(database_url) as study:
        desk = Desk(study)
        desk.run(complete(1.0), [1.0])
        claim = desk.claim()
        with dying_at(monkeypatch, "sample.parameter"):
            desk.ledger.draw(claim)
        drawn = study.optuna.trials[claim.number].params
        with opened(database_url, accept=True, pruner={"name": "median"}):
            assert desk.ledger.draw(claim) == drawn


def test_a_checkpoint_on_its_way_when_the_change_is_accepted_is_forgotten_with_the_others(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are written and its COMMIT is a moment away: the change waits for it, and then sees it."""
    inside, go = threading.Event(), threading.Event()
    put = Saving._put_row

    def pause(*arguments: Any) -> Any:
        result = put(*arguments)
        inside.set()
        assert go.wait(30)
        return result

    with opened(database_url) as study:
        desk = Desk(study)
        desk.run(complete(1.0), [1.0])
        claim = desk.claim()
        desk.ledger.draw(claim)
        desk.report(claim, 0.5)
        store = CheckpointStore(study.engine, study.row.uuid, packs_beside(study.engine.url))
        monkeypatch.setattr(Saving, "_put_row", pause)

        def accept() -> None:
            with opened(database_url, accept=True, **LONGER):
                pass

        with ThreadPoolExecutor(2) as pool:
            saving = pool.submit(store.save, snapshot(1), number=claim.number, fence=claim.fence)
            assert inside.wait(30)
            accepting = pool.submit(accept)
            threading.Timer(1.0, go.set).start()
            saving.result(60)
            accepting.result(60)
        assert desk.row(claim.number).fence > claim.fence
        assert desk.records(claim.number) == []
        assert store.infos(claim.number) == []


def test_a_free_number_is_not_taken_under_the_old_budget(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change may be accepted between the look at the revision and the claim."""
    with opened(database_url) as study:
        desk = Desk(study)
        desk.run(complete(1.0), [1.0])
        take = desk.claimant._take_free

        def accept_then_take(token: str) -> Any:
            with opened(database_url, accept=True, **LONGER):
                pass
            return take(token)

        monkeypatch.setattr(desk.claimant, "_take_free", accept_then_take)
        with pytest.raises(StudyChangedError):
            desk.claim()
        assert desk.phases() == ["told", "free", "free"]


def test_a_trial_that_raised_runs_again_after_such_a_change(database_url: str) -> None:
    """It waits in its streak; under the new budget it has a new start, and no record of the old one."""
    with opened(database_url) as study:
        desk = Desk(study)
        desk.run(complete(1.0), [1.0])
        desk.run(RAISED, [0.5])
        assert desk.phases() == ["told", "held", "free"]
    with opened(database_url, accept=True, **LONGER) as changed:
        after = Desk(changed)
        assert after.phases() == ["told", "claimed", "free"]
        assert after.records(1) == []
        again = after.run(complete(0.25), [0.25])
        assert (again.number, after.row(1).outcome) == (1, complete(0.25))
