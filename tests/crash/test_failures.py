"""User code that raises, stops the study, is fixed, and runs again under the same numbers."""

from __future__ import annotations

import pytest

from tests.crash.harness import Check, Kill, Laboratory, Study
from tests.crash.outcome import differences, flaws
from tests.crash.variations import Variation

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

RAISED = 6
# The draws of random search depend on no other trial: a trial drawn before the fix is what it would have been.
RANDOM = Variation("max_failures, random", {"max_failures": 2, "sampler": {"name": "random"}})
TPE = Variation("max_failures, tpe", {"max_failures": 2})
DEATHS = (Kill("claim.after", 2), Kill("finish.before", 3), Kill("finish.recorded", 1), Kill("train.batch", 4))


def break_it(study: Study) -> None:
    """From trial 3 on, user code raises."""
    code = study.folder / "train.py"
    head = "    model = network(trial.params)\n"
    code.write_text(code.read_text().replace(head, "    assert trial.number < 3, 'a bug'\n" + head, 1))


def fix_it(study: Study) -> None:
    """As it was meant to be."""
    code = study.folder / "train.py"
    code.write_text(code.read_text().replace("    assert trial.number < 3, 'a bug'\n", ""))


def run_into_the_bug(study: Study) -> None:
    """The command stops over two exceptions in a row, and does so again while nothing is fixed."""
    for _ in range(2):
        ended = study.run()
        assert ended.code == RAISED, ended.output
        assert "a bug" in ended.output
        assert "2 trials in a row raised" in ended.output


def test_a_study_that_stopped_over_exceptions_goes_on_after_the_fix_as_if_it_had_never_failed(
    lab: Laboratory, survived: Check
) -> None:
    """Exit 6 twice, a fix in the source, the same command: the trials run again under their numbers."""
    lab.reference(RANDOM)
    study = lab.study(RANDOM)
    break_it(study)
    run_into_the_bug(study)
    fix_it(study)
    survived(lab.conclude(study, ["exceptions", "exceptions"]))


@pytest.mark.slow
def test_a_study_killed_around_its_exceptions_ends_like_one_that_only_raised(lab: Laboratory) -> None:
    """Deaths before, within and after the streak change nothing of what the streak and its fix lead to."""
    outcomes = []
    for deaths in ((), DEATHS):
        study = lab.study(TPE)
        break_it(study)
        for kill in deaths[:3]:
            study.run_and_die(kill)
        run_into_the_bug(study)
        fix_it(study)
        for kill in deaths[3:]:
            study.run_and_die(kill)
        study.finish()
        outcomes.append(study.outcome())
    assert not flaws(outcomes[0], TPE.num_trials)
    assert not differences(*outcomes)
