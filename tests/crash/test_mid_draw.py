"""A death while a trial's parameters are drawn, and then other parameters in the study file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.crash.harness import Kill, Laboratory
from tests.crash.outcome import differences, flaws
from tests.crash.variations import Variation

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

FIVE = Variation("mid-draw", {"trainable": "train.py:train_and_tell"}, num_trials=5)
OTHERS = {
    "batch_size": {"type": "categorical", "choices": [9, 12]},
    "lr": {"type": "float", "low": 0.4, "high": 0.9},
    "hidden": {"type": "categorical", "choices": [9, 10]},
}
"""None of these may be what it was."""
NUMBER = 3
"""Of the trial that dies: the sampler draws it jointly."""
BEFORE = Kill("claim.after", NUMBER + 1)
WITHIN = [Kill("sample.memoised", NUMBER + 1), *(Kill("sample.parameter", 3 * NUMBER + set_) for set_ in (1, 2, 3))]


def outcome_after(kill: Kill, lab: Laboratory, storage: str | None = None) -> dict[str, Any]:
    """What becomes of a study that dies there, and goes on with other parameters."""
    study = lab.study(FIVE, storage)
    study.run_and_die(kill)
    file = study.folder / "study.yaml"
    file.write_text(json.dumps({**json.loads(file.read_text()), "parameters": OTHERS}))
    ended = study.run(options=["--accept-changes"])
    assert ended.code == 0, ended.output
    outcome = study.outcome()
    outcome["told"] = {n: json.loads((study.folder / f"params-{n}.json").read_text()) for n in outcome["trials"]}
    return outcome


@pytest.fixture(scope="module")
def calm(lab: Laboratory) -> dict[str, Any]:
    """The outcome where nothing of that trial was drawn before the change."""
    return outcome_after(BEFORE, lab)


@pytest.mark.parametrize(
    "kill", [pytest.param(kill, marks=() if kill == WITHIN[1] else pytest.mark.slow) for kill in WITHIN], ids=str
)
def test_a_trial_that_died_in_mid_draw_is_drawn_as_if_it_had_not_begun(
    kill: Kill, calm: dict[str, Any], lab: Laboratory, database_url: str
) -> None:
    """Optuna, our row and user code know the same parameters, all of them new; and nothing of the old draw is left."""
    outcome = outcome_after(kill, lab, database_url)
    for number, told in outcome["told"].items():
        assert json.loads(outcome["trials"][number]["params"]) == told, f"trial {number} in Optuna's tables"
        assert json.loads(outcome["rows"][number])["params"] == told, f"trial {number} in ours"
    assert flaws(outcome, FIVE.num_trials) == []
    assert differences(calm, outcome) == []
