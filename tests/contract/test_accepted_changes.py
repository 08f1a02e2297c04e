"""An accepted change of what measures a study's trials, on every database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from tests.unit.study.studies import Desk, complete, opened, snapshot
from tunesafe.contracts import AttributeWrite, Verdict
from tunesafe.errors import ChangeRefusedError, LeaseLostError
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.packs import packs_beside
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
